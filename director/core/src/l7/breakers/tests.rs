#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::{EndpointState, breaker::BreakerCause, fixture};

const SECOND: Duration = Duration::from_secs(1);
const QUICK: Outcome = Outcome::Answered(Duration::from_millis(1));

/// Endpoints by site.
fn planned(sites: &[usize]) -> Vec<PlannedEndpoint> {
    let mut endpoints = Vec::new();
    for (site, &count) in sites.iter().enumerate() {
        for endpoint in 0..count {
            endpoints.push(PlannedEndpoint {
                site: format!("dc{site}").into(),
                ..fixture::planned(&format!("dc{site}-{endpoint}"), 1)
            });
        }
    }
    endpoints
}

/// Endpoints open at once, sites never.
fn policy() -> RouteBreaker {
    RouteBreaker {
        site: BreakerPolicy {
            consecutive_failures: 0,
            failure_percent: 101,
            ..BreakerPolicy::default()
        },
        endpoint: BreakerPolicy {
            consecutive_failures: 1,
            ..BreakerPolicy::default()
        },
        max_ejection_percent: 100,
        pending: 0,
    }
}

fn send(breakers: &Breakers, endpoint: usize, outcome: Outcome, now: Now) -> Vec<Change> {
    let (permits, asked) = breakers.admit(endpoint, now);
    let settled = breakers.settle(permits.unwrap(), outcome, now);
    asked.into_iter().chain(settled).flatten().collect()
}

#[test]
fn an_endpoint_that_fails_is_left_out_until_a_probe_may_be_sent() {
    let breakers = Breakers::new(&policy(), &planned(&[2]), Now::ZERO);
    let changes = send(&breakers, 0, Outcome::Failed, Now::ZERO);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].breaker, BreakerId::Endpoint("dc0-0".into()));
    assert_eq!(changes[0].transition.to, BreakerState::Open);
    assert!(!breakers.is_usable(0, SECOND / 2));
    assert!(breakers.is_usable(1, SECOND / 2));
    assert!(!breakers.is_usable(2, SECOND / 2), "there is none");
    let (refused, _) = breakers.admit(0, SECOND / 2);
    let refused = refused.unwrap_err();
    assert_eq!(refused.breaker, BreakerId::Endpoint("dc0-0".into()));
    assert_eq!(refused.refusal, Refusal::Open(SECOND / 2));

    assert!(breakers.is_usable(0, SECOND), "it may be probed");
    let (probe, changes) = breakers.admit(0, SECOND);
    assert_eq!(
        changes[1].as_ref().unwrap().transition.cause,
        BreakerCause::Elapsed
    );
    assert!(!breakers.is_usable(0, SECOND), "by one at a time");
    breakers.cancel(probe.unwrap());
    assert!(breakers.is_usable(0, SECOND));
    send(&breakers, 0, QUICK, SECOND);
    let changes = send(&breakers, 0, QUICK, SECOND);
    assert_eq!(changes[0].transition.to, BreakerState::Closed);
    let sums: u32 = breakers.status(SECOND).map(|status| status.under_way).sum();
    assert_eq!(sums, 0);
}

#[test]
fn a_site_opens_for_all_of_its_endpoints() {
    let mut policy = policy();
    std::mem::swap(&mut policy.site, &mut policy.endpoint);
    let breakers = Breakers::new(&policy, &planned(&[2, 1]), Now::ZERO);
    let changes = send(&breakers, 1, Outcome::Failed, Now::ZERO);
    assert_eq!(changes[0].breaker, BreakerId::Site("dc0".into()));
    let usable: Vec<_> = (0..3)
        .filter(|&e| breakers.is_usable(e, Now::ZERO))
        .collect();
    assert_eq!(usable, [2]);
}

#[test]
fn sites_and_endpoints_together_never_take_all() {
    let mut policy = policy();
    policy.site.failure_percent = 50;
    policy.site.minimum_volume = 2;
    let breakers = Breakers::new(&policy, &planned(&[1, 2]), Now::ZERO);
    send(&breakers, 0, Outcome::Failed, Now::ZERO);
    send(&breakers, 1, Outcome::Failed, Now::ZERO);
    // The site's breaker has cause to open, but would take the last endpoint.
    assert_eq!(send(&breakers, 2, Outcome::Failed, Now::ZERO), []);
    assert!(breakers.is_usable(2, Now::ZERO));
}

#[test]
fn full_breakers_are_not_usable() {
    let mut policy = policy();
    policy.endpoint.concurrency = Some(2);
    let breakers = Breakers::new(&policy, &planned(&[2]), Now::ZERO);
    let first = breakers.admit(0, Now::ZERO).0.unwrap();
    let second = breakers.admit(0, Now::ZERO).0.unwrap();
    assert!(!breakers.is_usable(0, Now::ZERO));
    let refused = breakers.admit(0, Now::ZERO).0.unwrap_err();
    assert_eq!(refused.refusal, Refusal::Concurrency);
    drop(first);
    assert!(breakers.is_usable(0, Now::ZERO));
    breakers.settle(second, QUICK, Now::ZERO);
    assert!(
        breakers
            .status(Now::ZERO)
            .all(|status| status.under_way == 0)
    );
}

