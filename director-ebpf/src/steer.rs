//! A packet and the tables to the endpoint it goes to.
//!
//! Flow state by need: a slot of a service's table names the owner of new flows
//! and the owner of those that began before the slot changed hands (see
//! [`Slot`]). While they are the same, nothing is recorded and nothing looked
//! up. While they differ, flows that begin are recorded; one that is not
//! recorded began before the change, and belongs to the earlier owner.

use crate::{
    abi::{
        Address, Endpoint, NO_ENDPOINT, Service, ServiceKey, Slot, TCP, affinity,
        flow::{FlowValue, flags},
        service_flags, state, track,
    },
    cause::Cause,
    flows::{self, Family},
    parse::{Packet, tcp_flags},
    scratch::Scratch,
};

/// The tables that steering reads and writes: BPF maps in the kernel, the same
/// maps in the daemon's memory in `explain`, vectors in tests.
pub trait Tables<A: Family> {
    /// Whether flows are recorded. Where not, [`pick`] only says what it would
    /// do.
    const RECORDS: bool = true;

    fn endpoint(&self, index: u32) -> Option<&Endpoint>;
    /// The slot that `hash` falls on.
    fn slot(&self, service: &Service, hash: u32) -> Option<Slot>;
    /// A bucket of the flow table. It is live as long as `self`.
    fn bucket(&self, index: u32) -> Option<*mut A::Bucket>;
    /// Seconds of a clock that never goes back, modulo 65,536.
    fn now(&self) -> u16;
}

/// Where a packet goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// Hash of the flow (see [`hash`]).
    pub hash: u64,
    /// Index of the endpoint.
    pub endpoint: u32,
    /// Bits of [`picked`].
    pub how: u32,
}

/// Bits of [`Pick::how`].
pub mod picked {
    /// The packet begins a flow.
    pub const NEW: u32 = 1;
    /// A record decided.
    pub const RECORDED: u32 = 2;
    /// The flow's own endpoint is dead.
    pub const WAS_DEAD: u32 = 4;
    /// The flow should have been recorded and there was no room.
    pub const LOST: u32 = 8;
}

