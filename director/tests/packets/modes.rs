//! The other ways to an endpoint: direct return, UDP around the packet, mixed
//! families, the host's own stack; and what decides about the slot.

use std::net::{IpAddr, SocketAddr};

use director_core::{Affinity, Encapsulation, EndpointState, Mode, Protocol, model::Service};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};

use crate::{
    edge::{EGRESS, Edge, HOP_MAC, OUT_MAC, REDIRECT, TUNNEL4, TUNNEL6, service},
    frames::{Spec, tcp, udp},
};

const V4: [&str; 3] = ["198.18.1.11", "198.18.2.11", "198.18.3.11"];
const V6: [&str; 3] = ["2001:db8:11::11", "2001:db8:12::11", "2001:db8:13::11"];
const VIP4: &str = "203.0.113.10";
const VIP6: &str = "2001:db8:53::10";

fn spec(vip: &str) -> Spec {
    if vip.contains(':') {
        tcp("[2001:db8::1]:40000", &format!("[{vip}]:80"))
    } else {
        tcp("192.0.2.1:40000", &format!("{vip}:80"))
    }
}

#[test]
fn l2_changes_the_ethernet_header_and_nothing_else() {
    for (vip, endpoints) in [(VIP4, V4), (VIP6, V6)] {
        let Some(mut edge) = Edge::with(&service(vip, Protocol::Tcp, Mode::L2, &endpoints)) else {
            return;
        };
        let frame = spec(vip).syn().frame();
        let out = edge.run(&frame);
        assert_eq!(out.action, REDIRECT);
        assert_eq!(out.frame[..6], HOP_MAC);
        assert_eq!(out.frame[6..12], OUT_MAC);
        assert_eq!(out.frame[12..], frame[12..]);
        let mut last = spec(vip);
        last.hop_limit = 1;
        edge.refuses(&last.frame(), crate::edge::DROP, "hop_limit");
    }
}

#[test]
fn proxy_passes_to_the_host_and_is_counted() {
    for vip in [VIP4, VIP6] {
        let Some(mut edge) = Edge::with(&service(vip, Protocol::Tcp, Mode::Proxy, &[])) else {
            return;
        };
        edge.passes(&spec(vip).syn().frame());
        edge.passes(&spec(vip).frame());
        let counters = edge.counters();
        let (_, total) = counters.services.first().unwrap();
        assert_eq!((total.packets, total.flows), (2, 1));
    }
}

#[test]
fn either_family_travels_in_either() {
    for (vip, endpoints, number) in [
        (VIP4, V6, IpNumber::IPV4),
        (VIP6, V4, IpNumber::IPV6),
        (VIP4, V4, IpNumber::IPV4),
        (VIP6, V6, IpNumber::IPV6),
    ] {
        let web = service(vip, Protocol::Tcp, Mode::Tunnel, &endpoints);
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        let frame = spec(vip).frame();
        let out = edge.run(&frame);
        assert_eq!(out.action, REDIRECT);
        let (source, destination, protocol, rest) = outer(&out.frame);
        let is_v4 = endpoints == V4;
        let from = if is_v4 { TUNNEL4 } else { TUNNEL6 };
        assert_eq!(source, from.parse::<IpAddr>().unwrap());
        assert!(endpoints.contains(&&*destination.to_string()));
        assert_eq!(protocol, number);
        assert_eq!(rest, &frame[14..]);
    }
}

