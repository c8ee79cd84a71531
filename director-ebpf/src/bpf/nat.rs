//! `nat` mode: addresses and ports rewritten in both directions, so that
//! servers and their routes stay as they are.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_coarse_ns, programs::XdpContext};
use director_ebpf::{
    abi::{
        Address, Endpoint, FlowEntry, NAT_PORT_FIRST, NAT_SOURCES, NatEntry, NatKey, Service, TCP,
        closing,
    },
    cause::Cause,
    parse::{ETHERNET, Frame as _, Packet, tcp_flags},
    rewrite::Change,
    steer::{self, Pick, flow_key},
};

use crate::{
    frame::XdpFrame,
    link::{self, NextHop},
    maps::{self, KernelTables, Maps},
};

/// Ports tried for a new flow. With half of all ports in use, all of 16 random
/// ones are taken once in 65,536 flows.
const TRIES: u32 = 16;
/// A port whose flow was closed is free after this many seconds: longer than a
/// lost last segment is sent again.
const CLOSED_SECONDS: u32 = 30;
/// A port whose server has been silent for this long is free, by protocol (RFC
/// 5382, REQ-5: at least 2 h 4 min for TCP; RFC 4787, REQ-5: 5 min for UDP).
const TCP_IDLE_SECONDS: u32 = 7_440;
const UDP_IDLE_SECONDS: u32 = 300;

/// Sends a packet of a service in `nat` mode to its endpoint.
#[inline(always)]
pub fn to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
) -> Result<u32, Cause> {
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let key = flow_key(packet, service);
    let mut pick = Pick::default();
    let endpoint = steer::pick(&KernelTables, service, packet, &key, &mut pick)?;
    if endpoint.mtu != 0 && packet.ip_length > endpoint.mtu {
        return Err(Cause::TooBig);
    }
    let settings = maps::settings().ok_or(Cause::NoEndpoint)?;
    let (sources, count) = A::nat_sources(settings);
    let is_kept = pick.is_recorded
        && !(packet.is_syn() && has_lost_port(packet, endpoint, &pick.entry, sources));
    if !is_kept {
        allocate(ctx, packet, endpoint, sources, count, &mut pick.entry)?;
        if A::flows().insert(&key, &pick.entry, 0).is_err() {
            maps::count(Cause::FlowNotRecorded);
        }
    }
    let entry = &pick.entry;
    let source = *sources
        .get(usize::from(entry.nat_source) % NAT_SOURCES)
        .ok_or(Cause::NoEndpoint)?;
    if packet.tcp_flags & (tcp_flags::FIN | tcp_flags::RST) != 0 {
        close(
            packet,
            &nat_key(packet.protocol, endpoint, source, entry.nat_port),
            closing::CLIENT_FIN,
        );
    }
    let mut hop = NextHop::default();
    link::next_hop(ctx, endpoint, source, packet.ip_length, &mut hop)?;
    maps::count_steered(service.index, &pick, packet.ip_length);
    let after = Tuple {
        source,
        destination: A::narrow(endpoint.address),
        source_port: entry.nat_port,
        destination_port: endpoint.port,
    };
    rewrite(ctx, packet, &after)?;
    link::send::<A>(ctx, &hop)
}

/// Sends a server's packet to the client that its NAT port stands for.
#[inline(always)]
pub fn to_client<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Result<u32, Cause> {
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let key = NatKey {
        endpoint: packet.source,
        source: packet.destination,
        endpoint_port: packet.source_port,
        source_port: packet.destination_port,
        protocol: u32::from(packet.protocol),
    };
    let entry = A::nat().get_ptr_mut(&key).ok_or(Cause::NatNoFlow)?;
    // SAFETY: a live map value. Its plain fields are written once, before the
    // entry can be found; `seen` and `closing` are single aligned words.
    let (after, hop) = unsafe {
        (*entry).seen = now();
        (*entry).closing |= closing_bits(packet.tcp_flags, closing::SERVER_FIN);
        let after = Tuple {
            source: (*entry).vip,
            destination: (*entry).client,
            source_port: (*entry).vip_port,
            destination_port: (*entry).client_port,
        };
        (
            after,
            NextHop {
                interface: (*entry).interface,
                macs: (*entry).macs,
            },
        )
    };
    rewrite(ctx, packet, &after)?;
    link::send::<A>(ctx, &hop)
}

