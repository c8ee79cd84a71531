//! Who uses which address: what clients connect to, what the edge sends from,
//! and servers are all apart.

use std::{collections::HashMap, net::IpAddr};

use director_core::model::{Mode, Protocol};

use super::{edge::EdgeDraft, service::ServiceDraft};
use crate::config::{
    Prefix,
    place::{Located, Place},
    report::Report,
    words::quoted,
};

/// The addresses that are in use, and where they are given.
pub(super) struct Addresses<'d> {
    /// Of both families, at most.
    tunnel: Vec<&'d Located<Prefix>>,
    nat: HashMap<IpAddr, &'d Place>,
    /// VIP to where it stands first.
    vips: HashMap<IpAddr, &'d Place>,
}

/// A use of an address.
struct Use<'d> {
    place: &'d Place,
    /// Such as `a vip too`.
    what: String,
}

impl<'d> Addresses<'d> {
    pub(super) fn of(edge: &'d EdgeDraft, services: &'d [ServiceDraft<'_>]) -> Self {
        let mut vips = HashMap::new();
        let visible = services.iter().filter(|service| has_vip(service));
        for vip in visible.filter_map(|service| service.vip.as_ref()) {
            vips.entry(vip.value).or_insert(&vip.place);
        }
        Self {
            tunnel: edge.tunnel.iter().collect(),
            nat: edge.nat.iter().collect(),
            vips,
        }
    }

    /// The tunnel source that an address is, or is among.
    fn tunnel_source(&self, ip: IpAddr, whose: &str) -> Option<Use<'d>> {
        let mut sources = self.tunnel.iter();
        let Located { value, place } = sources.find(|source| source.value.contains(ip))?;
        let what = match value.is_single() {
            true => format!("the tunnel source{whose} too"),
            false => format!("in {value}, the tunnel source{whose}"),
        };
        Some(Use { place, what })
    }

    fn source(&self, ip: IpAddr) -> Option<Use<'d>> {
        self.tunnel_source(ip, " of this edge").or_else(|| {
            let what = "a NAT source of this edge too".to_owned();
            self.nat.get(&ip).map(|&place| Use { place, what })
        })
    }

    /// NAT sources take every packet that is sent to them: the host's own
    /// address, from which tunnels start, cannot be one.
    pub(super) fn sources(&self, report: &mut Report<'_>, edge: &EdgeDraft) {
        for (ip, place) in edge.nat.iter() {
            if let Some(tunnel) = self.tunnel_source(ip, "") {
                let line = report.line(tunnel.place);
                report.error(
                    place,
                    format!("{ip} is {}, on line {line}", tunnel.what),
                    "give NAT a source address that is used for nothing else",
                );
            }
        }
    }

    /// What clients connect to is nothing of the edge's own.
    pub(super) fn of_vip(&self, report: &mut Report<'_>, vip: &Located<IpAddr>) {
        if let Some(source) = self.source(vip.value) {
            let line = report.line(source.place);
            report.error(
                &vip.place,
                format!("{} is {}, on line {line}", vip.value, source.what),
                "use an address for the vip that is used for nothing else",
            );
        }
    }

    /// An endpoint at an address of the edge would get its packets from itself.
    pub(super) fn of_endpoint(&self, report: &mut Report<'_>, address: &Located<IpAddr>) {
        let ip = address.value;
        let what = "a vip too".to_owned();
        let vip = self.vips.get(&ip).map(|&place| Use { place, what });
        if let Some(other) = vip.or_else(|| self.source(ip)) {
            let line = report.line(other.place);
            let what = other.what;
            report.error(
                &address.place,
                format!("{ip} is {what}, on line {line}: packets would go in circles"),
                "give the address that the server alone has",
            );
        }
    }

    /// What the proxy connects to may be at any address but those that the kernel
    /// takes every packet of.
    pub(super) fn of_upstream(&self, report: &mut Report<'_>, address: &Located<IpAddr>) {
        let ip = address.value;
        if let Some(place) = self.nat.get(&ip) {
            let line = report.line(place);
            report.error(
                &address.place,
                format!("{ip} is a NAT source of this edge, on line {line}: nothing listens there"),
                "give the address that the server has on its network",
            );
        }
    }
}

/// Whether clients can connect to it.
fn has_vip(service: &ServiceDraft<'_>) -> bool {
    let mode = service.mode.as_ref();
    mode.is_none_or(|mode| mode.value != Mode::Pool)
}

/// A VIP, port and protocol belong to one service. One that has every port
/// yields to those that have one.
pub(super) fn vips(
    report: &mut Report<'_>,
    addresses: &Addresses<'_>,
    services: &[ServiceDraft<'_>],
) {
    let mut first: HashMap<(IpAddr, u16, Protocol), &ServiceDraft<'_>> = HashMap::new();
    for service in services.iter().filter(|service| has_vip(service)) {
        let Some(vip) = &service.vip else { continue };
        addresses.of_vip(report, vip);
        let (Some(port), Some(protocol)) = (&service.port, &service.protocol) else {
            continue;
        };
        let key = (vip.value, port.value, protocol.value);
        let Some(other) = first.get(&key) else {
            first.insert(key, service);
            continue;
        };
        let name = other.name.as_ref();
        let name = name.map_or_else(|| "another".to_owned(), |name| quoted(&name.value));
        let line = report.line(&other.place);
        let protocol = match protocol.value {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        report.error(
            &vip.place,
            format!(
                "{} port {}/{protocol} belongs to service {name} already, on line {line}",
                vip.value, port.value
            ),
            "change the vip, the port or the protocol of one of them",
        );
    }
}
