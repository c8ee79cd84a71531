#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use serde_json::{Value, json};

use super::super::judge::{Objectives, judge};
use super::super::samples;
use super::*;

fn report() -> Value {
    let (topology, run) = samples::killed();
    let plan = samples::plan("").unwrap();
    let objectives = Objectives {
        rto: Duration::from_secs(7),
        rto_asked: false,
        planned: false,
    };
    let judged = judge(&run, &topology, &objectives);
    let report = Report::new(&plan, &topology, &[(run, judged)]);
    serde_json::from_str(&report.to_json().unwrap()).unwrap()
}

/// The keys others rely on, with their exact names and types.
#[test]
fn the_agreed_keys_are_there() {
    let report = report();
    let top = ["fault", "mode", "ip", "layer", "connections", "rate"];
    let values: Vec<&Value> = top.iter().map(|key| &report[key]).collect();
    let expected = json!(["kill", "tunnel", 4, "l4", 50_000, 2000]);
    assert_eq!(json!(values), expected);

    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!(run["detect_ms"], json!(5640.0));
    assert_eq!(run["broken_surviving"], json!(0));
    assert_eq!(run["lost_site_connections"], json!(25_000));
    for key in [
        "rto_ms",
        "failed_new",
        "failed_new_share",
        "lost_site_learned_ms_p99",
        "recovered_ms",
    ] {
        assert!(run[key].is_number(), "{key}: {}", run[key]);
    }
    let sites: Vec<&String> = run["shares"].as_object().unwrap().keys().collect();
    assert_eq!(sites, ["dc01", "dc02", "dc03"]);
    assert_eq!(run["shares"]["dc01"]["configured"], json!(0.5));
    assert_eq!(run["shares"]["dc01"]["during"], json!(0.0));
    for key in ["configured", "before", "during", "after"] {
        let share = run["shares"]["dc02"][key].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{key}: {share}");
    }
}

/// The form as a whole, so that a key is neither lost nor renamed unnoticed.
#[test]
fn no_key_comes_or_goes_unnoticed() {
    let report = report();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&report).join(" "),
        "connections fast_interval_ms fault interval_ms ip layer mode passed patience_ms rate \
         rto_limit_ms runs site summary timeout_ms"
    );
    assert_eq!(
        keys(&report["runs"][0]).join(" "),
        "answers broken_surviving broken_surviving_by delayed_new detect_ms failed_before_fault \
         failed_new failed_new_by failed_new_share live_connections live_lag_ms_max \
         lost_site_connections lost_site_learned_by lost_site_learned_ms_p50 \
         lost_site_learned_ms_p99 lost_site_unlearned measurement_lag_ms_max new_latency_ms \
         objectives passed recovered_ms rto_ms shares timeline"
    );
}

/// The keys that a drill of the proxy adds, likewise.
#[test]
fn a_drill_of_the_proxy_adds_its_own_keys() {
    let (topology, run, _) = samples::proxied();
    let plan = samples::plan("--layer l7").unwrap();
    let proxied = Report::new(&plan, &topology, &[(run, Vec::new())]);
    let proxied: Value = serde_json::from_str(&proxied.to_json().unwrap()).unwrap();
    assert_eq!(
        (&proxied["layer"], &proxied["mode"]),
        (&json!("l7"), &json!("proxy"))
    );
    let run = proxied["runs"][0].as_object().unwrap();
    let others = report();
    let others = others["runs"][0].as_object().unwrap();
    let own: Vec<&str> = run
        .keys()
        .filter(|key| !others.contains_key(*key))
        .map(String::as_str)
        .collect();
    assert_eq!(
        own.join(" "),
        "breaker_open_ms breaker_transitions breaker_transitions_by duplicates failed_why \
         no_connection_free p50_ms p999_ms p99_ms requests retries retries_refused \
         timeline_p99_ms"
    );
    assert_eq!(
        (&run["retries"], &run["breaker_transitions"]),
        (&json!(700), &json!(5))
    );
    assert!(run["p99_ms"]["during"].is_number());
    assert_eq!(run["failed_new"], 0);
    assert_eq!(run["lost_site_connections"], Value::Null);
}

#[test]
fn a_planned_change_leaves_null_what_does_not_apply() {
    let (topology, mut run) = samples::killed();
    run.marks.detected = None;
    run.lost = None;
    let plan = samples::plan("--fault drain --ip 6 --mode nat").unwrap();
    let report = Report::new(&plan, &topology, &[(run, Vec::new())]);
    let report: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(report["ip"], json!(6));
    for key in [
        "detect_ms",
        "lost_site_connections",
        "lost_site_learned_ms_p99",
    ] {
        assert_eq!(report["runs"][0][key], Value::Null, "{key}");
    }
}

#[test]
fn medians_and_worst_are_of_the_values_there_are() {
    assert_eq!(Spread::of([]), None);
    let odd = Spread::of([3.0, 1.0, 9.0]).unwrap();
    assert_eq!((odd.median, odd.worst), (3.0, 9.0));
    let even = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
    assert_eq!((even.median, even.worst), (3.0, 9.0));

    let (_, run) = samples::killed();
    let mut undetected = run.clone();
    undetected.marks.detected = None;
    let summary = summarize(&[run.clone(), undetected]);
    let detected = Spread {
        median: 5640.0,
        worst: 5640.0,
    };
    assert_eq!(summary.detect_ms, Some(detected));
    assert!((summary.rto_ms.median - run.rto_ms()).abs() < 1e-9);
}
