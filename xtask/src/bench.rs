//! `cargo xtask bench`: runs the benchmarks, which are a package of their own.

use anyhow::Result;

use crate::{prereq, run};

/// Arguments of `cargo xtask bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Which benchmark, and its options; none: a list
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs the benchmark.
///
/// # Errors
/// When it does not build, or fails.
pub fn run(args: &Args) -> Result<()> {
    let asks_for_help = args.arguments.is_empty()
        || args
            .arguments
            .iter()
            .any(|argument| argument == "--help" || argument == "-h");
    if !asks_for_help {
        prereq::kernel()?;
        if args.arguments.first().is_some_and(|name| name == "l7") {
            prereq::proxies()?;
        }
    }
    let mut bench = run::cargo();
    bench
        .current_dir(run::workspace_root()?)
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "director-bench",
            "--",
        ])
        .args(&args.arguments);
    if args.arguments.is_empty() {
        bench.arg("--help");
    }
    run::run(&mut bench)
}
