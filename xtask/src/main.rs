//! Every chore of the project. `cargo xtask --help` lists them.

mod bench;
mod bpf;
mod cancel;
mod drill;
mod fuzz;
mod lab;
mod prereq;
mod run;
mod suite;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Every chore of the project
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
#[command(after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage.")]
enum Chore {
    /// Build the BPF objects that are committed, or check them
    BuildEbpf(bpf::Args),
    /// The whole test suite, as CI runs it
    Test,
    /// A three-site network of namespaces left standing
    #[command(subcommand)]
    Lab(lab::cli::Action),
    /// Lose a site under load and measure what that costs
    Failover(drill::Args),
    /// Run benchmarks: bench xdp, ...
    Bench(bench::Args),
    /// Search for input for which a property does not hold
    Fuzz(fuzz::Args),
    /// Check the house rules that rustc and clippy do not know
    Tidy,
    /// One server of a lab
    #[command(hide = true)]
    DrillServer(drill::server::Args),
    /// One process of a drill's load generator
    #[command(hide = true)]
    DrillClient,
}

fn main() -> ExitCode {
    match dispatch(Chore::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            let usage = error.downcast_ref::<run::Usage>().is_some();
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn dispatch(chore: Chore) -> Result<ExitCode> {
    match chore {
        Chore::BuildEbpf(args) => bpf::build(&args)?,
        Chore::Test => suite::run()?,
        Chore::Bench(args) => bench::run(&args)?,
        Chore::Fuzz(args) => fuzz::run(&args)?,
        Chore::Lab(action) => lab::cli::run(&action)?,
        Chore::Tidy => tidy::run()?,
        Chore::Failover(args) => return drill::run(&args),
        Chore::DrillServer(args) => drill::server::run(&args)?,
        Chore::DrillClient => drill::load::worker::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
