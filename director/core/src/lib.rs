//! The decisions of director, free of I/O.
//!
//! [`Core`] takes an [`Event`] and the time, and returns [`Command`]s:
//!
//! ```text
//! probe outcome, drain, configuration -> health -> weights -> table -> lint -> plan
//! ```
//!
//! There is no socket, no clock and no randomness in here, so a whole outage
//! can be played back from a seed (see `tests/sim`). Time is a [`Now`]: a
//! [`Duration`](std::time::Duration) since a start of the caller's choice that
//! never goes backwards.
//!
//! # Example
//! ```
//! use director_core::{Command, Core, CoreOptions, Event};
//! # use director_core::*;
//! # use std::time::Duration;
//! # let policy = HealthPolicy {
//! #     probe: ProbeSpec::Tcp { port: None },
//! #     interval: Duration::from_secs(5), fast_interval: Duration::from_millis(500),
//! #     timeout: Duration::from_millis(500), rise: 2, fall: 3, jitter_percent: 10,
//! # };
//! # let model = Model {
//! #     sites: vec![Site { name: "dc01".into(), weight: 50 }],
//! #     services: vec![Service {
//! #         name: "web".into(), vip: "203.0.113.10".parse().unwrap(), port: 80,
//! #         protocol: Protocol::Tcp, mode: Mode::Tunnel, steering: Steering::default(), health: policy,
//! #         endpoints: vec![Endpoint {
//! #             name: "dc01-a".into(), site: "dc01".into(),
//! #             address: "198.18.1.11".parse().unwrap(), port: 80, weight: 1, server_id: None,
//! #         }],
//! #     }],
//! # };
//! let mut core = Core::new(CoreOptions::default());
//! let commands = core.handle(Event::Model(model), Duration::ZERO);
//! assert!(commands.iter().all(|c| matches!(c, Command::Pace { .. })), "nothing to steer to yet");
//!
//! // The first outcome of a new endpoint decides alone, and the service is published.
//! let endpoint = EndpointRef { service: "web".into(), endpoint: "dc01-a".into() };
//! let outcome = Ok(Duration::from_millis(1));
//! let commands = core.handle(Event::Probe { endpoint, outcome }, Duration::from_millis(2));
//! assert!(commands.iter().any(|c| matches!(c, Command::Apply(plan) if !plan.table.is_empty())));
//! ```
#![forbid(unsafe_code)]

#[cfg(test)]
mod fixture;

pub mod breaker;
pub mod core;
pub mod event;
pub mod health;
pub mod l7;
pub mod lint;
pub mod model;
pub mod plan;
pub mod status;
pub mod table;
pub mod weights;

pub use crate::{
    core::{Core, CoreOptions},
    event::{Adopted, Command, Event, Notice, Target},
    health::{Cause, Failure, Pace, Verdict},
    lint::LintRule,
    model::{
        Affinity, Encapsulation, Endpoint, EndpointRef, HealthPolicy, Mode, Model, OnDeath,
        ProbeSpec, Protocol, Service, Site, Steering, Track,
    },
    plan::{EndpointState, PlannedEndpoint, ServicePlan},
    status::{EndpointStatus, ServiceStatus, SiteShare, SiteStatus, Status},
    table::{NotPrime, TableSize},
};

/// Time since an arbitrary start that the caller chose. Never goes backwards.
pub type Now = std::time::Duration;
