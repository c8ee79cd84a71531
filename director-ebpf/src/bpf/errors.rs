//! ICMP errors about flows of services: to the endpoint that the flow has, or
//! in `nat` mode back to its client. They never record a flow nor refresh one.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{Service, mode, vip},
    cause::Cause,
    icmp as message,
    parse::{ETHERNET, Packet},
    steer,
};

use crate::{
    frame::XdpFrame,
    maps::{self, KernelTables, Maps, finish},
    nat_errors, tunnel,
};

/// Follows the flow that an error is about.
#[inline(never)]
pub fn follow<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, kind: u32) -> u32 {
    let cause = match try_follow(ctx, packet, kind) {
        Ok(action) => return action,
        // No error is sent about an error (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
        Err(Cause::TooBigTold) => Cause::TooBig,
        // Its endpoint is dead.
        Err(Cause::Reset) => Cause::IcmpNoFlow,
        Err(other) => other,
    };
    finish(cause)
}

#[inline(always)]
fn try_follow<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, kind: u32) -> Result<u32, Cause> {
    let frame = XdpFrame(ctx);
    let end = ETHERNET + usize::from(packet.ip_length);
    let mut flow = Packet::<A>::default();
    if !message::read_quoted(&frame, end, &mut flow) {
        return Err(Cause::IcmpMalformed);
    }
    if packet.source.is_martian(packet.destination) {
        return Err(Cause::Martian);
    }
    // What it quotes must have come from where it goes to.
    if flow.destination != packet.destination || flow.source.is_martian(flow.destination) {
        return Err(Cause::IcmpNoFlow);
    }
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let Some(service) = service(&flow, kind) else {
        if kind & vip::NAT_SOURCE != 0 {
            return nat_errors::to_client(ctx, packet, &flow);
        }
        return Err(Cause::IcmpNoFlow);
    };
    if service.mode == mode::PROXY {
        return Err(Cause::Proxy);
    }
    // A QUIC packet to a client does not hold the connection id that the client
    // uses, so the flow's hash has to do for it.
    let scratch = maps::scratch().ok_or(Cause::IcmpNoFlow)?;
    steer::pick(&KernelTables::<false>, service, &flow, scratch)?;
    if service.mode == mode::NAT {
        return nat_errors::to_endpoint(ctx, packet, &flow, service);
    }
    let pick = scratch.picked();
    tunnel::to_endpoint(ctx, packet, service, &pick, scratch)
}

#[inline(always)]
fn service<A: Maps>(flow: &Packet<A>, kind: u32) -> Option<&'static Service> {
    let mut key = steer::service_key(flow);
    // SAFETY: read at once; an entry replaced meanwhile reads as the old or the
    // new one, each of which is valid.
    if let Some(service) = unsafe { A::services().get(&key) } {
        return Some(service);
    }
    if kind & vip::ANY_PORT == 0 {
        return None;
    }
    key.port = 0;
    // SAFETY: as above.
    unsafe { A::services().get(&key) }
}
