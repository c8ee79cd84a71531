//! `report.json`: the figures in the form others rely on (extra keys are ours).

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{Agreement, ByWindow, Run};
use super::judge::Objective;
use super::measure::{Quantiles, Shares};
use super::plan::Plan;
use super::proxy::report::ProxyReport;
use super::topology::Topology;

/// A drill's report. Durations are milliseconds, shares go from 0 to 1, and
/// what does not apply is `null`.
#[derive(Debug, Serialize)]
pub struct Report {
    fault: &'static str,
    mode: &'static str,
    ip: u8,
    layer: &'static str,
    site: String,
    connections: u32,
    rate: u32,
    patience_ms: f64,
    interval_ms: f64,
    fast_interval_ms: f64,
    timeout_ms: f64,
    rto_limit_ms: f64,
    passed: bool,
    /// Over all runs; the same as the run's own figures when there is one.
    summary: Summary,
    runs: Vec<RunReport>,
}

#[derive(Debug, Serialize)]
struct RunReport {
    detect_ms: Option<f64>,
    rto_ms: f64,
    failed_new: u64,
    failed_new_share: f64,
    broken_surviving: u64,
    lost_site_connections: Option<u64>,
    lost_site_learned_ms_p99: Option<f64>,
    recovered_ms: Option<f64>,
    shares: BTreeMap<String, SiteShares>,
    passed: bool,
    objectives: Vec<Objective>,
    delayed_new: u64,
    failed_new_by: BTreeMap<String, u64>,
    failed_before_fault: u64,
    broken_surviving_by: BTreeMap<String, u64>,
    lost_site_learned_ms_p50: Option<f64>,
    lost_site_unlearned: Option<u64>,
    lost_site_learned_by: BTreeMap<String, u64>,
    live_connections: BTreeMap<String, u64>,
    new_latency_ms: ByWindowReport,
    answers: Vec<Answers>,
    measurement_lag_ms_max: f64,
    live_lag_ms_max: f64,
    timeline: Timeline,
    #[serde(flatten)]
    proxy: Option<ProxyReport>,
}

#[derive(Debug, Serialize)]
struct SiteShares {
    configured: f64,
    before: f64,
    during: f64,
    after: f64,
}

#[derive(Debug, Serialize)]
struct ByWindowReport {
    before: Option<LatencyReport>,
    during: Option<LatencyReport>,
    after: Option<LatencyReport>,
}

#[derive(Debug, Serialize)]
struct LatencyReport {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Answers {
    endpoint: String,
    client: u64,
    server: u64,
    unanswered: u64,
    agrees: bool,
}

/// New connections by bucket, and the marks, all from the timeline's start.
#[derive(Debug, Serialize)]
struct Timeline {
    bucket_ms: u64,
    fault_ms: f64,
    detected_ms: Option<f64>,
    recovery_ms: f64,
    recovered_ms: Option<f64>,
    answered: BTreeMap<String, Vec<u32>>,
    failed: Vec<u32>,
}

/// Median and worst of the runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// From the fault to the verdict.
    pub detect_ms: Option<Spread>,
    /// From the fault to the last failed attempt.
    pub rto_ms: Spread,
    /// New connections that failed.
    pub failed_new: Spread,
    /// Live connections broken without a reason.
    pub broken_surviving: Spread,
    /// When the lost site's connections learned of it, 99th percentile.
    pub lost_site_learned_ms_p99: Option<Spread>,
    /// From the recovery to the site's weight being back.
    pub recovered_ms: Option<Spread>,
}

/// The median and the largest of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle value; of an even number, the mean of the middle two.
    pub median: f64,
    /// The largest.
    pub worst: f64,
}

impl Spread {
    /// `None` when there are no values.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let worst = *values.last()?;
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, worst })
    }
}

/// Median and worst of `runs`, of which there is one at least.
#[must_use]
pub fn summarize(runs: &[Run]) -> Summary {
    let all = |value: &dyn Fn(&Run) -> f64| {
        let nothing = Spread {
            median: 0.0,
            worst: 0.0,
        };
        Spread::of(runs.iter().map(value)).unwrap_or(nothing)
    };
    let some = |value: &dyn Fn(&Run) -> Option<f64>| Spread::of(runs.iter().filter_map(value));
    Summary {
        detect_ms: some(&Run::detect_ms),
        rto_ms: all(&Run::rto_ms),
        failed_new: all(&|run| run.failed.after_fault as f64),
        broken_surviving: all(&|run| run.broken_surviving as f64),
        lost_site_learned_ms_p99: some(&|run| Some(run.lost.as_ref()?.learned?.p99)),
        recovered_ms: some(&Run::recovered_ms),
    }
}

