//! Live connections in every mode and address family, through one edge that runs
//! the director, to servers of a lab; and what `tcpdump` sees of them. It needs
//! root; without it the test is skipped, which in CI is a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod capture;
mod services;
#[path = "../support/mod.rs"]
mod support;
mod wire;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use etherparse::IpNumber;

use capture::{Capture, Running, Wanted};
use services::{CASES, Case, EDGE, TCP, UDP, Way, endpoint, servers};
use support::{
    Lab, PATIENCE, SILENCE, director, director_program, exchange_padded, file, metrics, shown,
    status, until,
};
use wire::Outer;

/// Source of packets to servers in nat mode.
const NAT_SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2)),
];
/// How much longer a request is, in turn: odd and even, and nearly a full packet.
const PADDING: [usize; 4] = [0, 1, 502, 1301];
/// Exchanges of a service: at least, and until the captures have seen some.
const LEAST: usize = 8;
const MOST: usize = 100;

/// A request that was answered.
#[derive(Debug)]
struct Exchange {
    case: Case,
    port: u16,
    source: SocketAddr,
    /// The name in the answer.
    by: String,
    /// Keeps the connection open.
    _stream: Option<TcpStream>,
}

impl Exchange {
    fn protocol(&self) -> IpNumber {
        match self.port {
            TCP => IpNumber::TCP,
            _ => IpNumber::UDP,
        }
    }

    fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.case.vip(), self.port)
    }

    fn endpoint(&self) -> SocketAddr {
        endpoint(&self.by, self.case.endpoints, self.port)
    }

    fn wanted(&self, source: SocketAddr, destination: SocketAddr) -> Wanted {
        Wanted {
            outer: None,
            protocol: self.protocol(),
            source,
            destination,
        }
    }

    /// The request as its server gets it, within its tunnel.
    fn request(&self) -> Wanted {
        let outer = |gue| {
            Some(Outer {
                destination: self.endpoint().ip(),
                gue,
            })
        };
        let plain = self.wanted(self.source, self.vip());
        match self.case.way {
            Way::Ip => Wanted {
                outer: outer(false),
                ..plain
            },
            Way::Gue => Wanted {
                outer: outer(true),
                ..plain
            },
            Way::L2 | Way::Proxy | Way::ProxyCookies => plain,
            Way::Nat => self.wanted(self.nat_source(), self.endpoint()),
        }
    }

    /// The answer as its server sends it.
    fn answer(&self) -> Wanted {
        match self.case.way {
            Way::Nat => self.wanted(self.endpoint(), self.nat_source()),
            _ => self.wanted(self.vip(), self.source),
        }
    }

    fn nat_source(&self) -> SocketAddr {
        SocketAddr::new(NAT_SOURCES[usize::from(self.case.vip == 6)], 0)
    }
}

/// A lab whose edge and servers have every service. Servers are on a network of
/// the edge's, as l2 mode asks; the other modes do with any.
fn raise() -> Option<Lab> {
    let lab = Lab::raise("live", "4", &["--mode", "l2"])?;
    let config = file(&lab, "director.toml");
    lab.must("director", &["stop"]);
    // Its tables have room for one address family.
    let unload = director(&lab, &["unload", "--config", &config]);
    assert!(unload.status.success(), "{}", shown(&unload));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, services::configuration(&text)).unwrap();

    let held = |holds: fn(&Case) -> bool| {
        let cases = CASES.iter().filter(|case| holds(case));
        let lines = cases.map(|case| format!("ip address add {} dev lo", case.vip()));
        lines.collect::<Vec<_>>().join(" && ")
    };
    let cookies = "sysctl -q -w net.ipv4.tcp_syncookies=2";
    let edge = format!("{cookies} && {}", held(Case::is_proxy));
    lab.must("exec", &["edge", "sh", "-c", &edge]);
    let decap = director_program();
    for (site, server) in servers() {
        let host = format!("{site}-{server}");
        let vips = held(Case::is_direct_return);
        lab.must("exec", &[&host, "sh", "-c", &vips]);
        let pins = file(&lab, &format!("bpf/decap-{host}"));
        let decap = [decap.to_str().unwrap(), "decap", "--iface", "eth0"];
        lab.must(
            "exec",
            &[&[&*host], &decap[..], &["--pin-dir", &pins]].concat(),
        );
        answer_udp(&lab, &host);
    }
    answer_udp(&lab, "edge");
    lab.must("director", &["start"]);
    until(&lab, "all is published and healthy", |status| {
        let services = status["services"].as_array().unwrap();
        services.iter().all(|service| {
            let endpoints = service["endpoints"].as_array().unwrap();
            let is_ready =
                |one: &serde_json::Value| one["verdict"] == "healthy" && one["next_hop"] == true;
            service["published"] == true && endpoints.iter().all(is_ready)
        })
    });
    Some(lab)
}

