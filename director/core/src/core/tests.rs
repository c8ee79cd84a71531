#![allow(
    clippy::unwrap_used,
    reason = "a None or Err here fails the test it is in"
)]

use super::*;
use crate::{EndpointState, LintRule, Pace, ServicePlan, fixture, model::ProbeSpec};

mod drain;
mod plan;
mod reload;
mod restart;
mod steering;

const OK: Result<Duration, Failure> = Ok(Duration::from_millis(2));
const REFUSED: Result<Duration, Failure> = Err(Failure::Refused);

/// A core with a clock that moves by a second an event.
struct Bench {
    core: Core,
    now: Now,
}

impl Bench {
    /// Knows of nothing.
    fn empty() -> Self {
        let table_size = fixture::table_size(1009);
        Self {
            core: Core::new(CoreOptions { table_size }),
            now: Now::ZERO,
        }
    }

    /// Has loaded the model.
    fn new(model: Model) -> Self {
        let mut bench = Self::empty();
        bench.handle(Event::Model(model));
        bench
    }

    /// The lab, all endpoints healthy.
    fn healthy() -> Self {
        let mut bench = Self::new(fixture::lab());
        for name in ["dc01-a", "dc01-b", "dc02-a", "dc02-b", "dc03-a", "dc03-b"] {
            bench.probe(name, OK);
        }
        bench
    }

    fn handle(&mut self, event: Event) -> Vec<Command> {
        self.now += Duration::from_secs(1);
        self.core.handle(event, self.now)
    }

    fn probe(&mut self, endpoint: &str, outcome: Result<Duration, Failure>) -> Vec<Command> {
        let endpoint = fixture::endpoint(endpoint);
        self.handle(Event::Probe { endpoint, outcome })
    }

    /// Fails probes until the endpoint is down. Returns the last commands.
    fn lose(&mut self, endpoint: &str) -> Vec<Command> {
        self.probe(endpoint, REFUSED);
        self.probe(endpoint, REFUSED);
        self.probe(endpoint, REFUSED)
    }

    /// Passes probes until the endpoint is healthy. Returns the last commands.
    fn recover(&mut self, endpoint: &str) -> Vec<Command> {
        self.probe(endpoint, OK);
        self.probe(endpoint, OK)
    }

    fn drain_site(&mut self, site: &str, on: bool) -> Vec<Command> {
        let target = Target::Site(site.into());
        self.handle(Event::Drain { target, on })
    }

    fn drain_endpoint(&mut self, endpoint: &str, on: bool) -> Vec<Command> {
        let target = Target::Endpoint(fixture::endpoint(endpoint));
        self.handle(Event::Drain { target, on })
    }

    fn plan(&self) -> &ServicePlan {
        self.core.plan("web").unwrap()
    }

    fn planned_state(&self, endpoint: &str) -> EndpointState {
        let plan = self.plan();
        let planned = plan.endpoints.iter().find(|e| *e.name == *endpoint);
        planned.unwrap().state
    }

    fn status(&self, endpoint: &str) -> crate::EndpointStatus {
        let service = self.core.status().services.remove(0);
        let mut endpoints = service.endpoints.into_iter();
        endpoints.find(|e| *e.name == *endpoint).unwrap()
    }

    fn verdict(&self, endpoint: &str) -> Verdict {
        self.status(endpoint).verdict
    }

    fn site_verdict(&self, site: &str) -> Verdict {
        let mut sites = self.core.status().sites.into_iter();
        sites.find(|s| *s.name == *site).unwrap().verdict
    }

    fn held(&self) -> Option<LintRule> {
        self.core.status().services[0].held
    }

    /// Share of the table in points.
    fn points(&self, endpoint: &str) -> f64 {
        self.status(endpoint).share * 100.0
    }
}

fn applies(commands: &[Command]) -> Vec<&ServicePlan> {
    let plans = commands.iter().filter_map(|command| match command {
        Command::Apply(plan) => Some(plan),
        _ => None,
    });
    plans.collect()
}

fn paces(commands: &[Command]) -> Vec<(&str, Pace)> {
    let paces = commands.iter().filter_map(|command| match command {
        Command::Pace { endpoint, pace } => Some((&*endpoint.endpoint, *pace)),
        _ => None,
    });
    paces.collect()
}

fn notices(commands: &[Command]) -> Vec<&Notice> {
    let notices = commands.iter().filter_map(|command| match command {
        Command::Notice(notice) => Some(notice),
        _ => None,
    });
    notices.collect()
}

fn removed(commands: &[Command]) -> Vec<&str> {
    let names = commands.iter().filter_map(|command| match command {
        Command::Remove { service } => Some(&**service),
        _ => None,
    });
    names.collect()
}

/// `(endpoint, from, to, cause)` of the verdicts that changed.
fn changes(commands: &[Command]) -> Vec<(String, Verdict, Verdict, Cause)> {
    let changes = notices(commands)
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Endpoint {
                endpoint,
                from,
                to,
                cause,
                ..
            } => Some((endpoint.endpoint.to_string(), *from, *to, *cause)),
            _ => None,
        });
    changes.collect()
}
