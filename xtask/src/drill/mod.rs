//! `cargo xtask failover`: lose a site of a real network under load, and
//! measure what that costs.
//!
//! A plan ([`plan`]) is carried out ([`orchestrate`]) on a lab of its own. The
//! client ([`load`]) only records; the figures are computed afterwards
//! ([`measure`], [`figures`]), judged ([`judge`]) and shown ([`table`],
//! [`report`], [`plot`]). The servers that are lost are ours too ([`server`]).
//! With `--layer l7` the load is requests, and what is lost is behind the edge's
//! proxy ([`proxy`]).

mod figures;
pub mod ids;
mod judge;
pub mod load;
mod measure;
mod orchestrate;
mod plan;
mod plot;
mod progress;
mod proxy;
mod report;
#[cfg(test)]
mod samples;
pub mod server;
pub mod stats;
mod status;
mod system;
mod table;
mod topology;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::{cancel, lab, prereq};

use figures::Run;
use judge::{Objective, Objectives, judge};
pub use plan::Args;
use plan::Plan;
use progress::Progress;
use topology::Topology;

/// Exit code of a process that was asked to end by a signal, as shells have it.
const INTERRUPTED: u8 = 130;

/// Carries out the drill and prints what it cost. The exit code is 0 when
/// every objective was met, 1 when one was not, 130 after an interrupt.
///
/// # Errors
/// On wrong usage, or when the drill could not be carried out.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(args)?;
    cancel::install()?;
    match drill(&plan) {
        Err(_) if cancel::requested() => {
            eprintln!("the drill was interrupted: no result");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error),
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
    }
}

/// Whether every objective of every run was met.
fn drill(plan: &Plan) -> anyhow::Result<bool> {
    prereq::kernel()?;
    prereq::lab_tools()?;
    if let Some(dir) = &plan.report {
        prereq::fonts()?;
        // Now, and not after minutes of drilling.
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the report's folder {}", dir.display()))?;
    }
    let binary = lab::build_director()?;
    let objectives = Objectives {
        rto: plan.rto_limit(),
        rto_asked: plan.rto_asked().is_some(),
        planned: plan.planned(),
    };
    let mut runs: Vec<(Run, Vec<Objective>)> = Vec::new();
    let mut topology = None;
    for number in 1..=plan.repeat {
        let progress = Progress::new();
        if plan.repeat > 1 {
            progress.line(&format!("run {number} of {}", plan.repeat));
        }
        let (seen, run) = orchestrate::run_once(plan, &binary, &progress)?;
        drop(progress);
        let judged = match &run.proxy {
            Some(figures) => proxy::judge::judge(plan.fault, &run, figures, &seen, &objectives),
            None => judge(&run, &seen, &objectives),
        };
        println!("{}", table::run(plan, &seen, &run, &judged));
        runs.push((run, judged));
        topology = Some(seen);
    }
    let topology = topology.context("a plan has one run at least")?;
    if runs.len() > 1 {
        let figures: Vec<Run> = runs.iter().map(|(run, _)| run.clone()).collect();
        let passed = runs.iter().filter(|(_, judged)| met(judged)).count();
        println!(
            "{}",
            table::summary(runs.len(), passed, &report::summarize(&figures))
        );
    }
    if let Some(dir) = &plan.report {
        write_report(dir, plan, &topology, &runs)?;
        println!(
            "written: report.json, timeline.svg, timeline.png in {}",
            dir.display()
        );
    }
    Ok(runs.iter().all(|(_, judged)| met(judged)))
}

fn met(judged: &[Objective]) -> bool {
    judged.iter().all(|one| one.met)
}

/// Writes the figures of all runs, and the picture of the one with the longest outage.
fn write_report(
    dir: &Path,
    plan: &Plan,
    topology: &Topology,
    runs: &[(Run, Vec<Objective>)],
) -> anyhow::Result<()> {
    let report = report::Report::new(plan, topology, runs);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("report.json", &report.to_json()?)?;
    let worst = runs
        .iter()
        .map(|(run, _)| run)
        .max_by_key(|run| run.failed.rto_us)
        .context("a plan has one run at least")?;
    let svg = plot::svg(plan, topology, worst)?;
    write("timeline.svg", &svg)?;
    plot::png(&svg, &dir.join("timeline.png"))
}
