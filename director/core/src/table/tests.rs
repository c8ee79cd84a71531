#![allow(
    clippy::unwrap_used,
    reason = "a None or Err here fails the test it is in"
)]

use proptest::prelude::*;

use super::*;
use crate::{EndpointState, fixture, weights};

/// Points of the table that may move between endpoints which the change does
/// not concern, and the points that a share may be off.
const EXCESS: f64 = 2.0;
const OFF: f64 = 1.0;

fn equal(names: usize) -> Vec<PlannedEndpoint> {
    (0..names)
        .map(|n| fixture::planned(&format!("endpoint-{n}"), 1 << 32))
        .collect()
}

/// The lab's endpoints as a plan would have them, all healthy.
fn lab() -> Vec<PlannedEndpoint> {
    let model = fixture::lab();
    let weights = weights::of_service(&model.services[0], &model.sites);
    let endpoints = model.services[0].endpoints.iter().zip(weights);
    endpoints
        .map(|(endpoint, weight)| PlannedEndpoint {
            name: endpoint.name.clone(),
            site: endpoint.site.clone(),
            address: endpoint.address,
            port: endpoint.port,
            state: EndpointState::Active,
            weight,
        })
        .collect()
}

fn default_table(endpoints: &[PlannedEndpoint]) -> Arc<[u16]> {
    build(endpoints, TableSize::DEFAULT)
}

/// Part of the weights that each endpoint has, in points.
fn points(endpoints: &[PlannedEndpoint]) -> Vec<f64> {
    let weight = |e: &PlannedEndpoint| {
        if e.is_eligible() {
            e.weight as f64
        } else {
            0.0
        }
    };
    let total: f64 = endpoints.iter().map(weight).sum();
    endpoints
        .iter()
        .map(|e| weight(e) / total * 100.0)
        .collect()
}

/// Points of the table that each endpoint has.
fn points_held(table: &[u16], endpoints: usize) -> Vec<f64> {
    let mut slots = vec![0u32; endpoints];
    for &owner in table {
        slots[usize::from(owner)] += 1;
    }
    let points = |n| f64::from(n) / table.len() as f64 * 100.0;
    slots.into_iter().map(points).collect()
}

/// Points of the table that differ.
fn moved(a: &[u16], b: &[u16]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differ = a.iter().zip(b).filter(|(x, y)| x != y).count();
    differ as f64 / a.len() as f64 * 100.0
}

/// Points that have to move, since shares shrink by as many.
fn must_move(a: &[PlannedEndpoint], b: &[PlannedEndpoint]) -> f64 {
    let shares = points(a).into_iter().zip(points(b));
    shares
        .map(|(before, after)| (before - after).max(0.0))
        .sum()
}

fn assert_balanced(endpoints: &[PlannedEndpoint]) {
    let table = default_table(endpoints);
    let held = points_held(&table, endpoints.len());
    for ((endpoint, wants), has) in endpoints.iter().zip(points(endpoints)).zip(held) {
        assert!(
            (wants - has).abs() <= OFF,
            "{} has {has} points instead of {wants}",
            endpoint.name
        );
        // What the algorithm promises beyond what is asked of it.
        let slot = 100.0 / f64::from(TableSize::DEFAULT.get());
        assert!(
            (wants - has).abs() <= slot,
            "{} is off by a slot",
            endpoint.name
        );
    }
}

fn assert_moves_little(before: &[PlannedEndpoint], after: &[PlannedEndpoint]) {
    let moved = moved(&default_table(before), &default_table(after));
    let must = must_move(before, after);
    assert!(
        moved <= must + EXCESS,
        "{moved} points moved where {must} must"
    );
}

#[test]
fn only_primes_are_table_sizes() {
    for prime in [2, 3, 101, 16_381, 65_537, 4_294_967_291] {
        assert_eq!(TableSize::new(prime).map(TableSize::get), Ok(prime));
    }
    for (given, nearest) in [(0, 2), (1, 2), (4, 5), (16_384, 16_411), (65_536, 65_537)] {
        assert_eq!(TableSize::new(given), Err(NotPrime { given, nearest }));
    }
    let largest = TableSize::new(u32::MAX).unwrap_err();
    assert_eq!(largest.nearest, 4_294_967_291);
    let message = TableSize::new(65_536).unwrap_err().to_string();
    assert!(message.contains("65537"), "says what mends it: {message}");
    assert!(TableSize::new(TableSize::default().get()).is_ok());
}

