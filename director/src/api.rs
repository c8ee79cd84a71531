//! What the control socket speaks: JSON over HTTP, version 1.
//!
//! `GET /v1/status`, `GET /v1/explain?source=…&destination=…&protocol=…`,
//! `POST /v1/drain` and `POST /v1/undrain` with a [`DrainRequest`].
//!
//! `GET /v1/conns` with the fields of a [`ConnsRequest`] and `GET /v1/trace`
//! with those of a [`TraceRequest`] are answered line by line: a
//! [`ConnReport`], or a [`TraceLine`], each.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The daemon's whole state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    pub edge: String,
    /// Version of the daemon.
    pub version: String,
    pub started_unix_ms: u64,
    pub interfaces: Vec<InterfaceReport>,
    pub reconciliation: ReconciliationReport,
    /// How full the kernel's tables are, IPv4's first.
    pub tables: Vec<TableReport>,
    /// Flow events that tracers were too slow for, since the start.
    pub trace_events_lost: u64,
    pub sites: Vec<SiteReport>,
    pub services: Vec<ServiceReport>,
}

/// One interface that packets are steered on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceReport {
    pub name: String,
    /// `driver`, `generic`, … or `null` where no program runs.
    pub xdp: Option<String>,
    pub up: bool,
}

/// The tables of one address family, as the last round through them found
/// them; a round takes up to a minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableReport {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Recorded flows.
    pub flows: u64,
    pub flow_capacity: u64,
    /// NAT ports in use.
    pub nat_ports: u64,
    /// 0 where no service of the family is in `nat` mode.
    pub nat_port_capacity: u64,
}

/// The comparisons of what the kernel holds with what it should hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReconciliationReport {
    pub passes: u64,
    /// Differences found and repaired since the start.
    pub repairs: u64,
    pub last_unix_ms: Option<u64>,
    /// Why the last pass failed, if it did.
    pub error: Option<String>,
}

/// One site.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteReport {
    pub name: String,
    /// Configured weight.
    pub weight: u32,
    /// `unknown`, `healthy`, `draining` or `down`.
    pub verdict: String,
    /// When the maps came to hold this verdict.
    pub since_unix_ms: u64,
    pub draining: bool,
    /// Share of new flows, 0 to 1.
    pub share: f64,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceReport {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: String,
    pub mode: String,
    /// Whether packets for it are steered.
    pub published: bool,
    /// Why the table in force is kept although another one is wanted.
    pub held: Option<String>,
    pub plan_version: u64,
    pub packets: u64,
    pub bytes: u64,
    /// New flows placed by the table.
    pub flows: u64,
    /// Slots of the table whose flows may be recorded.
    pub slots_tracked: u64,
    pub endpoints: Vec<EndpointReport>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointReport {
    pub name: String,
    pub site: String,
    pub address: IpAddr,
    pub port: u16,
    pub verdict: String,
    /// What led to the verdict.
    pub cause: String,
    pub since_unix_ms: u64,
    pub draining: bool,
    pub latency_ms: Option<f64>,
    /// Why its last failed probe failed.
    pub last_failure: Option<String>,
    /// Configured weight.
    pub weight: u32,
    /// Share of new flows, 0 to 1.
    pub share: f64,
    /// Whether the next hop towards it is known.
    pub next_hop: bool,
    pub packets: u64,
    pub bytes: u64,
    pub flows: u64,
}

/// Query of `/v1/explain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainRequest {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainReport {
    pub service: Option<String>,
    pub endpoint: Option<String>,
    pub site: Option<String>,
    pub address: Option<SocketAddr>,
    /// `flow` (its record), `base` (not recorded: the earlier owner of its
    /// slot), `table`, or `none` (not a service: passes).
    pub by: String,
    pub slot: Option<u32>,
    /// Where the table would send a new flow, where that is another endpoint.
    pub table_endpoint: Option<String>,
    pub verdict: Option<String>,
    /// The same in a sentence.
    pub why: String,
}

/// Query of `/v1/conns`: flows to which all that is given applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnsRequest {
    /// Name of a service.
    pub service: Option<String>,
    /// Address or prefix that clients are in.
    pub source: Option<String>,
    /// An endpoint's address, or `service/endpoint`.
    pub endpoint: Option<String>,
    /// Name of a site.
    pub site: Option<String>,
    /// Most flows to list; without it, or 0: all.
    pub limit: Option<u64>,
}

/// One recorded flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnReport {
    pub service: Option<String>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: String,
    /// `None` where it left the configuration.
    pub endpoint: Option<String>,
    /// With port 0 where every port stays as it is.
    pub endpoint_address: SocketAddr,
    pub site: Option<String>,
    /// `opening`, `established` or `closing`.
    pub state: String,
    /// Seconds since it was last seen, to within eight.
    pub idle_seconds: u16,
    /// Address and port that the endpoint sees (`nat` mode).
    pub nat: Option<SocketAddr>,
}

/// Query of `/v1/trace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Of new, moved and reset flows, one in this many; without it, all.
    pub one_in: Option<u32>,
    /// Name of a service.
    pub service: Option<String>,
}

/// One line of `/v1/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TraceLine {
    Event(Box<TraceEvent>),
    Lost {
        /// Events that this reader was too slow for, since the line before.
        lost: u64,
    },
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    pub time_unix_ms: u64,
    /// `placed` (new), `moved` (its endpoint is dead) or `reset` (the same,
    /// and the client was told).
    pub event: String,
    pub service: Option<String>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: String,
    /// Those of the packet, such as `syn`; empty for UDP.
    pub tcp_flags: Vec<String>,
    pub endpoint: Option<String>,
    pub endpoint_address: Option<SocketAddr>,
    pub site: Option<String>,
}

/// Body of `/v1/drain` and `/v1/undrain`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainRequest {
    /// A site, or `service/endpoint`.
    pub target: String,
}

/// Answer to a drain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainReport {
    pub target: String,
    pub draining: bool,
    /// What to know about it, such as that the service is held.
    pub notes: Vec<String>,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorReport {
    pub error: String,
}
