#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const QUICK: Outcome = Outcome::Answered(Duration::from_millis(1));

fn at(millis: u64) -> Now {
    Duration::from_millis(millis)
}

/// Sends one request and returns the transition of its outcome.
fn send(
    breaker: &mut Breaker,
    policy: &BreakerPolicy,
    outcome: Outcome,
    now: Now,
) -> Option<Transition> {
    let (permit, _) = breaker.admit(policy, now);
    breaker.settle(permit.expect("admitted"), outcome, policy, || true, now)
}

/// Opens a breaker by failures in a row.
fn opened(policy: &BreakerPolicy, now: Now) -> Breaker {
    let mut breaker = Breaker::new(now);
    for _ in 1..policy.consecutive_failures {
        assert_eq!(send(&mut breaker, policy, Outcome::Failed, now), None);
    }
    let transition = send(&mut breaker, policy, Outcome::Failed, now).expect("it opens");
    assert_eq!(transition.to, BreakerState::Open);
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_breaks_the_row() {
    let policy = BreakerPolicy::default();
    let mut breaker = Breaker::new(at(0));
    for _ in 0..4 {
        assert_eq!(send(&mut breaker, &policy, Outcome::Failed, at(0)), None);
    }
    assert_eq!(send(&mut breaker, &policy, QUICK, at(0)), None);
    for _ in 0..4 {
        assert_eq!(send(&mut breaker, &policy, Outcome::Failed, at(0)), None);
    }
    let transition = send(&mut breaker, &policy, Outcome::Failed, at(0)).unwrap();
    assert_eq!(transition.cause, BreakerCause::Consecutive(5));
    let (refused, _) = breaker.admit(&policy, at(400));
    assert_eq!(refused, Err(Refusal::Open(at(600))));
}

#[test]
fn a_share_of_failures_opens_it_from_the_least_volume_on() {
    let policy = BreakerPolicy {
        consecutive_failures: 0,
        ..BreakerPolicy::default()
    };
    let mut breaker = Breaker::new(at(0));
    for n in 0..19 {
        let outcome = if n % 2 == 0 { Outcome::Failed } else { QUICK };
        assert_eq!(send(&mut breaker, &policy, outcome, at(n * 100)), None);
    }
    let transition = send(&mut breaker, &policy, Outcome::Failed, at(1900)).unwrap();
    let cause = BreakerCause::Rate {
        failures: 11,
        outcomes: 20,
    };
    assert_eq!(transition.cause, cause);
}

#[test]
fn what_is_out_of_the_window_is_forgotten() {
    let policy = BreakerPolicy {
        consecutive_failures: 0,
        ..BreakerPolicy::default()
    };
    let mut breaker = Breaker::new(at(0));
    for _ in 0..19 {
        assert_eq!(send(&mut breaker, &policy, Outcome::Failed, at(0)), None);
    }
    let later = policy.window + SECOND;
    assert_eq!(send(&mut breaker, &policy, Outcome::Failed, later), None);
}

#[test]
fn an_answer_that_takes_too_long_is_a_failure() {
    let policy = BreakerPolicy {
        consecutive_failures: 1,
        slow: Some(SECOND),
        ..BreakerPolicy::default()
    };
    let mut breaker = Breaker::new(at(0));
    let in_time = Outcome::Answered(SECOND - at(1));
    assert_eq!(send(&mut breaker, &policy, in_time, at(0)), None);
    assert!(send(&mut breaker, &policy, Outcome::Answered(SECOND), at(0)).is_some());
}

#[test]
fn probes_close_it_and_a_failed_one_opens_it_for_twice_as_long() {
    let policy = BreakerPolicy::default();
    let mut breaker = opened(&policy, at(0));
    assert_eq!(breaker.state(&policy, at(999)), BreakerState::Open);
    assert_eq!(breaker.state(&policy, at(1000)), BreakerState::HalfOpen);

    let (probe, transition) = breaker.admit(&policy, at(1000));
    assert_eq!(transition.unwrap().cause, BreakerCause::Elapsed);
    assert_eq!(
        breaker.admit(&policy, at(1000)),
        (Err(Refusal::Probing), None)
    );
    let failed = breaker.settle(probe.unwrap(), Outcome::Failed, &policy, || true, at(1000));
    assert_eq!(failed.unwrap().cause, BreakerCause::ProbeFailed);
    assert_eq!(breaker.open_time(&policy), 2 * SECOND);

    assert_eq!(send(&mut breaker, &policy, QUICK, at(3000)), None);
    let passed = send(&mut breaker, &policy, QUICK, at(3000)).unwrap();
    assert_eq!(passed.cause, BreakerCause::ProbesPassed);
    assert_eq!(breaker.state(&policy, at(3000)), BreakerState::Closed);
}

#[test]
fn openings_are_forgotten_while_it_is_closed() {
    let policy = BreakerPolicy {
        probes_to_close: 1,
        ..BreakerPolicy::default()
    };
    let mut breaker = opened(&policy, at(0));
    send(&mut breaker, &policy, Outcome::Failed, at(1000));
    send(&mut breaker, &policy, QUICK, at(3000));
    assert_eq!(breaker.open_time(&policy), 2 * SECOND);
    send(&mut breaker, &policy, QUICK, at(3000) + policy.forget_after);
    assert_eq!(breaker.open_time(&policy), SECOND);
}

#[test]
fn a_probe_that_is_cancelled_makes_room_for_another() {
    let policy = BreakerPolicy::default();
    let mut breaker = opened(&policy, at(0));
    let (probe, _) = breaker.admit(&policy, at(1000));
    breaker.cancel(probe.unwrap());
    assert_eq!(breaker.state(&policy, at(1000)), BreakerState::HalfOpen);
    assert!(breaker.admit(&policy, at(1000)).0.is_ok());
}

#[test]
fn where_as_many_are_out_as_may_be_it_stays_closed() {
    let policy = BreakerPolicy::default();
    let mut breaker = Breaker::new(at(0));
    for _ in 0..50 {
        let (permit, _) = breaker.admit(&policy, at(0));
        let settled = breaker.settle(permit.unwrap(), Outcome::Failed, &policy, || false, at(0));
        assert_eq!(settled, None);
    }
    let (permit, _) = breaker.admit(&policy, at(0));
    let settled = breaker.settle(permit.unwrap(), Outcome::Failed, &policy, || true, at(0));
    assert!(settled.is_some(), "it opens once it may");
}

#[test]
fn the_last_is_never_ejected() {
    assert!(!may_eject(0, 1, 100));
    assert!(may_eject(0, 2, 10), "one may, however few are allowed");
    assert!(!may_eject(1, 2, 100));
    assert!(may_eject(4, 10, 50));
    assert!(!may_eject(5, 10, 50));
}

/// A server under requests from a seed: for a while it fails, at other times it
/// does not, and answers come out of order.
struct Play {
    random: fastrand::Rng,
    policy: BreakerPolicy,
    breaker: Breaker,
    now: Now,
    /// Requests under way, and whether they were sent as probes.
    under_way: Vec<(Permit, bool)>,
    /// How often the breaker opened, and failures in a row while it is closed.
    opened: u32,
    row: u32,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let open_for = Duration::from_millis(random.u64(1..2000));
        let policy = BreakerPolicy {
            consecutive_failures: random.u32(1..8),
            window: Duration::from_millis(random.u64(1..20_000)),
            minimum_volume: random.u32(0..50),
            failure_percent: random.u32(1..102),
            slow: random.bool().then_some(SECOND),
            open_for,
            longest_open: open_for * random.u32(0..20),
            forget_after: Duration::from_millis(random.u64(0..10_000)),
            probes: random.u32(0..4),
            probes_to_close: random.u32(0..4),
            concurrency: random.bool().then(|| random.u32(1..20)),
        };
        Self {
            breaker: Breaker::new(Now::ZERO),
            random,
            policy,
            now: Now::ZERO,
            under_way: Vec::new(),
            opened: 0,
            row: 0,
        }
    }

    fn ask(&mut self) {
        let before = self.breaker.state(&self.policy, self.now);
        let (asked, transition) = self.breaker.admit(&self.policy, self.now);
        if let Some(transition) = transition {
            assert_eq!(transition.cause, BreakerCause::Elapsed);
        }
        let probing = self
            .under_way
            .iter()
            .filter(|(permit, is_probe)| *is_probe && permit.epoch == self.breaker.epoch);
        let probing = probing.count() as u32;
        match asked {
            Ok(permit) => {
                assert_ne!(before, BreakerState::Open);
                let is_probe = before == BreakerState::HalfOpen;
                assert!(!is_probe || probing < self.policy.probes.max(1));
                self.under_way.push((permit, is_probe));
            }
            Err(Refusal::Open(remaining)) => {
                assert_eq!(before, BreakerState::Open);
                let longest = self.policy.longest_open.max(self.policy.open_for);
                assert!(!remaining.is_zero() && remaining <= longest);
            }
            Err(Refusal::Probing) => assert_eq!(probing, self.policy.probes.max(1)),
            Err(Refusal::Concurrency) => {
                assert_eq!(Some(self.under_way.len() as u32), self.policy.concurrency);
            }
        }
        assert_eq!(self.breaker.under_way() as usize, self.under_way.len());
    }

    /// Any one of those under way comes back.
    fn answer(&mut self, outcome: Outcome) {
        if self.under_way.is_empty() {
            return;
        }
        let (permit, _) = self
            .under_way
            .swap_remove(self.random.usize(..self.under_way.len()));
        if self.random.u32(..20) == 0 {
            return self.breaker.cancel(permit);
        }
        let before = self.breaker.state;
        let is_late = permit.epoch != self.breaker.epoch;
        let settled = self
            .breaker
            .settle(permit, outcome, &self.policy, || true, self.now);
        assert!(
            !is_late || settled.is_none(),
            "an outcome of before counted"
        );
        if !is_late && before == BreakerState::Closed && outcome == Outcome::Failed {
            self.row += 1;
            let is_open = self.row >= self.policy.consecutive_failures;
            assert!(!is_open || settled.is_some(), "it stays closed");
        }
        if let Some(transition) = settled {
            self.row = 0;
            let is_failure = transition.to == BreakerState::Open;
            self.opened += u32::from(is_failure);
            assert_eq!(is_failure, outcome == Outcome::Failed);
        }
    }

    fn step(&mut self, outcome: Outcome) {
        self.now += Duration::from_millis(self.random.u64(0..50));
        if self.random.bool() {
            self.ask();
        } else {
            self.answer(outcome);
        }
    }

    fn play(&mut self) {
        for _ in 0..300 {
            self.step(QUICK);
        }
        assert_eq!(self.opened, 0, "it opened though nothing failed");
        for _ in 0..300 {
            self.step(Outcome::Failed);
        }
        assert!(self.opened > 0, "it never opened though all failed");
        for _ in 0..self.under_way.len() {
            self.answer(QUICK);
        }
        while let Some((permit, _)) = self.under_way.pop() {
            self.breaker.cancel(permit);
        }
        self.now += self.policy.longest_open.max(self.policy.open_for);
        for _ in 0..self.policy.probes_to_close.max(1) {
            let (permit, _) = self.breaker.admit(&self.policy, self.now);
            let _ = self
                .breaker
                .settle(permit.unwrap(), QUICK, &self.policy, || true, self.now);
        }
        let state = self.breaker.state(&self.policy, self.now);
        assert_eq!(state, BreakerState::Closed, "it closes again, whatever was");
        assert_eq!(self.breaker.under_way(), 0);
    }
}

#[test]
fn properties_hold_for_ten_thousand_seeds() {
    for seed in 0..10_000 {
        let mut play = Play::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.play()));
        assert!(
            outcome.is_ok(),
            "seed {seed} fails, as said above: {:?}",
            play.policy
        );
    }
}
