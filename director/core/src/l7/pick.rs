//! Which endpoint of a pool gets a request.
//!
//! First a site, by the effective weights of its eligible endpoints, so that
//! shares of sites are what the packet path's are. Sites without a usable
//! endpoint are left out, and the others share by weight. Then an endpoint
//! within it: one is drawn by weight, and gives way to a second, drawn by weight
//! too, that would cost less than half as much with this request (power of two
//! choices). The cost is peak latency × (requests under way + 1), see
//! [`super::load`], where requests under way are taken relative to the endpoint's
//! weight. While endpoints are
//! about as fast as each other their shares so are those of their weights; always
//! taking the cheaper of two would halve the share of whoever has a bit of noise
//! against it, and with two endpoints ignore weights altogether.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::load::{EndpointLoad, Latency};
use crate::{
    Now,
    plan::{PlannedEndpoint, ServicePlan},
};

/// How many times cheaper the second choice must be.
const CHEAPER: f64 = 2.0;

/// Draws that may meet an unusable endpoint before all are looked at.
const DRAWS: u32 = 4;

/// Slots of the table that are tried for a hash.
const SLOTS: usize = 64;

/// The endpoints of a service as one plan has them, and their load, which goes on
/// from plan to plan.
#[derive(Debug)]
pub struct Pool {
    endpoints: Vec<PlannedEndpoint>,
    table: Arc<[u16]>,
    /// By index into `endpoints`.
    loads: Vec<Arc<EndpointLoad>>,
    latency: Arc<Latency>,
    index: SiteIndex,
    /// Sites with eligible endpoints, and these grouped by site.
    sites: Vec<Site>,
    members: Vec<Member>,
}

/// The sites of endpoints, numbered by the order in which they are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteIndex {
    pub names: Vec<Arc<str>>,
    /// Site by endpoint.
    pub of: Vec<usize>,
}

impl SiteIndex {
    #[must_use]
    pub fn new(endpoints: &[PlannedEndpoint]) -> Self {
        let mut index = Self::default();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for endpoint in endpoints {
            let number = *numbers.entry(&endpoint.site).or_insert_with(|| {
                index.names.push(endpoint.site.clone());
                index.names.len() - 1
            });
            index.of.push(number);
        }
        index
    }
}

#[derive(Debug)]
struct Site {
    weight: u64,
    /// Sum of the weights up to this one.
    until: u64,
    members: Range<usize>,
}

#[derive(Debug)]
struct Member {
    endpoint: usize,
    weight: u64,
    /// Sum of the weights in its site up to this one.
    until: u64,
    /// Mean weight in its site by its own.
    scale: f64,
}

impl Pool {
    /// The endpoints of a plan, with nothing known of their load.
    #[must_use]
    pub fn new(plan: &ServicePlan) -> Self {
        Self::with(plan, Arc::default(), |_| Arc::default())
    }

    /// Those of the next plan. Endpoints that stay keep their load: those of the
    /// same name, address and port.
    #[must_use]
    pub fn carry(&self, plan: &ServicePlan) -> Self {
        let known: HashMap<_, _> = self
            .endpoints
            .iter()
            .map(identity)
            .zip(&self.loads)
            .collect();
        Self::with(plan, self.latency.clone(), |endpoint| {
            let load = known.get(&identity(endpoint)).copied();
            load.cloned().unwrap_or_default()
        })
    }

    fn with(
        plan: &ServicePlan,
        latency: Arc<Latency>,
        load: impl Fn(&PlannedEndpoint) -> Arc<EndpointLoad>,
    ) -> Self {
        let endpoints = plan.endpoints.clone();
        let index = SiteIndex::new(&endpoints);
        let mut by_site = vec![Vec::new(); index.names.len()];
        for (endpoint, planned) in endpoints.iter().enumerate() {
            if planned.is_eligible() {
                by_site[index.of[endpoint]].push((endpoint, planned.weight));
            }
        }
        let (mut sites, mut members, mut total) = (Vec::new(), Vec::new(), 0u64);
        for own in by_site.into_iter().filter(|own| !own.is_empty()) {
            let weight = own
                .iter()
                .fold(0u64, |sum, (_, weight)| sum.saturating_add(*weight));
            let mean = weight as f64 / own.len() as f64;
            let (first, mut until) = (members.len(), 0u64);
            for (endpoint, weight) in own {
                until = until.saturating_add(weight);
                members.push(Member {
                    endpoint,
                    weight,
                    until,
                    scale: mean / weight as f64,
                });
            }
            total = total.saturating_add(weight);
            sites.push(Site {
                weight,
                until: total,
                members: first..members.len(),
            });
        }
        Self {
            loads: endpoints.iter().map(load).collect(),
            table: plan.table.clone(),
            endpoints,
            latency,
            index,
            sites,
            members,
        }
    }

    /// Every endpoint of the plan. Where an endpoint is a number, it is one of
    /// these.
    #[must_use]
    pub fn endpoints(&self) -> &[PlannedEndpoint] {
        &self.endpoints
    }

