//! The verdict about one endpoint, from the outcomes of its probes.
//!
//! - An endpoint that nothing is known of is [`Verdict::Unknown`]; its first
//!   outcome decides alone.
//! - A healthy one goes down after `fall` failures in a row, a down one becomes
//!   healthy after `rise` successes in a row (the rise and fall of HAProxy's
//!   checks).
//! - A verdict taken over from the kernel, or reached with another probe, is
//!   *provisional*: it stands, and needs the same `rise` or `fall` to change.
//! - While a verdict is in doubt the endpoint is probed at the fast pace: it is
//!   unknown, provisional, or its last outcome disagreed with the verdict.
//! - [`Failure::Local`] says nothing about the endpoint and changes nothing
//!   but the last failure on record.
//!
//! Whether an operator drains the endpoint is kept beside this, and only joined
//! in [`Health::verdict`].

use std::{fmt, time::Duration};

use crate::plan::EndpointState;

/// What is held to be true of an endpoint or a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Not judged yet.
    Unknown,
    /// It serves.
    Healthy,
    /// It serves, and an operator wants no new flows on it.
    Draining,
    /// It does not serve.
    Down,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Draining => "draining",
            Self::Down => "down",
        })
    }
}

/// What led to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// In the model since the start, and nothing known of it yet.
    Start,
    /// Taken over from what the kernel held.
    Adopted,
    /// Enough failed probes in a row; this is the last one's failure.
    Probe(Failure),
    /// Enough successful probes in a row.
    ProbesPassed,
    /// An operator drained it, or ended the drain.
    Operator,
    /// A reload of the configuration.
    Model,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Adopted => f.write_str("adopted from the kernel"),
            Self::Probe(failure) => write!(f, "probe: {failure}"),
            Self::ProbesPassed => f.write_str("probes passed"),
            Self::Operator => f.write_str("operator"),
            Self::Model => f.write_str("configuration"),
        }
    }
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The port refused the connection.
    Refused,
    /// No answer in time.
    Timeout,
    /// The network has no way to the endpoint.
    Unreachable,
    /// The connection was reset, or closed before the answer.
    Reset,
    /// HTTP answered with a status that is not wanted.
    Status(u16),
    /// HTTP answered without the text that is wanted in the body.
    Body,
    /// The answer is not of the protocol that was spoken.
    Protocol,
    /// The prober itself could not probe, for want of a file descriptor, say.
    /// Never counts against the endpoint.
    Local,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Timeout => f.write_str("timed out"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Reset => f.write_str("connection reset"),
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Body => f.write_str("body does not match"),
            Self::Protocol => f.write_str("protocol violated"),
            Self::Local => f.write_str("prober failed locally"),
        }
    }
}

/// How often an endpoint is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pace {
    /// Every [`interval`](crate::HealthPolicy::interval).
    Normal,
    /// Every [`fast_interval`](crate::HealthPolicy::fast_interval).
    Fast,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Fast => "fast",
        })
    }
}

/// What the probes say, apart from any drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Unknown,
    Healthy,
    Down,
}

/// What is known of one endpoint from its probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    judgement: Judgement,
    provisional: bool,
    successes: u32,
    failures: u32,
    last_latency: Option<Duration>,
    last_failure: Option<Failure>,
}

impl Health {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            judgement: Judgement::Unknown,
            provisional: false,
            successes: 0,
            failures: 0,
            last_latency: None,
            last_failure: None,
        }
    }

    /// What the kernel held, to stand until probes contradict it.
    #[must_use]
    pub fn adopted(state: EndpointState) -> Self {
        let judgement = match state {
            EndpointState::Active | EndpointState::Draining => Judgement::Healthy,
            EndpointState::Dead => Judgement::Down,
        };
        Self {
            judgement,
            provisional: true,
            ..Self::unknown()
        }
    }

    /// The same verdict for the start of another probe: its outcomes so far
    /// were not this probe's, so they no longer count.
    #[must_use]
    pub fn for_another_probe(&self) -> Self {
        Self {
            judgement: self.judgement,
            provisional: true,
            ..Self::unknown()
        }
    }

    /// Takes one outcome in. Returns what changed the verdict, if it changed.
    ///
    /// `rise` and `fall` are taken as 1 when they are 0.
    pub fn observe(
        &mut self,
        outcome: Result<Duration, Failure>,
        rise: u32,
        fall: u32,
    ) -> Option<Cause> {
        match outcome {
            Err(Failure::Local) => {
                self.last_failure = Some(Failure::Local);
                None
            }
            Ok(latency) => {
                self.last_latency = Some(latency);
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                let enough = match self.judgement {
                    Judgement::Unknown => true,
                    Judgement::Healthy => false,
                    Judgement::Down => self.successes >= rise,
                };
                self.settle(Judgement::Healthy, enough, Cause::ProbesPassed)
            }
            Err(failure) => {
                self.last_failure = Some(failure);
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                let enough = match self.judgement {
                    Judgement::Unknown => true,
                    Judgement::Healthy => self.failures >= fall,
                    Judgement::Down => false,
                };
                self.settle(Judgement::Down, enough, Cause::Probe(failure))
            }
        }
    }

    fn settle(&mut self, to: Judgement, enough: bool, cause: Cause) -> Option<Cause> {
        self.provisional = false;
        if !enough {
            return None;
        }
        self.judgement = to;
        Some(cause)
    }

    /// The verdict, given whether an operator drains the endpoint. Down wins
    /// over draining: it says more about what happens to flows.
    #[must_use]
    pub fn verdict(&self, draining: bool) -> Verdict {
        match self.judgement {
            Judgement::Unknown => Verdict::Unknown,
            Judgement::Healthy if draining => Verdict::Draining,
            Judgement::Healthy => Verdict::Healthy,
            Judgement::Down => Verdict::Down,
        }
    }

    /// How often to probe: fast while the verdict is in doubt.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let doubt = match self.judgement {
            Judgement::Unknown => true,
            Judgement::Healthy => self.provisional || self.failures > 0,
            Judgement::Down => self.provisional || self.successes > 0,
        };
        if doubt { Pace::Fast } else { Pace::Normal }
    }

    /// How long the last successful probe took.
    #[must_use]
    pub fn last_latency(&self) -> Option<Duration> {
        self.last_latency
    }

    /// Why the last failed probe failed.
    #[must_use]
    pub fn last_failure(&self) -> Option<Failure> {
        self.last_failure
    }

    /// Successes since the last failure.
    #[must_use]
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests;
