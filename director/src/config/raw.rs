//! The file as it is written: every key optional, nothing checked but its type.

pub(super) mod http;

use serde::Deserialize;

use super::field::{Amount, Entries, Field, Table};

pub(super) type Text = Option<Field<String>>;
pub(super) type Integer = Option<Field<i64>>;
pub(super) type Truth = Option<Field<bool>>;
pub(super) type Texts = Option<Field<Vec<Field<String>>>>;
pub(super) type Integers = Option<Field<Vec<Field<i64>>>>;
pub(super) type Size = Option<Field<Amount>>;
pub(super) type Map = Option<Field<Entries>>;
pub(super) type Tables<T> = Option<Field<Vec<Table<T>>>>;

#[derive(Debug, Deserialize)]
pub(super) struct Root {
    pub(super) edge: Option<Table<Edge>>,
    pub(super) health: Option<Table<Health>>,
    pub(super) site: Tables<Site>,
    pub(super) service: Tables<Service>,
    pub(super) pool: Tables<Pool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Edge {
    pub(super) name: Text,
    pub(super) interfaces: Texts,
    pub(super) attach: Text,
    pub(super) pin_dir: Text,
    pub(super) socket: Text,
    pub(super) metrics: Text,
    pub(super) hold: Text,
    pub(super) deny: Texts,
    pub(super) deny_file: Text,
    pub(super) tunnel: Option<Table<Tunnel>>,
    pub(super) nat: Option<Table<Nat>>,
    pub(super) icmp: Option<Table<Icmp>>,
    pub(super) limits: Option<Table<Limits>>,
    pub(super) http: Option<Table<http::Edge>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tunnel {
    pub(super) source4: Text,
    pub(super) source6: Text,
    pub(super) gue_port: Integer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Nat {
    pub(super) source4: Texts,
    pub(super) source6: Texts,
}

#[derive(Debug, Deserialize)]
pub(super) struct Icmp {
    pub(super) echo: Truth,
    pub(super) rate: Integer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Limits {
    pub(super) flows: Integer,
    pub(super) nat_flows: Integer,
    pub(super) services: Integer,
    pub(super) endpoints: Integer,
    pub(super) table_size: Integer,
}

impl Limits {
    /// A table without keys, for what its absence means.
    pub(super) const NONE: Self = Self {
        flows: None,
        nat_flows: None,
        services: None,
        endpoints: None,
        table_size: None,
    };
}

/// `[health]`: defaults for every service.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    pub(super) interval: Text,
    pub(super) fast_interval: Text,
    pub(super) timeout: Text,
    pub(super) rise: Integer,
    pub(super) fall: Integer,
    pub(super) jitter: Integer,
    pub(super) concurrency: Integer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Site {
    pub(super) name: Text,
    pub(super) weight: Integer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Service {
    pub(super) name: Text,
    pub(super) vip: Text,
    pub(super) port: Integer,
    pub(super) protocol: Text,
    pub(super) mode: Text,
    pub(super) encapsulation: Text,
    pub(super) track: Text,
    pub(super) affinity: Text,
    pub(super) on_death: Text,
    pub(super) mss: Integer,
    pub(super) connection_rate: Integer,
    pub(super) syn_cookies: Truth,
    pub(super) idle_timeout: Text,
    pub(super) health: Option<Table<ServiceHealth>>,
    pub(super) endpoint: Tables<Endpoint>,
    pub(super) http: Option<Table<http::Http>>,
    pub(super) upstream: Option<Table<http::Upstream>>,
    pub(super) route: Tables<http::Route>,
}

/// A service that only routes of the proxy lead to.
#[derive(Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) name: Text,
    pub(super) health: Option<Table<ServiceHealth>>,
    pub(super) upstream: Option<Table<http::Upstream>>,
    pub(super) endpoint: Tables<Endpoint>,
}

/// `[service.health]`: what differs from `[health]`, and what to probe.
#[derive(Debug, Deserialize)]
pub(super) struct ServiceHealth {
    pub(super) interval: Text,
    pub(super) fast_interval: Text,
    pub(super) timeout: Text,
    pub(super) rise: Integer,
    pub(super) fall: Integer,
    pub(super) jitter: Integer,
    pub(super) r#type: Text,
    pub(super) path: Text,
    pub(super) host: Text,
    pub(super) status: Text,
    pub(super) body: Text,
    pub(super) port: Integer,
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) name: Text,
    pub(super) site: Text,
    pub(super) address: Text,
    pub(super) port: Integer,
    pub(super) weight: Integer,
    pub(super) server_id: Integer,
}

/// The keys by which a table and its override share one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing<'r> {
    pub(super) interval: &'r Text,
    pub(super) fast_interval: &'r Text,
    pub(super) timeout: &'r Text,
    pub(super) rise: &'r Integer,
    pub(super) fall: &'r Integer,
    pub(super) jitter: &'r Integer,
}

/// Not derived with `flatten`, which loses where values stand.
macro_rules! timing_of {
    ($table:ty) => {
        impl $table {
            pub(super) fn timing(&self) -> Timing<'_> {
                Timing {
                    interval: &self.interval,
                    fast_interval: &self.fast_interval,
                    timeout: &self.timeout,
                    rise: &self.rise,
                    fall: &self.fall,
                    jitter: &self.jitter,
                }
            }
        }
    };
}

timing_of!(Health);
timing_of!(ServiceHealth);
