//! How many requests may be under way at once, by what it does to latency.
//!
//! A server takes so many requests at once, and lets more wait: then latency grows
//! and nothing else. So the limit follows how much slower answers are than at
//! ease, as Envoy's adaptive concurrency filter (its gradient controller) does:
//!
//! ```text
//! gradient = baseline × 1.25 / mean latency of the window, from 0.5 to 2
//! limit    = limit × gradient + √limit
//! ```
//!
//! A window has at least 100 ms and 50 outcomes (or a second). Two things differ:
//! - The limit stays where fewer than half as many requests were under way, as in
//!   Netflix's concurrency-limits: such a window tells nothing about the limit.
//!   But its latency is that of a server at ease, so it moves the baseline.
//! - Envoy measures its baseline once a minute with three requests at once, and
//!   refuses the others meanwhile. Here that is done only where the limit is
//!   reached and the server was not at ease for half a minute, and by halving: as
//!   long as half as many requests are answered much faster, there was a queue.
//!
//! Failures say nothing about latency. Where they are more than a tenth, the limit
//! falls by a tenth (the decrease of AIMD, with Netflix's ratio).

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::model::AdaptiveConcurrency;
use crate::Now;

/// What latency may grow by before the limit falls. Envoy's default.
const TOLERANCE: f64 = 1.25;

const WINDOW: Duration = Duration::from_millis(100);
const LONGEST_WINDOW: Duration = Duration::from_secs(1);
const OUTCOMES: u32 = 50;

/// How long a baseline is good for while the limit is reached.
const MEASURED_FOR: Duration = Duration::from_secs(30);

/// Half as many requests that take less than this share of the time: there was
/// a queue.
const FASTER: f64 = 0.8;

/// How much a window at ease moves the baseline.
const SMOOTHING: f64 = 0.1;

/// A limit on requests under way. Shared by threads.
#[derive(Debug)]
pub struct AdaptiveLimit {
    bounds: AdaptiveConcurrency,
    limit: AtomicU32,
    in_flight: AtomicU32,
    /// The most that were under way in this window.
    peak: AtomicU32,
    gradient: Mutex<Gradient>,
}

/// A request that was admitted. Dropped without an outcome it says nothing.
#[derive(Debug)]
#[must_use = "a request is under way as long as this is kept"]
pub struct Admitted(Arc<AdaptiveLimit>);

#[derive(Debug)]
struct Gradient {
    /// The limit that is followed; another is in force while measuring.
    limit: f64,
    /// Seconds that an answer takes at ease; 0: unknown.
    baseline: f64,
    /// When a window at ease last ended, or a measurement.
    measured: Option<Now>,
    phase: Phase,
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Follow,
    /// The limit is lowered to measure, and more are under way yet. With the mean
    /// latency before.
    Lower {
        before: f64,
    },
    /// Of those admitted since.
    Measure {
        since: Now,
        before: f64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Now,
    answers: u32,
    failures: u32,
    seconds: f64,
}

impl AdaptiveLimit {
    /// Begins between the bounds, at their geometric mean.
    #[must_use]
    pub fn new(bounds: AdaptiveConcurrency) -> Self {
        let minimum = bounds.minimum.max(1);
        let maximum = bounds.maximum.max(minimum);
        let limit = (f64::from(minimum) * f64::from(maximum)).sqrt();
        Self {
            bounds: AdaptiveConcurrency { minimum, maximum },
            limit: AtomicU32::new(limit as u32),
            in_flight: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            gradient: Mutex::new(Gradient {
                limit,
                baseline: 0.0,
                measured: None,
                phase: Phase::Follow,
                window: None,
            }),
        }
    }

    /// Leave to send a request, unless as many as may be are under way.
    pub fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let limit = self.limit();
        let add = |in_flight| (in_flight < limit).then_some(in_flight + 1);
        let before = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        let now = before.ok()? + 1;
        if now > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(now, Ordering::Relaxed);
        }
        Some(Admitted(self.clone()))
    }

    /// Requests that may be under way.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Requests that are.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn set(&self, limit: f64) -> f64 {
        let AdaptiveConcurrency { minimum, maximum } = self.bounds;
        let limit = limit.clamp(f64::from(minimum), f64::from(maximum));
        self.limit.store(limit as u32, Ordering::Relaxed);
        limit
    }
}

