//! Which requests a cache may answer, what their key is, what they ask of it.

use std::time::{Duration, SystemTime};

use http::{HeaderName, Method, header};
use pingora_cache::{
    CacheKey, CacheMeta,
    cache_control::{CacheControl, DirectiveKey, InterpretCacheControl},
    key::{HashBinary, hash_key},
};
use pingora_http::RequestHeader;

/// Whether a request may be answered by a cache, or fill one: GET and HEAD that have
/// no body, ask for no other protocol, and do not forbid it (`no-store`).
#[must_use]
pub fn may_use(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    matches!(request.method, Method::GET | Method::HEAD)
        && !body
        && !headers.contains_key(header::UPGRADE)
        && !CacheControl::from_req_headers(request).is_some_and(|control| control.no_store())
}

/// Whether a response to this request makes what is kept under its key invalid
/// (RFC 9111, section 4.4): one to an unsafe method that is not an error.
#[must_use]
pub fn invalidates(request: &RequestHeader, status: u16) -> bool {
    !request.method.is_safe() && (200..400).contains(&status)
}

/// Whether the client wants nothing but what is kept (`only-if-cached`); where
/// nothing is, it is to get 504.
#[must_use]
pub fn only_if_cached(request: &RequestHeader) -> bool {
    CacheControl::from_req_headers(request).is_some_and(|control| control.only_if_cached())
}

/// What a response is kept under.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Names of listener and route: two routes may make different requests of the
    /// same URL.
    pub listener: &'a str,
    pub route: &'a str,
    /// Name of the service that answers.
    pub pool: &'a str,
    /// As the client used them.
    pub scheme: &'a str,
    /// In any case of letters.
    pub host: &'a str,
}

impl Key<'_> {
    /// The key for a request, as the client sent it: before any rewrite. Each part
    /// has its length before it, so no part can pose as two or as the end of another.
    #[must_use]
    pub fn of(&self, request: &RequestHeader) -> CacheKey {
        let target = match request.uri.path_and_query() {
            // `GET http://host/path` is the same resource as `GET /path`.
            Some(target) if request.uri.scheme().is_some() => target.as_str().as_bytes(),
            _ => request.raw_path(),
        };
        let host = self.host.to_ascii_lowercase();
        let mut primary = Vec::with_capacity(256);
        for part in [self.listener, self.route, self.pool, self.scheme, &host] {
            framed(&mut primary, part.as_bytes());
        }
        framed(&mut primary, target);
        CacheKey::new(primary, "")
    }
}

fn framed(to: &mut Vec<u8>, part: &[u8]) {
    to.extend_from_slice(&(part.len() as u64).to_be_bytes());
    to.extend_from_slice(part);
}

/// The variant of a response that a request is for: a hash of the request's fields
/// that the response names in `Vary`. For the hook `cache_vary_filter`.
#[must_use]
pub fn variance(meta: &CacheMeta, request: &RequestHeader) -> Option<HashBinary> {
    let mut names: Vec<HeaderName> = meta
        .headers()
        .get_all(header::VARY)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let mut hashed = Vec::new();
    for name in &names {
        framed(&mut hashed, name.as_str().as_bytes());
        let values = request.headers.get_all(name);
        hashed.extend_from_slice(&(values.iter().count() as u64).to_be_bytes());
        for value in values {
            framed(&mut hashed, value.as_bytes());
        }
    }
    Some(hash_key(hashed))
}

/// Whether a request has `Authorization` and the response does not say that it may
/// answer such requests (RFC 9111, section 3.5).
pub(super) fn unauthorized(request: &RequestHeader, control: Option<&CacheControl>) -> bool {
    request.headers.contains_key(header::AUTHORIZATION)
        && !control.is_some_and(InterpretCacheControl::allow_caching_authorized_req)
}

