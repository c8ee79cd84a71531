//! The maximum segment size that peers announce is lowered, and nothing else.

use director_core::{EndpointState::Active, Mode, Protocol};
use etherparse::PacketBuilder;

use crate::{
    edge::{EGRESS, Edge, NAT4, REDIRECT, TX, service},
    frames::{self, CLIENT_MAC, EDGE_MAC},
};

const MOST: u16 = 1400;

fn edge(mode: Mode) -> Option<Edge> {
    let mut edge = Edge::new()?;
    for (vip, endpoint) in [
        ("203.0.113.10", "198.18.1.11"),
        ("2001:db8:53::10", "2001:db8:11::11"),
    ] {
        let mut web = service(vip, Protocol::Tcp, mode, &[endpoint]);
        web.name = vip.into();
        web.steering.mss = Some(MOST);
        edge.hop(endpoint.parse().unwrap(), EGRESS);
        edge.apply(&web, &[Active]);
    }
    Some(edge)
}

/// A SYN from a client, or with `ack` a segment.
fn syn(is_v4: bool, options: &[u8], ack: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC);
    let ip = if is_v4 {
        ethernet.ipv4([192, 0, 2, 1], [203, 0, 113, 10], 60)
    } else {
        let address = |a: &str| a.parse::<std::net::Ipv6Addr>().unwrap().octets();
        ethernet.ipv6(address("2001:db8::1"), address("2001:db8:53::10"), 60)
    };
    let mut step = ip.tcp(40000, 80, 7, 9);
    step = if ack { step.ack(1) } else { step.syn() };
    let mut frame = Vec::new();
    step.options_raw(options)
        .unwrap()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

/// Options of a frame's TCP header, whose checksums are right.
fn options(frame: &[u8], is_v4: bool) -> Vec<u8> {
    frames::read(frame);
    let at = if is_v4 { 34 } else { 54 };
    let end = at + usize::from(frame[at + 12] >> 4) * 4;
    frame[at + 20..end].to_vec()
}

/// Options of a frame that was sent to the endpoint in this mode.
fn sent(edge: &mut Edge, mode: Mode, is_v4: bool, frame: &[u8]) -> Vec<u8> {
    let out = edge.run(frame);
    assert_eq!(out.action, REDIRECT);
    if mode == Mode::Tunnel {
        options(&frames::open(&out.frame).2, is_v4)
    } else {
        options(&out.frame, is_v4)
    }
}

/// Options before and after.
fn cases() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mss = |value: u16| [&[2, 4], value.to_be_bytes().as_slice()].concat();
    let same = |options: &[u8]| (options.to_vec(), options.to_vec());
    let mut cases = vec![
        (mss(1460), mss(MOST)),
        (mss(MOST + 1), mss(MOST)),
        (mss(0xffff), mss(MOST)),
        same(&mss(MOST)),
        same(&mss(536)),
        same(&mss(0)),
        same(&[]),
        // Timestamps alone, and the end before the option.
        same(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]),
        same(&[0, 2, 4, 5, 0xb4, 0, 0, 0]),
        // Lying lengths: of the option, of others, past the end.
        same(&[2, 3, 5, 0xb4]),
        same(&[2, 5, 5, 0xb4, 1, 1, 1, 1]),
        same(&[2, 0, 5, 0xb4]),
        same(&[8, 0, 2, 4, 5, 0xb4, 1, 1]),
        same(&[8, 1, 2, 4, 5, 0xb4, 1, 1]),
        same(&[8, 200, 2, 4, 5, 0xb4, 1, 1]),
        same(&[1, 1, 2, 4]),
        same(&[1, 1, 1, 2]),
    ];
    // At even and odd places.
    for before in 0..8 {
        let around = |value: u16| {
            let mut options = vec![1; before];
            options.extend(mss(value));
            options.resize(before.next_multiple_of(4) + 4, 0);
            options
        };
        for value in [1401, 1460, 8960, 0xff00, 0xffff] {
            cases.push((around(value), around(MOST)));
        }
    }
    // As Linux sends it.
    let linux = |value: u16| {
        let rest = [4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        [mss(value), rest.to_vec()].concat()
    };
    cases.push((linux(1460), linux(MOST)));
    cases
}

#[test]
fn a_syn_is_clamped_in_every_mode() {
    for mode in [Mode::Tunnel, Mode::L2, Mode::Nat] {
        let Some(mut edge) = edge(mode) else { return };
        for is_v4 in [true, false] {
            for (before, after) in cases() {
                let frame = syn(is_v4, &before, false);
                assert_eq!(sent(&mut edge, mode, is_v4, &frame), after, "{before:?}");
                let frame = syn(is_v4, &before, true);
                assert_eq!(sent(&mut edge, mode, is_v4, &frame), before, "{before:?}");
            }
        }
    }
}

#[test]
fn a_reply_to_a_syn_is_clamped_in_nat_mode() {
    let Some(mut edge) = edge(Mode::Nat) else {
        return;
    };
    let out = edge.run(&syn(true, &[], false));
    let port = frames::read(&out.frame).source.port();
    let nat: std::net::Ipv4Addr = NAT4.parse().unwrap();
    for (before, after) in cases() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC)
            .ipv4([198, 18, 1, 11], nat.octets(), 60)
            .tcp(8080, port, 7, 9)
            .syn()
            .ack(8)
            .options_raw(&before)
            .unwrap()
            .write(&mut frame, &[])
            .unwrap();
        let out = edge.run(&frame);
        assert_eq!(out.action, TX);
        assert_eq!(options(&out.frame, true), after, "{before:?}");
    }
}
