#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::{EndpointState, TableSize, fixture, table, weights};

const MILLI: Duration = Duration::from_millis(1);

/// The plan of a model's service with all endpoints active.
fn plan(sites: &[(u32, &[u32])]) -> ServicePlan {
    let model = fixture::model(sites);
    let service = &model.services[0];
    let endpoints: Vec<_> = service
        .endpoints
        .iter()
        .zip(weights::of_service(service, &model.sites))
        .map(|(endpoint, weight)| PlannedEndpoint {
            name: endpoint.name.clone(),
            site: endpoint.site.clone(),
            address: endpoint.address,
            port: endpoint.port,
            state: EndpointState::Active,
            weight,
        })
        .collect();
    ServicePlan {
        service: "web".into(),
        version: 1,
        table: table::build(&endpoints, TableSize::new(1021).unwrap()),
        endpoints,
    }
}

/// A pool under a million requests, a few at a time.
struct Play {
    pool: Pool,
    random: fastrand::Rng,
    now: Now,
    counts: Vec<u32>,
}

impl Play {
    fn new(pool: Pool) -> Self {
        let counts = vec![0; pool.endpoints().len()];
        let random = fastrand::Rng::with_seed(7);
        Self {
            pool,
            random,
            now: Now::ZERO,
            counts,
        }
    }

    /// Sends requests; `answer` says how long they take and whether they fail.
    fn run(
        &mut self,
        requests: u32,
        usable: impl Fn(usize) -> bool,
        answer: impl Fn(usize, &mut fastrand::Rng) -> (Duration, bool),
    ) {
        let mut under_way = std::collections::VecDeque::new();
        for _ in 0..requests {
            self.now += MILLI;
            let picked = self
                .pool
                .pick(&usable, self.random.u64(..), self.now)
                .unwrap();
            self.counts[picked] += 1;
            let (took, is_failed) = answer(picked, &mut self.random);
            let request = self.pool.load(picked).begin();
            under_way.push_back((self.now + took, took, is_failed, request));
            while let Some(due) = under_way.iter().position(|(at, ..)| *at <= self.now) {
                let (_, took, is_failed, request) = under_way.remove(due).unwrap();
                if is_failed {
                    request.failed(took, self.pool.latency(), self.now);
                } else {
                    request.answered(took, self.pool.latency(), self.now);
                }
            }
        }
        drop(under_way);
        assert_eq!(self.pool.in_flight(), 0);
    }

    fn shares(&self) -> Vec<f64> {
        let all = f64::from(self.counts.iter().sum::<u32>());
        self.counts
            .iter()
            .map(|&count| f64::from(count) / all)
            .collect()
    }
}

fn assert_shares(play: &Play, expected: &[f64]) {
    for (index, (share, expected)) in play.shares().iter().zip(expected).enumerate() {
        assert!(
            (share - expected).abs() < 0.01,
            "endpoint {index}: {share} instead of {expected}"
        );
    }
}

/// Ten milliseconds, give or take.
fn even(_: usize, random: &mut fastrand::Rng) -> (Duration, bool) {
    (Duration::from_micros(random.u64(8_000..12_000)), false)
}

#[test]
fn shares_are_those_of_the_weights() {
    let mut play = Play::new(Pool::new(&plan(&[
        (50, &[1, 1]),
        (30, &[3, 1]),
        (20, &[1]),
    ])));
    play.run(1_000_000, |_| true, even);
    assert_shares(&play, &[0.25, 0.25, 0.225, 0.075, 0.2]);
}

#[test]
fn a_site_without_usable_endpoints_leaves_its_share_to_the_others() {
    let mut play = Play::new(Pool::new(&plan(&[
        (50, &[1, 1]),
        (30, &[1, 1]),
        (20, &[1, 1]),
    ])));
    play.run(300_000, |endpoint| ![0, 1, 4].contains(&endpoint), even);
    assert_shares(&play, &[0.0, 0.0, 0.3, 0.3, 0.0, 0.4]);
}

#[test]
fn a_slow_endpoint_gets_less_within_its_site_only() {
    let mut play = Play::new(Pool::new(&plan(&[(50, &[1, 1]), (50, &[1, 1, 1])])));
    play.run(
        200_000,
        |_| true,
        |endpoint, random| {
            if endpoint == 0 {
                (100 * MILLI, false)
            } else {
                even(endpoint, random)
            }
        },
    );
    let shares = play.shares();
    assert!(shares[0] < 0.05, "{shares:?}");
    assert!(shares[0] > 0.0, "it is tried again: {shares:?}");
    assert!((shares[0] + shares[1] - 0.5).abs() < 0.01, "{shares:?}");
}

