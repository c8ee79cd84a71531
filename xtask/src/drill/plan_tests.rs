#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::super::samples::plan;
use super::*;

fn problem(options: &str) -> String {
    let error = plan(options).unwrap_err();
    assert!(
        error.is::<Usage>() || error.is::<clap::Error>(),
        "{options}: {error:#}"
    );
    error.to_string()
}

#[test]
fn the_defaults_are_the_drill_of_the_readme() {
    let plan = plan("").unwrap();
    assert_eq!(
        (plan.fault, plan.mode, plan.family),
        (Fault::Kill, Mode::Tunnel, Family::V4)
    );
    assert_eq!(
        (plan.connections, plan.rate, plan.repeat),
        (50_000, 2000, 1)
    );
    assert_eq!(plan.site, "dc01");
    assert_eq!(plan.patience, Duration::from_millis(900));
    assert_eq!(plan.health.bound(), Duration::from_millis(6500));
    assert_eq!(plan.rto_limit(), Duration::from_secs(7));
    assert_eq!(plan.hold(), Duration::from_millis(9500));
}

#[test]
fn a_short_interval_shortens_the_fast_one_and_the_timeout() {
    let health = |interval: &str| plan(&format!("--interval {interval}")).unwrap().health;
    let scaled = health("500ms");
    assert_eq!(scaled.fast_interval, Duration::from_millis(200));
    assert_eq!(scaled.timeout, Duration::from_millis(200));
    assert_eq!(scaled.bound(), Duration::from_millis(1100));
    for full in ["2s", "5s", "10s"] {
        assert_eq!(health(full).fast_interval, DEFAULT_FAST, "{full}");
    }
}

#[test]
fn an_objective_replaces_the_bound() {
    let plan = plan("--rto 6s --interval 500ms").unwrap();
    assert_eq!(plan.rto_limit(), Duration::from_secs(6));
}

#[test]
fn every_problem_is_named_at_once_with_what_would_do() {
    let text =
        problem("--connections 0 --rate 10001 --repeat 0 --rto 0s --interval 1ms --patience 1s");
    for option in [
        "--connections",
        "--rate",
        "--repeat",
        "--rto",
        "--interval",
        "--patience",
    ] {
        assert!(text.contains(option), "{option} is missing in: {text}");
    }
    assert_eq!(text.lines().count(), 6);
}

#[test]
fn what_a_server_cannot_hold_is_said_with_the_remedy() {
    assert_eq!(too_many_files(72_000, 2000, 24_000), None);
    let text = too_many_files(72_000, 2000, 20_000).unwrap();
    assert!(text.contains("ulimit -n 22312"), "{text}");
}

#[test]
fn words_unknown_are_refused() {
    for options in [
        "--fault fire",
        "--mode l3",
        "--ip 5",
        "--rto soon",
        "--layer l3",
        "--rate -1",
        "--site dc09",
    ] {
        problem(options);
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_the_reason_and_what_works() {
    assert_eq!(plan("--mode l2").unwrap().mode, Mode::L2);
    for (options, parts) in [
        (
            "--mode proxy --rate 0",
            ["--rate", "--mode proxy", "tunnel, nat or l2"],
        ),
        ("--mode proxy", ["packets", "sites", "--layer l7"]),
        (
            "--layer l7 --mode tunnel",
            ["--mode tunnel", "proxy", "--layer l4"],
        ),
        (
            "--fault error-burst",
            ["--fault error-burst", "link-down", "--layer l7"],
        ),
        (
            "--fault slow-site --mode nat",
            ["--fault slow-site", "drain", "--layer l7"],
        ),
    ] {
        let text = problem(options);
        for part in parts {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }
}

#[test]
fn the_proxy_is_drilled_with_requests_over_fewer_connections() {
    let drilled = plan("--layer l7 --fault slow-site").unwrap();
    assert_eq!((drilled.mode, drilled.connections), (Mode::Proxy, 200));
    assert_eq!((drilled.rate, drilled.rto_asked()), (2000, None));
    let named = plan("--layer l7 --mode proxy --connections 7").unwrap();
    assert_eq!((named.mode, named.connections), (Mode::Proxy, 7));
}

#[test]
fn a_file_is_no_folder_for_the_report() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = problem(&format!("--report {}", file.path().display()));
    assert!(text.contains("--report"), "{text}");
}
