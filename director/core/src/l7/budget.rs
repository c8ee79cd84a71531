//! How many requests may be sent again, so that retries cannot become a storm.
//!
//! Within the last ten seconds retries are at most `budget_percent` of the
//! requests, plus `budget_floor` for every second of it, as in Finagle's
//! `RetryBudget`. Over any run of `s` seconds (however it is cut out of time)
//! with `n` requests in it and in the ten seconds before, that makes at most
//! `n × percent / 100 + floor × (s + 10)` retries.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Now;

/// Seconds that a budget looks back.
pub const WINDOW: u64 = 10;

/// Retries allowed, in relation to requests. Shared by threads.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u32,
    floor: u32,
    seconds: [AtomicU64; WINDOW as usize],
}

/// What happened in one second, packed so that it changes as one: the second
/// modulo 2^20 (twelve days) in the high bits, then 20 bits of retries and 24 of
/// requests. Requests beyond stay uncounted, retries beyond are refused.
#[derive(Clone, Copy)]
struct Second(u64);

const RETRY: u64 = 1 << 24;
const MOST_REQUESTS: u64 = RETRY - 1;
const MOST_RETRIES: u64 = (1 << 20) - 1;

impl Second {
    fn new(number: u64) -> Self {
        Self((number % (1 << 20)) << 44)
    }

    fn is(self, number: u64) -> bool {
        self.0 >> 44 == number % (1 << 20)
    }

    fn requests(self) -> u64 {
        self.0 & MOST_REQUESTS
    }

    fn retries(self) -> u64 {
        (self.0 >> 24) & MOST_RETRIES
    }
}

impl RetryBudget {
    /// `percent` retries for a hundred requests, and `floor` a second however few
    /// there are.
    #[must_use]
    pub fn new(percent: u32, floor: u32) -> Self {
        Self {
            percent,
            floor,
            seconds: Default::default(),
        }
    }

    /// Counts a request: its first try, not the others.
    pub fn deposit(&self, now: Now) {
        self.update(now.as_secs(), |second| {
            (second.requests() < MOST_REQUESTS).then_some(second.0 + 1)
        });
    }

    /// Whether a request may be sent again, which is then counted.
    #[must_use = "a retry that is allowed is counted"]
    pub fn withdraw(&self, now: Now) -> bool {
        let number = now.as_secs();
        let add = |second: Second| (second.retries() < MOST_RETRIES).then_some(second.0 + RETRY);
        if !self.update(number, add) {
            return false;
        }
        // Counted first, so that of threads that ask at once the last to count
        // sees all others: they may be refused together, never allowed too much.
        let (mut requests, mut retries) = (0, 0);
        for number in number.saturating_sub(WINDOW - 1)..=number {
            let second = Second(self.slot(number).load(Ordering::SeqCst));
            if second.is(number) {
                requests += second.requests();
                retries += second.retries();
            }
        }
        let allowed = requests * u64::from(self.percent) + 100 * u64::from(self.floor) * WINDOW;
        let is_allowed = retries * 100 <= allowed;
        if !is_allowed {
            self.update(number, |second| {
                (second.retries() > 0).then(|| second.0 - RETRY)
            });
        }
        is_allowed
    }

    fn slot(&self, number: u64) -> &AtomicU64 {
        &self.seconds[(number % WINDOW) as usize]
    }

    /// Changes what is counted for a second, unless `to` wants no change or a
    /// later second has taken the place. Returns whether it did.
    fn update(&self, number: u64, to: impl Fn(Second) -> Option<u64>) -> bool {
        let set = |old| {
            let second = Second(old);
            to(if second.is(number) {
                second
            } else {
                Second::new(number)
            })
        };
        let updated = self
            .slot(number)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
        updated.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Now {
        Duration::from_secs(seconds)
    }

    fn withdrawn(budget: &RetryBudget, now: Now) -> u64 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u64
    }

    #[test]
    fn a_share_of_requests_may_be_sent_again_and_some_however_few_there_are() {
        let budget = RetryBudget::new(20, 3);
        assert_eq!(withdrawn(&budget, at(0)), 30);
        for _ in 0..100 {
            budget.deposit(at(1));
        }
        assert_eq!(withdrawn(&budget, at(1)), 20);
        assert_eq!(withdrawn(&budget, at(9)), 0);
        assert_eq!(
            withdrawn(&budget, at(10)),
            30,
            "those of second 0 are out of the window"
        );
        assert_eq!(withdrawn(&budget, at(11)), 0);
        assert_eq!(withdrawn(&budget, at(100)), 30);
        assert_eq!(withdrawn(&RetryBudget::new(0, 0), at(100)), 0);
    }

    #[test]
    fn counts_are_never_more_than_they_hold() {
        let budget = RetryBudget::new(u32::MAX, u32::MAX);
        assert_eq!(withdrawn(&budget, at(1)), MOST_RETRIES);
        budget
            .slot(2)
            .store(Second::new(2).0 + MOST_REQUESTS, Ordering::SeqCst);
        budget.deposit(at(2));
        assert_eq!(Second(budget.slot(2).load(Ordering::SeqCst)).retries(), 0);
    }

    #[test]
    fn retries_stay_within_the_budget_for_every_run_of_every_seed() {
        for seed in 0..10_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (percent, floor) = (random.u32(0..120), random.u32(0..5));
            let budget = RetryBudget::new(percent, floor);
            let mut now = at(random.u64(0..2000));
            // Second, requests, retries.
            let mut seconds: Vec<(u64, u64, u64)> = Vec::new();
            for _ in 0..random.usize(1..40) {
                now += Duration::from_millis(random.u64(0..3000));
                let requests = random.u64(0..40);
                (0..requests).for_each(|_| budget.deposit(now));
                let retries = (0..random.u32(0..40))
                    .filter(|_| budget.withdraw(now))
                    .count();
                seconds.push((now.as_secs(), requests, retries as u64));
            }
            for &(first, ..) in &seconds {
                for &(last, ..) in seconds.iter().filter(|(last, ..)| *last >= first) {
                    let sum = |from: u64, of: fn(&(u64, u64, u64)) -> u64| -> u64 {
                        let within = seconds.iter().filter(|(s, ..)| (from..=last).contains(s));
                        within.map(of).sum()
                    };
                    let requests = sum((first + 1).saturating_sub(WINDOW), |s| s.1);
                    let most = requests * u64::from(percent) / 100
                        + u64::from(floor) * (last - first + 1 + WINDOW);
                    let retries = sum(first, |s| s.2);
                    assert!(
                        retries <= most,
                        "seed {seed}: {retries} in {first}..={last}"
                    );
                }
            }
        }
    }

    #[test]
    fn threads_together_get_no_more_than_one() {
        let budget = RetryBudget::new(10, 1);
        (0..10_000).for_each(|_| budget.deposit(at(5)));
        let total: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1000).filter(|_| budget.withdraw(at(5))).count() as u64)
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("it ends"))
                .sum()
        });
        assert!(total <= 1010, "{total}");
        assert!(
            withdrawn(&budget, at(5)) + total == 1010,
            "and what was refused is not lost"
        );
    }
}
