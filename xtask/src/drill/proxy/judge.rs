//! Whether a run of a drill of the edge proxy met its objectives.

use std::time::Duration;

use super::super::figures::Run;
use super::super::judge::{Objective, Objectives, detected, none, recovered, rto, share};
use super::super::topology::Topology;
use super::Figures;
use crate::lab::{Fault, PER_TRY, RETRIES};

/// Share of a silent site's requests, of all that were sent, that may fail.
const SILENT_SITE: f64 = 0.001;
/// Share of the requests that may fail while a site answers with errors.
const ERROR_BURST: f64 = 0.01;
/// For the try that is answered, and the client's own lateness.
const SLACK: Duration = Duration::from_millis(150);

/// Judges `run`, of which `figures` are the part that is the proxy's.
#[must_use]
pub fn judge(
    fault: Fault,
    run: &Run,
    figures: &Figures,
    topology: &Topology,
    objectives: &Objectives,
) -> Vec<Objective> {
    let site = &topology.sites()[topology.hit()].name;
    let mut judged = vec![
        none("requests failed before the fault", run.failed.before_fault),
        none(
            "requests failed that the lost site had no part in",
            figures.broken_surviving,
        ),
    ];
    match fault {
        Fault::Kill | Fault::SlowSite => {
            judged.push(none("requests failed", run.failed.after_fault));
        }
        Fault::Drain => {
            judged.push(none("requests failed", run.failed.after_fault));
            judged.push(none(
                "requests to the drained site",
                run.shares.during.counts[topology.hit()],
            ));
        }
        Fault::Blackhole | Fault::LinkDown => {
            judged.push(failed_share(run, figures.requests, SILENT_SITE));
            judged.push(bounded(figures));
        }
        Fault::ErrorBurst => {
            let sent = figures.sent_in_outage;
            judged.push(failed_share(run, sent, ERROR_BURST));
        }
    }
    if fault.passes_checks() {
        for state in ["open", "closed"] {
            judged.push(went(figures, site, state));
        }
    } else if fault != Fault::Drain {
        judged.push(detected(run));
    }
    if objectives.rto_asked {
        judged.push(rto(run, objectives.rto));
    }
    judged.push(recovered(run, topology));
    let configured = topology.configured();
    judged.push(share("before", &run.shares.before, &configured, topology));
    if !fault.passes_checks() {
        // Breakers let probes pass to a site whose checks are well.
        let without = topology.without_hit();
        judged.push(share("during", &run.shares.during, &without, topology));
    }
    judged.push(share("after", &run.shares.after, &configured, topology));
    judged.push(counts(figures));
    judged
}

fn failed_share(run: &Run, of: u64, limit: f64) -> Objective {
    let share = run.failed.after_fault as f64 / of.max(1) as f64;
    Objective {
        name: "share of requests failed".into(),
        measured: format!("{:.3} % ({})", share * 100.0, run.failed.after_fault),
        limit: format!("< {} %", limit * 100.0),
        met: share < limit,
    }
}

/// A request that was answered has waited for no more tries than it may have.
fn bounded(figures: &Figures) -> Objective {
    let limit_ms = (PER_TRY * RETRIES + SLACK).as_secs_f64() * 1000.0;
    let p999 = figures.latency.during.map(|times| times.p999);
    Objective {
        name: "p99.9 while the site is out".into(),
        measured: p999.map_or("no answer".into(), |ms| format!("{ms:.0} ms")),
        limit: format!("≤ {limit_ms:.0} ms"),
        met: p999.is_some_and(|ms| ms <= limit_ms),
    }
}

fn went(figures: &Figures, site: &str, state: &str) -> Objective {
    let times = figures.transitions_of(site, state);
    Objective {
        name: format!("breakers of {site} went {state}"),
        measured: times.to_string(),
        limit: "≥ 1".into(),
        met: times >= 1,
    }
}

/// Every request is where both sides say, and none was carried out twice but for a retry.
fn counts(figures: &Figures) -> Objective {
    let ledger = &figures.ledger;
    Objective {
        name: "client's and servers' counts, by request".into(),
        measured: format!(
            "{} missing, {} never sent, {} twice of {} retries",
            ledger.missing, ledger.unknown, ledger.duplicates, figures.retries
        ),
        limit: "0, 0, no more than retries".into(),
        met: ledger.missing == 0
            && ledger.unknown == 0
            && ledger.duplicates <= figures.retries
            && ledger.carried_out.iter().sum::<u64>() > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;

    fn failures(fault: Fault, run: &Run, figures: &Figures, topology: &Topology) -> Vec<String> {
        let objectives = Objectives {
            rto: Duration::from_secs(7),
            rto_asked: false,
            planned: fault == Fault::Drain,
        };
        judge(fault, run, figures, topology, &objectives)
            .into_iter()
            .filter(|one| !one.met)
            .map(|one| one.name)
            .collect()
    }

    #[test]
    fn a_killed_site_may_cost_no_request() {
        let (topology, run, figures) = samples::proxied();
        let nothing: [&str; 0] = [];
        assert_eq!(failures(Fault::Kill, &run, &figures, &topology), nothing);
        let mut bad = run.clone();
        bad.failed.after_fault = 1;
        assert_eq!(
            failures(Fault::Kill, &bad, &figures, &topology),
            ["requests failed"]
        );
        // Of a hundred thousand requests, a silent one may cost some.
        assert_eq!(
            failures(Fault::Blackhole, &bad, &figures, &topology),
            nothing
        );
    }

    #[test]
    fn a_silent_site_may_not_hold_requests_for_long() {
        let (topology, run, mut figures) = samples::proxied();
        if let Some(times) = &mut figures.latency.during {
            times.p999 = 800.0;
        }
        let failed = failures(Fault::Blackhole, &run, &figures, &topology);
        assert_eq!(failed, ["p99.9 while the site is out"]);
    }

    #[test]
    fn breakers_must_open_and_close_where_checks_see_nothing() {
        let (topology, run, mut figures) = samples::proxied();
        let nothing: [&str; 0] = [];
        assert_eq!(
            failures(Fault::ErrorBurst, &run, &figures, &topology),
            nothing
        );
        figures.transitions.clear();
        let failed = failures(Fault::SlowSite, &run, &figures, &topology);
        assert_eq!(
            failed,
            ["breakers of dc01 went open", "breakers of dc01 went closed"]
        );
    }

    #[test]
    fn a_request_carried_out_twice_without_a_retry_fails_the_drill() {
        let (topology, run, mut figures) = samples::proxied();
        figures.ledger.duplicates = figures.retries + 1;
        let failed = failures(Fault::Kill, &run, &figures, &topology);
        assert_eq!(failed, ["client's and servers' counts, by request"]);
    }
}