impl Admitted {
    /// It was answered or failed, after this long.
    pub fn settle(self, latency: Duration, failed: bool, now: Now) {
        let limit = self.0.clone();
        // One less is under way before it is looked at.
        drop(self);
        // An outcome that meets another is left out: the others tell as much.
        if let Ok(mut gradient) = limit.gradient.try_lock() {
            gradient.settle(&limit, latency, failed, now);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gradient {
    fn settle(&mut self, of: &AdaptiveLimit, latency: Duration, failed: bool, now: Now) {
        match self.phase {
            Phase::Lower { before } if of.in_flight() <= of.limit() => {
                self.phase = Phase::Measure { since: now, before };
                self.window = None;
                return;
            }
            Phase::Lower { .. } => return,
            Phase::Measure { since, .. } if now.saturating_sub(latency) < since => return,
            Phase::Measure { .. } | Phase::Follow => {}
        }
        let window = self.window.get_or_insert(Window {
            since: now,
            answers: 0,
            failures: 0,
            seconds: 0.0,
        });
        if failed {
            window.failures += 1;
        } else {
            window.answers += 1;
            window.seconds += latency.as_secs_f64();
        }
        let took = now.saturating_sub(window.since);
        let is_enough = window.answers + window.failures >= OUTCOMES;
        if (took >= WINDOW && is_enough) || took >= LONGEST_WINDOW {
            let window = *window;
            self.window = None;
            let peak = of.peak.swap(of.in_flight(), Ordering::Relaxed);
            self.end(of, window, peak, now);
        }
    }

    fn end(&mut self, of: &AdaptiveLimit, window: Window, peak: u32, now: Now) {
        let is_failing = window.failures * 10 > window.answers + window.failures;
        let mean = window.seconds / f64::from(window.answers.max(1));
        if let Phase::Measure { before, .. } = self.phase {
            let is_lowest = of.limit() <= of.bounds.minimum;
            if !is_failing && mean < before * FASTER && !is_lowest {
                return self.lower(of, f64::from(of.limit()), mean);
            }
            if !is_failing {
                self.baseline = mean;
            }
            self.measured = Some(now);
            self.phase = Phase::Follow;
            self.limit = of.set(self.limit);
        } else if is_failing {
            self.limit = of.set(self.limit * 0.9);
        } else if f64::from(peak) * 2.0 < self.limit {
            self.ease(mean);
            // Unless nothing was measured yet: half of the first limit may be more
            // than the server takes.
            if let Some(measured) = &mut self.measured {
                *measured = now;
            }
        } else if peak >= of.limit() && self.is_due(now) {
            // What it took now may be of a queue that just begins to grow, so the
            // first halving is compared with nothing.
            self.lower(of, self.limit, f64::INFINITY);
        } else {
            if self.baseline == 0.0 || mean < self.baseline {
                self.ease(mean);
            }
            let gradient = (self.baseline * TOLERANCE / mean.max(1e-9)).clamp(0.5, 2.0);
            self.limit = of.set(self.limit * gradient + self.limit.sqrt());
        }
    }

    fn is_due(&self, now: Now) -> bool {
        self.measured
            .is_none_or(|then| now.saturating_sub(then) >= MEASURED_FOR)
    }

    /// Lowers the limit in force to half of `from`, to see whether answers that
    /// took `before` on average become faster.
    fn lower(&mut self, of: &AdaptiveLimit, from: f64, before: f64) {
        of.set(from / 2.0);
        self.phase = Phase::Lower { before };
    }

    fn ease(&mut self, mean: f64) {
        self.baseline = if self.baseline == 0.0 {
            mean
        } else {
            self.baseline + (mean - self.baseline) * SMOOTHING
        };
    }
}
