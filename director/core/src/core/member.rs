//! One endpoint of one service, and what was decided about it.

use std::net::IpAddr;

use crate::{
    Now,
    health::{Cause, Health, Pace, Verdict},
    model::Endpoint,
    plan::EndpointState,
};

/// An endpoint's state.
#[derive(Debug)]
pub(super) struct Member {
    pub config: Endpoint,
    pub health: Health,
    pub drain: Drain,
    pub verdict: Verdict,
    pub cause: Cause,
    pub since: Now,
    /// The pace that its prober was told, or starts with.
    pace: Pace,
}

/// Whether the endpoint itself is drained, whatever its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    Off,
    On,
    /// The kernel had it draining at the start. Whether that came from a drain
    /// of the endpoint or of its site is not known, so either ends it.
    Adopted,
}

impl Member {
    pub fn new(config: Endpoint, cause: Cause, now: Now) -> Self {
        Self {
            config,
            health: Health::unknown(),
            drain: Drain::Off,
            verdict: Verdict::Unknown,
            cause,
            since: now,
            pace: Pace::Normal,
        }
    }

    /// The endpoint as a reload has it. Another address is another server: of
    /// the old one only the drain stays, since that is the operator's word
    /// about the name. The verdict of another probe stands until contradicted.
    pub fn reload(self, config: Endpoint, is_same_probe: bool) -> Self {
        let health = if !self.is_at(config.address, config.port) {
            Health::unknown()
        } else if !is_same_probe {
            self.health.for_another_probe()
        } else {
            self.health
        };
        Self {
            config,
            health,
            // Its prober may have been replaced, and starts out at this.
            pace: Pace::Normal,
            ..self
        }
    }

    pub fn is_at(&self, address: IpAddr, port: u16) -> bool {
        self.config.address == address && self.config.port == port
    }

    /// Takes over the kernel's state if nothing else is known. Draining counts
    /// as an operator's wish unless `explained` otherwise. Returns whether it did.
    pub fn adopt(&mut self, state: EndpointState, explained: bool) -> bool {
        if self.health.verdict(false) != Verdict::Unknown {
            return false;
        }
        self.health = Health::adopted(state);
        if state == EndpointState::Draining && !explained && self.drain == Drain::Off {
            self.drain = Drain::Adopted;
        }
        true
    }

    pub fn set_drain(&mut self, on: bool) {
        self.drain = if on { Drain::On } else { Drain::Off };
    }

    pub fn end_adopted_drain(&mut self) {
        if self.drain == Drain::Adopted {
            self.drain = Drain::Off;
        }
    }

    pub fn is_draining(&self, site_drains: bool) -> bool {
        site_drains || self.drain != Drain::Off
    }

    /// Brings the verdict up to date. Returns the old and the new one if they differ.
    pub fn judge(
        &mut self,
        site_drains: bool,
        cause: Cause,
        now: Now,
    ) -> Option<(Verdict, Verdict)> {
        let to = self.health.verdict(self.is_draining(site_drains));
        let from = self.verdict;
        if from == to {
            return None;
        }
        self.verdict = to;
        self.cause = cause;
        self.since = now;
        Some((from, to))
    }

    /// The pace its prober is to be told, if that is another one than before.
    pub fn new_pace(&mut self) -> Option<Pace> {
        let pace = self.health.pace();
        (std::mem::replace(&mut self.pace, pace) != pace).then_some(pace)
    }

    /// What the kernel is told, given the weight it is configured to have.
    pub fn state(&self, site_drains: bool, weight: u64) -> EndpointState {
        match self.health.verdict(self.is_draining(site_drains)) {
            Verdict::Healthy if weight > 0 => EndpointState::Active,
            Verdict::Healthy | Verdict::Draining => EndpointState::Draining,
            Verdict::Down | Verdict::Unknown => EndpointState::Dead,
        }
    }
}
