//! `director_decap`, the servers' end of `tunnel` mode.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{Array, HashMap},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

use crate::{
    edge::{DROP, PASS, options},
    frames::{self, CLIENT_MAC, EDGE_MAC, Spec, tcp},
};

const SERVER4: &str = "198.18.1.11";
const SERVER6: &str = "2001:db8:11::11";
const GUE: u16 = 6080;

/// A server that opens what is sent to its addresses.
fn server() -> Option<Ebpf> {
    // For what keeps tests from running here.
    options(None)?;
    let embedded = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../director-ebpf/obj/director-xdp.o"
    );
    let path = std::env::var_os("DIRECTOR_BPF_OBJECT").unwrap_or(embedded.into());
    let mut bpf = Ebpf::load(&std::fs::read(path).unwrap()).unwrap();
    let mut addresses: HashMap<_, [u8; 16], u32> =
        bpf.map_mut("DECAP").unwrap().try_into().unwrap();
    let mut v4 = [0; 16];
    let IpAddr::V4(server) = SERVER4.parse().unwrap() else {
        panic!("not IPv4")
    };
    v4[..4].copy_from_slice(&server.octets());
    let IpAddr::V6(server) = SERVER6.parse().unwrap() else {
        panic!("not IPv6")
    };
    addresses.insert(v4, 1, 0).unwrap();
    addresses.insert(server.octets(), 1, 0).unwrap();
    set_port(&mut bpf, GUE);
    let program: &mut Xdp = bpf
        .program_mut("director_decap")
        .unwrap()
        .try_into()
        .unwrap();
    program.load().unwrap();
    Some(bpf)
}

fn set_port(bpf: &mut Ebpf, port: u16) {
    let mut map: Array<_, u16> = bpf.map_mut("DECAP_PORT").unwrap().try_into().unwrap();
    map.set(0, port.to_be(), 0).unwrap();
}

fn run(bpf: &mut Ebpf, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let program: &mut Xdp = bpf
        .program_mut("director_decap")
        .unwrap()
        .try_into()
        .unwrap();
    let result = program.test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// `inner`, a frame, within an outer header of either family, and in UDP.
fn wrapped(inner: &[u8], outer_v4: bool, port: Option<u16>, class: u8) -> Vec<u8> {
    let packet = &inner[14..];
    let number = match (port, packet[0] >> 4) {
        (Some(_), _) => IpNumber::UDP,
        (None, 4) => IpNumber::IPV4,
        _ => IpNumber::IPV6,
    };
    let headers = if outer_v4 {
        let server: std::net::Ipv4Addr = SERVER4.parse().unwrap();
        let mut header =
            Ipv4Header::new(0, 64, number, [198, 51, 100, 1], server.octets()).unwrap();
        header.ecn = (class & 3).try_into().unwrap();
        header.dont_fragment = true;
        IpHeaders::Ipv4(header, Default::default())
    } else {
        let server: std::net::Ipv6Addr = SERVER6.parse().unwrap();
        let header = Ipv6Header {
            traffic_class: class,
            hop_limit: 64,
            source: [0x20; 16],
            destination: server.octets(),
            ..Default::default()
        };
        IpHeaders::Ipv6(header, Default::default())
    };
    let step = PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC).ip(headers);
    let mut frame = Vec::new();
    match port {
        Some(port) => step.udp(50000, port).write(&mut frame, packet).unwrap(),
        None => step.write(&mut frame, number, packet).unwrap(),
    }
    frame
}

fn inner(is_v4: bool, class: u8) -> Spec {
    let mut spec = if is_v4 {
        tcp("192.0.2.1:40000", "203.0.113.10:80")
    } else {
        tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80")
    };
    spec.traffic_class = class;
    spec
}

/// Inner and outer families, and the port of UDP.
fn kinds() -> impl Iterator<Item = (bool, bool, Option<u16>)> {
    let pairs = [(true, true), (true, false), (false, true), (false, false)];
    pairs
        .into_iter()
        .flat_map(|(inner, outer)| [(inner, outer, None), (inner, outer, Some(GUE))])
}

#[test]
fn every_family_in_every_family_is_opened() {
    let Some(mut bpf) = server() else { return };
    for (is_v4, outer_v4, port) in kinds() {
        let frame = inner(is_v4, 0).frame();
        let (action, out) = run(&mut bpf, &wrapped(&frame, outer_v4, port, 0));
        assert_eq!((action, out), (PASS, frame));
    }
}

#[test]
fn congestion_is_carried_over() {
    let Some(mut bpf) = server() else { return };
    // RFC 6040, figure 4, by inner and outer; 4: dropped.
    let after = [[0, 0, 0, 4], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
    for (is_v4, outer_v4, port) in kinds() {
        for its in 0..4u8 {
            for outer in 0..4u8 {
                let frame = inner(is_v4, 0xb8 | its).frame();
                let (action, out) = run(&mut bpf, &wrapped(&frame, outer_v4, port, outer));
                let after = after[usize::from(its)][usize::from(outer)];
                if after == 4 {
                    assert_eq!(action, DROP);
                    continue;
                }
                assert_eq!(action, PASS);
                assert_eq!(frames::read(&out).traffic_class, 0xb8 | after);
                assert_eq!(out, inner(is_v4, 0xb8 | after).frame());
            }
        }
    }
}

#[test]
fn what_is_not_for_this_server_stays_as_it_is() {
    let Some(mut bpf) = server() else { return };
    for (is_v4, outer_v4, port) in kinds() {
        let frame = inner(is_v4, 0).frame();
        let whole = wrapped(&frame, outer_v4, port, 0);
        // Another destination.
        let mut other = whole.clone();
        other[if outer_v4 { 33 } else { 53 }] ^= 1;
        assert_eq!(run(&mut bpf, &other), (PASS, other));
        // Another port.
        let other = wrapped(&frame, outer_v4, Some(GUE + 1), 0);
        assert_eq!(run(&mut bpf, &other), (PASS, other));
        // A version that is none, or not the one that the protocol says.
        let at = 14 + if outer_v4 { 20 } else { 40 } + if port.is_some() { 8 } else { 0 };
        for version in [0x00, 0x50, 0xf0] {
            let mut other = whole.clone();
            other[at] = version;
            assert_eq!(run(&mut bpf, &other), (PASS, other));
        }
        if port.is_none() {
            let mut other = whole.clone();
            other[at] = if is_v4 { 0x60 } else { 0x45 };
            assert_eq!(run(&mut bpf, &other), (PASS, other));
        }
    }
    set_port(&mut bpf, 0);
    for port in [0, GUE] {
        let other = wrapped(&inner(true, 0).frame(), true, Some(port), 0);
        assert_eq!(run(&mut bpf, &other), (PASS, other));
    }
}

#[test]
fn every_truncation_is_survived() {
    let Some(mut bpf) = server() else { return };
    for (is_v4, outer_v4, port) in kinds() {
        let frame = inner(is_v4, 0).frame();
        let whole = wrapped(&frame, outer_v4, port, 0);
        let headers = whole.len() - frame.len();
        let header = 14 + headers + if is_v4 { 20 } else { 40 };
        for length in 14..whole.len() {
            let cut = &whole[..length];
            let (action, out) = run(&mut bpf, cut);
            assert_eq!(action, PASS);
            // Opened where all of the inner header is there: the host's own
            // stack sees the rest then.
            if length < header {
                assert_eq!(out, cut);
            } else {
                assert_eq!(out, frame[..length - headers]);
            }
        }
    }
}
