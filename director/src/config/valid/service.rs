//! Sites, services and their endpoints, each for itself.

use std::{net::IpAddr, path::Path, sync::Arc};

use director_core::{
    l7::{Listener, Upstream},
    model::{Endpoint, Mode, ProbeSpec, Protocol, Service, Site},
};

use super::{
    health::{self, Timing, Unsaid},
    http::{self, HttpDraft},
    pool,
    steering::{self, SERVER_ID, SteeringDraft},
    value::{self, Role},
};
use crate::config::{
    field::{Field, Table},
    place::{Fault, Given, Located, Place, key},
    raw,
    report::Report,
};

const WEIGHT: std::ops::RangeInclusive<u32> = 0..=1000;

/// What could be read of a site; `None` stands for what is wrong.
#[derive(Debug)]
pub(super) struct SiteDraft<'r> {
    pub(super) place: Place,
    /// The name as written, right or wrong, so that a wrong name is reported
    /// once and not again by every endpoint that refers to it.
    pub(super) written: Option<&'r str>,
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) weight: Option<u32>,
}

#[derive(Debug)]
pub(super) struct ServiceDraft<'r> {
    pub(super) place: Place,
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) vip: Option<Located<IpAddr>>,
    pub(super) port: Option<Located<u16>>,
    pub(super) protocol: Option<Located<Protocol>>,
    pub(super) mode: Option<Located<Mode>>,
    pub(super) steering: SteeringDraft,
    pub(super) timing: Timing,
    pub(super) probe: Option<ProbeSpec>,
    /// `None` when the list itself is wrong.
    pub(super) endpoints: Option<Vec<EndpointDraft<'r>>>,
    /// How director's proxy serves it.
    pub(super) http: Given<HttpDraft<'r>>,
    /// How its endpoints are spoken to by the proxy.
    pub(super) upstream: Option<Upstream>,
    /// Where that is said.
    pub(super) upstream_place: Option<Place>,
}

#[derive(Debug)]
pub(super) struct EndpointDraft<'r> {
    pub(super) place: Place,
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) site: Option<Located<&'r str>>,
    pub(super) address: Option<Located<IpAddr>>,
    pub(super) port: Option<Located<u16>>,
    /// Whether it does not say its port itself.
    pub(super) is_portless: bool,
    pub(super) weight: Option<u32>,
    pub(super) server_id: Given<u32>,
}

impl SiteDraft<'_> {
    pub(super) fn finish(self) -> Option<Site> {
        Some(Site {
            name: self.name?.value,
            weight: self.weight?,
        })
    }
}

impl ServiceDraft<'_> {
    /// The service, how the proxy serves it, and how it speaks to its endpoints.
    pub(super) fn finish(self) -> Option<(Service, Option<Listener>, Option<Upstream>)> {
        let endpoints = self.endpoints?.into_iter().map(EndpointDraft::finish);
        let service = Service {
            name: self.name?.value,
            vip: self.vip?.value,
            port: self.port?.value,
            protocol: self.protocol?.value,
            mode: self.mode?.value,
            steering: self.steering.finish()?,
            health: self.timing.policy(self.probe?)?,
            endpoints: endpoints.collect::<Option<_>>()?,
        };
        let listener = match self.http.into_option()? {
            Some(http) => Some(http.finish(&service)?),
            None => None,
        };
        let upstream = self.upstream?;
        let is_asked = service.protocol == Protocol::Tcp && !service.endpoints.is_empty();
        Some((service, listener, is_asked.then_some(upstream)))
    }
}

impl EndpointDraft<'_> {
    fn finish(self) -> Option<Endpoint> {
        Some(Endpoint {
            name: self.name?.value,
            site: self.site?.value.into(),
            address: self.address?.value,
            port: self.port?.value,
            weight: self.weight?,
            server_id: self.server_id.into_option()?,
        })
    }
}

/// Every site; `None` when they are not a list of tables.
pub(super) fn sites<'r>(
    report: &mut Report<'_>,
    root: &Place,
    raw: &'r raw::Root,
) -> Option<Vec<SiteDraft<'r>>> {
    let sites = report.tables(root, "site", &raw.site, |site| site.name.as_ref())?;
    let drafts = sites.into_iter().map(|Located { value: raw, place }| {
        let written = raw
            .name
            .as_ref()
            .and_then(|name| name.value.as_deref().ok());
        let name = report.require(&place, key("name", r#""dc01""#), &raw.name, |text| {
            value::name(text)
        });
        let weight = weight(report, &place, &raw.weight);
        SiteDraft {
            place,
            written,
            name,
            weight,
        }
    });
    Some(drafts.collect())
}

