//! Which breakers may be out together.

use std::sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering};

use super::{Arc, Change, Guarded, Now, may_eject};

/// The breakers of a route that count: those of eligible endpoints, and of their
/// sites.
///
/// Whether one may be taken out is decided under one lock, and it is out from then
/// on, so that two cannot each be the last but one. The lock is taken within that
/// of a breaker, never the other way round.
#[derive(Debug, Default)]
pub struct Clamp(Mutex<Members>);

#[derive(Debug, Default)]
struct Members {
    /// Each endpoint with its site.
    endpoints: Vec<(Arc<Guarded>, Arc<Guarded>)>,
    sites: Vec<Arc<Guarded>>,
    percent: u32,
}

impl Clamp {
    /// Takes a breaker out, if it may be.
    pub fn take_out(&self, guarded: &Arc<Guarded>) -> bool {
        let members = self.lock();
        let may_open = members.may_open(guarded);
        if may_open {
            guarded.is_out.store(true, Ordering::Relaxed);
        }
        may_open
    }

    /// Others count from now on. Returns what had to be closed since too many of
    /// them were out.
    pub fn replace(
        &self,
        endpoints: Vec<(Arc<Guarded>, Arc<Guarded>)>,
        percent: u32,
        now: Now,
    ) -> Vec<Change> {
        let mut sites: Vec<Arc<Guarded>> = Vec::new();
        for (_, site) in &endpoints {
            // The endpoints of a site need not stand together, but sites are few.
            if !sites.iter().any(|known| Arc::ptr_eq(known, site)) {
                sites.push(site.clone());
            }
        }
        *self.lock() = Members {
            endpoints,
            sites,
            percent,
        };
        let mut changes = Vec::new();
        loop {
            let excess = self.lock().excess();
            if excess.is_empty() {
                return changes;
            }
            changes.extend(excess.iter().filter_map(|guarded| guarded.close(now)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// One that does not count may always open.
    fn may_open(&self, guarded: &Arc<Guarded>) -> bool {
        let is_it = |other: &Arc<Guarded>| Arc::ptr_eq(other, guarded);
        let is_site = self.sites.iter().any(is_it);
        if !is_site && !self.endpoints.iter().any(|(endpoint, _)| is_it(endpoint)) {
            return true;
        }
        let (out, all) = if is_site {
            out_of(self.sites.iter())
        } else {
            out_of(self.endpoints.iter().map(|(endpoint, _)| endpoint))
        };
        let is_left = |(endpoint, site): &(Arc<Guarded>, Arc<Guarded>)| {
            !is_it(endpoint) && !is_it(site) && !endpoint.is_out() && !site.is_out()
        };
        may_eject(out, all, self.percent) && self.endpoints.iter().any(is_left)
    }

    /// What is to be closed, since more are out than may be: some of it, or
    /// nothing if all is well.
    fn excess(&self) -> Vec<Arc<Guarded>> {
        let is_in =
            |(endpoint, site): &(Arc<Guarded>, Arc<Guarded>)| !endpoint.is_out() && !site.is_out();
        let until = |guarded: &Arc<Guarded>| guarded.blocked_until.load(Ordering::Relaxed);
        if !self.endpoints.iter().any(is_in) {
            let soonest = self
                .endpoints
                .iter()
                .min_by_key(|(endpoint, site)| until(endpoint).max(until(site)));
            return soonest.map_or(Vec::new(), |(endpoint, site)| {
                vec![endpoint.clone(), site.clone()]
            });
        }
        let endpoints = self.endpoints.iter().map(|(endpoint, _)| endpoint);
        let soonest = if is_excess(out_of(self.sites.iter()), self.percent) {
            self.sites
                .iter()
                .filter(|g| g.is_out())
                .min_by_key(|g| until(g))
        } else if is_excess(out_of(endpoints.clone()), self.percent) {
            endpoints.filter(|g| g.is_out()).min_by_key(|g| until(g))
        } else {
            None
        };
        soonest.cloned().into_iter().collect()
    }
}

fn out_of<'a>(all: impl Iterator<Item = &'a Arc<Guarded>>) -> (usize, usize) {
    all.fold((0, 0), |(out, all), guarded| {
        (out + usize::from(guarded.is_out()), all + 1)
    })
}

/// Whether more are out than might have been taken out one by one.
fn is_excess((out, all): (usize, usize), percent: u32) -> bool {
    out > 0 && !may_eject(out - 1, all, percent)
}
