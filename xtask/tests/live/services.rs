//! The services of the test: one for every way of the packet path.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::SITES;

/// Port of every service over TCP.
pub const TCP: u16 = 80;
/// Port of every service over UDP.
pub const UDP: u16 = 53;
/// What the edge's own servers answer with.
pub const EDGE: &str = "edge-1";

/// How packets reach their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Ip,
    Gue,
    Nat,
    L2,
    Proxy,
    /// With SYN cookies.
    ProxyCookies,
}

/// A VIP with a service over TCP and, but for SYN cookies, one over UDP.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub way: Way,
    /// Address family of the VIP, 4 or 6.
    pub vip: u8,
    /// Address family of the endpoints.
    pub endpoints: u8,
}

const fn case(name: &'static str, way: Way, vip: u8, endpoints: u8) -> Case {
    Case {
        name,
        way,
        vip,
        endpoints,
    }
}

pub const CASES: [Case; 16] = [
    case("ip-4", Way::Ip, 4, 4),
    case("ip-6", Way::Ip, 6, 6),
    case("ip-4-in-6", Way::Ip, 4, 6),
    case("ip-6-in-4", Way::Ip, 6, 4),
    case("gue-4", Way::Gue, 4, 4),
    case("gue-6", Way::Gue, 6, 6),
    case("gue-4-in-6", Way::Gue, 4, 6),
    case("gue-6-in-4", Way::Gue, 6, 4),
    case("nat-4", Way::Nat, 4, 4),
    case("nat-6", Way::Nat, 6, 6),
    case("l2-4", Way::L2, 4, 4),
    case("l2-6", Way::L2, 6, 6),
    case("proxy-4", Way::Proxy, 4, 4),
    case("proxy-6", Way::Proxy, 6, 6),
    case("cookies-4", Way::ProxyCookies, 4, 4),
    case("cookies-6", Way::ProxyCookies, 6, 6),
];

impl Case {
    /// The VIP, which no other case has.
    pub fn vip(&self) -> IpAddr {
        let index = CASES.iter().position(|case| case.name == self.name);
        let host = 20 + index.unwrap() as u8;
        match self.vip {
            4 => Ipv4Addr::new(203, 0, 113, host).into(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, host.into()).into(),
        }
    }

    pub fn is_proxy(&self) -> bool {
        matches!(self.way, Way::Proxy | Way::ProxyCookies)
    }

    /// Whether servers hold the VIP, and answer clients directly.
    pub fn is_direct_return(&self) -> bool {
        matches!(self.way, Way::Ip | Way::Gue | Way::L2)
    }

    pub fn ports(&self) -> &'static [u16] {
        match self.way {
            Way::ProxyCookies => &[TCP],
            _ => &[TCP, UDP],
        }
    }

    fn service(&self, port: u16) -> String {
        let (protocol, timeout) = match port {
            TCP => ("tcp", ""),
            _ => ("udp", "idle_timeout = \"60s\"\n"),
        };
        let way = match self.way {
            Way::Ip => "mode = \"tunnel\"",
            Way::Gue => "mode = \"tunnel\"\nencapsulation = \"gue\"",
            Way::Nat => "mode = \"nat\"",
            Way::L2 => "mode = \"l2\"",
            Way::Proxy => "mode = \"proxy\"",
            Way::ProxyCookies => "mode = \"proxy\"\nsyn_cookies = true",
        };
        let (name, vip) = (self.name, self.vip());
        let mut text = format!(
            "\n[[service]]\nname = \"{name}-{protocol}\"\nvip = \"{vip}\"\nport = {port}\n\
             protocol = \"{protocol}\"\n{way}\n{timeout}"
        );
        if self.is_proxy() {
            return text;
        }
        text.push_str("\n[service.health]\ntype = \"tcp\"\nport = 80\n");
        for (site, server) in servers() {
            let address = server_address(&site, server, self.endpoints);
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[[service.endpoint]]\nname = \"{site}-{server}\"\nsite = \"{site}\"\n\
                 address = \"{address}\"\nport = {port}\n"
            );
        }
        text
    }
}

/// Every server as site and letter.
pub fn servers() -> impl Iterator<Item = (String, char)> {
    SITES
        .into_iter()
        .flat_map(|site| ['a', 'b'].map(|server| (site.to_owned(), server)))
}

/// A server's own address.
pub fn server_address(site: &str, server: char, family: u8) -> IpAddr {
    let number = &site[3..];
    let host = if server == 'a' { 11 } else { 12 };
    let text = match family {
        4 => format!("198.18.{number}.{host}"),
        _ => format!("2001:db8:d:{number}::{host}"),
    };
    text.parse().unwrap()
}

/// [`server_address`] of `dc01-a` and its like, with a port.
pub fn endpoint(name: &str, family: u8, port: u16) -> SocketAddr {
    let (site, server) = name.split_once('-').unwrap();
    let server = server.chars().next().unwrap();
    SocketAddr::new(server_address(site, server, family), port)
}

/// The lab's configuration with the services of all cases in place of its own.
pub fn configuration(lab: &str) -> String {
    let (edge_and_sites, _) = lab.split_once("\n[[service]]").unwrap();
    let services = CASES
        .iter()
        .flat_map(|case| case.ports().iter().map(|port| case.service(*port)));
    std::iter::once(edge_and_sites.to_owned())
        .chain(services)
        .collect()
}
