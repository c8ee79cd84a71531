use super::*;

/// What the kernel holds after these plans.
fn held_by_kernel(plans: &[&ServicePlan]) -> Event {
    let endpoints = plans.iter().flat_map(|plan| {
        plan.endpoints.iter().map(|e| Adopted {
            service: plan.service.clone(),
            address: e.address,
            port: e.port,
            state: e.state,
        })
    });
    Event::Adopted(endpoints.collect())
}

/// A lab with one endpoint lost, one drained and one not known yet.
fn mixed() -> Bench {
    let mut bench = Bench::new(fixture::lab());
    for name in ["dc01-a", "dc01-b", "dc02-a", "dc02-b", "dc03-a"] {
        bench.probe(name, OK);
    }
    bench.lose("dc01-a");
    bench.drain_endpoint("dc02-a", true);
    bench
}

/// A new process after the old one, both events taken in in either order.
fn restarted(old: &Bench, model_first: bool) -> (Bench, Vec<Command>) {
    let mut bench = Bench::empty();
    let events = [Event::Model(fixture::lab()), held_by_kernel(&[old.plan()])];
    let mut commands = Vec::new();
    if model_first {
        events
            .into_iter()
            .for_each(|e| commands.extend(bench.handle(e)));
    } else {
        events
            .into_iter()
            .rev()
            .for_each(|e| commands.extend(bench.handle(e)));
    }
    (bench, commands)
}

#[test]
fn a_restart_moves_no_flow() {
    let old = mixed();
    for model_first in [true, false] {
        let (bench, commands) = restarted(&old, model_first);
        let plans = applies(&commands);
        assert_eq!(plans.len(), 1);
        assert_eq!(plans[0].endpoints, old.plan().endpoints);
        assert_eq!(plans[0].table, old.plan().table);
        assert_eq!(bench.status("dc01-b").cause, Cause::Adopted);
        assert_eq!(bench.verdict("dc01-a"), Verdict::Down);
        assert_eq!(bench.verdict("dc02-a"), Verdict::Draining);
        assert_eq!(
            bench.verdict("dc03-b"),
            Verdict::Down,
            "the kernel had it dead"
        );
        let last_told = |name| {
            let of_name = paces(&commands).into_iter().rfind(|(n, _)| *n == name);
            of_name.map(|(_, pace)| pace)
        };
        assert_eq!(
            last_told("dc01-a"),
            Some(Pace::Fast),
            "until the first outcome"
        );
    }
}

#[test]
fn probes_that_agree_move_nothing_either() {
    let (mut bench, _) = restarted(&mixed(), true);
    let version = bench.plan().version;
    for name in ["dc01-b", "dc02-a", "dc02-b", "dc03-a"] {
        let commands = bench.probe(name, OK);
        assert_eq!(paces(&commands), [(name, Pace::Normal)]);
    }
    for name in ["dc01-a", "dc03-b"] {
        assert_eq!(paces(&bench.probe(name, REFUSED)), [(name, Pace::Normal)]);
    }
    assert_eq!(bench.plan().version, version);
}

#[test]
fn adopted_verdicts_need_rise_and_fall_to_change() {
    let (mut bench, _) = restarted(&mixed(), true);
    assert_eq!(bench.probe("dc01-b", REFUSED), []);
    assert_eq!(bench.probe("dc01-b", REFUSED), []);
    assert_eq!(applies(&bench.probe("dc01-b", REFUSED)).len(), 1);
    assert_eq!(bench.probe("dc03-b", OK), []);
    assert_eq!(applies(&bench.probe("dc03-b", OK)).len(), 1);
}

#[test]
fn either_undrain_ends_an_adopted_drain() {
    let (mut bench, _) = restarted(&mixed(), true);
    bench.drain_site("dc02", false);
    assert_eq!(bench.verdict("dc02-a"), Verdict::Healthy);

    let (mut bench, _) = restarted(&mixed(), true);
    bench.drain_endpoint("dc02-a", false);
    assert_eq!(bench.verdict("dc02-a"), Verdict::Healthy);

    let (mut bench, _) = restarted(&mixed(), true);
    bench.drain_site("dc01", false);
    assert_eq!(
        bench.verdict("dc02-a"),
        Verdict::Draining,
        "not that of another site"
    );
}

#[test]
fn draining_by_weight_or_by_the_site_is_no_drain_of_the_endpoint() {
    let mut old = Bench::healthy();
    old.drain_site("dc02", true);
    let mut model = fixture::lab();
    model.sites[2].weight = 0;
    old.handle(Event::Model(model.clone()));
    assert_eq!(old.planned_state("dc03-a"), EndpointState::Draining);

    let mut bench = Bench::new(model);
    bench.drain_site("dc02", true);
    bench.handle(held_by_kernel(&[old.plan()]));
    assert_eq!(bench.plan().table, old.plan().table);
    assert_eq!(bench.verdict("dc03-a"), Verdict::Healthy);
    bench.handle(Event::Model(fixture::lab()));
    assert_eq!(bench.planned_state("dc03-a"), EndpointState::Active);
    bench.drain_site("dc02", false);
    assert_eq!(bench.planned_state("dc02-a"), EndpointState::Active);
}

#[test]
fn an_endpoint_that_the_kernel_did_not_hold_starts_unknown() {
    let old = Bench::healthy();
    let mut plan = old.plan().clone();
    plan.endpoints.remove(0);
    let mut bench = Bench::new(fixture::lab());
    bench.handle(held_by_kernel(&[&plan]));
    assert_eq!(bench.verdict("dc01-a"), Verdict::Unknown);
    assert_eq!(
        applies(&bench.probe("dc01-a", OK)).len(),
        1,
        "one success is enough"
    );
    assert_eq!(bench.plan().table, old.plan().table);
}

#[test]
fn what_probes_said_first_stands() {
    let mut bench = Bench::new(fixture::lab());
    bench.probe("dc01-a", REFUSED);
    bench.handle(held_by_kernel(&[Bench::healthy().plan()]));
    assert_eq!(bench.verdict("dc01-a"), Verdict::Down);
    assert_eq!(bench.status("dc01-a").cause, Cause::Probe(Failure::Refused));
    assert_eq!(bench.verdict("dc01-b"), Verdict::Healthy);
}

#[test]
fn a_service_that_left_meanwhile_is_removed() {
    let mut mail = Bench::healthy().plan().clone();
    mail.service = "mail".into();
    for model_first in [true, false] {
        let mut bench = Bench::empty();
        let mut events = vec![Event::Model(fixture::lab()), held_by_kernel(&[&mail])];
        if !model_first {
            events.reverse();
        }
        let first = bench.handle(events.remove(0));
        assert_eq!(removed(&first).len(), 0);
        assert_eq!(removed(&bench.handle(events.remove(0))), ["mail"]);
    }
}

#[test]
fn an_adopted_service_stays_held_on_its_last_endpoint() {
    let (mut bench, _) = restarted(&mixed(), false);
    for name in ["dc01-b", "dc02-b", "dc03-a"] {
        bench.lose(name);
    }
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    assert_eq!(bench.points("dc03-a"), 100.0);
}
