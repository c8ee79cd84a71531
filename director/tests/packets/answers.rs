//! What the program answers itself: echo, "packet too big", RST; and what it
//! changes in passing: the TCP maximum segment size.

use std::net::IpAddr;

use director_core::{EndpointState, Mode, OnDeath, Protocol};
use etherparse::{
    IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv4Header,
    Ipv6Header, PacketBuilder, TcpOptionElement, TcpSlice, icmpv4::DestUnreachableHeader,
};

use crate::{
    edge::{DROP, EGRESS, Edge, PASS, REDIRECT, TX, service},
    frames::{CLIENT_MAC, EDGE_MAC, Spec, tcp},
};

const VIP4: [u8; 4] = [203, 0, 113, 10];
const CLIENT4: [u8; 4] = [192, 0, 2, 1];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V4: [&str; 2] = ["198.18.1.11", "198.18.2.11"];
const V6: [&str; 2] = ["2001:db8:11::11", "2001:db8:12::11"];

fn edge(is_v6: bool, rate: u32, mode: Mode) -> Option<Edge> {
    let mut options = crate::edge::options(None)?;
    options.icmp.rate = rate;
    let web = if is_v6 {
        service("2001:db8:53::10", Protocol::Tcp, mode, &V6)
    } else {
        service("203.0.113.10", Protocol::Tcp, mode, &V4)
    };
    Some(Edge::open(&options, &web))
}

fn echo4(id: u16, seq: u16, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC)
        .ipv4(CLIENT4, to, 60)
        .icmpv4_echo_request(id, seq)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn echo6(id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC)
        .ipv6(CLIENT6, VIP6, 60)
        .icmpv6_echo_request(id, seq)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Reads an IPv4 frame that was turned round: header and payload.
fn turned4(frame: &[u8]) -> (Ipv4Header, &[u8]) {
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&CLIENT_MAC[..], &EDGE_MAC[..])
    );
    let (header, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source, header.destination), (VIP4, CLIENT4));
    assert_eq!(header.time_to_live, 64);
    let end = 14 + usize::from(header.total_len);
    (header, &frame[34..end])
}

fn turned6(frame: &[u8]) -> (Ipv6Header, &[u8]) {
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&CLIENT_MAC[..], &EDGE_MAC[..])
    );
    let (header, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
    assert_eq!((header.source, header.destination), (VIP6, CLIENT6));
    assert_eq!(header.hop_limit, 64);
    let length = usize::from(header.payload_length);
    (header, &rest[..length])
}

fn checked4(message: &[u8]) -> Icmpv4Slice<'_> {
    let slice = Icmpv4Slice::from_slice(message).unwrap();
    let wanted = slice.icmp_type().calc_checksum(slice.payload());
    assert_eq!(slice.checksum(), wanted, "{:?}", slice.icmp_type());
    slice
}

fn checked6(message: &[u8]) -> Icmpv6Slice<'_> {
    let slice = Icmpv6Slice::from_slice(message).unwrap();
    assert!(slice.is_checksum_valid(VIP6, CLIENT6));
    slice
}

#[test]
fn echo_is_answered_rightly_for_every_identifier() {
    let (Some(mut v4), Some(mut v6)) = (
        edge(false, 1_000_000, Mode::Tunnel),
        edge(true, 1_000_000, Mode::Tunnel),
    ) else {
        return;
    };
    for id in 0..=u16::MAX {
        let payload = &[id as u8; 9][..usize::from(id % 10)];
        let echo = IcmpEchoHeader { id, seq: !id };
        let out = v4.run(&echo4(id, !id, VIP4, payload));
        if out.action == DROP {
            // One too many at once; the next moment it is let through.
            std::thread::yield_now();
            continue;
        }
        assert_eq!(out.action, TX);
        let (_, message) = turned4(&out.frame);
        let slice = checked4(message);
        assert_eq!(slice.icmp_type(), Icmpv4Type::EchoReply(echo));
        assert_eq!(slice.payload(), payload);

        let out = v6.run(&echo6(id, !id, payload));
        if out.action == DROP {
            continue;
        }
        assert_eq!(out.action, TX);
        let (_, message) = turned6(&out.frame);
        let slice = checked6(message);
        assert_eq!(slice.icmp_type(), Icmpv6Type::EchoReply(echo));
        assert_eq!(slice.payload(), payload);
    }
    let answered = v4.cause("echo");
    assert!(answered > 60_000, "{answered}");
}

#[test]
fn echo_to_anything_else_passes_and_too_many_are_dropped() {
    let Some(mut edge) = edge(false, 1, Mode::Tunnel) else {
        return;
    };
    edge.passes(&echo4(1, 1, [203, 0, 113, 11], b"x"));
    // The NAT source is ours, and no VIP.
    let out = edge.run(&echo4(1, 1, [198, 51, 100, 2], b"x"));
    assert_ne!(out.action, TX);
    let answers: Vec<u32> = (0..20)
        .map(|id| edge.run(&echo4(id, 1, VIP4, b"x")).action)
        .collect();
    assert_eq!(answers[0], TX);
    assert!(answers.iter().filter(|action| **action == TX).count() < 10);
    assert!(edge.cause("echo_rate") >= 10);
}

