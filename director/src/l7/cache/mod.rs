//! Responses that are kept in memory, to answer without a server or in place of one
//! (RFC 9111, RFC 5861), by means of pingora's cache.
//!
//! [`Caching`] is made once, is `'static` as pingora asks, and is called from the
//! hooks of `ProxyHttp`:
//!
//! ```ignore
//! fn request_cache_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<()> {
//!     if let Some(policy) = &ctx.forward.cache {
//!         self.caching.enable(session, policy);
//!     }
//!     Ok(())
//! }
//! fn cache_key_callback(&self, session: &Session, ctx: &mut Ctx) -> Result<CacheKey> {
//!     Ok(ctx.cache_key().of(session.req_header()))           // cache::Key { .. }
//! }
//! fn cache_miss(&self, session: &mut Session, _: &mut Ctx) {
//!     self.caching.miss(session);
//! }
//! async fn cache_hit_filter(&self, session: &mut Session, meta: &CacheMeta,
//!     hit: &mut HitHandler, fresh: bool, ctx: &mut Ctx) -> Result<Option<ForcedFreshness>> {
//!     let answerable = /* whether any endpoint of the pool may be asked now */;
//!     Ok(self.caching.hit(session.req_header(), meta, hit, fresh, answerable))
//! }
//! async fn proxy_upstream_filter(&self, session: &mut Session, ..) -> Result<bool> {
//!     if cache::only_if_cached(session.req_header()) { /* answer 504, Ok(false) */ }
//! }
//! fn response_cache_filter(&self, session: &Session, response: &ResponseHeader,
//!     ctx: &mut Ctx) -> Result<RespCacheable> {
//!     Ok(cache::cacheable(policy, session.req_header(), response))
//! }
//! fn cache_vary_filter(&self, meta: &CacheMeta, _: &mut Ctx, request: &RequestHeader)
//!     -> Option<HashBinary> {
//!     cache::variance(meta, request)
//! }
//! fn should_serve_stale(&self, session: &mut Session, ctx: &mut Ctx,
//!     error: Option<&Error>) -> bool {
//!     // A status that will be tried again elsewhere: pingora asks before the retry.
//!     let retried = ctx.retries_left() && is_retried_status(error);
//!     !retried && self.caching.serve_stale(session, error, &ctx.forward.retry.statuses)
//! }
//! async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ..) {
//!     cache::tell(&session.cache, response)?;
//!     if cache::invalidates(session.req_header(), response.status.as_u16()) {
//!         self.caching.store().forget(&ctx.cache_key().of(session.req_header()));
//!     }
//! }
//! ```
//!
//! Hooks also run for requests that pingora makes itself, to renew what was served
//! stale (`stale-while-revalidate`); such a session has a `subrequest_ctx`.
//!
//! Fills are not read while they are under way: pingora then ends the response to the
//! client where the cache gives up a fill. Those who want the same wait for the fill.

mod budget;
mod entry;
mod lock;
mod request;
mod response;
mod serve;
mod store;

pub use request::{Key, invalidates, only_if_cached, variance};
pub use response::cacheable;
pub use serve::{Caching, tell};

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
