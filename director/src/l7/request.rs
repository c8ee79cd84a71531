//! A request on its way: what is known of it, and to which endpoint it may go.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use director_core::{
    Now,
    breaker::{Outcome, Refusal},
    l7::{
        Admitted, CachePolicy, Forward, RequestView,
        shed::{self, Limit},
    },
};
use pingora_cache::CacheKey;
use pingora_core::{Error, ErrorType::HTTPStatus, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{
    access::Entry,
    affinity::Wanted,
    attempt::{Asker, Attempt},
    cache,
    conn::Peer,
    headers,
    metrics::RequestEvent,
    slot::{ForwardView, ListenerView, RouteView, Shared, Slot},
};

/// Longest that a request waits for a free place.
const PENDING: Duration = Duration::from_secs(5);

/// Serves a listener's requests.
pub struct App {
    pub shared: Arc<Shared>,
    pub slot: Arc<Slot>,
}

/// What is known of a request.
pub struct Ctx {
    pub(super) started: Now,
    pub(super) view: Option<Arc<ListenerView>>,
    pub(super) route: Option<usize>,
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) client: Option<IpAddr>,
    pub(super) request_id: String,
    pub(super) attempt: Option<Attempt>,
    pub(super) tries: u8,
    /// Endpoints that were asked.
    pub(super) tried: Vec<usize>,
    /// The site and endpoint that were asked last.
    pub(super) asked: Option<(Arc<str>, Arc<str>)>,
    pub(super) wanted: Wanted,
    /// Its place within the adaptive limit.
    pub(super) admitted: Option<Admitted>,
    pub(super) body_bytes: u64,
    /// What kept it from a server's answer.
    pub(super) why: Option<&'static str>,
}

impl Ctx {
    pub(super) fn new(now: Now) -> Self {
        Self {
            started: now,
            view: None,
            route: None,
            peer: None,
            client: None,
            request_id: String::new(),
            attempt: None,
            tries: 0,
            tried: Vec::new(),
            asked: None,
            wanted: Wanted::default(),
            admitted: None,
            body_bytes: 0,
            why: None,
        }
    }

    /// The route that the request took.
    pub(super) fn route(&self) -> Option<&RouteView> {
        let (view, route) = self.view.as_ref().zip(self.route)?;
        Some(&view.routes[route])
    }

    /// How that route forwards, if it does.
    pub(super) fn forward(&self) -> Option<(&Forward, &ForwardView)> {
        self.route()?.forward()
    }

    /// What that route keeps of responses.
    pub(super) fn cache_policy(&self) -> Option<&CachePolicy> {
        self.forward()?.0.cache.as_ref()
    }

    /// What the request is for, as far as a kept response is concerned.
    pub(super) fn cache_key(&self, request: &RequestHeader) -> Option<CacheKey> {
        let (view, route) = (self.view.as_ref()?, self.route()?);
        let (config, _) = route.forward()?;
        let key = cache::Key {
            listener: &view.config.service,
            route: &route.config.name,
            pool: &config.pool,
            scheme: self.peer.as_ref()?.scheme(),
            host: headers::host(request),
        };
        Some(key.of(request))
    }
}

impl App {
    pub(super) fn asker<'a>(&'a self, route: &'a RouteView) -> Option<Asker<'a>> {
        let (config, view) = route.forward()?;
        Some(Asker {
            shared: &self.shared,
            service: &self.slot.service,
            route,
            config,
            view,
        })
    }

    /// Says what became of the try that is under way.
    pub(super) fn settle(&self, ctx: &mut Ctx, outcome: Outcome, was_heard: bool) {
        let now = self.shared.now();
        let Some(view) = ctx.view.clone() else { return };
        let route = ctx.route.map(|route| &view.routes[route]);
        if let (Some(attempt), Some(asker)) = (&mut ctx.attempt, route.and_then(|r| self.asker(r)))
        {
            asker.settle(attempt, outcome, was_heard, now);
        }
    }

