//! ICMP errors about flows: they go where the flow goes.

use std::net::{IpAddr, SocketAddr};

use director_core::{
    Encapsulation,
    EndpointState::{Active, Dead},
    Mode, Protocol,
};

use crate::{
    edge::{DROP, Edge, HOP_MAC, NAT4, NAT6, PASS, REDIRECT, TX, service},
    frames::{self, CLIENT_MAC, EDGE_MAC, Spec, tcp, udp},
    messages::{self, Message},
};

struct Case {
    router: &'static str,
    client: &'static str,
    vip: &'static str,
    endpoints: [&'static str; 2],
    nat: &'static str,
    protocol: Protocol,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        cases.push(Case {
            router: "198.51.100.77",
            client: "192.0.2.1",
            vip: "203.0.113.10",
            endpoints: ["198.18.1.11", "198.18.2.11"],
            nat: NAT4,
            protocol,
        });
        cases.push(Case {
            router: "2001:db8:77::1",
            client: "2001:db8::1",
            vip: "2001:db8:53::10",
            endpoints: ["2001:db8:11::11", "2001:db8:12::11"],
            nat: NAT6,
            protocol,
        });
    }
    cases
}

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

impl Case {
    fn edge(&self, mode: Mode) -> Option<Edge> {
        Edge::with(&service(self.vip, self.protocol, mode, &self.endpoints))
    }

    fn packet(&self, source: String, destination: String) -> Spec {
        match self.protocol {
            Protocol::Tcp => tcp(&source, &destination),
            Protocol::Udp => udp(&source, &destination),
        }
    }

    fn sent(&self, port: u16) -> Spec {
        self.packet(at(self.client, port), at(self.vip, 80))
    }

    fn answered(&self, port: u16) -> Spec {
        self.packet(at(self.vip, 80), at(self.client, port))
    }

    /// Types of errors of the family, and one that is none.
    fn kinds(&self) -> &'static [[u8; 2]] {
        if self.vip.contains(':') {
            &[[1, 0], [1, 4], [2, 0], [3, 0], [4, 0]]
        } else {
            &[[3, 0], [3, 1], [3, 4], [11, 0], [12, 0]]
        }
    }

    /// An error about a packet, of which `quoted` bytes are told.
    fn error(&self, kind: [u8; 2], to: &str, about: &Spec, quoted: usize) -> Message {
        let mut error = Message::new(self.router, to, kind);
        let frame = about.frame();
        error.payload = frame[14..frame.len().min(14 + quoted)].to_vec();
        error.rest = [0, 0, 5, 0];
        error
    }

    /// Length of what is told at least: the IP header and eight bytes.
    fn least(&self) -> usize {
        8 + if self.vip.contains(':') { 40 } else { 20 }
    }
}

/// The address that an encapsulated frame goes to, and what is in it.
fn wrapped(frame: &[u8], is_gue: bool) -> (IpAddr, Vec<u8>) {
    if !is_gue {
        let (_, to, inner) = frames::open(frame);
        return (to, inner);
    }
    let seen = frames::read(frame);
    assert_eq!(seen.destination.port(), 6080);
    (
        seen.destination.ip(),
        [&frame[..14], &seen.payload].concat(),
    )
}

#[test]
fn errors_follow_a_flow_into_its_tunnel() {
    for case in cases() {
        for is_gue in [false, true] {
            let mut web = service(case.vip, case.protocol, Mode::Tunnel, &case.endpoints);
            if is_gue {
                web.steering.encapsulation = Encapsulation::Gue;
            }
            let Some(mut edge) = Edge::with(&web) else {
                return;
            };
            for port in 1000..1040 {
                let out = edge.run(&case.sent(port).frame());
                let endpoint = wrapped(&out.frame, is_gue).0;
                for kind in case.kinds() {
                    for quoted in [case.least(), case.least() + 5, 2000] {
                        let error = case.error(*kind, case.vip, &case.answered(port), quoted);
                        let out = edge.run(&error.frame());
                        assert_eq!(out.action, REDIRECT);
                        let (to, inner) = wrapped(&out.frame, is_gue);
                        assert_eq!(to, endpoint);
                        assert_eq!(inner[14..], error.frame()[14..]);
                    }
                }
            }
        }
    }
}

#[test]
fn errors_follow_a_flow_on_the_same_network() {
    for case in cases() {
        let Some(mut edge) = case.edge(Mode::L2) else {
            return;
        };
        let error = case.error(case.kinds()[0], case.vip, &case.answered(1000), 2000);
        let out = edge.run(&error.frame());
        assert_eq!(out.action, REDIRECT);
        assert_eq!(out.frame[..6], HOP_MAC);
        assert_eq!(out.frame[14..], error.frame()[14..]);
    }
}

