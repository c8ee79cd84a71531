//! The lab without a director: its network, its faults, and that nothing of it
//! stays behind. It needs root; without it the tests are skipped, which in CI is
//! a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Lab, SITES, shown};

fn every_server_answers(mode: &str, family: &'static str) {
    let Some(lab) = Lab::raise("net", family, &["--no-director", "--mode", mode]) else {
        return;
    };
    for site in SITES {
        for server in ["a", "b"] {
            for from in ["client", "edge", site] {
                lab.answers(from, &format!("{site}-{server}"));
            }
        }
    }
    lab.must("down", &[]);
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}

#[test]
fn every_server_answers_over_ipv4() {
    every_server_answers("tunnel", "4");
    every_server_answers("l2", "4");
}

#[test]
fn every_server_answers_over_ipv6() {
    every_server_answers("tunnel", "6");
    every_server_answers("l2", "6");
}

/// Each fault at `dc01`, how a connection to it fails then, and that the other
/// sites notice nothing.
fn faults(mode: &str, family: &'static str) {
    let Some(lab) = Lab::raise("faults", family, &["--no-director", "--mode", mode]) else {
        return;
    };
    let dc01 = lab.endpoint("dc01", 'a');
    for (fault, kinds) in [
        ("kill", &[ErrorKind::ConnectionRefused][..]),
        // In l2 mode neighbour discovery is swallowed too.
        (
            "blackhole",
            &[ErrorKind::TimedOut, ErrorKind::HostUnreachable],
        ),
        (
            "link-down",
            &[ErrorKind::TimedOut, ErrorKind::HostUnreachable],
        ),
    ] {
        lab.must("fault", &[fault, "dc01"]);
        let error = lab.ask("edge", dc01).unwrap_err();
        assert!(kinds.contains(&error.kind()), "{fault}: {error}");
        for other in ["dc02-a", "dc03-b"] {
            lab.answers("edge", other);
            lab.answers("client", other);
        }
        lab.must("recover", &[fault, "dc01"]);
        for from in ["edge", "client"] {
            lab.answers(from, "dc01-a");
            lab.answers(from, "dc01-b");
        }
    }
}

#[test]
fn faults_hit_one_site_and_are_undone_over_ipv4() {
    faults("tunnel", "4");
    faults("l2", "4");
}

#[test]
fn faults_hit_one_site_and_are_undone_over_ipv6() {
    faults("tunnel", "6");
    faults("l2", "6");
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_stays() {
    let Some(lab) = Lab::up("twice", "4") else {
        return;
    };
    let again = lab.xtask("up", &["--no-director"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(shown(&again).contains("is up already"), "{}", shown(&again));
    lab.answers("client", "dc02-b");
}

#[test]
fn commands_run_on_a_host_with_their_own_exit_code() {
    let Some(lab) = Lab::up("exec", "4") else {
        return;
    };
    let output = lab.xtask("exec", &["edge", "sh", "-c", "ip -br link; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(shown(&output).contains("to-dc03"), "{}", shown(&output));
    let unknown = lab.xtask("exec", &["dc09", "true"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        shown(&unknown).contains("there is no host dc09"),
        "{}",
        shown(&unknown)
    );
}

/// As after a SIGKILL: the lab's owner is no more.
#[test]
fn what_a_killed_run_left_is_named_and_removed() {
    let Some(lab) = Lab::up("left", "4") else {
        return;
    };
    let file = Path::new("/run").join(&lab.prefix).join("lab.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["owner"] = serde_json::json!({"pid": std::process::id(), "started": 1});
    std::fs::write(&file, state.to_string()).unwrap();
    let again = lab.xtask("up", &["--no-director"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        shown(&again).contains("interrupted run"),
        "{}",
        shown(&again)
    );
    lab.must("down", &[]);
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}

#[test]
fn a_running_owner_keeps_its_lab() {
    let Some(lab) = Lab::up("owned", "4") else {
        return;
    };
    let file = Path::new("/run").join(&lab.prefix).join("lab.json");
    let standing = std::fs::read(&file).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&standing).unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let started: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
    state["owner"] = serde_json::json!({"pid": std::process::id(), "started": started});
    std::fs::write(&file, state.to_string()).unwrap();
    let down = lab.xtask("down", &[]);
    assert_eq!(down.status.code(), Some(1));
    assert!(
        shown(&down).contains("is in use by process"),
        "{}",
        shown(&down)
    );
    std::fs::write(&file, standing).unwrap();
}

#[test]
fn another_namespace_of_that_name_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let lab = Lab {
        prefix: format!("director-test-taken-{}", std::process::id()),
        family: "4",
    };
    let name = format!("{}-edge", lab.prefix);
    let netns = |action: &str| {
        let status = Command::new("ip").args(["netns", action, &name]).status();
        assert!(status.unwrap().success());
    };
    netns("add");
    let up = lab.xtask("up", &["--no-director"]);
    assert_eq!(up.status.code(), Some(1));
    assert!(
        shown(&up).contains("no lab it belongs to"),
        "{}",
        shown(&up)
    );
    netns("delete");
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}