impl Pick {
    /// Whether a bit of [`picked`] is set.
    #[inline(always)]
    #[must_use]
    pub const fn is(&self, bit: u32) -> bool {
        self.how & bit != 0
    }
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

/// Picks the endpoint of a packet of `service`: `scratch.pick`.
///
/// # Errors
/// [`Cause::NoEndpoint`] where the service has no table yet, [`Cause::Reset`]
/// where the flow's endpoint is dead and the service wants its clients told.
#[inline(always)]
pub fn pick<A: Family, T: Tables<A>>(
    tables: &T,
    service: &Service,
    packet: &Packet<A>,
    scratch: &mut Scratch,
) -> Result<(), Cause> {
    let hash = hash(packet);
    let slot = tables
        .slot(service, slot_hash(service, packet, hash))
        .ok_or(Cause::NoEndpoint)?;
    if slot.current() == NO_ENDPOINT {
        return Err(Cause::NoEndpoint);
    }
    let is_looked_up = match service.track {
        track::AUTO => slot.is_tracked(),
        track::ALWAYS => true,
        _ => false,
    };
    if is_looked_up {
        return pick_tracked(tables, service, packet, slot, hash, scratch);
    }
    scratch.pick = Pick {
        hash,
        endpoint: slot.current(),
        how: if packet.is_syn() { picked::NEW } else { 0 },
    };
    Ok(())
}

/// As [`pick`], where the flow may be recorded.
#[inline(always)]
fn pick_tracked<A: Family, T: Tables<A>>(
    tables: &T,
    service: &Service,
    packet: &Packet<A>,
    slot: Slot,
    hash: u64,
    scratch: &mut Scratch,
) -> Result<(), Cause> {
    let index = flows::bucket_of(hash, service.seed, service.buckets);
    let bucket = tables.bucket(index).ok_or(Cause::NoEndpoint)?;
    let key = packet
        .source
        .key(packet.source_port, packet.destination_port);
    let now = tables.now();
    // SAFETY: `tables` vouches for the bucket, here and below.
    unsafe { flows::find(bucket, key, packet.source, service.index, scratch) };
    let (is_known, way) = scratch.found_way();
    let is_syn = packet.is_syn();
    if is_known {
        let value = scratch.found();
        if may_stay(tables, value, is_syn) {
            let is_closing = packet.tcp_flags & (tcp_flags::FIN | tcp_flags::RST) != 0;
            let mut after = value;
            if T::RECORDS && !is_syn && flows::refreshed(value, is_closing, now, &mut after) {
                // SAFETY: as above, and `find` found the way.
                unsafe { flows::update::<A>(bucket, way, after) };
            }
            scratch.pick = Pick {
                hash,
                endpoint: value.endpoint(),
                how: picked::RECORDED,
            };
            return Ok(());
        }
    }
    // Not a first packet: it belongs to the slot's earlier owner, unless its
    // record says that its endpoint is dead.
    let is_first = is_syn || (packet.protocol != TCP && !is_known);
    let goes_to_base = !is_known && !is_first && is_alive_at(tables, slot.base());
    let was_dead = !is_first && !goes_to_base;
    let mut how = if is_first { picked::NEW } else { 0 };
    if was_dead {
        how |= picked::WAS_DEAD;
        if service.flags & service_flags::RESET != 0 {
            if T::RECORDS && is_known {
                // SAFETY: as above.
                unsafe { flows::forget::<A>(bucket, way) };
            }
            scratch.pick = Pick {
                hash,
                endpoint: slot.base(),
                how,
            };
            return Err(Cause::Reset);
        }
    }
    let endpoint = if goes_to_base {
        slot.base()
    } else {
        slot.current()
    };
    let flags = if is_first { flags::HALF_OPEN } else { 0 };
    let value = FlowValue::new(endpoint, flags, service.index, now);
    if !T::RECORDS {
        // As it is.
    } else if is_known {
        // SAFETY: as above.
        unsafe { flows::update::<A>(bucket, way, value) };
    } else if service.track == track::ALWAYS || slot.current() != slot.base() {
        // SAFETY: as above.
        if !unsafe { flows::record(bucket, key, packet.source, value, scratch) } {
            how |= picked::LOST;
        }
    }
    scratch.pick = Pick {
        hash,
        endpoint,
        how,
    };
    Ok(())
}

/// Whether a packet stays with its flow's record. A SYN does only where it is
/// the same SYN again, and its endpoint takes new flows: else a client uses a
/// port again, and old records must not hold new flows to where the table no
/// longer sends them.
#[inline(always)]
fn may_stay<A: Family, T: Tables<A>>(tables: &T, value: FlowValue, is_syn: bool) -> bool {
    let Some(endpoint) = tables.endpoint(value.endpoint()) else {
        return false;
    };
    if is_syn {
        return endpoint.state == state::ACTIVE && value.flags() & flags::HALF_OPEN != 0;
    }
    is_alive(endpoint)
}

#[inline(always)]
fn is_alive_at<A: Family, T: Tables<A>>(tables: &T, index: u32) -> bool {
    tables.endpoint(index).is_some_and(is_alive)
}

/// Whether an endpoint still serves the flows it has.
#[inline(always)]
#[must_use]
pub fn is_alive(endpoint: &Endpoint) -> bool {
    endpoint.state == state::ACTIVE || endpoint.state == state::DRAINING
}

/// Hash of a flow, the same on every edge: the high half decides about the
/// slot, the low one about the bucket. Mixes with the finalizer of MurmurHash3
/// (Appleby), whose every output bit depends on every input bit.
#[inline(always)]
pub fn hash<A: Address>(packet: &Packet<A>) -> u64 {
    let ports = u64::from(packet.source_port) << 32
        | u64::from(packet.destination_port) << 8
        | u64::from(packet.protocol);
    mix(addresses(packet) ^ ports)
}

/// What decides about the slot: the flow's `hash`, or that of its addresses
/// alone, for affinity by source.
#[inline(always)]
pub fn slot_hash<A: Address>(service: &Service, packet: &Packet<A>, hash: u64) -> u32 {
    let hash = if service.affinity == affinity::SOURCE {
        mix(addresses(packet))
    } else {
        hash
    };
    (hash >> 32) as u32
}

/// Sums words times odd constants before it mixes: the multiplications of one
/// address need not wait for one another.
#[inline(always)]
fn addresses<A: Address>(packet: &Packet<A>) -> u64 {
    let source = packet.source.widen();
    let destination = packet.destination.widen();
    if A::FAMILY == 4 {
        return mix(u64::from(source[0]) << 32 | u64::from(destination[0]));
    }
    let pair = |words: [u32; 4], n: usize| u64::from(words[n]) << 32 | u64::from(words[n + 1]);
    // Fractions of the square roots of 2, 3, 5 and 7 (as in SHA-512), made odd.
    let sum = pair(source, 0)
        .wrapping_mul(0x6a09_e667_f3bc_c909)
        .wrapping_add(pair(source, 2).wrapping_mul(0xbb67_ae85_84ca_a73b))
        .wrapping_add(pair(destination, 0).wrapping_mul(0x3c6e_f372_fe94_f82b))
        .wrapping_add(pair(destination, 2).wrapping_mul(0xa54f_f53a_5f1d_36f1));
    mix(sum)
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