/// Answers datagrams to every address of a host that a service over UDP has.
fn answer_udp(lab: &Lab, host: &str) {
    let is_edge = host == "edge";
    let name = if is_edge { EDGE } else { host }.to_owned();
    let cases = CASES.iter().filter(|case| case.ports().contains(&UDP));
    let addresses: BTreeSet<SocketAddr> = cases
        .filter(|case| case.is_proxy() == is_edge)
        .map(|case| match case.way {
            Way::Nat => endpoint(&name, case.endpoints, UDP),
            _ => SocketAddr::new(case.vip(), UDP),
        })
        .collect();
    lab.within(host, move || {
        for address in addresses {
            let socket = UdpSocket::bind(address).unwrap();
            let name = name.clone();
            std::thread::spawn(move || {
                let mut request = [0; 2048];
                while let Ok((_, client)) = socket.recv_from(&mut request) {
                    socket.send_to(name.as_bytes(), client).unwrap();
                }
            });
        }
    });
}

/// The edge's own server for what passes to it in proxy mode.
fn serve_on_the_edge(lab: &Lab) -> Running {
    let stats = file(lab, "stats/edge");
    let xtask = env!("CARGO_BIN_EXE_xtask");
    let mut command = vec![xtask, "drill-server", "--name", EDGE, "--stats", &stats];
    command.extend(["--listen", "0.0.0.0:80", "--listen", "[::]:80"]);
    let server = Running::on(lab, "edge", &command);
    let deadline = Instant::now() + PATIENCE;
    let listens = || TcpStream::connect("[::1]:80").is_ok();
    while !lab.within("edge", listens) {
        assert!(Instant::now() < deadline, "the edge's server listens");
    }
    server
}

/// The client's address, the name in the answer, and the connection.
type Answered = std::io::Result<(SocketAddr, String, Option<TcpStream>)>;

