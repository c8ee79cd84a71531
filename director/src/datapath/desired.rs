//! What the kernel should hold: the copy that every write and every audit
//! starts from.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use director_core::{EndpointState, Mode, Protocol, ServicePlan, model::Service};
use director_ebpf::{
    abi::{self, Endpoint, mode, state},
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
    pub mode: Mode,
    pub bank: u32,
    /// Endpoint index of every slot.
    pub table: Vec<u32>,
}

/// The whole state.
pub struct Desired {
    /// By service index.
    pub services: Vec<Option<DesiredService>>,
    /// By endpoint index; 0 is never used.
    pub endpoints: Vec<Endpoint>,
    pub hops: HashMap<IpAddr, Hop>,
    sources: TunnelSources,
}

/// An endpoint entry that is not in use and never was.
pub const UNUSED: Endpoint = Endpoint {
    address: [0; 4],
    tunnel_source: [0; 4],
    generation: 0,
    service: 0,
    interface: 0,
    macs: [0; 6],
    port: 0,
    mtu: 0,
    outer_sum: 0,
    state: state::UNUSED,
    family: 0,
};

impl Desired {
    pub fn new(limits: &Limits, sources: TunnelSources) -> Self {
        Self {
            services: vec![None; limits.services as usize],
            endpoints: vec![UNUSED; limits.endpoints as usize + 1],
            hops: HashMap::new(),
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
    /// order. An endpoint keeps its index; a new one gets one that is not in
    /// use, with a new generation, so that records of its last holder do not
    /// count.
    ///
    /// # Errors
    /// When all indices are taken.
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

    /// Indices that may be given away, those never used first: the longer an
    /// index rests, the fewer records of its last holder are left.
    fn free_endpoints(&self) -> impl Iterator<Item = usize> {
        let mut free: Vec<usize> = (1..self.endpoints.len())
            .filter(|index| self.endpoints[*index].state == state::UNUSED)
            .collect();
        free.sort_by_key(|index| self.endpoints[*index].generation);
        free.into_iter()
    }

    /// An entry with everything that follows from the address.
    fn entry(&self, address: IpAddr, port: u16) -> Endpoint {
        let source = match address {
            IpAddr::V4(_) => self.sources.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.sources.v6.map(IpAddr::V6),
        };
        let tunnel_source = source.map(wide).unwrap_or_default();
        let words = wide(address);
        let mut entry = Endpoint {
            address: words,
            tunnel_source,
            port: port.to_be(),
            outer_sum: outer_sum(tunnel_source[0], words[0]),
            family: family(address),
            ..UNUSED
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
        }
        None => {
            entry.interface = 0;
            entry.macs = [0; 6];
            entry.mtu = 0;
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
    })
}

pub fn mode_value(value: Mode) -> u32 {
    match value {
        Mode::Tunnel => mode::TUNNEL,
        Mode::Nat => mode::NAT,
        Mode::L2 => 3,
        Mode::Proxy => 4,
    }
}

pub fn protocol_value(value: Protocol) -> u8 {
    match value {
        Protocol::Tcp => abi::TCP,
        Protocol::Udp => abi::UDP,
    }
}
