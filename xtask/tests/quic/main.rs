//! Connections of a real QUIC client through a lab's edge, to real QUIC servers
//! that answer directly: they stay on their server when the client moves to
//! another port and another address. It needs root; without it the tests are
//! skipped, which in CI is a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod client;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Output;
use std::time::Instant;

use client::{Client, Kept, Moved};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server::Servers;
use support::{Lab, PATIENCE, SITES, shown};

/// A service of the test: its port, and what sets it apart.
struct Service {
    name: &'static str,
    port: u16,
    steering: &'static str,
    has_ids: bool,
}

const BY_ID: Service = Service {
    name: "by-id",
    port: 443,
    steering: "affinity = \"quic\"",
    has_ids: true,
};
/// The same packets steered by addresses and ports, to see the difference.
const BY_FLOW: Service = Service {
    name: "by-flow",
    port: 444,
    steering: "affinity = \"flow\"",
    has_ids: false,
};
const IN_GUE: Service = Service {
    name: "in-gue",
    port: 445,
    steering: "affinity = \"quic\"\nencapsulation = \"gue\"",
    has_ids: true,
};
const SERVICES: [&Service; 3] = [&BY_ID, &BY_FLOW, &IN_GUE];

/// Connections of each service. By flow, one that moves has a chance of about
/// one in five to meet its own server again, so all of them do in one run of
/// hundreds of millions.
const CONNECTIONS: usize = 12;
const MOVES: u8 = 6;

/// Every server's host name, and the ID in its connection IDs.
fn servers() -> impl Iterator<Item = (String, u32)> {
    let names = SITES
        .into_iter()
        .flat_map(|site| ['a', 'b'].map(|server| format!("{site}-{server}")));
    // All three bytes count.
    names.zip((0x01_0203_u32..).step_by(0x01_0101))
}

fn vip(family: &str) -> IpAddr {
    let text = match family {
        "4" => "203.0.113.10",
        _ => "2001:db8:53::10",
    };
    text.parse().unwrap()
}

/// One of the addresses that the client has.
fn local(family: &str, host: u8) -> IpAddr {
    match family {
        "4" => IpAddr::from([198, 18, 0, host]),
        _ => IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, u16::from(host)]),
    }
}

/// The service as the configuration has it.
fn described(lab: &Lab, service: &Service) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {port}\nprotocol = \"udp\"\n\
         mode = \"tunnel\"\n{}\n\n[service.health]\ntype = \"tcp\"\nport = 80\n",
        service.name,
        vip(lab.family),
        service.steering,
        port = service.port,
    );
    for (name, id) in servers() {
        let (site, server) = name.split_once('-').unwrap();
        let address = lab.endpoint(site, server.chars().next().unwrap()).ip();
        let _ = write!(
            text,
            "\n[[service.endpoint]]\nname = \"{name}\"\nsite = \"{site}\"\n\
             address = \"{address}\"\nport = {}\n",
            service.port
        );
        if service.has_ids {
            let _ = writeln!(text, "server_id = {id}");
        }
    }
    text
}

fn director(lab: &Lab, arguments: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("director");
    let socket = format!("/run/{}/director.sock", lab.prefix);
    let command = [&["edge", program.to_str().unwrap()], arguments];
    lab.xtask(
        "exec",
        &[&command.concat()[..], &["--socket", &socket]].concat(),
    )
}