/// Whether a recorded flow has lost its port meanwhile; where not, the port's
/// flow begins anew. Only SYNs ask: every other packet takes the record's word
/// for it, and so saves a look-up.
#[inline(always)]
fn has_lost_port<A: Maps>(
    packet: &Packet<A>,
    endpoint: &Endpoint,
    entry: &FlowEntry,
    sources: &[A; NAT_SOURCES],
) -> bool {
    let Some(source) = sources.get(usize::from(entry.nat_source) % NAT_SOURCES) else {
        return true;
    };
    let key = nat_key(packet.protocol, endpoint, *source, entry.nat_port);
    let Some(held) = A::nat().get_ptr_mut(&key) else {
        return true;
    };
    // SAFETY: a live map value; see `to_client`.
    unsafe {
        if (*held).client != packet.source || (*held).client_port != packet.source_port {
            return true;
        }
        (*held).closing = 0;
        (*held).seen = now();
    }
    false
}

/// Takes a port that no other flow to this endpoint uses.
#[inline(always)]
fn allocate<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    endpoint: &Endpoint,
    sources: &[A; NAT_SOURCES],
    count: u32,
    flow: &mut FlowEntry,
) -> Result<(), Cause> {
    let entry = NatEntry {
        client: packet.source,
        vip: packet.destination,
        client_port: packet.source_port,
        vip_port: packet.destination_port,
        endpoint: flow.endpoint,
        interface: ctx.ingress_ifindex() as u32,
        macs: way_back(ctx),
        seen: now(),
        closing: 0,
    };
    let mut seed = steer::hash(packet);
    for _ in 0..TRIES {
        seed = seed.wrapping_mul(0x9e37_79b1).wrapping_add(0x85eb_ca6b);
        let which = steer::slot(seed.rotate_left(16), count) as usize % NAT_SOURCES;
        let span = 65_536 - u32::from(NAT_PORT_FIRST);
        let port = (u32::from(NAT_PORT_FIRST) + steer::slot(seed, span)) as u16;
        let source = *sources.get(which).ok_or(Cause::NatPortsExhausted)?;
        let key = nat_key(packet.protocol, endpoint, source, port.to_be());
        if claim(&key, &entry) {
            flow.nat_port = port.to_be();
            flow.nat_source = which as u16;
            return Ok(());
        }
    }
    Err(Cause::NatPortsExhausted)
}

/// Enters a flow under `key`, if that is free or its flow is over.
#[inline(always)]
fn claim<A: Maps>(key: &NatKey<A>, entry: &NatEntry<A>) -> bool {
    // SAFETY: a live map value; two aligned words are read.
    if let Some(held) = unsafe { A::nat().get(key) } {
        if !is_over(
            key.protocol as u8,
            entry.seen.wrapping_sub(held.seen),
            held.closing,
        ) {
            return false;
        }
        // Another CPU may have done the same and taken the port already: the
        // insert below then fails or, if this delete hit the new entry, that
        // flow's next SYN takes another port. It needs two flows to draw the
        // same expired port within a microsecond.
        let _ = A::nat().remove(key);
    }
    A::nat().insert(key, entry, u64::from(BPF_NOEXIST)).is_ok()
}

