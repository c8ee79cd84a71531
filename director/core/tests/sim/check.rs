//! The checkers: what must hold after every event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use director_core::{
    Cause, Command, Core, EndpointRef, EndpointState, Event, LintRule, Model, Notice, Now,
    ServicePlan, Verdict,
};

use crate::{
    ensure,
    oracle::{Manner, Member, Oracle},
    prober::Prober,
    sabotage::Sabotage,
    stats::Stats,
};

mod plan;
mod status;

/// What was wrong.
pub type Violation = String;

/// Follows one process of the core.
pub struct Checker {
    pub oracle: Oracle,
    pub table_size: u32,
    /// Plans that this process applied.
    pub applied: BTreeMap<Arc<str>, ServicePlan>,
    /// What was told beside each of them.
    told: BTreeMap<Arc<str>, Manner>,
    /// Services that are held, as told.
    pub held: BTreeSet<Arc<str>>,
    /// Services whose plan in force was made for an older model.
    pub stale: BTreeSet<Arc<str>>,
    /// Verdicts as told.
    endpoints: BTreeMap<EndpointRef, Verdict>,
    sites: BTreeMap<Arc<str>, Verdict>,
    /// Services that the kernel held and no model was seen for yet.
    adopted: Vec<Arc<str>>,
    is_loaded: bool,
}

/// One event as it was handled.
pub struct Handled<'a> {
    pub event: &'a Event,
    pub commands: &'a [Command],
    pub now: Now,
    pub sabotage: &'a Sabotage,
}

impl Checker {
    pub fn new(table_size: u32) -> Self {
        Self {
            oracle: Oracle::new(),
            table_size,
            applied: BTreeMap::new(),
            told: BTreeMap::new(),
            held: BTreeSet::new(),
            stale: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            sites: BTreeMap::new(),
            adopted: Vec::new(),
            is_loaded: false,
        }
    }

    /// Checks what the core made of an event. The prober has been told.
    pub fn check(
        &mut self,
        handled: &Handled<'_>,
        core: &Core,
        prober: &Prober,
        stats: &mut Stats,
    ) -> Result<(), Violation> {
        let removals = self.expected_removals(handled.event);
        self.oracle.expect(handled.event, handled.now);
        if let Event::Model(model) = handled.event {
            self.follow_model(model);
        }
        self.check_concern(handled)?;
        self.check_removals(handled, &removals)?;
        self.check_verdicts(handled, stats)?;
        self.check_paces(handled, prober)?;
        let is_news = |command: &Command| !matches!(command, Command::Pace { .. });
        let is_quiet = !handled.commands.iter().any(is_news);
        if matches!(handled.event, Event::Probe { .. }) && is_quiet {
            // The verdict is the one before, so nothing else may have changed.
            return Ok(());
        }
        self.check_sites(handled)?;
        self.check_plans(handled, core, stats)?;
        if let Event::Model(_) = handled.event {
            self.stale = self.held.clone();
        }
        let mut status = core.status();
        if let Some(sabotage) = &handled.sabotage.status {
            sabotage(&mut status);
        }
        self.check_status(&status)
    }

    /// Services that must be taken out of the kernel on this event.
    fn expected_removals(&mut self, event: &Event) -> BTreeSet<Arc<str>> {
        let front = |m: &Model, name: &str| {
            let service = m.services.iter().find(|s| *s.name == *name);
            service.map(|s| (s.vip, s.port, s.protocol, s.mode))
        };
        let mut removals = BTreeSet::new();
        match event {
            Event::Model(new) => {
                let old = &self.oracle.model;
                let names = old.services.iter().map(|s| s.name.clone());
                removals.extend(names.filter(|name| front(old, name) != front(new, name)));
                let adopted = std::mem::take(&mut self.adopted).into_iter();
                removals.extend(adopted.filter(|name| front(new, name).is_none()));
                self.is_loaded = true;
            }
            Event::Adopted(adopted) => {
                let names = adopted.iter().map(|a| a.service.clone());
                if self.is_loaded {
                    let model = &self.oracle.model;
                    removals.extend(names.filter(|name| front(model, name).is_none()));
                } else {
                    self.adopted.extend(names);
                }
            }
            Event::Probe { .. } | Event::Drain { .. } => {}
        }
        removals
    }

