//! The figures of a drill, computed from what the client recorded.
//!
//! Everything here is a function of records and marks: no clock, no network.
//! `shared/interfaces.md`'s rules ("How a drill counts") are implemented here.

use hdrhistogram::Histogram;

use super::load::records::{Attempt, Break, BreakKind, Outcome, Records, to_us};
use super::topology::Topology;

/// Width of a bucket of the timeline, microseconds.
pub const BUCKET_US: u64 = 100_000;
/// Length of the window in which a recovered site must show its weight.
const RECOVERED_WINDOW_US: u64 = 1_000_000;
/// For how long it must keep it before it counts as recovered.
const RECOVERED_STAYS_US: u64 = 3_000_000;
/// How far from its weight a site's share may be, whatever the sample: 2 points.
const POINTS: f64 = 0.02;

/// A span of a drill's time, microseconds, the end excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First microsecond.
    pub from: u64,
    /// First microsecond past it.
    pub to: u64,
}

impl Span {
    /// Whether `us` lies in it.
    #[must_use]
    pub fn holds(&self, us: u64) -> bool {
        (self.from..self.to).contains(&us)
    }
}

/// When things happened in a run, microseconds of its clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Just before the fault took effect.
    pub fault: u64,
    /// The fault was wholly in place.
    pub injected: u64,
    /// The verdict "down" reached the maps; `None` for a planned change.
    pub detected: Option<u64>,
    /// Just before the recovery was begun.
    pub recovery: u64,
    /// The site had its weight again ([`recovered_at`]).
    pub recovered: Option<u64>,
    /// The load was stopped.
    pub end: u64,
    /// The windows over which shares and latencies are taken.
    pub windows: Windows,
}

/// The windows of a run: steady state, site lost, site back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Before the fault.
    pub before: Span,
    /// From the verdict (or the drain) to the recovery.
    pub during: Span,
    /// Once recovered.
    pub after: Span,
}

/// Shares of answered new connections by site.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// By site, 0 to 1; all 0 when nothing was answered.
    pub by_site: Vec<f64>,
    /// Answered connections by site.
    pub counts: Vec<u64>,
    /// The sum of the counts.
    pub total: u64,
}

/// New connections that failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failed {
    /// From the fault on, delayed ones included.
    pub after_fault: u64,
    /// As a share of those begun between the fault and the recovery.
    pub share: f64,
    /// Of `after_fault`, those that were answered after all, too late.
    pub delayed: u64,
    /// By outcome, in the order of [`Outcome`], those with none left out.
    pub by_outcome: Vec<(Outcome, u64)>,
    /// Before the fault: the service was not in order to begin with.
    pub before_fault: u64,
    /// From the fault to the start of the last failed attempt, microseconds.
    pub rto_us: u64,
}

/// Live connections of the lost site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lost {
    /// How many there were when the fault struck.
    pub connections: u64,
    /// Of them, those that saw no error until the load ended.
    pub unlearned: u64,
    /// From the fault to the error, milliseconds; those that saw none count
    /// with all the time they waited. `None` without connections.
    pub learned: Option<Quantiles>,
    /// What they saw, by kind.
    pub by_kind: Vec<(BreakKind, u64)>,
}

/// Quantiles of a set of durations, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

/// How far a share of `total` samples may lie from `expected`: 2 points, or
/// `sigmas` standard deviations of the binomial distribution where a small
/// sample makes that more.
#[must_use]
pub fn tolerance(expected: f64, total: u64, sigmas: f64) -> f64 {
    if total == 0 {
        return POINTS;
    }
    let sigma = (expected * (1.0 - expected) / total as f64).sqrt();
    POINTS.max(sigmas * sigma)
}

/// Shares of the connections begun in `span` and answered in time.
#[must_use]
pub fn shares(attempts: &[Attempt], topology: &Topology, span: Span) -> Shares {
    let mut counts = vec![0_u64; topology.sites().len()];
    for attempt in attempts.iter().filter(|one| span.holds(one.start_us)) {
        if let (Outcome::Answered, Some(endpoint)) = (attempt.outcome, attempt.endpoint) {
            counts[topology.site_of(endpoint)] += 1;
        }
    }
    let total: u64 = counts.iter().sum();
    let by_site = counts
        .iter()
        .map(|&count| {
            if total == 0 {
                0.0
            } else {
                count as f64 / total as f64
            }
        })
        .collect();
    Shares {
        by_site,
        counts,
        total,
    }
}

