//! ICMP errors about flows in `nat` mode (RFC 5508, section 4): the quoted
//! packet is given the addresses and ports that the receiver knows it by.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{Address, NAT_SOURCES, Service, TCP, flow::WAYS},
    cause::Cause,
    icmp as message,
    parse::{ETHERNET, Frame as _, Packet},
    ports,
    rewrite::Change,
};

use crate::{
    frame::XdpFrame,
    link::{self, NextHop},
    maps::{self, Maps},
    nat::{self, Client, Tuple},
};

/// An error's own addresses, and the flow it is about, as its receiver knows
/// them.
struct After<A> {
    source: A,
    destination: A,
    flow: Tuple<A>,
}

/// Sends an error about an endpoint's packet, which came from the client's
/// side, to the endpoint that `scratch.pick` names.
#[inline(never)]
pub fn to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
    service: &Service,
) -> Result<u32, Cause> {
    let none = Cause::IcmpNoFlow;
    let settings = maps::settings().ok_or(none)?;
    let scratch = maps::scratch().ok_or(none)?;
    let pick = scratch.picked();
    let endpoint = maps::endpoint(pick.endpoint).ok_or(none)?;
    if endpoint.mtu != 0 && packet.ip_length > endpoint.mtu {
        return Err(Cause::TooBig);
    }
    let (sources, count, planes) = A::nat(settings);
    let plane = ports::plane(endpoint.address, endpoint.port, count, planes);
    let key = ports::key(flow.source, flow.source_port, service.index);
    for n in 0..ports::CANDIDATES {
        let index = ports::candidate(pick.hash, settings.seed, n, plane, count);
        let bucket = A::table(index).ok_or(none)?;
        // SAFETY: a live map value.
        unsafe { ports::find::<A>(bucket, key, flow.source, pick.endpoint, scratch) };
        let way = scratch.way.get() as usize;
        if way < WAYS {
            nat::set_port(scratch, index, way, plane);
            break;
        }
    }
    if scratch.way.get() as usize >= WAYS {
        return Err(none);
    }
    let port = scratch.port.get();
    let source = *sources
        .get((port >> 16) as usize % NAT_SOURCES)
        .ok_or(none)?;
    let mut hop = NextHop::default();
    let from = packet.source.widen();
    link::next_hop(ctx, endpoint, &from, packet.ip_length, &mut hop)?;
    let destination = A::narrow(endpoint.address);
    let after = After {
        source: packet.source,
        destination,
        flow: Tuple {
            source,
            destination,
            source_port: port as u16,
            destination_port: endpoint.port,
        },
    };
    rewrite(ctx, packet, flow, &after)?;
    maps::count_steered(service.index, pick.endpoint, packet.ip_length, false);
    link::send(ctx, &hop, A::FAMILY)
}

/// Sends an error about a packet to an endpoint, which came from the endpoint's
/// side, to the client whose packet it was. It comes from the VIP then: routers
/// behind the edge need not be known before it (RFC 5508, REQ-5).
#[inline(never)]
pub fn to_client<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
) -> Result<u32, Cause> {
    let mut client = Client::default();
    if nat::find_client(flow, &mut client).is_err() {
        return Err(Cause::IcmpNoFlow);
    }
    let after = After {
        source: client.tuple.source,
        destination: client.tuple.destination,
        flow: client.tuple,
    };
    rewrite(ctx, packet, flow, &after)?;
    let hop = NextHop {
        interface: client.back.interface,
        macs: client.back.macs,
        vlan: 0,
    };
    link::send(ctx, &hop, A::FAMILY)
}

/// Rewrites an error and the packet it quotes, whose checksums all change with
/// it (RFC 1624). `flow` and `after.flow` go the other way round than the
/// quoted packet.
#[inline(never)]
fn rewrite<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    flow: &Packet<A>,
    after: &After<A>,
) -> Result<(), Cause> {
    let short = Cause::IcmpMalformed;
    let frame = XdpFrame(ctx);
    let quoted = message::quoted::<A>();
    let (source, destination) = (after.flow.destination, after.flow.source);
    let addresses = Change::default()
        .address(flow.destination, source)
        .address(flow.source, destination);
    let ports = addresses
        .half(flow.destination_port, after.flow.destination_port)
        .half(flow.source_port, after.flow.source_port);
    let mut change = ports;

    // An error need not quote all of a TCP header.
    let end = ETHERNET + usize::from(packet.ip_length);
    let at = flow.transport + if flow.protocol == TCP { 16 } else { 6 };
    if at + 2 <= end {
        let old = frame.load::<u16>(at).ok_or(short)?;
        let new = if flow.protocol == TCP {
            ports.apply(old)
        } else {
            ports.apply_udp(old)
        };
        change = change.half(old, new);
        if !frame.store(at, new) {
            return Err(short);
        }
    }
    let pair = [after.flow.destination_port, after.flow.source_port];
    let mut is_written = frame.store(flow.transport, pair);
    if A::FAMILY == 4 {
        let old = frame.load::<u16>(quoted + 10).ok_or(short)?;
        let new = addresses.apply(old);
        change = change.half(old, new);
        is_written &= frame.store(quoted + 10, [new])
            && frame.store(quoted + 12, source)
            && frame.store(quoted + 16, destination);
    } else {
        // ICMPv6 covers the pseudo-header too.
        change = change
            .address(packet.source, after.source)
            .address(packet.destination, after.destination);
        is_written &= frame.store(quoted + 8, source) && frame.store(quoted + 24, destination);
    }
    let start = ETHERNET + message::ip_header::<A>();
    let sum = frame.load::<u16>(start + 2).ok_or(short)?;
    is_written &= frame.store(start + 2, change.apply(sum))
        && nat::rewrite_ip(ctx, packet, after.source, after.destination);
    if is_written { Ok(()) } else { Err(short) }
}
