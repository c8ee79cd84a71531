//! What the edge proxy is configured to do. Valid by construction of its maker,
//! as [`Model`](crate::Model) is: names resolve, files were read, patterns compile.

mod listener;

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::breaker::BreakerPolicy;

pub use self::listener::*;

/// Everything that the proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L7 {
    /// One for each service in [`Mode::Proxy`](crate::Mode::Proxy) that has an
    /// `[service.http]`.
    pub listeners: Vec<Listener>,
    /// How servers are spoken to, for each service over TCP that has endpoints: a
    /// route may name it, unless it has every port.
    pub upstreams: Vec<Upstream>,
    pub access_log: Option<AccessLog>,
    /// Bytes that cached responses may take; 0: none is cached.
    pub cache_bytes: u64,
    /// Threads that serve; `None`: one a CPU.
    pub threads: Option<u16>,
    /// How long connections may go on after SIGTERM.
    pub drain_limit: Duration,
    /// 32 bytes, from the configured file, by which edges seal what they give to
    /// clients to be routed by; the same on every edge.
    pub seal_key: Option<SealKey>,
    /// Whether outcomes of requests decide about endpoints.
    pub passive: Passive,
}

impl Default for L7 {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            upstreams: Vec::new(),
            access_log: None,
            cache_bytes: 0,
            threads: None,
            drain_limit: Duration::from_secs(30),
            seal_key: None,
            passive: Passive::Probe,
        }
    }
}

/// A key that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SealKey(pub [u8; 32]);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// What outcomes of requests mean for the verdict that XDP follows too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Passive {
    /// Nothing: probes alone decide.
    Ignore,
    /// Three connection errors in a row ask for a probe at once.
    #[default]
    Probe,
    /// They count as failed probes themselves.
    Decide,
}

/// One JSON object a line for requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// A file to append to.
    pub path: PathBuf,
    /// One in so many requests that succeeded is written; failures always are.
    pub one_in: u32,
}

/// What becomes of requests of some kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Unique within the service: for logs, metrics and breakers.
    pub name: Arc<str>,
    pub matches: Matches,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// 1 to 4; 4 is shed first.
    pub tier: u8,
    /// Requests of one client address to this route.
    pub rate: Option<Rate>,
}

/// What a request must be. What is empty matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Lower case; `*.example.org` stands for any name below, however deep.
    pub hosts: Vec<Box<str>>,
    pub path: Option<PathMatch>,
    /// As sent: methods are case-sensitive.
    pub methods: Vec<Box<str>>,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(Box<str>),
    /// Matches at boundaries of segments: `/api` has `/api/x`, not `/apix`. `/` has
    /// every path; no other ends in a slash.
    Prefix(Box<str>),
    /// Matches the whole path. Compiles, alone and between `^(?:` and `)$`, in a
    /// megabyte.
    Regex(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: Box<str>,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Present,
    Absent,
    Exact(Box<str>),
    /// Matches the whole value. Compiles as [`PathMatch::Regex`] does.
    Regex(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    Answer(Answer),
}

/// To another place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// What of the request's URL is replaced; the rest stays.
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<Rewrite>,
}

/// A response of the edge's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: Box<str>,
    pub body: Arc<[u8]>,
}

/// How a path changes on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The whole path; the query stays.
    Path(Box<str>),
    /// What [`PathMatch::Prefix`] matched becomes this. As there, only `/` ends in a
    /// slash; the result has one slash where both parts have one.
    Prefix(Box<str>),
    /// Every match of a pattern becomes `to`, in which `$1` stands for a group that
    /// the pattern has.
    Regex { pattern: Box<str>, to: Box<str> },
}

/// In this order: removed, set (replacing), added. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub remove: Vec<Box<str>>,
    pub set: Vec<(Box<str>, Box<str>)>,
    pub add: Vec<(Box<str>, Box<str>)>,
}

/// To the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Name of a service with endpoints.
    pub pool: Arc<str>,
    pub rewrite: Option<Rewrite>,
    /// Value of `Host` that servers get; `None`: the client's.
    pub host: Option<Box<str>>,
    pub affinity: Affinity,
    pub retry: Retry,
    /// From a request's head to its response's head, all tries together.
    pub timeout: Option<Duration>,
    /// Silence within a response, and of an upgraded connection.
    pub stream_idle: Duration,
    pub breaker: RouteBreaker,
    pub adaptive: Option<AdaptiveConcurrency>,
    pub cache: Option<CachePolicy>,
    /// What is said when no endpoint can answer; `None`: 503 with `Retry-After`.
    pub fallback: Option<Answer>,
    /// How long a client of a 503 is told to wait.
    pub retry_after: Duration,
}

/// Which requests go to the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    #[default]
    None,
    /// A cookie that the edge sets, sealed.
    Cookie {
        name: Box<str>,
        /// `None`: until the browser is closed.
        max_age: Option<Duration>,
    },
    /// By a hash of a header's value; without it, none.
    Header { name: Box<str> },
    /// By a hash of the client's address.
    Source,
    /// MCP over streamable HTTP: `Mcp-Session-Id` stays at its endpoint, sealed;
    /// one that is unknown or lost is answered with 404.
    Mcp,
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0: none.
    pub retries: u8,
    /// Statuses of a server that are tried again elsewhere.
    pub statuses: Vec<u16>,
    /// Methods that are safe to send twice, beyond those that RFC 9110 calls
    /// idempotent.
    pub methods: Vec<Box<str>>,
    /// How long one try may take to the head of its response.
    pub per_try: Option<Duration>,
    /// Retries for every hundred requests, at most.
    pub budget_percent: u32,
    /// Retries a second that are allowed however few requests there are.
    pub budget_floor: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            retries: 2,
            statuses: vec![502, 503, 504],
            methods: Vec::new(),
            per_try: None,
            budget_percent: 20,
            budget_floor: 3,
        }
    }
}

/// Breakers of a route: one for each site, one for each endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteBreaker {
    pub site: BreakerPolicy,
    pub endpoint: BreakerPolicy,
    /// The share of endpoints, and of sites, that breakers may take out at once,
    /// 0 to 100. Never the last.
    pub max_ejection_percent: u32,
    /// Requests that may wait for a free place; 0: none waits.
    pub pending: u32,
}

/// A limit on requests under way that follows latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveConcurrency {
    pub minimum: u32,
    pub maximum: u32,
}

/// What is cached, besides what `Cache-Control` says (RFC 9111).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachePolicy {
    /// How long beyond freshness a response may be served when no server can
    /// answer, where it does not say itself (`stale-if-error`, RFC 5861).
    pub stale_if_error: Duration,
    /// The largest body that is kept.
    pub body_bytes: u64,
}

/// How the servers of a service are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Name of the service.
    pub service: Arc<str>,
    pub protocol: UpstreamProtocol,
    pub tls: Option<UpstreamTls>,
    pub connect_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// Connections of one endpoint, `None`: any number.
    pub connections: Option<u32>,
    pub proxy_protocol: Option<ProxyProtocol>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    /// In plain text by prior knowledge, over TLS by ALPN.
    Http2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Name that certificates must have; `None`: the `Host` sent.
    pub server_name: Option<Box<str>>,
    /// PEM: authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// What the edge shows of itself.
    pub client: Option<CertificateFiles>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}