impl Report {
    /// Puts the runs of a drill together with how they were judged.
    #[must_use]
    pub fn new(plan: &Plan, topology: &Topology, runs: &[(Run, Vec<Objective>)]) -> Self {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1000.0;
        let figures: Vec<Run> = runs.iter().map(|(run, _)| run.clone()).collect();
        Self {
            fault: plan.fault.as_str(),
            mode: plan.mode.as_str(),
            ip: plan.ip_version(),
            layer: plan.layer.as_str(),
            site: plan.site.clone(),
            connections: plan.connections,
            rate: plan.rate,
            patience_ms: ms(plan.patience),
            interval_ms: ms(plan.health.interval),
            fast_interval_ms: ms(plan.health.fast_interval),
            timeout_ms: ms(plan.health.timeout),
            rto_limit_ms: ms(plan.rto_limit()),
            passed: runs
                .iter()
                .all(|(_, judged)| judged.iter().all(|one| one.met)),
            summary: summarize(&figures),
            runs: runs
                .iter()
                .map(|(run, judged)| RunReport::new(run, judged, topology))
                .collect(),
        }
    }

    /// As JSON text.
    ///
    /// # Errors
    /// When a figure cannot be written as JSON.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl RunReport {
    fn new(run: &Run, judged: &[Objective], topology: &Topology) -> Self {
        let lost = run.lost.as_ref();
        let learned = lost.and_then(|lost| lost.learned);
        let names = topology.sites().iter().map(|site| site.name.clone());
        Self {
            detect_ms: run.detect_ms(),
            rto_ms: run.rto_ms(),
            failed_new: run.failed.after_fault,
            failed_new_share: run.failed.share,
            broken_surviving: run.broken_surviving,
            lost_site_connections: lost.map(|lost| lost.connections),
            lost_site_learned_ms_p99: learned.map(|times| times.p99),
            recovered_ms: run.recovered_ms(),
            shares: site_shares(&run.shares, topology),
            passed: judged.iter().all(|one| one.met),
            objectives: judged.to_vec(),
            delayed_new: run.failed.delayed,
            failed_new_by: by_kind(&run.failed.by_outcome),
            failed_before_fault: run.failed.before_fault,
            broken_surviving_by: by_kind(&run.broken_by_kind),
            lost_site_learned_ms_p50: learned.map(|times| times.p50),
            lost_site_unlearned: lost.map(|lost| lost.unlearned),
            lost_site_learned_by: lost.map(|lost| by_kind(&lost.by_kind)).unwrap_or_default(),
            live_connections: names.zip(run.live_by_site.iter().copied()).collect(),
            new_latency_ms: ByWindowReport::new(&run.latency),
            answers: run.agreement.iter().map(Answers::new).collect(),
            measurement_lag_ms_max: run.measurement_lag_ms,
            live_lag_ms_max: run.live_lag_ms,
            timeline: Timeline::new(run, topology),
            proxy: run.proxy.as_ref().map(ProxyReport::new),
        }
    }
}

impl ByWindowReport {
    fn new(latency: &ByWindow<Option<Quantiles>>) -> Self {
        let report = |times: &Option<Quantiles>| {
            times.map(|times| LatencyReport {
                p50: times.p50,
                p99: times.p99,
                p999: times.p999,
                max: times.max,
            })
        };
        Self {
            before: report(&latency.before),
            during: report(&latency.during),
            after: report(&latency.after),
        }
    }
}

impl Answers {
    fn new(counts: &Agreement) -> Self {
        Self {
            endpoint: counts.endpoint.clone(),
            client: counts.client,
            server: counts.server,
            unanswered: counts.unanswered,
            agrees: counts.agrees(),
        }
    }
}

impl Timeline {
    fn new(run: &Run, topology: &Topology) -> Self {
        let start = run.marks.windows.before.from;
        let since = |us: u64| us.saturating_sub(start) as f64 / 1000.0;
        let answered = |site: usize| run.timeline.iter().map(|one| one.answered[site]).collect();
        Self {
            bucket_ms: super::measure::BUCKET_US / 1000,
            fault_ms: since(run.marks.fault),
            detected_ms: run.marks.detected.map(since),
            recovery_ms: since(run.marks.recovery),
            recovered_ms: run.marks.recovered.map(since),
            answered: topology
                .sites()
                .iter()
                .enumerate()
                .map(|(index, site)| (site.name.clone(), answered(index)))
                .collect(),
            failed: run.timeline.iter().map(|one| one.failed).collect(),
        }
    }
}

fn site_shares(shares: &ByWindow<Shares>, topology: &Topology) -> BTreeMap<String, SiteShares> {
    let configured = topology.configured();
    let sites = topology.sites().iter().enumerate();
    sites
        .map(|(index, site)| {
            let shares = SiteShares {
                configured: configured[index],
                before: shares.before.by_site[index],
                during: shares.during.by_site[index],
                after: shares.after.by_site[index],
            };
            (site.name.clone(), shares)
        })
        .collect()
}

fn by_kind<K: std::fmt::Debug>(counts: &[(K, u64)]) -> BTreeMap<String, u64> {
    counts
        .iter()
        .map(|(kind, count)| (format!("{kind:?}").to_lowercase(), *count))
        .collect()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