#[test]
fn state_goes_on_from_plan_to_plan_unless_the_last_would_be_out() {
    let mut endpoints = planned(&[3]);
    let old = Breakers::new(&policy(), &endpoints, Now::ZERO);
    let under_way = old.admit(2, Now::ZERO).0.unwrap();
    send(&old, 0, Outcome::Failed, Now::ZERO);
    endpoints.remove(1);
    let (next, changes) = old.carry(&policy(), &endpoints, Now::ZERO);
    assert_eq!(changes, []);
    assert!(!next.is_usable(0, Now::ZERO), "still open");
    assert_eq!(
        old.settle(under_way, Outcome::Failed, Now::ZERO),
        [None, None]
    );
    assert!(next.is_usable(1, Now::ZERO), "the last of the new plan");

    endpoints[1].state = EndpointState::Dead;
    let (last, changes) = next.carry(&policy(), &endpoints, Now::ZERO);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].transition.cause, BreakerCause::Clamped);
    assert!(last.is_usable(0, Now::ZERO));
    endpoints[0].port += 1;
    let (moved, _) = old.carry(&policy(), &endpoints, Now::ZERO);
    assert!(moved.is_usable(0, Now::ZERO), "another server");
}

/// A pool under requests from a seed: outages come and go, and so do plans.
struct Play {
    random: fastrand::Rng,
    policy: RouteBreaker,
    endpoints: Vec<PlannedEndpoint>,
    breakers: Breakers,
    now: Now,
    under_way: Vec<(usize, Permits)>,
    opened: u32,
}

