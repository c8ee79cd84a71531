//! How many requests a client may send: token buckets by key, in bounded memory.
//!
//! A bucket is one number, the time at which it will be full again (the
//! theoretical arrival time of GCRA, ITU-T I.371). Buckets stand in a table of
//! fixed size. A full one is as good as none, so it is replaced first; then the
//! one that will be full soonest. Whoever loses a bucket so begins with a full
//! one: none is refused for want of room, and many keys at once loosen the limit
//! of a few at most.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::model::Rate;
use crate::Now;

/// Buckets among which a new one finds its place.
const WAYS: usize = 8;

/// Locks of a table, at most.
const SHARDS: usize = 64;

/// Token buckets. Shared by threads.
#[derive(Debug)]
pub struct RateLimiter<K, S = RandomState> {
    hasher: S,
    /// Each holds a number of sets of [`WAYS`] buckets.
    shards: Box<[Mutex<Shard<K>>]>,
    sets_per_shard: usize,
}

type Shard<K> = Box<[Option<Bucket<K>>]>;

#[derive(Debug)]
struct Bucket<K> {
    key: K,
    /// When it is full again, in nanoseconds.
    full_at: u64,
}

impl<K: Hash + Eq> RateLimiter<K> {
    /// Room for so many keys, and for less than 512 more to make it even. Clients
    /// cannot foresee the places of theirs.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        Self::with_hasher(keys, RandomState::new())
    }
}

impl<K: Hash + Eq, S: BuildHasher> RateLimiter<K, S> {
    /// The same with a hasher of one's own.
    #[must_use]
    pub fn with_hasher(keys: usize, hasher: S) -> Self {
        let sets = keys.div_ceil(WAYS).max(1);
        let shards = SHARDS.min(sets);
        let sets_per_shard = sets.div_ceil(shards);
        let shard = |_| Mutex::new((0..sets_per_shard * WAYS).map(|_| None).collect());
        Self {
            hasher,
            shards: (0..shards).map(shard).collect(),
            sets_per_shard,
        }
    }

    /// Takes a token out of a key's bucket. A rate of 0 counts as 1 a second, a
    /// burst of 0 as 1.
    ///
    /// # Errors
    /// How long it takes until there is a token, when there is none now.
    pub fn check(&self, key: K, now: Now, rate: Rate) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let hash = self.hasher.hash_one(&key);
        let shard = hash as usize % self.shards.len();
        let set = (hash >> 32) as usize % self.sets_per_shard;
        let mut shard = self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ways = &mut shard[set * WAYS..(set + 1) * WAYS];
        let is_own = |way: &Option<Bucket<K>>| way.as_ref().is_some_and(|b| b.key == key);
        if let Some(Some(bucket)) = ways.iter_mut().find(|way| is_own(way)) {
            return bucket.take(now, rate);
        }
        let mut bucket = Bucket { key, full_at: now };
        let taken = bucket.take(now, rate);
        let full_at = |way: &&mut Option<Bucket<K>>| way.as_ref().map_or(0, |b| b.full_at);
        if let Some(way) = ways.iter_mut().min_by_key(full_at) {
            *way = Some(bucket);
        }
        taken
    }
}

impl<K> Bucket<K> {
    fn take(&mut self, now: u64, rate: Rate) -> Result<(), Duration> {
        // Rounded up, so that no more than the rate passes.
        let interval = 1_000_000_000u64.div_ceil(u64::from(rate.per_second.max(1)));
        let room = interval.saturating_mul(u64::from(rate.burst.max(1)) - 1);
        let missing = self.full_at.saturating_sub(now);
        if missing > room {
            return Err(Duration::from_nanos(missing - room));
        }
        self.full_at = self.full_at.max(now).saturating_add(interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    type Limiter = RateLimiter<u64, BuildHasherDefault<DefaultHasher>>;

    fn limiter(keys: usize) -> Limiter {
        RateLimiter::with_hasher(keys, BuildHasherDefault::default())
    }

    fn at(millis: u64) -> Now {
        Duration::from_millis(millis)
    }

    const RATE: Rate = Rate {
        per_second: 10,
        burst: 3,
    };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = limiter(100);
        for _ in 0..3 {
            assert_eq!(limiter.check(1, at(0), RATE), Ok(()));
        }
        assert_eq!(limiter.check(1, at(0), RATE), Err(at(100)));
        assert_eq!(limiter.check(1, at(40), RATE), Err(at(60)));
        assert_eq!(
            limiter.check(2, at(40), RATE),
            Ok(()),
            "another has its own"
        );
        assert_eq!(limiter.check(1, at(100), RATE), Ok(()));
        assert_eq!(limiter.check(1, at(100), RATE), Err(at(100)));
        for _ in 0..3 {
            assert_eq!(limiter.check(1, at(10_000), RATE), Ok(()));
        }
        assert!(
            limiter.check(1, at(10_000), RATE).is_err(),
            "no more is kept than a burst"
        );
    }

    #[test]
    fn any_rate_is_possible() {
        let limiter = limiter(100);
        let none = Rate {
            per_second: 0,
            burst: 0,
        };
        assert_eq!(limiter.check(1, at(0), none), Ok(()));
        assert_eq!(limiter.check(1, at(0), none), Err(at(1000)));
        let most = Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        };
        for _ in 0..1000 {
            assert_eq!(limiter.check(2, Duration::MAX, most), Ok(()));
        }
    }

    #[test]
    fn a_full_table_refuses_none_and_keeps_who_asks_most() {
        let limiter = limiter(64);
        let mut random = fastrand::Rng::with_seed(3);
        let mut refused = 0;
        for step in 0..100_000 {
            let now = Duration::from_micros(step * 10);
            assert_eq!(
                limiter.check(step + 10, now, RATE),
                Ok(()),
                "a new one passes"
            );
            let greedy = (0..random.u32(0..4)).map(|_| limiter.check(1, now, RATE));
            refused += greedy.filter(Result::is_err).count();
        }
        assert!(
            refused > 100_000,
            "the bucket that is emptiest stays: {refused}"
        );
        let held: usize = limiter
            .shards
            .iter()
            .map(|s| s.lock().expect("whole").len())
            .sum();
        assert_eq!(held, 64);
    }

    #[test]
    fn no_run_of_any_seed_gets_more_than_its_burst_and_rate() {
        for seed in 0..10_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let limiter = limiter(8);
            let rate = Rate {
                per_second: random.u32(1..2000),
                burst: random.u32(1..20),
            };
            let mut now = Now::ZERO;
            let mut passed = Vec::new();
            for _ in 0..200 {
                now += Duration::from_micros(random.u64(0..3000));
                match limiter.check(7, now, rate) {
                    Ok(()) => passed.push(now),
                    Err(after) => {
                        now += after;
                        assert_eq!(limiter.check(7, now, rate), Ok(()), "seed {seed}: as told");
                        passed.push(now);
                    }
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (more, last) in passed[index..].iter().enumerate() {
                    let seconds = (*last - *first).as_secs_f64();
                    let most = f64::from(rate.burst) + seconds * f64::from(rate.per_second);
                    assert!((more + 1) as f64 <= most + 1e-6, "seed {seed}: {rate:?}");
                }
            }
        }
    }
}
