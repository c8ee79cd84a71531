//! The two ends of a request: what is made of it when its head is here, and what is
//! noted of it when it is over.

use std::sync::{Arc, atomic::Ordering};

use director_core::l7::{Action, HeaderEdits};
use http::StatusCode;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;

use super::{
    affinity, answer,
    conn::Peer,
    headers, mcp,
    metrics::RequestEvent,
    request::{App, Ctx, Seen},
    slot::RouteView,
};

impl App {
    /// Finds the route of a request, and answers it where no server is to be asked.
    /// Returns whether it is answered.
    pub(super) async fn begin(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let Some(peer) = peer_of(session) else {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a connection of another listener",
            ));
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
            (
                route.map_or(&view.rates, |r| &r.rates),
                route.and_then(|r| r.config.rate),
            ),
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
            Action::Answer(own) => {
                answer::own(session, own, &route.config.response_headers, None).await
            }
            Action::Redirect(redirect) => {
                let rewrite = ctx.route.and_then(|index| view.router.rewrite(index));
                answer::redirect(session, redirect, rewrite, ctx.peer.as_deref()).await
            }
            Action::Forward(config) => {
                let Some((_, forward)) = route.forward() else {
                    return answer::plain(session, StatusCode::SERVICE_UNAVAILABLE, None).await;
                };
                let seal = self.shared.seal.load();
                match affinity::wanted(
                    &config.affinity,
                    session.req_header(),
                    client,
                    seal.as_deref(),
                    forward,
                ) {
                    Ok(wanted) => ctx.wanted = wanted,
                    Err(affinity::Lost) => {
                        route.metrics.count(RequestEvent::LostSession);
                        ctx.why = Some("lost session");
                        return answer::own(session, &mcp::lost(), &HeaderEdits::default(), None)
                            .await;
                    }
                }
                Ok(false)
            }
        }
    }

    /// Accounts for a request that is over.
    pub(super) fn end(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        let now = self.shared.now();
        let took = now.saturating_sub(ctx.started);
        let status = session
            .response_written()
            .map_or(0, |response| response.status.as_u16());
        // What has no outcome by now has none to tell: its client left.
        ctx.attempt = None;
        if let Some(admitted) = ctx.admitted.take() {
            admitted.settle(took, status >= 500 || status == 0, now);
        }
        let route = ctx.route();
        let forward = route.and_then(RouteView::forward);
        if let Some((_, forward)) = forward
            && forward.state.pending.load(Ordering::Relaxed) > 0
        {
            forward.state.freed.notify_one();
        }
        let of_site = forward
            .zip(ctx.asked.as_ref())
            .and_then(|((_, forward), (site, _))| forward.sites.get(site));
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
}

/// What is known of a session's connection.
fn peer_of(session: &Session) -> Option<Arc<Peer>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest
        .user_data
        .as_ref()?
        .downcast_ref::<Arc<Peer>>()
        .cloned()
}
