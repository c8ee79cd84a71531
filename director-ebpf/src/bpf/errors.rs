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

/// Where an error goes, beside the causes why nowhere.
const TO_ENDPOINT: u32 = 0x100;
const TO_ENDPOINT_NAT: u32 = 0x101;
const TO_CLIENT: u32 = 0x102;

/// Sends an error where the flow goes that it is about. First it is found out
/// where that is, then it is sent: so the two do not need stack at once.
#[inline(always)]
pub fn follow<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, kind: u32) -> u32 {
    let mut flow = Packet::<A>::default();
    match find(ctx, packet, &mut flow, kind) {
        TO_ENDPOINT => to_endpoint(ctx, packet, &flow, kind),
        TO_ENDPOINT_NAT => nat_errors::to_endpoint(ctx, packet, &flow, kind),
        TO_CLIENT => nat_errors::to_client(ctx, packet, &flow),
        cause => cause,
    }
}

/// Finds the flow that an error is about, and picks its endpoint: it is in the
/// scratch memory then.
#[inline(never)]
fn find<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, flow: &mut Packet<A>, kind: u32) -> u32 {
    let end = ETHERNET + usize::from(packet.ip_length);
    if !message::read_quoted(&XdpFrame(ctx), end, flow) {
        return finish(Cause::IcmpMalformed);
    }
    if packet.source.is_martian(packet.destination) {
        return finish(Cause::Martian);
    }
    // What it quotes must have come from where it goes to.
    if flow.destination != packet.destination || flow.source.is_martian(flow.destination) {
        return finish(Cause::IcmpNoFlow);
    }
    if packet.hop_limit <= 1 {
        return finish(Cause::HopLimit);
    }
    let Some(service) = service(flow, kind) else {
        if kind & vip::NAT_SOURCE != 0 {
            return TO_CLIENT;
        }
        return finish(Cause::IcmpNoFlow);
    };
    if service.mode == mode::PROXY {
        return finish(Cause::Proxy);
    }
    // A QUIC packet to a client does not hold the connection id that the client
    // uses, so the flow's hash has to do for it.
    let Some(scratch) = maps::scratch() else {
        return finish(Cause::IcmpNoFlow);
    };
    // Both protocols go on as one state for the verifier.
    scratch.value.set(u64::from(flow.protocol));
    flow.protocol = scratch.value.get() as u8;
    // An error is no packet of the flow's, so that a dead endpoint's is not
    // answered.
    if steer::pick(&KernelTables::<false>, service, flow, scratch).is_err() {
        return finish(Cause::IcmpNoFlow);
    }
    if service.mode == mode::NAT {
        TO_ENDPOINT_NAT
    } else {
        TO_ENDPOINT
    }
}

/// Sends an error to the endpoint that was picked.
#[inline(never)]
fn to_endpoint<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, flow: &Packet<A>, kind: u32) -> u32 {
    let (Some(service), Some(scratch)) = (service(flow, kind), maps::scratch()) else {
        return finish(Cause::IcmpNoFlow);
    };
    let pick = scratch.picked();
    match tunnel::to_endpoint(ctx, packet, service, &pick, scratch) {
        Ok(action) => action,
        // No error is sent about an error (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
        Err(Cause::TooBigTold) => finish(Cause::TooBig),
        Err(cause) => finish(cause),
    }
}

/// The service of a flow to an address of this kind.
#[inline(always)]
pub fn service<A: Maps>(flow: &Packet<A>, kind: u32) -> Option<&'static Service> {
    let mut key = steer::service_key(flow);
    if let Some(service) = maps::service(&key) {
        return Some(service);
    }
    if kind & vip::ANY_PORT == 0 {
        return None;
    }
    key.port = 0;
    maps::service(&key)
}
