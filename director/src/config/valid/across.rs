//! Relations between sites, services, endpoints and the edge.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use director_core::model::{Mode, Protocol};

use super::{
    edge::EdgeDraft,
    limits,
    service::{EndpointDraft, ServiceDraft, SiteDraft},
};
use crate::config::{
    place::{Located, Place},
    report::Report,
    words::{closest, quoted},
};

/// Reports what contradicts what. A value that was refused is left out: one
/// mistake is one problem.
pub(super) fn check(
    report: &mut Report<'_>,
    edge: &EdgeDraft,
    sites: Option<&[SiteDraft<'_>]>,
    services: Option<&[ServiceDraft<'_>]>,
) {
    names(
        report,
        "site",
        sites.into_iter().flatten().map(|site| site.name.as_ref()),
    );
    let Some(services) = services else { return };
    names(
        report,
        "service",
        services.iter().map(|service| service.name.as_ref()),
    );
    let addresses = Addresses::of(edge, services);
    addresses.sources(report, edge);
    vips(report, &addresses, services);
    for service in services {
        sources(report, edge, service);
        endpoints(report, &addresses, service);
    }
    if let Some(sites) = sites {
        site_references(report, sites, services);
        weights(report, sites, services);
    }
    limits::check(report, edge, services);
    if services.is_empty() {
        report.warning(
            &Place::root(),
            "there is no service: nothing is steered",
            "add a [[service]]",
        );
    }
}

/// Names that stand for one thing each.
fn names<'d>(
    report: &mut Report<'_>,
    what: &str,
    names: impl Iterator<Item = Option<&'d Located<Arc<str>>>>,
) {
    let mut first: HashMap<&str, &Place> = HashMap::new();
    for Located { value, place } in names.flatten() {
        if let Some(first) = first.get(&**value) {
            let message = format!(
                "another {what} has this name, on line {}",
                report.line(first)
            );
            report.error(
                place,
                message,
                format!("give each {what} a name of its own"),
            );
        } else {
            first.insert(value, place);
        }
    }
}

/// Who uses which address already.
struct Addresses<'d> {
    /// Source address to where it stands and the mode that it is for.
    sources: HashMap<IpAddr, (&'d Place, Mode)>,
    /// VIP to where it stands first.
    vips: HashMap<IpAddr, &'d Place>,
}

impl<'d> Addresses<'d> {
    fn of(edge: &'d EdgeDraft, services: &'d [ServiceDraft<'_>]) -> Self {
        let tunnel = edge
            .tunnel
            .iter()
            .map(|(ip, place)| (ip, (place, Mode::Tunnel)));
        let nat = edge.nat.iter().map(|(ip, place)| (ip, (place, Mode::Nat)));
        let mut vips = HashMap::new();
        for vip in services.iter().filter_map(|service| service.vip.as_ref()) {
            vips.entry(vip.value).or_insert(&vip.place);
        }
        Self {
            sources: nat.chain(tunnel).collect(),
            vips,
        }
    }

    /// NAT sources take every packet that is sent to them: the host's own
    /// address, from which tunnels start, cannot be one.
    fn sources(&self, report: &mut Report<'_>, edge: &EdgeDraft) {
        for (ip, place) in edge.nat.iter() {
            if let Some(&(tunnel, Mode::Tunnel)) = self.sources.get(&ip) {
                let line = report.line(tunnel);
                report.error(
                    place,
                    format!("{ip} is the tunnel source too, on line {line}"),
                    "give NAT a source address that is used for nothing else",
                );
            }
        }
    }
}

fn source_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Tunnel => "the tunnel source of this edge",
        _ => "a NAT source of this edge",
    }
}

/// What clients connect to: each once, and nothing of the edge's own.
fn vips(report: &mut Report<'_>, addresses: &Addresses<'_>, services: &[ServiceDraft<'_>]) {
    let mut first: HashMap<(IpAddr, u16, Protocol), &ServiceDraft<'_>> = HashMap::new();
    for service in services {
        let Some(vip) = &service.vip else { continue };
        let ip = vip.value;
        if let Some(&(source, mode)) = addresses.sources.get(&ip) {
            let line = report.line(source);
            report.error(
                &vip.place,
                format!("{ip} is {} too, on line {line}", source_of(mode)),
                "use an address for the vip that is used for nothing else",
            );
        }
        let (Some(port), Some(protocol)) = (&service.port, &service.protocol) else {
            continue;
        };
        let key = (ip, port.value, protocol.value);
        if let Some(other) = first.get(&key) {
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
                    "{ip} port {}/{protocol} belongs to service {name} already, on line {line}",
                    port.value
                ),
                "change the vip, the port or the protocol of one of them",
            );
        } else {
            first.insert(key, service);
        }
    }
}

/// The edge must have a source address for the family of a service.
fn sources(report: &mut Report<'_>, edge: &EdgeDraft, service: &ServiceDraft<'_>) {
    let (Some(vip), Some(mode)) = (&service.vip, &service.mode) else {
        return;
    };
    let (sources, name, table) = match mode.value {
        Mode::Tunnel => (&edge.tunnel, "tunnel", "[edge.tunnel]"),
        Mode::Nat => (&edge.nat, "nat", "[edge.nat]"),
        Mode::L2 | Mode::Proxy => return,
    };
    if sources.lacks(vip.value) {
        let family = if vip.value.is_ipv4() { 4 } else { 6 };
        report.error(
            &mode.place,
            format!("{name} mode over IPv{family} needs a source address of the edge"),
            format!("add source{family} under {table}"),
        );
    }
}

