//! A request's way: route, limits, endpoint, retries, answer.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use director_core::{
    Now,
    breaker::{Outcome, Refusal},
    l7::{Action, RequestView, admits},
};
use http::{StatusCode, header};
use pingora_core::{
    Error, ErrorSource,
    ErrorType::{self, HTTPStatus},
    Result,
    modules::http::HttpModules,
    protocols::Digest,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    access::Entry,
    affinity::{self, Wanted},
    answer,
    attempt::{Asker, Attempt},
    conn::Peer,
    headers,
    metrics::RequestEvent,
    slot::{ListenerView, RouteView, Shared, Slot},
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
    started: Now,
    view: Option<Arc<ListenerView>>,
    route: Option<usize>,
    peer: Option<Arc<Peer>>,
    client: Option<IpAddr>,
    request_id: String,
    attempt: Option<Attempt>,
    tries: u8,
    /// Endpoints that were asked.
    tried: Vec<usize>,
    /// The site and endpoint that were asked last.
    asked: Option<(Arc<str>, Arc<str>)>,
    wanted: Wanted,
    /// Whether the adaptive limit counts it.
    is_admitted: bool,
    body_bytes: u64,
    /// What kept it from a server's answer.
    why: Option<&'static str>,
}

impl App {
    fn asker<'a>(&'a self, route: &'a RouteView) -> Option<Asker<'a>> {
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
    fn settle(&self, ctx: &mut Ctx, outcome: Outcome, was_heard: bool) {
        let now = self.shared.now();
        let Some(view) = ctx.view.clone() else { return };
        let route = ctx.route.map(|route| &view.routes[route]);
        if let (Some(attempt), Some(asker)) = (&mut ctx.attempt, route.and_then(|r| self.asker(r))) {
            asker.settle(attempt, outcome, was_heard, now);
        }
    }

    /// Whether a request that failed may be sent again; takes it from the budget.
    fn may_retry(&self, session: &Session, ctx: &Ctx, was_sent: bool) -> bool {
        let Some((view, route)) = ctx.view.as_ref().zip(ctx.route) else {
            return false;
        };
        let route = &view.routes[route];
        let Some((config, forward)) = route.forward() else {
            return false;
        };
        let now = self.shared.now();
        let method = &session.req_header().method;
        let is_safe = !was_sent
            || method.is_idempotent()
            || config.retry.methods.iter().any(|safe| **safe == *method.as_str());
        let is_late = config.timeout.is_some_and(|most| now.saturating_sub(ctx.started) >= most);
        if ctx.tries > config.retry.retries
            || !is_safe
            || is_late
            || session.response_written().is_some()
            || session.as_ref().retry_buffer_truncated()
        {
            return false;
        }
        let is_allowed = forward.state.budget.withdraw(now);
        route.metrics.count(if is_allowed {
            RequestEvent::Retry
        } else {
            RequestEvent::RetryRefused
        });
        is_allowed
    }

    /// Before the first try: whether there is room for a request of its tier.
    fn admit(&self, route: &RouteView, ctx: &mut Ctx) -> Result<()> {
        let Some((_, forward)) = route.forward() else {
            return Ok(());
        };
        let now = self.shared.now();
        forward.state.budget.deposit(now);
        if let Some(limit) = &forward.state.adaptive {
            if !admits(route.config.tier, limit.pressure()) {
                route.metrics.count(RequestEvent::Shed);
                return Err(refused(ctx, 503, "shed by tier"));
            }
            if !limit.admit() {
                route.metrics.count(RequestEvent::Limited);
                return Err(refused(ctx, 503, "adaptive limit"));
            }
            ctx.is_admitted = true;
        }
        Ok(())
    }

    /// An endpoint that takes the request, and leave to send it.
    fn pick(&self, asker: &Asker<'_>, ctx: &Ctx, now: Now) -> std::result::Result<Attempt, Picked> {
        let endpoints = asker.view.pool.endpoints();
        if endpoints.picks.endpoints().is_empty() || endpoints.picks.weight() == 0 {
            return Err(Picked::NoEndpoint);
        }
        let room = asker.view.pool.room();
        let concurrency = asker.config.breaker.endpoint.concurrency;
        let most = room.unwrap_or(u32::MAX).min(concurrency.unwrap_or(u32::MAX));
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
                let picked = ctx.wanted.pick(&endpoints, usable, also_tried, now);
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
            let open = (0..endpoints.picks.endpoints().len()).any(|i| asker.is_open(&endpoints, i, now));
            if open || !refused.is_empty() {
                why = Picked::Open;
            }
        }
        Err(why)
    }

