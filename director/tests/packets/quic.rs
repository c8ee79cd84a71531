//! Affinity by QUIC connection ID.

use std::{collections::HashSet, net::IpAddr};

use director_core::{
    Affinity, Encapsulation,
    EndpointState::{Active, Dead, Draining},
    Mode, Protocol,
    model::Service,
};

use crate::{
    edge::{Edge, REDIRECT, TUNNEL4, TUNNEL6, service},
    frames::{self, Spec, udp},
};

const ENDPOINTS4: [&str; 3] = ["198.18.1.11", "198.18.2.11", "198.18.3.11"];
const ENDPOINTS6: [&str; 3] = ["2001:db8:11::11", "2001:db8:12::11", "2001:db8:13::11"];
const VIP4: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:53::10";
/// Server IDs, in the order of the endpoints: each byte differs in one of them.
const IDS: [u32; 3] = [0x01_0000, 0x00_0200, 0x00_0003];
/// What a QUIC packet has at least after its first byte and connection ID.
const REST: [u8; 20] = [0xaa; 20];

fn quic(vip: &str) -> Service {
    let endpoints = if vip.contains(':') {
        &ENDPOINTS6
    } else {
        &ENDPOINTS4
    };
    let mut quic = service(vip, Protocol::Udp, Mode::Tunnel, endpoints);
    quic.steering.affinity = Affinity::Quic;
    for (endpoint, id) in quic.endpoints.iter_mut().zip(IDS) {
        endpoint.server_id = Some(id);
    }
    quic
}

fn client(vip: &str, port: u16) -> Spec {
    if vip.contains(':') {
        udp(&format!("[2001:db8::1]:{port}"), &format!("[{vip}]:80"))
    } else {
        udp(&format!("192.0.2.1:{port}"), &format!("{vip}:80"))
    }
}

/// A datagram with this first byte and rotation codepoint, for server `id`.
fn datagram(first: u8, codepoint: u8, id: u32) -> Vec<u8> {
    let [_, a, b, c] = id.to_be_bytes();
    let start = [first, codepoint << 5 | 7, a, b, c, 9, 9, 9, 9];
    [&start[..], &REST].concat()
}

/// A packet of an established connection.
fn short(id: u32) -> Vec<u8> {
    datagram(0x43, 0, id)
}

/// A packet of a handshake, whose connection ID begins where an ID would be.
fn long() -> Vec<u8> {
    datagram(0xc3, 0, IDS[0])
}

/// Sends a payload that must be encapsulated; says which endpoint it goes to.
fn owner(edge: &mut Edge, spec: &Spec, payload: &[u8]) -> IpAddr {
    let mut spec = spec.clone();
    spec.payload = payload.to_vec();
    let frame = spec.frame();
    let out = edge.run(&frame);
    assert_eq!(out.action, REDIRECT);
    let (_, endpoint, inner) = frames::open(&out.frame);
    assert_eq!(inner[14..], frame[14..]);
    endpoint
}

/// Endpoints' addresses, in the order of [`IDS`].
fn addresses(service: &Service) -> Vec<IpAddr> {
    service.endpoints.iter().map(|e| e.address).collect()
}

#[test]
fn the_connection_id_names_the_endpoint_wherever_the_client_moves() {
    for vip in [VIP4, VIP6] {
        let quic = quic(vip);
        let Some(mut edge) = Edge::with(&quic) else {
            return;
        };
        for (id, endpoint) in IDS.into_iter().zip(addresses(&quic)) {
            for port in 1000..1100 {
                assert_eq!(owner(&mut edge, &client(vip, port), &short(id)), endpoint);
            }
            let other = if vip == VIP4 {
                udp("192.0.2.77:7", "203.0.113.10:80")
            } else {
                udp("[2001:db8::77]:7", "[2001:db8:53::10]:80")
            };
            assert_eq!(owner(&mut edge, &other, &short(id)), endpoint);
        }
        // None of them began a flow, so the table was not asked.
        assert_eq!(edge.counters().services[0].1.flows, 0);
        // Control: the table would have spread them.
        let spread: HashSet<_> = (1000..1100)
            .map(|port| owner(&mut edge, &client(vip, port), &long()))
            .collect();
        assert_eq!(spread.len(), 3);
        assert_eq!(edge.counters().services[0].1.flows, 100);
    }
}

#[test]
fn first_bits_but_the_form_and_any_codepoint_but_the_last_are_taken() {
    let quic = quic(VIP4);
    let Some(mut edge) = Edge::with(&quic) else {
        return;
    };
    let endpoint = addresses(&quic)[1];
    // One whose hash goes elsewhere.
    let spec = (1000..)
        .map(|port| client(VIP4, port))
        .find(|spec| owner(&mut edge, spec, &long()) != endpoint)
        .unwrap();
    let by_hash = owner(&mut edge, &spec, &long());
    for first in 0..=255 {
        let is_short = first < 0x80;
        let expected = if is_short { endpoint } else { by_hash };
        let payload = datagram(first, 0, IDS[1]);
        assert_eq!(owner(&mut edge, &spec, &payload), expected, "{first:#x}");
    }
    for codepoint in 0..8 {
        let expected = if codepoint < 7 { endpoint } else { by_hash };
        let payload = datagram(0x40, codepoint, IDS[1]);
        assert_eq!(owner(&mut edge, &spec, &payload), expected, "{codepoint}");
    }
}

