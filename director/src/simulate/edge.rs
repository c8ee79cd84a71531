//! The edge that packets are run through: the daemon's plans, in maps of this
//! process alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use director_core::{
    Adopted, Command, Core, CoreOptions, EndpointRef, EndpointState, Event, Failure, Model, Notice,
    ServicePlan, TableSize, Target,
};

use super::Usage;
use crate::{
    config::Config,
    daemon,
    datapath::{
        Datapath, Hop, Options, Vip,
        simulate::{Counted, Simulation},
    },
};

/// When all of it happens: the core asks only that time does not go back.
const NOW: Duration = Duration::ZERO;

/// The way to every endpoint, but for the MTU: made up, and another interface
/// than the one that test runs come in by.
const HOP: Hop = Hop {
    interface: 2,
    destination: [2, 0, 0, 0, 0, 2],
    source: [2, 0, 0, 0, 0, 1],
    mtu: 0,
    vlan: 0,
};

/// The plans of all services that have an endpoint to steer to.
pub struct Plans {
    plans: Vec<ServicePlan>,
    /// What people should know about them.
    pub notes: Vec<String>,
}

/// Makes the plans that the daemon would have in force after every endpoint was
/// healthy, then those named by `down` failed, then those named by `drain` were
/// drained.
///
/// # Errors
/// [`Usage`] where a name is no site and no endpoint.
pub fn plans(config: &Config, down: &[String], drain: &[String]) -> Result<Plans> {
    let model = &config.model;
    let table_size = TableSize::new(config.edge.limits.table_size)?;
    let mut core = Core::new(CoreOptions { table_size });
    let mut events = vec![Event::Adopted(healthy(model)), Event::Model(model.clone())];
    for name in down {
        let target = target(model, name)?;
        events.extend(failures(model, &target));
    }
    for name in drain {
        let target = target(model, name)?;
        events.push(Event::Drain { target, on: true });
    }
    let mut held = BTreeMap::new();
    for event in events {
        for command in core.handle(event, NOW) {
            match command {
                Command::Notice(Notice::Refused {
                    service, detail, ..
                }) => {
                    held.insert(service, detail);
                }
                Command::Notice(Notice::Resumed { service }) => {
                    held.remove(&service);
                }
                // Of the plans only the last of each service counts, which the
                // core keeps.
                _ => {}
            }
        }
    }
    let mut plans = Plans {
        plans: Vec::new(),
        notes: held.into_values().collect(),
    };
    for service in &model.services {
        match core.plan(&service.name) {
            Some(plan) => plans.plans.push(plan.clone()),
            None => plans.notes.push(format!(
                "service {} has no endpoint that takes new flows: its packets pass",
                service.name
            )),
        }
    }
    Ok(plans)
}

/// All endpoints, as if the kernel held them in use. It leads to the same plans
/// as a successful probe of each, and to one table a service instead of one an
/// endpoint.
fn healthy(model: &Model) -> Vec<Adopted> {
    let of_service = |service: &director_core::Service| {
        let name = service.name.clone();
        let adopted = service.endpoints.iter().map(move |endpoint| Adopted {
            service: name.clone(),
            address: endpoint.address,
            port: endpoint.port,
            state: EndpointState::Active,
        });
        adopted.collect::<Vec<_>>()
    };
    model.services.iter().flat_map(of_service).collect()
}

/// Failed probes, as many as take each endpoint of `target` down.
fn failures(model: &Model, target: &Target) -> Vec<Event> {
    let mut events = Vec::new();
    for service in &model.services {
        for endpoint in &service.endpoints {
            let reference = EndpointRef {
                service: service.name.clone(),
                endpoint: endpoint.name.clone(),
            };
            let is_meant = match target {
                Target::Site(site) => endpoint.site == *site,
                Target::Endpoint(meant) => reference == *meant,
            };
            let probes = if is_meant { service.health.fall } else { 0 };
            events.extend((0..probes).map(|_| Event::Probe {
                endpoint: reference.clone(),
                outcome: Err(Failure::Timeout),
            }));
        }
    }
    events
}

/// What a name on the command line means.
fn target(model: &Model, name: &str) -> Result<Target> {
    let found = match name.split_once('/') {
        Some((service, endpoint)) => model
            .services
            .iter()
            .find(|s| &*s.name == service)
            .and_then(|s| {
                let endpoint = s.endpoints.iter().find(|e| &*e.name == endpoint)?;
                Some(Target::Endpoint(EndpointRef {
                    service: s.name.clone(),
                    endpoint: endpoint.name.clone(),
                }))
            }),
        None => model
            .sites
            .iter()
            .find(|site| &*site.name == name)
            .map(|site| Target::Site(site.name.clone())),
    };
    found.ok_or_else(|| {
        let sites: Vec<&str> = model.sites.iter().map(|site| &*site.name).collect();
        let message = format!(
            "there is no site or service/endpoint called {name}\n  help: the sites are {}",
            sites.join(", ")
        );
        Usage(message).into()
    })
}

/// Loads the program and brings its maps to the plans.
///
/// # Errors
/// Without the privilege or the kernel for it.
pub fn open(config: &Config, plans: &Plans, mtu: u16) -> Result<Simulation> {
    let model = &config.model;
    let options = Options {
        pins: None,
        ..Options::new(&config.edge, daemon::uses(model))?
    };
    let (mut datapath, _) = Datapath::open(&options)?;
    let hop = Some(Hop { mtu, ..HOP });
    for plan in &plans.plans {
        for endpoint in &plan.endpoints {
            datapath.set_hop(endpoint.address, hop)?;
        }
        let service = model
            .services
            .iter()
            .find(|service| service.name == plan.service)
            .context("a plan is of a service of the model")?;
        datapath.apply(service, plan)?;
    }
    Simulation::new(datapath)
}

