//! What is true, told from the events alone and in the plainest way: against it
//! the core's verdicts, drains, paces and published states are held.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use director_core::{
    Adopted, EndpointRef, EndpointState, Event, Failure, HealthPolicy, Mode, Model, Now, Pace,
    Service, Steering, Target, Verdict,
};

/// The endpoints of a model, as they should be judged.
pub struct Oracle {
    pub model: Model,
    pub members: BTreeMap<EndpointRef, Member>,
    pub drained_sites: BTreeSet<Arc<str>>,
    /// What the kernel held, until there is a model to match it to.
    adopted: Vec<Adopted>,
    is_loaded: bool,
}

/// What the kernel is told of a service beside its plan: its steering, and the
/// server IDs of its endpoints by name.
#[derive(Clone, PartialEq)]
pub struct Manner(Steering, BTreeMap<Arc<str>, Option<u32>>);

/// An endpoint.
#[derive(Clone)]
pub struct Member {
    pub site: Arc<str>,
    pub address: IpAddr,
    pub port: u16,
    /// Part of its service's new flows while everything is healthy; not
    /// normalised. 0 when any weight is.
    pub weight: f64,
    /// `None` while unknown.
    is_healthy: Option<bool>,
    /// Outcomes since the last reset; `true` for a success.
    outcomes: Vec<bool>,
    drain: Drain,
    /// Since when its server, its probe and its prober are as they are. From a
    /// bound after that on, the verdict must be the truth.
    pub steady_since: Now,
}

#[derive(Clone, Copy, PartialEq)]
enum Drain {
    Off,
    On,
    Adopted,
}

impl Member {
    fn is_draining(&self, drained_sites: &BTreeSet<Arc<str>>) -> bool {
        self.drain != Drain::Off || drained_sites.contains(&self.site)
    }

    fn row(&self, of: bool) -> usize {
        self.outcomes
            .iter()
            .rev()
            .take_while(|&&outcome| outcome == of)
            .count()
    }

    fn observe(&mut self, success: bool, policy: &HealthPolicy) {
        self.outcomes.push(success);
        let needed = match self.is_healthy {
            None => 1,
            Some(true) => policy.fall,
            Some(false) => policy.rise,
        };
        if self.is_healthy != Some(success) && self.row(success) >= needed as usize {
            self.is_healthy = Some(success);
        }
    }

    /// Nothing probed since the last reset, or the last outcome disagrees.
    pub fn wanted_pace(&self) -> Pace {
        let last = self.outcomes.last().copied();
        if last.is_some() && last == self.is_healthy {
            Pace::Normal
        } else {
            Pace::Fast
        }
    }
}

impl Oracle {
    /// A new process that has not heard of anything.
    pub fn new() -> Self {
        Self {
            model: Model {
                sites: Vec::new(),
                services: Vec::new(),
            },
            members: BTreeMap::new(),
            drained_sites: BTreeSet::new(),
            adopted: Vec::new(),
            is_loaded: false,
        }
    }

    /// Takes in what the core is about to be told.
    pub fn expect(&mut self, event: &Event, now: Now) {
        match event {
            Event::Model(model) => self.load(model, now),
            Event::Adopted(adopted) => {
                self.adopted.extend(adopted.iter().cloned());
                if self.is_loaded {
                    self.adopt();
                }
            }
            Event::Probe { endpoint, outcome } => {
                let success = match outcome {
                    Ok(_) => true,
                    Err(Failure::Local) => return,
                    Err(_) => false,
                };
                let policy = self.policy(endpoint).cloned();
                let member = self.members.get_mut(endpoint);
                if let (Some(policy), Some(member)) = (policy, member) {
                    member.observe(success, &policy);
                }
            }
            Event::Drain {
                target: Target::Site(site),
                on: true,
            } => {
                self.drained_sites.insert(site.clone());
            }
            Event::Drain {
                target: Target::Site(site),
                on: false,
            } => {
                self.drained_sites.remove(site);
                let of_site = self.members.values_mut().filter(|m| m.site == *site);
                of_site
                    .filter(|m| m.drain == Drain::Adopted)
                    .for_each(|m| m.drain = Drain::Off);
            }
            Event::Drain {
                target: Target::Endpoint(endpoint),
                on,
            } => {
                if let Some(member) = self.members.get_mut(endpoint) {
                    member.drain = if *on { Drain::On } else { Drain::Off };
                }
            }
        }
    }

