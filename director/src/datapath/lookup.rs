//! "Where would this flow go?", by the code that the kernel runs.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use director_core::Protocol;
use director_ebpf::{
    abi::{Address, Endpoint, FlowEntry, FlowKey, Service, ServiceKey},
    parse::Packet,
    steer::{self, Pick, Tables},
};

use super::{
    Datapath, Vip,
    apply::bank_start,
    desired::protocol_value,
    maps::FamilyMaps,
    plain::{P, address, wide},
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
    pub vip: Vip,
    pub endpoint: IpAddr,
    pub port: u16,
    /// The flow's record decides, not the table.
    pub by_flow: bool,
    /// Slot of the table that the flow falls on.
    pub slot: u32,
    /// Endpoint that the table has at that slot, which is where a new
    /// connection from the same port would go.
    pub table: (IpAddr, u16),
}

impl Datapath {
    /// Says where a packet that opens or continues `flow` would go. `None`
    /// where its destination is no service.
    ///
    /// # Errors
    /// When the families differ or a map cannot be read.
    pub fn explain(&self, flow: &Tuple) -> Result<Option<Explanation>> {
        match (flow.source.ip(), flow.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.explain_in(&self.maps.v4, flow),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.explain_in(&self.maps.v6, flow),
            (source, destination) => bail!("{source} and {destination} are of different families"),
        }
    }

    fn explain_in<A: Address>(
        &self,
        maps: &FamilyMaps<A>,
        flow: &Tuple,
    ) -> Result<Option<Explanation>> {
        let packet = Packet {
            source: A::narrow(wide(flow.source.ip())),
            destination: A::narrow(wide(flow.destination.ip())),
            source_port: flow.source.port().to_be(),
            destination_port: flow.destination.port().to_be(),
            protocol: protocol_value(flow.protocol),
            tcp_flags: 0,
            traffic_class: 0,
            hop_limit: 64,
            ip_length: 0,
            transport: 0,
        };
        let tables = View {
            datapath: self,
            maps,
        };
        let Some(service) = tables.service(&steer::service_key(&packet)) else {
            return Ok(None);
        };
        let key = steer::flow_key(&packet, &service);
        let mut pick = Pick::default();
        let picked = steer::pick(&tables, &service, &packet, &key, &mut pick)
            .map_err(|cause| anyhow::anyhow!("the packet would be dropped: {}", cause.label()))?;
        let hash = steer::hash(&packet);
        let slot_owner = tables
            .slot(service.index, hash)
            .and_then(|index| tables.endpoint(index))
            .context("the service has no table")?;
        let named = |e: &Endpoint| (address(e.address, e.family), u16::from_be(e.port));
        let (endpoint, port) = named(picked);
        let vip = Vip {
            address: flow.destination.ip(),
            port: flow.destination.port(),
            protocol: flow.protocol,
        };
        Ok(Some(Explanation {
            vip,
            endpoint,
            port,
            by_flow: pick.is_recorded,
            slot: steer::slot(hash, self.table_size as u32),
            table: named(slot_owner),
        }))
    }
}

/// The kernel's tables, read through system calls. Endpoints are read from the
/// copy that every audit compares with the kernel's.
struct View<'a, A: Address> {
    datapath: &'a Datapath,
    maps: &'a FamilyMaps<A>,
}

impl<A: Address> Tables<A> for View<'_, A> {
    fn service(&self, key: &ServiceKey<A>) -> Option<Service> {
        self.maps
            .services
            .get(&P(*key), 0)
            .ok()
            .map(|P(service)| service)
    }

    fn flow(&self, key: &FlowKey<A>, entry: &mut FlowEntry) -> bool {
        match self.maps.flows.get(&P(*key), 0) {
            Ok(P(found)) => {
                *entry = found;
                true
            }
            Err(_) => false,
        }
    }

    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        self.datapath.desired.endpoints.get(index as usize)
    }

    fn slot(&self, service: u32, hash: u32) -> Option<u32> {
        let size = self.datapath.table_size;
        let bank = self.datapath.maps.banks.get(service as usize) & 1;
        let slot = steer::slot(hash, size as u32) as usize;
        Some(
            self.datapath
                .maps
                .slots
                .get(bank_start(service as usize, bank, size) + slot),
        )
    }
}
