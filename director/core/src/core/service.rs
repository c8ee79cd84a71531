//! One service: its endpoints, and the plan in force.

use std::{collections::BTreeMap, sync::Arc};

use super::{Outcome, member::Member};
use crate::{
    Now,
    event::{Command, Notice},
    health::Cause,
    lint::{self, LintRule},
    model::{EndpointRef, Mode, Service, Site, Steering},
    plan::{PlannedEndpoint, ServicePlan},
    status::{EndpointStatus, ServiceStatus, SiteShare},
    table::{self, TableSize},
    weights,
};

/// A service's state.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub config: Service,
    /// One for each endpoint of `config`, in its order.
    pub members: Vec<Member>,
    /// What each member weighs while it is healthy, in the same order.
    pub weights: Vec<u64>,
    /// The plan in force.
    pub applied: Option<ServicePlan>,
    /// How it was last applied.
    manner: Option<Manner>,
    /// Why the plan in force is not the one that is wanted.
    held: Option<LintRule>,
    /// Members by name.
    by_name: BTreeMap<Arc<str>, usize>,
    /// Members in the order of a plan: by name, address and port.
    order: Vec<usize>,
}

impl ServiceState {
    /// The service as a model has it, with what is still true of the old one.
    /// Returns also whether the old one is to be taken out of the kernel first,
    /// because clients now reach the service, or the service its endpoints, in
    /// another way. Weights are still to be set, by [`Self::weigh`].
    pub fn load(config: Service, old: Option<Self>, cause: Cause, now: Now) -> (Self, bool) {
        let mut old_members = BTreeMap::new();
        let (mut applied, mut manner, mut held) = (None, None, None);
        let (mut is_replaced, mut is_same_probe) = (false, true);
        if let Some(old) = old {
            is_same_probe = old.config.health.probe == config.health.probe;
            is_replaced = front(&old.config) != front(&config);
            if !is_replaced {
                (applied, manner, held) = (old.applied, old.manner, old.held);
            }
            let members = old.members.into_iter();
            old_members.extend(members.map(|m| (m.config.name.clone(), m)));
        }
        let members: Vec<_> = config
            .endpoints
            .iter()
            .cloned()
            .map(|endpoint| match old_members.remove(&endpoint.name) {
                Some(member) => member.reload(endpoint, is_same_probe),
                None => Member::new(endpoint, cause, now),
            })
            .collect();
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| {
            let endpoint = &config.endpoints[index];
            (&endpoint.name, endpoint.address, endpoint.port)
        });
        let names = config.endpoints.iter().map(|e| e.name.clone());
        let state = Self {
            by_name: names.zip(0..).collect(),
            members,
            weights: Vec::new(),
            applied,
            manner,
            held,
            order,
            config,
        };
        (state, is_replaced)
    }

    pub fn weigh<'a>(&mut self, sites: impl Iterator<Item = &'a Site>) {
        self.weights = weights::of_service(&self.config, sites);
    }

    pub fn index_of(&self, endpoint: &str) -> Option<usize> {
        self.by_name.get(endpoint).copied()
    }

    pub fn reference(&self, index: usize) -> EndpointRef {
        EndpointRef {
            service: self.config.name.clone(),
            endpoint: self.members[index].config.name.clone(),
        }
    }

    /// Applies a new plan if one is wanted and allowed.
    pub fn replan(
        &mut self,
        table_size: TableSize,
        site_drains: impl Fn(&str) -> bool,
        outcome: &mut Outcome,
    ) {
        let endpoints = self.propose(site_drains);
        let manner = self.manner();
        let is_wanted = match &self.applied {
            // The table follows from the endpoints, so it need not be built to
            // know that it would be the same.
            Some(applied) => {
                applied.endpoints != endpoints || self.manner.as_ref() != Some(&manner)
            }
            None => {
                (self.config.mode == Mode::Proxy && endpoints.is_empty())
                    || endpoints.iter().any(PlannedEndpoint::is_eligible)
            }
        };
        if !is_wanted {
            return self.release(outcome);
        }
        let plan = ServicePlan {
            service: self.config.name.clone(),
            version: self.applied.as_ref().map_or(0, |p| p.version) + 1,
            table: table::build(&endpoints, table_size),
            endpoints,
        };
        let context = lint::Context {
            applied: self.applied.as_ref(),
            table_size,
        };
        match lint::check(&plan, context) {
            Ok(()) => {
                self.applied = Some(plan.clone());
                self.manner = Some(manner);
                outcome.applied.push(Command::Apply(plan));
                self.release(outcome);
            }
            Err(refusal) => {
                if self.held.replace(refusal.rule) != Some(refusal.rule) {
                    outcome.notice(Notice::Refused {
                        service: self.config.name.clone(),
                        rule: refusal.rule,
                        detail: refusal.detail,
                    });
                }
            }
        }
    }

    fn release(&mut self, outcome: &mut Outcome) {
        if self.held.take().is_some() {
            let service = self.config.name.clone();
            outcome.notice(Notice::Resumed { service });
        }
    }

    /// How a plan would be applied now.
    fn manner(&self) -> Manner {
        let endpoints = &self.config.endpoints;
        Manner {
            steering: self.config.steering.clone(),
            server_ids: self.order.iter().map(|&i| endpoints[i].server_id).collect(),
        }
    }

    /// What every endpoint should be now, in the order of a plan.
    fn propose(&self, site_drains: impl Fn(&str) -> bool) -> Vec<PlannedEndpoint> {
        self.order
            .iter()
            .map(|&index| {
                let member = &self.members[index];
                let weight = self.weights[index];
                let endpoint = &member.config;
                let mut planned = PlannedEndpoint {
                    name: endpoint.name.clone(),
                    site: endpoint.site.clone(),
                    address: endpoint.address,
                    port: endpoint.port,
                    state: member.state(site_drains(&endpoint.site), weight),
                    weight,
                };
                if !planned.is_eligible() {
                    planned.weight = 0;
                }
                planned
            })
            .collect()
    }

    pub fn status<'a>(
        &self,
        sites: impl Iterator<Item = &'a Site>,
        site_drains: impl Fn(&str) -> bool,
    ) -> ServiceStatus {
        let in_force = InForce::new(self.applied.as_ref());
        let endpoints = self.members.iter().map(|member| {
            let endpoint = &member.config;
            let (effective_weight, share) = in_force.of_endpoint(&endpoint.name);
            EndpointStatus {
                name: endpoint.name.clone(),
                site: endpoint.site.clone(),
                address: endpoint.address,
                port: endpoint.port,
                verdict: member.verdict,
                cause: member.cause,
                since: member.since,
                draining: member.is_draining(site_drains(&endpoint.site)),
                last_latency: member.health.last_latency(),
                last_failure: member.health.last_failure(),
                successes: member.health.successes(),
                failures: member.health.failures(),
                weight: endpoint.weight,
                effective_weight,
                share,
            }
        });
        ServiceStatus {
            name: self.config.name.clone(),
            vip: self.config.vip,
            port: self.config.port,
            protocol: self.config.protocol,
            mode: self.config.mode,
            version: self.applied.as_ref().map_or(0, |plan| plan.version),
            published: self.applied.is_some(),
            held: self.held,
            sites: self.site_shares(sites, &in_force),
            endpoints: endpoints.collect(),
        }
    }

    /// Shares of the sites that have endpoints in this service.
    fn site_shares<'a>(
        &self,
        sites: impl Iterator<Item = &'a Site>,
        in_force: &InForce<'_>,
    ) -> Vec<SiteShare> {
        let total: u128 = self.weights.iter().copied().map(u128::from).sum();
        let configured = |site: &str| {
            let members = self.members.iter().zip(&self.weights);
            let weights = members.filter(|(m, _)| *m.config.site == *site);
            let sum: u128 = weights.map(|(_, &weight)| u128::from(weight)).sum();
            sum as f64 / total.max(1) as f64
        };
        sites
            .filter(|site| self.members.iter().any(|m| m.config.site == site.name))
            .map(|site| SiteShare {
                name: site.name.clone(),
                configured: configured(&site.name),
                effective: in_force.of_site(&site.name),
            })
            .collect()
    }
}

