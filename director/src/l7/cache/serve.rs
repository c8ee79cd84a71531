//! [`Caching`]: what the hooks of the proxy ask of the cache.

use std::time::{Duration, SystemTime};

use director_core::l7::model::CachePolicy;
use http::header;
use pingora_cache::{
    CacheKey, CacheMeta, CacheOptionOverrides, CachePhase, ForcedFreshness, HitHandler, HttpCache,
    NoCacheReason,
    cache_control::CacheControl,
    lock::CacheLock,
    predictor::{CacheablePredictor, Predictor},
};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{
    lock::FillLock,
    request::{may_use, unauthorized, wants_validation},
    store::{ByteCache, Hit},
};

/// How long a request waits for the fills of others, and how long one fill keeps
/// others waiting. Then it is sent to a server, and its response is not kept.
const WAIT: Duration = Duration::from_secs(5);
/// How long it is taken that no server can answer, for one key, after none could.
const FAILURE_LASTS: Duration = Duration::from_secs(1);
/// Keys that are remembered as those of responses that are not kept, in each of 16
/// shards.
const UNCACHEABLE: usize = 1024;
/// Name of this cache in `Cache-Status`.
const NAME: &str = "director";

/// A cache, who fills it, and what is known not to be worth keeping.
pub struct Caching {
    store: ByteCache,
    lock: FillLock,
    uncacheable: Predictor<16>,
}

impl std::fmt::Debug for Caching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caching").field(&self.store).finish()
    }
}

impl Caching {
    /// A cache of so many bytes at most.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            store: ByteCache::new(limit_bytes),
            lock: FillLock(CacheLock::new(WAIT)),
            // Custom reasons say that the next may be kept.
            uncacheable: Predictor::new(UNCACHEABLE, Some(|_| true)),
        }
    }

    #[must_use]
    pub fn store(&self) -> &ByteCache {
        &self.store
    }

    /// Has a request answered from the cache, or fill it, where it may. For the hook
    /// `request_cache_filter`. Says whether it may.
    pub fn enable(&'static self, session: &mut Session, policy: &CachePolicy) -> bool {
        if !may_use(session.req_header()) {
            return false;
        }
        let mut overrides = CacheOptionOverrides::default();
        overrides.wait_timeout = Some(WAIT);
        session.cache.enable(
            &self.store,
            // The store evicts itself.
            None,
            Some(self),
            Some(&self.lock),
            Some(overrides),
        );
        let most = usize::try_from(policy.body_bytes).unwrap_or(usize::MAX);
        session.cache.set_max_file_size_bytes(most);
        true
    }

    /// Begins a fill. For the hook `cache_miss`.
    ///
    /// A request for a range is sent as it is and fills nothing: a fill would fetch
    /// the whole for each part of a body that may be too large to be kept.
    pub fn miss(&self, session: &mut Session) {
        if session.req_header().headers.contains_key(header::RANGE) {
            session.cache.disable(NoCacheReason::Deferred);
        } else {
            session.cache.cache_miss();
        }
    }

    /// Decides about what was found. For the hook `cache_hit_filter`. `answerable`:
    /// whether there is a server that may be asked; where there is none, or none could
    /// answer just now, stale responses are served at once.
    pub fn hit(
        &self,
        request: &RequestHeader,
        meta: &CacheMeta,
        handler: &HitHandler,
        fresh: bool,
        answerable: bool,
    ) -> Option<ForcedFreshness> {
        let control = CacheControl::from_resp_headers(meta.response_header());
        if unauthorized(request, control.as_ref()) {
            return Some(ForcedFreshness::ForceMiss);
        }
        let hit = handler.as_any().downcast_ref::<Hit>();
        let failed = hit.is_some_and(|hit| hit.entry.failed_within(FAILURE_LASTS));
        if (failed || !answerable) && meta.serve_stale_if_error(SystemTime::now()) {
            return Some(ForcedFreshness::ForceFresh);
        }
        (fresh && wants_validation(request, meta))
            .then_some(ForcedFreshness::ForceExpiredServeStale { expired_at: None })
    }

    /// Whether what is stale is served. For the hook `should_serve_stale`, which
    /// pingora calls only within the time that the response or the policy allows: it
    /// is none where a response must be validated.
    ///
    /// Without an error, it is asked whether it may be served while it is renewed. An
    /// error of a server's is one of `statuses`; anything else that kept a response
    /// from coming is one too, but not what the client did.
    pub fn serve_stale(&self, session: &Session, error: Option<&Error>, statuses: &[u16]) -> bool {
        let cache = &session.cache;
        let Some(error) = error else {
            return cache
                .maybe_cache_meta()
                .is_some_and(|meta| !wants_validation(session.req_header(), meta));
        };
        let counts = match error.etype() {
            ErrorType::HTTPStatus(status) => statuses.contains(status),
            _ => *error.esource() != ErrorSource::Downstream,
        };
        if counts
            && let Some(key) = cache.maybe_cache_key()
            && let Some(entry) = self.store.entry(key)
        {
            entry.note_failure();
        }
        counts
    }
}

