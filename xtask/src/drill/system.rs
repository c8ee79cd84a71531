//! What a drill asks of the kernel for its own processes and threads.

use anyhow::Context as _;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises this process's limit of open files as far as it may, which with
/// CAP_SYS_RESOURCE is `fs.nr_open` and otherwise its hard limit. Returns the
/// limit then in force.
///
/// # Errors
/// When the kernel does not tell its limits.
pub fn raise_open_files() -> anyhow::Result<u64> {
    let path = "/proc/sys/fs/nr_open";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let ceiling: u64 = text
        .trim()
        .parse()
        .with_context(|| format!("{path} holds no number"))?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = ceiling.max(soft);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_ok() {
        return Ok(wanted);
    }
    // Up to the hard limit nobody needs a privilege.
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .with_context(|| format!("cannot raise the limit of open files from {soft} to {hard}"))?;
    Ok(hard)
}

/// Gives the calling thread the CPU priority `nice` (0 to 19, higher yields more).
///
/// On Linux the value is a thread's own and is inherited by the threads it starts.
///
/// # Errors
/// When the kernel refuses, as it does for a value below the present one
/// without privilege.
pub fn lower_priority(nice: i32) -> anyhow::Result<()> {
    // SAFETY: setpriority takes plain numbers and touches no memory of ours;
    // `who` 0 means the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if result == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
        .with_context(|| format!("cannot set the CPU priority to nice {nice}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn the_limit_of_open_files_becomes_all_that_is_allowed() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let limit = raise_open_files().unwrap();
        assert!(limit >= hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, limit);
    }
}
