//! "Where would this flow go?", by the code that the kernel runs.

use std::{
    cell::UnsafeCell,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, anyhow, bail};
use director_core::Protocol;
use director_ebpf::{
    abi::{Endpoint, Service, Slot, mode},
    cause::Cause,
    flows,
    parse::Packet,
    scratch::Scratch,
    steer::{self, Tables, picked},
};

use super::{
    Datapath, Vip,
    apply::bank_start,
    desired::protocol_value,
    maps::Of,
    plain::{address, wide},
    sweep::seconds,
};

/// A flow, as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
}

/// Where a packet of a flow would go, were it to come now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The service, with port 0 where it takes every port.
    pub vip: Vip,
    pub endpoint: IpAddr,
    pub port: u16,
    /// The flow's record decides, not the table.
    pub by_flow: bool,
    /// The slot's earlier owner has it: the flow is not recorded, so it began
    /// before the slot changed hands.
    pub by_base: bool,
    /// Slot of the table that the flow falls on.
    pub slot: u32,
    /// Endpoint that the table has at that slot, which is where a new
    /// connection from the same port would go.
    pub table: (IpAddr, u16),
}

impl Datapath {
    /// Says where a packet that continues `flow` would go. `None` where its
    /// destination is no service of ours, or one of the host's own stack.
    ///
    /// # Errors
    /// When the families differ or a map cannot be read.
    pub fn explain(&self, flow: &Tuple) -> Result<Option<Explanation>> {
        match (flow.source.ip(), flow.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.explain_in::<u32>(flow),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.explain_in::<[u32; 4]>(flow),
            (source, destination) => bail!("{source} and {destination} are of different families"),
        }
    }

    fn explain_in<A: Of>(&self, flow: &Tuple) -> Result<Option<Explanation>> {
        let packet = Packet {
            source: A::narrow(wide(flow.source.ip())),
            destination: A::narrow(wide(flow.destination.ip())),
            source_port: flow.source.port().to_be(),
            destination_port: flow.destination.port().to_be(),
            protocol: protocol_value(flow.protocol),
            ..Packet::default()
        };
        let vip = |port| Vip {
            address: flow.destination.ip(),
            port,
            protocol: flow.protocol,
        };
        let find = |port| {
            let services = self.desired.services.iter().flatten();
            services.clone().find(|service| service.vip == vip(port))
        };
        let Some(service) = find(flow.destination.port()).or_else(|| find(0)) else {
            return Ok(None);
        };
        if service.value.mode == mode::PROXY {
            return Ok(None);
        }
        let view = View::<A>::new(self, &service.value, &packet);
        let mut scratch = Scratch::default();
        steer::pick(&view, &service.value, &packet, &mut scratch).map_err(|cause| match cause {
            Cause::Reset => anyhow!("its endpoint is dead: the client would be answered with RST"),
            other => anyhow!("the packet would be dropped: {}", other.label()),
        })?;
        let pick = scratch.picked();
        let hash = steer::slot_hash(&service.value, &packet, steer::hash(&packet));
        let named = |index: u32| {
            let e = self.desired.endpoints.get(index as usize)?;
            Some((address(e.address, e.family), u16::from_be(e.port)))
        };
        let slot = Tables::<A>::slot(&view, &service.value, hash);
        let owner = slot.map(Slot::current);
        let by_flow = pick.is(picked::RECORDED);
        let is_earlier = |slot: Slot| slot.base() != slot.current() && slot.base() == pick.endpoint;
        let (endpoint, port) = named(pick.endpoint).context("the table names no endpoint")?;
        Ok(Some(Explanation {
            vip: service.vip,
            endpoint,
            port,
            by_flow,
            by_base: !by_flow && slot.is_some_and(is_earlier),
            slot: steer::slot(hash, self.table_size as u32),
            table: owner.and_then(named).context("the service has no table")?,
        }))
    }
}

/// The kernel's tables as they are, and a copy of the one bucket that the flow
/// falls on: what is asked changes nothing.
struct View<'a, A: Of> {
    datapath: &'a Datapath,
    bucket: UnsafeCell<A::Bucket>,
}

impl<'a, A: Of> View<'a, A> {
    fn new(datapath: &'a Datapath, service: &Service, packet: &Packet<A>) -> Self {
        let index = flows::bucket_of(steer::hash(packet), service.seed, service.buckets);
        let held = A::maps(&datapath.maps).flows.pointer(index as usize);
        Self {
            datapath,
            // SAFETY: a live bucket; any bytes make one, also half of an older
            // and half of a newer record, in which nothing is found then.
            bucket: UnsafeCell::new(unsafe { held.read_volatile() }),
        }
    }
}

impl<A: Of> Tables<A> for View<'_, A> {
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        self.datapath.desired.endpoints.get(index as usize)
    }

    fn slot(&self, service: &Service, hash: u32) -> Option<Slot> {
        let size = self.datapath.table_size;
        let index = service.index as usize;
        let bank = self.datapath.maps.banks.get(index) & 1;
        let slot = steer::slot(hash, size as u32) as usize;
        let start = bank_start(index, bank, size);
        Some(Slot(self.datapath.maps.slots.get(start + slot)))
    }

    fn bucket(&self, _: u32) -> Option<*mut A::Bucket> {
        Some(self.bucket.get())
    }

    fn now(&self) -> u16 {
        seconds()
    }
}
