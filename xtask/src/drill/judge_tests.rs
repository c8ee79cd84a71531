use std::time::Duration;

use super::super::load::records::{Attempt, Break, BreakKind, Outcome};
use super::super::samples;
use super::super::topology::three_sites;
use super::*;

const LOSS: Objectives = Objectives {
    rto: Duration::from_secs(7),
    rto_asked: false,
    planned: false,
};

fn failures(judged: &[Objective]) -> Vec<&str> {
    let failed = judged.iter().filter(|one| !one.met);
    failed.map(|one| one.name.as_str()).collect()
}

#[test]
fn a_good_run_meets_every_objective() {
    let (topology, run) = samples::killed();
    let judged = judge(&run, &topology, &LOSS);
    assert_eq!(failures(&judged), [""; 0], "{judged:?}");
    assert_eq!(judged.len(), 9);
}

#[test]
fn an_outage_longer_than_asked_fails_with_both_figures() {
    let (topology, run) = samples::killed();
    let strict = Objectives {
        rto: Duration::from_millis(5600),
        ..LOSS
    };
    let judged = judge(&run, &topology, &strict);
    assert_eq!(failures(&judged), ["RTO"]);
    let rto = judged.iter().find(|one| one.name == "RTO");
    let shown = rto.map(|one| (one.measured.as_str(), one.limit.as_str()));
    assert!(
        shown.is_some_and(|(measured, limit)| measured.starts_with("56") && limit == "≤ 5600 ms"),
        "{shown:?}"
    );
}

#[test]
fn one_broken_surviving_connection_fails_the_drill() {
    let topology = three_sites("dc01");
    let mut records = samples::records(&topology);
    records.breaks.push(Break {
        connection: 49_999,
        endpoint: 3,
        at_us: 30_000_000,
        kind: BreakKind::Missteered,
    });
    let judged = judge(&samples::figures(&records, &topology), &topology, &LOSS);
    assert_eq!(
        failures(&judged),
        ["live connections broken on surviving sites"]
    );
}

#[test]
fn a_planned_change_may_fail_nothing() {
    let (topology, run) = samples::killed();
    let planned = Objectives {
        planned: true,
        ..LOSS
    };
    let judged = judge(&run, &topology, &planned);
    assert_eq!(failures(&judged), ["new connections failed"]);
}

#[test]
fn new_connections_on_a_drained_site_fail_the_drill() {
    let topology = three_sites("dc01");
    let mut records = samples::records(&topology);
    let during = samples::figures(&records, &topology).marks.windows.during;
    records.attempts.push(Attempt {
        id: 0,
        start_us: during.from + 1_000_000,
        latency_us: 500,
        endpoint: Some(0),
        outcome: Outcome::Answered,
    });
    records.counts.answers[0] += 1;
    let planned = Objectives {
        planned: true,
        ..LOSS
    };
    let judged = judge(&samples::figures(&records, &topology), &topology, &planned);
    assert!(
        failures(&judged).contains(&"new connections to the drained site"),
        "{judged:?}"
    );
}

#[test]
fn a_loss_unnoticed_and_a_weight_not_regained_fail() {
    let (topology, mut run) = samples::killed();
    run.marks.detected = None;
    run.marks.recovered = None;
    let judged = judge(&run, &topology, &LOSS);
    let expected = ["the loss is detected", "dc01 gets its weight back"];
    assert_eq!(failures(&judged), expected);
}

#[test]
fn shares_off_by_more_than_two_points_fail_and_name_the_site() {
    let (topology, mut run) = samples::killed();
    run.shares.after.by_site = vec![0.5, 0.275, 0.225];
    run.shares.during.by_site = vec![0.0, 0.615, 0.385];
    let judged = judge(&run, &topology, &LOSS);
    assert_eq!(failures(&judged), ["shares by weight, after"]);
    let named = judged
        .iter()
        .any(|one| !one.met && one.measured.contains("2.5 points off (dc0"));
    assert!(named, "{judged:?}");
}

#[test]
fn a_window_without_answers_fails() {
    let (topology, mut run) = samples::killed();
    run.shares.before.total = 0;
    let judged = judge(&run, &topology, &LOSS);
    assert_eq!(failures(&judged), ["shares by weight, before"]);
}

#[test]
fn a_server_that_counted_otherwise_fails_the_drill() {
    let (topology, mut run) = samples::killed();
    run.agreement[2].server -= 1;
    let judged = judge(&run, &topology, &LOSS);
    assert_eq!(
        failures(&judged),
        ["client's and servers' counts of answers"]
    );
    run.agreement.clear();
    assert_eq!(failures(&judge(&run, &topology, &LOSS)).len(), 1);
}
