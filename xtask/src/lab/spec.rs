//! What a lab is to look like: the choices of whoever raises it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::addresses::VIP;

/// The prefix of the lab that `cargo xtask lab up` leaves standing.
pub const STANDING_PREFIX: &str = "director-lab";

/// How the edge hands packets to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// IPIP / IP6IP6 to the endpoint, which answers the client directly.
    Tunnel,
    /// Address translation in both directions at the edge; endpoints are untouched.
    Nat,
    /// By the endpoint's Ethernet address, on a network that edge and endpoints
    /// share; the endpoint answers the client directly.
    L2,
    /// By the edge's proxy, which asks endpoints over HTTP/1.1.
    Proxy,
}

impl Mode {
    /// The word configuration files and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Nat => "nat",
            Self::L2 => "l2",
            Self::Proxy => "proxy",
        }
    }

    /// Whether endpoints hold the VIP, and answer clients themselves.
    pub fn is_direct_return(self) -> bool {
        match self {
            Self::Tunnel | Self::L2 => true,
            Self::Nat | Self::Proxy => false,
        }
    }
}

/// The address family of the service under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[value(name = "4")]
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[value(name = "6")]
    #[serde(rename = "6")]
    V6,
}

/// What can go wrong with a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The site's servers die at once (SIGKILL); their ports refuse.
    Kill,
    /// Packets to the site's endpoints vanish without an answer.
    Blackhole,
    /// Both uplinks of the site, to the edge and to the client, lose carrier.
    LinkDown,
    /// An operator drains the site: a planned change.
    Drain,
    /// The site's servers answer 500 to everything but health checks.
    ErrorBurst,
    /// The site's servers take long for every answer but those to health checks.
    SlowSite,
}

impl Fault {
    /// The word the command line and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Blackhole => "blackhole",
            Self::LinkDown => "link-down",
            Self::Drain => "drain",
            Self::ErrorBurst => "error-burst",
            Self::SlowSite => "slow-site",
        }
    }

    /// Whether health checks see nothing of it, so that only circuit breakers do.
    pub fn passes_checks(self) -> bool {
        matches!(self, Self::ErrorBurst | Self::SlowSite)
    }
}

/// Everything that can be chosen about a lab. `Default` is the standing lab with
/// the director's own defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabSpec {
    /// Names every namespace (`<prefix>-<host>`) and the folder `/run/<prefix>`.
    pub prefix: String,
    /// How the edge hands packets to endpoints.
    pub mode: Mode,
    /// The family of the VIP and of the endpoints.
    pub family: Family,
    /// `edge.limits.flows`: connection table entries.
    pub flows: u32,
    /// `health.interval`.
    pub interval: Duration,
    /// `health.fast_interval`.
    pub fast_interval: Duration,
    /// `health.timeout`.
    pub timeout: Duration,
    /// `health.rise`.
    pub rise: u32,
    /// `health.fall`.
    pub fall: u32,
    /// Where the director serves `/metrics` inside the edge's namespace.
    pub metrics: SocketAddr,
    /// The director's binary. `None` raises the network and the servers alone.
    pub director: Option<PathBuf>,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self {
            prefix: STANDING_PREFIX.to_owned(),
            mode: Mode::Tunnel,
            family: Family::V4,
            flows: 1_048_576,
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            metrics: SocketAddr::from(([127, 0, 0, 1], 9600)),
            director: None,
        }
    }
}

impl LabSpec {
    /// The service's address: 203.0.113.10:80 or [2001:db8:53::10]:80.
    pub fn vip(&self) -> SocketAddr {
        let ip: IpAddr = match self.family {
            Family::V4 => VIP.0.into(),
            Family::V6 => VIP.1.into(),
        };
        SocketAddr::new(ip, 80)
    }
}

/// A site of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// `dc01`, ...; also the host name of its router.
    pub name: String,
    /// The configured weight.
    pub weight: u32,
    /// The servers behind it.
    pub endpoints: Vec<Endpoint>,
}

/// A server of the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `dc01-a`, ...; also its host name.
    pub name: String,
    /// Its own address in the lab's family (in tunnel and l2 mode it also holds
    /// the VIP).
    pub address: IpAddr,
}
