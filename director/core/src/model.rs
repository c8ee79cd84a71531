//! What is to be steered: sites, services and their endpoints.
//!
//! A [`Model`] is valid by construction of its maker (`director`'s
//! configuration): names are unique, families agree, references resolve.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

/// Everything the core decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Unique by name.
    pub sites: Vec<Site>,
    /// Unique by name.
    pub services: Vec<Service>,
}

/// One data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Unique among the sites.
    pub name: Arc<str>,
    /// Share of new flows relative to the other sites; 0 means "no new flows".
    pub weight: u32,
}

/// A virtual address and port, and the endpoints that serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among the services.
    pub name: Arc<str>,
    /// The virtual IP address that clients connect to.
    pub vip: IpAddr,
    /// The port that clients connect to.
    pub port: u16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// How packets reach the endpoints.
    pub mode: Mode,
    /// How the endpoints are probed and judged.
    pub health: HealthPolicy,
    /// At most 65,535: see [`crate::table::build`].
    pub endpoints: Vec<Endpoint>,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique within its service.
    pub name: Arc<str>,
    /// Name of a [`Site`] of the same model.
    pub site: Arc<str>,
    /// Address of the server.
    pub address: IpAddr,
    /// Port that the server listens on. In [`Mode::Tunnel`] it equals the
    /// service's port, since packets arrive unchanged.
    pub port: u16,
    /// Share relative to the other endpoints of the same site.
    pub weight: u32,
}

/// Names an endpoint across services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointRef {
    /// Name of its service.
    pub service: Arc<str>,
    /// Its own name therein.
    pub endpoint: Arc<str>,
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.endpoint)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// How packets reach an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// IP-in-IP to the endpoint, which answers the client directly.
    Tunnel,
    /// Addresses rewritten in both directions; servers stay as they are.
    Nat,
}

/// How an endpoint of a service is probed and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// What is asked of an endpoint.
    pub probe: ProbeSpec,
    /// From one probe's start to the next one's, while there is no doubt.
    pub interval: Duration,
    /// The same, while a verdict is in doubt.
    pub fast_interval: Duration,
    /// A probe without an answer for this long has failed.
    pub timeout: Duration,
    /// Successes in a row that make a down endpoint healthy.
    pub rise: u32,
    /// Failures in a row that make a healthy endpoint down.
    pub fall: u32,
    /// Intervals are shortened at random by up to this many per cent, so that
    /// probes of many endpoints spread out. Never lengthened: the time to
    /// detect a fault stays bounded by the interval.
    pub jitter_percent: u8,
}

/// A TCP probe every 5 s, every 500 ms in doubt, given up after 500 ms; down
/// after three failures, healthy after two successes.
impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            probe: ProbeSpec::Tcp { port: None },
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            jitter_percent: 10,
        }
    }
}

/// What makes a probe pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeSpec {
    /// The handshake completes.
    Tcp {
        /// Another port than the endpoint's.
        port: Option<u16>,
    },
    /// `GET path` answers with a status in `status`, and `body`, if any,
    /// occurs in the first 64 KiB of the response.
    Http {
        /// Another port than the endpoint's.
        port: Option<u16>,
        /// Value of the `Host` header.
        host: String,
        /// Path and query, from the slash on.
        path: String,
        /// Status codes that pass.
        status: std::ops::RangeInclusive<u16>,
        /// Text that the body must hold.
        body: Option<String>,
    },
}