fn random_policy(random: &mut fastrand::Rng) -> BreakerPolicy {
    let open_for = Duration::from_millis(random.u64(1..2000));
    BreakerPolicy {
        consecutive_failures: random.u32(0..8),
        window: Duration::from_millis(random.u64(1..20_000)),
        minimum_volume: random.u32(0..20),
        failure_percent: random.u32(1..102),
        slow: random.bool().then_some(SECOND),
        open_for,
        longest_open: open_for * random.u32(0..20),
        forget_after: Duration::from_millis(random.u64(0..10_000)),
        probes: random.u32(0..4),
        probes_to_close: random.u32(0..4),
        concurrency: random.bool().then(|| random.u32(1..20)),
    }
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = RouteBreaker {
            site: random_policy(&mut random),
            endpoint: random_policy(&mut random),
            max_ejection_percent: random.u32(0..=100),
            pending: 0,
        };
        let sites: Vec<_> = (0..random.usize(1..4))
            .map(|_| random.usize(1..4))
            .collect();
        let endpoints = planned(&sites);
        Self {
            breakers: Breakers::new(&policy, &endpoints, Now::ZERO),
            random,
            policy,
            endpoints,
            now: Now::ZERO,
            under_way: Vec::new(),
            opened: 0,
        }
    }

    fn eligible(&self) -> Vec<usize> {
        let is_eligible = |&e: &usize| self.endpoints[e].is_eligible();
        (0..self.endpoints.len()).filter(is_eligible).collect()
    }

    fn step(&mut self, fails: &[bool]) {
        self.now += Duration::from_millis(self.random.u64(0..50));
        if self.random.bool() {
            let eligible = self.eligible();
            let Some(&endpoint) = self.random.choice(&eligible) else {
                return;
            };
            let is_usable = self.breakers.is_usable(endpoint, self.now);
            let (permits, _) = self.breakers.admit(endpoint, self.now);
            // But for the concurrency of one that is about to become half open.
            let is_full = matches!(&permits, Err(r) if r.refusal == Refusal::Concurrency);
            assert!(
                is_usable == permits.is_ok() || is_full,
                "what is shown is true"
            );
            if let Ok(permits) = permits {
                self.under_way.push((endpoint, permits));
            }
        } else if !self.under_way.is_empty() {
            let which = self.random.usize(..self.under_way.len());
            let (endpoint, permits) = self.under_way.swap_remove(which);
            if self.random.u32(..20) == 0 {
                return self.breakers.cancel(permits);
            }
            let is_failure = fails.get(endpoint).copied().unwrap_or_default();
            let outcome = if is_failure { Outcome::Failed } else { QUICK };
            let changes = self.breakers.settle(permits, outcome, self.now);
            for change in changes.into_iter().flatten() {
                let is_open = change.transition.to == BreakerState::Open;
                assert_eq!(is_open, is_failure);
                self.opened += u32::from(is_open);
            }
        }
    }

    /// Some endpoints die or come back, and perhaps one is new to the pool.
    fn replan(&mut self) {
        for endpoint in &mut self.endpoints {
            let is_active = self.random.u32(..4) > 0;
            endpoint.state = if is_active {
                EndpointState::Active
            } else {
                EndpointState::Dead
            };
        }
        if self.random.bool() {
            self.policy.max_ejection_percent = self.random.u32(0..=100);
            self.endpoints.push(PlannedEndpoint {
                site: "dc0".into(),
                ..fixture::planned(&format!("new-{}", self.endpoints.len()), 1)
            });
        }
        let (next, changes) = self.breakers.carry(&self.policy, &self.endpoints, self.now);
        let is_clamp = |change: &Change| change.transition.cause == BreakerCause::Clamped;
        assert!(changes.iter().all(is_clamp));
        self.breakers = next;
    }

    fn check(&self) {
        let Breakers {
            endpoints,
            sites,
            index,
            ..
        } = &self.breakers;
        for guarded in endpoints.iter().chain(sites) {
            assert_eq!(guarded.is_out(), !guarded.lock().breaker.is_closed());
        }
        let eligible = self.eligible();
        let is_in = |&e: &usize| !endpoints[e].is_out() && !sites[index.of[e]].is_out();
        assert!(
            eligible.is_empty() || eligible.iter().any(is_in),
            "all are out"
        );
        let out = eligible.iter().filter(|&&e| endpoints[e].is_out()).count();
        let percent = self.policy.max_ejection_percent;
        assert!(
            out == 0 || may_eject(out - 1, eligible.len(), percent),
            "too many are out"
        );
        let mut of_eligible: Vec<usize> = eligible.iter().map(|&e| index.of[e]).collect();
        of_eligible.sort_unstable();
        of_eligible.dedup();
        let out = of_eligible.iter().filter(|&&s| sites[s].is_out()).count();
        assert!(
            out == 0 || may_eject(out - 1, of_eligible.len(), percent),
            "too many sites are out"
        );
        // Requests to endpoints of before are theirs alone.
        let under_way = |guarded: &Arc<Guarded>| guarded.lock().breaker.under_way() as usize;
        let sum: usize = endpoints.iter().map(under_way).sum();
        assert_eq!(sum, self.under_way.len());
        let sum: usize = sites.iter().map(under_way).sum();
        assert_eq!(sum, self.under_way.len());
    }

    fn play(&mut self) {
        for _ in 0..5 {
            let fails: Vec<bool> = match self.random.u32(..3) {
                0 => vec![true; self.endpoints.len()],
                1 => Vec::new(),
                _ => self.endpoints.iter().map(|_| self.random.bool()).collect(),
            };
            for _ in 0..60 {
                self.step(&fails);
                self.check();
            }
            self.replan();
            self.check();
        }
        while let Some((_, permits)) = self.under_way.pop() {
            self.breakers.cancel(permits);
        }
        self.heal();
        self.check();
    }

    /// The outage is over: the longest open time and as many probes later all are
    /// closed.
    fn heal(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.state = EndpointState::Active;
        }
        (self.breakers, _) = self.breakers.carry(&self.policy, &self.endpoints, self.now);
        let RouteBreaker { site, endpoint, .. } = self.policy;
        let longest = |policy: BreakerPolicy| policy.longest_open.max(policy.open_for);
        self.now += longest(site).max(longest(endpoint));
        for _ in 0..endpoint.probes_to_close.max(1) + site.probes_to_close {
            for endpoint in 0..self.endpoints.len() {
                assert!(self.breakers.is_usable(endpoint, self.now));
                send(&self.breakers, endpoint, QUICK, self.now);
            }
        }
        for status in self.breakers.status(self.now) {
            assert_eq!(status.state, BreakerState::Closed, "{:?}", status.breaker);
        }
    }
}

#[test]
fn properties_hold_for_ten_thousand_seeds() {
    let mut opened = 0;
    for seed in 0..10_000 {
        let mut play = Play::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.play()));
        assert!(
            outcome.is_ok(),
            "seed {seed} fails, as said above: {:?}",
            play.policy
        );
        opened += play.opened;
    }
    assert!(opened > 10_000, "breakers hardly opened: {opened}");
}

#[test]
fn threads_that_fail_at_once_leave_one() {
    let mut policy = policy();
    policy.endpoint.open_for = Duration::from_micros(1);
    policy.endpoint.longest_open = Duration::from_micros(1);
    let breakers = Breakers::new(&policy, &planned(&[2, 2]), Now::ZERO);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let breakers = &breakers;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for step in 0..20_000 {
                    let now = Duration::from_micros(step);
                    let (permits, _) = breakers.admit(random.usize(..4), now);
                    let Ok(permits) = permits else { continue };
                    let outcome = if random.bool() {
                        QUICK
                    } else {
                        Outcome::Failed
                    };
                    breakers.settle(permits, outcome, now);
                }
            });
        }
    });
    let is_in = |guarded: &Arc<Guarded>| guarded.lock().breaker.is_closed();
    assert!(breakers.endpoints.iter().any(is_in), "all are out");
    assert!(breakers.status(SECOND).all(|status| status.under_way == 0));
}