#[test]
fn a_fast_failure_is_not_rewarded() {
    let mut play = Play::new(Pool::new(&plan(&[(1, &[1, 1, 1])])));
    play.run(
        200_000,
        |_| true,
        |endpoint, random| {
            if endpoint == 2 {
                (MILLI / 10, true)
            } else {
                even(endpoint, random)
            }
        },
    );
    assert!(play.shares()[2] < 0.01, "{:?}", play.shares());
}

#[test]
fn only_eligible_endpoints_are_picked() {
    let mut plan = plan(&[(50, &[1, 1]), (50, &[1])]);
    plan.endpoints[0].state = EndpointState::Draining;
    plan.endpoints[2].state = EndpointState::Dead;
    let pool = Pool::new(&plan);
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..1000 {
        assert_eq!(pool.pick(|_| true, random.u64(..), Now::ZERO), Some(1));
    }
    assert_eq!(pool.pick(|endpoint| endpoint != 1, 3, Now::ZERO), None);
    assert_eq!(
        Pool::new(&plan.without_endpoints()).pick(|_| true, 3, Now::ZERO),
        None
    );
    assert_eq!(
        Pool::new(&plan.without_endpoints()).by_hash(3, |_| true, Now::ZERO),
        None
    );
}

#[test]
fn what_is_tried_is_not_picked_again_and_all_are_tried() {
    for seed in 0..10_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let of: Vec<Vec<u32>> = (0..random.usize(1..4))
            .map(|_| {
                (0..random.usize(1..6))
                    .map(|_| random.u32(1..1000))
                    .collect()
            })
            .collect();
        let sites: Vec<_> = of
            .iter()
            .map(|own| (random.u32(1..1000), &own[..]))
            .collect();
        let mut plan = plan(&sites);
        for endpoint in &mut plan.endpoints {
            if random.u32(..4) == 0 {
                endpoint.state = EndpointState::Dead;
                endpoint.weight = 0;
            }
        }
        plan.table = table::build(&plan.endpoints, TableSize::new(1021).unwrap());
        let pool = Pool::new(&plan);
        let mut tried: Vec<usize> = Vec::new();
        loop {
            let usable = |endpoint| !tried.contains(&endpoint);
            let number = random.u64(..);
            let picked = if random.bool() {
                pool.pick(usable, number, Now::ZERO)
            } else {
                pool.by_hash(number, usable, Now::ZERO)
            };
            let Some(picked) = picked else { break };
            assert!(!tried.contains(&picked), "seed {seed}: {picked} again");
            assert!(plan.endpoints[picked].is_eligible(), "seed {seed}");
            tried.push(picked);
        }
        let eligible = plan.endpoints.iter().filter(|e| e.is_eligible()).count();
        assert_eq!(tried.len(), eligible, "seed {seed}");
    }
}

#[test]
fn a_hash_stays_while_its_endpoint_is_usable() {
    let pool = Pool::new(&plan(&[(50, &[1, 1]), (50, &[1, 1])]));
    let (mut moved, mut lost) = (0, [0; 4]);
    for hash in 0..20_000u64 {
        let hash = Random(hash).next();
        let home = pool.by_hash(hash, |_| true, Now::ZERO).unwrap();
        let away = pool
            .by_hash(hash, |endpoint| endpoint != 2, Now::ZERO)
            .unwrap();
        if home == 2 {
            lost[away] += 1;
        } else {
            moved += u32::from(home != away);
        }
    }
    assert_eq!(moved, 0, "only those of the lost endpoint move");
    assert_eq!(lost[2], 0);
    for index in [0, 1, 3] {
        assert!(lost[index] > 1200, "and they are spread: {lost:?}");
    }
}

#[test]
fn load_goes_on_from_plan_to_plan() {
    let mut plan = plan(&[(50, &[1, 1, 1])]);
    let pool = Pool::new(&plan);
    let requests: Vec<_> = (0..3).map(|endpoint| pool.load(endpoint).begin()).collect();
    plan.endpoints.remove(0);
    plan.endpoints[1].port += 1;
    let next = pool.carry(&plan);
    assert_eq!(next.load(0).in_flight(), 1);
    assert_eq!(
        next.load(1).in_flight(),
        0,
        "another port is another server"
    );
    drop(requests);
    assert_eq!(next.load(0).in_flight(), 0);
    assert_eq!(next.by_name("dc01-b"), Some(0));
    assert_eq!(next.by_name("dc01-a"), None);
}
