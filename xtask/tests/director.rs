//! The director in a lab, with live connections through it: restarts, drains,
//! repairs and its end. It needs root; without it the tests are skipped, which
//! in CI is a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use support::{Lab, PATIENCE, SILENCE, director, exchange, file, metrics, shown, until};

const VIP: &str = "203.0.113.10:80";
const LIVE: usize = 200;

/// A connection that is kept, and the endpoint that answers on it.
struct Live {
    stream: TcpStream,
    endpoint: String,
}

fn open() -> std::io::Result<Live> {
    let vip: SocketAddr = VIP.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&vip, SILENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let endpoint = exchange(&mut stream)?;
    Ok(Live { stream, endpoint })
}

/// Opens connections from the client; all must succeed.
fn opened(lab: &Lab, count: usize) -> Vec<Live> {
    lab.within("client", move || {
        (0..count).map(|_| open().unwrap()).collect()
    })
}

/// Every connection still answers, and from where it did before.
fn all_answer(live: &mut [Live]) {
    for connection in live {
        assert_eq!(
            exchange(&mut connection.stream).unwrap(),
            connection.endpoint
        );
    }
}

fn sites(live: &[Live]) -> BTreeSet<&str> {
    live.iter()
        .map(|connection| &connection.endpoint[..4])
        .collect()
}

#[test]
fn a_restart_moves_no_flow_and_remembers_a_drain() {
    let Some(lab) = Lab::raise("restart", "4", &[]) else {
        return;
    };
    let mut live = opened(&lab, LIVE);
    assert_eq!(sites(&live), BTreeSet::from(["dc01", "dc02", "dc03"]));

    lab.must("director", &["stop"]);
    all_answer(&mut live);
    assert_eq!(sites(&opened(&lab, LIVE)).len(), 3);
    lab.must("director", &["start"]);
    all_answer(&mut live);
    assert_eq!(sites(&opened(&lab, LIVE)).len(), 3);

    let socket = file(&lab, "director.sock");
    let drain = director(&lab, &["drain", "dc01", "--socket", &socket]);
    assert!(drain.status.success(), "{}", shown(&drain));
    assert_eq!(sites(&opened(&lab, LIVE)), BTreeSet::from(["dc02", "dc03"]));
    lab.must("director", &["stop"]);
    lab.must("director", &["start"]);
    until(&lab, "dc01 still drains", |status| {
        status["sites"][0]["draining"] == true
    });
    assert_eq!(sites(&opened(&lab, LIVE)), BTreeSet::from(["dc02", "dc03"]));
    // Those that it had stay with it all the while.
    all_answer(&mut live);

    let undrain = director(&lab, &["undrain", "dc01", "--socket", &socket]);
    assert!(undrain.status.success(), "{}", shown(&undrain));
    assert_eq!(sites(&opened(&lab, LIVE)).len(), 3);
    all_answer(&mut live);
}

#[test]
fn what_is_taken_off_comes_back_and_unload_leaves_nothing() {
    let Some(lab) = Lab::raise("unload", "4", &[]) else {
        return;
    };
    let mut live = opened(&lab, LIVE);
    // A foreign hand takes the program off the interface that clients use.
    let pins = PathBuf::from(file(&lab, "bpf/director"));
    std::fs::remove_file(pins.join("link-to-client")).unwrap();
    until(&lab, "the program is back", |status| {
        status["reconciliation"]["repairs"].as_u64() >= Some(1)
            && status["interfaces"][0]["xdp"] == "driver"
    });
    all_answer(&mut live);

    let config = file(&lab, "director.toml");
    let early = director(&lab, &["unload", "--config", &config]);
    assert_eq!(early.status.code(), Some(1));
    assert!(shown(&early).contains("still runs"), "{}", shown(&early));
    all_answer(&mut live);

    lab.must("director", &["stop"]);
    let unload = director(&lab, &["unload", "--config", &config]);
    assert!(unload.status.success(), "{}", shown(&unload));
    assert!(!pins.exists());
    let links = lab.xtask("exec", &["edge", "ip", "-d", "link"]);
    assert!(
        links.status.success() && !shown(&links).contains("prog/xdp"),
        "{}",
        shown(&links)
    );
    assert!(lab.within("client", || open().is_err()));
    let again = director(&lab, &["unload", "--config", &config]);
    assert!(again.status.success(), "{}", shown(&again));
    assert!(
        shown(&again).contains("nothing is pinned"),
        "{}",
        shown(&again)
    );

    lab.must("director", &["start"]);
    until(&lab, "all is healthy again", |status| {
        let endpoints = status["services"][0]["endpoints"].as_array().unwrap();
        endpoints
            .iter()
            .all(|endpoint| endpoint["verdict"] == "healthy")
    });
    opened(&lab, LIVE);
}