/// Endpoints of a service: apart from each other, and reachable as it is.
fn endpoints(report: &mut Report<'_>, addresses: &Addresses<'_>, service: &ServiceDraft<'_>) {
    let endpoints = service.endpoints.as_deref().unwrap_or_default();
    names(
        report,
        "endpoint of this service",
        endpoints.iter().map(|it| it.name.as_ref()),
    );
    let mut first: HashMap<(IpAddr, u16), &Place> = HashMap::new();
    for endpoint in endpoints {
        if let (Some(Mode::Tunnel), Some(own), Some(port)) = (
            service.mode.as_ref().map(|mode| mode.value),
            &service.port,
            &endpoint.port,
        ) && own.value != port.value
        {
            report.error(
                &port.place,
                format!(
                    "is {} where the service has {}: a tunnel changes no port",
                    port.value, own.value
                ),
                "remove the endpoint's port, or use mode = \"nat\"",
            );
        }
        let Some(address) = &endpoint.address else {
            continue;
        };
        addresses.of_endpoint(report, address);
        if let Some(vip) = &service.vip
            && vip.value.is_ipv4() != address.value.is_ipv4()
        {
            let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let (own, other) = (family(address.value), family(vip.value));
            report.error(
                &address.place,
                format!("{} is {own} where the vip is {other}", address.value),
                format!("give the endpoint's {other} address, or make a service for each family"),
            );
        }
        let Some(port) = &endpoint.port else { continue };
        if let Some(first) = first.get(&(address.value, port.value)) {
            let line = report.line(first);
            report.error(
                &address.place,
                format!(
                    "another endpoint of this service is {} port {}, on line {line}",
                    address.value, port.value
                ),
                "remove one of them; weight gives an endpoint a larger share",
            );
        } else {
            first.insert((address.value, port.value), &address.place);
        }
    }
}

impl Addresses<'_> {
    /// An endpoint at an address of the edge would get its packets from itself.
    fn of_endpoint(&self, report: &mut Report<'_>, address: &Located<IpAddr>) {
        let ip = address.value;
        let found = self.vips.get(&ip).map(|&place| (place, "a vip"));
        let source = self.sources.get(&ip);
        let found = found.or_else(|| source.map(|&(place, mode)| (place, source_of(mode))));
        if let Some((other, what)) = found {
            let line = report.line(other);
            report.error(
                &address.place,
                format!("{ip} is {what} too, on line {line}: packets would go in circles"),
                "give the address that the server alone has",
            );
        }
    }
}

/// Every endpoint is on a site; a site without endpoints is probably a slip.
fn site_references(
    report: &mut Report<'_>,
    sites: &[SiteDraft<'_>],
    services: &[ServiceDraft<'_>],
) {
    let written: HashSet<&str> = sites.iter().filter_map(|site| site.written).collect();
    // A site whose name cannot be read may be the one that is meant.
    let all_named = sites.iter().all(|site| site.written.is_some());
    let mut used = HashSet::new();
    let mut all_read = true;
    for service in services {
        all_read &= service.endpoints.is_some();
        for endpoint in service.endpoints.iter().flatten() {
            let Some(site) = &endpoint.site else {
                all_read = false;
                continue;
            };
            used.insert(site.value);
            if written.contains(site.value) || !all_named {
                continue;
            }
            let candidates = sites.iter().filter_map(|site| site.written);
            let help = match closest(site.value, candidates) {
                Some(meant) => format!("did you mean {}?", quoted(meant)),
                None => format!("add a [[site]] with name = {}", quoted(site.value)),
            };
            let message = format!("there is no site {}", quoted(site.value));
            report.error(&site.place, message, help);
        }
    }
    for site in sites {
        if let Some(name) = &site.name
            && all_read
            && !used.contains(&*name.value)
        {
            report.warning(
                &site.place,
                "no endpoint is on this site",
                "remove it, or name it as the site of an endpoint",
            );
        }
    }
}

/// Something of every service must be able to get traffic.
fn weights(report: &mut Report<'_>, sites: &[SiteDraft<'_>], services: &[ServiceDraft<'_>]) {
    let site_weights: HashMap<_, _> = sites
        .iter()
        .filter_map(|site| Some((site.written?, site.weight?)))
        .collect();
    // A weight that is not known has been reported as it is, and is not taken for 0.
    let idle = |endpoint: &EndpointDraft<'_>| {
        let site = endpoint.site.as_ref();
        let site_weight = site.and_then(|site| site_weights.get(site.value));
        endpoint.weight == Some(0) || site_weight == Some(&0)
    };
    for service in services {
        let endpoints = service.endpoints.as_deref().unwrap_or_default();
        if !endpoints.is_empty() && endpoints.iter().all(idle) {
            report.error(
                &service.place,
                "no endpoint can get traffic: the weight of each, or of its site, is 0",
                "give at least one endpoint and its site a weight above 0",
            );
        }
    }
}
