//! `cargo xtask fuzz`: searches for packets, configurations and captures for
//! which a property in the crate `director-fuzz` does not hold, by libFuzzer.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{prereq, run};

/// Seconds in all of the step in the suite.
const IN_SUITE: u32 = 60;

/// Arguments of `cargo xtask fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How long it takes in all, shared out among the targets
    #[arg(long, default_value_t = IN_SUITE, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Then make the committed corpus anew: the least of all inputs, found
    /// before and now, that reaches as much
    #[arg(long)]
    keep: bool,
    /// Which targets: those that have a folder in fuzz/corpus; none named: all
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

impl Args {
    /// What the suite does.
    pub fn short() -> Self {
        Self {
            seconds: IN_SUITE,
            keep: false,
            targets: Vec::new(),
        }
    }
}

/// Builds the fuzzer and runs the targets, as many at once as there are CPUs.
///
/// # Errors
/// With every input that was found; when it does not build.
pub fn run(args: &Args) -> Result<()> {
    let root = run::workspace_root()?;
    let targets = chosen(&root, &args.targets)?;
    let fuzzer = Fuzzer::build(&root)?;
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(targets.len());
    let seconds = (args.seconds * workers as u32 / targets.len() as u32).max(1);
    let next = Mutex::new(targets.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                // The lock is let go of before the target runs.
                while let Some(target) = {
                    let mut next = next.lock().unwrap_or_else(|it| it.into_inner());
                    next.next()
                } {
                    match fuzzer.run(target, seconds) {
                        Ok(count) => println!("{target}: {count} inputs in {seconds} s"),
                        Err(error) => failures
                            .lock()
                            .unwrap_or_else(|it| it.into_inner())
                            .push(format!("{error:#}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|it| it.into_inner());
    if !failures.is_empty() {
        bail!("{}", failures.join("\n\n"));
    }
    if args.keep {
        for target in &targets {
            fuzzer.keep(target)?;
        }
    }
    Ok(())
}

/// The targets that are named, or all.
fn chosen(root: &Path, named: &[String]) -> Result<Vec<String>> {
    let folder = root.join("fuzz/corpus");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        all.push(entry?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    match named.iter().find(|name| !all.contains(name)) {
        Some(name) => Err(run::Usage(format!(
            "there is no fuzz target {name}: there are {}",
            all.join(", ")
        ))
        .into()),
        None if named.is_empty() => Ok(all),
        None => Ok(named.to_vec()),
    }
}

/// The fuzzer as it was built, and where its files are.
struct Fuzzer {
    program: PathBuf,
    /// The crate.
    source: PathBuf,
    /// What is found and not committed.
    work: PathBuf,
}

impl Fuzzer {
    fn build(root: &Path) -> Result<Self> {
        prereq::cxx_compiler()?;
        let source = root.join("fuzz");
        run::run(
            run::cargo()
                .current_dir(root)
                .env("RUSTC_WORKSPACE_WRAPPER", source.join("rustc.sh"))
                .args(["build", "--quiet", "--release"])
                .args(["--package", "director-fuzz", "--features", "libfuzzer"])
                .args(["--bin", "director-fuzzer"]),
        )?;
        let build = run::target_dir(root);
        Ok(Self {
            program: build.join("release/director-fuzzer"),
            source,
            work: build.join("fuzz"),
        })
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("DIRECTOR_FUZZ_TARGET", target)
            // So that a configuration that names a file finds none.
            .current_dir(self.work.join(target));
        command
    }

    /// Inputs that are of use, as found here, and as committed.
    fn corpora(&self, target: &str) -> [PathBuf; 2] {
        [
            self.work.join(target).join("corpus"),
            self.source.join("corpus").join(target),
        ]
    }

    /// Runs a target, and returns how many inputs were tried.
    fn run(&self, target: &str, seconds: u32) -> Result<u64> {
        let corpora = self.corpora(target);
        fs::create_dir_all(&corpora[0])?;
        let folder = self.work.join(target);
        let log = folder.join("log");
        let mut command = self.command(target);
        command
            .args(&corpora)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", folder.display()))
            .args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=2048"])
            .stderr(File::create(&log)?)
            .stdout(File::options().append(true).open(&log)?);
        let dictionary = self.source.join(format!("{target}.dict"));
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        let status = command
            .status()
            .with_context(|| format!("cannot start `{}`", run::shown(&command)))?;
        let told = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            return executions(&told)
                .with_context(|| format!("{target}: {} tells of no inputs", log.display()));
        }
        let found = told
            .lines()
            .find_map(|line| line.split_once("Test unit written to "))
            .map_or("nothing was written", |(_, file)| file);
        let lines: Vec<&str> = told.lines().collect();
        let panic = lines.iter().position(|line| line.contains("panicked at"));
        let from = panic.unwrap_or(lines.len().saturating_sub(20));
        let shown = &lines[from..(from + 12).min(lines.len())];
        bail!(
            "{target} does not hold: {found}\n{}\n  help: mend it, and move the input to \
             fuzz/regressions/{target}, which the tests replay; all of the log is in {}",
            shown.join("\n"),
            log.display()
        )
    }

    /// Makes the committed corpus anew.
    fn keep(&self, target: &str) -> Result<()> {
        let [found, committed] = self.corpora(target);
        let least = self.work.join(target).join("least");
        let _ = fs::remove_dir_all(&least);
        fs::create_dir_all(&least)?;
        let mut merge = self.command(target);
        merge
            .arg("-merge=1")
            .args([&least, &committed, &found])
            .stderr(File::create(self.work.join(target).join("log"))?);
        run::run(&mut merge)?;
        fs::remove_dir_all(&committed)?;
        fs::create_dir_all(&committed)?;
        let mut bytes = 0;
        let mut count = 0;
        for entry in fs::read_dir(&least)? {
            let entry = entry?;
            bytes += fs::copy(entry.path(), committed.join(entry.file_name()))?;
            count += 1;
        }
        println!("{target}: {count} inputs kept, {bytes} bytes");
        Ok(())
    }
}

/// How many inputs were tried, as libFuzzer's last lines tell.
fn executions(log: &str) -> Option<u64> {
    let told = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    told?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn executions_are_read_from_the_log() {
        let log = "Done\nstat::number_of_executed_units: 6523\nstat::peak_rss_mb: 30\n";
        assert_eq!(executions(log), Some(6523));
        assert_eq!(executions("Done\n"), None);
    }

    #[test]
    fn a_target_that_is_not_there_is_wrong_usage() {
        let root = run::workspace_root().unwrap();
        let error = chosen(&root, &["no-such".to_owned()]).unwrap_err();
        assert!(error.downcast_ref::<run::Usage>().is_some(), "{error}");
        assert_eq!(chosen(&root, &["steer".to_owned()]).unwrap(), ["steer"]);
        assert!(chosen(&root, &[]).unwrap().len() > 1);
    }
}
