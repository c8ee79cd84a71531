//! What the proxy counts. Handles are looked up once for each route and site, so
//! that a request costs a few atomic additions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use hdrhistogram::Histogram as Hdr;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::guard::Refusal;

/// Upper bounds of the buckets of response times, in seconds.
const BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Latencies above are counted as this: an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// Quantiles that are told.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")];

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RouteLabels {
    service: String,
    route: String,
    /// Empty where no site was asked.
    site: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    service: String,
    route: String,
    site: String,
    /// `2xx` and the like; `0xx` where the client left before the response.
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EventLabels {
    service: String,
    route: String,
    event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    service: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BreakerLabels {
    service: String,
    route: String,
    /// A site, or `site/endpoint`.
    breaker: String,
    to: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QuantileLabels {
    service: String,
    route: String,
    site: String,
    quantile: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabels {
    service: String,
    name: String,
}

/// Something that became of a request besides its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEvent {
    /// It was sent again.
    Retry,
    /// It would have been sent again, had the budget allowed it.
    RetryRefused,
    /// No breaker let it pass.
    BreakerOpen,
    /// It was shed, by tier.
    Shed,
    /// The adaptive limit, or one of concurrency, refused it.
    Limited,
    /// Its client asked too often.
    RateLimited,
    /// A stale response was served.
    Stale,
    /// A cached response was served.
    Hit,
    /// The fallback was served.
    Fallback,
    /// No endpoint could be asked.
    NoEndpoint,
    /// A session of MCP that is lost.
    LostSession,
}

impl RequestEvent {
    const ALL: [Self; 11] = [
        Self::Retry,
        Self::RetryRefused,
        Self::BreakerOpen,
        Self::Shed,
        Self::Limited,
        Self::RateLimited,
        Self::Stale,
        Self::Hit,
        Self::Fallback,
        Self::NoEndpoint,
        Self::LostSession,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryRefused => "retry_refused",
            Self::BreakerOpen => "breaker_open",
            Self::Shed => "shed",
            Self::Limited => "limited",
            Self::RateLimited => "rate_limited",
            Self::Stale => "stale",
            Self::Hit => "hit",
            Self::Fallback => "fallback",
            Self::NoEndpoint => "no_endpoint",
            Self::LostSession => "lost_session",
        }
    }
}

/// Everything that the proxy counts.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    events: Family<EventLabels, Counter>,
    early: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    connections: Family<ServiceLabels, Gauge<i64, AtomicI64>>,
    breakers: Family<BreakerLabels, Counter>,
    quantiles: Family<QuantileLabels, Gauge<f64, AtomicU64>>,
    certificates: Family<CertificateLabels, Gauge<i64, AtomicI64>>,
    latencies: Mutex<BTreeMap<RouteLabels, Arc<Latencies>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("director_l7");
        let seconds: fn() -> Histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            events: Family::default(),
            early: Family::default(),
            refused: Family::default(),
            connections: Family::default(),
            breakers: Family::default(),
            quantiles: Family::default(),
            certificates: Family::default(),
            latencies: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests by what they were answered with",
            metrics.requests.clone(),
        );
        registry.register(
            "request_seconds",
            "From a request's head to the end of its response",
            metrics.seconds.clone(),
        );
        registry.register(
            "request_events",
            "What became of requests besides",
            metrics.events.clone(),
        );
        registry.register(
            "connections_failed",
            "Connections that ended before a request",
            metrics.early.clone(),
        );
        registry.register(
            "requests_refused",
            "Requests that were not read on, by what is wrong with them",
            metrics.refused.clone(),
        );
        registry.register(
            "connections",
            "Open connections of clients",
            metrics.connections.clone(),
        );
        registry.register(
            "breaker_transitions",
            "Changes of circuit breakers",
            metrics.breakers.clone(),
        );
        registry.register(
            "latency_seconds",
            "Quantiles of response times since the scrape before",
            metrics.quantiles.clone(),
        );
        registry.register(
            "certificate_expiry_unix_seconds",
            "When a certificate expires",
            metrics.certificates.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// To be encoded, with quantiles up to now.
    pub fn registry(&self) -> &Registry {
        let latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (labels, latencies) in latencies.iter() {
            for (quantile, seconds) in latencies.take() {
                let labels = QuantileLabels {
                    service: labels.service.clone(),
                    route: labels.route.clone(),
                    site: labels.site.clone(),
                    quantile,
                };
                self.quantiles.get_or_create(&labels).set(seconds);
            }
        }
        drop(latencies);
        &self.registry
    }

    pub fn listener(&self, service: &str) -> ListenerMetrics {
        let labels = ServiceLabels {
            service: service.to_owned(),
        };
        ListenerMetrics {
            service: service.to_owned(),
            early: self.early.clone(),
            refused: self.refused.clone(),
            connections: self.connections.get_or_create(&labels).clone(),
        }
    }

    /// Handles for a route's requests to a site, or to none where it is empty.
    pub fn site(&self, service: &str, route: &str, site: &str) -> SiteMetrics {
        let labels = RouteLabels {
            service: service.to_owned(),
            route: route.to_owned(),
            site: site.to_owned(),
        };
        let codes = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|code| {
            let labels = RequestLabels {
                service: labels.service.clone(),
                route: labels.route.clone(),
                site: labels.site.clone(),
                code,
            };
            self.requests.get_or_create(&labels).clone()
        });
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        SiteMetrics {
            codes,
            seconds: self.seconds.get_or_create(&labels).clone(),
            latencies: latencies.entry(labels).or_default().clone(),
        }
    }

    pub fn route(&self, service: &str, route: &str) -> RouteMetrics {
        let counters = RequestEvent::ALL.map(|event| {
            let labels = EventLabels {
                service: service.to_owned(),
                route: route.to_owned(),
                event: event.label(),
            };
            self.events.get_or_create(&labels).clone()
        });
        RouteMetrics(counters)
    }

    pub fn breaker(&self, service: &str, route: &str, breaker: &str, to: &'static str) {
        let labels = BreakerLabels {
            service: service.to_owned(),
            route: route.to_owned(),
            breaker: breaker.to_owned(),
            to,
        };
        self.breakers.get_or_create(&labels).inc();
    }

    pub fn certificate(&self, service: &str, name: &str, not_after: i64) {
        let labels = CertificateLabels {
            service: service.to_owned(),
            name: name.to_owned(),
        };
        self.certificates.get_or_create(&labels).set(not_after);
    }
}

