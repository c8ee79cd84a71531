//! The state machine that joins health, weights, tables and lint.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    Now,
    event::{Adopted, Command, Event, Notice, Target},
    health::{Cause, Failure, Verdict},
    model::{EndpointRef, Model, Site},
    plan::ServicePlan,
    status::{ServiceStatus, SiteStatus, Status},
    table::TableSize,
};

use member::Member;
use service::ServiceState;

mod member;
mod service;

/// What a [`Core`] is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreOptions {
    /// Slots of the table of each service.
    pub table_size: TableSize,
}

/// Decides what every endpoint is, and where new flows go.
///
/// Feed it with every [`Event`], in order, and carry out the [`Command`]s of
/// each before the next.
///
/// Invariants, whatever the events:
/// - A service is published from its first healthy endpoint on, and steered
///   somewhere ever after: no plan has an empty table. One in
///   [`Mode::Proxy`] without endpoints has nothing to wait for: it is published
///   when it is loaded, and its plans are empty.
/// - Every plan has passed [`crate::lint`]; a service whose next plan did not
///   is *held* at the last one until a plan passes.
/// - One event leads to at most one plan a service.
///
/// In plans an endpoint is [`Active`](crate::EndpointState::Active) if it is
/// healthy; [`Draining`](crate::EndpointState::Draining) if it is healthy and
/// an operator drains it, or its weight or its site's is 0; else
/// [`Dead`](crate::EndpointState::Dead). That includes unknown ones: they have
/// no flows, and a restart in the meantime takes them for down, which two
/// probes mend.
#[derive(Debug, Default)]
pub struct Core {
    options: CoreOptions,
    /// Whether there was a model yet.
    started: bool,
    /// What the kernel held, until there is a model to match it to.
    adopted: Vec<Adopted>,
    sites: Vec<SiteState>,
    services: Vec<ServiceState>,
}

/// A site, and what was decided about it.
#[derive(Debug)]
struct SiteState {
    site: Site,
    draining: bool,
    verdict: Verdict,
}

/// What one event led to, in the order in which it is best carried out: first
/// what packets depend on, then probes, then people.
#[derive(Default)]
struct Outcome {
    removed: Vec<Command>,
    applied: Vec<Command>,
    paces: Vec<Command>,
    notices: Vec<Command>,
}

impl Outcome {
    fn notice(&mut self, notice: Notice) {
        self.notices.push(Command::Notice(notice));
    }

    fn into_commands(self) -> Vec<Command> {
        let Self {
            removed,
            applied,
            paces,
            notices,
        } = self;
        [removed, applied, paces, notices].concat()
    }
}

