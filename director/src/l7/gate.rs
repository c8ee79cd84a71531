//! Circuit breakers as requests meet them: the state machine is
//! [`director_core::breaker`], threads take turns at it here.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use director_core::{
    Now,
    breaker::{Breaker, BreakerPolicy, BreakerState, Outcome, Permit, Refusal, Transition},
};

/// One breaker.
#[derive(Debug)]
pub struct Gate {
    breaker: Mutex<Breaker>,
    /// Whether it is not closed, to be asked without the lock.
    is_out: AtomicBool,
}

impl Gate {
    pub fn new(now: Now) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(now)),
            is_out: AtomicBool::new(false),
        }
    }

    /// Whether it is open or half open.
    pub fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// Whether a request at `now` would be refused because it is open.
    pub fn is_open(&self, policy: &BreakerPolicy, now: Now) -> bool {
        self.is_out() && self.lock().state(policy, now) == BreakerState::Open
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, transition: Option<Transition>) {
        if let Some(transition) = transition {
            let is_out = transition.to != BreakerState::Closed;
            self.is_out.store(is_out, Ordering::Relaxed);
        }
    }
}

/// Leave of one gate, given back when it is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    policy: BreakerPolicy,
    permit: Option<Permit>,
}

impl Pass {
    /// Asks a gate.
    pub fn ask(
        gate: &Arc<Gate>,
        policy: &BreakerPolicy,
        now: Now,
    ) -> (Result<Self, Refusal>, Option<Transition>) {
        let (permit, transition) = gate.lock().admit(policy, now);
        gate.note(transition);
        let pass = permit.map(|permit| Self {
            gate: gate.clone(),
            policy: *policy,
            permit: Some(permit),
        });
        (pass, transition)
    }

    /// Says what became of the request. `may_open` is asked after a failure alone.
    pub fn settle(
        mut self,
        outcome: Outcome,
        may_open: impl FnOnce() -> bool,
        now: Now,
    ) -> Option<Transition> {
        let permit = self.permit.take()?;
        let transition = self
            .gate
            .lock()
            .settle(permit, outcome, &self.policy, may_open, now);
        self.gate.note(transition);
        transition
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.gate.lock().cancel(permit);
        }
    }
}
