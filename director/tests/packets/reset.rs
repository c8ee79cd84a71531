//! RST in the name of a dead endpoint.

use director_core::{
    EndpointState::{Active, Dead},
    Mode, OnDeath, Protocol, Track,
};
use etherparse::PacketHeaders;

use crate::{
    edge::{DROP, Edge, REDIRECT, TX, service},
    frames::{self, CLIENT_MAC, EDGE_MAC, Spec, tcp},
};

const VIPS: [(&str, &str, [&str; 2]); 2] = [
    (
        "192.0.2.1:40000",
        "203.0.113.10:80",
        ["198.18.1.11", "198.18.2.11"],
    ),
    (
        "[2001:db8::1]:40000",
        "[2001:db8:53::10]:80",
        ["2001:db8:11::11", "2001:db8:12::11"],
    ),
];

/// An edge on which every recorded flow's endpoint is dead.
fn edge(vip: &str, endpoints: &[&str], specs: &[Spec]) -> Option<Edge> {
    let address: std::net::SocketAddr = vip.parse().unwrap();
    let mut web = service(
        &address.ip().to_string(),
        Protocol::Tcp,
        Mode::Tunnel,
        endpoints,
    );
    web.steering.on_death = OnDeath::Reset;
    web.steering.track = Track::Always;
    let mut edge = Edge::with(&web)?;
    edge.apply(&web, &[Active, Dead]);
    for spec in specs {
        assert_eq!(edge.run(&spec.clone().syn().frame()).action, REDIRECT);
    }
    edge.apply(&web, &[Dead, Active]);
    Some(edge)
}

/// Sequence and acknowledgment number of the RST that a frame is answered with.
fn reset(edge: &mut Edge, spec: &Spec, frame: &[u8]) -> (u32, Option<u32>) {
    let out = edge.run(frame);
    assert_eq!(out.action, TX);
    let seen = frames::read(&out.frame);
    assert_eq!(
        (seen.source, seen.destination),
        (spec.destination, spec.source)
    );
    assert_eq!((seen.hop_limit, seen.macs), (64, (CLIENT_MAC, EDGE_MAC)));
    assert!(seen.payload.is_empty());
    let header = if spec.source.is_ipv4() { 20 } else { 40 };
    assert_eq!(out.frame.len(), 14 + header + 20);
    let Some(etherparse::TransportHeader::Tcp(tcp)) =
        PacketHeaders::from_ethernet_slice(&out.frame)
            .unwrap()
            .transport
    else {
        panic!("no TCP")
    };
    assert!(tcp.rst && !tcp.syn && !tcp.fin);
    (
        tcp.sequence_number,
        tcp.ack.then_some(tcp.acknowledgment_number),
    )
}

#[test]
fn a_segment_with_ack_is_answered_at_its_ack() {
    for (client, vip, endpoints) in VIPS {
        let spec = tcp(client, vip);
        let Some(mut edge) = edge(vip, &endpoints, std::slice::from_ref(&spec)) else {
            return;
        };
        assert_eq!(reset(&mut edge, &spec, &spec.frame()), (500, None));
        assert_eq!(edge.cause("reset"), 1);
    }
}

#[test]
fn a_segment_without_ack_is_acknowledged() {
    for (client, vip, endpoints) in VIPS {
        for (flags, more) in [(0, 0), (1, 1)] {
            let spec = tcp(client, vip);
            let Some(mut edge) = edge(vip, &endpoints, std::slice::from_ref(&spec)) else {
                return;
            };
            let mut frame = spec.frame();
            let at = if spec.source.is_ipv4() { 34 } else { 54 };
            frame[at + 13] = flags;
            let ack = 1000 + spec.payload.len() as u32 + more;
            assert_eq!(reset(&mut edge, &spec, &frame), (0, Some(ack)));
        }
    }
}

#[test]
fn ipv4_options_do_not_get_into_the_answer() {
    let (client, vip, endpoints) = VIPS[0];
    let mut spec = tcp(client, vip);
    let Some(mut edge) = edge(vip, &endpoints, std::slice::from_ref(&spec)) else {
        return;
    };
    spec.options = vec![1; 40];
    assert_eq!(reset(&mut edge, &spec, &spec.frame()), (500, None));
}

#[test]
fn a_reset_is_not_answered() {
    for (client, vip, endpoints) in VIPS {
        let mut spec = tcp(client, vip);
        let Some(mut edge) = edge(vip, &endpoints, std::slice::from_ref(&spec)) else {
            return;
        };
        spec.rst = true;
        edge.refuses(&spec.frame(), DROP, "not_reset");
    }
}