/// Failed new connections and how long they kept failing.
#[must_use]
pub fn failed(attempts: &[Attempt], marks: &Marks, patience: std::time::Duration) -> Failed {
    let mut failed = Failed::default();
    let outage = Span {
        from: marks.fault,
        to: marks.recovery,
    };
    let begun = attempts.iter().filter(|one| outage.holds(one.start_us));
    let begun = begun.count() as u64;
    let mut by_outcome = std::collections::BTreeMap::<Outcome, u64>::new();
    for attempt in attempts.iter().filter(|one| one.outcome.failed()) {
        // The moment it counted as failed, which for a silent one is the end
        // of the patience and not the end of the waiting.
        let waited = u64::from(attempt.latency_us).min(to_us(patience));
        if attempt.start_us + waited < marks.fault {
            failed.before_fault += 1;
            continue;
        }
        failed.after_fault += 1;
        failed.delayed += u64::from(attempt.outcome == Outcome::Delayed);
        failed.rto_us = failed
            .rto_us
            .max(attempt.start_us.saturating_sub(marks.fault));
        *by_outcome.entry(attempt.outcome).or_default() += 1;
    }
    failed.by_outcome = by_outcome.into_iter().collect();
    if begun > 0 {
        // Those under way when the fault struck may add to the failed ones.
        failed.share = (failed.after_fault as f64 / begun as f64).min(1.0);
    }
    failed
}

/// Live connections broken that had no reason to be: of a site that was not
/// hit, or of any site before the fault (or in a planned change, `planned`).
/// Returns how many connections, and their first break by kind.
#[must_use]
pub fn broken_surviving(
    breaks: &[Break],
    topology: &Topology,
    marks: &Marks,
    planned: bool,
) -> (u64, Vec<(BreakKind, u64)>) {
    let surviving =
        |event: &&Break| planned || !topology.is_hit(event.endpoint) || event.at_us < marks.fault;
    let mut first = std::collections::BTreeMap::new();
    for event in breaks.iter().filter(surviving) {
        first.entry(event.connection).or_insert(event.kind);
    }
    (first.len() as u64, tally(first.into_values()))
}

/// What became of the lost site's live connections.
#[must_use]
pub fn lost(records: &Records, topology: &Topology, marks: &Marks) -> Lost {
    let opened: u64 = (0..)
        .zip(&records.counts.live_opened)
        .filter(|(endpoint, _)| topology.is_hit(*endpoint))
        .map(|(_, opened)| opened)
        .sum();
    let mut gone_before = std::collections::BTreeSet::new();
    let mut learned = std::collections::BTreeMap::new();
    for event in records
        .breaks
        .iter()
        .filter(|one| topology.is_hit(one.endpoint))
    {
        // Stalled is the client's impatience; the error is yet to come.
        if event.kind == BreakKind::Stalled {
            continue;
        }
        if event.at_us < marks.fault {
            gone_before.insert(event.connection);
        } else {
            learned.entry(event.connection).or_insert(*event);
        }
    }
    let connections = opened.saturating_sub(gone_before.len() as u64);
    let unlearned = connections.saturating_sub(learned.len() as u64);
    let mut times = histogram();
    for event in learned.values() {
        times.saturating_record(event.at_us - marks.fault);
    }
    times.saturating_record_n(marks.end.saturating_sub(marks.fault), unlearned);
    Lost {
        connections,
        unlearned,
        learned: quantiles(&times),
        by_kind: tally(learned.into_values().map(|event| event.kind)),
    }
}

/// Latency of the new connections begun in `span` and answered, however late;
/// `None` when there were none.
#[must_use]
pub fn latency(attempts: &[Attempt], span: Span) -> Option<Quantiles> {
    let mut times = histogram();
    let answered = |one: &&Attempt| {
        matches!(one.outcome, Outcome::Answered | Outcome::Delayed) && span.holds(one.start_us)
    };
    for attempt in attempts.iter().filter(answered) {
        times.saturating_record(u64::from(attempt.latency_us));
    }
    quantiles(&times)
}

