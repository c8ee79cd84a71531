//! `tunnel` and `l2` mode: the packet goes to the endpoint as it is, in an
//! outer header or a new Ethernet header, and the endpoint answers the client
//! directly.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use director_ebpf::{
    abi::{Endpoint, Service, UDP, mode, service_flags},
    cause::Cause,
    parse::{ETHERNET, Frame as _, IPV4, IPV6, Packet},
    rewrite::{self, IP6IP6, IPIP, Outer},
    scratch::Scratch,
    steer::{Pick, picked},
};

use crate::{
    frame::XdpFrame,
    icmp,
    link::{self, NextHop},
    maps::{self, Maps},
};

/// Length of the UDP header of GUE.
const GUE: usize = 8;

/// Sends a packet on its way to its endpoint.
#[inline(always)]
pub fn to_endpoint<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
    pick: &Pick,
    scratch: &mut Scratch,
) -> Result<u32, Cause> {
    let endpoint = maps::endpoint(pick.endpoint).ok_or(Cause::NoEndpoint)?;
    let is_wrapped = service.mode == mode::TUNNEL;
    let is_gue = service.flags & service_flags::GUE != 0;
    let header = if endpoint.family == 4 { IPV4 } else { IPV6 };
    let overhead = match (is_wrapped, is_gue) {
        (false, _) => 0,
        (true, false) => header,
        (true, true) => header + GUE,
    };
    let length = packet.ip_length + overhead as u16;
    if endpoint.mtu != 0 && length > endpoint.mtu {
        return Err(icmp::too_big(endpoint.mtu - overhead as u16, scratch));
    }
    let mut hop = NextHop::default();
    link::next_hop(ctx, endpoint, &endpoint.tunnel_source, length, &mut hop)?;
    maps::count_steered(
        service.index,
        pick.endpoint,
        packet.ip_length,
        pick.is(picked::NEW),
    );
    if !is_wrapped {
        return link::send(ctx, &hop, A::FAMILY);
    }
    // SAFETY: the context is the kernel's own; every pointer into the frame is
    // taken anew after this.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(overhead as i32)) } != 0 {
        return Err(Cause::NoHeadroom);
    }
    let is_written = if is_gue {
        write_gue(ctx, endpoint, packet, pick.hash as u32)
    } else {
        write_outer(ctx, endpoint, packet, pick.hash as u32)
    };
    if !is_written {
        return Err(Cause::Truncated);
    }
    link::send(ctx, &hop, endpoint.family)
}

#[inline(always)]
fn write_outer<A: Maps>(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    packet: &Packet<A>,
    entropy: u32,
) -> bool {
    let outer = Outer {
        protocol: if A::FAMILY == 4 { IPIP } else { IP6IP6 },
        traffic_class: packet.traffic_class,
        length: packet.ip_length,
        entropy,
    };
    let frame = XdpFrame(ctx);
    if endpoint.family == 4 {
        frame.store(ETHERNET, rewrite::outer_ipv4(endpoint, &outer))
    } else {
        frame.store(ETHERNET, rewrite::outer_ipv6(endpoint, &outer))
    }
}

#[inline(always)]
fn write_gue<A: Maps>(
    ctx: &XdpContext,
    endpoint: &Endpoint,
    packet: &Packet<A>,
    entropy: u32,
) -> bool {
    let Some(settings) = maps::settings() else {
        return false;
    };
    let outer = Outer {
        protocol: UDP,
        traffic_class: packet.traffic_class,
        length: packet.ip_length + GUE as u16,
        entropy,
    };
    let frame = XdpFrame(ctx);
    let udp = rewrite::gue(settings.gue_port, packet.ip_length, entropy, 0);
    if endpoint.family == 4 {
        return frame.store(ETHERNET, rewrite::outer_ipv4(endpoint, &outer))
            && frame.store(ETHERNET + IPV4, udp);
    }
    // UDP may come without a checksum (RFC 768), and says nothing then.
    let inner = packet.transport + IPV6 + GUE;
    let has_checksum = packet.protocol != UDP || frame.load::<u16>(inner + 6) != Some(0);
    let checksum = if has_checksum {
        rewrite::gue_checksum6(endpoint, udp, rewrite::packet_sum(packet))
    } else {
        0
    };
    let udp = rewrite::gue(settings.gue_port, packet.ip_length, entropy, checksum);
    frame.store(ETHERNET, rewrite::outer_ipv6(endpoint, &outer))
        && frame.store(ETHERNET + IPV6, udp)
}
