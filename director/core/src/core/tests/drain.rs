use super::*;

#[test]
fn a_drained_endpoint_takes_no_new_flows_and_keeps_old_ones() {
    let mut bench = Bench::healthy();
    let before = bench.plan().clone();
    let commands = bench.drain_endpoint("dc01-a", true);
    assert_eq!(applies(&commands).len(), 1);
    let draining = (
        "dc01-a".to_owned(),
        Verdict::Healthy,
        Verdict::Draining,
        Cause::Operator,
    );
    assert_eq!(changes(&commands), [draining]);
    assert_eq!(bench.planned_state("dc01-a"), EndpointState::Draining);
    assert_eq!(bench.points("dc01-a"), 0.0);
    assert!(bench.status("dc01-a").draining);
    assert_eq!(bench.site_verdict("dc01"), Verdict::Healthy);
    assert_eq!(
        bench.drain_endpoint("dc01-a", true),
        [],
        "it drains already"
    );

    let commands = bench.drain_endpoint("dc01-a", false);
    let healthy = (
        "dc01-a".to_owned(),
        Verdict::Draining,
        Verdict::Healthy,
        Cause::Operator,
    );
    assert_eq!(changes(&commands), [healthy]);
    assert_eq!(bench.plan().table, before.table);
}

#[test]
fn a_drained_site_drains_all_of_its_endpoints_in_one_plan() {
    let mut bench = Bench::healthy();
    let commands = bench.drain_site("dc02", true);
    assert_eq!(applies(&commands).len(), 1);
    assert_eq!(changes(&commands).len(), 2);
    assert_eq!(bench.site_verdict("dc02"), Verdict::Draining);
    let status = bench.core.status();
    assert!(status.sites[1].draining && !status.sites[0].draining);
    assert_eq!(status.sites[1].share, 0.0);
    assert!((status.sites[0].share * 70.0 - 50.0).abs() < 0.4);
    assert_eq!(status.services[0].sites[1].configured, 0.3);
    assert_eq!(status.services[0].sites[1].effective, 0.0);
}

#[test]
fn drains_of_a_site_and_of_its_endpoint_are_apart() {
    let mut bench = Bench::healthy();
    bench.drain_endpoint("dc02-a", true);
    bench.drain_site("dc02", true);
    bench.drain_site("dc02", false);
    assert_eq!(
        bench.verdict("dc02-a"),
        Verdict::Draining,
        "by its own drain"
    );
    assert_eq!(bench.verdict("dc02-b"), Verdict::Healthy);
    bench.drain_site("dc02", true);
    bench.drain_endpoint("dc02-a", false);
    assert_eq!(
        bench.verdict("dc02-a"),
        Verdict::Draining,
        "by its site's drain"
    );
}

#[test]
fn down_wins_over_draining_and_the_drain_outlives_it() {
    let mut bench = Bench::healthy();
    bench.drain_endpoint("dc01-a", true);
    bench.lose("dc01-a");
    assert_eq!(bench.verdict("dc01-a"), Verdict::Down);
    assert_eq!(bench.planned_state("dc01-a"), EndpointState::Dead);
    assert!(bench.status("dc01-a").draining);
    bench.recover("dc01-a");
    assert_eq!(bench.verdict("dc01-a"), Verdict::Draining);
    assert_eq!(bench.planned_state("dc01-a"), EndpointState::Draining);
}

#[test]
fn a_drain_before_the_first_probe_shows_once_the_endpoint_is_judged() {
    let mut bench = Bench::new(fixture::lab());
    bench.drain_site("dc01", true);
    assert_eq!(bench.verdict("dc01-a"), Verdict::Unknown);
    let commands = bench.probe("dc01-a", OK);
    assert_eq!(bench.verdict("dc01-a"), Verdict::Draining);
    assert_eq!(applies(&commands).len(), 0, "nothing to publish");
    assert_eq!(applies(&bench.probe("dc02-a", OK)).len(), 1);
}

#[test]
fn a_drain_of_the_last_healthy_endpoints_is_held() {
    let mut bench = Bench::healthy();
    bench.drain_site("dc01", true);
    bench.drain_site("dc02", true);
    let before = bench.plan().clone();
    let commands = bench.drain_site("dc03", true);
    assert_eq!(applies(&commands).len(), 0);
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    assert_eq!(bench.plan(), &before);
    assert_eq!(bench.verdict("dc03-a"), Verdict::Draining);

    let commands = bench.drain_site("dc01", false);
    assert_eq!(applies(&commands).len(), 1, "now the drain takes effect");
    assert_eq!(bench.planned_state("dc03-a"), EndpointState::Draining);
    assert_eq!(bench.held(), None);
}

#[test]
fn drains_of_what_is_not_there_are_told_and_do_nothing() {
    let mut bench = Bench::healthy();
    let before = bench.core.status();
    let site = Target::Site("dc09".into());
    let endpoint = Target::Endpoint(fixture::endpoint("dc09-a"));
    for target in [site, endpoint] {
        assert!(!bench.core.knows(&target));
        let commands = bench.handle(Event::Drain {
            target: target.clone(),
            on: true,
        });
        assert_eq!(
            commands,
            [Command::Notice(Notice::UnknownTarget { target })]
        );
    }
    assert_eq!(bench.core.status(), before);
    assert!(bench.core.knows(&Target::Site("dc01".into())));
    assert!(
        bench
            .core
            .knows(&Target::Endpoint(fixture::endpoint("dc01-a")))
    );
}
