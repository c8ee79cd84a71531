//! Relations between listeners, routes, and the services that they lead to.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use director_core::{
    l7::{Action, Matches, PathMatch, Redirect, Rewrite},
    model::{Mode, Protocol},
};

use super::{
    EdgeHttpDraft, HttpDraft,
    route::{PoolRef, RouteDraft},
    shadow,
};
use crate::config::{
    place::{Given, Located, Place},
    report::Report,
    valid::{across::names, service::ServiceDraft},
    words::{closest, quoted},
};

/// Reports what contradicts what. A value that was refused is left out.
pub(in crate::config::valid) fn check(
    report: &mut Report<'_>,
    edge: Option<&EdgeHttpDraft>,
    services: &[ServiceDraft<'_>],
) {
    for service in services {
        upstream(report, service);
        if let Given::Value(http) = &service.http {
            listener(report, service, http);
            for route in http.value.routes.iter().flatten() {
                leads_somewhere(report, service, route, services);
                if let Some(edge) = edge {
                    needs(report, edge, route);
                }
            }
        }
    }
    loops(report, services);
    unused(report, services);
}

/// Whether it has endpoints: unknown where the list is wrong.
fn has_endpoints(service: &ServiceDraft<'_>) -> Option<bool> {
    Some(!service.endpoints.as_ref()?.is_empty())
}

fn is_udp(service: &ServiceDraft<'_>) -> bool {
    let protocol = service.protocol.as_ref();
    protocol.is_some_and(|protocol| protocol.value == Protocol::Udp)
}

fn upstream(report: &mut Report<'_>, service: &ServiceDraft<'_>) {
    let Some(place) = &service.upstream_place else {
        return;
    };
    let is_proxy = |mode: &Located<Mode>| mode.value == Mode::Proxy;
    if is_udp(service) {
        report.error(
            place,
            "is for services over tcp",
            "remove [service.upstream]",
        );
    } else if has_endpoints(service) == Some(false) && service.mode.as_ref().is_some_and(is_proxy) {
        // In other modes, the service itself was refused.
        let help = match service.http {
            Given::Absent => "remove [service.upstream], or add [service.http] and endpoints",
            _ => "add a [[service.endpoint]], or remove [service.upstream]",
        };
        report.error(place, "means nothing: the service has no endpoint", help);
    }
}

fn listener(report: &mut Report<'_>, service: &ServiceDraft<'_>, http: &Located<HttpDraft<'_>>) {
    let other_mode = |mode: &Located<Mode>| mode.value != Mode::Proxy;
    if service.mode.as_ref().is_some_and(other_mode) || is_udp(service) {
        report.error(
            &http.place,
            "is for tcp in proxy mode only",
            "use protocol = \"tcp\" and mode = \"proxy\", or remove [service.http]",
        );
    }
    if let Some(port) = service.port.as_ref().filter(|port| port.value == 0) {
        report.error(
            &port.place,
            "is 0, every port, and director's proxy listens on one",
            "give one port, such as 443",
        );
    }
    let routes = http.value.routes.as_deref().unwrap_or_default();
    names(
        report,
        "route of this service",
        routes.iter().map(|route| route.name.as_ref()),
    );
    for (index, route) in routes.iter().enumerate() {
        let Some(matches) = &route.matches else {
            continue;
        };
        let covers = |other: &&RouteDraft<'_>| {
            let earlier = other.matches.as_ref();
            earlier.is_some_and(|earlier| shadow::covers(earlier, matches))
        };
        if let Some(other) = routes[..index].iter().find(covers) {
            let name = other.name.as_ref();
            let name = name.map_or_else(String::new, |name| format!("{}, ", quoted(&name.value)));
            let line = report.line(&other.place);
            report.error(
                &route.place,
                format!("can never match: route {name}on line {line}, has all of its requests"),
                "put it before that route, narrow that route, or remove it",
            );
        }
        let (Some(Action::Redirect(redirect)), Some(place)) = (&route.action, &route.redirect)
        else {
            continue;
        };
        let scheme = http.value.settings.as_ref();
        let scheme = scheme.map(|it| if it.tls.is_some() { "https" } else { "http" });
        let port = service.port.as_ref().map(|port| port.value);
        if let (Some(scheme), Some(port)) = (scheme, port)
            && is_same_url(redirect, matches, scheme, port)
        {
            report.error(
                place,
                "leads to the URL that was asked for, again and again",
                "give it another scheme, host, port or path",
            );
        }
    }
}

/// Whether a redirect certainly leads to the URL that it is the answer to.
fn is_same_url(redirect: &Redirect, matches: &Matches, scheme: &str, port: u16) -> bool {
    // A client may ask with another method, or other headers, the second time.
    let is_changed = matches!(redirect.status, 301..=303) && !matches.methods.is_empty();
    if is_changed || !matches.headers.is_empty() {
        return false;
    }
    let same_scheme = redirect.scheme.as_deref().is_none_or(|it| it == scheme);
    let same_port = redirect.port.is_none_or(|it| it == port);
    let same_host = redirect
        .host
        .as_ref()
        .is_none_or(|host| matches.hosts == [host.clone()]);
    let same_path = match (&redirect.path, &matches.path) {
        (None, _) => true,
        (Some(Rewrite::Path(new)), Some(PathMatch::Exact(old))) => new == old,
        (Some(Rewrite::Prefix(new)), Some(PathMatch::Prefix(old))) => new == old,
        _ => false,
    };
    same_scheme && same_port && same_host && same_path
}

