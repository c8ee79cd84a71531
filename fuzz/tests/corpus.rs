//! What was of use to the fuzzer, and what it once found, through every target.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, panic, path::Path};

use director_fuzz::TARGETS;

/// Checks all files of a folder, and returns how many there are.
fn replay(folder: &Path, check: fn(&[u8])) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let files = entries.map(|entry| entry.unwrap().path());
    let replayed = files.map(|file| {
        let bytes = fs::read(&file).unwrap();
        let outcome = panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} fails, as said above", file.display());
    });
    replayed.count()
}

/// Checks what is committed for a target.
#[track_caller]
fn holds(name: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = director_fuzz::target(name).unwrap();
    let seeds = replay(&here.join("corpus").join(name), target.check);
    assert!(seeds > 0, "no corpus of {name}");
    replay(&here.join("regressions").join(name), target.check);
}

#[test]
fn packets_are_read_as_they_are() {
    holds("packet");
}

#[test]
fn answers_are_sound() {
    holds("answer");
}

#[test]
fn flows_stay() {
    holds("steer");
}

#[test]
fn configurations_survive_or_are_refused_with_reasons() {
    holds("config");
}

#[test]
fn captures_are_read_alike_in_pieces() {
    holds("capture");
}

#[test]
fn proxy_protocol_headers_are_taken_awaited_or_refused() {
    holds("proxy_protocol");
}

#[test]
fn no_target_is_left_out() {
    let names = TARGETS.map(|target| target.name);
    let held = [
        "packet",
        "answer",
        "steer",
        "config",
        "capture",
        "proxy_protocol",
    ];
    assert_eq!(names, held);
}
