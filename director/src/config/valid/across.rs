//! Relations between sites, services, endpoints and the edge.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use director_core::model::Mode;

use super::{
    addresses::{self, Addresses},
    edge::EdgeDraft,
    http, limits,
    service::{EndpointDraft, ServiceDraft, SiteDraft},
    steering,
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
    let is_pool = |service: &ServiceDraft<'_>| {
        let mode = service.mode.as_ref();
        mode.is_some_and(|mode| mode.value == Mode::Pool)
    };
    let what = match services.iter().any(is_pool) {
        true => "service or pool",
        false => "service",
    };
    names(
        report,
        what,
        services.iter().map(|service| service.name.as_ref()),
    );
    let addresses = Addresses::of(edge, services);
    addresses.sources(report, edge);
    addresses::vips(report, &addresses, services);
    for service in services {
        mode(report, edge, service);
        endpoints(report, &addresses, service);
        steering::check(report, service);
    }
    if let Some(sites) = sites {
        site_references(report, sites, services);
        weights(report, sites, services);
    }
    limits::check(report, edge, services);
    http::check(report, edge.http.as_ref(), services);
    if services.iter().all(is_pool) {
        report.warning(
            &Place::root(),
            "there is no service: nothing is steered",
            "add a [[service]]",
        );
    }
}

/// Names that stand for one thing each.
pub(super) fn names<'d>(
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

/// A service's ports and addresses against its mode.
fn mode(report: &mut Report<'_>, edge: &EdgeDraft, service: &ServiceDraft<'_>) {
    let Some(mode) = &service.mode else { return };
    match mode.value {
        Mode::Tunnel => {
            same_ports(report, service, "a tunnel");
            tunnel_sources(report, edge, service, mode);
        }
        Mode::L2 => {
            same_ports(report, service, "l2 mode");
            same_family(report, service);
        }
        Mode::Nat => {
            same_family(report, service);
            if let Some(port) = service.port.as_ref().filter(|port| port.value == 0) {
                report.error(
                    &port.place,
                    "is 0, every port, and nat mode sends packets to one port of an endpoint",
                    "give one port, or use mode = \"tunnel\" or \"l2\"",
                );
            }
            if let Some(vip) = service.vip.as_ref().filter(|vip| edge.nat.lacks(vip.value)) {
                let family = if vip.value.is_ipv4() { 4 } else { 6 };
                report.error(
                    &mode.place,
                    format!("nat mode over IPv{family} needs a source address of the edge"),
                    format!("add source{family} under [edge.nat]"),
                );
            }
        }
        Mode::Proxy | Mode::Pool => {}
    }
}

/// A tunnel starts from a source of the family of the endpoint it leads to,
/// whatever the family of the packets in it.
fn tunnel_sources(
    report: &mut Report<'_>,
    edge: &EdgeDraft,
    service: &ServiceDraft<'_>,
    mode: &Located<Mode>,
) {
    for family in [4, 6] {
        let mut addresses = service.endpoints.iter().flatten();
        let first = addresses.find_map(|endpoint| {
            let address = endpoint.address.as_ref()?;
            (address.value.is_ipv4() == (family == 4)).then_some(address)
        });
        let Some(address) = first.filter(|address| edge.tunnel.lacks(address.value)) else {
            continue;
        };
        // A family that is not the vip's may be a slip, so it is pointed at.
        let is_other = |vip: &Located<IpAddr>| vip.value.is_ipv4() != (family == 4);
        let to = match service.vip.as_ref().is_some_and(is_other) {
            true => format!(", to the endpoint on line {},", report.line(&address.place)),
            false => String::new(),
        };
        report.error(
            &mode.place,
            format!("tunnel mode over IPv{family}{to} needs a source address of the edge"),
            format!("add source{family} under [edge.tunnel]"),
        );
    }
}

fn same_ports(report: &mut Report<'_>, service: &ServiceDraft<'_>, what: &str) {
    let Some(own) = &service.port else { return };
    let help = match own.value {
        0 => "remove the endpoint's port",
        _ => "remove the endpoint's port, or use mode = \"nat\"",
    };
    let endpoints = service.endpoints.iter().flatten();
    for port in endpoints.filter_map(|endpoint| endpoint.port.as_ref()) {
        if port.value != own.value {
            let (is, has) = (port.value, own.value);
            let message = format!("is {is} where the service has {has}: {what} changes no port");
            report.error(&port.place, message, help);
        }
    }
}

fn same_family(report: &mut Report<'_>, service: &ServiceDraft<'_>) {
    let Some(vip) = &service.vip else { return };
    for endpoint in service.endpoints.iter().flatten() {
        let Some(address) = &endpoint.address else {
            continue;
        };
        if vip.value.is_ipv4() == address.value.is_ipv4() {
            continue;
        }
        let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let (own, other) = (family(address.value), family(vip.value));
        report.error(
            &address.place,
            format!("{} is {own} where the vip is {other}", address.value),
            format!("give the endpoint's {other} address, or use mode = \"tunnel\""),
        );
    }
}

/// Endpoints of a service: apart from each other, and from the edge.
fn endpoints(report: &mut Report<'_>, addresses: &Addresses<'_>, service: &ServiceDraft<'_>) {
    let endpoints = service.endpoints.as_deref().unwrap_or_default();
    names(
        report,
        "endpoint of this service",
        endpoints.iter().map(|it| it.name.as_ref()),
    );
    let mut first: HashMap<(IpAddr, u16), &Place> = HashMap::new();
    for endpoint in endpoints {
        let Some(address) = &endpoint.address else {
            continue;
        };
        match service.mode.as_ref() {
            Some(mode) if !mode.value.is_steered() => addresses.of_upstream(report, address),
            _ => addresses.of_endpoint(report, address),
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