#[test]
fn gue_wraps_into_udp_with_a_right_checksum_and_ports_that_vary() {
    for (vip, endpoints) in [(VIP4, V4), (VIP4, V6), (VIP6, V6), (VIP6, V4)] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut web = service(vip, protocol, Mode::Tunnel, &endpoints);
            web.steering.encapsulation = Encapsulation::Gue;
            let Some(mut edge) = Edge::with(&web) else {
                return;
            };
            let mut ports = std::collections::HashSet::new();
            for port in 1000..1032 {
                let mut spec = spec(vip);
                spec.source.set_port(port);
                spec.udp = protocol == Protocol::Udp;
                let frame = spec.frame();
                let out = edge.run(&frame);
                assert_eq!(out.action, REDIRECT);
                let (source, destination, number, rest) = outer(&out.frame);
                assert_eq!(number, IpNumber::UDP);
                let (header, inner) = UdpHeader::from_slice(rest).unwrap();
                assert_eq!(header.destination_port, 6080);
                assert_eq!(usize::from(header.length), rest.len());
                assert_eq!(inner, &frame[14..]);
                ports.insert(header.source_port);
                let wanted = match (source, destination) {
                    (IpAddr::V6(s), IpAddr::V6(d)) => header
                        .calc_checksum_ipv6_raw(s.octets(), d.octets(), inner)
                        .unwrap(),
                    _ => 0,
                };
                assert_eq!(header.checksum, wanted);
            }
            assert!(ports.len() > 28, "{ports:?}");
        }
    }
}

