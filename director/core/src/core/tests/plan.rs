use super::*;

#[test]
fn a_model_alone_publishes_nothing() {
    let mut bench = Bench::empty();
    let commands = bench.handle(Event::Model(fixture::lab()));
    assert_eq!(applies(&commands).len(), 0);
    assert_eq!(notices(&commands).len(), 0);
    assert_eq!(paces(&commands).len(), 6, "nothing is known: probe fast");
    assert!(bench.core.plan("web").is_none());
    let status = bench.core.status();
    assert!(!status.services[0].published);
    assert_eq!(status.services[0].version, 0);
    assert_eq!(status.sites[0].verdict, Verdict::Unknown);
    assert_eq!(status.services[0].endpoints[0].cause, Cause::Start);
}

#[test]
fn the_first_healthy_endpoint_publishes_the_service() {
    let mut bench = Bench::new(fixture::lab());
    let commands = bench.probe("dc02-a", REFUSED);
    assert_eq!(
        applies(&commands).len(),
        0,
        "nothing healthy, nothing published"
    );
    assert_eq!(bench.held(), None);

    let commands = bench.probe("dc01-b", OK);
    let plan = applies(&commands)[0];
    assert_eq!((plan.version, plan.table.len()), (1, 1009));
    assert_eq!(plan, bench.plan());
    let names: Vec<_> = plan.endpoints.iter().map(|e| &*e.name).collect();
    assert_eq!(
        names,
        ["dc01-a", "dc01-b", "dc02-a", "dc02-b", "dc03-a", "dc03-b"]
    );
    assert!(plan.table.iter().all(|&owner| owner == 1));
    assert_eq!(paces(&commands), [("dc01-b", Pace::Normal)]);
    let verdicts = (Verdict::Unknown, Verdict::Healthy);
    assert_eq!(
        changes(&commands),
        [(
            "dc01-b".to_owned(),
            verdicts.0,
            verdicts.1,
            Cause::ProbesPassed
        )]
    );
    assert_eq!(bench.site_verdict("dc01"), Verdict::Healthy);
    assert_eq!(
        bench.site_verdict("dc02"),
        Verdict::Unknown,
        "dc02-b is not judged"
    );
    assert_eq!(bench.site_verdict("dc03"), Verdict::Unknown);
}

#[test]
fn healthy_endpoints_share_as_configured() {
    let bench = Bench::healthy();
    for (name, points) in [("dc01-a", 25.0), ("dc02-b", 15.0), ("dc03-a", 10.0)] {
        assert!((bench.points(name) - points).abs() < 0.2, "{name}");
    }
    let status = bench.core.status();
    for (site, points) in status.sites.iter().zip([50.0, 30.0, 20.0]) {
        assert!((site.share * 100.0 - points).abs() < 0.4, "{}", site.name);
    }
    let shares: Vec<_> = status.services[0]
        .sites
        .iter()
        .map(|s| s.configured)
        .collect();
    assert_eq!(shares, [0.5, 0.3, 0.2]);
    assert_eq!(status.services[0].version, 6);
}

#[test]
fn fall_failures_take_an_endpoint_out_and_rise_successes_bring_it_back() {
    let mut bench = Bench::healthy();
    let before = bench.plan().clone();

    let commands = bench.probe("dc01-a", REFUSED);
    assert_eq!(
        commands,
        [Command::Pace {
            endpoint: fixture::endpoint("dc01-a"),
            pace: Pace::Fast
        }]
    );
    assert_eq!(bench.probe("dc01-a", REFUSED), []);
    let commands = bench.probe("dc01-a", REFUSED);
    assert_eq!(applies(&commands).len(), 1);
    assert!(
        matches!(commands[0], Command::Apply(_)),
        "packets come first"
    );
    assert_eq!(paces(&commands), [("dc01-a", Pace::Normal)]);
    let cause = Cause::Probe(Failure::Refused);
    let down = ("dc01-a".to_owned(), Verdict::Healthy, Verdict::Down, cause);
    assert_eq!(changes(&commands), [down]);
    assert_eq!(bench.planned_state("dc01-a"), EndpointState::Dead);
    assert_eq!(bench.points("dc01-a"), 0.0);
    // Its site is left with half of its share: 25 of 75.
    assert!((bench.points("dc01-b") - 100.0 / 3.0).abs() < 0.2);
    assert_eq!(bench.status("dc01-a").since, bench.now);

    assert_eq!(bench.probe("dc01-a", REFUSED), [], "no news");
    let commands = bench.recover("dc01-a");
    assert_eq!(applies(&commands).len(), 1);
    assert_eq!(bench.plan().table, before.table, "all flows are back");
    assert_eq!(bench.plan().version, before.version + 2);
}

#[test]
fn sites_go_down_with_their_last_endpoint_and_come_back_with_the_first() {
    let mut bench = Bench::healthy();
    let site = |commands: &[Command]| {
        let notices = notices(commands).into_iter().cloned();
        notices
            .filter(|n| matches!(n, Notice::Site { .. }))
            .collect::<Vec<_>>()
    };
    assert_eq!(site(&bench.lose("dc02-a")), []);
    let commands = bench.lose("dc02-b");
    let (name, now) = (Arc::from("dc02"), bench.now);
    let (from, to) = (Verdict::Healthy, Verdict::Down);
    assert_eq!(
        site(&commands),
        [Notice::Site {
            site: name,
            from,
            to,
            now
        }]
    );
    assert_eq!(bench.site_verdict("dc02"), Verdict::Down);
    bench.recover("dc02-b");
    assert_eq!(bench.site_verdict("dc02"), Verdict::Healthy);
}

