//! Circuit breakers: whether a request may be sent, from the outcomes of those
//! before it.
//!
//! ```text
//!            enough failures                 open time is over
//!  closed ───────────────────> open ───────────────────────────> half open
//!    ^                           ^        a probe failed             │
//!    │                           └───────────────────────────────────┤
//!    └───────────────────────────────────────────────────────────────┘
//!                            enough probes passed
//! ```
//!
//! - *Closed*: requests pass. Failures in a row, or a share of failures among
//!   enough requests of a sliding window, open it; an answer that took too long
//!   is a failure too.
//! - *Open*: requests are refused, for a time that doubles with every opening,
//!   up to a limit, and that is forgotten step by step while it stays closed.
//! - *Half open*: a few requests at once pass, to probe. Enough of them that
//!   succeed close it, one that fails opens it again.
//!
//! An outcome counts only in the state that its request was admitted in, so what
//! was under way when the breaker opened neither closes nor opens it later. Every
//! [`Permit`] is to come back, by [`Breaker::settle`] or [`Breaker::cancel`].

mod window;

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use crate::Now;

use self::window::Window;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it; 0: they do not.
    pub consecutive_failures: u32,
    /// How far back outcomes count for the share of failures.
    pub window: Duration,
    /// Outcomes in the window below which their share says nothing.
    pub minimum_volume: u32,
    /// Share of failures in the window that opens it, 1 to 100; more: it does
    /// not.
    pub failure_percent: u32,
    /// From how long on an answer is a failure; `None`: however long.
    pub slow: Option<Duration>,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// The longest that it stays open.
    pub longest_open: Duration,
    /// Time closed after which one opening is forgotten.
    pub forget_after: Duration,
    /// Requests that may be under way at once while it is half open.
    pub probes: u32,
    /// Probes that must succeed to close it.
    pub probes_to_close: u32,
    /// Requests that may be under way at once; `None`: any number.
    pub concurrency: Option<u32>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            window: Duration::from_secs(10),
            minimum_volume: 20,
            failure_percent: 50,
            slow: None,
            open_for: Duration::from_secs(1),
            longest_open: Duration::from_secs(60),
            forget_after: Duration::from_secs(30),
            probes: 1,
            probes_to_close: 2,
            concurrency: None,
        }
    }
}

/// Whether requests pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    /// In logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, after this long.
    Answered(Duration),
    Failed,
}

impl Outcome {
    /// Whether it counts as a failure, where an answer does from `slow` on.
    fn is_failure(self, slow: Option<Duration>) -> bool {
        match self {
            Self::Failed => true,
            Self::Answered(took) => slow.is_some_and(|slow| took >= slow),
        }
    }
}

/// Why a breaker went from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerCause {
    /// This many failures in a row.
    Consecutive(u32),
    /// So many failures among so many outcomes of the window.
    Rate { failures: u32, outcomes: u32 },
    /// The open time is over.
    Elapsed,
    /// A probe failed.
    ProbeFailed,
    /// Enough probes succeeded.
    ProbesPassed,
    /// More are out than may be (see [`may_eject`]), since there are less of them
    /// now.
    Clamped,
}

impl fmt::Display for BreakerCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive(count) => write!(f, "{count} failures in a row"),
            Self::Rate { failures, outcomes } => write!(f, "{failures} of {outcomes} failed"),
            Self::Elapsed => f.write_str("open time is over"),
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::ProbesPassed => f.write_str("probes passed"),
            Self::Clamped => f.write_str("more are out than may be"),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: BreakerState,
    pub to: BreakerState,
    pub cause: BreakerCause,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The breaker is open, for this long yet.
    Open(Duration),
    /// It is half open, and as many probes as may be are under way.
    Probing,
    /// As many requests as may be are under way.
    Concurrency,
}

/// Leave to send one request. Not `Clone`: it comes back once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that does not come back counts as a request under way"]
pub struct Permit {
    epoch: u64,
}

