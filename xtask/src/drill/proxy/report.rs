//! The keys of `report.json` that only a drill of the edge proxy has.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::figures::ByWindow;
use super::super::measure::Quantiles;
use super::Figures;

/// Keys of a run, beside those of every drill.
#[derive(Debug, Serialize)]
pub struct ProxyReport {
    requests: u64,
    retries: u64,
    retries_refused: u64,
    breaker_transitions: u64,
    breaker_transitions_by: BTreeMap<String, BTreeMap<String, u64>>,
    breaker_open_ms: Option<f64>,
    p50_ms: Windows,
    p99_ms: Windows,
    p999_ms: Windows,
    duplicates: u64,
    failed_why: BTreeMap<String, u64>,
    no_connection_free: u64,
    timeline_p99_ms: Vec<f64>,
}

/// A quantile before the fault, from there to the recovery, and once recovered.
#[derive(Debug, Serialize)]
struct Windows {
    before: Option<f64>,
    during: Option<f64>,
    after: Option<f64>,
}

impl ProxyReport {
    /// Those of `figures`.
    #[must_use]
    pub fn new(figures: &Figures) -> Self {
        let latency = &figures.latency;
        Self {
            requests: figures.requests,
            retries: figures.retries,
            retries_refused: figures.retries_refused,
            breaker_transitions: figures.transitions_total(),
            breaker_transitions_by: figures.transitions.clone(),
            breaker_open_ms: figures.breaker_open_ms,
            p50_ms: Windows::of(latency, |times| times.p50),
            p99_ms: Windows::of(latency, |times| times.p99),
            p999_ms: Windows::of(latency, |times| times.p999),
            duplicates: figures.ledger.duplicates,
            failed_why: figures.failed_why.clone(),
            no_connection_free: figures.overflow,
            timeline_p99_ms: figures.timeline_p99_ms.clone(),
        }
    }
}

impl Windows {
    fn of(latency: &ByWindow<Option<Quantiles>>, value: fn(Quantiles) -> f64) -> Self {
        Self {
            before: latency.before.map(value),
            during: latency.during.map(value),
            after: latency.after.map(value),
        }
    }
}