    /// Whether a request that failed may be sent again; takes it from the budget.
    pub(super) fn may_retry(&self, session: &Session, ctx: &Ctx, was_sent: bool) -> bool {
        let forward = ctx
            .route()
            .and_then(|route| Some((route, route.forward()?.1)));
        let Some((route, forward)) = forward else {
            return false;
        };
        if !self.would_retry(session, ctx, was_sent) {
            return false;
        }
        let is_allowed = forward.state.budget.withdraw(self.shared.now());
        route.metrics.count(if is_allowed {
            RequestEvent::Retry
        } else {
            RequestEvent::RetryRefused
        });
        is_allowed
    }

    /// Whether a request that failed would be sent again if the budget allows it.
    pub(super) fn would_retry(&self, session: &Session, ctx: &Ctx, was_sent: bool) -> bool {
        let Some((config, _)) = ctx.forward() else {
            return false;
        };
        let now = self.shared.now();
        let method = &session.req_header().method;
        let mut safe = config.retry.methods.iter();
        let is_safe =
            !was_sent || method.is_idempotent() || safe.any(|safe| **safe == *method.as_str());
        let spent = now.saturating_sub(ctx.started);
        let is_late = config.timeout.is_some_and(|most| spent >= most);
        ctx.tries <= config.retry.retries
            && is_safe
            && !is_late
            && session.response_written().is_none()
            && !session.as_ref().retry_buffer_truncated()
    }

    /// Before the first try: whether there is room for a request of its tier.
    pub(super) fn admit(&self, route: &RouteView, ctx: &mut Ctx) -> Result<()> {
        let Some((_, forward)) = route.forward() else {
            return Ok(());
        };
        let now = self.shared.now();
        forward.state.budget.deposit(now);
        let left = forward.pool.endpoints().left;
        let adaptive = forward.state.adaptive.as_ref();
        let (in_flight, limit) = adaptive.map_or((0, Limit::Unknown), |limit| {
            (limit.in_flight(), Limit::Measured(limit.limit()))
        });
        if !shed::admits(route.config.tier, shed::pressure(left, in_flight, limit)) {
            route.metrics.count(RequestEvent::Shed);
            return Err(refused(ctx, 503, "shed by tier"));
        }
        if let Some(limit) = adaptive {
            let Some(admitted) = limit.admit() else {
                route.metrics.count(RequestEvent::Limited);
                return Err(refused(ctx, 503, "adaptive limit"));
            };
            ctx.admitted = Some(admitted);
        }
        Ok(())
    }

    /// Whether any endpoint may be asked now.
    pub(super) fn is_answerable(&self, ctx: &Ctx) -> bool {
        let Some(asker) = ctx.route().and_then(|route| self.asker(route)) else {
            return false;
        };
        let (endpoints, now) = (asker.view.pool.endpoints(), self.shared.now());
        let usable = |index| !asker.is_open(&endpoints, index, now);
        endpoints
            .picks
            .pick(usable, fastrand::u64(..), now)
            .is_some()
    }

    /// An endpoint that takes the request, and leave to send it.
    fn pick(&self, asker: &Asker<'_>, ctx: &Ctx, now: Now) -> std::result::Result<Attempt, Picked> {
        let endpoints = asker.view.pool.endpoints();
        if endpoints.picks.endpoints().is_empty() || endpoints.picks.weight() == 0 {
            return Err(Picked::NoEndpoint);
        }
        let room = asker.view.pool.room();
        let concurrency = asker.config.breaker.endpoint.concurrency;
        let most = room
            .unwrap_or(u32::MAX)
            .min(concurrency.unwrap_or(u32::MAX));
        let mut refused: Vec<usize> = Vec::new();
        let mut why = Picked::NoEndpoint;
        // Again endpoints that were tried only where there is no other.
        for also_tried in [false, true] {
            loop {
                let mut is_full = false;
                let usable = |index: usize| {
                    let has_room = endpoints.picks.load(index).in_flight() < most;
                    is_full |= !has_room;
                    has_room
                        && !refused.contains(&index)
                        && (also_tried || !ctx.tried.contains(&index))
                        && !asker.is_open(&endpoints, index, now)
                };
                let picked = ctx.wanted.pick(&endpoints, usable, now);
                let Some(index) = picked else {
                    if is_full {
                        why = Picked::Full;
                    }
                    break;
                };
                match asker.begin(&endpoints, index, now) {
                    Ok(attempt) => return Ok(attempt),
                    Err(Refusal::Concurrency) => why = Picked::Full,
                    Err(Refusal::Open(_) | Refusal::Probing) => {}
                }
                refused.push(index);
            }
            if ctx.tried.is_empty() {
                break;
            }
        }
        if why == Picked::NoEndpoint {
            let open =
                (0..endpoints.picks.endpoints().len()).any(|i| asker.is_open(&endpoints, i, now));
            if open || !refused.is_empty() {
                why = Picked::Open;
            }
        }
        Err(why)
    }