/// Adds the services to the running daemon's configuration, and waits until
/// every endpoint of theirs can be steered to.
fn configure(lab: &Lab) {
    let file = format!("/run/{}/director.toml", lab.prefix);
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.extend(SERVICES.map(|service| described(lab, service)));
    std::fs::write(&file, text).unwrap();
    let state = std::fs::read(format!("/run/{}/lab.json", lab.prefix)).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let pid = i32::try_from(state["director"]["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();

    let is_ready = |service: &serde_json::Value| {
        let endpoints = service["endpoints"].as_array().unwrap();
        let usable = |endpoint: &serde_json::Value| {
            endpoint["verdict"] == "healthy" && endpoint["next_hop"] == true
        };
        service["published"] == true && endpoints.len() == 6 && endpoints.iter().all(usable)
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = director(lab, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
        if services.len() == 1 + SERVICES.len() && services.iter().all(is_ready) {
            return;
        }
        assert!(Instant::now() < deadline, "{}", shown(&output));
    }
}

/// A lab with the services configured, their servers and a client.
struct Net {
    client: Client,
    servers: Servers,
    lab: Lab,
}

impl Net {
    fn up(family: &'static str) -> Option<Self> {
        let lab = Lab::raise("quic", family, &[])?;
        let addresses = SERVICES.map(|service| SocketAddr::new(vip(family), service.port));
        let servers = Servers::start(&lab, servers(), &addresses);
        configure(&lab);
        Some(Self {
            client: Client::new(&lab, servers.certificate()),
            servers,
            lab,
        })
    }

    fn open(&self, service: &Service) -> Vec<Kept> {
        let vip = SocketAddr::new(vip(self.lab.family), service.port);
        let from = local(self.lab.family, 1);
        let kept = (0..CONNECTIONS).map(|_| self.client.open(from, vip).unwrap());
        kept.collect()
    }

    /// Where the client is after `moves` moves: each is to another port, every
    /// second one to another address too.
    fn place(&self, moves: u8) -> IpAddr {
        local(self.lab.family, 1 + moves / 2)
    }

    /// Moves all connections again and again; each must stay on its server.
    fn all_stay(&self, service: &Service) -> Vec<Kept> {
        let mut kept = self.open(service);
        let met: BTreeSet<&str> = kept.iter().map(|kept| &*kept.server).collect();
        assert!(met.len() > 1, "one server has all connections: {met:?}");
        for moves in 1..=MOVES {
            for connection in &mut kept {
                let moved = self.client.move_to(connection, self.place(moves));
                assert_eq!(
                    moved,
                    Moved::Stayed,
                    "move {moves} of {}",
                    connection.server
                );
            }
        }
        // No connection was made anew behind our back.
        assert_eq!(self.servers.accepted(service.port), CONNECTIONS);
        kept
    }

    /// The same by addresses and ports, to show that what is tested is not so
    /// by itself.
    fn some_go_astray(&self) {
        let mut kept = self.open(&BY_FLOW);
        let mut astray = 0;
        for connection in &mut kept {
            match self.client.move_to(connection, self.place(1)) {
                Moved::Stayed => {}
                Moved::Reset => astray += 1,
                moved => panic!("{moved:?}"),
            }
        }
        println!("by addresses and ports, {astray} of {CONNECTIONS} met another server");
        assert!(astray > 0, "all met their own server again");
    }

    /// Draining ends no connection, wherever its client moves meanwhile.
    fn a_drained_site_keeps_its_own(&self, kept: &mut [Kept]) {
        let drain = director(&self.lab, &["drain", "dc01"]);
        assert!(drain.status.success(), "{}", shown(&drain));
        assert!(kept.iter().any(|kept| kept.server.starts_with("dc01")));
        for moves in MOVES + 1..=MOVES + 2 {
            for connection in &mut *kept {
                let moved = self.client.move_to(connection, self.place(moves));
                assert_eq!(moved, Moved::Stayed, "a move of {}", connection.server);
            }
        }
        for new in self.open(&BY_ID) {
            assert!(!new.server.starts_with("dc01"), "{}", new.server);
        }
    }
}

fn connections_stay_with_their_server(family: &'static str) {
    let Some(net) = Net::up(family) else { return };
    let mut kept = net.all_stay(&BY_ID);
    net.some_go_astray();
    net.all_stay(&IN_GUE);
    net.a_drained_site_keeps_its_own(&mut kept);
}

#[test]
fn connections_stay_with_their_server_over_ipv4() {
    connections_stay_with_their_server("4");
}

#[test]
fn connections_stay_with_their_server_over_ipv6() {
    connections_stay_with_their_server("6");
}