    fn load(&mut self, model: &Model, now: Now) {
        let mut old = std::mem::take(&mut self.members);
        for service in &model.services {
            let old_service = self.model.services.iter().find(|s| s.name == service.name);
            for endpoint in &service.endpoints {
                let key = EndpointRef {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                };
                let of_site = service.endpoints.iter().filter(|e| e.site == endpoint.site);
                let site_total: f64 = of_site.map(|e| f64::from(e.weight)).sum();
                let site = model.sites.iter().find(|s| s.name == endpoint.site);
                let site_weight = site.map_or(0.0, |s| f64::from(s.weight));
                let mut member = Member {
                    site: endpoint.site.clone(),
                    address: endpoint.address,
                    port: endpoint.port,
                    weight: site_weight * f64::from(endpoint.weight) / site_total.max(1.0),
                    is_healthy: None,
                    outcomes: Vec::new(),
                    drain: Drain::Off,
                    steady_since: now,
                };
                if let (Some(old), Some(old_service)) = (old.remove(&key), old_service) {
                    member.drain = old.drain;
                    if (old.address, old.port) == (member.address, member.port) {
                        member.is_healthy = old.is_healthy;
                        if old_service.health.probe == service.health.probe {
                            member.outcomes = old.outcomes;
                        }
                        if old_service.health == service.health {
                            member.steady_since = old.steady_since;
                        }
                    }
                }
                self.members.insert(key, member);
            }
        }
        self.drained_sites
            .retain(|name| model.sites.iter().any(|s| s.name == *name));
        self.model = model.clone();
        self.is_loaded = true;
        self.adopt();
    }

    fn adopt(&mut self) {
        for held in std::mem::take(&mut self.adopted) {
            for (key, member) in &mut self.members {
                let is_meant = key.service == held.service
                    && (member.address, member.port) == (held.address, held.port);
                if !is_meant || member.is_healthy.is_some() {
                    continue;
                }
                member.is_healthy = Some(held.state != EndpointState::Dead);
                let explained = member.weight == 0.0 || member.is_draining(&self.drained_sites);
                if held.state == EndpointState::Draining && !explained {
                    member.drain = Drain::Adopted;
                }
            }
        }
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.model.services.iter().find(|s| *s.name == *name)
    }

    pub fn policy(&self, endpoint: &EndpointRef) -> Option<&HealthPolicy> {
        Some(&self.service(&endpoint.service)?.health)
    }

    pub fn is_proxy(&self, service: &str) -> bool {
        self.service(service).is_some_and(|s| s.mode == Mode::Proxy)
    }

    pub fn manner(&self, service: &str) -> Option<Manner> {
        let service = self.service(service)?;
        let endpoints = service.endpoints.iter();
        let server_ids = endpoints.map(|e| (e.name.clone(), e.server_id)).collect();
        Some(Manner(service.steering.clone(), server_ids))
    }

    /// The drains in force, to be told to another process.
    pub fn drains(&self) -> Vec<Target> {
        let sites = self.drained_sites.iter().cloned().map(Target::Site);
        let drained = self.members.iter().filter(|(_, m)| m.drain != Drain::Off);
        sites
            .chain(drained.map(|(key, _)| Target::Endpoint(key.clone())))
            .collect()
    }

    pub fn verdict(&self, member: &Member) -> Verdict {
        match member.is_healthy {
            None => Verdict::Unknown,
            Some(false) => Verdict::Down,
            Some(true) if member.is_draining(&self.drained_sites) => Verdict::Draining,
            Some(true) => Verdict::Healthy,
        }
    }

    pub fn site_verdict(&self, site: &str) -> Verdict {
        let members = || self.members.values().filter(|m| *m.site == *site);
        if members().any(|m| m.is_healthy == Some(true)) {
            let drained = self.drained_sites.contains(site);
            if drained {
                Verdict::Draining
            } else {
                Verdict::Healthy
            }
        } else if members().count() > 0 && members().all(|m| m.is_healthy == Some(false)) {
            Verdict::Down
        } else {
            Verdict::Unknown
        }
    }

    pub fn state(&self, member: &Member) -> EndpointState {
        match self.verdict(member) {
            Verdict::Healthy if member.weight > 0.0 => EndpointState::Active,
            Verdict::Healthy | Verdict::Draining => EndpointState::Draining,
            Verdict::Down | Verdict::Unknown => EndpointState::Dead,
        }
    }

    /// Endpoints of a service, by name.
    pub fn of_service<'a>(
        &'a self,
        service: &'a Arc<str>,
    ) -> impl Iterator<Item = (&'a EndpointRef, &'a Member)> {
        let first = EndpointRef {
            service: service.clone(),
            endpoint: "".into(),
        };
        let from_first = self.members.range(first..);
        from_first.take_while(move |(key, _)| key.service == *service)
    }

    /// Whether a service has an endpoint for new flows, or needs none.
    pub fn is_served(&self, service: &Arc<str>) -> bool {
        let is_active = |m| self.state(m) == EndpointState::Active;
        self.is_proxy(service) || self.of_service(service).any(|(_, m)| is_active(m))
    }
}

/// The time after which the verdict about a server that stays as it is must be
/// right: one interval, the further probes at the fast pace or one after the
/// other if that is slower, and the last one's time.
pub fn bound(policy: &HealthPolicy, is_up: bool) -> Duration {
    let row = if is_up { policy.rise } else { policy.fall };
    policy.interval + policy.fast_interval.max(policy.timeout) * (row - 1) + policy.timeout
}
