//! The rows of a drill's table that only one of the edge proxy has.

use super::super::figures::Run;
use super::super::plan::Plan;
use super::Figures;

/// What the load was.
#[must_use]
pub fn load(plan: &Plan, figures: &Figures) -> String {
    format!(
        "{} requests, {} a second over {} connections; {} found none free",
        figures.requests, plan.rate, plan.connections, figures.overflow
    )
}

/// Further rows: name and value.
#[must_use]
pub fn rows(run: &Run, figures: &Figures) -> Vec<(&'static str, String)> {
    let why = figures
        .failed_why
        .iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect::<Vec<_>>();
    let mut rows = vec![
        (
            "retries",
            format!(
                "{}, and {} that the budget refused",
                figures.retries, figures.retries_refused
            ),
        ),
        (
            "carried out more than once",
            figures.ledger.duplicates.to_string(),
        ),
        ("changes of breakers", transitions(figures)),
    ];
    if let Some(ms) = figures.breaker_open_ms {
        rows.push((
            "a breaker of the site seen open after",
            format!("{ms:.0} ms"),
        ));
    }
    if run.failed.after_fault + run.failed.before_fault > 0 && !why.is_empty() {
        rows.push(("the proxy says why", why.join(", ")));
    }
    rows
}

/// `dc01: 1 open, 1 half_open, 1 closed`, a line for each breaker.
fn transitions(figures: &Figures) -> String {
    let line = |(breaker, states): (&String, &std::collections::BTreeMap<String, u64>)| {
        let states: Vec<String> = states
            .iter()
            .map(|(state, times)| format!("{times} {state}"))
            .collect();
        format!("{breaker}: {}", states.join(", "))
    };
    let lines: Vec<String> = figures.transitions.iter().map(line).collect();
    if lines.is_empty() {
        "0".into()
    } else {
        lines.join("\n")
    }
}