    /// As [`Self::pick`], waiting for a free place where the route has a queue.
    pub(super) async fn place(
        &self,
        asker: &Asker<'_>,
        ctx: &Ctx,
    ) -> std::result::Result<Attempt, Picked> {
        if !asker.view.pool.is_planned() {
            asker.view.pool.first_plan().await;
        }
        let first = self.pick(asker, ctx, self.shared.now());
        let most = asker.config.breaker.pending;
        if !matches!(first, Err(Picked::Full)) || most == 0 {
            return first;
        }
        let state = &asker.view.state;
        if state.pending.fetch_add(1, Ordering::Relaxed) >= most {
            state.pending.fetch_sub(1, Ordering::Relaxed);
            return first;
        }
        let waited = tokio::time::timeout(PENDING, async {
            loop {
                let freed = state.freed.notified();
                match self.pick(asker, ctx, self.shared.now()) {
                    Err(Picked::Full) => freed.await,
                    picked => return picked,
                }
            }
        });
        let picked = waited.await.unwrap_or(Err(Picked::Full));
        state.pending.fetch_sub(1, Ordering::Relaxed);
        picked
    }

    pub(super) fn entry(&self, session: &Session, ctx: &Ctx, status: u16, took: Duration) -> Entry {
        let request = session.req_header();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Entry {
            time_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            service: self.slot.service.clone(),
            route: ctx.route().map(|route| route.config.name.clone()),
            client: ctx
                .client
                .map(|client| client.to_string())
                .unwrap_or_default(),
            method: request.method.to_string(),
            host: headers::host(request).to_owned(),
            path: request.uri.path().to_owned(),
            version: match request.version {
                http::Version::HTTP_2 => "2",
                http::Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            status,
            request_bytes: session.body_bytes_read(),
            response_bytes: session.body_bytes_sent(),
            duration_ms: took.as_secs_f64() * 1000.0,
            site: ctx.asked.as_ref().map(|(site, _)| site.clone()),
            endpoint: ctx.asked.as_ref().map(|(_, endpoint)| endpoint.clone()),
            tries: ctx.tries,
            why: ctx.why.map(str::to_owned),
            request_id: ctx.request_id.clone(),
            tls: ctx
                .peer
                .as_ref()
                .and_then(|peer| Some(peer.tls.as_ref()?.version)),
        }
    }
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picked {
    NoEndpoint,
    Open,
    Full,
}

/// A refusal of the edge's own, which a stale answer may stand in for.
pub(super) fn refused(ctx: &mut Ctx, status: u16, why: &'static str) -> Box<Error> {
    ctx.why = Some(why);
    Error::explain(HTTPStatus(status), why).into_up()
}

/// What routes ask of a request.
pub(super) struct Seen<'r>(pub(super) &'r RequestHeader);

impl RequestView for Seen<'_> {
    fn host(&self) -> &str {
        headers::without_port(headers::host(self.0))
    }

    fn path(&self) -> &str {
        self.0.uri.path()
    }

    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.headers.get(name).map(http::HeaderValue::as_bytes)
    }
}
