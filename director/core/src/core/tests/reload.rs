use super::*;

/// The lab, its model changed by `edit`.
fn lab_with(edit: impl FnOnce(&mut Model)) -> Event {
    let mut model = fixture::lab();
    edit(&mut model);
    Event::Model(model)
}

#[test]
fn the_same_model_again_changes_nothing() {
    let mut bench = Bench::healthy();
    bench.lose("dc02-a");
    bench.drain_endpoint("dc03-a", true);
    bench.drain_site("dc01", true);
    let before = bench.core.status();
    assert_eq!(bench.handle(lab_with(|_| {})), []);
    assert_eq!(bench.core.status(), before);
}

#[test]
fn the_order_in_the_model_does_not_matter_to_the_plan() {
    let mut bench = Bench::healthy();
    let commands = bench.handle(lab_with(|model| {
        model.sites.reverse();
        model.services[0].endpoints.reverse();
    }));
    assert_eq!(commands, []);
    let status = bench.core.status();
    assert_eq!(
        &*status.services[0].endpoints[0].name, "dc03-b",
        "status keeps the order"
    );
}

#[test]
fn a_fast_pace_is_told_again() {
    let mut bench = Bench::healthy();
    bench.probe("dc01-a", REFUSED);
    let commands = bench.handle(lab_with(|_| {}));
    assert_eq!(paces(&commands), [("dc01-a", Pace::Fast)]);
}

#[test]
fn weights_take_effect_at_once() {
    let mut bench = Bench::healthy();
    let commands = bench.handle(lab_with(|model| model.sites[0].weight = 0));
    assert_eq!(applies(&commands).len(), 1);
    assert_eq!(changes(&commands), [], "weights are no verdict");
    assert_eq!(bench.planned_state("dc01-a"), EndpointState::Draining);
    assert!((bench.points("dc02-a") - 30.0).abs() < 0.2);
}

#[test]
fn a_removed_endpoint_vanishes_and_a_new_one_waits_for_its_probe() {
    let mut bench = Bench::healthy();
    let commands = bench.handle(lab_with(|model| {
        model.services[0].endpoints[0].name = "dc01-c".into();
        model.services[0].endpoints[0].address = "198.18.1.13".parse().unwrap();
    }));
    assert_eq!(applies(&commands).len(), 1);
    assert_eq!(paces(&commands), [("dc01-c", Pace::Fast)]);
    assert!(bench.plan().endpoints.iter().all(|e| &*e.name != "dc01-a"));
    assert_eq!(bench.planned_state("dc01-c"), EndpointState::Dead);
    assert_eq!(bench.status("dc01-c").cause, Cause::Model);
    assert_eq!(bench.probe("dc01-a", REFUSED), [], "nobody is called that");
    assert_eq!(applies(&bench.probe("dc01-c", OK)).len(), 1);
    assert!((bench.points("dc01-c") - 25.0).abs() < 0.2);
}

#[test]
fn another_address_is_another_server_whose_drain_stays() {
    let mut bench = Bench::healthy();
    bench.drain_endpoint("dc01-b", true);
    let commands = bench.handle(lab_with(|model| {
        model.services[0].endpoints[0].address = "198.18.1.99".parse().unwrap();
        model.services[0].endpoints[1].port = 8080;
    }));
    let unknown = |name: &str, from| (name.to_owned(), from, Verdict::Unknown, Cause::Model);
    assert_eq!(
        changes(&commands),
        [
            unknown("dc01-a", Verdict::Healthy),
            unknown("dc01-b", Verdict::Draining)
        ]
    );
    assert_eq!(applies(&commands).len(), 1);
    bench.probe("dc01-b", OK);
    assert_eq!(bench.verdict("dc01-b"), Verdict::Draining);
}

