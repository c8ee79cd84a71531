//! `nat` mode.

use std::{collections::HashMap, net::SocketAddr};

use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{DROP, Edge, HOP_MAC, NAT4, NAT6, OUT_MAC, REDIRECT, TX, service},
    frames::{self, CLIENT_MAC, EDGE_MAC, Seen, Spec, tcp, udp},
};

const ENDPOINTS4: [&str; 2] = ["198.18.1.11", "198.18.2.11"];
const ENDPOINTS6: [&str; 2] = ["2001:db8:11::11", "2001:db8:12::11"];

fn edge(vip: &str, protocol: Protocol) -> Option<Edge> {
    let endpoints = if vip.contains(':') {
        &ENDPOINTS6
    } else {
        &ENDPOINTS4
    };
    Edge::with(&service(vip, protocol, Mode::Nat, endpoints))
}

/// Sends a client's frame; says what the endpoint gets.
fn forward(edge: &mut Edge, spec: &Spec) -> Seen {
    let out = edge.run(&spec.frame());
    assert_eq!(out.action, REDIRECT);
    let seen = frames::read(&out.frame);
    let source = if spec.source.is_ipv4() { NAT4 } else { NAT6 };
    assert_eq!(
        seen.source.ip(),
        source.parse::<std::net::IpAddr>().unwrap()
    );
    assert!(seen.source.port() >= 1024);
    assert_eq!(seen.destination.port(), 8080);
    assert_eq!(seen.macs, (HOP_MAC, OUT_MAC));
    assert_eq!(seen.hop_limit, spec.hop_limit - 1);
    assert_eq!(seen.payload, spec.payload);
    seen
}

/// Answers a frame that an endpoint got; says what the client gets.
fn back(edge: &mut Edge, got: &Seen, spec: &Spec) -> Seen {
    let reply = Spec {
        source: got.destination,
        destination: got.source,
        ..spec.clone()
    };
    let out = edge.run(&reply.frame());
    // The client's packet came in where this one leaves.
    assert_eq!(out.action, TX);
    let seen = frames::read(&out.frame);
    assert_eq!(
        (seen.source, seen.destination),
        (spec.destination, spec.source)
    );
    assert_eq!(seen.macs, (CLIENT_MAC, EDGE_MAC));
    assert_eq!(seen.hop_limit, spec.hop_limit - 1);
    seen
}

fn cases() -> Vec<(&'static str, Protocol, Spec)> {
    let (v4, v6) = ("203.0.113.10", "2001:db8:53::10");
    vec![
        (v4, Protocol::Tcp, tcp("192.0.2.1:40000", "203.0.113.10:80")),
        (
            v6,
            Protocol::Tcp,
            tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80"),
        ),
        (v4, Protocol::Udp, udp("192.0.2.1:40000", "203.0.113.10:80")),
        (
            v6,
            Protocol::Udp,
            udp("[2001:db8::1]:40000", "[2001:db8:53::10]:80"),
        ),
    ]
}

#[test]
fn both_directions_have_right_addresses_and_checksums() {
    for (vip, protocol, spec) in cases() {
        let Some(mut edge) = edge(vip, protocol) else {
            return;
        };
        for length in [0, 1, 2, 3, 100, 1000, 1400] {
            let spec = Spec {
                payload: vec![0xa5; length],
                ..spec.clone()
            };
            let got = forward(&mut edge, &spec);
            back(&mut edge, &got, &spec);
        }
    }
}

#[test]
fn any_payload_and_port_gives_right_checksums() {
    let mut random = fastrand::Rng::with_seed(7);
    for (vip, protocol, spec) in cases() {
        let Some(mut edge) = edge(vip, protocol) else {
            return;
        };
        for _ in 0..500 {
            let mut spec = spec.clone();
            spec.source.set_port(random.u16(1..));
            spec.payload = (0..random.usize(0..64)).map(|_| random.u8(..)).collect();
            let got = forward(&mut edge, &spec);
            back(&mut edge, &got, &spec);
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Udp) else {
        return;
    };
    let mut frame = udp("192.0.2.1:40000", "203.0.113.10:80").frame();
    frame[40..42].copy_from_slice(&[0, 0]);
    let out = edge.run(&frame);
    assert_eq!(out.action, REDIRECT);
    assert_eq!(out.frame[40..42], [0, 0]);
    frames::read(&out.frame);
}

#[test]
fn ipv4_options_shift_the_ports_and_no_more() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    for words in 0..=10 {
        let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
        spec.options = vec![1; words * 4];
        let got = forward(&mut edge, &spec);
        back(&mut edge, &got, &spec);
    }
}

#[test]
fn no_two_flows_to_an_endpoint_share_a_port() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let mut seen: HashMap<(SocketAddr, SocketAddr), SocketAddr> = HashMap::new();
    let mut all = Vec::new();
    for client in 1..=20 {
        for port in 1000..1100 {
            let spec = tcp(&format!("192.0.2.{client}:{port}"), "203.0.113.10:80");
            let got = forward(&mut edge, &spec.clone().syn());
            let other = seen.insert((got.source, got.destination), spec.source);
            assert_eq!(other, None);
            all.push((spec, got));
        }
    }
    // Each still reaches its own, with the port it was given.
    for (spec, got) in all {
        let again = forward(&mut edge, &spec);
        assert_eq!(
            (again.source, again.destination),
            (got.source, got.destination)
        );
        back(&mut edge, &got, &spec);
    }
}

#[test]
fn a_syn_that_is_sent_again_keeps_its_port() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let spec = tcp("192.0.2.1:40000", "203.0.113.10:80").syn();
    let first = forward(&mut edge, &spec);
    let second = forward(&mut edge, &spec);
    assert_eq!(
        (first.source, first.destination),
        (second.source, second.destination)
    );
}

#[test]
fn a_closed_flow_that_opens_again_is_not_taken_for_closed() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    let got = forward(&mut edge, &spec.clone().syn());
    let fin = Spec {
        fin: true,
        ..spec.clone()
    };
    forward(&mut edge, &fin);
    back(&mut edge, &got, &fin);
    let again = forward(&mut edge, &spec.clone().syn());
    assert_eq!(again.source, got.source);
    back(&mut edge, &again, &spec);
}

#[test]
fn a_dead_endpoints_flow_moves_with_a_port_of_its_own() {
    use EndpointState::{Active, Dead};
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Nat, &ENDPOINTS4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    let got = forward(&mut edge, &spec.clone().syn());
    let states = if got.destination.ip().to_string() == ENDPOINTS4[0] {
        [Dead, Active]
    } else {
        [Active, Dead]
    };
    edge.apply(&web, &states);
    let moved = forward(&mut edge, &spec);
    assert_ne!(moved.destination, got.destination);
    // The new one's answer (a RST, as it knows no such flow) reaches the client.
    let rst = Spec { rst: true, ..spec };
    back(&mut edge, &moved, &rst);
}

#[test]
fn a_packet_to_a_nat_address_without_a_flow_is_dropped() {
    let Some(mut edge) = edge("203.0.113.10", Protocol::Tcp) else {
        return;
    };
    let stray = tcp("198.18.1.11:8080", "198.51.100.2:5555").frame();
    edge.refuses(&stray, DROP, "nat_no_flow");
}

#[test]
fn the_last_hop_is_not_forwarded() {
    for (vip, protocol, spec) in cases() {
        let Some(mut edge) = edge(vip, protocol) else {
            return;
        };
        let spec = Spec {
            hop_limit: 1,
            ..spec
        };
        edge.refuses(&spec.frame(), DROP, "hop_limit");
    }
}
