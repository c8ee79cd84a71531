//! Health probes of endpoints: one real protocol a file, and one scheduler for
//! all of them.
//!
//! A [`Prober`] is told which [`Target`]s to probe and how often, and sends a
//! [`Report`] for every probe that ends. It holds no opinion on what a report
//! means: counting successes and failures into a verdict, and asking for a
//! faster [`Pace`] while that verdict is in doubt, is the caller's part.
//!
//! # Timing
//!
//! An interval runs from the start of one probe to the start of the next, so a
//! slow answer does not stretch it: the next start is the last start plus the
//! interval, or the last end if that is later. Jitter only ever shortens an
//! interval. A caller that answers the first failure with [`Pace::Fast`] and
//! calls an endpoint down after `fall` failures in a row therefore knows of a
//! black hole at most
//!
//! ```text
//! interval + (fall - 1) * max(fast_interval, timeout) + timeout
//! ```
//!
//! after it opened, as long as `concurrency` leaves a slot free for each probe
//! that is due. A full house delays starts, and never eats into a timeout.

#![forbid(unsafe_code)]

mod failure;
mod http;
mod scheduler;
mod tcp;

use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub use failure::Failure;
pub use http::HttpProbe;
use scheduler::{Command, Scheduler};

/// One thing to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<K> {
    /// The caller's name for it; unique among the targets, and carried by every report.
    pub key: K,
    /// How to ask whether it is well.
    pub probe: Probe,
    /// When to ask.
    pub schedule: Schedule,
}

/// When a target is probed. Intervals are taken as at least 10 ms and at most a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From the start of one probe to the start of the next, at [`Pace::Normal`].
    pub interval: Duration,
    /// The same at [`Pace::Fast`]; one above `interval` is taken as `interval`.
    pub fast_interval: Duration,
    /// What a whole probe may take, from the first packet to the last byte of the answer.
    pub timeout: Duration,
    /// How much of an interval may be cut off at random, in per cent; one above
    /// 100 is taken as 100.
    pub jitter_percent: u8,
}

/// How to ask a target whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Well when it accepts a TCP connection.
    Tcp {
        /// Where to connect.
        address: SocketAddr,
    },
    /// Well when it answers an HTTP/1.1 request as expected.
    Http(HttpProbe),
}

impl Probe {
    /// Asks once. Has no time limit of its own: the scheduler sets one.
    async fn run(self: Arc<Self>) -> Result<(), Failure> {
        match &*self {
            Self::Tcp { address } => tcp::probe(*address).await,
            Self::Http(probe) => http::probe(probe).await,
        }
    }
}

/// Which of a schedule's two intervals applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// [`Schedule::interval`]: nothing is in doubt.
    Normal,
    /// [`Schedule::fast_interval`]: the last answers do not agree.
    Fast,
}

/// How one probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<K> {
    /// The target's key.
    pub key: K,
    /// From the start of the probe to its end; the wait for a free slot is not in it.
    pub latency: Duration,
    /// What was found.
    pub result: Result<(), Failure>,
}

/// A running set of probes. Dropping it stops them all.
///
/// Its methods hand a command to the scheduler's task and return at once. They
/// do nothing once the receiver of the reports is gone, because that ends the
/// scheduler.
#[derive(Debug)]
pub struct Prober<K> {
    commands: mpsc::UnboundedSender<Command<K>>,
}

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Prober<K> {
    /// Starts a scheduler without targets on the current tokio runtime.
    ///
    /// At most `concurrency` probes (and at least one) are under way at once.
    /// Reports go to `reports`; while that channel is full they are kept, and
    /// the probes that ended hold on to their slots.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, like [`tokio::spawn`].
    pub fn spawn(concurrency: usize, reports: mpsc::Sender<Report<K>>) -> Self {
        let scheduler = Scheduler::new(concurrency, fastrand::Rng::new(), Probe::run);
        Self::spawn_scheduler(scheduler, reports)
    }

    fn spawn_scheduler<F, R>(scheduler: Scheduler<K, F>, reports: mpsc::Sender<Report<K>>) -> Self
    where
        F: Fn(Arc<Probe>) -> R + Send + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        // Unbounded, so that a caller which is itself behind in reading reports
        // can never deadlock with the scheduler. The scheduler never waits for
        // anything before it reads its commands, so the queue stays short.
        let (commands, queue) = mpsc::unbounded_channel();
        tokio::spawn(scheduler.run(queue, reports));
        Self { commands }
    }

    /// Replaces the whole set of targets.
    ///
    /// A target whose key and probe are as before keeps its pace and its place
    /// in time; a changed [`Schedule`] applies from its last start. A new one is
    /// probed at once, in the order given where slots are short. The probe of a
    /// removed one is abandoned, and its report is dropped unless it already is
    /// in the channel. When a key comes twice the later target counts.
    pub fn set_targets(&self, targets: Vec<Target<K>>) {
        self.command(Command::Targets(targets));
    }

    /// Sets the pace of a target; an unknown key is ignored.
    ///
    /// [`Pace::Fast`] pulls a waiting target's next start forward to its last
    /// start plus the fast interval, or to now if that has passed.
    pub fn set_pace(&self, key: &K, pace: Pace) {
        self.command(Command::Pace(key.clone(), pace));
    }

    /// Probes a target at once, ahead of all that are waiting for a slot; an
    /// unknown key is ignored.
    ///
    /// While a probe of this target is under way, one more follows right after
    /// it, however often this is called.
    pub fn probe_now(&self, key: &K) {
        self.command(Command::ProbeNow(key.clone()));
    }

    fn command(&self, command: Command<K>) {
        // It fails only when the scheduler has ended because nobody reads its
        // reports any more: then there is nothing left to command.
        let _ = self.commands.send(command);
    }
}
