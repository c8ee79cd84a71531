//! Processes of a lab: started in a namespace, found again by a later command,
//! and ended only when they are provably ours.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::netns::within;
use crate::run;

/// A process, told apart from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks from boot to its start (field 22 of /proc/PID/stat).
    started: u64,
}

impl ProcessId {
    /// The process that runs this.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("a process number out of range")?;
        let (_, started) = stat(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started })
    }

    /// The process number.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Whether it still runs (an ended one that nobody waited for does not).
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// State and start time of a process, from /proc/PID/stat (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the command's name, may hold spaces and parentheses.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

/// A process of the lab: a child of ours, or one that an earlier command left.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    child: Option<Child>,
}

impl Process {
    /// Starts `command` in the namespace at `netns`, in a process group of its
    /// own (so that a terminal's Ctrl-C reaches us and not it), with its output
    /// appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the command cannot be started.
    pub fn start(netns: &Path, mut command: Command, log: &Path) -> Result<Self> {
        let file = open_log(log)?;
        let again = file.try_clone().context("cannot share the log")?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .process_group(0);
        let child = within(netns, || {
            command
                .spawn()
                .with_context(|| format!("cannot start `{}`", run::shown(&command)))
        })?;
        Ok(Self {
            id: ProcessId::of(child.id())?,
            child: Some(child),
        })
    }

    /// One that an earlier command left running.
    pub fn adopted(id: ProcessId) -> Self {
        Self { id, child: None }
    }

    /// Which process this is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.id.is_alive()
    }

    /// SIGKILL, without waiting for the end.
    pub fn kill(&self) {
        self.id.signal(Signal::SIGKILL);
    }

    /// Waits until it has ended, which must be a matter of course by now.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while self.id.is_alive() {
            if Instant::now() >= deadline {
                bail!("process {} still runs after {timeout:?}", self.id.pid);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(mut child) = self.child.take() {
            child.wait().context("cannot collect an ended process")?;
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), and makes it (SIGKILL) when it has not within `grace`.
    ///
    /// # Errors
    /// When it had to be killed, or even that did not end it.
    pub fn stop(&mut self, grace: Duration) -> Result<()> {
        self.id.signal(Signal::SIGTERM);
        if self.wait(grace).is_ok() {
            return Ok(());
        }
        self.kill();
        self.wait(Duration::from_secs(5))?;
        bail!(
            "process {} did not end within {grace:?} of SIGTERM and was killed",
            self.id.pid
        )
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}

/// The last lines of a log, for error messages.
pub fn log_tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Process::start(Path::new("/proc/self/ns/net"), command, &dir.join("log")).unwrap()
    }

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        let earlier = ProcessId {
            started: own.started - 1,
            ..own
        };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn a_reused_number_is_never_signalled() {
        if !crate::run::test_has_root("entering a network namespace") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(dir.path());
        let mut other = Process::adopted(ProcessId {
            started: process.id.started + 1,
            ..process.id
        });
        other.kill();
        other.wait(Duration::ZERO).unwrap();
        assert!(process.is_alive());
        process.kill();
        process.wait(Duration::from_secs(60)).unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed_and_reported() {
        if !crate::run::test_has_root("entering a network namespace") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; exec sleep 1000"]);
        let mut process = Process::start(Path::new("/proc/self/ns/net"), command, &log).unwrap();
        crate::cancel::wait_until("the trap is set", Duration::from_secs(60), || {
            Ok(log_tail(&log) == "ready")
        })
        .unwrap();
        let error = process.stop(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("was killed"), "{error}");
        assert!(!process.is_alive());
    }
}
