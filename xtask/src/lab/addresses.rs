//! The lab's address plan.
//!
//! Every address is from a range set aside for documentation or benchmarks (RFC
//! 5737, RFC 2544, RFC 3849).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::spec::Family;

/// Name and weight of every site.
pub const SITES: [(&str, u32); 3] = [("dc01", 50), ("dc02", 30), ("dc03", 20)];
/// The servers of every site.
pub const SERVERS: [char; 2] = ['a', 'b'];
/// How many addresses per family the client has to connect from.
pub const CLIENT_ADDRESSES: u8 = 32;

/// The edge's outer source of tunnel packets.
pub const TUNNEL_SOURCE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
);
/// The edge's source of translated packets. No host holds it; sites route it to
/// the edge.
pub const NAT_SOURCE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
);
/// The VIP.
pub const VIP: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(203, 0, 113, 10),
    Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x10),
);
/// What sites route to the edge.
pub const EDGE_NETS: [&str; 2] = ["198.51.100.0/24", "2001:db8:1::/48"];
/// What the client routes to the edge.
pub const VIP_NETS: [&str; 2] = ["203.0.113.0/24", "2001:db8:53::/48"];
/// What is routed to the client.
pub const CLIENT_NETS: [&str; 2] = ["198.18.0.0/24", "2001:db8:c::/64"];
/// Between client and edge.
pub const ACCESS: (&str, &str) = ("198.18.64", "2001:db8:f:64");

/// Beginnings of a site's networks, of both families. The number of the site,
/// from 1, is in each.
pub struct SiteNets {
    /// Of its servers.
    pub servers: (String, String),
    /// Of its link to the edge.
    pub edge: (String, String),
    /// Of its link to the client.
    pub client: (String, String),
}

impl SiteNets {
    /// Those of site `number`.
    pub fn of(number: usize) -> Self {
        let nets = |v4: usize, v6: &str| {
            (
                format!("198.18.{}", v4 + number),
                format!("2001:db8:{v6}:{number}"),
            )
        };
        Self {
            servers: nets(0, "d"),
            edge: nets(64, "e"),
            client: nets(128, "f"),
        }
    }

    /// The servers' networks, to route to.
    pub fn subnets(&self) -> [String; 2] {
        let (v4, v6) = &self.servers;
        [format!("{v4}.0/24"), format!("{v6}::/64")]
    }
}

/// `host` of both families in a network.
pub fn both((v4, v6): (&str, &str), host: u8) -> [String; 2] {
    // Written in hexadecimal with decimal digits, so that .11 and ::11 look alike.
    [format!("{v4}.{host}"), format!("{v6}::{host}")]
}

/// [`both`] of a site's network.
pub fn pair(net: &(String, String), host: u8) -> [String; 2] {
    both((&net.0, &net.1), host)
}

/// The subnet of a site's servers in one family.
pub fn server_subnet(site: &str, family: Family) -> Option<String> {
    let index = SITES.iter().position(|(name, _)| *name == site)?;
    let [v4, v6] = SiteNets::of(index + 1).subnets();
    Some(match family {
        Family::V4 => v4,
        Family::V6 => v6,
    })
}

/// The addresses the client may connect from.
pub fn client_addresses(family: Family) -> Vec<IpAddr> {
    (1..=CLIENT_ADDRESSES)
        .map(|host| match family {
            Family::V4 => Ipv4Addr::new(198, 18, 0, host).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, host.into()).into(),
        })
        .collect()
}

/// Which of a pair of both families is meant.
pub fn family_index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
