//! Programs that the benchmark runs. They end with it, however that ends.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    process::{self, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sched::sched_setaffinity,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    time::ClockId,
    unistd::Pid,
};

use crate::cpu;

/// How long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often is looked whether it has.
const POLL: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes Ctrl-C, SIGTERM and SIGHUP, so that all is taken down on the way out.
///
/// # Errors
/// When signals cannot be handled.
pub fn note_signals() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst)).context("handling signals")
}

/// # Errors
/// When a signal asked for the end.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// A program that runs until this is dropped.
pub struct Child {
    name: &'static str,
    process: process::Child,
}

impl Child {
    /// Starts it on `cpus`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &mut Command, cpus: &[usize]) -> Result<Self> {
        let set = cpu::set(cpus)?;
        // A terminal's Ctrl-C is for the benchmark alone.
        command.process_group(0);
        let prepare = move || {
            set_pdeathsig(Signal::SIGTERM)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            // Before all else that runs here, so that it disturbs little.
            // SAFETY: takes numbers only.
            Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) })?;
            Ok(())
        };
        // SAFETY: between fork and exec it makes three system calls and nothing else:
        // no allocation, no lock.
        unsafe { command.pre_exec(prepare) };
        let process = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name, process })
    }

    /// # Errors
    /// When it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.name),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// This process and those that it started.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn family(&self) -> Result<Vec<u32>> {
        let id = self.id();
        let path = format!("/proc/{id}/task/{id}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let children = children.split_whitespace().map(str::parse);
        let mut all = children.collect::<Result<Vec<u32>, _>>()?;
        all.push(id);
        Ok(all)
    }

    /// CPU time that they have taken so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn worked(&self) -> Result<Duration> {
        let times = self.family()?.into_iter().map(|id| {
            let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(id.cast_signed()))?;
            anyhow::Ok(Duration::from(clock.now()?))
        });
        times.sum::<Result<_>>().context("reading CPU time")
    }

    fn wait(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.process.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            sleep(POLL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        // It was not waited for, so that the number is still its own.
        let _ = kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM);
        if !matches!(self.wait(PATIENCE), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Runs a program to its end, and returns what it wrote to stdout.
///
/// # Errors
/// When it fails, or takes longer than `limit`.
pub fn output(
    name: &'static str,
    command: &mut Command,
    cpus: &[usize],
    limit: Duration,
) -> Result<String> {
    let mut file = tempfile::tempfile()?;
    command.stdout(file.try_clone()?);
    let mut child = Child::start(name, command, cpus)?;
    let status = child.wait(limit)?;
    let text = written(&mut file)?;
    match status {
        Some(status) if status.success() => Ok(text),
        Some(status) => bail!("{name} failed: {status}\n{text}"),
        None => bail!("{name} did not end within {limit:?}"),
    }
}

fn written(file: &mut File) -> Result<String> {
    use io::{Read as _, Seek as _};
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
