//! `cargo xtask test`: the whole test suite, as CI runs it.
//!
//! The tests come last, so that the last lines are the test runner's summary.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{bpf, fuzz, prereq, run, tidy};

/// A step of the suite: its heading, and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 9] = [
    ("prerequisites", prerequisites),
    ("house rules", tidy::run),
    ("formatting", formatting),
    ("lints", lints),
    ("BPF objects", bpf_objects),
    ("licences and advisories", supply_chain),
    ("documentation examples", doc_tests),
    ("a minute of fuzzing", fuzzing),
    ("tests and drills", tests),
];

/// Runs every step, and stops at the first that fails.
///
/// # Errors
/// That step's, with its heading.
pub fn run() -> Result<()> {
    for (number, (heading, step)) in (1..).zip(STEPS) {
        // Other programs write to stdout and stderr directly; one stream keeps
        // the headings where they belong.
        eprintln!("\n== {number}/{} {heading}", STEPS.len());
        step().with_context(|| format!("step {number}, {heading}, failed"))?;
    }
    Ok(())
}

/// What the drills among the tests need. Without root those tests are skipped,
/// which in CI they refuse.
fn prerequisites() -> Result<()> {
    prereq::lab_tools()?;
    prereq::test_tools()?;
    prereq::fonts()?;
    if let Err(error) = prereq::kernel() {
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            return Err(error);
        }
        eprintln!("packet tests and drills will be skipped: {error}");
    }
    Ok(())
}

fn formatting() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])
}

/// In the profile of the tests, so that dependencies are compiled once.
fn lints() -> Result<()> {
    cargo(&[
        "clippy",
        "--quiet",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])
}

fn bpf_objects() -> Result<()> {
    bpf::build(&bpf::Args::check())
}

fn supply_chain() -> Result<()> {
    if run::find_program("cargo-deny").is_none() {
        eprintln!("skipped: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    // Advisories come from a database that CI cannot fetch.
    cargo(&["deny", "check", "licenses", "bans", "sources"])
}

fn doc_tests() -> Result<()> {
    cargo(&["test", "--quiet", "--release", "--workspace", "--doc"])
}

fn fuzzing() -> Result<()> {
    fuzz::run(&fuzz::Args::short())
}

/// With nextest where it is installed: it names slow tests and runs each in a
/// process of its own.
fn tests() -> Result<()> {
    if run::find_program("cargo-nextest").is_some() {
        return cargo(&["nextest", "run", "--release", "--workspace"]);
    }
    cargo(&[
        "test",
        "--release",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
    ])
}

fn cargo(args: &[&str]) -> Result<()> {
    let mut command: Command = run::cargo();
    command.current_dir(run::workspace_root()?).args(args);
    run::run(&mut command)
}