#[test]
fn hashes_are_those_published() {
    let fnv = |text: &str| {
        let mut hash = Fnv1a::default();
        hash.write_str(text).unwrap();
        hash.0
    };
    // RFC 9923 and the reference code by its authors.
    assert_eq!(fnv(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv("foobar"), 0x8594_4171_f739_67e8);
    // A bijection with this fixed point and these well-known images.
    assert_eq!(fmix64(0), 0);
    assert_eq!(fmix64(1), 0xb456_bcfc_34c2_cb2c);
}

#[test]
fn inverses_are_inverses() {
    for slots in [2, 3, 101, 16_381] {
        let inverses = inverses(fixture::table_size(slots));
        assert_eq!(inverses.len(), slots as usize);
        assert_eq!(inverses[0], 0);
        for (n, &inverse) in (0u64..).zip(&inverses).skip(1) {
            assert_eq!(
                n * u64::from(inverse) % u64::from(slots),
                1,
                "{n} modulo {slots}"
            );
        }
    }
}

#[test]
fn permutations_visit_every_slot_once() {
    let size = fixture::table_size(101);
    let inverses = inverses(size);
    for mut turns in turns(&equal(20), 101) {
        let mut slots: Vec<_> = (0..101).map(|_| turns.next_slot(&inverses)).collect();
        slots.sort_unstable();
        assert!(slots.into_iter().eq(0..101));
    }
}

#[test]
fn identities_are_name_address_and_port() {
    let mut endpoint = fixture::planned("a", 1);
    let first = identity(&endpoint);
    endpoint.site = "elsewhere".into();
    endpoint.weight = 7;
    assert_eq!(identity(&endpoint), first, "site and weight play no part");
    endpoint.port += 1;
    let other_port = identity(&endpoint);
    endpoint.address = "2001:db8::1".parse().unwrap();
    let other_address = identity(&endpoint);
    endpoint.name = "b".into();
    let mut all = vec![first, other_port, other_address, identity(&endpoint)];
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4);
}

/// A change of the algorithm moves flows when edges are upgraded, so it must
/// not happen unnoticed. The values come from another implementation, written
/// after the description at the head of `table.rs`.
#[test]
fn the_lab_has_the_table_it_always_had() {
    let table = default_table(&lab());
    assert_eq!(table[..16], PINNED_START);
    let mut digest = Fnv1a::default();
    for owner in table.iter() {
        digest.write_str(&owner.to_string()).unwrap();
    }
    assert_eq!(digest.0, PINNED_DIGEST, "digest of all slots");
}

const PINNED_START: [u16; 16] = [3, 0, 0, 2, 4, 1, 0, 4, 1, 3, 3, 0, 1, 2, 1, 3];
const PINNED_DIGEST: u64 = 0xf3bc_0148_5ef7_508b;

#[test]
fn nothing_eligible_is_no_table() {
    assert!(default_table(&[]).is_empty());
    let mut endpoints = equal(3);
    endpoints[0].state = EndpointState::Dead;
    endpoints[1].state = EndpointState::Draining;
    endpoints[2].weight = 0;
    assert!(default_table(&endpoints).is_empty());
}

#[test]
fn more_endpoints_than_an_index_can_name_are_no_table() {
    let mut endpoints = vec![fixture::planned("same", 0); 65_536];
    endpoints[0].weight = 1;
    assert!(build(&endpoints, fixture::table_size(7)).is_empty());
    endpoints.pop();
    assert_eq!(build(&endpoints, fixture::table_size(7))[..], [0; 7]);
}

#[test]
fn more_endpoints_than_slots_leave_the_lightest_without() {
    let mut endpoints = equal(10);
    endpoints[3].weight *= 20;
    let table = build(&endpoints, fixture::table_size(5));
    let held = points_held(&table, endpoints.len());
    // 3.4 slots, and 0.2 for each of the others: the first of them gets the last.
    assert_eq!(held[..5], [20.0, 0.0, 0.0, 80.0, 0.0]);
}

