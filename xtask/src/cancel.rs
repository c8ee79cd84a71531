//! Ctrl-C, SIGTERM and SIGHUP: noted, not obeyed on the spot, so that whatever
//! was made is taken down on the way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Takes over the signals. From here on whoever works for long must look at
/// [`requested`] or [`check`].
///
/// # Errors
/// When the handler cannot be set, as when it was set before.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if !REQUESTED.swap(true, Ordering::SeqCst) {
            eprintln!("\ninterrupted: cleaning up");
        }
    })
    .context("cannot handle signals")
}

/// Whether a signal asked for the end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// An error when a signal asked for the end.
///
/// # Errors
/// As said.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `ready` every 50 ms until it says so.
///
/// # Errors
/// Its own error, an interrupt, or `timeout` having passed: then the message
/// says that `what` did not come true.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        check()?;
        if ready()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain: {what}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn waiting_ends_when_ready_and_says_what_did_not_come() {
        let mut asked = 0;
        wait_until("a third time", Duration::from_secs(60), || {
            asked += 1;
            Ok(asked == 3)
        })
        .unwrap();
        let error = wait_until("the server listens", Duration::ZERO, || Ok(false)).unwrap_err();
        assert!(error.to_string().ends_with("the server listens"), "{error}");
    }
}
