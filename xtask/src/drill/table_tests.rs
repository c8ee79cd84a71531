#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use super::super::judge::{Objectives, judge};
use super::super::report::summarize;
use super::super::samples;
use super::*;

#[test]
fn an_operator_finds_every_figure_with_its_unit() {
    let (topology, mut outcome) = samples::killed();
    outcome.broken_surviving = 2;
    let plan = samples::plan("").unwrap();
    let objectives = Objectives {
        rto: Duration::from_secs(7),
        rto_asked: false,
        planned: false,
    };
    let judged = judge(&outcome, &topology, &objectives);
    let text = run(&plan, &topology, &outcome, &judged);
    let row = |name: &str| {
        let found = text.lines().find(|line| line.contains(name));
        found.unwrap_or_else(|| panic!("no row {name} in:\n{text}"))
    };
    assert!(row("what happened").contains("kill of dc01, IPv4, mode tunnel"));
    assert!(row("load").contains("50000 live connections, 2000 new a second"));
    assert!(row("detected after").contains("5640 ms"));
    assert!(row("RTO: new").contains(" ms"));
    assert!(row("│ new connections failed").contains(" (refused), "));
    assert!(row("lost with the site").contains("25000 (reset)"));
    assert!(row("their clients knew").contains("p99 199 ms"));
    assert!(row("dc03").contains("20.0 %"));
    assert!(row("│ before").contains(" ms"));
    assert!(row("broken on surviving sites").contains('2'));
    assert_eq!(text.matches("FAIL").count(), 1);
    assert!(!text.contains("note:"));
    assert!(
        text.lines().all(|line| line.chars().count() <= 115),
        "{text}"
    );
}

#[test]
fn a_late_client_is_confessed() {
    let (topology, mut outcome) = samples::killed();
    outcome.measurement_lag_ms = 250.0;
    let plan = samples::plan("").unwrap();
    let text = run(&plan, &topology, &outcome, &[]);
    assert!(
        text.contains("note: this machine was up to 250 ms late to begin new connections"),
        "{text}"
    );
}

#[test]
fn a_drain_speaks_of_no_loss() {
    let (topology, mut outcome) = samples::killed();
    outcome.lost = None;
    outcome.marks.detected = None;
    let plan = samples::plan("--fault drain").unwrap();
    let text = run(&plan, &topology, &outcome, &[]);
    assert!(
        !text.contains("RTO") && !text.contains("lost with the site"),
        "{text}"
    );
}

#[test]
fn several_runs_show_median_and_worst() {
    let (_, run) = samples::killed();
    let text = summary(2, 1, &summarize(&[run.clone(), run]));
    assert!(text.contains("1 of 2 runs passed"), "{text}");
    assert!(text.contains("5640 ms"), "{text}");
}

#[test]
fn counts_name_their_kinds() {
    use super::super::load::records::BreakKind::{Closed, Reset};
    assert_eq!(counted::<u8>(0, &[]), "0");
    assert_eq!(counted(7, &[(Reset, 7)]), "7 (reset)");
    assert_eq!(
        counted(7, &[(Reset, 5), (Closed, 2)]),
        "7 (5 reset, 2 closed)"
    );
    assert_eq!(counted(8, &[(Reset, 7)]), "8 (7 reset)");
}
