//! What is told beside the table, and services that have none.

use super::*;
use crate::{Affinity, Mode, OnDeath, Service, Track};

/// The lab with one service's edit.
fn lab_with(edit: impl FnOnce(&mut Service)) -> Event {
    let mut model = fixture::lab();
    edit(&mut model.services[0]);
    Event::Model(model)
}

/// A service of the edge's own, beside the lab's.
fn with_proxy() -> Model {
    let mut model = fixture::lab();
    let mut shop = model.services[0].clone();
    shop.name = "shop".into();
    shop.port = 0;
    shop.mode = Mode::Proxy;
    shop.endpoints.clear();
    model.services.push(shop);
    model
}

#[test]
fn steering_alone_leads_to_the_same_plan_again() {
    let edits: [fn(&mut Service); 4] = [
        |service| service.steering.track = Track::Always,
        |service| service.steering.on_death = OnDeath::Reset,
        |service| service.steering.mss = Some(1400),
        |service| service.steering.idle_timeout = Duration::from_secs(10),
    ];
    let mut bench = Bench::healthy();
    for edit in edits {
        let before = bench.plan().clone();
        let commands = bench.handle(lab_with(edit));
        let [Command::Apply(plan)] = &commands[..] else {
            panic!("{commands:?}");
        };
        let same = ServicePlan {
            version: before.version + 1,
            ..before
        };
        assert_eq!(*plan, same, "no flow moves for it");
        assert_eq!(bench.handle(lab_with(edit)), [], "said once");
    }
}

#[test]
fn server_ids_alone_lead_to_the_same_plan_again() {
    fn number(service: &mut Service) {
        service.steering.affinity = Affinity::Quic;
        for (id, endpoint) in (1..).zip(&mut service.endpoints) {
            endpoint.server_id = Some(id);
        }
    }
    let mut bench = Bench::healthy();
    assert_eq!(applies(&bench.handle(lab_with(number))).len(), 1);
    let commands = bench.handle(lab_with(|service| {
        number(service);
        service.endpoints.reverse();
    }));
    assert_eq!(commands, [], "each still has its own");
    let commands = bench.handle(lab_with(|service| {
        number(service);
        service.endpoints[0].server_id = Some(9);
    }));
    assert_eq!((applies(&commands).len(), commands.len()), (1, 1));
}

#[test]
fn steering_waits_where_nothing_is_published() {
    let mut bench = Bench::new(fixture::lab());
    let edit = |service: &mut Service| service.steering.mss = Some(1400);
    assert_eq!(applies(&bench.handle(lab_with(edit))).len(), 0);
    assert_eq!(applies(&bench.probe("dc01-a", OK)).len(), 1);
    bench.lose("dc01-a");
    assert_eq!(bench.held(), Some(LintRule::NoEndpointLeft));
    let commands = bench.handle(lab_with(|_| {}));
    assert_eq!(applies(&commands).len(), 0, "no plan would pass");
    let commands = bench.recover("dc01-a");
    assert_eq!(
        applies(&commands).len(),
        1,
        "the same plan, for the steering"
    );
}

#[test]
fn a_proxy_service_is_published_when_it_is_loaded() {
    let mut bench = Bench::empty();
    let commands = bench.handle(Event::Model(with_proxy()));
    let [plan] = applies(&commands)[..] else {
        panic!("{commands:?}");
    };
    assert_eq!((&*plan.service, plan.version), ("shop", 1));
    assert!(plan.endpoints.is_empty() && plan.table.is_empty());
    assert_eq!(bench.core.plan("shop"), Some(plan));
    let status = bench.core.status();
    let shop = &status.services[1];
    assert_eq!((shop.published, shop.held, shop.version), (true, None, 1));
    assert!(!status.services[0].published);

    bench.probe("dc01-a", OK);
    let status = bench.core.status();
    assert_eq!(status.sites[0].share, 1.0, "of the one that is shared out");
    let again = bench.handle(Event::Model(with_proxy()));
    assert_eq!(applies(&again).len(), 0);
}

#[test]
fn a_proxy_service_learns_of_its_steering_and_is_removed() {
    let mut bench = Bench::new(with_proxy());
    let mut model = with_proxy();
    model.services[1].steering.syn_cookies = true;
    let commands = bench.handle(Event::Model(model));
    let plans = applies(&commands);
    assert_eq!(plans.len(), 1);
    assert_eq!((&*plans[0].service, plans[0].version), ("shop", 2));
    let commands = bench.handle(Event::Model(fixture::lab()));
    assert_eq!(removed(&commands), ["shop"]);
}

#[test]
fn a_service_that_becomes_a_proxy_is_replaced_at_once() {
    let mut bench = Bench::healthy();
    let commands = bench.handle(lab_with(|service| {
        service.mode = Mode::Proxy;
        service.endpoints.clear();
    }));
    assert_eq!(removed(&commands), ["web"]);
    assert_eq!(applies(&commands).len(), 1);
    let commands = bench.handle(lab_with(|_| {}));
    assert_eq!(removed(&commands), ["web"]);
    assert_eq!(
        applies(&commands).len(),
        0,
        "its endpoints are to be probed"
    );
}