/// When the hit site had its weight again: the start of the first second, from
/// `recovery` on, in which its share of new connections lies within 2 points
/// (or 3 standard deviations) of its weight, and from which on it stays there
/// until `now`, 3 s later at least. `None` until then.
#[must_use]
pub fn recovered_at(
    attempts: &[Attempt],
    topology: &Topology,
    recovery: u64,
    now: u64,
) -> Option<u64> {
    let hit = topology.hit();
    let due = topology.configured()[hit];
    let buckets = usize::try_from(now.saturating_sub(recovery) / BUCKET_US).ok()?;
    // Prefix sums of (answered by the hit site, answered by any).
    let mut sums = vec![(0_u64, 0_u64); buckets + 1];
    for attempt in attempts {
        let (Outcome::Answered, Some(endpoint)) = (attempt.outcome, attempt.endpoint) else {
            continue;
        };
        let Some(since) = attempt.start_us.checked_sub(recovery) else {
            continue;
        };
        let bucket = (since / BUCKET_US) as usize;
        if bucket < buckets {
            sums[bucket + 1].0 += u64::from(topology.is_hit(endpoint));
            sums[bucket + 1].1 += 1;
        }
    }
    for bucket in 0..buckets {
        sums[bucket + 1].0 += sums[bucket].0;
        sums[bucket + 1].1 += sums[bucket].1;
    }
    let within = |from: usize, to: usize| {
        let total = sums[to].1 - sums[from].1;
        let share = (sums[to].0 - sums[from].0) as f64 / total.max(1) as f64;
        total > 0 && (share - due).abs() <= tolerance(due, total, 3.0)
    };
    let window = (RECOVERED_WINDOW_US / BUCKET_US) as usize;
    let stays = (RECOVERED_STAYS_US / BUCKET_US) as usize;
    (0..(buckets + 1).saturating_sub(stays))
        .find(|&from| within(from, from + window) && within(from, buckets))
        .map(|from| recovery + from as u64 * BUCKET_US)
}

/// One bucket of the timeline, by when the attempts began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Answered in time, by site.
    pub answered: Vec<u32>,
    /// Failed, delayed ones included.
    pub failed: u32,
}

/// New connections in buckets of 100 ms, from the drill's zero to `end`.
#[must_use]
pub fn timeline(attempts: &[Attempt], topology: &Topology, span: Span) -> Vec<Bucket> {
    let length = span.to.saturating_sub(span.from) / BUCKET_US;
    let empty = Bucket {
        answered: vec![0; topology.sites().len()],
        failed: 0,
    };
    let mut buckets = vec![empty; usize::try_from(length).unwrap_or(0)];
    for attempt in attempts.iter().filter(|one| span.holds(one.start_us)) {
        let index = ((attempt.start_us - span.from) / BUCKET_US) as usize;
        let Some(bucket) = buckets.get_mut(index) else {
            continue;
        };
        match (attempt.outcome, attempt.endpoint) {
            (Outcome::Answered, Some(endpoint)) => {
                bucket.answered[topology.site_of(endpoint)] += 1;
            }
            _ => bucket.failed += 1,
        }
    }
    buckets
}

/// 99th percentile of the latencies of what was begun in each bucket of the
/// timeline and answered, milliseconds; 0 where nothing was.
#[must_use]
pub fn slowest(attempts: &[Attempt], span: Span) -> Vec<f64> {
    let length = span.to.saturating_sub(span.from) / BUCKET_US;
    let mut buckets = vec![Vec::new(); usize::try_from(length).unwrap_or(0)];
    for attempt in attempts.iter().filter(|one| span.holds(one.start_us)) {
        let index = ((attempt.start_us - span.from) / BUCKET_US) as usize;
        if let (Outcome::Answered | Outcome::Delayed, Some(bucket)) =
            (attempt.outcome, buckets.get_mut(index))
        {
            bucket.push(attempt.latency_us);
        }
    }
    let p99 = |mut bucket: Vec<u32>| {
        bucket.sort_unstable();
        let rank = (bucket.len() * 99).div_ceil(100);
        let us = bucket.get(rank.saturating_sub(1)).copied();
        f64::from(us.unwrap_or(0)) / 1000.0
    };
    buckets.into_iter().map(p99).collect()
}

fn tally<K: Ord>(kinds: impl Iterator<Item = K>) -> Vec<(K, u64)> {
    let mut counts = std::collections::BTreeMap::new();
    for kind in kinds {
        *counts.entry(kind).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// Microseconds up to ten minutes, to three digits; longer is a drill gone wrong.
fn histogram() -> Histogram<u64> {
    let made = Histogram::new_with_bounds(1, 600_000_000, 3);
    made.unwrap_or_else(|error| unreachable!("the bounds are valid: {error:?}"))
}

fn quantiles(times: &Histogram<u64>) -> Option<Quantiles> {
    let ms = |us: u64| us as f64 / 1000.0;
    (!times.is_empty()).then(|| Quantiles {
        p50: ms(times.value_at_quantile(0.5)),
        p99: ms(times.value_at_quantile(0.99)),
        p999: ms(times.value_at_quantile(0.999)),
        max: ms(times.max()),
    })
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