/// The breaker of one endpoint, or of one route at one site.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: BreakerState,
    /// Counts transitions: an outcome of another epoch than now's says nothing.
    epoch: u64,
    /// When the state began.
    since: Now,
    /// Requests that are under way, of whatever epoch.
    under_way: u32,
    /// Of these, the probes of this epoch.
    probing: u32,
    /// Failures in a row while closed.
    in_a_row: u32,
    /// Probes that succeeded while half open.
    passed: u32,
    /// Openings that are not forgotten.
    openings: u32,
    window: Window,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            state: BreakerState::Closed,
            epoch: 0,
            since: now,
            under_way: 0,
            probing: 0,
            in_a_row: 0,
            passed: 0,
            openings: 0,
            window: Window::default(),
        }
    }

    /// The state that a request at `now` would meet.
    #[must_use]
    pub fn state(&self, policy: &BreakerPolicy, now: Now) -> BreakerState {
        match self.state {
            BreakerState::Open if self.remaining(policy, now).is_zero() => BreakerState::HalfOpen,
            state => state,
        }
    }

    /// Asks to send a request: leave, or why it may not be sent. Where the open
    /// time is over, the first one asked for makes the breaker half open.
    pub fn admit(
        &mut self,
        policy: &BreakerPolicy,
        now: Now,
    ) -> (Result<Permit, Refusal>, Option<Transition>) {
        let is_over = self.state == BreakerState::Open && self.remaining(policy, now).is_zero();
        let transition =
            is_over.then(|| self.go(BreakerState::HalfOpen, BreakerCause::Elapsed, now));
        if let Some(refusal) = self.refusal(policy, now) {
            return (Err(refusal), transition);
        }
        self.under_way += 1;
        self.probing += u32::from(self.state == BreakerState::HalfOpen);
        (Ok(Permit { epoch: self.epoch }), transition)
    }

    /// Takes back the permit of a request that was sent, with what became of it.
    /// A closed breaker that there is cause to open asks `may_open`, and stays
    /// closed where as many others are open as may be (see [`may_eject`]).
    pub fn settle(
        &mut self,
        permit: Permit,
        outcome: Outcome,
        policy: &BreakerPolicy,
        may_open: impl FnOnce() -> bool,
        now: Now,
    ) -> Option<Transition> {
        if !self.take_back(&permit) {
            return None;
        }
        let is_failure = outcome.is_failure(policy.slow);
        match self.state {
            BreakerState::Closed => {
                self.forget(policy, now);
                self.window.add(is_failure, policy.window, now);
                self.in_a_row = if is_failure {
                    self.in_a_row.saturating_add(1)
                } else {
                    0
                };
                if !is_failure {
                    return None;
                }
                let cause = self.fault(policy, now)?;
                may_open().then(|| self.open(cause, now))
            }
            BreakerState::HalfOpen if is_failure => Some(self.open(BreakerCause::ProbeFailed, now)),
            BreakerState::HalfOpen => {
                self.passed += 1;
                let is_enough = self.passed >= policy.probes_to_close.max(1);
                is_enough.then(|| self.go(BreakerState::Closed, BreakerCause::ProbesPassed, now))
            }
            // Its permits are of earlier epochs.
            BreakerState::Open => None,
        }
    }

    /// Takes back the permit of a request that says nothing: it was not sent, or
    /// its client went away.
    pub fn cancel(&mut self, permit: Permit) {
        self.take_back(&permit);
    }

    /// Closes it where more are out than may be.
    pub fn clamp(&mut self, now: Now) -> Option<Transition> {
        (!self.is_closed()).then(|| self.go(BreakerState::Closed, BreakerCause::Clamped, now))
    }

    /// Until when no request is admitted, as far as is known: zero where one is,
    /// and [`Now::MAX`] where that is until one of those under way comes back.
    #[must_use]
    pub fn blocked_until(&self, policy: &BreakerPolicy) -> Now {
        match self.state {
            BreakerState::Open => self.since.saturating_add(self.open_time(policy)),
            _ if self.refusal(policy, self.since).is_some() => Now::MAX,
            _ => Now::ZERO,
        }
    }

    /// How long it stays open.
    #[must_use]
    pub fn open_time(&self, policy: &BreakerPolicy) -> Duration {
        let doublings = self.openings.saturating_sub(1).min(31);
        policy
            .open_for
            .saturating_mul(1 << doublings)
            .min(policy.longest_open.max(policy.open_for))
    }

    /// Whether it is closed: neither open nor, by what was last asked, half open.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == BreakerState::Closed
    }

    /// Requests that are under way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Why a request would not be admitted, in the state that is now.
    fn refusal(&self, policy: &BreakerPolicy, now: Now) -> Option<Refusal> {
        match self.state {
            BreakerState::Open => Some(Refusal::Open(self.remaining(policy, now))),
            BreakerState::HalfOpen if self.probing >= policy.probes.max(1) => {
                Some(Refusal::Probing)
            }
            _ if self.under_way >= policy.concurrency.unwrap_or(u32::MAX) => {
                Some(Refusal::Concurrency)
            }
            _ => None,
        }
    }

    /// One request less is under way. Returns whether it is of this epoch.
    fn take_back(&mut self, permit: &Permit) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        let is_current = permit.epoch == self.epoch;
        if is_current {
            self.probing = self.probing.saturating_sub(1);
        }
        is_current
    }

    /// What there is to open it for.
    fn fault(&self, policy: &BreakerPolicy, now: Now) -> Option<BreakerCause> {
        let most = policy.consecutive_failures;
        if most > 0 && self.in_a_row >= most {
            return Some(BreakerCause::Consecutive(self.in_a_row));
        }
        let (failures, outcomes) = self.window.sum(policy.window, now);
        let is_enough = outcomes >= policy.minimum_volume.max(1);
        let is_over =
            u64::from(failures) * 100 >= u64::from(outcomes) * u64::from(policy.failure_percent);
        (is_enough && is_over && failures > 0).then_some(BreakerCause::Rate { failures, outcomes })
    }

    fn open(&mut self, cause: BreakerCause, now: Now) -> Transition {
        self.openings = self.openings.saturating_add(1);
        self.go(BreakerState::Open, cause, now)
    }

    /// Forgets openings that it has been closed for long enough since.
    fn forget(&mut self, policy: &BreakerPolicy, now: Now) {
        if self.openings == 0 || policy.forget_after.is_zero() {
            return;
        }
        let steps = now.saturating_sub(self.since).as_nanos() / policy.forget_after.as_nanos();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).min(self.openings);
        self.openings -= steps;
        self.since += policy.forget_after * steps;
    }

    fn remaining(&self, policy: &BreakerPolicy, now: Now) -> Duration {
        (self.since + self.open_time(policy)).saturating_sub(now)
    }

    fn go(&mut self, to: BreakerState, cause: BreakerCause, now: Now) -> Transition {
        let from = self.state;
        self.state = to;
        self.epoch += 1;
        self.since = now;
        self.probing = 0;
        self.in_a_row = 0;
        self.passed = 0;
        self.window = Window::default();
        Transition { from, to, cause }
    }
}

/// Whether one more of `all` may be taken out while `out` are, when at most
/// `percent` of them may be: one may where that is less than one, but never the
/// last.
#[must_use]
pub fn may_eject(out: usize, all: usize, percent: u32) -> bool {
    let after = out.saturating_add(1);
    after < all && (out == 0 || after * 100 <= all * percent as usize)
}
