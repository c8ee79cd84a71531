//! `tunnel` mode.

use std::{collections::HashSet, net::IpAddr};

use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{EGRESS, Edge, HOP_MAC, INGRESS, OUT_MAC, REDIRECT, TUNNEL4, TUNNEL6, TX, service},
    frames::{self, Spec, tcp, udp},
};

const ENDPOINTS4: [&str; 3] = ["198.18.1.11", "198.18.2.11", "198.18.3.11"];
const ENDPOINTS6: [&str; 3] = ["2001:db8:11::11", "2001:db8:12::11", "2001:db8:13::11"];

fn edge(vip: &str, protocol: Protocol) -> Option<Edge> {
    let endpoints = if vip.contains(':') {
        &ENDPOINTS6
    } else {
        &ENDPOINTS4
    };
    Edge::with(&service(vip, protocol, Mode::Tunnel, endpoints))
}

/// Sends a frame that must be encapsulated; says which endpoint it goes to.
fn steered(edge: &mut Edge, spec: &Spec) -> IpAddr {
    let frame = spec.frame();
    let out = edge.run(&frame);
    assert_eq!(out.action, REDIRECT);
    let (source, destination, inner) = frames::open(&out.frame);
    let from = if spec.source.is_ipv4() {
        TUNNEL4
    } else {
        TUNNEL6
    };
    assert_eq!(source, from.parse::<IpAddr>().unwrap());
    assert_eq!(&out.frame[..6], HOP_MAC);
    assert_eq!(&out.frame[6..12], OUT_MAC);
    // The inner packet is the one that came, to the bit.
    assert_eq!(inner[14..], frame[14..]);
    destination
}

#[test]
fn a_packet_is_encapsulated_as_it_came() {
    for (spec, vip) in [
        (
            tcp("192.0.2.1:40000", "203.0.113.10:80").syn(),
            "203.0.113.10",
        ),
        (tcp("192.0.2.1:40000", "203.0.113.10:80"), "203.0.113.10"),
        (
            tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80").syn(),
            "2001:db8:53::10",
        ),
        (
            tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80"),
            "2001:db8:53::10",
        ),
    ] {
        let Some(mut edge) = edge(vip, Protocol::Tcp) else {
            return;
        };
        steered(&mut edge, &spec);
    }
    for (spec, vip) in [
        (udp("192.0.2.1:40000", "203.0.113.10:80"), "203.0.113.10"),
        (
            udp("[2001:db8::1]:40000", "[2001:db8:53::10]:80"),
            "2001:db8:53::10",
        ),
    ] {
        let Some(mut edge) = edge(vip, Protocol::Udp) else {
            return;
        };
        steered(&mut edge, &spec);
    }
}

#[test]
fn the_traffic_class_is_copied() {
    let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    spec.traffic_class = 0xb9;
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let out = edge.run(&spec.frame());
    assert_eq!(out.frame[15], 0xb9);
}

#[test]
fn ipv4_options_are_skipped_not_misread() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    for words in 1..=10 {
        let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
        let plain = steered(&mut edge, &spec);
        spec.options = vec![1; words * 4];
        // The same ports are found, so it is the same flow.
        assert_eq!(steered(&mut edge, &spec), plain);
    }
}

#[test]
fn a_frame_that_was_padded_keeps_its_packet() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let spec = tcp("192.0.2.1:40000", "203.0.113.10:80").syn();
    let mut frame = spec.frame();
    let length = frame.len();
    frame.resize(60, 0xee);
    let out = edge.run(&frame);
    let (_, _, inner) = frames::open(&out.frame);
    assert_eq!(inner[14..], frame[14..length]);
}

#[test]
fn a_flow_stays_and_flows_spread() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let mut seen = HashSet::new();
    for port in 40000..40200 {
        let spec = tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
        let first = steered(&mut edge, &spec.clone().syn());
        assert_eq!(steered(&mut edge, &spec), first);
        seen.insert(first);
    }
    assert_eq!(seen.len(), ENDPOINTS4.len());
    let flows: u64 = edge
        .counters()
        .services
        .iter()
        .map(|(_, total)| total.flows)
        .sum();
    let packets: u64 = edge
        .counters()
        .endpoints
        .iter()
        .map(|(_, _, _, total)| total.packets)
        .sum();
    assert_eq!((flows, packets), (200, 400));
}

#[test]
fn the_same_interface_is_sent_back_by() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    for address in ENDPOINTS4 {
        edge.hop(address.parse().unwrap(), INGRESS);
    }
    assert_eq!(
        edge.run(&tcp("192.0.2.1:40000", "203.0.113.10:80").frame())
            .action,
        TX
    );
    for address in ENDPOINTS4 {
        edge.hop(address.parse().unwrap(), EGRESS);
    }
    assert_eq!(
        edge.run(&tcp("192.0.2.1:40000", "203.0.113.10:80").frame())
            .action,
        REDIRECT
    );
}