/// What the kernel is told beside a plan, and can be told while flows go on.
#[derive(Debug, PartialEq, Eq)]
struct Manner {
    steering: Steering,
    /// Of the endpoints, in the order of the plan.
    server_ids: Vec<Option<u32>>,
}

/// What clients and endpoints would notice if it changed.
fn front(config: &Service) -> impl PartialEq {
    (config.vip, config.port, config.protocol, config.mode)
}

/// A plan by names, with its slots counted.
struct InForce<'a> {
    endpoints: BTreeMap<&'a str, (&'a PlannedEndpoint, f64)>,
}

impl<'a> InForce<'a> {
    fn new(plan: Option<&'a ServicePlan>) -> Self {
        let endpoints = plan
            .into_iter()
            .flat_map(|plan| {
                let shares = plan.slots().into_iter();
                let shares = shares.map(|n| f64::from(n) / plan.table.len() as f64);
                plan.endpoints.iter().zip(shares)
            })
            .map(|(endpoint, share)| (&*endpoint.name, (endpoint, share)))
            .collect();
        Self { endpoints }
    }

    /// Effective weight and share.
    fn of_endpoint(&self, name: &str) -> (u64, f64) {
        self.endpoints
            .get(name)
            .map_or((0, 0.0), |(endpoint, share)| (endpoint.weight, *share))
    }

    fn of_site(&self, name: &str) -> f64 {
        let of_site = self.endpoints.values().filter(|(e, _)| *e.site == *name);
        of_site.map(|(_, share)| share).sum()
    }
}
