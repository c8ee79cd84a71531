//! Network namespaces: entering one, and running things in one.
//!
//! Only the network namespace is entered. `ip netns exec` also mounts a fresh
//! `/sys`, which would hide the lab's BPF filesystem and the kernel's BTF.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Moves the calling thread into the network namespace at `path` (for tokio's
/// `on_thread_start`, or any thread made for the purpose). There is no way back.
///
/// # Errors
/// When there is no namespace at `path`, or the thread may not enter it.
pub fn enter_netns(path: &Path) -> Result<()> {
    let file = File::open(path)
        .with_context(|| format!("there is no network namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {}", path.display()))
}

/// Runs `work` on a thread of its own inside the network namespace at `path`.
/// Processes that it starts stay in there.
///
/// # Errors
/// When the namespace cannot be entered, or `work`'s own.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_netns(path)?;
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("work in the namespace {} panicked", path.display()),
        }
    })
}
