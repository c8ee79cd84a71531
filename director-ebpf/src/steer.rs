//! A packet and the tables to the endpoint it goes to.

use crate::{
    abi::{Address, Endpoint, FlowEntry, FlowKey, NO_ENDPOINT, Service, ServiceKey, state},
    cause::Cause,
    parse::Packet,
};

/// The tables that steering reads: BPF maps in the kernel, the same maps
/// through system calls in `explain`, vectors in tests.
pub trait Tables<A> {
    fn service(&self, key: &ServiceKey<A>) -> Option<Service>;
    /// Reads the flow's record; false where there is none.
    fn flow(&self, key: &FlowKey<A>, entry: &mut FlowEntry) -> bool;
    fn endpoint(&self, index: u32) -> Option<&Endpoint>;
    /// Endpoint index in the service's table at the slot that `hash` falls on.
    fn slot(&self, service: u32, hash: u32) -> Option<u32>;
}

/// Where a packet goes, beside the endpoint itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick {
    /// Whether `entry` is the flow's record; else the table decided and the
    /// flow is to be recorded.
    pub is_recorded: bool,
    /// What is to be, or is, recorded of the flow.
    pub entry: FlowEntry,
}

/// The service a packet is for.
#[inline(always)]
pub fn service_key<A: Address>(packet: &Packet<A>) -> ServiceKey<A> {
    ServiceKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        zero: 0,
    }
}

/// The flow a packet of `service` belongs to.
#[inline(always)]
pub fn flow_key<A: Address>(packet: &Packet<A>, service: &Service) -> FlowKey<A> {
    FlowKey {
        source: packet.source,
        source_port: packet.source_port,
        port: packet.destination_port,
        service: service.index,
    }
}

/// Picks the endpoint of a packet of `service`.
///
/// A recorded flow stays with its endpoint, also while that drains. It is
/// placed anew by the table when its endpoint is dead or its index has changed
/// hands, and on a SYN: a client that uses a port again opens a new flow, and
/// old records must not hold new flows to where the table no longer sends them.
///
/// # Errors
/// [`Cause::NoEndpoint`] where the service has no table yet.
#[inline(always)]
pub fn pick<'a, A: Address, T: Tables<A>>(
    tables: &'a T,
    service: &Service,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    pick: &mut Pick,
) -> Result<&'a Endpoint, Cause> {
    let mut record = FlowEntry::default();
    let is_known = tables.flow(key, &mut record);
    if is_known
        && !packet.is_syn()
        && let Some(endpoint) = tables.endpoint(record.endpoint)
        && endpoint.generation == record.generation
        && is_alive(endpoint)
    {
        *pick = Pick {
            is_recorded: true,
            entry: record,
        };
        return Ok(endpoint);
    }
    let index = tables
        .slot(service.index, hash(packet))
        .unwrap_or(NO_ENDPOINT);
    if index == NO_ENDPOINT {
        return Err(Cause::NoEndpoint);
    }
    let endpoint = tables.endpoint(index).ok_or(Cause::NoEndpoint)?;
    if endpoint.state == state::UNUSED {
        return Err(Cause::NoEndpoint);
    }
    // A SYN that is sent again, or a port used again, towards the same endpoint.
    pick.is_recorded =
        is_known && record.endpoint == index && record.generation == endpoint.generation;
    if pick.is_recorded {
        pick.entry = record;
    } else {
        pick.entry.endpoint = index;
        pick.entry.generation = endpoint.generation;
    }
    Ok(endpoint)
}

#[inline(always)]
fn is_alive(endpoint: &Endpoint) -> bool {
    endpoint.state == state::ACTIVE || endpoint.state == state::DRAINING
}

/// Hash of a flow, the same on every edge. Mixes with the finalizer of
/// MurmurHash3 (Appleby), whose every output bit depends on every input bit.
#[inline(always)]
pub fn hash<A: Address>(packet: &Packet<A>) -> u32 {
    let source = packet.source.widen();
    let destination = packet.destination.widen();
    let ports = u64::from(packet.source_port) << 32
        | u64::from(packet.destination_port) << 8
        | u64::from(packet.protocol);
    let mut h = if A::FAMILY == 4 {
        mix(u64::from(source[0]) << 32 | u64::from(destination[0]))
    } else {
        let h = mix(u64::from(source[0]) << 32 | u64::from(source[1]));
        let h = mix(h ^ (u64::from(source[2]) << 32 | u64::from(source[3])));
        let h = mix(h ^ (u64::from(destination[0]) << 32 | u64::from(destination[1])));
        mix(h ^ (u64::from(destination[2]) << 32 | u64::from(destination[3])))
    };
    h = mix(h ^ ports);
    (h >> 32) as u32
}

/// The finalizer of MurmurHash3.
#[inline(always)]
pub const fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Slot of `hash` in a table of `size` slots: the high half of the product, as
/// even as a remainder and without its division.
#[inline(always)]
pub const fn slot(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}