#[test]
fn the_last_healthy_endpoints_are_never_ejected() {
    let mut bench = Bench::healthy();
    for name in ["dc01-a", "dc01-b", "dc02-a", "dc02-b", "dc03-a"] {
        assert_eq!(applies(&bench.lose(name)).len(), 1);
    }
    let before = bench.plan().clone();
    let commands = bench.lose("dc03-b");
    assert_eq!(applies(&commands).len(), 0);
    let refused = |commands: &[Command]| {
        let all = notices(commands).into_iter();
        all.filter(|n| {
            matches!(
                n,
                Notice::Refused {
                    rule: LintRule::NoEndpointLeft,
                    ..
                }
            )
        })
        .count()
    };
    assert_eq!(refused(&commands), 1);
    assert_eq!(bench.plan(), &before);
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    assert_eq!(
        bench.verdict("dc03-b"),
        Verdict::Down,
        "the verdict is told as it is"
    );
    assert_eq!(bench.points("dc03-b"), 100.0, "and the share as it is");

    let commands = bench.drain_site("dc01", true);
    assert_eq!(refused(&commands), 0, "said once, not at every event");
    bench.drain_site("dc01", false);

    let commands = bench.recover("dc02-a");
    assert_eq!(applies(&commands).len(), 1);
    assert!(notices(&commands).contains(&&Notice::Resumed {
        service: "web".into()
    }));
    assert_eq!(bench.held(), None);
    assert_eq!(bench.planned_state("dc03-b"), EndpointState::Dead);
    assert_eq!(bench.points("dc02-a"), 100.0);

    assert_eq!(
        refused(&bench.lose("dc02-a")),
        1,
        "another occurrence is said again"
    );
}

#[test]
fn a_held_service_resumes_without_a_plan_when_the_old_one_is_right_again() {
    let mut bench = Bench::new(fixture::model(&[(1, &[1])]));
    bench.probe("dc01-a", OK);
    bench.lose("dc01-a");
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    let commands = bench.recover("dc01-a");
    assert_eq!(applies(&commands).len(), 0, "the kernel holds just this");
    assert!(notices(&commands).contains(&&Notice::Resumed {
        service: "web".into()
    }));
    assert_eq!(bench.held(), None);
}

#[test]
fn weight_zero_takes_no_new_flows_and_keeps_old_ones() {
    let mut bench = Bench::new(fixture::model(&[(1, &[1, 0]), (0, &[1])]));
    for name in ["dc01-a", "dc01-b", "dc02-a"] {
        bench.probe(name, OK);
    }
    for name in ["dc01-b", "dc02-a"] {
        assert_eq!(bench.verdict(name), Verdict::Healthy);
        assert_eq!(bench.planned_state(name), EndpointState::Draining);
        assert_eq!(bench.points(name), 0.0);
    }
    let commands = bench.lose("dc01-a");
    assert_eq!(applies(&commands).len(), 0, "they are no last resort");
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
}

#[test]
fn only_weightless_endpoints_publish_nothing() {
    let mut bench = Bench::new(fixture::model(&[(1, &[0])]));
    assert_eq!(applies(&bench.probe("dc01-a", OK)).len(), 0);
    assert!(bench.core.plan("web").is_none());
    assert_eq!(bench.held(), None);
}

#[test]
fn outcomes_of_unknown_endpoints_are_ignored() {
    let mut bench = Bench::healthy();
    let before = bench.core.status();
    assert_eq!(bench.probe("dc09-z", REFUSED), []);
    let endpoint = EndpointRef {
        service: "mail".into(),
        endpoint: "dc01-a".into(),
    };
    assert_eq!(
        bench.handle(Event::Probe {
            endpoint,
            outcome: OK
        }),
        []
    );
    assert_eq!(bench.core.status(), before);
}

#[test]
fn a_fault_of_the_prober_shows_and_changes_nothing() {
    let mut bench = Bench::healthy();
    for _ in 0..10 {
        assert_eq!(bench.probe("dc01-a", Err(Failure::Local)), []);
    }
    let status = bench.status("dc01-a");
    assert_eq!(status.verdict, Verdict::Healthy);
    assert_eq!(status.last_failure, Some(Failure::Local));
    assert_eq!((status.successes, status.failures), (1, 0));
    assert_eq!(status.last_latency, Some(Duration::from_millis(2)));
}

#[test]
fn services_are_judged_apart() {
    let mut model = fixture::lab();
    let mut mail = model.services[0].clone();
    mail.name = "mail".into();
    mail.port = 25;
    model.services.push(mail);
    let mut bench = Bench::new(model);
    bench.probe("dc01-a", OK);
    assert!(bench.core.plan("mail").is_none());
    let endpoint = EndpointRef {
        service: "mail".into(),
        endpoint: "dc01-a".into(),
    };
    let commands = bench.handle(Event::Probe {
        endpoint,
        outcome: REFUSED,
    });
    assert_eq!(applies(&commands).len(), 0);
    let status = bench.core.status();
    assert_eq!(status.services[0].endpoints[0].verdict, Verdict::Healthy);
    assert_eq!(status.services[1].endpoints[0].verdict, Verdict::Down);
    assert_eq!(
        status.sites[0].verdict,
        Verdict::Healthy,
        "one endpoint serves"
    );
    assert_eq!(
        status.sites[0].share, 1.0,
        "of the one service that is published"
    );
}
