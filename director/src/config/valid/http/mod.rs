//! The edge proxy: `[edge.http]`, `[service.http]`, routes and upstreams.

mod across;
mod affinity;
mod answer;
mod breaker;
mod edge;
mod forward;
mod listener;
mod matches;
mod reader;
mod route;
mod shadow;
mod upstream;
mod value;

use std::{path::Path, sync::Arc};

use director_core::{l7::Listener, model::Service};

use self::{listener::Settings, route::RouteDraft};
use crate::config::{
    place::{Given, Located, Place},
    raw,
    report::Report,
};

pub(super) use self::{
    across::check,
    edge::{EdgeHttpDraft, edge},
    upstream::upstream,
};

/// Routes of one service: each is compared with those before it.
const ROUTES: usize = 1000;

/// What could be read of a service's listener; `None` stands for what is wrong.
#[derive(Debug)]
pub(super) struct HttpDraft<'r> {
    settings: Option<Settings>,
    routes: Option<Vec<RouteDraft<'r>>>,
}

impl HttpDraft<'_> {
    pub(super) fn finish(self, service: &Service) -> Option<Listener> {
        let settings = self.settings?;
        let routes = self.routes?.into_iter().map(RouteDraft::finish);
        Some(Listener {
            service: service.name.clone(),
            address: service.vip,
            port: service.port,
            tls: settings.tls,
            http2: settings.http2,
            proxy_protocol_from: settings.proxy_protocol_from,
            trusted: settings.trusted,
            forwarded: settings.forwarded,
            request_id: settings.request_id,
            traceparent: settings.traceparent,
            limits: settings.limits,
            routes: routes.collect::<Option<_>>()?,
        })
    }
}

/// `[service.http]` and the routes of a service.
pub(super) fn http<'r>(
    report: &mut Report<'_>,
    service: &Place,
    raw: &'r raw::Service,
    name: Option<&Located<Arc<str>>>,
    directory: &Path,
) -> Given<HttpDraft<'r>> {
    let name = name.map(|name| &name.value);
    let routes = routes(report, service, &raw.route, name, directory);
    let Located { value: http, place } = match report.table(service, "http", &raw.http) {
        Given::Absent => {
            if let Some(route) = &raw.route {
                let first = route.value.as_ref().ok().and_then(|all| all.first());
                let at = first.map_or(route.span.start, |first| first.span.start);
                report.error(
                    &service.key("route", at),
                    "is for services that director's proxy serves",
                    "add [service.http], or remove every [[service.route]]",
                );
            }
            return Given::Absent;
        }
        Given::Refused => return Given::Refused,
        Given::Value(located) => located,
    };
    let settings = listener::settings(report, &place, http, directory);
    let routes = routes.map(|routes| match has_items(&raw.route) {
        true => routes,
        false => vec![route::default(&place, name.cloned())],
    });
    Given::Value(Located {
        value: HttpDraft { settings, routes },
        place,
    })
}

fn has_items<T>(list: &raw::Tables<T>) -> bool {
    let items = list.as_ref().and_then(|list| list.value.as_ref().ok());
    items.is_some_and(|items| !items.is_empty())
}

fn routes<'r>(
    report: &mut Report<'_>,
    service: &Place,
    raw: &'r raw::Tables<raw::http::Route>,
    name: Option<&Arc<str>>,
    directory: &Path,
) -> Option<Vec<RouteDraft<'r>>> {
    let tables = report.tables(service, "route", raw, |route| route.name.as_ref())?;
    if let Some(extra) = tables.get(ROUTES) {
        let all = tables.len();
        report.error(
            &extra.place,
            format!("is one of {all} routes of the service, and {ROUTES} is the limit"),
            "join routes, or give some of the hosts a service of their own",
        );
        return None;
    }
    let drafts = tables
        .into_iter()
        .zip(1..)
        .map(|(table, number)| route::route(report, table, number, name, directory));
    Some(drafts.collect())
}
