//! What a drill of the edge proxy has beyond one of packets: requests instead of
//! connections, retries and circuit breakers, and counts by request.

pub mod counts;
pub mod judge;
pub mod metrics;
pub mod report;
pub mod table;

use std::collections::BTreeMap;

use super::figures::ByWindow;
use super::load::records::{Attempt, Outcome};
use super::measure::{self, Marks, Quantiles, Span};
use super::topology::Topology;
use counts::{Failure, Ledger};
use metrics::Counters;

/// What is read besides the client's records.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The proxy's counters before the fault.
    pub before: Counters,
    /// The proxy's counters once the load had stopped.
    pub after: Counters,
    /// When a breaker of the site was seen open, microseconds of the drill's clock.
    pub breaker_open: Option<u64>,
    /// By endpoint: how often its server carried out each request.
    pub carried_out: Vec<Vec<u8>>,
    /// The requests that the proxy says failed.
    pub failures: Vec<Failure>,
    /// Requests that had a new connection as no kept one was free.
    pub overflow: u64,
}

/// The figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests sent in the run.
    pub requests: u64,
    /// Of them, those sent between the fault and the recovery.
    pub sent_in_outage: u64,
    /// Retries, from before the fault to the end.
    pub retries: u64,
    /// Retries that the budget refused.
    pub retries_refused: u64,
    /// By breaker and by the state it went to, how often, likewise.
    pub transitions: BTreeMap<String, BTreeMap<String, u64>>,
    /// From the fault to the first breaker of the site seen open, milliseconds.
    pub breaker_open_ms: Option<f64>,
    /// Latency of requests; `during` is from the fault to the recovery.
    pub latency: ByWindow<Option<Quantiles>>,
    /// 99th percentile of latency by bucket of the timeline, milliseconds.
    pub timeline_p99_ms: Vec<f64>,
    /// Both sides' counts, request by request.
    pub ledger: Ledger,
    /// Requests that failed although no try of theirs went to the lost site.
    pub broken_surviving: u64,
    /// Why the proxy says that requests failed, and how many.
    pub failed_why: BTreeMap<String, u64>,
    /// See [`Seen::overflow`].
    pub overflow: u64,
}

impl Figures {
    /// Computes them.
    #[must_use]
    pub fn new(attempts: &[Attempt], marks: &Marks, topology: &Topology, seen: &Seen) -> Self {
        let latency = |span| measure::latency(attempts, span);
        let whole = Span {
            from: marks.windows.before.from,
            to: marks.end,
        };
        let outage = Span {
            from: marks.fault,
            to: marks.recovery,
        };
        let open_ms = |open: u64| open.saturating_sub(marks.fault) as f64 / 1000.0;
        let failed: Vec<&Attempt> = attempts.iter().filter(|one| one.outcome.failed()).collect();
        Self {
            requests: attempts.len() as u64,
            sent_in_outage: attempts
                .iter()
                .filter(|one| outage.holds(one.start_us))
                .count() as u64,
            retries: seen.after.retries.saturating_sub(seen.before.retries),
            retries_refused: (seen.after.retries_refused)
                .saturating_sub(seen.before.retries_refused),
            transitions: seen.after.transitions_since(&seen.before),
            breaker_open_ms: seen.breaker_open.map(open_ms),
            latency: ByWindow {
                before: latency(marks.windows.before),
                during: latency(outage),
                after: latency(marks.windows.after),
            },
            timeline_p99_ms: measure::slowest(attempts, whole),
            ledger: Ledger::new(attempts, &seen.carried_out),
            broken_surviving: counts::broken_surviving(&failed, &seen.failures, topology),
            failed_why: counts::why(&seen.failures),
            overflow: seen.overflow,
        }
    }

    /// Changes of all breakers.
    #[must_use]
    pub fn transitions_total(&self) -> u64 {
        self.transitions.values().flat_map(BTreeMap::values).sum()
    }

    /// How often breakers of `site`, its own and those of its endpoints, went to
    /// `state`.
    #[must_use]
    pub fn transitions_of(&self, site: &str, state: &str) -> u64 {
        metrics::of_site(&self.transitions, site, state)
    }
}

/// Whether it was answered, however late.
fn was_answered(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Answered | Outcome::Delayed)
}