    fn follow_model(&mut self, model: &Model) {
        let members = &self.oracle.members;
        self.endpoints.retain(|key, _| members.contains_key(key));
        for key in members.keys() {
            self.endpoints
                .entry(key.clone())
                .or_insert(Verdict::Unknown);
        }
        let is_site = |name: &Arc<str>| model.sites.iter().any(|s| s.name == *name);
        self.sites.retain(|name, _| is_site(name));
        for site in &model.sites {
            self.sites
                .entry(site.name.clone())
                .or_insert(Verdict::Unknown);
        }
    }

    /// A probe's outcome concerns its own service, and nothing else.
    fn check_concern(&self, handled: &Handled<'_>) -> Result<(), Violation> {
        let Event::Probe { endpoint, .. } = handled.event else {
            return Ok(());
        };
        for command in handled.commands {
            let (service, is_whole) = match command {
                Command::Apply(plan) => (&plan.service, true),
                Command::Remove { service } => (service, true),
                Command::Pace { endpoint: of, .. } => (&of.service, of == endpoint),
                Command::Notice(Notice::Endpoint { endpoint: of, .. }) => {
                    (&of.service, of == endpoint)
                }
                Command::Notice(Notice::Refused { service, .. } | Notice::Resumed { service }) => {
                    (service, true)
                }
                Command::Notice(_) => continue,
            };
            ensure!(
                *service == endpoint.service && is_whole,
                "a probe of {endpoint} led to {command:?}"
            );
        }
        Ok(())
    }

    fn check_removals(
        &mut self,
        handled: &Handled<'_>,
        expected: &BTreeSet<Arc<str>>,
    ) -> Result<(), Violation> {
        let removed: Vec<_> = handled
            .commands
            .iter()
            .filter_map(|command| match command {
                Command::Remove { service } => Some(service.clone()),
                _ => None,
            })
            .collect();
        let as_set: BTreeSet<_> = removed.iter().cloned().collect();
        ensure!(
            as_set == *expected && as_set.len() == removed.len(),
            "removed {removed:?} instead of {expected:?}"
        );
        for name in &removed {
            self.applied.remove(name);
            self.told.remove(name);
            self.held.remove(name);
            self.stale.remove(name);
        }
        Ok(())
    }

    fn check_verdicts(
        &mut self,
        handled: &Handled<'_>,
        stats: &mut Stats,
    ) -> Result<(), Violation> {
        for command in handled.commands {
            let Command::Notice(Notice::Endpoint {
                endpoint,
                site,
                from,
                to,
                cause,
                now,
            }) = command
            else {
                continue;
            };
            ensure!(
                is_legal(*from, *to, *cause, handled.event),
                "{endpoint} went from {from} to {to} by {cause} at {:?}",
                handled.event
            );
            ensure!(*now == handled.now, "{endpoint} changed at {now:?}");
            let member = self.oracle.members.get(endpoint);
            ensure!(
                member.is_some_and(|m| m.site == *site),
                "{endpoint} is not in {site}"
            );
            let told = self.endpoints.insert(endpoint.clone(), *to);
            ensure!(
                told == Some(*from),
                "{endpoint} was {told:?} and not {from}"
            );
            stats.transitions += 1;
        }
        for (key, member) in self.concerned(handled.event) {
            let (told, is) = (self.endpoints.get(key), self.oracle.verdict(member));
            ensure!(told == Some(&is), "{key} is {is} and not {told:?}");
        }
        Ok(())
    }