#[test]
fn echo_is_left_to_the_host_where_it_is_off() {
    let Some(mut options) = crate::edge::options(None) else {
        return;
    };
    options.icmp.echo = false;
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &V4);
    let mut edge = Edge::open(&options, &web);
    edge.refuses(&echo4(1, 1, VIP4, b"x"), PASS, "icmp_other");
}

#[test]
fn a_sender_is_told_what_would_fit() {
    let Some(mut edge) = edge(false, 1000, Mode::Tunnel) else {
        return;
    };
    let mut spec = tcp("192.0.2.1:40000", "203.0.113.10:80");
    spec.payload = vec![7; 1500 - 20 - 40 + 1];
    let frame = spec.frame();
    let out = edge.run(&frame);
    assert_eq!(out.action, TX);
    let (header, message) = turned4(&out.frame);
    assert_eq!(header.protocol, IpNumber::ICMP);
    assert!(header.total_len <= 576);
    let slice = checked4(message);
    let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1480 };
    assert_eq!(
        slice.icmp_type(),
        Icmpv4Type::DestinationUnreachable(wanted)
    );
    assert!(slice.payload().len() >= 28);
    assert!(frame[14..].starts_with(slice.payload()));
    assert_eq!(edge.cause("too_big_told"), 1);
}

#[test]
fn a_sender_is_told_over_ipv6_too() {
    let Some(mut edge) = edge(true, 1000, Mode::Tunnel) else {
        return;
    };
    let mut spec = tcp("[2001:db8::1]:40000", "[2001:db8:53::10]:80");
    spec.payload = vec![7; 1500 - 40 - 60 + 1];
    let frame = spec.frame();
    let out = edge.run(&frame);
    assert_eq!(out.action, TX);
    let (header, message) = turned6(&out.frame);
    assert!(header.payload_length <= 1240);
    let slice = checked6(message);
    assert_eq!(slice.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1460 });
    assert!(frame[14..].starts_with(slice.payload()));
}

#[test]
fn an_error_about_a_flow_goes_where_the_flow_goes() {
    let Some(mut edge) = edge(false, 1000, Mode::Tunnel) else {
        return;
    };
    for port in 1000..1050 {
        let spec = tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
        let flow = edge.run(&spec.frame());
        // What a router on the way back would have dropped.
        let back = tcp("203.0.113.10:80", &format!("192.0.2.1:{port}"));
        let frame = error4(&back, VIP4);
        let out = edge.run(&frame);
        assert_eq!(out.action, REDIRECT);
        assert_eq!(out.frame[30..34], flow.frame[30..34]);
        assert_eq!(out.frame[34..], frame[14..]);
    }
    // About a flow of nobody's service.
    let back = tcp("203.0.113.10:81", "192.0.2.1:1000");
    edge.refuses(&error4(&back, VIP4), DROP, "icmp_no_flow");
    let frame = error4(&tcp("203.0.113.10:80", "192.0.2.1:1000"), VIP4);
    for length in 15..frame.len() {
        let out = edge.run(&frame[..length]);
        assert_ne!(out.action, REDIRECT, "cut at {length}");
    }
}

/// "Fragmentation needed" about a packet, from a router to `to`.
fn error4(about: &Spec, to: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let wanted = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC)
        .ipv4([198, 51, 100, 200], to, 60)
        .icmpv4(Icmpv4Type::DestinationUnreachable(wanted))
        .write(&mut frame, &about.frame()[14..14 + 28])
        .unwrap();
    frame
}

#[test]
fn an_error_about_a_nat_flow_is_rewritten_to_what_the_server_knows() {
    let Some(mut edge) = edge(false, 1000, Mode::Nat) else {
        return;
    };
    let spec = tcp("192.0.2.1:1000", "203.0.113.10:80");
    edge.run(&spec.clone().syn().frame());
    let flow = crate::frames::read(&edge.run(&spec.frame()).frame);
    let out = edge.run(&error4(&tcp("203.0.113.10:80", "192.0.2.1:1000"), VIP4));
    assert_eq!(out.action, REDIRECT);
    let (header, rest) = Ipv4Header::from_slice(&out.frame[14..]).unwrap();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(IpAddr::from(header.destination), flow.destination.ip());
    let slice = checked4(rest);
    let (inner, ports) = Ipv4Header::from_slice(slice.payload()).unwrap();
    assert_eq!(inner.header_checksum, inner.calc_header_checksum());
    assert_eq!(IpAddr::from(inner.source), flow.destination.ip());
    assert_eq!(IpAddr::from(inner.destination), flow.source.ip());
    assert_eq!(ports[..2], flow.destination.port().to_be_bytes());
    assert_eq!(ports[2..4], flow.source.port().to_be_bytes());
}