#[test]
fn another_probe_keeps_verdicts_until_it_contradicts_them() {
    let mut bench = Bench::healthy();
    bench.lose("dc02-a");
    let commands = bench.handle(lab_with(|model| {
        model.services[0].health.probe = ProbeSpec::Tcp { port: Some(8080) };
    }));
    assert_eq!(applies(&commands).len(), 0, "no flow moves for it");
    assert_eq!(changes(&commands), []);
    assert_eq!(paces(&commands).len(), 6, "all are in doubt");
    assert_eq!(applies(&bench.lose("dc01-a")).len(), 1);
    assert_eq!(applies(&bench.recover("dc02-a")).len(), 1);
}

#[test]
fn thresholds_and_timing_alone_keep_everything() {
    let mut bench = Bench::healthy();
    bench.probe("dc01-a", REFUSED);
    bench.handle(lab_with(|model| {
        model.services[0].health.fall = 2;
        model.services[0].health.interval = Duration::from_secs(1);
    }));
    assert_eq!(bench.status("dc01-a").failures, 1);
    assert_eq!(
        applies(&bench.probe("dc01-a", REFUSED)).len(),
        1,
        "the new fall counts"
    );
}

#[test]
fn a_service_that_left_is_removed() {
    let mut bench = Bench::healthy();
    let commands = bench.handle(lab_with(|model| model.services.clear()));
    assert_eq!(removed(&commands), ["web"]);
    assert!(bench.core.plan("web").is_none());
    assert_eq!(bench.site_verdict("dc01"), Verdict::Unknown);

    let commands = bench.handle(lab_with(|_| {}));
    assert_eq!(applies(&commands).len(), 0, "it starts anew");
    assert_eq!(bench.verdict("dc01-a"), Verdict::Unknown);
}

#[test]
fn a_service_at_another_address_is_removed_and_published_anew() {
    let mut bench = Bench::healthy();
    let edits: [fn(&mut Model); 4] = [
        |model| model.services[0].vip = [203, 0, 113, 99].into(),
        |model| model.services[0].port = 8080,
        |model| model.services[0].protocol = crate::Protocol::Udp,
        |model| model.services[0].mode = crate::Mode::Nat,
    ];
    for edit in edits {
        let commands = bench.handle(lab_with(edit));
        assert_eq!(removed(&commands), ["web"]);
        assert!(
            matches!(commands[0], Command::Remove { .. }),
            "before it is applied"
        );
        assert_eq!(applies(&commands).len(), 1, "endpoints keep their verdicts");
        assert_eq!(bench.plan().version, 1);
        let back = bench.handle(lab_with(|_| {}));
        assert_eq!((removed(&back).len(), applies(&back).len()), (1, 1));
    }
}

#[test]
fn a_site_that_left_takes_its_drain_with_it() {
    let mut bench = Bench::healthy();
    bench.drain_site("dc03", true);
    bench.handle(lab_with(|model| {
        model.sites.pop();
        model.services[0].endpoints.truncate(4);
    }));
    assert!(!bench.core.knows(&Target::Site("dc03".into())));
    bench.handle(lab_with(|_| {}));
    assert!(!bench.core.status().sites[2].draining);
}

#[test]
fn removing_all_healthy_endpoints_is_held() {
    let mut bench = Bench::new(fixture::lab());
    bench.probe("dc01-a", OK);
    let before = bench.plan().clone();
    let commands = bench.handle(lab_with(|model| {
        model.services[0].endpoints.remove(0);
    }));
    assert_eq!(applies(&commands).len(), 0);
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    assert_eq!(
        bench.plan(),
        &before,
        "it still steers to the endpoint that left"
    );
    assert_eq!(applies(&bench.probe("dc02-a", OK)).len(), 1);
    assert!(bench.plan().endpoints.iter().all(|e| &*e.name != "dc01-a"));
}

#[test]
fn a_held_service_stays_held_over_a_reload_and_it_is_not_said_again() {
    let mut bench = Bench::new(fixture::lab());
    bench.probe("dc01-a", OK);
    bench.lose("dc01-a");
    let commands = bench.handle(lab_with(|model| model.sites[0].weight = 7));
    assert_eq!(notices(&commands).len(), 0);
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
}