#[test]
fn bad_input_is_told_of_and_leaves_what_runs_untouched() {
    let Some(lab) = Lab::raise("bad", "4", &[]) else {
        return;
    };
    let mut live = opened(&lab, LIVE);
    let good = std::fs::read_to_string(file(&lab, "director.toml")).unwrap();
    let bad = file(&lab, "bad.toml");
    for (from, to, command, code, told) in [
        ("weight = 50", "wieght = 50", "check", 2, "did you mean"),
        ("weight = 50", "weight = \"50\"", "run", 2, "weight"),
        (
            "to-client",
            "to-nowhere",
            "run",
            1,
            "there is no interface to-nowhere",
        ),
        // The socket is taken by the daemon that runs.
        ("flows", "flows", "run", 1, "another daemon runs"),
    ] {
        let text = good.replace(from, to).replace(
            "director.sock",
            match code {
                1 if from != to => "other.sock",
                _ => "director.sock",
            },
        );
        std::fs::write(&bad, text).unwrap();
        let output = director(&lab, &[command, "--config", &bad]);
        assert_eq!(output.status.code(), Some(code), "{}", shown(&output));
        assert!(shown(&output).contains(told), "{told}: {}", shown(&output));
        all_answer(&mut live);
    }
    let socket = file(&lab, "director.sock");
    let unknown = director(&lab, &["drain", "dc09", "--socket", &socket]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        shown(&unknown).contains("the sites are dc01, dc02, dc03"),
        "{}",
        shown(&unknown)
    );
    all_answer(&mut live);
}

#[test]
fn explain_names_the_endpoint_that_answers() {
    let Some(lab) = Lab::raise("explain", "4", &[]) else {
        return;
    };
    let live = opened(&lab, 20);
    let socket = file(&lab, "director.sock");
    for connection in &live {
        let source = connection.stream.local_addr().unwrap().to_string();
        let output = director(
            &lab,
            &["explain", &source, VIP, "--json", "--socket", &socket],
        );
        assert!(output.status.success(), "{}", shown(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["endpoint"], connection.endpoint);
        // Endpoints came up one after another, so some slots have changed hands
        // and their flows are recorded; the others' are not.
        let by = report["by"].as_str().unwrap();
        assert!(["table", "flow"].contains(&by), "{by}");
    }
    let output = director(
        &lab,
        &[
            "explain",
            "192.0.2.1:1",
            "203.0.113.10:81",
            "--socket",
            &socket,
        ],
    );
    assert!(
        shown(&output).contains("is not steered"),
        "{}",
        shown(&output)
    );
}

#[test]
fn metrics_tell_what_was_steered() {
    let Some(lab) = Lab::raise("metrics", "4", &[]) else {
        return;
    };
    let live = opened(&lab, 50);
    let text = metrics(&lab);
    assert!(text.contains("application/openmetrics-text"), "{text}");
    assert!(text.contains("# EOF"), "{text}");
    let flows: f64 = text
        .lines()
        .filter(|line| line.starts_with("director_endpoint_flows_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(flows as usize, live.len(), "{text}");
    assert_eq!(text.matches("director_endpoint_up{").count(), 6, "{text}");
}

/// The capabilities of the daemon: those it needs and no other.
#[test]
fn the_daemon_keeps_only_the_rights_it_needs() {
    let Some(lab) = Lab::raise("rights", "4", &[]) else {
        return;
    };
    let state = std::fs::read_to_string(file(&lab, "lab.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let pid = state["director"]["pid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    // Bits 12 (NET_ADMIN), 38 (PERFMON) and 39 (BPF).
    let rights = format!("{:016x}", 1_u64 << 12 | 1 << 38 | 1 << 39);
    for set in ["CapPrm", "CapEff"] {
        assert!(status.contains(&format!("{set}:\t{rights}")), "{status}");
    }
}