/// Whether a flow that was last seen `age` seconds ago is over.
#[inline(always)]
fn is_over(protocol: u8, age: u32, closing: u32) -> bool {
    let both = closing::CLIENT_FIN | closing::SERVER_FIN;
    let is_closed = closing & closing::RST != 0 || closing & both == both;
    let limit = if is_closed {
        CLOSED_SECONDS
    } else if protocol == TCP {
        TCP_IDLE_SECONDS
    } else {
        UDP_IDLE_SECONDS
    };
    age >= limit
}

/// Notes that one side has closed.
#[inline(always)]
fn close<A: Maps>(packet: &Packet<A>, key: &NatKey<A>, fin: u32) {
    if let Some(entry) = A::nat().get_ptr_mut(key) {
        // SAFETY: a live map value; one aligned word. A bit lost to the other
        // direction's store only keeps the port until it is idle.
        unsafe { (*entry).closing |= closing_bits(packet.tcp_flags, fin) };
    }
}

#[inline(always)]
fn closing_bits(flags: u8, fin: u32) -> u32 {
    let mut bits = 0;
    if flags & tcp_flags::FIN != 0 {
        bits |= fin;
    }
    if flags & tcp_flags::RST != 0 {
        bits |= closing::RST;
    }
    bits
}

#[inline(always)]
fn nat_key<A: Address>(protocol: u8, endpoint: &Endpoint, source: A, port: u16) -> NatKey<A> {
    NatKey {
        endpoint: A::narrow(endpoint.address),
        source,
        endpoint_port: endpoint.port,
        source_port: port,
        protocol: u32::from(protocol),
    }
}

/// Ethernet header of replies: to where the client's packet came from. Replies
/// so take the client's own path, without a look-up.
#[inline(always)]
fn way_back(ctx: &XdpContext) -> [u16; 6] {
    let m = XdpFrame(ctx).load::<[u16; 6]>(0).unwrap_or_default();
    [m[3], m[4], m[5], m[0], m[1], m[2]]
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: takes nothing, reads the clock.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Addresses and ports of a packet.
struct Tuple<A> {
    source: A,
    destination: A,
    source_port: u16,
    destination_port: u16,
}

/// Gives a packet the addresses and ports of `after`, one hop less, and
/// checksums to match.
#[inline(always)]
fn rewrite<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, after: &Tuple<A>) -> Result<(), Cause> {
    let frame = XdpFrame(ctx);
    let addresses = Change::default()
        .address(packet.source, after.source)
        .address(packet.destination, after.destination);
    let change = addresses
        .half(packet.source_port, after.source_port)
        .half(packet.destination_port, after.destination_port);

    let checksum = if packet.protocol == TCP { 16 } else { 6 };
    let short = Cause::Truncated;
    // The transport header first, while the offset's bounds are fresh for the
    // verifier.
    let sum = frame
        .load::<u16>(packet.transport + checksum)
        .ok_or(short)?;
    let sum = if packet.protocol == TCP {
        change.apply(sum)
    } else {
        change.apply_udp(sum)
    };
    let is_written = frame.store(packet.transport + checksum, sum)
        && frame.store(
            packet.transport,
            [after.source_port, after.destination_port],
        );
    if !is_written {
        return Err(short);
    }
    let is_written = if A::FAMILY == 4 {
        let hop = frame.load::<u16>(ETHERNET + 8).ok_or(short)?;
        let [limit, protocol] = hop.to_ne_bytes();
        let new_hop = u16::from_ne_bytes([limit - 1, protocol]);
        let sum = frame.load::<u16>(ETHERNET + 10).ok_or(short)?;
        let sum = addresses.half(hop, new_hop).apply(sum);
        frame.store(ETHERNET + 8, [new_hop, sum])
            && frame.store(ETHERNET + 12, after.source)
            && frame.store(ETHERNET + 16, after.destination)
    } else {
        frame.store(ETHERNET + 7, packet.hop_limit - 1)
            && frame.store(ETHERNET + 8, after.source)
            && frame.store(ETHERNET + 24, after.destination)
    };
    if is_written { Ok(()) } else { Err(short) }
}