/// A route that forwards has endpoints to forward to.
fn leads_somewhere(
    report: &mut Report<'_>,
    service: &ServiceDraft<'_>,
    route: &RouteDraft<'_>,
    services: &[ServiceDraft<'_>],
) {
    let pool = match &route.pool {
        None => return,
        Some(PoolRef::Own) => {
            if has_endpoints(service) == Some(false) {
                report.error(
                    &route.place,
                    "leads nowhere: the service has no endpoint",
                    "add a pool, redirect or answer to a [[service.route]], or a \
                     [[service.endpoint]]",
                );
            }
            return;
        }
        Some(PoolRef::Named(pool)) => pool,
    };
    let name_of = |service: &ServiceDraft<'_>| service.name.as_ref().map(|it| it.value.clone());
    let mut named = services.iter();
    let Some(target) = named.find(|it| name_of(it).as_deref() == Some(pool.value)) else {
        // One whose name cannot be read may be the one that is meant.
        if services.iter().any(|service| service.name.is_none()) {
            return;
        }
        let usable = services
            .iter()
            .filter(|it| has_endpoints(it) == Some(true) && !is_udp(it));
        let candidates = usable.filter_map(|it| it.name.as_ref());
        let help = match closest(pool.value, candidates.map(|name| &*name.value)) {
            Some(meant) => format!("did you mean {}?", quoted(meant)),
            None => format!("add a [[pool]] with name = {}", quoted(pool.value)),
        };
        let message = format!("there is no pool or service {}", quoted(pool.value));
        report.error(&pool.place, message, help);
        return;
    };
    let line = report.line(&target.place);
    let name = quoted(pool.value);
    let is_every_port = target.port.as_ref().is_some_and(|port| port.value == 0);
    let (why, help) = if has_endpoints(target) == Some(false) {
        ("has no endpoint", "name one that has endpoints")
    } else if is_udp(target) {
        ("is over udp", "name one over tcp")
    } else if is_every_port && target.mode.as_ref().is_some_and(|it| it.value.is_steered()) {
        let help = "name one with a port, or make a [[pool]] of the same endpoints";
        ("has every port, and none to connect to", help)
    } else {
        return;
    };
    report.error(&pool.place, format!("{name}, on line {line}, {why}"), help);
}

/// What a route needs of `[edge.http]`.
fn needs(report: &mut Report<'_>, edge: &EdgeHttpDraft, route: &RouteDraft<'_>) {
    if let Some(place) = &route.seals
        && matches!(edge.seal_key, Given::Absent)
    {
        report.error(
            place,
            "needs a key by which edges seal what they give to clients",
            "add seal_key_file = \"seal.key\" under [edge.http]",
        );
    }
    if let Some(place) = &route.caches
        && edge.cache == Some(0)
    {
        report.warning(
            place,
            "has no effect: there is no memory to cache in",
            "add cache = \"64MiB\" under [edge.http], or remove it",
        );
    }
}

/// No endpoint is where the proxy itself listens.
fn loops(report: &mut Report<'_>, services: &[ServiceDraft<'_>]) {
    let mut listeners: HashMap<(IpAddr, u16), &ServiceDraft<'_>> = HashMap::new();
    for service in services {
        if let (Given::Value(_), Some(vip), Some(port)) =
            (&service.http, &service.vip, &service.port)
        {
            listeners.entry((vip.value, port.value)).or_insert(service);
        }
    }
    // An endpoint of another mode at a VIP is refused as such.
    let is_steered = |service: &&ServiceDraft<'_>| {
        let mode = service.mode.as_ref();
        mode.is_some_and(|mode| !mode.value.is_steered())
    };
    for service in services.iter().filter(is_steered) {
        for endpoint in service.endpoints.iter().flatten() {
            let (Some(address), Some(port)) = (&endpoint.address, &endpoint.port) else {
                continue;
            };
            let Some(listener) = listeners.get(&(address.value, port.value)) else {
                continue;
            };
            let name = listener.name.as_ref();
            let name = name.map_or_else(|| "another".to_owned(), |name| quoted(&name.value));
            let line = report.line(&listener.place);
            report.error(
                &address.place,
                format!(
                    "a loop to itself: director's proxy listens at {} port {} for service \
                     {name}, on line {line}",
                    address.value, port.value
                ),
                "give the address and port of the server",
            );
        }
    }
}

/// A pool that no route leads to is probably a slip.
fn unused(report: &mut Report<'_>, services: &[ServiceDraft<'_>]) {
    let mut used = HashSet::new();
    for service in services {
        let http = match &service.http {
            Given::Absent => continue,
            Given::Refused => return,
            Given::Value(http) => &http.value,
        };
        let Some(routes) = &http.routes else { return };
        for route in routes {
            match &route.pool {
                Some(PoolRef::Named(pool)) => drop(used.insert(pool.value)),
                Some(PoolRef::Own) => {}
                None if route.action.is_none() => return,
                None => {}
            }
        }
    }
    let is_pool = |service: &&ServiceDraft<'_>| {
        let mode = service.mode.as_ref();
        mode.is_some_and(|mode| mode.value == Mode::Pool)
    };
    for pool in services.iter().filter(is_pool) {
        if let Some(name) = pool.name.as_ref().filter(|it| !used.contains(&*it.value)) {
            let place: &Place = &pool.place;
            report.warning(
                place,
                "no route leads to it",
                format!(
                    "add pool = {} to a [[service.route]], or remove it",
                    quoted(&name.value)
                ),
            );
        }
    }
}
