//! The lab's network as data: hosts, links and sites. Nothing here touches the
//! system.
//!
//! ```text
//!            client ------------------------+
//!              |                            | direct return, one link a site
//!            edge (the director)            |
//!           /    |    \                     |
//!        dc01  dc02  dc03   (routers) ------+
//!        /  \  /  \  /  \
//!       a   b a   b a   b   (servers)
//! ```
//!
//! In l2 mode a site's router is a switch for the edge and the servers, which then
//! are on one network, and their gateway towards the client.
//!
//! No host has a route out of the lab.

use std::net::IpAddr;

use super::addresses::{SERVERS, SITES, SiteNets, family_index, pair};
use super::setup;
use super::spec::{Endpoint, Family, Mode, Site};

/// MTU where clients are reached.
const CLIENT_MTU: u32 = 1500;
/// MTU where tunnel packets travel: a client's full packet and an outer IPv6 header.
const SITE_MTU: u32 = 1600;
/// The bridge of a router that is also a switch.
pub const LAN: &str = "lan";

/// What a host is for, which decides its kernel settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects from many addresses.
    Client,
    /// Runs the director.
    Edge,
    /// A site's router.
    Router,
    /// Runs a server.
    Server,
}

/// A host of the lab.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, as in `lab exec NAME`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// `ip -batch` input that configures addresses and routes. It may be run
    /// again, to restore what a link that went down took along.
    pub setup: String,
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The host's name.
    pub host: String,
    /// The interface's name there.
    pub interface: String,
}

/// A veth pair.
#[derive(Clone, Debug)]
pub struct Link {
    /// Both ends.
    pub ends: [End; 2],
    /// The MTU of both ends.
    pub mtu: u32,
}

/// The whole network.
#[derive(Clone, Debug)]
pub struct Topology {
    /// All hosts, the client and the edge first.
    pub hosts: Vec<Host>,
    /// All links.
    pub links: Vec<Link>,
    /// Hosts with a bridge [`LAN`].
    pub switches: Vec<String>,
    /// The sites as the director is told of them.
    pub sites: Vec<Site>,
}

/// The name of an interface that leads to `peer`.
pub fn to(peer: &str) -> String {
    format!("to-{peer}")
}

