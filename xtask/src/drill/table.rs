//! The drill's result as an operator reads it.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

use super::figures::Run;
use super::judge::Objective;
use super::measure::Quantiles;
use super::plan::Plan;
use super::proxy;
use super::report::{Spread, Summary};
use super::topology::Topology;

/// A client that was later than this may have blamed the network for its own lateness.
const LAG_LIMIT_MS: f64 = 200.0;

/// One run: what was lost and what it cost, the shares, the objectives.
#[must_use]
pub fn run(plan: &Plan, topology: &Topology, run: &Run, judged: &[Objective]) -> String {
    let mut text = format!("{}\n", costs(plan, topology, run));
    text += &format!("\n{}\n", shares(topology, run));
    text += &format!("\n{}\n", latencies(run));
    text += &format!("\n{}\n", objectives(judged));
    if let Some(notes) = lag(run) {
        text += &format!("\n{notes}\n");
    }
    text
}

/// Several runs: medians and the worst.
#[must_use]
pub fn summary(runs: usize, passed: usize, summary: &Summary) -> String {
    let mut table = table(&["over all runs", "median", "worst"]);
    let mut row = |name: &str, spread: Option<Spread>, unit: &str| {
        let show = |value: f64| format!("{value:.0}{unit}");
        let (median, worst) = spread.map_or(("—".into(), "—".into()), |spread| {
            (show(spread.median), show(spread.worst))
        });
        table.add_row(vec![Cell::new(name), right(median), right(worst)]);
    };
    row("detected", summary.detect_ms, " ms");
    row("RTO", Some(summary.rto_ms), " ms");
    row("new connections failed", Some(summary.failed_new), "");
    row(
        "live connections broken on surviving sites",
        Some(summary.broken_surviving),
        "",
    );
    row(
        "lost site's clients knew, p99",
        summary.lost_site_learned_ms_p99,
        " ms",
    );
    row("weight back", summary.recovered_ms, " ms");
    format!("{table}\n{passed} of {runs} runs passed")
}

fn costs(plan: &Plan, topology: &Topology, run: &Run) -> Table {
    let site = &topology.sites()[topology.hit()];
    let mut table = table(&["failover drill", ""]);
    let mut row = |name: &str, value: String| {
        table.add_row(vec![name.to_owned(), value]);
    };
    row(
        "what happened",
        format!(
            "{} of {}, IPv{}, mode {}",
            plan.fault.as_str(),
            site.name,
            plan.ip_version(),
            plan.mode.as_str()
        ),
    );
    let load = match &run.proxy {
        Some(figures) => proxy::table::load(plan, figures),
        None => format!(
            "{} live connections, {} new a second",
            run.live_by_site.iter().sum::<u64>(),
            plan.rate
        ),
    };
    row("load", load);
    let what = unit(run);
    if !plan.planned() {
        if !plan.fault.passes_checks() {
            row("detected after", ms(run.detect_ms()));
        }
        row(&format!("RTO: {what} failed for"), ms(Some(run.rto_ms())));
    }
    row(&format!("{what} failed"), failed(run));
    let broken = match run.proxy {
        Some(_) => "of them, the lost site had no part in",
        None => "live connections broken on surviving sites",
    };
    row(broken, counted(run.broken_surviving, &run.broken_by_kind));
    for (name, value) in run.proxy.iter().flat_map(|of| proxy::table::rows(run, of)) {
        row(name, value);
    }
    if let Some(lost) = &run.lost {
        row(
            "live connections lost with the site",
            counted(lost.connections, &lost.by_kind),
        );
        row(
            "their clients knew after",
            knew(lost.learned, lost.unlearned),
        );
    }
    row("weight back, after the recovery", ms(run.recovered_ms()));
    table
}

/// What is begun at a steady rate.
fn unit(run: &Run) -> &'static str {
    match run.proxy {
        Some(_) => "requests",
        None => "new connections",
    }
}

fn failed(run: &Run) -> String {
    let failed = &run.failed;
    format!(
        "{}, {:.2} % of those begun while the site was out",
        counted(failed.after_fault, &failed.by_outcome),
        failed.share * 100.0
    )
}

fn knew(learned: Option<Quantiles>, unlearned: u64) -> String {
    let Some(times) = learned else {
        return "—".into();
    };
    let mut text = format!("p50 {}, p99 {}", ms(Some(times.p50)), ms(Some(times.p99)));
    if unlearned > 0 {
        text += &format!("; {unlearned} never did");
    }
    text
}

fn shares(topology: &Topology, run: &Run) -> Table {
    let mut table = table(&[
        "share of new connections",
        "configured",
        "before",
        "during",
        "after",
        "live connections",
    ]);
    let configured = topology.configured();
    for (index, site) in topology.sites().iter().enumerate() {
        let percent = |share: f64| right(format!("{:.1} %", share * 100.0));
        table.add_row(vec![
            Cell::new(&site.name),
            percent(configured[index]),
            percent(run.shares.before.by_site[index]),
            percent(run.shares.during.by_site[index]),
            percent(run.shares.after.by_site[index]),
            right(run.live_by_site[index].to_string()),
        ]);
    }
    table
}

fn latencies(run: &Run) -> Table {
    let title = format!("{} answered in", unit(run));
    let mut table = table(&[&title, "p50", "p99", "p99.9", "longest"]);
    let windows = [
        ("before", run.latency.before),
        ("during", run.latency.during),
        ("after", run.latency.after),
    ];
    for (name, times) in windows {
        let value = |of: fn(Quantiles) -> f64| {
            right(times.map_or("—".into(), |times| format!("{:.1} ms", of(times))))
        };
        table.add_row(vec![
            Cell::new(name),
            value(|times| times.p50),
            value(|times| times.p99),
            value(|times| times.p999),
            value(|times| times.max),
        ]);
    }
    table
}

fn objectives(judged: &[Objective]) -> Table {
    let mut table = table(&["objective", "measured", "asked", ""]);
    for one in judged {
        let verdict = if one.met { "ok" } else { "FAIL" };
        table.add_row(vec![&one.name, &one.measured, &one.limit, verdict]);
    }
    table
}

/// What the figures may be off by because the client was late itself.
fn lag(run: &Run) -> Option<String> {
    let late = |ms: f64, what: &str, blur: &str| {
        (ms > LAG_LIMIT_MS)
            .then(|| format!("note: this machine was up to {ms:.0} ms late to {what}; {blur}"))
    };
    let lines = [
        late(
            run.measurement_lag_ms,
            "begin new connections",
            "RTO and latencies are no finer than that",
        ),
        late(
            run.live_lag_ms,
            "see to live connections",
            "their clients knew up to so much earlier",
        ),
    ];
    let lines: Vec<String> = lines.into_iter().flatten().collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn ms(value: Option<f64>) -> String {
    value.map_or("—".into(), |ms| format!("{ms:.0} ms"))
}

/// `7`, `7 (reset)`, or `7 (5 reset, 2 closed)`.
fn counted<K: std::fmt::Debug>(total: u64, kinds: &[(K, u64)]) -> String {
    let word = |kind: &K| format!("{kind:?}").to_lowercase();
    match kinds {
        [] => total.to_string(),
        [(kind, count)] if *count == total => format!("{total} ({})", word(kind)),
        _ => {
            let kinds = kinds
                .iter()
                .map(|(kind, count)| format!("{count} {}", word(kind)));
            format!("{total} ({})", kinds.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
