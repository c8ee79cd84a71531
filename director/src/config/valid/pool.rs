//! `[[pool]]`: services that only routes of the proxy lead to.

use std::{net::Ipv4Addr, path::Path};

use director_core::model::{Mode, Protocol};

use super::{
    health::{Timing, Unsaid},
    http,
    service::{ServiceDraft, endpoints, has_none, probing, upstream_place},
    steering::SteeringDraft,
    value::{self, Role},
};
use crate::config::{
    place::{Given, Located, Place, key},
    raw,
    report::Report,
};

/// A service without an address of its own: only routes of the proxy lead to it.
pub(super) fn pool<'r>(
    report: &mut Report<'_>,
    located: Located<&'r raw::Pool>,
    inherited: &Timing,
    directory: &Path,
) -> ServiceDraft<'r> {
    fn given<T>(value: T, place: &Place) -> Option<Located<T>> {
        let place = place.clone();
        Some(Located { value, place })
    }
    let Located { value: raw, place } = located;
    let name = report.require(&place, key("name", r#""api""#), &raw.name, |text| {
        value::name(text)
    });
    let (timing, probe) = probing(report, &place, &raw.health, inherited, Unsaid::Nothing);
    let endpoints = endpoints(report, &place, &raw.endpoint, None, Role::Upstream);
    for endpoint in endpoints.iter().flatten() {
        if endpoint.is_portless {
            report.missing(&endpoint.place, key("port", "8080"));
        }
    }
    if has_none(&raw.endpoint) {
        report.error(
            &place,
            "has no endpoint",
            "add a [[pool.endpoint]] with the keys name, site, address and port",
        );
    }
    ServiceDraft {
        vip: given(Ipv4Addr::UNSPECIFIED.into(), &place),
        port: given(0, &place),
        protocol: given(Protocol::Tcp, &place),
        mode: given(Mode::Pool, &place),
        steering: SteeringDraft::none(),
        timing,
        probe,
        endpoints,
        http: Given::Absent,
        upstream: http::upstream(report, &place, name.as_ref(), &raw.upstream, directory),
        upstream_place: upstream_place(&place, &raw.upstream),
        name,
        place,
    }
}
