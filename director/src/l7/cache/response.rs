//! Which responses are kept, and for how long.

use std::time::{Duration, SystemTime};

use director_core::l7::model::CachePolicy;
use http::{HeaderName, Version, header};
use pingora_cache::{
    CacheMeta, CacheMetaDefaults, NoCacheReason, RespCacheable,
    cache_control::{CacheControl, DELTA_SECONDS_OVERFLOW_VALUE},
    filters::resp_cacheable,
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::request::unauthorized;

/// Not kept since the server failed: the next may succeed.
pub(super) const FAILED: NoCacheReason = NoCacheReason::Custom("server error");
/// Not kept since the request has `Authorization`: those of others may be.
pub(super) const AUTHORIZED: NoCacheReason = NoCacheReason::Custom("authorization");

/// Those that are kept where they say for how long. Errors of a server never are: a
/// server in trouble cannot be trusted to mean its headers.
const STATUSES: [u16; 12] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 410, 414];

/// Fields about the connection (RFC 9110, section 7.6.1), besides those that
/// `Connection` names.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a response is kept, and until when it is fresh and may be served stale.
/// For the hook `response_cache_filter`.
///
/// Kept is only what says how long it is fresh (`s-maxage`, `max-age`, `Expires`), or
/// can be validated; not what sets cookies, varies by everything (`Vary: *`), or ends
/// with its connection, and so may have been cut off.
#[must_use]
pub fn cacheable(
    policy: &CachePolicy,
    request: &RequestHeader,
    response: &ResponseHeader,
) -> RespCacheable {
    let not = |reason| RespCacheable::Uncacheable(reason);
    if response.status.is_server_error() {
        return not(FAILED);
    }
    let headers = &response.headers;
    if !STATUSES.contains(&response.status.as_u16())
        || headers.contains_key(header::SET_COOKIE)
        || varies_by_all(response)
        || ends_with_connection(response)
    {
        return not(NoCacheReason::OriginNotCache);
    }
    let control = CacheControl::from_resp_headers(response);
    if unauthorized(request, control.as_ref()) {
        return not(AUTHORIZED);
    }
    let stale_if_error = u32::try_from(policy.stale_if_error.as_secs())
        .unwrap_or(u32::MAX)
        .min(DELTA_SECONDS_OVERFLOW_VALUE);
    let defaults = CacheMetaDefaults::new(|_| None, 0, stale_if_error);
    let age = age(response);
    let mut meta = match resp_cacheable(control.as_ref(), stored(response), false, &defaults) {
        RespCacheable::Cacheable(meta) => meta,
        uncacheable @ RespCacheable::Uncacheable(_) => return uncacheable,
    };
    if control.is_some_and(|control| control.no_cache()) {
        meta.disable_serve_stale();
    }
    grow_old(&mut meta, age);
    if useless(&meta) {
        return not(NoCacheReason::OriginNotCache);
    }
    RespCacheable::Cacheable(meta)
}

fn varies_by_all(response: &ResponseHeader) -> bool {
    let lines = response.headers.get_all(header::VARY).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|name| {
            // A name that is none stands for something that cannot be told apart.
            let name = name.trim_ascii();
            !name.is_empty() && (name == b"*" || HeaderName::from_bytes(name).is_err())
        })
}

/// Whether the body goes on until the connection is closed, so that it cannot be told
/// from one that was cut off (RFC 9112, section 8).
fn ends_with_connection(response: &ResponseHeader) -> bool {
    response.version < Version::HTTP_2
        && response.status != 204
        && !response.headers.contains_key(header::CONTENT_LENGTH)
        && !response.headers.contains_key(header::TRANSFER_ENCODING)
}

/// What of a head is kept. `Age` is taken into account when it comes, and is another
/// when it is served.
fn stored(response: &ResponseHeader) -> ResponseHeader {
    let mut kept = response.clone();
    let named: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in &named {
        kept.remove_header(name);
    }
    for name in HOP_BY_HOP {
        kept.remove_header(name);
    }
    kept.remove_header(&header::AGE);
    kept
}

/// What `Age` says: how long it was in the caches before. That is all of its age that
/// is known without trust in the server's clock.
fn age(response: &ResponseHeader) -> Duration {
    let text = response.headers.get(header::AGE);
    let seconds = text.and_then(|age| age.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(
        seconds
            .unwrap_or(0)
            .min(DELTA_SECONDS_OVERFLOW_VALUE.into()),
    )
}

/// Takes off the age that a response came with.
fn grow_old(meta: &mut CacheMeta, age: Duration) {
    if age.is_zero() {
        return;
    }
    let before = |time: SystemTime| time.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    meta.set_epoch_override(before(meta.created()));
    meta.expire_at(before(meta.fresh_until()));
}

/// Whether nothing could ever be made of it: it is stale at once, can neither be
/// served stale nor validated.
fn useless(meta: &CacheMeta) -> bool {
    let now = SystemTime::now();
    !meta.is_fresh(now)
        && !meta.serve_stale_while_revalidate(now)
        && !meta.serve_stale_if_error(now)
        && !meta.headers().contains_key(header::ETAG)
        && !meta.headers().contains_key(header::LAST_MODIFIED)
}