/// What is remembered as not kept goes to a server without waiting for others who
/// want the same. But what is kept is looked up all the same: a client whose responses
/// are not kept must not take the cache from others.
impl CacheablePredictor for Caching {
    fn cacheable_prediction(&self, key: &CacheKey) -> bool {
        self.uncacheable.cacheable_prediction(key) || self.store.contains(key)
    }

    fn predicted_uncacheable_reason(&self, key: &CacheKey) -> Option<NoCacheReason> {
        self.uncacheable.predicted_uncacheable_reason(key)
    }

    fn mark_cacheable(&self, key: &CacheKey) -> bool {
        self.uncacheable.mark_cacheable(key)
    }

    fn mark_uncacheable(&self, key: &CacheKey, reason: NoCacheReason) -> Option<bool> {
        self.uncacheable.mark_uncacheable(key, reason)
    }
}

/// Says in `Cache-Status` (RFC 9211) what the cache did, where it was asked at all.
/// pingora has put `Age` onto what was kept. For the hook `response_filter`.
///
/// # Errors
/// None that can come: the value is a valid one.
pub fn tell(cache: &HttpCache, response: &mut ResponseHeader) -> Result<()> {
    if let Some(status) = status(cache) {
        response.append_header("Cache-Status", status)?;
    }
    Ok(())
}

fn status(cache: &HttpCache) -> Option<String> {
    let variant = cache
        .maybe_cache_key()
        .is_some_and(|key| key.get_variance_key().is_some());
    Some(match cache.phase() {
        CachePhase::Disabled(NoCacheReason::NeverEnabled) | CachePhase::Uninit => return None,
        CachePhase::Disabled(reason) => format!("{NAME}; fwd=miss; detail={}", token(reason)),
        CachePhase::Bypass => format!("{NAME}; fwd=bypass; detail=not-kept-before"),
        CachePhase::Miss if variant => format!("{NAME}; fwd=vary-miss; stored"),
        CachePhase::Miss | CachePhase::CacheKey => format!("{NAME}; fwd=uri-miss; stored"),
        CachePhase::Hit if cache.lock_duration().is_some() => {
            format!(
                "{NAME}; fwd=miss; collapsed; ttl={}",
                ttl(cache.cache_meta())
            )
        }
        CachePhase::Hit => format!("{NAME}; hit; ttl={}", ttl(cache.cache_meta())),
        CachePhase::StaleUpdating => {
            let ttl = ttl(cache.cache_meta());
            format!("{NAME}; hit; ttl={ttl}; detail=stale-while-revalidate")
        }
        CachePhase::Stale => {
            let ttl = ttl(cache.cache_meta());
            format!("{NAME}; fwd=stale; ttl={ttl}; detail=stale-if-error")
        }
        CachePhase::Expired => format!("{NAME}; fwd=stale; stored"),
        CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => {
            format!("{NAME}; fwd=stale; fwd-status=304")
        }
    })
}

/// A reason as a token (RFC 8941).
fn token(reason: NoCacheReason) -> String {
    let name = match reason {
        NoCacheReason::Custom(name) => name,
        other => other.as_str(),
    };
    name.replace(' ', "-")
}

/// Seconds for which a response is fresh; negative where it was fresh before.
fn ttl(meta: &CacheMeta) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match meta.fresh_until().duration_since(SystemTime::now()) {
        Ok(left) => seconds(left),
        Err(gone) => -seconds(gone.duration()),
    }
}
