//! How each host is configured: `ip -batch` input, as text.

use std::fmt::Write as _;

use super::addresses::{
    ACCESS, CLIENT_NETS, EDGE_NETS, SERVERS, SITES, SiteNets, TUNNEL_SOURCE, VIP, VIP_NETS, both,
    client_addresses, pair,
};
use super::spec::{Family, Mode};
use super::topology::{Host, LAN, Role, to};

/// `ip -batch` input under construction.
#[derive(Default)]
struct Batch(String);

impl Batch {
    fn line(&mut self, args: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{args}");
    }

    fn up(&mut self, interface: &str) {
        self.line(format_args!("link set dev {interface} up"));
    }

    /// No duplicate address detection: nobody else is there, and it would keep
    /// the address unusable for a second.
    fn address(&mut self, interface: &str, address: &str, length: [u8; 2]) {
        if address.contains(':') {
            let length = length[1];
            self.line(format_args!(
                "address replace {address}/{length} dev {interface} nodad"
            ));
        } else {
            let length = length[0];
            self.line(format_args!(
                "address replace {address}/{length} dev {interface}"
            ));
        }
    }

    /// Brings up the interface and gives it host `host` of a link's network.
    fn attach(&mut self, interface: &str, addresses: &[String; 2]) {
        self.up(interface);
        for address in addresses {
            self.address(interface, address, [24, 64]);
        }
    }

    fn route(&mut self, networks: &[impl AsRef<str>; 2], via: &[String; 2], rest: &str) {
        for (network, via) in networks.iter().zip(via) {
            let network = network.as_ref();
            self.line(format_args!("route replace {network} via {via}{rest}"));
        }
    }
}

/// The client: many addresses, and a way to every site of its own.
pub fn client() -> Host {
    let mut batch = Batch::default();
    batch.up("lo");
    for family in [Family::V4, Family::V6] {
        for address in client_addresses(family) {
            batch.address("lo", &address.to_string(), [32, 128]);
        }
    }
    batch.attach(&to("edge"), &both(ACCESS, 1));
    let edge = both(ACCESS, 2);
    batch.route(&EDGE_NETS, &edge, "");
    let sources = [Family::V4, Family::V6].map(|family| client_addresses(family)[0]);
    for ((network, via), source) in VIP_NETS.iter().zip(&edge).zip(sources) {
        batch.line(format_args!(
            "route replace {network} via {via} src {source}"
        ));
    }
    for (index, (name, _)) in SITES.iter().enumerate() {
        let nets = SiteNets::of(index + 1);
        batch.attach(&to(name), &pair(&nets.client, 1));
        batch.route(&nets.subnets(), &pair(&nets.client, 2), "");
    }
    Host {
        name: "client".to_owned(),
        role: Role::Client,
        setup: batch.0,
    }
}

/// The edge, which in l2 mode is on every site's network of servers, and in
/// proxy mode holds the VIP.
pub fn edge(mode: Mode) -> Host {
    let mut batch = Batch::default();
    batch.up("lo");
    batch.address("lo", &TUNNEL_SOURCE.0.to_string(), [32, 128]);
    batch.address("lo", &TUNNEL_SOURCE.1.to_string(), [32, 128]);
    if mode == Mode::Proxy {
        // Packets to the VIP end here, at the proxy.
        batch.address("lo", &VIP.0.to_string(), [32, 128]);
        batch.address("lo", &VIP.1.to_string(), [32, 128]);
    }
    batch.attach(&to("client"), &both(ACCESS, 2));
    batch.route(&CLIENT_NETS, &both(ACCESS, 1), "");
    for (index, (name, _)) in SITES.iter().enumerate() {
        let nets = SiteNets::of(index + 1);
        if mode == Mode::L2 {
            batch.attach(&to(name), &pair(&nets.servers, 2));
        } else {
            batch.attach(&to(name), &pair(&nets.edge, 1));
            batch.route(&nets.subnets(), &pair(&nets.edge, 2), "");
        }
    }
    Host {
        name: "edge".to_owned(),
        role: Role::Edge,
        setup: batch.0,
    }
}

/// A site's router. In l2 mode it is also the switch between the edge and the
/// servers.
pub fn router(name: &str, nets: &SiteNets, mode: Mode) -> Host {
    let mut batch = Batch::default();
    batch.up("lo");
    batch.attach(&to("client"), &pair(&nets.client, 2));
    batch.route(&CLIENT_NETS, &pair(&nets.client, 1), "");
    if mode == Mode::L2 {
        switch(&mut batch, name, nets);
    } else {
        batch.attach(&to("edge"), &pair(&nets.edge, 2));
        batch.route(&EDGE_NETS, &pair(&nets.edge, 1), "");
        servers(&mut batch, name, nets);
    }
    Host {
        name: name.to_owned(),
        role: Role::Router,
        setup: batch.0,
    }
}

/// A router's links to its servers.
fn servers(batch: &mut Batch, name: &str, nets: &SiteNets) {
    for (server, host) in SERVERS.into_iter().zip(11..) {
        // Each server is behind a link of its own, so the router's address is
        // on all of them and the way to each server is a host route.
        let interface = to(&format!("{name}-{server}"));
        batch.up(&interface);
        for (router, server) in pair(&nets.servers, 1).iter().zip(pair(&nets.servers, host)) {
            batch.address(&interface, router, [32, 128]);
            batch.line(format_args!("route replace {server} dev {interface}"));
        }
    }
}

/// One network of the edge, the servers, and the router as their gateway.
fn switch(batch: &mut Batch, name: &str, nets: &SiteNets) {
    let servers = SERVERS.map(|server| to(&format!("{name}-{server}")));
    for port in std::iter::once(to("edge")).chain(servers) {
        batch.line(format_args!("link set dev {port} master {LAN}"));
        batch.up(&port);
    }
    batch.attach(LAN, &pair(&nets.servers, 1));
    batch.route(&EDGE_NETS, &pair(&nets.servers, 2), "");
}

/// A server, which in tunnel and l2 mode holds the VIP.
pub fn server(name: &str, nets: &SiteNets, host: u8, mode: Mode) -> Host {
    let mut batch = Batch::default();
    batch.up("lo");
    if mode.is_direct_return() {
        batch.address("lo", &VIP.0.to_string(), [32, 128]);
        batch.address("lo", &VIP.1.to_string(), [32, 128]);
    }
    batch.up("eth0");
    let router = pair(&nets.servers, 1);
    let defaults = ["0.0.0.0/0", "::/0"];
    // In l2 mode the edge is on the same network, and is answered there.
    let length = if mode == Mode::L2 {
        [24, 64]
    } else {
        [32, 128]
    };
    for ((own, router), all) in pair(&nets.servers, host).iter().zip(&router).zip(defaults) {
        batch.address("eth0", own, length);
        batch.line(format_args!("route replace {router} dev eth0 src {own}"));
        batch.line(format_args!(
            "route replace {all} via {router} dev eth0 src {own}"
        ));
    }
    Host {
        name: name.to_owned(),
        role: Role::Server,
        setup: batch.0,
    }
}
