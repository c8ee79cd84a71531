//! The hooks of pingora, in the order in which a request meets them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use director_core::breaker::Outcome;
use http::{StatusCode, header};
use pingora_cache::{
    CacheKey, CacheMeta, CachePhase, ForcedFreshness, HitHandler, NoCacheReason, RespCacheable,
    key::HashBinary,
};
use pingora_core::{
    Error, ErrorSource,
    ErrorType::{self, HTTPStatus},
    OkOrErr as _, Result, RetryType,
    modules::http::HttpModules,
    protocols::Digest,
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{
    answer,
    attempt::Attempt,
    cache, headers,
    metrics::RequestEvent,
    request::{App, Ctx, Picked, refused},
};

#[async_trait]
impl ProxyHttp for App {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.shared.now())
    }

    /// No compression: servers and clients agree on that themselves.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        self.begin(session, ctx).await
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
        if let (Some(policy), Some(caching)) = (ctx.cache_policy(), self.shared.caching.get()) {
            caching.enable(session, policy);
        }
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
        let key = ctx.cache_key(session.req_header());
        key.or_err(
            ErrorType::InternalError,
            "a request without a route has no key",
        )
    }

    fn cache_miss(&self, session: &mut Session, _: &mut Ctx) {
        match self.shared.caching.get() {
            Some(caching) => caching.miss(session),
            None => session.cache.cache_miss(),
        }
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        hit: &mut HitHandler,
        fresh: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<ForcedFreshness>> {
        let Some(caching) = self.shared.caching.get() else {
            return Ok(None);
        };
        let is_answerable = self.is_answerable(ctx);
        Ok(caching.hit(session.req_header(), meta, hit, fresh, is_answerable))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if session.cache.enabled() && cache::only_if_cached(session.req_header()) {
            ctx.why = Some("only if cached");
            answer::plain(session, StatusCode::GATEWAY_TIMEOUT, None).await?;
            return Ok(false);
        }
        Ok(true)
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<RespCacheable> {
        Ok(match ctx.cache_policy() {
            Some(policy) => cache::cacheable(policy, session.req_header(), response),
            None => RespCacheable::Uncacheable(NoCacheReason::NeverEnabled),
        })
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        _: &mut Ctx,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        cache::variance(meta, request)
    }

    fn should_serve_stale(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        error: Option<&Error>,
    ) -> bool {
        // One that is tried again elsewhere may still be answered. pingora asks this
        // before it hands on a status, so it may not be known as such yet.
        let is_status = error.is_some_and(|error| matches!(error.etype(), HTTPStatus(_)));
        let is_decided = |error: &Error| matches!(error.retry, RetryType::Decided(true));
        if error.is_some_and(is_decided) || is_status && self.would_retry(session, ctx, true) {
            return false;
        }
        let (Some(caching), Some(route)) = (self.shared.caching.get(), ctx.route()) else {
            return false;
        };
        let statuses = route
            .forward()
            .map_or(&[][..], |(config, _)| &config.retry.statuses);
        let is_served = caching.serve_stale(session, error, statuses);
        if is_served {
            route.metrics.count(RequestEvent::Stale);
        }
        is_served
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<()> {
        let Some(most) = ctx
            .view
            .as_ref()
            .and_then(|view| view.config.limits.body_bytes)
        else {
            return Ok(());
        };
        ctx.body_bytes += body.as_ref().map_or(0, |body| body.len() as u64);
        if ctx.body_bytes > most {
            ctx.why = Some("body limit");
            return Err(
                Error::explain(HTTPStatus(413), "the body is larger than allowed").into_down(),
            );
        }
        Ok(())
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        let (Some(view), Some(index), Some(client)) =
            (ctx.view.clone(), ctx.route, ctx.peer.clone())
        else {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a request without a route",
            ));
        };
        let route = &view.routes[index];
        let Some(asker) = self.asker(route) else {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a route that does not forward",
            ));
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
        let host = asker
            .config
            .host
            .as_deref()
            .unwrap_or_else(|| headers::host(session.req_header()));
        let host = headers::without_port(host);
        let peer = asker
            .view
            .pool
            .peer(endpoint, &client, host, asker.config.stream_idle);
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
        let Some((config, _)) = ctx.forward() else {
            return Ok(());
        };
        let (per_try, timeout) = (config.retry.per_try, config.timeout);
        let Some(attempt) = &mut ctx.attempt else {
            return Ok(());
        };
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
        if let Some(host) = route
            .forward()
            .and_then(|(config, _)| config.host.as_deref())
        {
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
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        let status = response.status.as_u16();
        let now = self.shared.now();
        let took = ctx
            .attempt
            .as_ref()
            .map_or(Duration::ZERO, |a| now.saturating_sub(a.started));
        let outcome = if status >= 500 && status != 501 {
            Outcome::Failed
        } else {
            Outcome::Answered(took)
        };
        self.settle(ctx, outcome, true);
        let is_retried = ctx
            .forward()
            .is_some_and(|(config, _)| config.retry.statuses.contains(&status));
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
            if let Some((config, _)) = route.forward() {
                ctx.wanted
                    .to_client(response, &config.pool, endpoint, seal.as_deref(), is_tls)?;
            }
        }
        if let Some(name) = &view.config.request_id {
            response.insert_header(name.to_string(), &ctx.request_id)?;
        }
        cache::tell(&session.cache, response)?;
        if session.cache.phase() == CachePhase::Hit {
            route.metrics.count(RequestEvent::Hit);
        }
        if let Some(caching) = self.shared.caching.get()
            && cache::invalidates(session.req_header(), response.status.as_u16())
            && let Some(key) = ctx.cache_key(session.req_header())
        {
            caching.store().forget(&key);
        }
        headers::edit_response(response, &route.config.response_headers)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
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
        was_reused: bool,
    ) -> Box<Error> {
        // Some errors leave open whether it matters that the connection was used
        // before; asked of one that does, `retry` would panic.
        error.retry.decide_reuse(was_reused);
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

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Ctx,
    ) -> FailToProxy {
        let code = answer::failed(session, error, ctx.why, ctx.route()).await;
        FailToProxy {
            error_code: code,
            // It is not kept, but ended in such a way that the client can read why.
            can_reuse_downstream: code != 0,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        self.end(session, error, ctx);
    }

    fn suppress_error_log(&self, session: &Session, ctx: &Ctx, error: &Error) -> bool {
        tracing::debug!(
            service = %self.slot.service, request_id = ctx.request_id, client = ?ctx.client,
            "{} {}: {error}", session.req_header().method, session.req_header().uri.path()
        );
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        session: &Session,
        ctx: &Ctx,
        error: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        self.suppress_error_log(session, ctx, error)
    }
}
