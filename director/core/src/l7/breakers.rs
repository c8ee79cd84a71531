//! The breakers of a route: one for each site of its pool, one for each endpoint.
//!
//! A request needs leave of both, and both learn what became of it. A breaker that
//! is not closed is *out*. At most a share of the sites and of the endpoints may
//! be out ([`may_eject`]), and never so many that no eligible endpoint is left that
//! is in, with its site: so breakers alone never take a whole pool away.
//!
//! State goes on from plan to plan and over reloads, by an endpoint's name, address
//! and port and by a site's name. Where fewer are eligible than before, breakers
//! that are out may be too many; those that would let requests pass soonest are
//! closed.

mod clamp;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use self::clamp::Clamp;
use super::{model::RouteBreaker, pick::SiteIndex};
use crate::{
    Now,
    breaker::{
        Breaker, BreakerPolicy, BreakerState, Outcome, Permit, Refusal, Transition, may_eject,
    },
    plan::PlannedEndpoint,
};

/// Which breaker of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BreakerId {
    Site(Arc<str>),
    Endpoint(Arc<str>),
}

/// A breaker went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub breaker: BreakerId,
    pub transition: Transition,
}

/// What changed by one request: of its site, of its endpoint.
pub type Changes = [Option<Change>; 2];

/// Why a request may not be sent, and which breaker says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub breaker: BreakerId,
    pub refusal: Refusal,
}

/// How a breaker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    pub breaker: BreakerId,
    pub state: BreakerState,
    /// Requests that are under way.
    pub under_way: u32,
}

/// The breakers of a route for one plan. Shared by threads.
#[derive(Debug)]
pub struct Breakers {
    keys: Vec<Key>,
    index: SiteIndex,
    /// By index into the plan's endpoints, ...
    endpoints: Vec<Arc<Guarded>>,
    /// ... and by index into the sites.
    sites: Vec<Arc<Guarded>>,
    /// The same for all plans of the route.
    clamp: Arc<Clamp>,
}

/// A server: another address is another one.
type Key = (Arc<str>, IpAddr, u16);

/// A breaker, and what may be read of it without its lock.
#[derive(Debug)]
struct Guarded {
    id: BreakerId,
    state: Mutex<Guard>,
    /// [`Breaker::blocked_until`] in nanoseconds.
    blocked_until: AtomicU64,
    /// Whether it is not closed. Becomes true only as [`Clamp`] allows.
    is_out: AtomicBool,
}

#[derive(Debug)]
struct Guard {
    breaker: Breaker,
    policy: BreakerPolicy,
}

/// Leave to send one request. Dropped without an outcome it says nothing, as when
/// the request was not sent or its client went away.
#[derive(Debug)]
#[must_use = "a request is under way as long as this is kept"]
pub struct Permits {
    site: Held,
    endpoint: Held,
}

#[derive(Debug)]
struct Held {
    of: Arc<Guarded>,
    permit: Option<Permit>,
}

impl Breakers {
    /// Closed ones.
    #[must_use]
    pub fn new(policy: &RouteBreaker, endpoints: &[PlannedEndpoint], now: Now) -> Self {
        let empty = Self {
            keys: Vec::new(),
            index: SiteIndex::default(),
            endpoints: Vec::new(),
            sites: Vec::new(),
            clamp: Arc::default(),
        };
        empty.carry(policy, endpoints, now).0
    }

    /// Those of the next plan or configuration, and which had to be closed for it.
    /// Requests of before still count, whichever they are settled by.
    #[must_use]
    pub fn carry(
        &self,
        policy: &RouteBreaker,
        endpoints: &[PlannedEndpoint],
        now: Now,
    ) -> (Self, Vec<Change>) {
        let known: HashMap<&Key, &Arc<Guarded>> = self.keys.iter().zip(&self.endpoints).collect();
        let known_sites: HashMap<&Arc<str>, &Arc<Guarded>> =
            self.index.names.iter().zip(&self.sites).collect();
        let keys: Vec<Key> = endpoints
            .iter()
            .map(|endpoint| (endpoint.name.clone(), endpoint.address, endpoint.port))
            .collect();
        let index = SiteIndex::new(endpoints);
        let next = Self {
            endpoints: keys
                .iter()
                .map(|key| {
                    let id = || BreakerId::Endpoint(key.0.clone());
                    Guarded::carry(known.get(key).copied(), id, policy.endpoint, now)
                })
                .collect(),
            sites: index
                .names
                .iter()
                .map(|name| {
                    let id = || BreakerId::Site(name.clone());
                    Guarded::carry(known_sites.get(name).copied(), id, policy.site, now)
                })
                .collect(),
            keys,
            index,
            clamp: self.clamp.clone(),
        };
        let eligible = endpoints
            .iter()
            .enumerate()
            .filter(|(_, e)| e.is_eligible());
        let pairs = eligible.map(|(endpoint, _)| {
            let site = next.sites[next.index.of[endpoint]].clone();
            (next.endpoints[endpoint].clone(), site)
        });
        let percent = policy.max_ejection_percent;
        let changes = next.clamp.replace(pairs.collect(), percent, now);
        (next, changes)
    }

