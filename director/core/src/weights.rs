//! How much of a service's new flows each endpoint is to take.
//!
//! A site's share is in proportion to its weight, and is split among its
//! endpoints in proportion to theirs:
//!
//! ```text
//! effective = site.weight × 2^32 × endpoint.weight / Σ endpoint.weight
//! ```
//!
//! rounded down, where the sum is over *all* endpoints of that site which the
//! service is configured with. It does not shrink when one of them is lost, so
//! a site that lost one of two equal endpoints takes half of its share instead
//! of sending all of it to the survivor.
//!
//! The quotient is at most 1, so an effective weight stays below
//! `site.weight × 2^32` and fits 64 bits. With weights up to 1,000 and 1,000
//! endpoints a site it is at least `2^32 / 10^6`, or 4,294: rounding costs
//! less than a part in 4,000 of the smallest share. The weight of one endpoint
//! does not depend on any other site, so a change touches what it names alone.

use std::collections::BTreeMap;

use crate::model::{Service, Site};

/// Bits that a weight is scaled up by, to be divided without much loss.
const SCALE_BITS: u32 = 32;

/// The effective weight of an endpoint while it is healthy.
///
/// `site_total` is the sum of the weights of all endpoints of its site in its
/// service. 0 when any of the weights is.
#[must_use]
pub fn effective(site_weight: u32, endpoint_weight: u32, site_total: u64) -> u64 {
    let scaled = (u128::from(site_weight) * u128::from(endpoint_weight)) << SCALE_BITS;
    let quotient = scaled.checked_div(u128::from(site_total)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

/// Effective weights of a service's endpoints were all of them healthy, in the
/// order of `service.endpoints`. Sites that are not in `sites` weigh nothing.
#[must_use]
pub fn of_service<'a>(service: &Service, sites: impl IntoIterator<Item = &'a Site>) -> Vec<u64> {
    let site_weights: BTreeMap<&str, u32> = sites
        .into_iter()
        .map(|site| (&*site.name, site.weight))
        .collect();
    let mut site_totals: BTreeMap<&str, u64> = BTreeMap::new();
    for endpoint in &service.endpoints {
        *site_totals.entry(&*endpoint.site).or_default() += u64::from(endpoint.weight);
    }
    service
        .endpoints
        .iter()
        .map(|endpoint| {
            let site_weight = site_weights.get(&*endpoint.site).copied().unwrap_or(0);
            let site_total = site_totals.get(&*endpoint.site).copied().unwrap_or(0);
            effective(site_weight, endpoint.weight, site_total)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    /// Sites by weight, each with the weights of its endpoints.
    fn weights(sites: &[(u32, &[u32])]) -> Vec<u64> {
        let model = fixture::model(sites);
        of_service(&model.services[0], &model.sites)
    }

    fn sum(weights: &[u64]) -> u128 {
        weights.iter().copied().map(u128::from).sum()
    }

    #[test]
    fn sites_share_by_their_weights_however_many_endpoints_they_have() {
        let w = weights(&[(50, &[1, 1]), (30, &[1, 2, 3]), (20, &[7])]);
        let total = sum(&w) as f64;
        for (of_site, percent) in [(&w[..2], 50.0), (&w[2..5], 30.0), (&w[5..], 20.0)] {
            let share = sum(of_site) as f64 / total * 100.0;
            assert!(
                (share - percent).abs() < 1e-6,
                "{share} instead of {percent}"
            );
        }
        assert_eq!(w[0], w[1]);
        assert_eq!(w[2] * 3, w[4]);
    }

    #[test]
    fn zero_anywhere_is_zero() {
        assert_eq!(weights(&[(0, &[1, 1]), (1, &[0, 5])])[..3], [0, 0, 0]);
        assert_eq!(weights(&[(9, &[0, 0])]), [0, 0]);
        assert_eq!(effective(5, 0, 0), 0);
    }

    #[test]
    fn the_largest_configuration_neither_overflows_nor_vanishes() {
        let mut endpoints = vec![1000; 1000];
        endpoints[0] = 1;
        let w = weights(&[(1000, &endpoints), (1, &endpoints)]);
        assert_eq!(w.iter().min(), Some(&(u64::from(u32::MAX) / 999_001)));
        assert!(sum(&w) <= 1001 << 32);
        assert_eq!(
            effective(u32::MAX, u32::MAX, u64::from(u32::MAX)),
            u64::from(u32::MAX) << 32
        );
    }

    proptest! {
        #[test]
        fn a_site_never_takes_more_than_its_weight_and_loses_little_to_rounding(
            site_weight in 1..=1000u32,
            endpoints in prop::collection::vec(0..=1000u32, 1..100),
        ) {
            let w = weights(&[(site_weight, &endpoints)]);
            let whole = u128::from(site_weight) << SCALE_BITS;
            if endpoints.iter().any(|&w| w > 0) {
                prop_assert!(sum(&w) <= whole);
                prop_assert!(sum(&w) + endpoints.len() as u128 > whole);
            } else {
                prop_assert_eq!(sum(&w), 0);
            }
        }
    }
}
