//! What the kernel should hold: the copy that every write and every audit
//! starts from.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use director_core::{
    Affinity, Encapsulation, EndpointState, Mode, OnDeath, Protocol, ServicePlan, Track,
    model::Service,
};
use director_ebpf::{
    abi::{
        self, Endpoint, Settings, Slot, affinity, mode, nat::Front, service_flags, state, track,
    },
    rewrite::outer_sum,
};

use super::{
    Hop,
    plain::{family, macs, split_macs, wide},
};
use crate::config::{Limits, TunnelSources};

/// What identifies a service to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vip {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl From<&Service> for Vip {
    fn from(service: &Service) -> Self {
        Self {
            address: service.vip,
            port: service.port,
            protocol: service.protocol,
        }
    }
}

/// One published service.
#[derive(Clone, Debug)]
pub struct DesiredService {
    /// `None` for a service that was adopted and is not in the configuration
    /// (yet).
    pub name: Option<Arc<str>>,
    pub vip: Vip,
    /// What packets find.
    pub value: abi::Service,
    pub bank: u32,
    /// Empty in `proxy` mode.
    pub slots: Vec<Slot>,
    /// Server ids of endpoints (QUIC).
    pub servers: HashMap<u32, u32>,
    /// When the slots last changed; `None` once flows of before are over.
    pub changed: Option<Instant>,
    /// Which flip of all left the spare half of the table; 0: none.
    pub left: u64,
}

impl DesiredService {
    /// What replies of the service are given back (`nat` mode).
    pub fn front(&self) -> Front {
        Front {
            address: wide(self.vip.address),
            port: self.vip.port.to_be(),
            mss: self.value.mss,
            protocol: protocol_value(self.vip.protocol),
            zero: [0; 3],
        }
    }
}

/// The whole state.
pub struct Desired {
    /// By service index.
    pub services: Vec<Option<DesiredService>>,
    /// By endpoint index; 0 is never used.
    pub endpoints: Vec<Endpoint>,
    pub hops: HashMap<IpAddr, Hop>,
    /// Indices that are not in use, but may still be named by a record.
    pub retired: HashSet<usize>,
    sources: TunnelSources,
}

impl Desired {
    pub fn new(limits: &Limits, sources: TunnelSources) -> Self {
        Self {
            services: vec![None; limits.services as usize],
            endpoints: vec![Endpoint::UNUSED; limits.endpoints as usize + 1],
            hops: HashMap::new(),
            retired: HashSet::new(),
            sources,
        }
    }

    /// Index of the service at `vip`.
    pub fn service_at(&self, vip: &Vip) -> Option<usize> {
        self.services
            .iter()
            .position(|s| s.as_ref().is_some_and(|s| s.vip == *vip))
    }

    /// Index of the service called `name`.
    pub fn service_named(&self, name: &str) -> Option<usize> {
        self.services
            .iter()
            .position(|s| s.as_ref().is_some_and(|s| s.name.as_deref() == Some(name)))
    }

    /// An index for a new service.
    ///
    /// # Errors
    /// When all are taken.
    pub fn free_service(&self) -> Result<usize> {
        self.services
            .iter()
            .position(Option::is_none)
            .with_context(|| {
                format!(
                    "all {} services are in use: raise edge.limits.services",
                    self.services.len()
                )
            })
    }

    /// The entries that a plan asks for, as `(index, entry)` in the plan's
    /// order. An endpoint keeps its index; a new one gets one that nothing names
    /// any more.
    ///
    /// # Errors
    /// When no such index is left.
    pub fn place(&self, service: usize, plan: &ServicePlan) -> Result<Vec<(usize, Endpoint)>> {
        let mut placed: Vec<(usize, Endpoint)> = Vec::with_capacity(plan.endpoints.len());
        let mut free = self.free_endpoints();
        let holders: HashMap<_, _> = self
            .endpoints_of(service)
            .map(|(index, e)| ((e.address, e.family, e.port), index))
            .collect();
        for planned in &plan.endpoints {
            let identity = (
                wide(planned.address),
                family(planned.address),
                planned.port.to_be(),
            );
            let held = holders.get(&identity).copied();
            let index = match held {
                Some(index) => index,
                None => free.next().with_context(|| {
                    format!(
                        "all {} endpoints are in use: raise edge.limits.endpoints",
                        self.endpoints.len() - 1
                    )
                })?,
            };
            let generation = match held {
                Some(index) => self.endpoints[index].generation,
                None => self.endpoints[index].generation.wrapping_add(1).max(1),
            };
            let mut entry = self.entry(planned.address, planned.port);
            entry.generation = generation;
            entry.service = service as u32;
            entry.state = match planned.state {
                EndpointState::Active => state::ACTIVE,
                EndpointState::Draining => state::DRAINING,
                EndpointState::Dead => state::DEAD,
            };
            placed.push((index, entry));
        }
        ensure!(
            plan.table
                .iter()
                .all(|slot| usize::from(*slot) < placed.len()),
            "the plan of service {} points outside of its endpoints",
            plan.service
        );
        Ok(placed)
    }