/// Addresses, protocol and payload of an outer header, whose checksum is right.
fn outer(frame: &[u8]) -> (IpAddr, IpAddr, IpNumber, &[u8]) {
    if frame[12..14] == [8, 0] {
        let (header, _) = Ipv4Header::from_slice(&frame[14..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let end = 14 + usize::from(header.total_len);
        (
            header.source.into(),
            header.destination.into(),
            header.protocol,
            &frame[34..end],
        )
    } else {
        assert_eq!(frame[12..14], [0x86, 0xdd]);
        let (header, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
        let length = usize::from(header.payload_length);
        assert_ne!(header.flow_label.value(), 0);
        (
            header.source.into(),
            header.destination.into(),
            header.next_header,
            &rest[..length],
        )
    }
}

#[test]
fn a_source_prefix_varies_by_flow_within_itself() {
    let web = service(VIP4, Protocol::Tcp, Mode::Tunnel, &V4);
    let Some(mut options) = crate::edge::options(None) else {
        return;
    };
    options.tunnel.v4 = Some("198.51.100.64".parse().unwrap());
    options.tunnel.prefix4 = 26;
    let mut edge = Edge::open(&options, &web);
    let mut sources = std::collections::HashSet::new();
    for port in 1000..3000 {
        let spec = tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80");
        let out = edge.run(&spec.frame());
        let (source, _, _, _) = outer(&out.frame);
        let IpAddr::V4(source) = source else {
            panic!("{source}")
        };
        let [a, b, c, d] = source.octets();
        assert_eq!(([a, b, c], d & 0xc0), ([198, 51, 100], 64));
        sources.insert(d);
    }
    assert_eq!(sources.len(), 64);
}

#[test]
fn tags_are_read_taken_off_and_put_back() {
    for (vip, endpoints) in [(VIP4, V4), (VIP6, V6)] {
        let web = service(vip, Protocol::Tcp, Mode::Tunnel, &endpoints);
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        let plain = spec(vip).frame();
        let steered = edge.run(&plain);
        for tags in [
            &[[0x81, 0, 0, 7]][..],
            &[[0x88, 0xa8, 0, 9], [0x81, 0, 0x20, 7]],
        ] {
            let tagged = [&plain[..12], &tags.concat(), &plain[12..]].concat();
            let out = edge.run(&tagged);
            assert_eq!((out.action, &out.frame), (REDIRECT, &steered.frame));
            // Not ours, refused with the host to look at it, and cut short.
            let mut other = spec(vip);
            other.destination.set_port(81);
            let other = other.frame();
            edge.passes(&[&other[..12], &tags.concat(), &other[12..]].concat());
            for length in 15..tagged.len() {
                let cut = &tagged[..length];
                edge.passes(cut);
            }
        }
        // Three tags are no packet of ours.
        let three = [[0x81, 0, 0, 7]; 3].concat();
        edge.passes(&[&plain[..12], &three, &plain[12..]].concat());
    }
}

#[test]
fn a_hop_behind_a_vlan_gets_its_tag() {
    let web = service(VIP4, Protocol::Tcp, Mode::Tunnel, &V4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let plain = edge.run(&spec(VIP4).frame());
    for endpoint in &web.endpoints {
        edge.hop_in_vlan(endpoint.address, EGRESS, 42);
    }
    let out = edge.run(&spec(VIP4).frame());
    let wanted = [&plain.frame[..12], &[0x81, 0, 0, 42], &plain.frame[12..]].concat();
    assert_eq!((out.action, out.frame), (REDIRECT, wanted));
}

#[test]
fn port_0_takes_every_port_that_has_no_service_of_its_own() {
    let mut any = service(VIP4, Protocol::Tcp, Mode::Tunnel, &["198.18.1.11"]);
    any.port = 0;
    any.name = "any".into();
    let web = service(VIP4, Protocol::Tcp, Mode::Tunnel, &["198.18.2.11"]);
    let Some(mut edge) = Edge::with(&any) else {
        return;
    };
    edge.hop(web.endpoints[0].address, EGRESS);
    edge.apply(&web, &[EndpointState::Active]);
    for (port, endpoint) in [
        (80, "198.18.2.11"),
        (81, "198.18.1.11"),
        (65_535, "198.18.1.11"),
    ] {
        let spec = tcp("192.0.2.1:40000", &format!("203.0.113.10:{port}"));
        let out = edge.run(&spec.frame());
        assert_eq!(out.action, REDIRECT, "{port}");
        assert_eq!(outer(&out.frame).1.to_string(), endpoint);
        let told = edge.datapath.explain(&director::datapath::Tuple {
            source: spec.source,
            destination: spec.destination,
            protocol: Protocol::Tcp,
        });
        assert_eq!(told.unwrap().unwrap().endpoint.to_string(), endpoint);
    }
    edge.passes(&udp("192.0.2.1:40000", "203.0.113.10:81").frame());
    edge.datapath.remove("any").unwrap();
    edge.passes(&tcp("192.0.2.1:40000", "203.0.113.10:81").frame());
}

#[test]
fn affinity_by_source_keeps_a_clients_flows_together() {
    let mut web = service(VIP4, Protocol::Tcp, Mode::Tunnel, &V4);
    web.steering.affinity = Affinity::Source;
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let mut used = std::collections::HashSet::new();
    for host in 1..100 {
        let mut of_host = std::collections::HashSet::new();
        for port in [1000, 2000, 40_000] {
            let source: SocketAddr = format!("192.0.2.{host}:{port}").parse().unwrap();
            let spec = Spec {
                source,
                ..spec(VIP4).syn()
            };
            of_host.insert(outer(&edge.run(&spec.frame()).frame).1);
        }
        assert_eq!(of_host.len(), 1);
        used.extend(of_host);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn martians_are_dropped_by_name() {
    for (vip, endpoints, sources) in [
        (
            VIP4,
            V4,
            &[
                "0.0.0.0:1",
                "0.1.2.3:1",
                "127.0.0.1:1",
                "224.0.0.1:1",
                "255.255.255.255:1",
                "203.0.113.10:1",
            ][..],
        ),
        (
            VIP6,
            V6,
            &["[::]:1", "[::1]:1", "[ff02::1]:1", "[2001:db8:53::10]:1"],
        ),
    ] {
        let web = service(vip, Protocol::Tcp, Mode::Tunnel, &endpoints);
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        for source in sources {
            let spec = Spec {
                source: source.parse().unwrap(),
                ..spec(vip)
            };
            edge.refuses(&spec.frame(), crate::edge::DROP, "martian");
        }
        for hop_limit in [0, 1] {
            let spec = Spec {
                hop_limit,
                ..spec(vip)
            };
            edge.refuses(&spec.frame(), crate::edge::DROP, "hop_limit");
        }
    }
}

/// Steering that changes alone changes what packets meet.
#[test]
fn a_changed_encapsulation_is_in_force_at_once() {
    let mut web: Service = service(VIP4, Protocol::Tcp, Mode::Tunnel, &V4);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let number = |edge: &mut Edge| outer(&edge.run(&spec(VIP4).frame()).frame).2;
    assert_eq!(number(&mut edge), IpNumber::IPV4);
    web.steering.encapsulation = Encapsulation::Gue;
    edge.apply(&web, &[EndpointState::Active; 3]);
    assert_eq!(number(&mut edge), IpNumber::UDP);
    assert_eq!(edge.datapath.audit().unwrap(), []);
}