fn tcp(vip: SocketAddr, padding: usize) -> Answered {
    let mut stream = TcpStream::connect_timeout(&vip, SILENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let by = exchange_padded(&mut stream, padding)?;
    Ok((stream.local_addr()?, by, Some(stream)))
}

fn udp(vip: SocketAddr, padding: usize) -> Answered {
    let any: IpAddr = match vip {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.connect(vip)?;
    socket.send(&vec![b'x'; 20 + padding])?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    let by = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok((socket.local_addr()?, by, None))
}

/// Exchanges with a service, one after another, until `dc01-a`, at which there is
/// a capture, and another site have answered.
fn exchanges(lab: &Lab, case: Case, port: u16) -> Vec<Exchange> {
    lab.within("client", move || {
        let vip = SocketAddr::new(case.vip(), port);
        let mut done: Vec<Exchange> = Vec::new();
        while done.len() < LEAST || !(case.is_proxy() || is_spread(&done)) {
            assert!(done.len() < MOST, "{case:?} is not spread: {done:?}");
            let padding = PADDING[done.len() % PADDING.len()];
            let ask = if port == TCP { tcp } else { udp };
            let (source, by, _stream) = ask(vip, padding)
                .unwrap_or_else(|error| panic!("{case:?}, port {port}, after {done:?}: {error}"));
            done.push(Exchange {
                case,
                port,
                source,
                by,
                _stream,
            });
        }
        done
    })
}

fn is_spread(done: &[Exchange]) -> bool {
    let by: BTreeSet<&str> = done.iter().map(|exchange| exchange.by.as_str()).collect();
    by.contains("dc01-a") && by.iter().any(|name| !name.starts_with("dc01"))
}

/// `director explain` names the endpoint that answered.
fn is_explained(lab: &Lab, exchange: &Exchange) {
    let (source, vip) = (exchange.source.to_string(), exchange.vip().to_string());
    let proto = if exchange.port == TCP { "tcp" } else { "udp" };
    let socket = file(lab, "director.sock");
    let arguments = ["explain", &source, &vip, "--proto", proto, "--json"];
    let output = director(lab, &[&arguments[..], &["--socket", &socket]].concat());
    assert!(output.status.success(), "{}", shown(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["endpoint"], exchange.by, "{exchange:?}: {report:#}");
}

/// Packets of every service that were steered, or passed to the edge.
fn packets(lab: &Lab, exchange: &Exchange) -> u64 {
    let protocol = if exchange.port == TCP { "tcp" } else { "udp" };
    let name = format!("{}-{protocol}", exchange.case.name);
    let status = status(lab);
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|service| service["name"] == *name);
    service.unwrap()["packets"].as_u64().unwrap()
}

#[test]
fn every_mode_and_family_carries_connections() {
    let Some(lab) = raise() else { return };
    let _server = serve_on_the_edge(&lab);
    let at_client = Capture::start(&lab, "client", "to-edge");
    let at_switch = Capture::start(&lab, "dc01", "to-edge");
    let at_server = Capture::start(&lab, "dc01-a", "eth0");

    let mut all = Vec::new();
    for case in CASES {
        for port in case.ports() {
            let done = exchanges(&lab, case, *port);
            // A datagram each, or of a connection at least SYN, ACK and request.
            let least = done.len() as u64 * if *port == TCP { 3 } else { 1 };
            let counted = packets(&lab, &done[0]);
            assert!(counted >= least, "{case:?}: {counted} of {least}");
            all.extend(done);
        }
    }
    for exchange in &all {
        if exchange.case.is_proxy() {
            assert_eq!(exchange.by, EDGE, "{exchange:?}");
        } else {
            is_explained(&lab, exchange);
        }
    }

    // The client's requests go to the edge, and their answers come from there
    // where the edge is between.
    let requests = all.iter().map(|one| one.wanted(one.source, one.vip()));
    let answers = all
        .iter()
        .filter(|one| !one.case.is_direct_return())
        .map(|one| one.wanted(one.vip(), one.source));
    let mut frames = at_client.holds(&requests.chain(answers).collect::<Vec<_>>());
    for exchange in all.iter().filter(|one| one.case.is_direct_return()) {
        at_client.lacks(&exchange.wanted(exchange.vip(), exchange.source));
    }
    // Requests to a site are as its servers get them, in their tunnels.
    let dc01 = |one: &&Exchange| one.by.starts_with("dc01");
    let sent = all.iter().filter(dc01).map(Exchange::request);
    frames.extend(at_switch.holds(&sent.collect::<Vec<_>>()));
    // Behind its decapsulation the server has the client's packet.
    let own = all.iter().filter(|one| one.by == "dc01-a");
    let opened = own.clone().map(|one| Wanted {
        outer: None,
        ..one.request()
    });
    let answered = own.map(Exchange::answer);
    frames.extend(at_server.holds(&opened.chain(answered).collect::<Vec<_>>()));
    for frame in &frames {
        wire::every_error_is_seen(frame);
    }
    cookies_were_given(&lab, &all);
}

/// As many as connections were opened where the edge gives them out.
fn cookies_were_given(lab: &Lab, all: &[Exchange]) {
    let is_cookie = |one: &&Exchange| one.case.way == Way::ProxyCookies;
    let opened = all.iter().filter(is_cookie).count();
    let text = metrics(lab);
    let line = format!("director_packets_not_steered_total{{cause=\"syn_cookie\"}} {opened}");
    assert!(text.lines().any(|one| one == line), "{line}: {text}");
}
