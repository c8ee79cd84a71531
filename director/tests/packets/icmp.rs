//! ICMP that the edge makes: echo replies and "packet too big".

use director_core::{EndpointState, Mode, Protocol};

use crate::{
    edge::{DROP, EGRESS, Edge, NAT4, NAT6, PASS, TX, service},
    frames::{CLIENT_MAC, EDGE_MAC, Spec, tcp, udp},
    messages::{self, Message},
};

const FAMILIES: [(&str, &str, &str); 2] = [
    ("192.0.2.1", "203.0.113.10", "198.18.1.11"),
    ("2001:db8::1", "2001:db8:53::10", "2001:db8:11::11"),
];

/// An edge with a service in each family.
fn edge(rate: u32, echo: bool, mode: Mode) -> Option<Edge> {
    let mut edge = Edge::with_icmp(rate, echo)?;
    for (_, vip, endpoint) in FAMILIES {
        let mut web = service(vip, Protocol::Tcp, mode, &[endpoint]);
        web.name = vip.into();
        edge.hop(endpoint.parse().unwrap(), EGRESS);
        edge.apply(&web, &[EndpointState::Active]);
    }
    Some(edge)
}

const UNLIMITED: u32 = 1_000_000_000;

fn answers(edge: &mut Edge, request: &Message) {
    let out = edge.run(&request.frame());
    assert_eq!(out.action, TX);
    assert_eq!(out.frame[..6], CLIENT_MAC);
    assert_eq!(out.frame[6..12], EDGE_MAC);
    let reply = Message {
        source: request.destination,
        destination: request.source,
        hop_limit: 64,
        kind: [if request.source.is_ipv4() { 0 } else { 129 }, 0],
        ..request.clone()
    };
    assert_eq!(messages::read(&out.frame), reply);
}

#[test]
fn every_identifier_is_answered() {
    let Some(mut edge) = edge(UNLIMITED, true, Mode::Tunnel) else {
        return;
    };
    for (client, vip, _) in FAMILIES {
        for payload in [vec![], vec![0xff; 3], (0..56).collect()] {
            let mut request = Message::echo(client, vip);
            request.payload = payload;
            for identifier in 0..=u16::MAX {
                let [a, b] = identifier.to_be_bytes();
                request.rest = [a, b, 0, 0];
                answers(&mut edge, &request);
            }
        }
    }
}

#[test]
fn zeros_and_every_length_are_answered() {
    let Some(mut edge) = edge(UNLIMITED, true, Mode::Tunnel) else {
        return;
    };
    for (client, vip, _) in FAMILIES {
        for length in 0..1452 {
            let mut request = Message::echo(client, vip);
            request.payload = vec![0; length];
            answers(&mut edge, &request);
            request.payload.fill_with(|| fastrand::u8(..));
            answers(&mut edge, &request);
        }
    }
}

#[test]
fn what_is_wrong_or_odd_is_not_answered() {
    let Some(mut edge) = edge(UNLIMITED, true, Mode::Tunnel) else {
        return;
    };
    for (client, vip, _) in FAMILIES {
        let is_v4 = !vip.contains(':');
        let header = if is_v4 { 34 } else { 54 };
        let request = Message::echo(client, vip);
        for bit in 0..16 {
            let mut frame = request.frame();
            frame[header + 2 + bit / 8] ^= 1 << (bit % 8);
            edge.refuses(&frame, DROP, "icmp_malformed");
        }
        let martian = Message::echo(if is_v4 { "127.0.0.1" } else { "::1" }, vip);
        edge.refuses(&martian.frame(), DROP, "martian");
        edge.refuses(&Message::echo(vip, vip).frame(), DROP, "martian");
        let nat = Message::echo(client, if is_v4 { NAT4 } else { NAT6 });
        edge.refuses(&nat.frame(), PASS, "icmp_other");
        let other = if is_v4 {
            "203.0.113.11"
        } else {
            "2001:db8:53::11"
        };
        edge.passes(&Message::echo(client, other).frame());
        // A timestamp request, and a neighbour solicitation.
        let kind = if is_v4 { 13 } else { 135 };
        edge.refuses(
            &Message::new(client, vip, [kind, 0]).frame(),
            PASS,
            "icmp_other",
        );
        let mut whole = request;
        whole.payload = vec![1; 40];
        let whole = whole.frame();
        for length in 14..whole.len() {
            edge.passes(&whole[..length]);
        }
    }
}