    /// As [`Self::pick`], waiting for a free place where the route has a queue.
    async fn place(&self, asker: &Asker<'_>, ctx: &Ctx) -> std::result::Result<Attempt, Picked> {
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

    fn entry(&self, session: &Session, ctx: &Ctx, status: u16, took: Duration) -> Entry {
        let request = session.req_header();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let route = ctx.view.as_ref().zip(ctx.route);
        Entry {
            time_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            service: self.slot.service.clone(),
            route: route.map(|(view, route)| view.routes[route].config.name.clone()),
            client: ctx.client.map(|client| client.to_string()).unwrap_or_default(),
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
            tls: ctx.peer.as_ref().and_then(|peer| Some(peer.tls.as_ref()?.version)),
        }
    }
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Picked {
    NoEndpoint,
    Open,
    Full,
}

/// A refusal of the edge's own, which a stale answer may stand in for.
fn refused(ctx: &mut Ctx, status: u16, why: &'static str) -> Box<Error> {
    ctx.why = Some(why);
    Error::explain(HTTPStatus(status), why).into_up()
}

/// What routes ask of a request.
struct Seen<'r>(&'r RequestHeader);

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

/// What is known of a session's connection.
fn peer_of(session: &Session) -> Option<Arc<Peer>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Peer>>().cloned()
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx {
            started: self.shared.now(),
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
            is_admitted: false,
            body_bytes: 0,
            why: None,
        }
    }

    /// No compression: servers and clients agree on that themselves.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let Some(peer) = peer_of(session) else {
            return Err(Error::explain(ErrorType::InternalError, "a connection of another listener"));
        };
        let view = self.slot.view();
        let request = session.req_header();
        let client = headers::client(request, &view.config, &peer);
        let (now, limits) = (self.shared.now(), &view.config.limits);
        // Streams of HTTP/2 come without.
        session.set_write_timeout(Some(limits.body_timeout));
        let request = session.req_header();
        ctx.client = Some(client);
        if view.config.request_id.is_some() {
            ctx.request_id = headers::request_id(request, &view.config, &peer);
        }
        ctx.route = view.router.find(&Seen(request));
        ctx.peer = Some(peer);
        ctx.view = Some(view.clone());
        // Of HTTP/1, the guard has seen to these.
        if request.headers.len() > usize::from(limits.headers) {
            return answer::plain(session, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None).await;
        }
        if let Some(most) = limits.body_bytes
            && answer::content_length(&request.headers).is_some_and(|length| length > most)
        {
            return answer::plain(session, StatusCode::PAYLOAD_TOO_LARGE, None).await;
        }
        let route = ctx.route.map(|route| &view.routes[route]);
        let rates = [
            (&view.rates, limits.rate),
            (route.map_or(&view.rates, |r| &r.rates), route.and_then(|r| r.config.rate)),
        ];
        for (limiter, rate) in rates {
            if let Some(rate) = rate
                && let Err(wait) = limiter.check(client, now, rate)
            {
                ctx.why = Some("rate");
                if let Some(route) = route {
                    route.metrics.count(RequestEvent::RateLimited);
                }
                return answer::plain(session, StatusCode::TOO_MANY_REQUESTS, Some(wait)).await;
            }
        }
        let Some(route) = route else {
            ctx.why = Some("no route");
            return answer::plain(session, StatusCode::NOT_FOUND, None).await;
        };
        match &route.config.action {
            Action::Answer(own) => answer::own(session, own, &route.config.response_headers, None).await,
            Action::Redirect(redirect) => {
                let rewrite = ctx.route.and_then(|index| view.router.rewrite(index));
                answer::redirect(session, redirect, rewrite, ctx.peer.as_deref()).await
            }
            Action::Forward(config) => {
                let Some((_, forward)) = route.forward() else {
                    return answer::plain(session, StatusCode::SERVICE_UNAVAILABLE, None).await;
                };
                let seal = self.shared.seal.load();
                match affinity::wanted(&config.affinity, session.req_header(), client, seal.as_deref(), forward) {
                    Ok(wanted) => ctx.wanted = wanted,
                    Err(lost) => {
                        route.metrics.count(RequestEvent::LostSession);
                        ctx.why = Some("lost session");
                        return answer::lost(session, &lost).await;
                    }
                }
                Ok(false)
            }
        }
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(most) = ctx.view.as_ref().and_then(|view| view.config.limits.body_bytes) else {
            return Ok(());
        };
        ctx.body_bytes += body.as_ref().map_or(0, |body| body.len() as u64);
        if ctx.body_bytes > most {
            ctx.why = Some("body limit");
            return Err(Error::explain(HTTPStatus(413), "the body is larger than allowed").into_down());
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let (Some(view), Some(index), Some(client)) = (ctx.view.clone(), ctx.route, ctx.peer.clone()) else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a route"));
        };
        let route = &view.routes[index];
        let Some(asker) = self.asker(route) else {
            return Err(Error::explain(ErrorType::InternalError, "a route that does not forward"));
        };
        if ctx.tries == 0 {
            self.admit(route, ctx)?;
        }
        ctx.attempt = None;
        let attempt = match self.place(&asker, ctx).await {
            Ok(attempt) => attempt,
            Err(picked) => {
                let (event, why) = match picked {
                    Picked::NoEndpoint => (RequestEvent::NoEndpoint, "no endpoint"),
                    Picked::Open => (RequestEvent::BreakerOpen, "breaker open"),
                    Picked::Full => (RequestEvent::Limited, "concurrency"),
                };
                route.metrics.count(event);
                return Err(refused(ctx, 503, why));
            }
        };
        ctx.tries += 1;
        ctx.tried.push(attempt.index);
        let endpoint = attempt.endpoints.endpoint(attempt.index);
        ctx.asked = Some((endpoint.site.clone(), endpoint.name.clone()));
        let host = asker.config.host.as_deref().unwrap_or_else(|| headers::host(session.req_header()));
        let host = headers::without_port(host);
        let peer = asker.view.pool.peer(endpoint, &client, host, asker.config.stream_idle);
        ctx.attempt = Some(attempt);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        _: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let now = self.shared.now();
        let config = ctx.view.as_ref().zip(ctx.route).and_then(|(view, route)| {
            view.routes[route].forward().map(|(config, _)| (config.retry.per_try, config.timeout))
        });
        let Some((per_try, timeout)) = config else { return Ok(()) };
        let Some(attempt) = &mut ctx.attempt else { return Ok(()) };
        let of_try = per_try.map(|most| most.saturating_sub(now.saturating_sub(attempt.started)));
        let of_all = timeout.map(|most| most.saturating_sub(now.saturating_sub(ctx.started)));
        // A connection of HTTP/2 carries others' requests too, and has a limit on its
        // reads instead.
        if let Some(left) = of_try.into_iter().chain(of_all).min()
            && peer.options.alpn.get_max_http_version() < 2
        {
            attempt.set_deadline(fd, left);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let (Some(view), Some(index), Some(peer)) = (&ctx.view, ctx.route, &ctx.peer) else {
            return Ok(());
        };
        let route = &view.routes[index];
        headers::forward(upstream, &view.config, peer)?;
        if let Some(name) = &view.config.request_id {
            upstream.insert_header(name.to_string(), &ctx.request_id)?;
        }
        if view.config.traceparent {
            headers::traceparent(upstream)?;
        }
        ctx.wanted.to_server(upstream)?;
        if let Some(rewrite) = view.router.rewrite(index) {
            answer::rewrite(upstream, session.req_header(), rewrite)?;
        }
        if let Some(host) = route.forward().and_then(|(config, _)| config.host.as_deref()) {
            upstream.insert_header(header::HOST, host)?;
        }
        headers::edit_request(upstream, &route.config.request_headers)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let status = response.status.as_u16();
        let now = self.shared.now();
        let took = ctx.attempt.as_ref().map_or(Duration::ZERO, |a| now.saturating_sub(a.started));
        let outcome = if status >= 500 && status != 501 {
            Outcome::Failed
        } else {
            Outcome::Answered(took)
        };
        self.settle(ctx, outcome, true);
        let is_retried = ctx.view.as_ref().zip(ctx.route).is_some_and(|(view, route)| {
            let config = view.routes[route].forward();
            config.is_some_and(|(config, _)| config.retry.statuses.contains(&status))
        });
        if is_retried && self.may_retry(session, ctx, true) {
            let mut error = Error::explain(HTTPStatus(status), "a status that is tried again");
            error.set_retry(true);
            return Err(error.into_up());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some((view, index)) = ctx.view.as_ref().zip(ctx.route) else {
            return Ok(());
        };
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        // A client of HTTP/1.0 knows no chunks: it reads to the end of the connection
        // (RFC 9112, section 6.1).
        if session.req_header().version == http::Version::HTTP_10
            && response.remove_header(&header::TRANSFER_ENCODING).is_some()
        {
            session.set_keepalive(None);
        }
        let route = &view.routes[index];
        if let Some((_, endpoint)) = &ctx.asked {
            let seal = self.shared.seal.load();
            let is_tls = ctx.peer.as_ref().is_some_and(|peer| peer.tls.is_some());
            ctx.wanted.to_client(response, endpoint, seal.as_deref(), is_tls)?;
        }
        if let Some(name) = &view.config.request_id {
            response.insert_header(name.to_string(), &ctx.request_id)?;
        }
        headers::edit_response(response, &route.config.response_headers)
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, ctx: &mut Ctx, mut error: Box<Error>) -> Box<Error> {
        self.settle(ctx, Outcome::Failed, false);
        ctx.why = Some("connect");
        error.set_retry(self.may_retry(session, ctx, false));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        _: bool,
    ) -> Box<Error> {
        if error.retry() && matches!(error.etype(), HTTPStatus(_)) {
            // Decided when the status came.
            return error;
        }
        if error.esource() != &ErrorSource::Upstream {
            ctx.attempt = None;
            error.set_retry(false);
            return error;
        }
        let has_expired = ctx.attempt.as_ref().is_some_and(Attempt::has_expired);
        ctx.why = Some(if has_expired { "timeout" } else { "upstream" });
        self.settle(ctx, Outcome::Failed, false);
        error.set_retry(self.may_retry(session, ctx, true));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let code = answer::failed(session, error, ctx.why, ctx.view.as_ref().zip(ctx.route).map(|(v, r)| &v.routes[r])).await;
        FailToProxy {
            error_code: code,
            // It is not kept, but ended in such a way that the client can read why.
            can_reuse_downstream: code != 0,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        let now = self.shared.now();
        let took = now.saturating_sub(ctx.started);
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        // What has no outcome by now has none to tell: its client left.
        ctx.attempt = None;
        let route = ctx.view.as_ref().zip(ctx.route).map(|(view, route)| &view.routes[route]);
        let forward = route.and_then(RouteView::forward);
        if let Some((_, forward)) = forward {
            if ctx.is_admitted && let Some(limit) = &forward.state.adaptive {
                limit.settle(took, status >= 500 || status == 0, now);
            }
            if forward.state.pending.load(Ordering::Relaxed) > 0 {
                forward.state.freed.notify_one();
            }
        }
        let of_site = forward.zip(ctx.asked.as_ref()).and_then(|((_, forward), (site, _))| forward.sites.get(site));
        match (of_site, route, &ctx.view) {
            (Some(site), ..) => site.metrics.done(status, took),
            (None, Some(route), _) => route.local.done(status, took),
            (None, None, Some(view)) => view.unrouted.done(status, took),
            (None, None, None) => {}
        }
        if error.is_some_and(|e| e.esource() == &ErrorSource::Downstream)
            && let (Some(peer), Some(view)) = (&ctx.peer, &ctx.view)
            && session.req_header().version == http::Version::HTTP_2
            && peer.resets.add(now) >= view.config.limits.resets
        {
            peer.doomed.store(true, Ordering::Relaxed);
        }
        if let Some(log) = &*self.shared.access.load()
            && log.takes(status >= 500 || status == 0)
        {
            log.add(self.entry(session, ctx, status, took));
        }
    }

    fn suppress_error_log(&self, session: &Session, ctx: &Ctx, error: &Error) -> bool {
        tracing::debug!(
            service = %self.slot.service, request_id = ctx.request_id, client = ?ctx.client,
            "{} {}: {error}", session.req_header().method, session.req_header().uri.path()
        );
        true
    }

    fn suppress_proxy_warn_log(&self, session: &Session, ctx: &Ctx, error: &Error, _: ProxyWarnLogContext) -> bool {
        self.suppress_error_log(session, ctx, error)
    }
}
