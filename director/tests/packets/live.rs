//! What changes while packets flow: the deny list and the settings.

use std::time::Duration;

use director::config::{IcmpPolicy, Prefix};
use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{Edge, REDIRECT, service},
    frames::tcp,
};

const VIP: &str = "203.0.113.10";
const SERVERS: [&str; 2] = ["198.18.1.11", "198.18.2.11"];

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn services_that_are_there_learn_of_a_deny_list() {
    let service = service(VIP, Protocol::Tcp, Mode::Tunnel, &SERVERS);
    let Some(mut edge) = Edge::with(&service) else {
        return;
    };
    let frame = tcp("192.0.2.1:40000", "203.0.113.10:80").syn().frame();
    assert_eq!(edge.run(&frame).action, REDIRECT);
    edge.datapath
        .set_deny(&prefixes(&["192.0.2.0/24"]))
        .unwrap();
    edge.refuses(&frame, crate::edge::DROP, "denied");
    assert!(edge.datapath.audit().unwrap().is_empty());
    // Services that are applied later know it too.
    edge.apply(&service, &[EndpointState::Active; 2]);
    edge.refuses(&frame, crate::edge::DROP, "denied");
    edge.datapath
        .set_deny(&prefixes(&["192.0.3.0/24"]))
        .unwrap();
    assert_eq!(edge.run(&frame).action, REDIRECT);
    edge.datapath.set_deny(&[]).unwrap();
    assert_eq!(edge.run(&frame).action, REDIRECT);
    assert!(edge.datapath.audit().unwrap().is_empty());
}

#[test]
fn settings_change_and_stay_so() {
    let Some(mut edge) = Edge::new() else { return };
    let quiet = IcmpPolicy {
        echo: false,
        rate: 7,
    };
    edge.datapath.set_trace(5).unwrap();
    edge.datapath.set_settings(quiet, 6081).unwrap();
    assert_eq!(edge.datapath.trace(), 5);
    assert!(edge.datapath.audit().unwrap().is_empty());
}

#[test]
fn a_flow_from_before_a_change_is_explained_by_the_base() {
    let service = service(VIP, Protocol::Tcp, Mode::Tunnel, &SERVERS);
    let Some(mut edge) = Edge::with(&service) else {
        return;
    };
    let (active, draining) = (EndpointState::Active, EndpointState::Draining);
    edge.apply(&service, &[draining, active]);
    let explain = |edge: &Edge, port: u16| {
        let flow = director::datapath::Tuple {
            source: ([192, 0, 2, 1], port).into(),
            destination: ([203, 0, 113, 10], 80).into(),
            protocol: Protocol::Tcp,
        };
        edge.datapath.explain(&flow).unwrap().unwrap()
    };
    let drained = (SERVERS[0].parse().unwrap(), 80);
    let is_there = |port: &u16| {
        let told = explain(&edge, *port);
        (told.endpoint, told.port) == drained
    };
    let port = (40_000..40_100).find(is_there).expect("half of them");
    let told = explain(&edge, port);
    assert!(told.by_base && !told.by_flow && told.table != drained);
    // A flow that begins now is recorded at its new owner.
    edge.run(
        &tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80")
            .syn()
            .frame(),
    );
    let told = explain(&edge, port);
    assert!(told.by_flow && !told.by_base && told.endpoint != drained.0);
    // Once the hold is over, no flow of before is left.
    for _ in 0..8 {
        edge.datapath.sweep(Duration::ZERO);
    }
    let still = (40_000..40_100).find(|port| explain(&edge, *port).by_base);
    assert_eq!(still, None);
}
