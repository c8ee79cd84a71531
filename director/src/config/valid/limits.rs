//! What the maps in the kernel are sized for, `[edge.limits]`, and what is
//! configured against that.

use director_core::model::Mode;

use super::{edge::EdgeDraft, service::ServiceDraft, value};
use crate::config::{
    Limits,
    place::{Given, Located, Place, key},
    raw,
    report::Report,
};

#[derive(Debug)]
pub(super) struct LimitsDraft {
    flows: Option<u32>,
    nat_flows: Option<u32>,
    services: Option<Located<u32>>,
    endpoints: Option<Located<u32>>,
    table_size: Option<Located<u32>>,
}

impl LimitsDraft {
    pub(super) fn finish(self) -> Option<Limits> {
        Some(Limits {
            flows: self.flows?,
            nat_flows: self.nat_flows?,
            services: self.services?.value,
            endpoints: self.endpoints?.value,
            table_size: self.table_size?.value,
        })
    }
}

pub(super) fn limits(
    report: &mut Report<'_>,
    edge: &Place,
    raw: &raw::Edge,
) -> Option<LimitsDraft> {
    let raw = match report.table(edge, "limits", &raw.limits) {
        Given::Value(located) => located,
        Given::Refused => return None,
        Given::Absent => Located {
            value: &raw::Limits::NONE,
            place: edge.clone(),
        },
    };
    let Located { value: raw, place } = raw;
    let flows = value::number(1024..=67_108_864);
    let nat_flows = value::number(1024..=16_777_216);
    let services = value::number(1..=1000);
    let endpoints = value::number(1..=10_000);
    let table_size = key("table_size", "16381");
    Some(LimitsDraft {
        flows: report
            .read(&place, key("flows", "1048576"), &raw.flows, flows)
            .value_or(1_048_576),
        nat_flows: report
            .read(
                &place,
                key("nat_flows", "262144"),
                &raw.nat_flows,
                nat_flows,
            )
            .value_or(262_144),
        services: report
            .read(&place, key("services", "64"), &raw.services, services)
            .or(&place, 64),
        endpoints: report
            .read(&place, key("endpoints", "1024"), &raw.endpoints, endpoints)
            .or(&place, 1024),
        table_size: report
            .read(&place, table_size, &raw.table_size, value::table_size)
            .or(&place, 16_381),
    })
}

/// Reports what is too many, and tables too small for their endpoints. What the
/// kernel does not know of takes no place in it.
pub(super) fn check(report: &mut Report<'_>, edge: &EdgeDraft, services: &[ServiceDraft<'_>]) {
    let Some(limits) = &edge.limits else { return };
    let count = |limit: &Option<Located<u32>>| {
        limit
            .as_ref()
            .map_or(usize::MAX, |limit| limit.value as usize)
    };
    let most = count(&limits.services);
    let visible = || {
        services
            .iter()
            .filter(|service| !is(service, |it| it == Mode::Pool))
    };
    if let Some(extra) = visible().nth(most) {
        let all = visible().count();
        report.error(
            &extra.place,
            format!("is one of {all} services, and the limit is {most}"),
            format!("set services under [edge.limits] to {all} or more"),
        );
    }
    let most = count(&limits.endpoints);
    let endpoints = || {
        services
            .iter()
            .filter(|service| !is(service, |mode| !mode.is_steered()))
            .flat_map(|service| service.endpoints.iter().flatten())
    };
    if let Some(extra) = endpoints().nth(most) {
        let all = endpoints().count();
        report.error(
            &extra.place,
            format!("is one of {all} endpoints of all services, and the limit is {most}"),
            format!("set endpoints under [edge.limits] to {all} or more"),
        );
    }
    let Some(slots) = limits.table_size.as_ref() else {
        return;
    };
    for service in services {
        let endpoints = service.endpoints.as_ref().map_or(0, Vec::len);
        table_size(report, service, slots.value, endpoints);
    }
}

fn is(service: &ServiceDraft<'_>, what: impl Fn(Mode) -> bool) -> bool {
    service.mode.as_ref().is_some_and(|mode| what(mode.value))
}

/// Shares are as coarse as slots: below a hundred for each endpoint, they are
/// more than 1 % off (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
fn table_size(report: &mut Report<'_>, service: &ServiceDraft<'_>, slots: u32, endpoints: usize) {
    let help = "use a larger table_size under [edge.limits], or fewer endpoints";
    if endpoints > slots as usize {
        report.error(
            &service.place,
            format!("has {endpoints} endpoints for a table of {slots} slots: some would get none"),
            help,
        );
    } else if endpoints * 100 > slots as usize && !is(service, |mode| !mode.is_steered()) {
        report.warning(
            &service.place,
            format!(
                "has {endpoints} endpoints for a table of {slots} slots: with fewer than 100 \
                 slots for each, shares are more than 1 % off"
            ),
            help,
        );
    }
}
