//! Sites, services and their endpoints, each for itself.

use std::{net::IpAddr, sync::Arc};

use director_core::model::{Endpoint, Mode, ProbeSpec, Protocol, Service, Site, Steering};

use super::{
    health::{self, Timing},
    value::{self, Role},
};
use crate::config::{
    field::Field,
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
    timing: Timing,
    probe: Option<ProbeSpec>,
    /// `None` when the list itself is wrong.
    pub(super) endpoints: Option<Vec<EndpointDraft<'r>>>,
}

#[derive(Debug)]
pub(super) struct EndpointDraft<'r> {
    pub(super) place: Place,
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) site: Option<Located<&'r str>>,
    pub(super) address: Option<Located<IpAddr>>,
    pub(super) port: Option<Located<u16>>,
    pub(super) weight: Option<u32>,
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
    pub(super) fn finish(self) -> Option<Service> {
        let endpoints = self.endpoints?.into_iter().map(EndpointDraft::finish);
        Some(Service {
            name: self.name?.value,
            vip: self.vip?.value,
            port: self.port?.value,
            protocol: self.protocol?.value,
            mode: self.mode?.value,
            steering: Steering::default(),
            health: self.timing.policy(self.probe?)?,
            endpoints: endpoints.collect::<Option<_>>()?,
        })
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
            server_id: None,
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

/// Every service; `None` when they are not a list of tables.
pub(super) fn services<'r>(
    report: &mut Report<'_>,
    root: &Place,
    raw: &'r raw::Root,
    inherited: &Timing,
) -> Option<Vec<ServiceDraft<'r>>> {
    let services = report.tables(root, "service", &raw.service, |service| {
        service.name.as_ref()
    })?;
    let drafts = services
        .into_iter()
        .map(|located| service(report, located, inherited));
    Some(drafts.collect())
}

fn service<'r>(
    report: &mut Report<'_>,
    located: Located<&'r raw::Service>,
    inherited: &Timing,
) -> ServiceDraft<'r> {
    let Located { value: raw, place } = located;
    let protocols = value::choice(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
    let modes = value::choice(&[("tunnel", Mode::Tunnel), ("nat", Mode::Nat)]);
    let vips = value::address(Role::Vip);
    let name = report.require(&place, key("name", r#""web""#), &raw.name, |text| {
        value::name(text)
    });
    let vip = report.require(&place, key("vip", r#""203.0.113.10""#), &raw.vip, |text| {
        vips(text)
    });
    let port = report.require(&place, key("port", "80"), &raw.port, ports());
    let protocol = key("protocol", r#""tcp""#);
    let protocol = report.require(&place, protocol, &raw.protocol, protocols);
    let mode = report.require(&place, key("mode", r#""tunnel""#), &raw.mode, modes);

    let known_protocol = protocol.as_ref().map(|protocol| protocol.value);
    let (timing, probe) = match report.table(&place, "health", &raw.health) {
        Given::Absent => (
            inherited.clone(),
            health::probe(report, &place, None, known_protocol),
        ),
        Given::Refused => (Timing::default(), None),
        Given::Value(own) => (
            health::timing(report, &own.place, own.value.timing(), inherited),
            health::probe(report, &place, Some(&own), known_protocol),
        ),
    };
    let endpoints = endpoints(report, &place, raw, port.as_ref());
    ServiceDraft {
        place,
        name,
        vip,
        port,
        protocol,
        mode,
        timing,
        probe,
        endpoints,
    }
}

fn ports() -> impl Fn(&i64) -> Result<u16, Fault> {
    value::number(1..=u16::MAX)
}

fn endpoints<'r>(
    report: &mut Report<'_>,
    service: &Place,
    raw: &'r raw::Service,
    service_port: Option<&Located<u16>>,
) -> Option<Vec<EndpointDraft<'r>>> {
    let tables = report.tables(service, "endpoint", &raw.endpoint, |endpoint| {
        endpoint.name.as_ref()
    })?;
    if raw.endpoint.is_none() || raw.endpoint.as_ref().is_some_and(is_empty) {
        report.error(
            service,
            "has no endpoint",
            "add a [[service.endpoint]] with the keys name, site and address",
        );
    }
    let addresses = value::address(Role::Endpoint);
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
                .read(&place, key("port", "80"), &raw.port, ports())
                .or_inherited(service_port),
            weight: weight(report, &place, &raw.weight),
            place,
        }
    });
    Some(drafts.collect())
}

fn is_empty<T>(list: &Field<Vec<T>>) -> bool {
    list.value.as_ref().is_ok_and(Vec::is_empty)
}