#[test]
fn the_smallest_table_works() {
    assert_eq!(build(&equal(1), fixture::table_size(2))[..], [0, 0]);
    let mut both = build(&equal(2), fixture::table_size(2)).to_vec();
    both.sort_unstable();
    assert_eq!(both, [0, 1]);
}

#[test]
fn many_light_endpoints_take_no_more_than_their_share() {
    // One slot each would be 12 points for what weighs one.
    let mut endpoints = equal(2001);
    endpoints[2000].weight *= 200_000;
    let table = default_table(&endpoints);
    let held = points_held(&table, endpoints.len());
    assert!((held[2000] - 99.0).abs() < 0.02, "{}", held[2000]);
}

#[test]
fn losing_a_site_of_the_lab_moves_little_between_the_others() {
    let before = lab();
    let old_table = default_table(&before);
    for site in ["dc01", "dc02", "dc03"] {
        let mut after = before.clone();
        let lost = |e: &PlannedEndpoint| &*e.site == site;
        for endpoint in after.iter_mut().filter(|e| lost(e)) {
            endpoint.state = EndpointState::Dead;
            endpoint.weight = 0;
        }
        assert_balanced(&after);
        let new_table = default_table(&after);
        let slots = old_table.iter().zip(new_table.iter());
        let between_survivors = slots
            .filter(|(old, new)| old != new && !lost(&before[usize::from(**old)]))
            .count();
        let points = between_survivors as f64 / old_table.len() as f64 * 100.0;
        assert!(points <= EXCESS, "losing {site} moved {points} points");
    }
}

#[test]
fn a_thousand_endpoints_in_a_large_table() {
    let mut endpoints = equal(1000);
    for (n, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.weight *= n as u64 % 7 + 1;
    }
    let table = build(&endpoints, fixture::table_size(65_537));
    let held = points_held(&table, endpoints.len());
    for (wants, has) in points(&endpoints).into_iter().zip(held) {
        assert!((wants - has).abs() <= 100.0 / 65_537.0);
    }
}

fn weighted() -> impl Strategy<Value = Vec<PlannedEndpoint>> {
    let weights = prop::collection::vec(prop_oneof![1 => Just(0u64), 9 => 1..=1000u64], 1..100);
    ("[a-z]{0,5}", weights).prop_map(|(prefix, mut weights)| {
        weights[0] = weights[0].max(1);
        let endpoints = weights.into_iter().enumerate();
        endpoints
            .map(|(n, w)| fixture::planned(&format!("{prefix}-{n}"), w << 32))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_endpoint_has_its_share(endpoints in weighted()) {
        assert_balanced(&endpoints);
    }

    #[test]
    fn one_of_equal_endpoints_lost_or_added_moves_its_part(
        n in 2..=100usize, pick in any::<prop::sample::Index>()
    ) {
        let with = equal(n);
        let mut without = with.clone();
        without[pick.index(n)].state = EndpointState::Dead;
        prop_assert!((must_move(&with, &without) - 100.0 / n as f64).abs() < 1e-6);
        assert_moves_little(&with, &without);
        assert_moves_little(&without, &with);
    }

    #[test]
    fn a_changed_weight_moves_about_what_it_must(
        before in weighted(), pick in any::<prop::sample::Index>(), weight in 0..=1000u64
    ) {
        let mut after = before.clone();
        after[pick.index(before.len())].weight = weight << 32;
        prop_assume!(after.iter().any(PlannedEndpoint::is_eligible));
        assert_moves_little(&before, &after);
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter(
        (sorted, shuffled) in weighted().prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle()))
    ) {
        let size = fixture::table_size(1009);
        let a = build(&sorted, size);
        let b = build(&shuffled, size);
        let names = |table: &[u16], of: &[PlannedEndpoint]| -> Vec<Arc<str>> {
            table.iter().map(|&owner| of[usize::from(owner)].name.clone()).collect()
        };
        prop_assert_eq!(names(&a, &sorted), names(&b, &shuffled));
    }

    #[test]
    fn the_scale_of_weights_does_not_matter(endpoints in weighted(), factor in 2..1000u64) {
        let size = fixture::table_size(1009);
        let mut scaled = endpoints.clone();
        scaled.iter_mut().for_each(|e| e.weight *= factor);
        prop_assert_eq!(build(&endpoints, size), build(&scaled, size));
    }
}