/// Whether the client wants what is kept to be validated before it gets it (RFC
/// 9111, section 5.2.1). `max-stale` is not heeded: it only permits.
pub(super) fn wants_validation(request: &RequestHeader, meta: &CacheMeta) -> bool {
    let Some(control) = CacheControl::from_req_headers(request) else {
        return request
            .headers
            .get(header::PRAGMA)
            .is_some_and(|pragma| pragma.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    };
    let seconds = |key: &DirectiveKey| {
        let value = control.directives.get(key)?.as_ref()?;
        let seconds = value.parse_as_delta_seconds().ok()?;
        Some(Duration::from_secs(seconds.into()))
    };
    let too_old = seconds(&DirectiveKey::MaxAge).is_some_and(|most| meta.age() > most);
    let min_fresh = DirectiveKey::Unknown("min-fresh".to_owned());
    let too_late = seconds(&min_fresh).is_some_and(|least| {
        let until = SystemTime::now().checked_add(least);
        until.is_none_or(|until| !meta.is_fresh(until))
    });
    control.no_cache() || too_old || too_late
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use pingora_cache::key::CacheHashKey;
    use pingora_http::ResponseHeader;
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.append_header(name, *value).unwrap();
        }
        request
    }

    fn key(parts: &[String; 5], target: &str) -> [u8; 16] {
        let [listener, route, pool, scheme, host] = parts.each_ref().map(String::as_str);
        let key = Key {
            listener,
            route,
            pool,
            scheme,
            host,
        };
        key.of(&request("GET", target, &[])).primary_bin()
    }

    fn varying(by: &str, headers: &[(&str, &str)]) -> Option<HashBinary> {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("vary", by).unwrap();
        let now = SystemTime::now();
        let meta = CacheMeta::new(now, now, 0, 0, head);
        variance(&meta, &request("GET", "/", headers))
    }

    #[test]
    fn only_plain_reads_use_the_cache() {
        assert!(may_use(&request("GET", "/", &[("content-length", "0")])));
        assert!(may_use(&request("HEAD", "/", &[("cookie", "a=b")])));
        for (method, header) in [
            ("POST", ("accept", "*/*")),
            ("OPTIONS", ("accept", "*/*")),
            ("get", ("accept", "*/*")),
            ("GET", ("content-length", "1")),
            ("GET", ("transfer-encoding", "chunked")),
            ("GET", ("upgrade", "websocket")),
            ("GET", ("cache-control", "no-store")),
        ] {
            let refused = request(method, "/", &[header]);
            assert!(!may_use(&refused), "{method} {header:?}");
        }
    }

    #[test]
    fn only_changes_that_were_made_invalidate() {
        assert!(invalidates(&request("POST", "/", &[]), 200));
        assert!(invalidates(&request("DELETE", "/", &[]), 303));
        assert!(!invalidates(&request("POST", "/", &[]), 409));
        assert!(!invalidates(&request("GET", "/", &[]), 200));
    }

    #[test]
    fn hosts_have_no_case_but_paths_do() {
        let parts = |host: &str| ["l", "r", "p", "http", host].map(str::to_owned);
        assert_eq!(key(&parts("A.Example"), "/"), key(&parts("a.example"), "/"));
        assert_ne!(key(&parts("a"), "/A"), key(&parts("a"), "/a"));
        assert_ne!(key(&parts("a"), "/a?"), key(&parts("a"), "/a"));
    }

    #[test]
    fn fields_that_are_varied_by_are_told_apart() {
        let one = varying("a", &[("a", "x, y"), ("b", "1")]);
        assert_eq!(one, varying("A", &[("b", "2"), ("a", "x, y")]));
        let others: [&[(&str, &str)]; 5] = [
            &[],
            &[("a", "")],
            &[("a", "x"), ("a", "y")],
            &[("a", "x, y"), ("a", "")],
            &[("a", "x,y")],
        ];
        for other in others {
            assert_ne!(one, varying("a", other), "{other:?}");
        }
        let both = varying("a, b", &[("a", "x"), ("b", "y")]);
        assert_eq!(both, varying("b,a,a", &[("b", "y"), ("a", "x")]));
        assert_ne!(both, varying("a, b", &[("a", "y"), ("b", "x")]));
        assert_eq!(varying("", &[("a", "x")]), None);
    }

    proptest! {
        /// Parts of few characters, so that wrong keys would meet often.
        #[test]
        fn keys_are_as_different_as_what_they_are_of(
            one in proptest::array::uniform5("[a/:]{0,2}"),
            other in proptest::array::uniform5("[a/:]{0,2}"),
            paths in proptest::array::uniform2("/[a/:]{0,2}"),
        ) {
            let [first, second] = paths;
            let same = one == other && first == second;
            prop_assert_eq!(key(&one, &first) == key(&other, &second), same);
        }
    }
}
