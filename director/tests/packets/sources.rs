//! What sources may do: the deny list, the rate of new connections, and floods.

use std::net::{Ipv4Addr, SocketAddr};

use director::config::Prefix;
use director_core::{EndpointState, Mode, Protocol, Track};

use crate::{
    edge::{DROP, Edge, REDIRECT, service},
    frames::{Spec, tcp},
};

const V4: [&str; 2] = ["198.18.1.11", "198.18.2.11"];

fn prefix(text: &str, length: u8) -> Prefix {
    Prefix {
        address: text.parse().unwrap(),
        length,
    }
}

#[test]
fn denied_sources_are_dropped_and_their_neighbours_are_not() {
    for (vip, endpoints, deny, inside, outside) in [
        (
            "203.0.113.10",
            V4,
            prefix("192.0.2.64", 26),
            ["192.0.2.64:1000", "192.0.2.127:1000"],
            ["192.0.2.63:1000", "192.0.2.128:1000"],
        ),
        (
            "2001:db8:53::10",
            ["2001:db8:11::11", "2001:db8:12::11"],
            prefix("2001:db8:bad::", 48),
            ["[2001:db8:bad::1]:1000", "[2001:db8:bad:ffff::1]:1000"],
            ["[2001:db8:bac::1]:1000", "[2001:db8:bae::1]:1000"],
        ),
    ] {
        let web = service(vip, Protocol::Tcp, Mode::Tunnel, &endpoints);
        let Some(mut edge) = Edge::new() else { return };
        for endpoint in &web.endpoints {
            edge.hop(endpoint.address, crate::edge::EGRESS);
        }
        edge.datapath.set_deny(&[deny]).unwrap();
        edge.apply(&web, &[EndpointState::Active; 2]);
        let to = SocketAddr::new(vip.parse().unwrap(), 80).to_string();
        for source in inside {
            edge.refuses(&tcp(source, &to).frame(), DROP, "denied");
        }
        for source in outside {
            assert_eq!(edge.run(&tcp(source, &to).frame()).action, REDIRECT);
        }
        edge.datapath.set_deny(&[]).unwrap();
        assert_eq!(edge.run(&tcp(inside[0], &to).frame()).action, REDIRECT);
    }
}

#[test]
fn a_hundred_thousand_prefixes_are_held() {
    let Some(mut edge) = Edge::new() else { return };
    let web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &V4);
    for endpoint in &web.endpoints {
        edge.hop(endpoint.address, crate::edge::EGRESS);
    }
    // Every second address of 10.0.0.0/8's first 200,000.
    let nth = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
    let prefixes: Vec<Prefix> = (0..100_000)
        .map(|n| prefix(&nth(2 * n).to_string(), 32))
        .collect();
    edge.datapath.set_deny(&prefixes).unwrap();
    edge.apply(&web, &[EndpointState::Active; 2]);
    for n in [0, 1, 99_998, 99_999, 199_998, 199_999, 200_000] {
        let frame = tcp(&format!("{}:1000", nth(n)), "203.0.113.10:80").frame();
        let is_denied = n % 2 == 0 && n < 200_000;
        let wanted = if is_denied { DROP } else { REDIRECT };
        assert_eq!(edge.run(&frame).action, wanted, "{n}");
    }
}

#[test]
fn a_source_that_opens_too_fast_is_held_back_alone() {
    let mut web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &V4);
    web.steering.connection_rate = Some(10);
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    let mut opened = 0;
    for port in 1000..1100 {
        let spec = tcp(&format!("192.0.2.1:{port}"), "203.0.113.10:80").syn();
        opened += u32::from(edge.run(&spec.frame()).action == REDIRECT);
    }
    // A second's worth at once; a few more where the test took long.
    assert!((10..50).contains(&opened), "{opened}");
    assert_eq!(edge.cause("connection_rate"), u64::from(100 - opened));
    // What is open goes on, and others open.
    let open = tcp("192.0.2.1:1000", "203.0.113.10:80").frame();
    assert_eq!(edge.run(&open).action, REDIRECT);
    let other = tcp("192.0.2.2:1000", "203.0.113.10:80").syn().frame();
    assert_eq!(edge.run(&other).action, REDIRECT);
}

/// Sixteen times as many spoofed SYNs as the table has room for flush none of
/// the established flows.
#[test]
fn a_flood_of_syns_moves_no_established_flow() {
    let mut web = service("203.0.113.10", Protocol::Tcp, Mode::Tunnel, &V4);
    web.steering.track = Track::Always;
    let Some(mut edge) = Edge::with(&web) else {
        return;
    };
    // Half as many flows as the limit.
    let flows: Vec<Spec> = (0..2048)
        .map(|n| {
            tcp(
                &format!("192.0.2.{}:{}", n % 200 + 1, 1000 + n),
                "203.0.113.10:80",
            )
        })
        .collect();
    let mut owners = Vec::new();
    for flow in &flows {
        edge.run(&flow.clone().syn().frame());
        owners.push(edge.run(&flow.frame()).frame[30..34].to_vec());
    }
    for n in 0..65_536_u32 {
        let source = Ipv4Addr::from(0xc612_0000 + n);
        edge.run(
            &tcp(&format!("{source}:{}", n % 60_000 + 1), "203.0.113.10:80")
                .syn()
                .frame(),
        );
    }
    // The table now sends everything elsewhere; records keep the flows.
    edge.apply(&web, &[EndpointState::Draining, EndpointState::Active]);
    let moved = flows
        .iter()
        .zip(&owners)
        .filter(|(flow, owner)| edge.run(&flow.frame()).frame[30..34] != ***owner)
        .count();
    assert_eq!(moved, 0, "of {}", flows.len());
}
