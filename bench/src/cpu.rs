//! Which CPU runs what.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::ClockId,
    unistd::Pid,
};

/// The CPUs that this process may run on.
///
/// # Errors
/// When the kernel does not say.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("asking for the CPUs to run on")?;
    let all = 0..CpuSet::count();
    Ok(all
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect())
}

/// Keeps a thread, or the calling one, on `cpu`.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(thread: Option<Pid>, cpu: usize) -> Result<()> {
    sched_setaffinity(thread.unwrap_or(Pid::from_raw(0)), &set(&[cpu])?)
        .with_context(|| format!("choosing CPU {cpu}"))
}

/// What the kernel takes for these CPUs.
///
/// # Errors
/// When there can be no CPU of such a number.
pub fn set(cpus: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)
            .with_context(|| format!("choosing CPU {cpu}"))?;
    }
    Ok(set)
}

/// Keeps this thread on the last of its CPUs: kernels charge a program to the
/// one it runs on, and maps have per-CPU lists.
///
/// # Errors
/// When the kernel refuses.
pub fn pin_to_last() -> Result<()> {
    let last = allowed()?.last().copied();
    pin(None, last.context("no CPU to run on")?)
}

/// This thread's CPU time, in which the kernel runs the programs that it asks
/// for; unlike the kernel's own figure it is not in whole nanoseconds.
///
/// # Errors
/// When there is no such clock.
pub fn thread_time() -> Result<Duration> {
    Ok(Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?))
}

/// Gives a thread the CPU before all that is not real-time.
///
/// # Errors
/// When the kernel refuses.
pub fn raise(thread: Pid) -> Result<()> {
    let id = thread.as_raw().unsigned_abs();
    // SAFETY: takes numbers only.
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, id, -20) };
    nix::Error::result(set).context("raising a thread's priority")?;
    Ok(())
}

/// Has a thread run at once whenever it can, but for threads of a higher
/// `priority`. Threads that it makes are ordinary ones.
///
/// # Errors
/// When the kernel refuses.
pub fn real_time(thread: Pid, priority: i32) -> Result<()> {
    let parameter = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter outlives the call, which only reads it.
    let set = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameter) };
    nix::Error::result(set).context("making a thread real-time")?;
    Ok(())
}

/// Gives all processes of this session the CPU before those of others, where the
/// kernel shares CPUs among sessions first (`sched_autogroup_enabled`), until
/// this is dropped.
#[derive(Debug)]
pub struct Session {
    /// The session's nice value as it was; `None`: there is no such thing here.
    before: Option<i32>,
}

impl Session {
    const PATH: &str = "/proc/self/autogroup";

    /// # Errors
    /// When the kernel refuses.
    pub fn raise() -> Result<Self> {
        // In the form of `/autogroup-25 nice 0`.
        let text = fs::read_to_string(Self::PATH).unwrap_or_default();
        let before = text.trim().rsplit(' ').next();
        let before = before.and_then(|nice| nice.parse().ok());
        if before.is_some() {
            fs::write(Self::PATH, "-20").context("raising the session's priority")?;
        }
        Ok(Self { before })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // What is left is a priority that is too high.
            let _ = fs::write(Self::PATH, before.to_string());
        }
    }
}