/// Of a listener.
pub struct ListenerMetrics {
    service: String,
    early: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    pub connections: Gauge<i64, AtomicI64>,
}

impl ListenerMetrics {
    pub fn early(&self, reason: &'static str) {
        self.count(&self.early, reason);
    }

    pub fn refused(&self, refusal: Refusal) {
        // The variant's name: there are few, and none that a client makes up.
        self.count(&self.refused, &format!("{refusal:?}"));
    }

    fn count(&self, family: &Family<ReasonLabels, Counter>, reason: &str) {
        let (service, reason) = (self.service.clone(), reason.to_owned());
        family
            .get_or_create(&ReasonLabels { service, reason })
            .inc();
    }
}

/// Of a route, by event.
pub struct RouteMetrics([Counter; RequestEvent::ALL.len()]);

impl RouteMetrics {
    pub fn count(&self, event: RequestEvent) {
        self.0[event as usize].inc();
    }
}

/// Of a route's requests to a site.
pub struct SiteMetrics {
    codes: [Counter; 6],
    seconds: Histogram,
    latencies: Arc<Latencies>,
}

impl SiteMetrics {
    /// A request that was answered with `status`, 0 for none, after `took`.
    pub fn done(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(self.codes.len() - 1);
        self.codes[class].inc();
        self.seconds.observe(took.as_secs_f64());
        self.latencies.record(took);
    }
}

/// Response times since they were last asked for.
struct Latencies(Mutex<Hdr<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Hdr::new_with_bounds(1, LONGEST_US, 2);
        Self(Mutex::new(histogram.unwrap_or_else(|_| {
            unreachable!("the bounds are constant and valid")
        })))
    }
}

impl Latencies {
    fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(us.clamp(1, LONGEST_US));
    }

    /// The quantiles in seconds, none where nothing was recorded.
    fn take(&self) -> Vec<(&'static str, f64)> {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if histogram.is_empty() {
            return Vec::new();
        }
        let quantiles = QUANTILES
            .map(|(quantile, name)| (name, histogram.value_at_quantile(quantile) as f64 / 1e6));
        histogram.reset();
        quantiles.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_a_counter_each() {
        for (index, event) in RequestEvent::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, index, "{event:?}");
        }
    }

    #[test]
    fn a_request_is_in_its_class_and_in_the_quantiles() {
        let metrics = Metrics::default();
        let site = metrics.site("shop", "default", "dc01");
        site.done(204, Duration::from_millis(3));
        site.done(0, Duration::from_millis(3));
        let mut text = String::new();
        prometheus_client::encoding::text::encode_registry(&mut text, metrics.registry())
            .expect("text");
        for line in [
            r#"director_l7_requests_total{service="shop",route="default",site="dc01",code="2xx"} 1"#,
            r#"director_l7_requests_total{service="shop",route="default",site="dc01",code="0xx"} 1"#,
            r#"director_l7_latency_seconds{service="shop",route="default",site="dc01",quantile="0.99"} 0.003"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