    /// The endpoint of this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<usize> {
        // A plan's endpoints are sorted by name.
        let found = self
            .endpoints
            .binary_search_by(|endpoint| (*endpoint.name).cmp(name));
        found.ok()
    }

    /// The sites of the endpoints.
    #[must_use]
    pub fn sites(&self) -> &SiteIndex {
        &self.index
    }

    /// Load of an endpoint.
    ///
    /// # Panics
    /// When there is no such endpoint.
    #[must_use]
    pub fn load(&self, endpoint: usize) -> &Arc<EndpointLoad> {
        &self.loads[endpoint]
    }

    /// Mean latency of the pool.
    #[must_use]
    pub fn latency(&self) -> &Arc<Latency> {
        &self.latency
    }

    /// Requests under way at all endpoints.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.loads
            .iter()
            .fold(0, |sum, load| sum.saturating_add(load.in_flight()))
    }

    /// Sum of the effective weights of the eligible endpoints.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.sites.last().map_or(0, |site| site.until)
    }

    /// An eligible endpoint that is usable, or `None` where none is. The same
    /// endpoint may be asked about more than once.
    pub fn pick(
        &self,
        mut usable: impl FnMut(usize) -> bool,
        random: u64,
        now: Now,
    ) -> Option<usize> {
        let mut random = Random(random);
        let at = scaled(random.next(), self.weight());
        let drawn = self.sites.partition_point(|site| site.until <= at);
        let site = self.sites.get(drawn)?;
        if let Some(endpoint) = self.pick_within(site, &mut usable, &mut random, now) {
            return Some(endpoint);
        }
        let mut is_out = |site: &Site| {
            let members = &self.members[site.members.clone()];
            !members.iter().any(|member| usable(member.endpoint))
        };
        let open: Vec<&Site> = self.sites.iter().filter(|site| !is_out(site)).collect();
        let weights = open.iter().map(|site| site.weight);
        let drawn = weighted(weights, random.next())?;
        self.pick_within(open[drawn], &mut usable, &mut random, now)
    }

    /// The usable endpoint that a hash leads to by the plan's table: the same on
    /// every edge for as long as plan and usable endpoints are the same, and for
    /// most hashes when they change. Where too many slots are tried in vain, any
    /// usable one.
    pub fn by_hash(
        &self,
        hash: u64,
        mut usable: impl FnMut(usize) -> bool,
        now: Now,
    ) -> Option<usize> {
        let slots = self.table.len() as u64;
        if slots > 0 {
            // The number of slots is a prime, so that any step leads to all.
            let step = 1 + Random(hash).next() % (slots - 1).max(1);
            let mut slot = hash % slots;
            for _ in 0..SLOTS.min(self.table.len()) {
                let endpoint = usize::from(self.table[slot as usize]);
                if endpoint < self.endpoints.len() && usable(endpoint) {
                    return Some(endpoint);
                }
                slot = (slot + step) % slots;
            }
        }
        self.pick(usable, hash, now)
    }

    fn pick_within(
        &self,
        site: &Site,
        usable: &mut impl FnMut(usize) -> bool,
        random: &mut Random,
        now: Now,
    ) -> Option<usize> {
        let first = self.draw(site, None, usable, random)?;
        let one = &self.members[first];
        let cost = self.loads[one.endpoint].cost(0, one.scale, now);
        if site.members.len() > 1
            && cost > 0.0
            && let Some(second) = self.draw(site, Some(first), usable, random)
        {
            let other = &self.members[second];
            if self.loads[other.endpoint].cost(1, other.scale, now) * CHEAPER < cost {
                return Some(other.endpoint);
            }
        }
        Some(one.endpoint)
    }

    /// A usable member of a site, by weight, other than `but`.
    fn draw(
        &self,
        site: &Site,
        but: Option<usize>,
        usable: &mut impl FnMut(usize) -> bool,
        random: &mut Random,
    ) -> Option<usize> {
        let members = &self.members[site.members.clone()];
        let but = but.map(|index| index - site.members.start);
        let skipped = but.map_or(0, |index| members[index].weight);
        for _ in 0..DRAWS {
            let mut at = scaled(random.next(), site.weight - skipped);
            if let Some(but) = but
                && at >= members[but].until - skipped
            {
                at += skipped;
            }
            let drawn = members.partition_point(|member| member.until <= at);
            if members
                .get(drawn)
                .is_some_and(|member| usable(member.endpoint))
            {
                return Some(site.members.start + drawn);
            }
        }
        let weights = members.iter().enumerate().map(|(index, member)| {
            let is_possible = Some(index) != but && usable(member.endpoint);
            if is_possible { member.weight } else { 0 }
        });
        let weights: Vec<u64> = weights.collect();
        let drawn = weighted(weights.iter().copied(), random.next())?;
        Some(site.members.start + drawn)
    }
}

fn identity(endpoint: &PlannedEndpoint) -> (&str, std::net::IpAddr, u16) {
    (&endpoint.name, endpoint.address, endpoint.port)
}

/// The index of one of the weights, by weight; `None` where all are 0.
fn weighted(weights: impl Iterator<Item = u64> + Clone, random: u64) -> Option<usize> {
    let total = weights.clone().fold(0u64, u64::saturating_add);
    let mut left = scaled(random, total);
    for (index, weight) in weights.enumerate() {
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    None
}

/// A random number below `below`; 0 where that is 0.
fn scaled(random: u64, below: u64) -> u64 {
    ((u128::from(random) * u128::from(below)) >> 64) as u64
}

/// More random numbers out of one: `SplitMix64` (Steele, Lea, Flood, "Fast
/// Splittable Pseudorandom Number Generators", OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
