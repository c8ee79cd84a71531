//! How busy and how slow an endpoint is, as the requests sent to it tell.
//!
//! Latency is a peak EWMA, as in Finagle's `PeakEwma`: a slower answer counts at
//! once and in full, faster ones by and by, with a time constant of ten seconds;
//! and while none comes it fades, so that who was slow is tried again. A failure
//! counts as an answer that took at least [`PENALTY`] and at least as long as the
//! pool's mean: failing fast is not being fast.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::Now;

/// Time constant by which latencies are forgotten.
pub const DECAY: Duration = Duration::from_secs(10);

/// What a failure counts as at least, and what an endpoint is taken for that has
/// requests but has answered none.
pub const PENALTY: Duration = Duration::from_secs(1);

/// The mean latency of a pool: an average that forgets exponentially.
///
/// Threads may add to it at once. Nanoseconds; 0: unknown.
#[derive(Debug, Default)]
pub struct Latency {
    nanos: AtomicU64,
    /// When something was last added.
    stamp: AtomicU64,
}

impl Latency {
    /// The average; zero where nothing is known.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn add(&self, sample: Duration, now: Now) {
        self.update(now, |old, kept| blend(old, nanos(sample), kept));
    }

    fn add_peak(&self, sample: u64, now: Now) {
        self.update(now, |old, kept| {
            let blended = blend(old, sample, kept);
            blended.max(sample)
        });
    }

    /// What is left of it when nothing was added since.
    fn faded(&self, now: Now) -> f64 {
        let value = self.nanos.load(Ordering::Relaxed) as f64;
        let since = nanos(now).saturating_sub(self.stamp.load(Ordering::Relaxed));
        value * kept(since)
    }

    /// Where threads meet, each counts a part of the time since, so that together
    /// they forget as much as one would.
    fn update(&self, now: Now, to: impl Fn(u64, f64) -> u64) {
        let now = nanos(now);
        let since = now.saturating_sub(self.stamp.fetch_max(now, Ordering::Relaxed));
        let kept = kept(since);
        let set = |old| Some(to(old, kept).max(1));
        let _ = self
            .nanos
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
    }
}

fn blend(old: u64, sample: u64, kept: f64) -> u64 {
    if old == 0 {
        return sample;
    }
    (old as f64 * kept + sample as f64 * (1.0 - kept)) as u64
}

/// The share that is kept after so many nanoseconds.
fn kept(since: u64) -> f64 {
    (-(since as f64) / DECAY.as_nanos() as f64).exp()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Load of one endpoint. Shared by threads, and by the plans that name it.
#[derive(Debug, Default)]
pub struct EndpointLoad {
    in_flight: AtomicU32,
    latency: Latency,
}

impl EndpointLoad {
    /// A request is sent.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Requests that are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Peak latency as it has faded until now; zero where nothing is known.
    #[must_use]
    pub fn latency(&self, now: Now) -> Duration {
        Duration::from_nanos(self.latency.faded(now) as u64)
    }

    /// Latency times the requests that are under way with `more` added, where each
    /// counts `scale`, and one.
    pub(super) fn cost(&self, more: u32, scale: f64, now: Now) -> f64 {
        let in_flight = f64::from(self.in_flight());
        let latency = self.latency.faded(now);
        let latency = if latency < 1.0 && in_flight > 0.0 {
            PENALTY.as_nanos() as f64
        } else {
            latency
        };
        latency * ((in_flight + f64::from(more)) * scale + 1.0)
    }
}

/// A request under way. Dropped without an outcome it says nothing about latency,
/// as when the client went away.
#[derive(Debug)]
#[must_use = "a request is under way as long as this is kept"]
pub struct InFlight(Arc<EndpointLoad>);

impl InFlight {
    /// The head of the response is here, after this long. The request is under way
    /// until this is dropped.
    pub fn answered(&self, took: Duration, pool: &Latency, now: Now) {
        self.0.latency.add_peak(nanos(took), now);
        pool.add(took, now);
    }

    /// It failed, after this long.
    pub fn failed(self, took: Duration, pool: &Latency, now: Now) {
        let counts = took.max(pool.mean()).max(PENALTY);
        self.0.latency.add_peak(nanos(counts), now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn latency_rises_at_once_and_fades() {
        let (load, pool) = (Arc::new(EndpointLoad::default()), Latency::default());
        load.begin().answered(10 * MILLI, &pool, Now::ZERO);
        assert_eq!(load.latency(Now::ZERO), 10 * MILLI);
        load.begin().answered(100 * MILLI, &pool, MILLI);
        assert_eq!(load.latency(MILLI), 100 * MILLI);
        assert!(
            pool.mean() < 11 * MILLI,
            "one answer moves the mean but little"
        );
        load.begin().answered(10 * MILLI, &pool, MILLI + DECAY);
        let after = load.latency(MILLI + DECAY);
        assert!(
            after > 42 * MILLI && after < 44 * MILLI,
            "10 + 90 / e: {after:?}"
        );
        let faded = load.latency(MILLI + 2 * DECAY);
        assert!(faded > 15 * MILLI && faded < 17 * MILLI, "{faded:?}");
        assert_eq!(load.latency(40 * DECAY), Duration::ZERO);
    }

    #[test]
    fn a_failure_counts_as_slow_however_fast_it_was() {
        let (load, pool) = (Arc::new(EndpointLoad::default()), Latency::default());
        load.begin().failed(MILLI, &pool, Now::ZERO);
        assert_eq!(load.latency(Now::ZERO), PENALTY);
        assert_eq!(pool.mean(), Duration::ZERO, "it says nothing about latency");
        let other = Arc::new(EndpointLoad::default());
        other.begin().answered(5 * PENALTY, &pool, Now::ZERO);
        load.begin().failed(MILLI, &pool, Now::ZERO);
        assert_eq!(load.latency(Now::ZERO), 5 * PENALTY);
        load.begin().failed(9 * PENALTY, &pool, Now::ZERO);
        assert_eq!(load.latency(Now::ZERO), 9 * PENALTY);
    }

    #[test]
    fn what_is_under_way_counts_until_it_is_dropped() {
        let (load, pool) = (Arc::new(EndpointLoad::default()), Latency::default());
        assert_eq!(load.cost(0, 1.0, Now::ZERO), 0.0);
        let first = load.begin();
        assert_eq!(
            load.cost(0, 1.0, Now::ZERO),
            2.0 * PENALTY.as_nanos() as f64
        );
        let second = load.begin();
        first.answered(MILLI, &pool, Now::ZERO);
        drop(first);
        assert_eq!(load.cost(0, 1.0, Now::ZERO), 2.0 * MILLI.as_nanos() as f64);
        assert_eq!(load.in_flight(), 1);
        drop(second);
        assert_eq!(load.in_flight(), 0);
    }
}