    /// Whether a request to an endpoint would pass, as far as is seen without a
    /// lock. False where there is no such endpoint.
    #[must_use]
    pub fn is_usable(&self, endpoint: usize, now: Now) -> bool {
        let Some(guarded) = self.endpoints.get(endpoint) else {
            return false;
        };
        guarded.is_usable(now) && self.sites[self.index.of[endpoint]].is_usable(now)
    }

    /// Asks to send a request to an endpoint.
    ///
    /// # Panics
    /// When there is no such endpoint.
    pub fn admit(&self, endpoint: usize, now: Now) -> (Result<Permits, Refused>, Changes) {
        let (site, of_site) = Guarded::admit(&self.sites[self.index.of[endpoint]], now);
        let site = match site {
            Ok(site) => site,
            Err(refused) => return (Err(refused), [of_site, None]),
        };
        // Where this one refuses, the permit of the site goes back unused.
        let (endpoint, of_endpoint) = Guarded::admit(&self.endpoints[endpoint], now);
        let permits = endpoint.map(|endpoint| Permits { site, endpoint });
        (permits, [of_site, of_endpoint])
    }

    /// Takes permits back, with what became of the request.
    pub fn settle(&self, permits: Permits, outcome: Outcome, now: Now) -> Changes {
        let Permits { site, endpoint } = permits;
        [site, endpoint].map(|held| held.settle(outcome, &self.clamp, now))
    }

    /// Takes permits back from a request that says nothing. The same as dropping
    /// them.
    pub fn cancel(&self, permits: Permits) {
        drop(permits);
    }

    /// How all breakers are: those of sites, then those of endpoints.
    pub fn status(&self, now: Now) -> impl Iterator<Item = BreakerStatus> {
        self.sites
            .iter()
            .chain(&self.endpoints)
            .map(move |guarded| {
                let guard = guarded.lock();
                BreakerStatus {
                    breaker: guarded.id.clone(),
                    state: guard.breaker.state(&guard.policy, now),
                    under_way: guard.breaker.under_way(),
                }
            })
    }
}

impl Guarded {
    /// The known one with a policy that may be new, or else a closed one.
    fn carry(
        known: Option<&Arc<Self>>,
        id: impl Fn() -> BreakerId,
        policy: BreakerPolicy,
        now: Now,
    ) -> Arc<Self> {
        let Some(known) = known else {
            let breaker = Breaker::new(now);
            return Arc::new(Self {
                id: id(),
                state: Mutex::new(Guard { breaker, policy }),
                blocked_until: AtomicU64::new(0),
                is_out: AtomicBool::new(false),
            });
        };
        let mut guard = known.lock();
        guard.policy = policy;
        known.publish(&guard);
        known.clone()
    }

    fn admit(self: &Arc<Self>, now: Now) -> (Result<Held, Refused>, Option<Change>) {
        let mut guard = self.lock();
        let Guard { breaker, policy } = &mut *guard;
        let (permit, transition) = breaker.admit(policy, now);
        self.publish(&guard);
        let held = match permit {
            Ok(permit) => Ok(Held {
                of: self.clone(),
                permit: Some(permit),
            }),
            Err(refusal) => Err(Refused {
                breaker: self.id.clone(),
                refusal,
            }),
        };
        (held, transition.map(|transition| self.change(transition)))
    }

    /// Closes it where more are out than may be.
    fn close(&self, now: Now) -> Option<Change> {
        let mut guard = self.lock();
        let transition = guard.breaker.clamp(now);
        self.publish(&guard);
        transition.map(|transition| self.change(transition))
    }

    fn is_usable(&self, now: Now) -> bool {
        match self.blocked_until.load(Ordering::Relaxed) {
            0 => true,
            until => nanos(now) >= until,
        }
    }

    fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// Shows what may be read without the lock.
    fn publish(&self, guard: &Guard) {
        let until = nanos(guard.breaker.blocked_until(&guard.policy));
        self.blocked_until.store(until, Ordering::Relaxed);
        if guard.breaker.is_closed() && self.is_out() {
            self.is_out.store(false, Ordering::Relaxed);
        }
    }

    fn change(&self, transition: Transition) -> Change {
        Change {
            breaker: self.id.clone(),
            transition,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guard> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn settle(mut self, outcome: Outcome, clamp: &Clamp, now: Now) -> Option<Change> {
        let permit = self.permit.take()?;
        let mut guard = self.of.lock();
        let policy = guard.policy;
        let may_open = || clamp.take_out(&self.of);
        let transition = guard
            .breaker
            .settle(permit, outcome, &policy, may_open, now);
        self.of.publish(&guard);
        transition.map(|transition| self.of.change(transition))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let mut guard = self.of.lock();
            guard.breaker.cancel(permit);
            self.of.publish(&guard);
        }
    }
}

fn nanos(now: Now) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
