//! Whether a run met its objectives, each with what was measured and what was asked.

use std::time::Duration;

use serde::Serialize;

use super::figures::{Agreement, Run};
use super::measure::{Shares, tolerance};
use super::topology::Topology;

/// For the time between a verdict and the packet that obeys it, and for the
/// client's own timers: what the bound computed from the probes' timing leaves out.
pub const GRACE: Duration = Duration::from_millis(500);
/// Standard deviations a judged share may lie off: one run in some thousands
/// of small ones would fail by chance. At the default rate 2 points are more.
const SIGMAS: f64 = 4.0;

/// What a drill must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objectives {
    /// The longest that new connections may fail.
    pub rto: Duration,
    /// It was named on the command line.
    pub rto_asked: bool,
    /// The site is drained, not lost: nothing may fail or break at all.
    pub planned: bool,
}

/// One objective, judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// What it is about.
    pub name: String,
    /// What was measured.
    pub measured: String,
    /// What was asked.
    pub limit: String,
    /// Whether it was met.
    pub met: bool,
}

/// Judges `run`; it passes when every objective is met.
#[must_use]
pub fn judge(run: &Run, topology: &Topology, objectives: &Objectives) -> Vec<Objective> {
    let mut judged = vec![
        none(
            "live connections broken on surviving sites",
            run.broken_surviving,
        ),
        none(
            "new connections failed before the fault",
            run.failed.before_fault,
        ),
    ];
    if objectives.planned {
        judged.push(none("new connections failed", run.failed.after_fault));
        judged.push(none(
            "new connections to the drained site",
            run.shares.during.counts[topology.hit()],
        ));
    } else {
        judged.push(detected(run));
        judged.push(rto(run, objectives.rto));
    }
    judged.push(recovered(run, topology));
    let (configured, without) = (topology.configured(), topology.without_hit());
    let windows = [
        ("before", &run.shares.before, &configured),
        ("during", &run.shares.during, &without),
        ("after", &run.shares.after, &configured),
    ];
    for (window, shares, expected) in windows {
        judged.push(share(window, shares, expected, topology));
    }
    judged.push(counts(&run.agreement));
    judged
}

/// Nothing of the kind may have happened.
pub fn none(name: &str, measured: u64) -> Objective {
    Objective {
        name: name.into(),
        measured: measured.to_string(),
        limit: "0".into(),
        met: measured == 0,
    }
}

/// The verdict "down" came.
pub fn detected(run: &Run) -> Objective {
    let detected = run.detect_ms();
    Objective {
        name: "the loss is detected".into(),
        measured: detected.map_or("never".into(), |ms| format!("after {ms:.0} ms")),
        limit: "detected".into(),
        met: detected.is_some(),
    }
}

/// New connections failed for no longer than `limit`.
pub fn rto(run: &Run, limit: Duration) -> Objective {
    let limit_ms = limit.as_secs_f64() * 1000.0;
    Objective {
        name: "RTO".into(),
        measured: format!("{:.0} ms", run.rto_ms()),
        limit: format!("≤ {limit_ms:.0} ms"),
        met: run.rto_ms() <= limit_ms,
    }
}

/// The site is loaded again as before.
pub fn recovered(run: &Run, topology: &Topology) -> Objective {
    let site = &topology.sites()[topology.hit()].name;
    Objective {
        name: format!("{site} gets its weight back"),
        measured: run
            .recovered_ms()
            .map_or("never".into(), |ms| format!("after {ms:.0} ms")),
        limit: "recovered".into(),
        met: run.recovered_ms().is_some(),
    }
}

/// The site farthest off its share, measured in what it is allowed.
pub fn share(window: &str, shares: &Shares, expected: &[f64], topology: &Topology) -> Objective {
    let off = |site: usize| {
        let allowed = tolerance(expected[site], shares.total, SIGMAS);
        (site, (shares.by_site[site] - expected[site]).abs(), allowed)
    };
    let worst = (0..expected.len())
        .map(off)
        .max_by(|a, b| (a.1 / a.2).total_cmp(&(b.1 / b.2)));
    let name = format!("shares by weight, {window}");
    let Some((site, deviation, allowed)) = worst.filter(|_| shares.total > 0) else {
        return Objective {
            name,
            measured: "no connection was answered".into(),
            limit: "shares to compare".into(),
            met: false,
        };
    };
    Objective {
        name,
        measured: format!(
            "{:.1} points off ({})",
            deviation * 100.0,
            topology.sites()[site].name
        ),
        limit: format!("≤ {:.1} points", allowed * 100.0),
        met: deviation <= allowed,
    }
}

fn counts(agreement: &[Agreement]) -> Objective {
    let differ: Vec<_> = agreement.iter().filter(|one| !one.agrees()).collect();
    let measured = match differ.first() {
        None => {
            let ahead: u64 = agreement.iter().map(|one| one.server - one.client).sum();
            format!("agree, {ahead} lost on the way")
        }
        Some(one) => format!(
            "{} of {} differ, as {}: client {}, server {}",
            differ.len(),
            agreement.len(),
            one.endpoint,
            one.client,
            one.server
        ),
    };
    Objective {
        name: "client's and servers' counts of answers".into(),
        measured,
        limit: "equal, but for unanswered ones".into(),
        met: differ.is_empty() && !agreement.is_empty(),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
