//! `tunnel` mode: IP in IP to the endpoint, which answers the client directly.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use director_ebpf::{
    abi::{Endpoint, Service},
    cause::Cause,
    parse::{ETHERNET, Packet},
    rewrite,
    steer::{self, Pick, flow_key},
};

use crate::{
    frame::XdpFrame,
    link::{self, NextHop},
    maps::{self, KernelTables, Maps},
};

/// Writes the outer header of a family.
pub trait Encapsulate: Maps {
    /// Writes it behind the Ethernet header; false where the frame is too short.
    fn write_outer(frame: &XdpFrame<'_>, endpoint: &Endpoint, packet: &Packet<Self>) -> bool;
}

impl Encapsulate for u32 {
    #[inline(always)]
    fn write_outer(frame: &XdpFrame<'_>, endpoint: &Endpoint, packet: &Packet<u32>) -> bool {
        let header = rewrite::outer_ipv4(endpoint, packet.ip_length, packet.traffic_class);
        frame.store(ETHERNET, header)
    }
}

impl Encapsulate for [u32; 4] {
    #[inline(always)]
    fn write_outer(frame: &XdpFrame<'_>, endpoint: &Endpoint, packet: &Packet<[u32; 4]>) -> bool {
        let header = rewrite::outer_ipv6(endpoint, packet.ip_length, packet.traffic_class);
        frame.store(ETHERNET, header)
    }
}

/// Sends a packet of a service in `tunnel` mode on its way.
#[inline(always)]
pub fn to_endpoint<A: Encapsulate>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    service: &Service,
) -> Result<u32, Cause> {
    let key = flow_key(packet, service);
    let mut pick = Pick::default();
    let endpoint = steer::pick(&KernelTables, service, packet, &key, &mut pick)?;
    let overhead = rewrite::overhead::<A>();
    let length = packet.ip_length + overhead as u16;
    if endpoint.mtu != 0 && length > endpoint.mtu {
        return Err(Cause::TooBig);
    }
    let mut hop = NextHop::default();
    link::next_hop(
        ctx,
        endpoint,
        A::narrow(endpoint.tunnel_source),
        length,
        &mut hop,
    )?;
    if !pick.is_recorded && A::flows().insert(&key, &pick.entry, 0).is_err() {
        maps::count(Cause::FlowNotRecorded);
    }
    maps::count_steered(service.index, &pick, packet.ip_length);
    // SAFETY: the context is the kernel's own; every pointer into the frame is
    // taken anew after this.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(overhead as i32)) } != 0 {
        return Err(Cause::NoHeadroom);
    }
    if !A::write_outer(&XdpFrame(ctx), endpoint, packet) {
        return Err(Cause::Truncated);
    }
    link::send::<A>(ctx, &hop)
}