    /// The endpoints that an event can have changed.
    fn concerned<'a>(
        &'a self,
        event: &'a Event,
    ) -> impl Iterator<Item = (&'a EndpointRef, &'a Member)> {
        let members = &self.oracle.members;
        let (only, all) = match event {
            Event::Probe { endpoint, .. } => (members.get_key_value(endpoint), None),
            _ => (None, Some(members)),
        };
        only.into_iter().chain(all.into_iter().flatten())
    }

    fn check_sites(&mut self, handled: &Handled<'_>) -> Result<(), Violation> {
        for command in handled.commands {
            let Command::Notice(Notice::Site { site, from, to, .. }) = command else {
                continue;
            };
            let told = self.sites.insert(site.clone(), *to);
            ensure!(
                told == Some(*from) && from != to,
                "{site} was {told:?} and not {from}"
            );
        }
        for (site, told) in &self.sites {
            let is = self.oracle.site_verdict(site);
            ensure!(*told == is, "{site} is {is} and not {told}");
        }
        Ok(())
    }

    fn check_paces(&self, handled: &Handled<'_>, prober: &Prober) -> Result<(), Violation> {
        for (key, member) in self.concerned(handled.event) {
            let (told, wanted) = (prober.pace(key), member.wanted_pace());
            ensure!(
                told == Some(wanted),
                "pace of {key} is {told:?} and not {wanted}"
            );
        }
        Ok(())
    }

    fn check_plans(
        &mut self,
        handled: &Handled<'_>,
        core: &Core,
        stats: &mut Stats,
    ) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        for command in handled.commands {
            let Command::Apply(plan) = command else {
                continue;
            };
            ensure!(
                seen.insert(plan.service.clone()),
                "two plans of {} at once",
                plan.service
            );
            let name = &plan.service;
            let manner = self.oracle.manner(name);
            plan::check(
                plan,
                self.applied.get(name),
                self.told.get(name) != manner.as_ref(),
                self.table_size,
                &self.oracle,
            )?;
            self.applied.insert(name.clone(), plan.clone());
            self.told.extend(manner.map(|m| (name.clone(), m)));
            self.stale.remove(name);
            stats.plans += 1;
        }
        self.check_holds(handled, &seen, stats)?;
        let only = match handled.event {
            Event::Probe { endpoint, .. } => Some(&endpoint.service),
            _ => None,
        };
        for service in &self.oracle.model.services {
            let name = &service.name;
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let applied = self.applied.get(name);
            let is_served = self.oracle.is_served(name);
            ensure!(
                applied.is_some() || !is_served,
                "{name} is to be steered, and no plan"
            );
            let is_held = applied.is_some() && !is_served;
            ensure!(
                self.held.contains(name) == is_held,
                "{name} is held: {is_held}, not as told"
            );
            if let Some(applied) = applied.filter(|_| is_served) {
                plan::check_current(applied, &self.oracle)?;
                ensure!(
                    self.told.get(name) == self.oracle.manner(name).as_ref(),
                    "the kernel does not know how {name} is steered"
                );
            }
            ensure!(
                core.plan(name) == applied,
                "the plan of {name} is not the one that was told"
            );
        }
        Ok(())
    }

    /// A service is said to be held when it begins to be, and only then.
    fn check_holds(
        &mut self,
        handled: &Handled<'_>,
        applied_now: &BTreeSet<Arc<str>>,
        stats: &mut Stats,
    ) -> Result<(), Violation> {
        for command in handled.commands {
            match command {
                Command::Notice(Notice::Refused { service, rule, .. }) => {
                    ensure!(*rule == LintRule::NoEndpointLeft, "{service} broke {rule}");
                    ensure!(
                        self.held.insert(service.clone()),
                        "{service} was held already"
                    );
                    ensure!(
                        !applied_now.contains(service),
                        "{service} has a plan, yet is held"
                    );
                    stats.holds += 1;
                }
                Command::Notice(Notice::Resumed { service }) => {
                    ensure!(
                        self.held.remove(service),
                        "{service} resumed, but was not held"
                    );
                    self.stale.remove(service);
                    stats.resumptions += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The changes of a verdict that an event of that kind can make.
fn is_legal(from: Verdict, to: Verdict, cause: Cause, event: &Event) -> bool {
    use Verdict::{Down, Draining, Healthy, Unknown};
    match (event, cause) {
        (Event::Probe { outcome: Ok(_), .. }, Cause::ProbesPassed) => {
            matches!((from, to), (Unknown | Down, Healthy | Draining))
        }
        (
            Event::Probe {
                outcome: Err(failure),
                ..
            },
            Cause::Probe(cause),
        ) => *failure == cause && from != Down && to == Down,
        (Event::Drain { .. }, Cause::Operator) => {
            matches!((from, to), (Healthy, Draining) | (Draining, Healthy))
        }
        (Event::Adopted(_) | Event::Model(_), Cause::Adopted) => from == Unknown && to != Unknown,
        (Event::Model(_), Cause::Model) => {
            to == Unknown || matches!((from, to), (Healthy, Draining) | (Draining, Healthy))
        }
        _ => false,
    }
}

/// States that the kernel holds, by what it knows endpoints by.
pub fn states(plan: &ServicePlan) -> BTreeMap<(std::net::IpAddr, u16), EndpointState> {
    let endpoints = plan.endpoints.iter();
    endpoints.map(|e| ((e.address, e.port), e.state)).collect()
}