#[test]
fn ipv4_options_leave_an_echo_to_the_host() {
    let Some(mut edge) = edge(UNLIMITED, true, Mode::Tunnel) else {
        return;
    };
    let mut spec = tcp("192.0.2.1:2048", "203.0.113.10:80");
    spec.options = vec![1; 4];
    let mut frame = spec.frame();
    frame[23] = 1;
    edge.refuses(&frame, PASS, "icmp_other");
}

#[test]
fn echo_is_limited_and_may_be_off() {
    let Some(mut limited) = edge(10, true, Mode::Tunnel) else {
        return;
    };
    let frame = Message::echo("192.0.2.1", "203.0.113.10").frame();
    let answered = (0..1000)
        .filter(|_| limited.run(&frame).action == TX)
        .count() as u64;
    assert!((10..500).contains(&answered), "{answered}");
    assert_eq!(limited.cause("echo"), answered);
    assert_eq!(limited.cause("echo_rate"), 1000 - answered);
    let mut off = edge(10, false, Mode::Tunnel).unwrap();
    off.refuses(&frame, PASS, "icmp_other");
    let mut never = edge(0, true, Mode::Tunnel).unwrap();
    never.refuses(&frame, DROP, "echo_rate");
}

/// A segment or datagram whose IP packet has `length` bytes.
fn sized(spec: Spec, length: usize) -> Vec<u8> {
    let mut spec = spec;
    spec.payload.clear();
    let headers = spec.frame().len() - 14;
    spec.payload = (0..length - headers).map(|i| i as u8).collect();
    spec.frame()
}

#[test]
fn the_sender_of_a_packet_too_big_is_told() {
    for (mode, overhead) in [(Mode::Tunnel, true), (Mode::Nat, false), (Mode::L2, false)] {
        let Some(mut edge) = edge(UNLIMITED, true, mode) else {
            return;
        };
        let v4 = tcp("192.0.2.1:40000", "203.0.113.10:80");
        let v6 = tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80");
        for (spec, header, kind, most) in [(v4, 20, [3, 4], 576), (v6, 40, [2, 0], 1280)] {
            let fits = if overhead { 1500 - header } else { 1500 };
            assert_ne!(edge.run(&sized(spec.clone(), fits)).action, TX);
            for length in [fits + 1, fits + 2, 2000] {
                let frame = sized(spec.clone(), length);
                let out = edge.run(&frame);
                assert_eq!(out.action, TX);
                assert_eq!(out.frame.len(), 14 + most);
                assert_eq!(out.frame[..6], frame[6..12]);
                assert_eq!(out.frame[6..12], frame[..6]);
                let told = messages::read(&out.frame);
                assert_eq!(told.source, spec.destination.ip());
                assert_eq!(told.destination, spec.source.ip());
                assert_eq!((told.kind, told.hop_limit), (kind, 64));
                assert_eq!(u32::from_be_bytes(told.rest), fits as u32);
                assert_eq!(told.payload, frame[14..14 + most - header - 8]);
            }
        }
        assert_eq!(edge.cause("too_big_told"), 6);
    }
}

#[test]
fn ipv6_is_never_told_less_than_its_least_mtu() {
    let Some(mut edge) = edge(1, true, Mode::Tunnel) else {
        return;
    };
    let endpoint = FAMILIES[1].2.parse().unwrap();
    let hop = director::datapath::Hop {
        interface: EGRESS,
        destination: [2; 6],
        source: [2; 6],
        mtu: 1280,
        vlan: 0,
    };
    edge.datapath.set_hop(endpoint, Some(hop)).unwrap();
    let frame = sized(tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80"), 1280);
    let told = messages::read(&edge.run(&frame).frame);
    assert_eq!(u32::from_be_bytes(told.rest), 1280);
    // One a second, and one ahead.
    let told = (0..100).filter(|_| edge.run(&frame).action == TX).count() as u64;
    assert!(told < 10);
    assert_eq!(edge.cause("too_big"), 100 - told);
}

#[test]
fn a_datagram_too_big_is_told_too() {
    let Some(mut edge) = Edge::with(&service(
        "203.0.113.10",
        Protocol::Udp,
        Mode::Tunnel,
        &["198.18.1.11"],
    )) else {
        return;
    };
    let out = edge.run(&sized(udp("192.0.2.1:40000", "203.0.113.10:80"), 1481));
    assert_eq!(out.action, TX);
    assert_eq!(u32::from_be_bytes(messages::read(&out.frame).rest), 1480);
}
