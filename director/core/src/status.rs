//! A snapshot of what the core knows and decided, for people and metrics.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::{
    Now,
    health::{Cause, Failure, Verdict},
    lint::LintRule,
    model::{Mode, Protocol},
};

/// Everything the core knows, in the order of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The sites.
    pub sites: Vec<SiteStatus>,
    /// The services.
    pub services: Vec<ServiceStatus>,
}

/// One site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its configured weight.
    pub weight: u32,
    /// The verdict over all of its endpoints.
    pub verdict: Verdict,
    /// Whether an operator drains the whole site.
    pub draining: bool,
    /// Its share of new flows, 0 to 1: the mean over the published services that
    /// have endpoints. 0 when there is none.
    pub share: f64,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The virtual IP address that clients connect to.
    pub vip: IpAddr,
    /// The port that clients connect to.
    pub port: u16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// How packets reach its endpoints.
    pub mode: Mode,
    /// Version of the plan in force; 0 when there is none.
    pub version: u64,
    /// Whether a plan is in force.
    pub published: bool,
    /// Why the plan in force is kept although another one is wanted.
    pub held: Option<LintRule>,
    /// Shares of the sites that it has endpoints in.
    pub sites: Vec<SiteShare>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// A site's part of the new flows of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteShare {
    /// Name of the site.
    pub name: Arc<str>,
    /// What the configuration gives it while everything is healthy, 0 to 1.
    pub configured: f64,
    /// What the plan in force gives it, 0 to 1.
    pub effective: f64,
}

/// One endpoint of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The site it stands in.
    pub site: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// The port it listens on.
    pub port: u16,
    /// The verdict about it.
    pub verdict: Verdict,
    /// What led to that verdict.
    pub cause: Cause,
    /// When that verdict was reached.
    pub since: Now,
    /// Whether an operator drains it or its site, whatever the verdict.
    pub draining: bool,
    /// How long its last successful probe took.
    pub last_latency: Option<Duration>,
    /// Why its last failed probe failed, even when others succeeded since.
    pub last_failure: Option<Failure>,
    /// Successful probes since the last failed one.
    pub successes: u32,
    /// Failed probes since the last successful one.
    pub failures: u32,
    /// Its configured weight.
    pub weight: u32,
    /// Its weight in the plan in force, see [`crate::weights`].
    pub effective_weight: u64,
    /// Its share of new flows in the plan in force, 0 to 1.
    pub share: f64,
}
