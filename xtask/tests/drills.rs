//! Small drills, end to end: the built program, real namespaces, the real
//! director. They need root; without it they are skipped, which in CI is a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value;

/// Each drill loads the whole machine, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for one's turn; `None`, with the reason on stderr, where drills cannot run.
fn turn() -> Option<MutexGuard<'static, ()>> {
    if !nix::unistd::geteuid().is_root() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "drills need root, and CI must not skip them");
        eprintln!("skipped: a drill makes network namespaces and loads BPF programs: run as root");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn failover(options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("failover").args(options.split_whitespace());
    command
}

/// What a drill's process left behind, by its id: namespaces and its run folder.
fn left_behind(drill: u32) -> Vec<String> {
    let prefix = format!("director-drill-{drill}");
    ["/run/netns", "/run", "/sys/fs/bpf"]
        .iter()
        .filter_map(|dir| Some((dir, std::fs::read_dir(dir).ok()?)))
        .flat_map(|(dir, entries)| entries.flatten().map(move |entry| (dir, entry)))
        .map(|(dir, entry)| format!("{dir}/{}", entry.file_name().to_string_lossy()))
        .filter(|path| path.contains(&prefix))
        .collect()
}

/// Runs a small drill, which must pass, and returns its report.
fn passes(options: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let drill = failover(options)
        .args([
            "--connections",
            "300",
            "--rate",
            "100",
            "--interval",
            "500ms",
        ])
        .arg("--report")
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = drill.id();
    let output = drill.wait_with_output().unwrap();
    let shown = shown(&output);
    assert!(output.status.success(), "{}: {shown}", output.status);
    assert_eq!(left_behind(id), [""; 0], "{shown}");

    let picture = std::fs::read(dir.path().join("timeline.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let svg = std::fs::read_to_string(dir.path().join("timeline.svg")).unwrap();
    assert!(svg.contains("seconds from the fault"));
    let report: Value = read(&dir.path().join("report.json"));
    assert_eq!(report["passed"], true, "{shown}");
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    report
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

/// A drill that loses dc01 unplanned. That its RTO is within bounds is one of
/// the objectives it passes.
fn loses_dc01(options: &str) -> Value {
    let report = passes(options);
    let run = report["runs"][0].clone();
    assert_eq!(run["broken_surviving"], 0);
    assert!(run["detect_ms"].is_number() && run["recovered_ms"].is_number());
    assert!(run["lost_site_connections"].as_u64().unwrap() > 50);
    assert_eq!(run["shares"]["dc01"]["during"], 0.0);
    run
}

#[test]
fn kill() {
    let Some(_turn) = turn() else { return };
    let run = loses_dc01("--fault kill");
    assert!(
        run["failed_new"].as_u64().unwrap() > 0,
        "a killed site refuses some"
    );
    assert_eq!(run["lost_site_unlearned"], 0);
}

#[test]
fn blackhole() {
    let Some(_turn) = turn() else { return };
    let run = loses_dc01("--fault blackhole");
    assert!(
        run["failed_new"].as_u64().unwrap() > 0,
        "a silent site answers none"
    );
}

#[test]
fn link_down() {
    let Some(_turn) = turn() else { return };
    loses_dc01("--fault link-down");
}

#[test]
fn drain() {
    let Some(_turn) = turn() else { return };
    let report = passes("--fault drain");
    let run = &report["runs"][0];
    assert_eq!(
        (&run["failed_new"], &run["broken_surviving"]),
        (&0.into(), &0.into())
    );
    assert_eq!(run["shares"]["dc01"]["during"], 0.0);
    for key in [
        "detect_ms",
        "lost_site_connections",
        "lost_site_learned_ms_p99",
    ] {
        assert_eq!(run[key], Value::Null, "{key}");
    }
}

#[test]
fn the_other_mode_and_family() {
    let Some(_turn) = turn() else { return };
    loses_dc01("--fault kill --mode nat --ip 4 --site dc01");
    loses_dc01("--fault kill --mode nat --ip 6");
    loses_dc01("--fault kill --mode tunnel --ip 6");
}

#[test]
fn l2_mode_in_both_families() {
    let Some(_turn) = turn() else { return };
    loses_dc01("--fault kill --mode l2 --ip 4");
    loses_dc01("--fault kill --mode l2 --ip 6");
}

/// A drill of the edge proxy in which no request may fail.
fn proxy_loses_nothing(options: &str) -> Value {
    let report = passes(&format!("--layer l7 {options}"));
    assert_eq!(
        (&report["layer"], &report["mode"]),
        (&"l7".into(), &"proxy".into())
    );
    let run = report["runs"][0].clone();
    assert_eq!(
        (&run["failed_new"], &run["rto_ms"]),
        (&0.into(), &0.0.into())
    );
    assert!(run["requests"].as_u64().unwrap() > 1000);
    assert!(run["p99_ms"]["during"].is_number());
    run
}

#[test]
fn the_proxy_and_kill() {
    let Some(_turn) = turn() else { return };
    let run = proxy_loses_nothing("--fault kill");
    assert!(run["detect_ms"].is_number());
    assert!(run["retries"].as_u64().unwrap() > 0);
}

#[test]
fn the_proxy_and_drain() {
    let Some(_turn) = turn() else { return };
    let run = proxy_loses_nothing("--fault drain");
    assert_eq!(run["shares"]["dc01"]["during"], 0.0);
    assert_eq!(run["breaker_transitions"], 0);
}

#[test]
fn the_proxy_and_an_error_burst() {
    let Some(_turn) = turn() else { return };
    // That breakers open and close, and how many requests may fail, is judged.
    let report = passes("--layer l7 --fault error-burst");
    let run = &report["runs"][0];
    assert_eq!(run["detect_ms"], Value::Null);
    assert!(run["breaker_open_ms"].is_number());
}

#[test]
fn an_objective_that_cannot_be_met_sets_the_exit_code() {
    let Some(_turn) = turn() else { return };
    let options = "--fault blackhole --rto 1ms --connections 100 --rate 100 --interval 500ms";
    let output = failover(options).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    assert!(shown(&output).contains("FAIL"), "{}", shown(&output));
}

#[test]
fn an_interrupt_leaves_nothing_behind_and_claims_no_result() {
    let Some(_turn) = turn() else { return };
    let mut drill = failover("--connections 300 --rate 100 --interval 500ms")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = drill.id();
    until("the network stands", &mut drill, || {
        left_behind(id).len() > 5
    });
    signal::kill(Pid::from_raw(id as i32), Signal::SIGINT).unwrap();
    let output = drill.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", shown(&output));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("RTO"));
    assert_eq!(left_behind(id), [""; 0]);
}

#[test]
fn wrong_usage_is_told_before_anything_is_made() {
    for (options, named) in [
        ("--connections 0", "--connections"),
        ("--rate 0 --patience 2s", "--patience"),
        ("--interval 1ms", "--interval"),
        ("--fault fire", "--fault"),
        ("--rto never", "--rto"),
        ("--site dc09", "dc09"),
        ("--mode proxy", "drill tunnel, nat or l2"),
        ("--layer l7 --mode nat", "--layer l4"),
        ("--fault slow-site", "--layer l7"),
    ] {
        let output = failover(options).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{options}: {}",
            shown(&output)
        );
        assert!(
            shown(&output).contains(named),
            "{options}: {}",
            shown(&output)
        );
    }
}

fn until(what: &str, process: &mut Child, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !holds() {
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} before {what}");
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