#[test]
fn a_dead_endpoints_client_is_told_by_rst() {
    for (is_v6, vip, endpoints) in [(false, "203.0.113.10", V4), (true, "2001:db8:53::10", V6)] {
        let mut web = service(vip, Protocol::Tcp, Mode::Tunnel, &endpoints);
        web.steering.on_death = OnDeath::Reset;
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        let (mut told, mut kept) = (0, 0);
        for port in 1000..1100_u16 {
            let spec = if is_v6 {
                tcp(&format!("[2001:db8::1]:{port}"), "[2001:db8:53::10]:80")
            } else {
                tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80")
            };
            let before = edge.run(&spec.clone().syn().frame());
            edge.apply(&web, &[EndpointState::Dead, EndpointState::Active]);
            let out = edge.run(&spec.frame());
            let of_dead = if is_v6 {
                before.frame[38..54] == ipv6(endpoints[0])
            } else {
                before.frame[32] == 1
            };
            if of_dead {
                assert_eq!(out.action, TX);
                let segment = if is_v6 {
                    turned6(&out.frame).1
                } else {
                    turned4(&out.frame).1
                };
                check_rst(segment, is_v6, port);
                told += 1;
            } else {
                assert_eq!(out.action, REDIRECT);
                kept += 1;
            }
            edge.apply(&web, &[EndpointState::Active; 2]);
        }
        assert!(told > 20 && kept > 20, "{told} {kept}");
        // New connections are placed, while the endpoint is dead.
        edge.apply(&web, &[EndpointState::Dead, EndpointState::Active]);
        let port = if is_v6 {
            "[2001:db8::1]:7"
        } else {
            "192.0.2.1:7"
        };
        let to = if is_v6 {
            "[2001:db8:53::10]:80"
        } else {
            "203.0.113.10:80"
        };
        assert_eq!(edge.run(&tcp(port, to).syn().frame()).action, REDIRECT);
    }
}

fn ipv6(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// RFC 9293, 3.5.2: the sequence number is what the packet acknowledged.
fn check_rst(segment: &[u8], is_v6: bool, port: u16) {
    let slice = TcpSlice::from_slice(segment).unwrap();
    let wanted = if is_v6 {
        slice.calc_checksum_ipv6(VIP6, CLIENT6).unwrap()
    } else {
        slice.calc_checksum_ipv4(VIP4, CLIENT4).unwrap()
    };
    assert_eq!(slice.checksum(), wanted);
    assert!(slice.rst() && !slice.syn() && !slice.fin());
    assert_eq!((slice.source_port(), slice.destination_port()), (80, port));
    assert_eq!(slice.sequence_number(), 500);
    assert!(slice.payload().is_empty());
}

#[test]
fn the_segment_size_is_lowered_and_never_raised() {
    let mut web = service("203.0.113.10", Protocol::Tcp, Mode::L2, &V4);
    web.steering.mss = Some(1300);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    for endpoint in &web.endpoints {
        edge.hop(endpoint.address, EGRESS);
    }
    for (told, wanted) in [
        (1460, 1300),
        (1301, 1300),
        (1300, 1300),
        (536, 536),
        (65_535, 1300),
    ] {
        for before in [0, 1, 2, 3] {
            let mut options = vec![TcpOptionElement::Noop; before];
            options.push(TcpOptionElement::MaximumSegmentSize(told));
            options.push(TcpOptionElement::WindowScale(7));
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC)
                .ipv4(CLIENT4, VIP4, 60)
                .tcp(1000, 80, 1, 64_000)
                .syn()
                .options(&options)
                .unwrap()
                .write(&mut frame, &[])
                .unwrap();
            let out = edge.run(&frame);
            assert_eq!(out.action, REDIRECT);
            let slice = TcpSlice::from_slice(&out.frame[34..]).unwrap();
            let sum = slice.calc_checksum_ipv4(CLIENT4, VIP4).unwrap();
            assert_eq!(slice.checksum(), sum);
            let found = slice.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::MaximumSegmentSize(size)) => Some(size),
                _ => None,
            });
            assert_eq!(found, Some(wanted), "{told} after {before} bytes");
        }
    }
    // A lying length is left as it is.
    let mut frame = tcp("192.0.2.1:1000", "203.0.113.10:80").syn().frame();
    frame[46] = 0x60;
    frame.extend_from_slice(&[2, 40, 5, 180]);
    frame[16..18].copy_from_slice(&44_u16.to_be_bytes());
    let out = edge.run(&frame);
    assert_eq!(out.frame[34..], frame[34..]);
}
