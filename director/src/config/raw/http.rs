//! The keys of the edge proxy, as they are written.

use serde::Deserialize;

use super::{Integer, Integers, Map, Size, Tables, Text, Texts, Truth};
use crate::config::field::Table;

/// `[edge.http]`.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Edge {
    pub(in crate::config) threads: Integer,
    pub(in crate::config) drain_limit: Text,
    pub(in crate::config) cache: Size,
    pub(in crate::config) seal_key_file: Text,
    pub(in crate::config) passive: Text,
    pub(in crate::config) access_log: Option<Table<AccessLog>>,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct AccessLog {
    pub(in crate::config) path: Text,
    pub(in crate::config) one_in: Integer,
}

/// `[service.http]`.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Http {
    pub(in crate::config) http2: Truth,
    pub(in crate::config) proxy_protocol_from: Texts,
    pub(in crate::config) trusted: Texts,
    pub(in crate::config) forwarded: Text,
    pub(in crate::config) request_id: Text,
    pub(in crate::config) traceparent: Truth,
    pub(in crate::config) tls: Option<Table<Tls>>,
    pub(in crate::config) limits: Option<Table<Limits>>,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Tls {
    pub(in crate::config) certificates: Tables<Certificate>,
    pub(in crate::config) tls12: Truth,
    pub(in crate::config) client_ca: Text,
    pub(in crate::config) client_auth: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Certificate {
    pub(in crate::config) certificate: Text,
    pub(in crate::config) key: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Limits {
    pub(in crate::config) connections: Integer,
    pub(in crate::config) connections_per_client: Integer,
    pub(in crate::config) header_bytes: Size,
    pub(in crate::config) headers: Integer,
    pub(in crate::config) body_bytes: Size,
    pub(in crate::config) header_timeout: Text,
    pub(in crate::config) body_timeout: Text,
    pub(in crate::config) idle_timeout: Text,
    pub(in crate::config) streams: Integer,
    pub(in crate::config) resets: Integer,
    pub(in crate::config) rate: Integer,
    pub(in crate::config) burst: Integer,
}

/// `[service.upstream]` and `[pool.upstream]`.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Upstream {
    pub(in crate::config) protocol: Text,
    pub(in crate::config) connect_timeout: Text,
    pub(in crate::config) idle_timeout: Text,
    pub(in crate::config) connections: Integer,
    pub(in crate::config) proxy_protocol: Text,
    pub(in crate::config) tls: Option<Table<UpstreamTls>>,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct UpstreamTls {
    pub(in crate::config) server_name: Text,
    pub(in crate::config) ca: Text,
    pub(in crate::config) certificate: Text,
    pub(in crate::config) key: Text,
}

/// `[[service.route]]`.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Route {
    pub(in crate::config) name: Text,
    pub(in crate::config) hosts: Texts,
    pub(in crate::config) path: Text,
    pub(in crate::config) path_exact: Text,
    pub(in crate::config) path_regex: Text,
    pub(in crate::config) methods: Texts,
    pub(in crate::config) headers: Tables<HeaderMatch>,
    pub(in crate::config) mcp_methods: Texts,
    pub(in crate::config) tier: Integer,
    pub(in crate::config) rate: Integer,
    pub(in crate::config) burst: Integer,
    pub(in crate::config) pool: Text,
    pub(in crate::config) redirect: Option<Table<Redirect>>,
    pub(in crate::config) answer: Option<Table<Answer>>,
    pub(in crate::config) timeout: Text,
    pub(in crate::config) stream_idle: Text,
    pub(in crate::config) retry_after: Text,
    pub(in crate::config) host: Text,
    pub(in crate::config) rewrite_path: Text,
    pub(in crate::config) rewrite_prefix: Text,
    pub(in crate::config) rewrite_regex: Option<Table<Substitution>>,
    pub(in crate::config) fallback: Option<Table<Answer>>,
    pub(in crate::config) affinity: Option<Table<Affinity>>,
    pub(in crate::config) request_headers: Option<Table<HeaderEdits>>,
    pub(in crate::config) response_headers: Option<Table<HeaderEdits>>,
    pub(in crate::config) retry: Option<Table<Retry>>,
    pub(in crate::config) breaker: Option<Table<Breaker>>,
    pub(in crate::config) adaptive: Option<Table<Adaptive>>,
    pub(in crate::config) cache: Option<Table<Cache>>,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct HeaderMatch {
    pub(in crate::config) name: Text,
    pub(in crate::config) value: Text,
    pub(in crate::config) regex: Text,
    pub(in crate::config) present: Truth,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Substitution {
    pub(in crate::config) pattern: Text,
    pub(in crate::config) to: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Redirect {
    pub(in crate::config) status: Integer,
    pub(in crate::config) scheme: Text,
    pub(in crate::config) host: Text,
    pub(in crate::config) port: Integer,
    pub(in crate::config) path: Text,
    pub(in crate::config) prefix: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Answer {
    pub(in crate::config) status: Integer,
    pub(in crate::config) content_type: Text,
    pub(in crate::config) body: Text,
    pub(in crate::config) body_file: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Affinity {
    pub(in crate::config) r#type: Text,
    pub(in crate::config) name: Text,
    pub(in crate::config) max_age: Text,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct HeaderEdits {
    pub(in crate::config) set: Map,
    pub(in crate::config) add: Map,
    pub(in crate::config) remove: Texts,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Retry {
    pub(in crate::config) retries: Integer,
    pub(in crate::config) statuses: Integers,
    pub(in crate::config) methods: Texts,
    pub(in crate::config) per_try: Text,
    pub(in crate::config) budget_percent: Integer,
    pub(in crate::config) budget_floor: Integer,
}

/// `[service.route.breaker]`: the policy of endpoints' breakers, and what is for all.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Breaker {
    pub(in crate::config) consecutive_failures: Integer,
    pub(in crate::config) failure_percent: Integer,
    pub(in crate::config) minimum_volume: Integer,
    pub(in crate::config) window: Text,
    pub(in crate::config) slow: Text,
    pub(in crate::config) open_for: Text,
    pub(in crate::config) longest_open: Text,
    pub(in crate::config) forget_after: Text,
    pub(in crate::config) probes: Integer,
    pub(in crate::config) probes_to_close: Integer,
    pub(in crate::config) concurrency: Integer,
    pub(in crate::config) max_ejection: Integer,
    pub(in crate::config) pending: Integer,
    pub(in crate::config) site: Option<Table<SiteBreaker>>,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct SiteBreaker {
    pub(in crate::config) consecutive_failures: Integer,
    pub(in crate::config) failure_percent: Integer,
    pub(in crate::config) minimum_volume: Integer,
    pub(in crate::config) window: Text,
    pub(in crate::config) slow: Text,
    pub(in crate::config) open_for: Text,
    pub(in crate::config) longest_open: Text,
    pub(in crate::config) forget_after: Text,
    pub(in crate::config) probes: Integer,
    pub(in crate::config) probes_to_close: Integer,
    pub(in crate::config) concurrency: Integer,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Adaptive {
    pub(in crate::config) minimum: Integer,
    pub(in crate::config) maximum: Integer,
}

#[derive(Debug, Deserialize)]
pub(in crate::config) struct Cache {
    pub(in crate::config) stale_if_error: Text,
    pub(in crate::config) body_bytes: Size,
}

/// The keys by which the breakers of endpoints and of sites share one reading.
#[derive(Clone, Copy, Debug)]
pub(in crate::config) struct BreakerPolicy<'r> {
    pub(in crate::config) consecutive_failures: &'r Integer,
    pub(in crate::config) failure_percent: &'r Integer,
    pub(in crate::config) minimum_volume: &'r Integer,
    pub(in crate::config) window: &'r Text,
    pub(in crate::config) slow: &'r Text,
    pub(in crate::config) open_for: &'r Text,
    pub(in crate::config) longest_open: &'r Text,
    pub(in crate::config) forget_after: &'r Text,
    pub(in crate::config) probes: &'r Integer,
    pub(in crate::config) probes_to_close: &'r Integer,
    pub(in crate::config) concurrency: &'r Integer,
}

/// Not derived with `flatten`, which loses where values stand.
macro_rules! policy_of {
    ($table:ty) => {
        impl $table {
            pub(in crate::config) fn policy(&self) -> BreakerPolicy<'_> {
                BreakerPolicy {
                    consecutive_failures: &self.consecutive_failures,
                    failure_percent: &self.failure_percent,
                    minimum_volume: &self.minimum_volume,
                    window: &self.window,
                    slow: &self.slow,
                    open_for: &self.open_for,
                    longest_open: &self.longest_open,
                    forget_after: &self.forget_after,
                    probes: &self.probes,
                    probes_to_close: &self.probes_to_close,
                    concurrency: &self.concurrency,
                }
            }
        }
    };
}

policy_of!(Breaker);
policy_of!(SiteBreaker);
