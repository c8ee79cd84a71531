//! ICMP errors about flows in `nat` mode (RFC 5508, section 4): the quoted
//! packet is given the addresses and ports that the receiver knows it by.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{Endpoint, NAT_SOURCES, TCP},
    cause::Cause,
    icmp as message,
    parse::{ETHERNET, Frame as _, Packet},
    ports,
    rewrite::Change,
};

use crate::{
    errors,
    frame::XdpFrame,
    link::{self, NextHop},
    maps::{self, Maps, finish},
    nat::{self, Client},
    tuple::{self, Tuple},
};

/// Sends an error about an endpoint's packet, which came from the client's
/// side, to the endpoint that `scratch.pick` names.
#[inline(never)]
pub fn to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
    kind: u32,
) -> u32 {
    try_to_endpoint(ctx, packet, flow, kind).unwrap_or_else(finish)
}

#[inline(always)]
fn try_to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
    kind: u32,
) -> Result<u32, Cause> {
    let none = Cause::IcmpNoFlow;
    let service = errors::service(flow, kind).ok_or(none)?;
    let settings = maps::settings().ok_or(none)?;
    let scratch = maps::scratch().ok_or(none)?;
    let pick = scratch.picked();
    let endpoint = maps::endpoint(pick.endpoint).ok_or(none)?;
    if endpoint.mtu != 0 && packet.ip_length > endpoint.mtu {
        return Err(Cause::TooBig);
    }
    if !find_port(flow, service.index, endpoint) {
        return Err(none);
    }
    let port = scratch.port.get();
    let (sources, _, _) = A::nat(settings);
    let source = *sources
        .get((port >> 16) as usize % NAT_SOURCES)
        .ok_or(none)?;
    let mut hop = NextHop::default();
    let from = packet.source.widen();
    link::next_hop(ctx, endpoint, &from, packet.ip_length, &mut hop)?;
    let after = Tuple {
        source,
        destination: A::narrow(endpoint.address),
        source_port: port as u16,
        destination_port: endpoint.port,
    };
    if !rewrite(ctx, packet, flow, &after, &packet.source) {
        return Err(Cause::IcmpMalformed);
    }
    maps::count_steered(service.index, pick.endpoint, packet.ip_length, false);
    link::send(ctx, &hop, A::FAMILY)
}

/// Sends an error about a packet to an endpoint, which came from the endpoint's
/// side, to the client whose packet it was. It comes from the VIP then: routers
/// behind the edge need not be known before it (RFC 5508, REQ-5).
#[inline(never)]
pub fn to_client<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, flow: &Packet<A>) -> u32 {
    try_to_client(ctx, packet, flow).unwrap_or_else(finish)
}

#[inline(always)]
fn try_to_client<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
) -> Result<u32, Cause> {
    let mut client = Client::default();
    if !find_client(flow, &mut client) {
        return Err(Cause::IcmpNoFlow);
    }
    if !rewrite(ctx, packet, flow, &client.tuple, &client.tuple.source) {
        return Err(Cause::IcmpMalformed);
    }
    let hop = NextHop {
        interface: client.back.interface,
        macs: client.back.macs,
        vlan: 0,
    };
    link::send(ctx, &hop, A::FAMILY)
}

/// As [`nat::find_client`].
#[inline(never)]
fn find_client<A: Maps>(flow: &Packet<A>, client: &mut Client<A>) -> bool {
    nat::find_client(flow, client).is_ok()
}

/// Finds the port that a flow to `endpoint` has: `scratch.port`. None is taken
/// for one that has none.
#[inline(never)]
fn find_port<A: Maps>(flow: &Packet<A>, service: u32, endpoint: &Endpoint) -> bool {
    let (Some(settings), Some(scratch)) = (maps::settings(), maps::scratch()) else {
        return false;
    };
    let pick = scratch.picked();
    let (_, count, planes) = A::nat(settings);
    let plane = ports::plane(endpoint.address, endpoint.port, count, planes);
    let key = ports::key(flow.source, flow.source_port, service);
    for n in 0..ports::CANDIDATES {
        let index = ports::candidate(pick.hash, settings.seed, n, plane, count);
        let Some(bucket) = A::table(index) else {
            return false;
        };
        // SAFETY: a live map value.
        unsafe { ports::find::<A>(bucket, key, flow.source, pick.endpoint, scratch) };
        let (is_found, way) = scratch.found_way();
        if is_found {
            nat::set_port(scratch, index, way, plane);
            return true;
        }
    }
    false
}

/// Rewrites an error and the packet it quotes, whose checksums all change with
/// it (RFC 1624); false where the frame ends before. `flow` and `after` go the
/// other way round than the quoted packet. The error itself goes to where
/// `after` does, and comes `from` there.
#[inline(never)]
fn rewrite<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
    after: &Tuple<A>,
    from: &A,
) -> bool {
    let frame = XdpFrame(ctx);
    let quoted = message::quoted::<A>();
    let (source, destination) = (after.destination, after.source);
    let addresses = Change::default()
        .address(flow.destination, source)
        .address(flow.source, destination);
    let ports = addresses
        .half(flow.destination_port, after.destination_port)
        .half(flow.source_port, after.source_port);
    let mut change = ports;

    // An error need not quote all of a TCP header.
    let end = ETHERNET + usize::from(packet.ip_length);
    let at = flow.transport + if flow.protocol == TCP { 16 } else { 6 };
    if at + 2 <= end {
        let Some(old) = frame.load::<u16>(at) else {
            return false;
        };
        let new = if flow.protocol == TCP {
            ports.apply(old)
        } else {
            ports.apply_udp(old)
        };
        change = change.half(old, new);
        if !frame.store(at, new) {
            return false;
        }
    }
    let pair = [after.destination_port, after.source_port];
    let mut is_written = frame.store(flow.transport, pair);
    if A::FAMILY == 4 {
        let Some(old) = frame.load::<u16>(quoted + 10) else {
            return false;
        };
        let new = addresses.apply(old);
        change = change.half(old, new);
        is_written &= frame.store(quoted + 10, [new])
            && frame.store(quoted + 12, source)
            && frame.store(quoted + 16, destination);
    } else {
        // ICMPv6 covers the pseudo-header too.
        change = change
            .address(packet.source, *from)
            .address(packet.destination, after.destination);
        is_written &= frame.store(quoted + 8, source) && frame.store(quoted + 24, destination);
    }
    let start = ETHERNET + message::ip_header::<A>();
    let Some(sum) = frame.load::<u16>(start + 2) else {
        return false;
    };
    is_written &= frame.store(start + 2, change.apply(sum))
        && tuple::rewrite_ip(ctx, packet, *from, after.destination);
    is_written
}