#[test]
fn errors_are_rewritten_with_what_they_are_about() {
    for case in cases() {
        let Some(mut edge) = case.edge(Mode::Nat) else {
            return;
        };
        for port in 1000..1040 {
            let sent = frames::read(&edge.run(&case.sent(port).frame()).frame);
            let server = case.packet(sent.destination.to_string(), sent.source.to_string());
            for kind in case.kinds() {
                for quoted in [case.least(), case.least() + 5, 2000] {
                    // From the client's side to the endpoint.
                    let error = case.error(*kind, case.vip, &case.answered(port), quoted);
                    let out = edge.run(&error.frame());
                    assert_eq!(out.action, REDIRECT);
                    let to = sent.destination.ip().to_string();
                    let mut expected = case.error(*kind, &to, &server, quoted);
                    expected.hop_limit -= 1;
                    assert_eq!(messages::read(&out.frame), expected);
                    // From the endpoint's side to the client.
                    let request =
                        case.packet(sent.source.to_string(), sent.destination.to_string());
                    let error = case.error(*kind, case.nat, &request, quoted);
                    let out = edge.run(&error.frame());
                    assert_eq!(out.action, TX);
                    let mut expected = case.error(*kind, case.client, &case.sent(port), quoted);
                    expected.hop_limit -= 1;
                    expected.source = case.vip.parse().unwrap();
                    assert_eq!(messages::read(&out.frame), expected);
                    assert_eq!(out.frame[..6], CLIENT_MAC);
                    assert_eq!(out.frame[6..12], EDGE_MAC);
                }
            }
        }
    }
}

#[test]
fn errors_without_a_flow_are_dropped() {
    for mode in [Mode::Tunnel, Mode::Nat, Mode::L2] {
        for case in cases() {
            let Some(mut edge) = case.edge(mode) else {
                return;
            };
            let kind = case.kinds()[0];
            let known = case.answered(1000);
            let mut other_port = known.clone();
            other_port.source.set_port(81);
            let mut other_source = known.clone();
            other_source.source.set_ip(case.router.parse().unwrap());
            let mut no_flow = vec![
                case.error(kind, case.vip, &other_port, 2000),
                case.error(kind, case.vip, &other_source, 2000),
                case.error(
                    kind,
                    case.nat,
                    &case.packet(at(case.nat, 5000), at(case.endpoints[0], 8080)),
                    2000,
                ),
            ];
            if mode == Mode::Nat {
                no_flow.push(case.error(kind, case.vip, &known, 2000));
            }
            for error in no_flow {
                edge.refuses(&error.frame(), DROP, "icmp_no_flow");
            }
            let mut error = case.error(kind, case.vip, &known, 2000);
            error.hop_limit = 1;
            edge.refuses(&error.frame(), DROP, "hop_limit");
        }
    }
}

#[test]
fn what_lies_or_ends_too_early_is_dropped() {
    for case in cases() {
        let Some(mut edge) = case.edge(Mode::Tunnel) else {
            return;
        };
        let kind = case.kinds()[0];
        let known = case.answered(1000);
        let is_v4 = !case.vip.contains(':');
        for quoted in 0..case.least() {
            let error = case.error(kind, case.vip, &known, quoted);
            edge.refuses(&error.frame(), DROP, "icmp_malformed");
        }
        // Version, lengths, a later fragment, another protocol.
        let lies: &[(usize, &[u8])] = if is_v4 {
            &[
                (0, &[0x65]),
                (0, &[0x44]),
                (0, &[0x4f]),
                (2, &[0, 27]),
                (6, &[0, 1]),
                (9, &[47]),
            ]
        } else {
            &[(0, &[0x40]), (4, &[0, 7]), (6, &[44]), (6, &[0])]
        };
        for (offset, bytes) in lies {
            let mut error = case.error(kind, case.vip, &known, case.least());
            error.payload[*offset..offset + bytes.len()].copy_from_slice(bytes);
            edge.refuses(&error.frame(), DROP, "icmp_malformed");
        }
        let whole = case.error(kind, case.vip, &known, 2000).frame();
        for length in 14..whole.len() {
            edge.passes(&whole[..length]);
        }
        // Source quench is left to the host.
        if is_v4 {
            let error = case.error([4, 0], case.vip, &known, 2000);
            edge.refuses(&error.frame(), PASS, "icmp_other");
        }
    }
}

#[test]
fn an_error_records_nothing() {
    for case in cases() {
        let mut web = service(case.vip, case.protocol, Mode::Tunnel, &case.endpoints);
        web.steering.track = director_core::Track::Always;
        let Some(mut edge) = Edge::with(&web) else {
            return;
        };
        for port in 1000..1040 {
            let error = case.error(case.kinds()[0], case.vip, &case.answered(port), 2000);
            assert_eq!(edge.run(&error.frame()).action, REDIRECT);
        }
        // Had they been recorded, they would go on to the first endpoint, which
        // drains.
        edge.apply(&web, &[director_core::EndpointState::Draining, Active]);
        for port in 1000..1040 {
            let mut spec = case.sent(port);
            spec.syn = true;
            let out = edge.run(&spec.frame());
            assert_eq!(
                frames::open(&out.frame).1,
                case.endpoints[1].parse::<IpAddr>().unwrap()
            );
        }
        edge.apply(&web, &[Dead, Active]);
        let error = case.error(case.kinds()[0], case.vip, &case.answered(1000), 2000);
        assert_eq!(edge.run(&error.frame()).action, REDIRECT);
    }
}