impl Core {
    /// A core that knows of nothing yet: the first [`Event::Model`] starts it.
    #[must_use]
    pub fn new(options: CoreOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Takes in what happened at `now`, and says what is to be done about it, in
    /// the order to do it in: first what packets depend on, then probes, then
    /// notices.
    #[must_use = "commands that are not carried out are lost"]
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Command> {
        let mut outcome = Outcome::default();
        match event {
            Event::Model(model) => self.load(model, now, &mut outcome),
            Event::Adopted(adopted) => {
                self.adopted.extend(adopted);
                if self.started {
                    self.adopt(now, &mut outcome);
                    self.settle(now, &mut outcome);
                }
            }
            Event::Probe {
                endpoint,
                outcome: result,
            } => self.observe(&endpoint, result, now, &mut outcome),
            Event::Drain { target, on } => self.drain(target, on, now, &mut outcome),
        }
        outcome.into_commands()
    }

    /// The plan of a service that is in force: what the kernel should hold.
    /// `None` before its first one.
    #[must_use]
    pub fn plan(&self, service: &str) -> Option<&ServicePlan> {
        self.services
            .iter()
            .find(|s| *s.config.name == *service)?
            .applied
            .as_ref()
    }

    /// Whether a site or endpoint of that name is in the model.
    #[must_use]
    pub fn knows(&self, target: &Target) -> bool {
        match target {
            Target::Site(name) => self.sites.iter().any(|s| s.site.name == *name),
            Target::Endpoint(endpoint) => self.find(endpoint).is_some(),
        }
    }

    /// What is known and decided, in the order of the model.
    #[must_use]
    pub fn status(&self) -> Status {
        let sites = self.sites.iter().map(|s| &s.site);
        let services: Vec<_> = self
            .services
            .iter()
            .map(|service| service.status(sites.clone(), |site| self.is_draining(site)))
            .collect();
        let is_shared = |s: &&ServiceStatus| s.published && !s.endpoints.is_empty();
        let shared = services.iter().filter(is_shared).count();
        let share_of = |site: &str| {
            let of_services = services.iter().filter(is_shared);
            let shares = of_services.flat_map(|s| &s.sites);
            let sum: f64 = shares
                .filter(|share| *share.name == *site)
                .map(|share| share.effective)
                .sum();
            sum / shared.max(1) as f64
        };
        let sites = self.sites.iter().map(|state| SiteStatus {
            name: state.site.name.clone(),
            weight: state.site.weight,
            verdict: state.verdict,
            draining: state.draining,
            share: share_of(&state.site.name),
        });
        Status {
            sites: sites.collect(),
            services,
        }
    }

    /// Index of an endpoint's service, and of the endpoint therein.
    fn find(&self, endpoint: &EndpointRef) -> Option<(usize, usize)> {
        let by_name = |s: &ServiceState| s.config.name == endpoint.service;
        let service = self.services.iter().position(by_name)?;
        let member = self.services[service].index_of(&endpoint.endpoint)?;
        Some((service, member))
    }

    fn is_draining(&self, site: &str) -> bool {
        is_draining(&self.sites, site)
    }

    fn observe(
        &mut self,
        endpoint: &EndpointRef,
        result: Result<Duration, Failure>,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let Some((service, index)) = self.find(endpoint) else {
            return;
        };
        let state = &mut self.services[service];
        let (rise, fall) = (state.config.health.rise, state.config.health.fall);
        let member = &mut state.members[index];
        let changed = member.health.observe(result, rise, fall);
        if let Some(pace) = member.new_pace() {
            outcome.paces.push(Command::Pace {
                endpoint: endpoint.clone(),
                pace,
            });
        }
        if let Some(cause) = changed {
            self.judge(service, index, cause, now, outcome);
            self.judge_sites(now, outcome);
            self.replan(service, outcome);
        }
    }

    fn drain(&mut self, target: Target, on: bool, now: Now, outcome: &mut Outcome) {
        match &target {
            Target::Site(name) => {
                let Some(state) = self.sites.iter_mut().find(|s| s.site.name == *name) else {
                    return outcome.notice(Notice::UnknownTarget { target });
                };
                state.draining = on;
                if !on {
                    let members = self.services.iter_mut().flat_map(|s| &mut s.members);
                    members
                        .filter(|m| m.config.site == *name)
                        .for_each(Member::end_adopted_drain);
                }
            }
            Target::Endpoint(endpoint) => {
                let Some((service, index)) = self.find(endpoint) else {
                    return outcome.notice(Notice::UnknownTarget { target });
                };
                self.services[service].members[index].set_drain(on);
            }
        }
        self.judge_all(Cause::Operator, now, outcome);
        self.settle(now, outcome);
    }

    /// Takes over a model, the first one or a reload.
    fn load(&mut self, model: Model, now: Now, outcome: &mut Outcome) {
        let cause = if self.started {
            Cause::Model
        } else {
            Cause::Start
        };
        let old_sites = std::mem::take(&mut self.sites);
        self.sites = model
            .sites
            .into_iter()
            .map(|site| {
                let old = old_sites.iter().find(|old| old.site.name == site.name);
                SiteState {
                    site,
                    draining: old.is_some_and(|old| old.draining),
                    verdict: old.map_or(Verdict::Unknown, |old| old.verdict),
                }
            })
            .collect();
        let mut old_services = std::mem::take(&mut self.services);
        let mut removed = Vec::new();
        for config in model.services {
            let old = old_services
                .iter()
                .position(|old| old.config.name == config.name)
                .map(|index| old_services.swap_remove(index));
            let name = config.name.clone();
            let (state, is_replaced) = ServiceState::load(config, old, cause, now);
            self.services.push(state);
            removed.extend(is_replaced.then_some(name));
        }
        removed.extend(old_services.into_iter().map(|old| old.config.name));
        let commands = removed
            .into_iter()
            .map(|service| Command::Remove { service });
        outcome.removed.extend(commands);

        let sites = self.sites.iter().map(|s| &s.site);
        for service in &mut self.services {
            service.weigh(sites.clone());
        }
        self.started = true;
        self.adopt(now, outcome);
        self.judge_all(Cause::Model, now, outcome);
        self.settle(now, outcome);
    }

    /// Matches what the kernel held to endpoints that nothing is known of yet.
    fn adopt(&mut self, now: Now, outcome: &mut Outcome) {
        let adopted = std::mem::take(&mut self.adopted);
        for held in &adopted {
            let Some(service) = self
                .services
                .iter()
                .position(|s| s.config.name == held.service)
            else {
                continue;
            };
            let site_drains = |site: &str| self.is_draining(site);
            let matches = |m: &Member| m.is_at(held.address, held.port);
            let state = &self.services[service];
            let Some(index) = state.members.iter().position(matches) else {
                continue;
            };
            let explained =
                state.weights[index] == 0 || site_drains(&state.members[index].config.site);
            if self.services[service].members[index].adopt(held.state, explained) {
                self.judge(service, index, Cause::Adopted, now, outcome);
            }
        }
        // What left the configuration while nobody was there to see it.
        let gone: BTreeSet<Arc<str>> = adopted
            .into_iter()
            .map(|held| held.service)
            .filter(|name| !self.services.iter().any(|s| s.config.name == *name))
            .collect();
        let commands = gone.into_iter().map(|service| Command::Remove { service });
        outcome.removed.extend(commands);
    }

    /// Brings an endpoint's verdict up to date, and tells if it changed.
    fn judge(
        &mut self,
        service: usize,
        index: usize,
        cause: Cause,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let site = self.services[service].members[index].config.site.clone();
        let site_drains = self.is_draining(&site);
        let endpoint = self.services[service].reference(index);
        let member = &mut self.services[service].members[index];
        if let Some((from, to)) = member.judge(site_drains, cause, now) {
            outcome.notice(Notice::Endpoint {
                endpoint,
                site,
                from,
                to,
                cause,
                now,
            });
        }
    }

    fn judge_all(&mut self, cause: Cause, now: Now, outcome: &mut Outcome) {
        for service in 0..self.services.len() {
            for index in 0..self.services[service].members.len() {
                self.judge(service, index, cause, now, outcome);
            }
        }
    }

    /// Brings everything that follows from verdicts up to date.
    fn settle(&mut self, now: Now, outcome: &mut Outcome) {
        self.judge_sites(now, outcome);
        for service in 0..self.services.len() {
            for index in 0..self.services[service].members.len() {
                let endpoint = self.services[service].reference(index);
                if let Some(pace) = self.services[service].members[index].new_pace() {
                    outcome.paces.push(Command::Pace { endpoint, pace });
                }
            }
            self.replan(service, outcome);
        }
    }

    fn replan(&mut self, service: usize, outcome: &mut Outcome) {
        let site_drains = |site: &str| is_draining(&self.sites, site);
        self.services[service].replan(self.options.table_size, site_drains, outcome);
    }

    fn judge_sites(&mut self, now: Now, outcome: &mut Outcome) {
        for state in &mut self.sites {
            let members = self.services.iter().flat_map(|s| &s.members);
            let of_site = members.filter(|m| m.config.site == state.site.name);
            let to = site_verdict(of_site.map(|m| m.verdict), state.draining);
            let from = std::mem::replace(&mut state.verdict, to);
            if from != to {
                outcome.notice(Notice::Site {
                    site: state.site.name.clone(),
                    from,
                    to,
                    now,
                });
            }
        }
    }
}

fn is_draining(sites: &[SiteState], site: &str) -> bool {
    sites.iter().any(|s| s.draining && *s.site.name == *site)
}

/// A site serves as long as any of its endpoints does. It is down once all are,
/// and not before: while some are unknown, so is it.
fn site_verdict(endpoints: impl Iterator<Item = Verdict>, draining: bool) -> Verdict {
    let mut down = 0;
    let mut unknown = 0;
    for verdict in endpoints {
        match verdict {
            Verdict::Healthy | Verdict::Draining if draining => return Verdict::Draining,
            Verdict::Healthy | Verdict::Draining => return Verdict::Healthy,
            Verdict::Down => down += 1,
            Verdict::Unknown => unknown += 1,
        }
    }
    if down > 0 && unknown == 0 {
        Verdict::Down
    } else {
        Verdict::Unknown
    }
}

#[cfg(test)]
mod tests;
