//! `[[service.route]]`: what becomes of requests of some kind.

use std::{path::Path, sync::Arc};

use director_core::l7::{Action, HeaderEdits, Matches, PathMatch, Rate, Route};

use super::{
    answer,
    forward::{self, ForwardDraft},
    listener::rate,
    matches::{edits, matches, one_at_most},
    reader::{Reader, at},
};
use crate::config::{
    place::{Given, Located, Place, key},
    raw,
    report::Report,
    valid::value,
};

/// What could be read of a route; `None` stands for what is wrong.
#[derive(Debug)]
pub(super) struct RouteDraft<'r> {
    pub(super) place: Place,
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) matches: Option<Matches>,
    pub(super) action: Option<Action>,
    /// Where a redirect stands.
    pub(super) redirect: Option<Place>,
    /// Where its requests go; `None` when it does not forward, or when it cannot
    /// be said where.
    pub(super) pool: Option<PoolRef<'r>>,
    /// Where what clients get is sealed.
    pub(super) seals: Option<Place>,
    /// Where responses are cached.
    pub(super) caches: Option<Place>,
    request_headers: Option<HeaderEdits>,
    response_headers: Option<HeaderEdits>,
    tier: Option<u8>,
    rate: Option<Option<Rate>>,
}

/// What a route forwards to.
#[derive(Debug)]
pub(super) enum PoolRef<'r> {
    /// The endpoints of its own service.
    Own,
    /// Those of the service or pool of this name.
    Named(Located<&'r str>),
}

impl RouteDraft<'_> {
    pub(super) fn finish(self) -> Option<Route> {
        Some(Route {
            name: self.name?.value,
            matches: self.matches?,
            action: self.action?,
            request_headers: self.request_headers?,
            response_headers: self.response_headers?,
            tier: self.tier?,
            rate: self.rate?,
        })
    }
}

/// The route of a service that has none: all requests go to its endpoints.
pub(super) fn default(http: &Place, service: Option<Arc<str>>) -> RouteDraft<'static> {
    RouteDraft {
        place: http.clone(),
        name: Some(Located {
            value: "default".into(),
            place: http.clone(),
        }),
        matches: Some(Matches::default()),
        action: service.map(|name| Action::Forward(Box::new(forward::default(name)))),
        redirect: None,
        pool: Some(PoolRef::Own),
        seals: None,
        caches: None,
        request_headers: Some(HeaderEdits::default()),
        response_headers: Some(HeaderEdits::default()),
        tier: Some(1),
        rate: Some(None),
    }
}

/// Reads the route that is `number`th of its service, from 1.
pub(super) fn route<'r>(
    report: &mut Report<'_>,
    located: Located<&'r raw::http::Route>,
    number: usize,
    service: Option<&Arc<str>>,
    directory: &Path,
) -> RouteDraft<'r> {
    let Located { value: raw, place } = located;
    let name = report.read(&place, key("name", r#""api""#), &raw.name, |text| {
        value::name(text)
    });
    let matches = matches(report, &place, raw);
    let request_headers = edits(report, &place, "request_headers", &raw.request_headers);
    let response_headers = edits(report, &place, "response_headers", &raw.response_headers);
    let mut reader = Reader {
        report,
        place: &place,
    };
    let tier = reader.number(key("tier", "1"), &raw.tier, 1..=4);
    let rate = rate(&mut reader, &raw.rate, &raw.burst);
    let mut draft = RouteDraft {
        name: name.or(&place, format!("route-{number}").into()),
        matches,
        action: None,
        redirect: None,
        pool: None,
        seals: None,
        caches: None,
        request_headers,
        response_headers,
        tier: tier.value_or(1),
        rate,
        place,
    };
    draft.act(report, raw, service, directory);
    draft
}

impl<'r> RouteDraft<'r> {
    /// Reads the action.
    fn act(
        &mut self,
        report: &mut Report<'_>,
        raw: &'r raw::http::Route,
        service: Option<&Arc<str>>,
        directory: &Path,
    ) {
        let place = self.place.clone();
        let actions = [
            ("pool", at(&raw.pool)),
            ("redirect", at(&raw.redirect)),
            ("answer", at(&raw.answer)),
        ];
        let is_single = one_at_most(report, &place, &actions, "action of the route");
        let redirect = answer::redirect(report, &place, &raw.redirect);
        let own = answer::answer(report, &place, "answer", &raw.answer, 200, directory);
        let pool = report.read(&place, key("pool", r#""api""#), &raw.pool, |name| {
            Ok(name.as_str())
        });
        let name = match &pool {
            Given::Absent => service.cloned(),
            Given::Refused => None,
            Given::Value(pool) => Some(pool.value.into()),
        };
        // Read in any case: what is wrong there is wrong however it is used.
        let ForwardDraft {
            forward,
            prefix,
            seals,
            caches,
        } = forward::forward(report, &place, raw, name, directory);
        if let Some(prefix) = &prefix {
            self.replaces_prefix(report, prefix);
        }
        let of_redirect = redirect.as_ref().and_then(|it| it.prefix.as_ref());
        if let Some(prefix) = of_redirect {
            self.replaces_prefix(report, prefix);
        }
        if !is_single {
            return;
        }
        if raw.redirect.is_some() || raw.answer.is_some() {
            let what = match raw.redirect {
                Some(_) => "redirect",
                None => "answer",
            };
            for (name, at) in forward::keys(raw) {
                if let Some(at) = at {
                    report.error(
                        &place.key(name, at),
                        format!("is for routes that forward, and this one has {what}"),
                        format!("remove {name}, or {what}"),
                    );
                }
            }
            if let Some(redirect) = redirect {
                self.redirect = Some(redirect.redirect.place);
                self.action = Some(Action::Redirect(redirect.redirect.value));
            } else {
                self.action = own.flatten().map(Action::Answer);
            }
            return;
        }
        self.action = forward.map(|forward| Action::Forward(Box::new(forward)));
        self.pool = match pool {
            Given::Absent => Some(PoolRef::Own),
            Given::Refused => None,
            Given::Value(pool) => Some(PoolRef::Named(pool)),
        };
        (self.seals, self.caches) = (seals, caches);
    }

    /// Only what `path` matched is a prefix that can be replaced.
    fn replaces_prefix(&self, report: &mut Report<'_>, place: &Place) {
        let path = self.matches.as_ref().map(|matches| &matches.path);
        if path.is_some_and(|path| !matches!(path, Some(PathMatch::Prefix(_)))) {
            report.error(
                place,
                "replaces what path matched, and the route has no path",
                "add path = \"/api\", or replace the whole path",
            );
        }
    }
}