#[test]
fn draining_keeps_flows_and_takes_no_new_ones() {
    use EndpointState::{Active, Draining};
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let drained: IpAddr = ENDPOINTS4[0].parse().unwrap();
    let spec = |port| tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
    let before: Vec<IpAddr> = (1000..1100)
        .map(|port| steered(&mut edge, &spec(port).syn()))
        .collect();
    assert!(before.contains(&drained));
    edge.apply(&web, &[Draining, Active, Active]);
    for (port, owner) in (1000..1100).zip(before) {
        assert_eq!(steered(&mut edge, &spec(port)), owner);
        // A client that opens a new connection from the same port starts anew.
        assert_ne!(steered(&mut edge, &spec(port).syn()), drained);
    }
    for port in 2000..2100 {
        assert_ne!(steered(&mut edge, &spec(port).syn()), drained);
    }
}

#[test]
fn flows_of_a_dead_endpoint_move_and_others_do_not() {
    use EndpointState::{Active, Dead};
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let dead: IpAddr = ENDPOINTS4[1].parse().unwrap();
    let spec = |port| tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
    let before: Vec<IpAddr> = (1000..1100)
        .map(|port| steered(&mut edge, &spec(port).syn()))
        .collect();
    edge.apply(&web, &[Active, Dead, Active]);
    let mut after = Vec::new();
    for (port, owner) in (1000..1100).zip(&before) {
        let now = steered(&mut edge, &spec(port));
        assert_ne!(now, dead);
        if *owner != dead {
            assert_eq!(now, *owner);
        }
        after.push(now);
    }
    // Recovery takes no recorded flow back.
    edge.apply(&web, &[Active, Active, Active]);
    for (port, owner) in (1000..1100).zip(after) {
        assert_eq!(steered(&mut edge, &spec(port)), owner);
    }
}

#[test]
fn a_record_of_an_indexs_earlier_holder_does_not_count() {
    let web = service(
        "203.0.113.10",
        Protocol::Tcp,
        Mode::Tunnel,
        &ENDPOINTS4[..1],
    );
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let spec = tcp("192.0.2.1:1000", "203.0.113.10:80");
    assert_eq!(
        steered(&mut edge, &spec.clone().syn()),
        ENDPOINTS4[0].parse::<IpAddr>().unwrap()
    );
    // Every index is given away many times over.
    for round in 0..40u8 {
        let address = format!("198.18.9.{}", round + 1);
        let other = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &[&address]);
        edge.hop(address.parse().unwrap(), EGRESS);
        edge.apply(&other, &[EndpointState::Active]);
        assert_eq!(
            steered(&mut edge, &spec),
            address.parse::<IpAddr>().unwrap()
        );
    }
}

#[test]
fn what_would_not_fit_is_told() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    spec.payload = vec![7; 1500 - 20 - 40];
    steered(&mut edge, &spec);
    spec.payload.push(7);
    // The answer itself is looked at in `icmp`.
    assert_eq!(edge.run(&spec.frame()).action, TX);
    assert_eq!(edge.cause("too_big_told"), 1);
}

#[test]
fn explain_says_what_the_program_does() {
    use EndpointState::{Active, Draining};
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    for port in 1000..1100 {
        let spec = tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
        let flow = director::datapath::Tuple {
            source: spec.source,
            destination: spec.destination,
            protocol: Protocol::Tcp,
        };
        let told = edge.datapath.explain(&flow).unwrap().unwrap();
        assert!(!told.by_flow);
        assert_eq!(steered(&mut edge, &spec.clone().syn()), told.endpoint);
        edge.apply(&web, &[Active, Draining, Active]);
        // It began before the change, so it stays; a new one from the same
        // port is placed by the table, and recorded where that differs.
        let told = edge.datapath.explain(&flow).unwrap().unwrap();
        assert!(!told.by_flow);
        assert_eq!(steered(&mut edge, &spec), told.endpoint);
        assert_eq!(steered(&mut edge, &spec.clone().syn()), told.table.0);
        let told = edge.datapath.explain(&flow).unwrap().unwrap();
        assert_eq!(steered(&mut edge, &spec), told.endpoint);
        assert_eq!(told.endpoint, told.table.0);
        edge.apply(&web, &[Active, Active, Active]);
    }
}

#[test]
fn without_a_next_hop_the_kernel_is_asked_and_its_answer_named() {
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &ENDPOINTS4);
    let Some(mut edge) = Edge::new() else { return };
    // Test runs come in by the loopback interface, which forwards nothing.
    edge.apply(&web, &[EndpointState::Active; 3]);
    let frame = tcp("192.0.2.1:40000", "203.0.113.10:80").frame();
    edge.refuses(&frame, crate::edge::DROP, "no_route");
}