fn weight(report: &mut Report<'_>, place: &Place, raw: &raw::Integer) -> Option<u32> {
    let weight = report.read(place, key("weight", "1"), raw, value::number(WEIGHT));
    weight.or(place, 1).map(|weight| weight.value)
}

/// Every service, then every pool; `None` when they are not lists of tables. Files
/// are looked for in `directory`.
pub(super) fn services<'r>(
    report: &mut Report<'_>,
    root: &Place,
    raw: &'r raw::Root,
    inherited: &Timing,
    directory: &Path,
) -> Option<Vec<ServiceDraft<'r>>> {
    let services = report.tables(root, "service", &raw.service, |service| {
        service.name.as_ref()
    });
    let services = services.map(|services| {
        let drafts = services
            .into_iter()
            .map(|located| service(report, located, inherited, directory));
        drafts.collect::<Vec<_>>()
    });
    let pools = report.tables(root, "pool", &raw.pool, |pool| pool.name.as_ref());
    let pools = pools.map(|pools| {
        let drafts = pools
            .into_iter()
            .map(|located| pool::pool(report, located, inherited, directory));
        drafts.collect::<Vec<_>>()
    });
    let mut all = services?;
    all.extend(pools?);
    Some(all)
}

fn service<'r>(
    report: &mut Report<'_>,
    located: Located<&'r raw::Service>,
    inherited: &Timing,
    directory: &Path,
) -> ServiceDraft<'r> {
    let Located { value: raw, place } = located;
    let protocols = value::choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
    let modes = value::choice(&[
        ("tunnel", Mode::Tunnel),
        ("nat", Mode::Nat),
        ("l2", Mode::L2),
        ("proxy", Mode::Proxy),
    ]);
    let vips = value::address(Role::Vip);
    let name = report.require(&place, key("name", r#""web""#), &raw.name, |text| {
        value::name(text)
    });
    let vip = report.require(&place, key("vip", r#""203.0.113.10""#), &raw.vip, |text| {
        vips(text)
    });
    let port = report.require(&place, key("port", "80"), &raw.port, ports(0));
    let protocol = key("protocol", r#""tcp""#);
    let protocol = report.require(&place, protocol, &raw.protocol, protocols);
    let mode = report.require(&place, key("mode", r#""tunnel""#), &raw.mode, modes);
    let steering = steering::steering(report, &place, raw);

    let steered = mode.as_ref().map(|mode| mode.value.is_steered());
    let has_none = has_none(&raw.endpoint);
    let (timing, probe, endpoints) = if steered == Some(false) && raw.http.is_none() {
        only_this_host(report, &place, raw);
        let probe = ProbeSpec::Tcp { port: None };
        (inherited.clone(), Some(probe), Some(Vec::new()))
    } else {
        // What the proxy serves is TCP on one port, or is refused as such.
        let unsaid = match steered {
            Some(false) => Unsaid::Nothing,
            _ => unsaid(protocol.as_ref(), mode.as_ref(), port.as_ref()),
        };
        let (timing, probe) = probing(report, &place, &raw.health, inherited, unsaid);
        let role = match steered {
            Some(false) => Role::Upstream,
            _ => Role::Endpoint,
        };
        let endpoints = endpoints(report, &place, &raw.endpoint, port.as_ref(), role);
        if has_none {
            without_endpoints(report, &place, raw, steered);
        }
        (timing, probe, endpoints)
    };
    ServiceDraft {
        http: http::http(report, &place, raw, name.as_ref(), directory),
        upstream: http::upstream(report, &place, name.as_ref(), &raw.upstream, directory),
        upstream_place: upstream_place(&place, &raw.upstream),
        place,
        name,
        vip,
        port,
        protocol,
        mode,
        steering,
        timing,
        probe,
        endpoints,
    }
}

pub(super) fn has_none<T>(endpoints: &raw::Tables<T>) -> bool {
    endpoints.as_ref().is_none_or(is_empty)
}

pub(super) fn upstream_place<T>(service: &Place, raw: &Option<Field<T>>) -> Option<Place> {
    let raw = raw.as_ref()?;
    Some(service.key("upstream", raw.span.start))
}

/// Refuses what a service without endpoints cannot be, or cannot have.
fn without_endpoints(
    report: &mut Report<'_>,
    service: &Place,
    raw: &raw::Service,
    steered: Option<bool>,
) {
    match steered {
        Some(true) => report.error(
            service,
            "has no endpoint",
            "add a [[service.endpoint]] with the keys name, site and address",
        ),
        Some(false) => {
            if let Some(health) = &raw.health {
                report.error(
                    &service.key("health", health.span.start),
                    "probes nothing: the service has no endpoint",
                    "add a [[service.endpoint]], or remove [service.health]",
                );
            }
        }
        None => {}
    }
}

fn ports(first: u16) -> impl Fn(&i64) -> Result<u16, Fault> {
    value::number(first..=u16::MAX)
}

/// Refuses what is for services that are served elsewhere.
fn only_this_host(report: &mut Report<'_>, service: &Place, raw: &raw::Service) {
    let why = "means nothing in proxy mode, where this host itself serves";
    if let Some(health) = &raw.health {
        let place = service.key("health", health.span.start);
        report.error(&place, why, "remove [service.health]");
    }
    if let Some(endpoints) = &raw.endpoint {
        let first = endpoints.value.as_ref().ok().and_then(|all| all.first());
        let at = first.map_or(endpoints.span.start, |first| first.span.start);
        let help = "remove every [[service.endpoint]], or use another mode";
        report.error(&service.key("endpoint", at), why, help);
    }
}

/// What must be said of the probe. Where the mode is not known, nothing may be.
fn unsaid(
    protocol: Option<&Located<Protocol>>,
    mode: Option<&Located<Mode>>,
    port: Option<&Located<u16>>,
) -> Unsaid {
    let (Some(protocol), Some(mode)) = (protocol, mode) else {
        return Unsaid::Nothing;
    };
    let is_every_port = port.is_some_and(|port| port.value == 0);
    match protocol.value {
        Protocol::Udp => Unsaid::TypeAndPort,
        // NAT mode cannot have every port, which is said elsewhere.
        Protocol::Tcp if is_every_port && mode.value != Mode::Nat => Unsaid::Port,
        Protocol::Tcp => Unsaid::Nothing,
    }
}

pub(super) fn probing(
    report: &mut Report<'_>,
    service: &Place,
    raw: &Option<Table<raw::ServiceHealth>>,
    inherited: &Timing,
    unsaid: Unsaid,
) -> (Timing, Option<ProbeSpec>) {
    match report.table(service, "health", raw) {
        Given::Absent => (
            inherited.clone(),
            health::probe(report, service, None, unsaid),
        ),
        Given::Refused => (Timing::default(), None),
        Given::Value(own) => (
            health::timing(report, &own.place, own.value.timing(), inherited),
            health::probe(report, service, Some(&own), unsaid),
        ),
    }
}

pub(super) fn endpoints<'r>(
    report: &mut Report<'_>,
    service: &Place,
    raw: &'r raw::Tables<raw::Endpoint>,
    service_port: Option<&Located<u16>>,
    role: Role,
) -> Option<Vec<EndpointDraft<'r>>> {
    let tables = report.tables(service, "endpoint", raw, |endpoint| endpoint.name.as_ref())?;
    let addresses = value::address(role);
    let drafts = tables.into_iter().map(|Located { value: raw, place }| {
        let address = key("address", r#""198.51.100.11""#);
        EndpointDraft {
            name: report.require(&place, key("name", r#""dc01-a""#), &raw.name, |text| {
                value::name(text)
            }),
            site: report.require(&place, key("site", r#""dc01""#), &raw.site, |text| {
                Ok(text.as_str())
            }),
            address: report.require(&place, address, &raw.address, |text| addresses(text)),
            port: report
                .read(&place, key("port", "80"), &raw.port, ports(1))
                .or_inherited(service_port),
            weight: weight(report, &place, &raw.weight),
            is_portless: raw.port.is_none(),
            server_id: report.read(&place, SERVER_ID, &raw.server_id, steering::server_id()),
            place,
        }
    });
    Some(drafts.collect())
}

fn is_empty<T>(list: &Field<Vec<T>>) -> bool {
    list.value.as_ref().is_ok_and(Vec::is_empty)
}