    /// The entries that a service holds.
    pub fn endpoints_of(&self, service: usize) -> impl Iterator<Item = (usize, &Endpoint)> {
        self.endpoints
            .iter()
            .enumerate()
            .filter(move |(_, e)| e.state != state::UNUSED && e.service == service as u32)
    }

    /// Indices that may be given away, those never used first.
    fn free_endpoints(&self) -> impl Iterator<Item = usize> {
        let mut free: Vec<usize> = (1..self.endpoints.len())
            .filter(|index| self.endpoints[*index].state == state::UNUSED)
            .filter(|index| !self.retired.contains(index))
            .collect();
        free.sort_by_key(|index| self.endpoints[*index].generation);
        free.into_iter()
    }

    /// Whether fewer indices are free than this many.
    pub fn lacks(&self, endpoints: usize) -> bool {
        self.free_endpoints().count() < endpoints
    }

    /// An entry with everything that follows from the address.
    fn entry(&self, address: IpAddr, port: u16) -> Endpoint {
        let source = match address {
            IpAddr::V4(_) => self.sources.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.sources.v6.map(IpAddr::V6),
        };
        let mut tunnel_source = source.map(wide).unwrap_or_default();
        let prefix = self.sources.prefix4;
        if address.is_ipv4() && prefix < 32 {
            tunnel_source[1] = (u32::MAX >> prefix).to_be();
        }
        let words = wide(address);
        let mut entry = Endpoint {
            address: words,
            tunnel_source,
            port: port.to_be(),
            outer_sum: outer_sum(tunnel_source[0], words[0]),
            family: family(address),
            ..Endpoint::UNUSED
        };
        set_hop(&mut entry, self.hops.get(&address));
        entry
    }
}

/// Writes a next hop into an entry, or that none is known.
pub fn set_hop(entry: &mut Endpoint, hop: Option<&Hop>) {
    match hop {
        Some(hop) => {
            entry.interface = hop.interface;
            entry.macs = macs(hop.destination, hop.source);
            entry.mtu = hop.mtu;
            entry.vlan = hop.vlan.to_be();
        }
        None => {
            entry.interface = 0;
            entry.macs = [0; 3];
            entry.mtu = 0;
            entry.vlan = 0;
        }
    }
}

/// The next hop that an entry in use holds.
pub fn hop_of(entry: &Endpoint) -> Option<Hop> {
    if entry.state == state::UNUSED || entry.interface == 0 {
        return None;
    }
    let (destination, source) = split_macs(entry.macs);
    Some(Hop {
        interface: entry.interface,
        destination,
        source,
        mtu: entry.mtu,
        vlan: u16::from_be(entry.vlan),
    })
}

/// What packets find of a service with this index.
pub fn service_value(
    service: &Service,
    index: usize,
    settings: &Settings,
    buckets: u32,
    has_deny: bool,
) -> abi::Service {
    let steering = &service.steering;
    // Without SYNs, a flow that begins cannot be told from one that is not
    // recorded.
    let is_recorded_always = service.protocol == Protocol::Udp;
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    abi::Service {
        index: index as u32,
        table_size: settings.table_size,
        buckets,
        seed: settings.seed,
        mode: mode_value(service.mode),
        track: match steering.track {
            Track::Auto if !is_recorded_always => track::AUTO,
            Track::Never => track::NEVER,
            Track::Auto | Track::Always => track::ALWAYS,
        },
        affinity: match steering.affinity {
            Affinity::Flow => affinity::FLOW,
            Affinity::Source => affinity::SOURCE,
            Affinity::Quic => affinity::QUIC,
        },
        flags: flag(steering.on_death == OnDeath::Reset, service_flags::RESET)
            | flag(
                steering.encapsulation == Encapsulation::Gue,
                service_flags::GUE,
            )
            | flag(steering.syn_cookies, service_flags::SYN_COOKIES)
            | flag(has_deny, service_flags::DENY),
        mss: steering.mss.unwrap_or(0),
        idle: u16::try_from(steering.idle_timeout.as_secs()).unwrap_or(u16::MAX),
        connection_rate: steering.connection_rate.unwrap_or(0),
    }
}

fn mode_value(value: Mode) -> u8 {
    match value {
        Mode::Tunnel => mode::TUNNEL,
        Mode::Nat => mode::NAT,
        Mode::L2 => mode::L2,
        // The kernel never hears of a pool.
        Mode::Proxy | Mode::Pool => mode::PROXY,
    }
}

/// The reverse of `mode_value`.
pub fn mode_of(value: u8) -> Mode {
    match value {
        mode::NAT => Mode::Nat,
        mode::L2 => Mode::L2,
        mode::PROXY => Mode::Proxy,
        _ => Mode::Tunnel,
    }
}

pub fn protocol_value(value: Protocol) -> u8 {
    match value {
        Protocol::Tcp => abi::TCP,
        Protocol::Udp => abi::UDP,
    }
}