/// An endpoint as people know it.
pub struct Name {
    pub service: Arc<str>,
    /// `service/endpoint`.
    pub endpoint: String,
    pub site: Arc<str>,
}

/// The endpoints' names, by what counters tell.
pub struct Names(HashMap<Counted, Name>);

impl Names {
    /// Those of all endpoints of `model`.
    pub fn new(model: &Model) -> Self {
        let mut names = HashMap::new();
        for service in &model.services {
            for endpoint in &service.endpoints {
                let name = Name {
                    service: service.name.clone(),
                    endpoint: format!("{}/{}", service.name, endpoint.name),
                    site: endpoint.site.clone(),
                };
                names.insert((Vip::from(service), endpoint.address, endpoint.port), name);
            }
        }
        Self(names)
    }

    /// The name of an endpoint that was counted.
    pub fn get(&self, counted: &Counted) -> Option<&Name> {
        self.0.get(counted)
    }

    /// Characters of the longest `service/endpoint`.
    pub fn width(&self) -> usize {
        let lengths = self.0.values().map(|name| name.endpoint.chars().count());
        lengths.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn example() -> Config {
        let text = include_str!("../../examples/director.toml");
        config::parse(text, "director.toml").expect("valid").config
    }

    fn made(config: &Config, down: &[&str], drain: &[&str]) -> Plans {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        plans(config, &owned(down), &owned(drain)).expect("known names")
    }

    /// Endpoints that take new flows, by `service/endpoint`.
    fn active(plans: &Plans) -> Vec<String> {
        let of_plan = |plan: &ServicePlan| {
            let active = plan.endpoints.iter().filter(|e| e.is_eligible());
            let names = active.map(|e| format!("{}/{}", plan.service, e.name));
            names.collect::<Vec<_>>()
        };
        plans.plans.iter().flat_map(of_plan).collect()
    }

    #[test]
    fn plans_are_those_of_a_daemon_whose_probes_all_pass() {
        let config = example();
        let made = made(&config, &[], &[]);
        assert_eq!(made.notes, Vec::<String>::new());
        let table_size = TableSize::new(config.edge.limits.table_size).expect("prime");
        let mut core = Core::new(CoreOptions { table_size });
        let _ = core.handle(Event::Model(config.model.clone()), NOW);
        for service in &config.model.services {
            for endpoint in &service.endpoints {
                let endpoint = EndpointRef {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                };
                let outcome = Ok(Duration::from_millis(1));
                let _ = core.handle(Event::Probe { endpoint, outcome }, NOW);
            }
        }
        assert_eq!(made.plans.len(), config.model.services.len());
        for plan in &made.plans {
            let daemons = core.plan(&plan.service).expect("published");
            assert_eq!(plan.endpoints, daemons.endpoints);
            assert_eq!(plan.table, daemons.table);
        }
    }

    #[test]
    fn sites_and_endpoints_are_taken_out() {
        let config = example();
        let all = active(&made(&config, &[], &[]));
        let without = |names: &[&str]| -> Vec<String> {
            let kept = all.iter().filter(|name| !names.contains(&name.as_str()));
            kept.cloned().collect()
        };
        let dc01 = [
            "web/dc01-a",
            "web/dc01-b",
            "web6/dc01-a",
            "dns/dc01-ns",
            "shop/dc01-shop",
            "api/dc01-api",
        ];
        // web3 has no other site. Its endpoints fail one by one, and the last
        // stays; a drain of both at once is refused.
        let failed = [&dc01[..], &["web3/dc01-a"]].concat();
        assert_eq!(active(&made(&config, &["dc01"], &[])), without(&failed));
        assert_eq!(active(&made(&config, &[], &["dc01"])), without(&dc01));
        let two = made(&config, &["web/dc01-a"], &["dns/dc02-ns"]);
        assert_eq!(active(&two), without(&["web/dc01-a", "dns/dc02-ns"]));
        let gone = &two.plans[0].endpoints;
        let state = |name: &str| gone.iter().find(|e| &*e.name == name).map(|e| e.state);
        assert_eq!(state("dc01-a"), Some(EndpointState::Dead));
    }

    #[test]
    fn the_last_endpoints_stay_and_that_is_told() {
        let config = example();
        let made = made(&config, &["dc01"], &["dc02", "dc03"]);
        assert_eq!(made.notes.len(), 6, "{:?}", made.notes);
        assert!(made.notes[1].contains("service dns would have no endpoint left"));
        // But for the host's own, which has none.
        let bare = made.plans.iter().filter(|plan| plan.table.is_empty());
        let bare: Vec<&str> = bare.map(|plan| &*plan.service).collect();
        assert_eq!(bare, ["login"]);
    }

    #[test]
    fn a_service_without_weight_is_not_published_and_that_is_told() {
        let mut config = example();
        for site in &mut config.model.sites {
            site.weight = u32::from(&*site.name == "dc03");
        }
        let made = made(&config, &[], &[]);
        let expected = ["web/dc03-a", "web6/dc03-a", "shop/dc03-shop"];
        assert_eq!(active(&made), expected);
        assert_eq!(made.notes.len(), 3);
        assert!(made.notes[0].contains("service dns has no endpoint"));
        assert!(made.notes[1].contains("service web3 has no endpoint"));
    }
}