#[test]
fn what_names_no_server_stays_where_its_first_packet_went() {
    let quic = quic(VIP4);
    let Some(mut edge) = Edge::with(&quic) else {
        return;
    };
    let mut seen = HashSet::new();
    for port in 1000..1100 {
        let spec = client(VIP4, port);
        let endpoint = owner(&mut edge, &spec, &long());
        for id in [0, 1, 0xff_ffff] {
            assert_eq!(owner(&mut edge, &spec, &short(id)), endpoint);
        }
        seen.insert(endpoint);
    }
    assert_eq!(seen.len(), 3);
    // Recorded: a change of the table does not move them.
    let spec = (1000..)
        .map(|port| client(VIP4, port))
        .find(|spec| owner(&mut edge, spec, &long()) == addresses(&quic)[0])
        .unwrap();
    edge.apply(&quic, &[Draining, Active, Active]);
    assert_eq!(owner(&mut edge, &spec, &short(1)), addresses(&quic)[0]);
}

#[test]
fn a_dead_endpoint_is_not_sent_to_and_a_draining_one_is() {
    let quic = quic(VIP4);
    let Some(mut edge) = Edge::with(&quic) else {
        return;
    };
    let named = addresses(&quic)[0];
    let all = |edge: &mut Edge| -> Vec<IpAddr> {
        (1000..1100)
            .map(|port| owner(edge, &client(VIP4, port), &short(IDS[0])))
            .collect()
    };
    edge.apply(&quic, &[Draining, Active, Active]);
    assert!(all(&mut edge).iter().all(|endpoint| *endpoint == named));
    edge.apply(&quic, &[Dead, Active, Active]);
    let moved = all(&mut edge);
    assert!(!moved.contains(&named));
    assert_eq!(all(&mut edge), moved);
    edge.apply(&quic, &[Active, Active, Active]);
    assert!(all(&mut edge).iter().all(|endpoint| *endpoint == named));
}

#[test]
fn an_id_that_is_given_away_or_withdrawn_counts_at_once() {
    let mut quic = quic(VIP4);
    let Some(mut edge) = Edge::with(&quic) else {
        return;
    };
    let spec = client(VIP4, 1000);
    quic.endpoints.swap(0, 2);
    for (endpoint, id) in quic.endpoints.iter_mut().zip(IDS) {
        endpoint.server_id = Some(id);
    }
    edge.apply(&quic, &[Active; 3]);
    for (id, endpoint) in IDS.into_iter().zip(addresses(&quic)) {
        assert_eq!(owner(&mut edge, &spec, &short(id)), endpoint);
    }
    assert_eq!(edge.datapath.audit().unwrap(), []);
    quic.endpoints.pop();
    edge.apply(&quic, &[Active; 2]);
    let left = addresses(&quic);
    assert!(left.contains(&owner(&mut edge, &spec, &short(IDS[2]))));
}

#[test]
fn a_datagram_without_a_whole_id_goes_by_hash() {
    for vip in [VIP4, VIP6] {
        let quic = quic(vip);
        let Some(mut edge) = Edge::with(&quic) else {
            return;
        };
        let endpoint = addresses(&quic)[2];
        let spec = (1000..)
            .map(|port| client(vip, port))
            .find(|spec| owner(&mut edge, spec, &long()) != endpoint)
            .unwrap();
        let by_hash = owner(&mut edge, &spec, &long());
        let whole = short(IDS[2]);
        for length in 0..=whole.len() {
            let expected = if length < 9 { by_hash } else { endpoint };
            assert_eq!(owner(&mut edge, &spec, &whole[..length]), expected);
        }
        // What pads a short frame is no connection ID.
        let mut cut = spec.clone();
        cut.payload = whole[..8].to_vec();
        let mut frame = cut.frame();
        frame.extend_from_slice(&whole[8..]);
        assert_eq!(frames::open(&edge.run(&frame).frame).1, by_hash);
        // A frame that ends early.
        cut.payload = whole;
        let frame = cut.frame();
        for length in 14..frame.len() {
            edge.passes(&frame[..length]);
        }
    }
}

#[test]
fn gue_carries_it_too() {
    for (vip, tunnel) in [(VIP4, TUNNEL4), (VIP6, TUNNEL6)] {
        let mut quic = quic(vip);
        quic.steering.encapsulation = Encapsulation::Gue;
        let Some(mut edge) = Edge::with(&quic) else {
            return;
        };
        for (id, endpoint) in IDS.into_iter().zip(addresses(&quic)) {
            for port in 1000..1020 {
                let mut spec = client(vip, port);
                spec.payload = short(id);
                let frame = spec.frame();
                let out = edge.run(&frame);
                assert_eq!(out.action, REDIRECT);
                let outer = frames::read(&out.frame);
                assert_eq!(outer.source.ip(), tunnel.parse::<IpAddr>().unwrap());
                assert_eq!(outer.destination.ip(), endpoint);
                assert_eq!(outer.payload, frame[14..]);
            }
        }
    }
}

#[test]
fn other_affinities_look_at_no_connection_id() {
    let mut quic = quic(VIP4);
    quic.steering.affinity = Affinity::Flow;
    let Some(mut edge) = Edge::with(&quic) else {
        return;
    };
    let seen: HashSet<_> = (1000..1100)
        .map(|port| owner(&mut edge, &client(VIP4, port), &short(IDS[0])))
        .collect();
    assert_eq!(seen.len(), 3);
}