impl Topology {
    /// The network for a service of `family` whose packets reach endpoints by `mode`.
    pub fn new(mode: Mode, family: Family) -> Self {
        let mut hosts = vec![setup::client(), setup::edge(mode)];
        let mut links = vec![link("client", "edge", CLIENT_MTU)];
        let mut sites = Vec::new();
        let mut switches = Vec::new();
        for (index, (name, weight)) in SITES.into_iter().enumerate() {
            let nets = SiteNets::of(index + 1);
            hosts.push(setup::router(name, &nets, mode));
            if mode == Mode::L2 {
                switches.push(name.to_owned());
            }
            links.push(link("edge", name, SITE_MTU));
            links.push(link("client", name, CLIENT_MTU));
            let mut endpoints = Vec::new();
            for (server, host) in SERVERS.into_iter().zip(11..) {
                let endpoint = format!("{name}-{server}");
                hosts.push(setup::server(&endpoint, &nets, host, mode));
                links.push(server_link(name, &endpoint));
                let own = pair(&nets.servers, host);
                let address: Option<IpAddr> = own[family_index(family)].parse().ok();
                endpoints.extend(address.map(|address| Endpoint {
                    name: endpoint,
                    address,
                }));
            }
            sites.push(Site {
                name: name.to_owned(),
                weight,
                endpoints,
            });
        }
        Self {
            hosts,
            links,
            switches,
            sites,
        }
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// Interfaces of a host, in the order of their links.
    pub fn interfaces(&self, host: &str) -> Vec<&str> {
        let ends = self.links.iter().flat_map(|link| &link.ends);
        ends.filter(|end| end.host == host)
            .map(|end| end.interface.as_str())
            .collect()
    }
}

/// A link whose ends are named after where they lead.
fn link(one: &str, other: &str, mtu: u32) -> Link {
    let end = |host: &str, peer: &str| End {
        host: host.to_owned(),
        interface: to(peer),
    };
    Link {
        ends: [end(one, other), end(other, one)],
        mtu,
    }
}

/// A server has one interface, `eth0`.
fn server_link(router: &str, server: &str) -> Link {
    let mut link = link(router, server, SITE_MTU);
    link.ends[1].interface = "eth0".to_owned();
    link
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    fn all() -> Vec<Topology> {
        [Mode::Tunnel, Mode::Nat, Mode::L2, Mode::Proxy]
            .into_iter()
            .flat_map(|mode| [Family::V4, Family::V6].map(|family| Topology::new(mode, family)))
            .collect()
    }

    /// Every word of the setups that is an address or a network.
    fn addresses(topology: &Topology) -> Vec<IpAddr> {
        topology
            .hosts
            .iter()
            .flat_map(|host| host.setup.split_whitespace())
            .filter(|word| *word != "0.0.0.0/0" && *word != "::/0")
            .filter_map(|word| word.split('/').next()?.parse().ok())
            .collect()
    }

    fn is_reserved(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                (a == 198 && b & !1 == 18)
                    || [a, b, c] == [198, 51, 100]
                    || [a, b, c] == [203, 0, 113]
            }
            IpAddr::V6(v6) => v6.segments()[..2] == [0x2001, 0xdb8],
        }
    }

    #[test]
    fn every_address_is_from_a_reserved_range() {
        for topology in all() {
            let addresses = addresses(&topology);
            assert!(addresses.len() > 100);
            for address in addresses {
                assert!(is_reserved(address), "{address}");
            }
        }
    }

    #[test]
    fn whoever_answers_clients_holds_the_vip() {
        let modes = [
            (Mode::Tunnel, 6),
            (Mode::Nat, 0),
            (Mode::L2, 6),
            (Mode::Proxy, 1),
        ];
        for (mode, holders) in modes {
            let topology = Topology::new(mode, Family::V4);
            let holds = |host: &&Host| host.setup.contains("address replace 203.0.113.10/32");
            assert_eq!(topology.hosts.iter().filter(holds).count(), holders);
        }
    }

    #[test]
    fn endpoints_have_the_address_their_host_sets_up() {
        for topology in all() {
            for endpoint in topology.sites.iter().flat_map(|site| &site.endpoints) {
                let setup = &topology.host(&endpoint.name).unwrap().setup;
                let own = format!("address replace {}/", endpoint.address);
                assert!(setup.contains(&own), "{endpoint:?}: {setup}");
            }
        }
    }

    #[test]
    fn in_l2_mode_no_router_is_between_edge_and_servers() {
        for family in [Family::V4, Family::V6] {
            let topology = Topology::new(Mode::L2, family);
            let edge = &topology.host("edge").unwrap().setup;
            for (index, site) in topology.sites.iter().enumerate() {
                let router = &topology.host(&site.name).unwrap().setup;
                for peer in ["edge".to_owned(), format!("{}-a", site.name)] {
                    let port = format!("link set dev to-{peer} master {LAN}\n");
                    assert!(router.contains(&port), "{router}");
                }
                for subnet in SiteNets::of(index + 1).subnets() {
                    assert!(!edge.contains(&format!("route replace {subnet}")), "{edge}");
                }
            }
            assert_eq!(topology.switches, ["dc01", "dc02", "dc03"]);
        }
    }

    #[test]
    fn a_full_client_packet_fits_through_the_tunnel() {
        const OUTER_IPV6: u32 = 40;
        for topology in all() {
            for link in &topology.links {
                let to_client = link.ends.iter().any(|end| end.host == "client");
                let least = if to_client {
                    CLIENT_MTU
                } else {
                    CLIENT_MTU + OUTER_IPV6
                };
                assert!(link.mtu >= least, "{link:?}");
            }
        }
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        const IFNAMSIZ: usize = 16;
        for topology in all() {
            for end in topology.links.iter().flat_map(|link| &link.ends) {
                assert!(end.interface.len() < IFNAMSIZ, "{end:?}");
            }
        }
    }
}
