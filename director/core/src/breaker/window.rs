//! Outcomes of the last while, in a few steps of it.

use std::time::Duration;

use crate::Now;

/// Steps that a window slides by.
const STEPS: u64 = 10;

/// Outcomes of one step.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Which step of all since the start of time.
    number: u64,
    failures: u32,
    outcomes: u32,
}

/// Counts of the last [`STEPS`] steps; the oldest is given up at once.
#[derive(Clone, Debug, Default)]
pub struct Window([Step; STEPS as usize]);

impl Window {
    /// Adds an outcome to a window of this length.
    pub fn add(&mut self, is_failure: bool, length: Duration, now: Now) {
        let number = number(length, now);
        let step = &mut self.0[(number % STEPS) as usize];
        if step.number != number {
            *step = Step {
                number,
                ..Step::default()
            };
        }
        step.outcomes = step.outcomes.saturating_add(1);
        step.failures = step.failures.saturating_add(u32::from(is_failure));
    }

    /// Failures and outcomes within a window of this length.
    pub fn sum(&self, length: Duration, now: Now) -> (u32, u32) {
        let last = number(length, now);
        let within = self
            .0
            .iter()
            .filter(|step| step.number <= last && last - step.number < STEPS);
        within.fold((0, 0), |(failures, outcomes), step| {
            (
                failures.saturating_add(step.failures),
                outcomes.saturating_add(step.outcomes),
            )
        })
    }
}

fn number(length: Duration, now: Now) -> u64 {
    // Of 64 bits, which hold 584 years: a division of 128 takes ten times as long,
    // and this is done for every request.
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    nanos(now) / (nanos(length) / STEPS).max(1)
}
