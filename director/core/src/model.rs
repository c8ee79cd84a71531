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
    /// The port that clients connect to; 0 for every port that no other service
    /// of the same address and protocol has.
    pub port: u16,
    /// The protocol that clients speak.
    pub protocol: Protocol,
    /// How packets reach the endpoints.
    pub mode: Mode,
    /// How packets are treated on their way.
    pub steering: Steering,
    /// How the endpoints are probed and judged.
    pub health: HealthPolicy,
    /// At most 65,535: see [`crate::table::build`]. In [`Mode::Proxy`] there may be
    /// none.
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
    /// Port that the server listens on. In [`Mode::Tunnel`] and [`Mode::L2`] it
    /// equals the service's port, since packets arrive unchanged.
    pub port: u16,
    /// Share relative to the other endpoints of the same site.
    pub weight: u32,
    /// What the server puts into the connection IDs that it gives out: 24 bits,
    /// not 0, unique within the service. Every endpoint has one under
    /// [`Affinity::Quic`].
    pub server_id: Option<u32>,
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
    /// Encapsulated to the endpoint, which answers the client directly.
    Tunnel,
    /// Addresses rewritten in both directions; servers stay as they are.
    Nat,
    /// Ethernet addresses rewritten, on a network that edge and endpoint share;
    /// the endpoint answers the client directly.
    L2,
    /// To the edge's own network stack, counted. Endpoints, where there are any,
    /// are the edge proxy's.
    Proxy,
    /// Not by packets: only the edge proxy's routes name the service, which has no
    /// VIP (0.0.0.0, port 0).
    Pool,
}

impl Mode {
    /// Whether packets are steered to the endpoints, so that the kernel has to
    /// know them.
    #[must_use]
    pub fn is_steered(self) -> bool {
        match self {
            Self::Tunnel | Self::Nat | Self::L2 => true,
            Self::Proxy | Self::Pool => false,
        }
    }
}

/// How a service's packets are treated, apart from where they go. A change of it
/// leaves the service's flows where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// The outer header of [`Mode::Tunnel`]; without meaning in other modes.
    pub encapsulation: Encapsulation,
    /// When flows are recorded. [`Mode::Nat`] records all of its flows, and
    /// [`Mode::Proxy`] none, whatever this says.
    pub track: Track,
    /// What decides which packets go to one endpoint.
    pub affinity: Affinity,
    /// What becomes of the flows of an endpoint that is dead.
    pub on_death: OnDeath,
    /// The most that a SYN's MSS option may say, in bytes. TCP only.
    pub mss: Option<u16>,
    /// New connections per second that one source address may open. TCP only.
    pub connection_rate: Option<u32>,
    /// Whether SYNs are answered with cookies (RFC 4987, section 3.6) before the
    /// stack sees them. [`Mode::Proxy`] and TCP only.
    pub syn_cookies: bool,
    /// How long a recorded flow of UDP may be silent before it counts as over.
    pub idle_timeout: Duration,
}

/// Outer headers of IP alone, flows recorded where that is needed and steered
/// anew when their endpoint dies, UDP's over after 60 s; nothing limited.
impl Default for Steering {
    fn default() -> Self {
        Self {
            encapsulation: Encapsulation::Ip,
            track: Track::Auto,
            affinity: Affinity::Flow,
            on_death: OnDeath::Resteer,
            mss: None,
            connection_rate: None,
            syn_cookies: false,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// How a packet is wrapped on its way to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// IP within IP (RFC 2003, RFC 2473).
    Ip,
    /// IP within UDP: generic UDP encapsulation, variant 1
    /// (draft-ietf-intarea-gue). Networks spread it by its source port.
    Gue,
}

/// When a flow is recorded, so that it stays where it is while tables change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Track {
    /// Where the table alone could not keep it in place.
    Auto,
    /// From its first packet on.
    Always,
    /// Never: the table alone decides.
    Never,
}

/// Which packets go to one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Those of one flow: addresses, ports and protocol.
    Flow,
    /// All of one source address.
    Source,
    /// Those whose QUIC connection ID names the endpoint's
    /// [`server_id`](Endpoint::server_id), whatever address the client moved to;
    /// others as [`Affinity::Flow`]. UDP only.
    Quic,
}

/// What becomes of a flow whose endpoint is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnDeath {
    /// It goes to another endpoint, which makes of it what it can.
    Resteer,
    /// The client gets a reset at its next packet. TCP only.
    Reset,
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
