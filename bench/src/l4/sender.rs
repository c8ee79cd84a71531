//! The thread that sends.

use std::{
    io,
    sync::mpsc::channel,
    thread::{ScopedJoinHandle, scope},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use director_ebpf::bench::FRAME;
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::{Pid, getpid, gettid},
};

use super::net::Net;
use crate::cpu;

/// Most packets of a case in a round.
const MOST: u32 = 1 << 27;
/// Packets of a batch, after which the sender makes way for the receiver. They
/// are taken from, and go back to, a pool of as many pages.
const BATCH: u32 = 256;

/// One that sends.
pub struct Sender<'scope> {
    thread: ScopedJoinHandle<'scope, Result<()>>,
    id: Pid,
}

impl Sender<'_> {
    /// Sends what `wrap` makes out of the network's source, from `cpu`, while
    /// `watch` runs.
    ///
    /// It is one call into the kernel: each was seen to take tens of milliseconds
    /// beside its packets. A signal ends it.
    ///
    /// # Errors
    /// When sending fails, and those of `watch`.
    pub fn during<T>(
        wrap: &Xdp,
        net: &Net,
        cpu: usize,
        watch: impl FnOnce(&Sender<'_>) -> Result<T>,
    ) -> Result<T> {
        interruptible()?;
        scope(|scope| {
            let (here, there) = channel();
            let thread = scope.spawn(move || {
                here.send(gettid()).context("nobody watches")?;
                net.source.enter()?;
                cpu::pin(None, cpu)?;
                cpu::raise(gettid())?;
                send(wrap)
            });
            let id = there.recv().context("the sender ended")?;
            let sender = Sender { thread, id };
            let watched = watch(&sender);
            sender.stop()?;
            watched
        })
    }

    /// Whether it has not ended.
    pub fn is_sending(&self) -> bool {
        !self.thread.is_finished()
    }

    fn stop(self) -> Result<()> {
        // Again and again: a signal that comes before the call ends none.
        while self.is_sending() {
            // SAFETY: takes numbers only; the thread was not joined, so that
            // its number is no other's.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    getpid().as_raw(),
                    self.id.as_raw(),
                    SIGNAL as libc::c_int,
                )
            };
            // It runs on this CPU too, behind us.
            std::thread::sleep(Duration::from_micros(100));
        }
        match self.thread.join() {
            Ok(sent) => sent,
            Err(_) => bail!("the sender panicked"),
        }
    }
}

const SIGNAL: Signal = Signal::SIGUSR1;

/// Has the signal interrupt a call, and do nothing else.
fn interruptible() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is safe at any time.
    unsafe { sigaction(SIGNAL, &action) }.context("handling a signal")?;
    Ok(())
}

fn send(wrap: &Xdp) -> Result<()> {
    let frame = [0_u8; FRAME];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.repeat = MOST;
    options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
    match wrap.test_run(options) {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::Interrupted =>
        {
            Ok(())
        }
        Err(error) => Err(error).context("sending"),
    }
}
