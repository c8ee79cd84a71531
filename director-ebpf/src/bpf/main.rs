//! The XDP programs: `director_steer` on an edge, `director_decap` on a site's
//! servers.
#![no_std]
#![no_main]

mod checksum;
mod decap;
mod errors;
mod frame;
mod guard;
mod icmp;
mod link;
mod maps;
mod mss;
mod nat;
mod nat_errors;
mod quic;
mod reset;
mod slow;
mod syncookie;
mod trace;
mod tunnel;
mod tuple;
mod vlan;

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};
use director_ebpf::{
    abi::{ABI_VERSION, Address, affinity, mode, service_flags, vip},
    cause::Cause,
    parse::{self, Packet, QINQ, VLAN},
    steer::{self, picked},
};
use frame::XdpFrame;
use maps::{KernelTables, Maps, finish};

/// Bit of an action that says: the frame is an answer that was made here, and
/// goes back to where its cause came from.
pub const MADE_HERE: u32 = 0x100;

#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".director.abi")]
static DIRECTOR_ABI: u32 = ABI_VERSION;

/// What the kernel lets a program call depends on it (`bpf_fib_lookup`).
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Steers packets for VIPs to endpoints, and in `nat` mode their replies to
/// clients. Everything else passes untouched: to the program in `NEXT`, if
/// there is one, else to the host.
#[xdp]
pub fn director_steer(ctx: XdpContext) -> u32 {
    let frame = XdpFrame(&ctx);
    let action = match parse::ethertype(&frame) {
        Ok(<u32 as Address>::ETHERTYPE) => four(&ctx),
        Ok(<[u32; 4] as Address>::ETHERTYPE) => six(&ctx),
        Ok(VLAN | QINQ) => vlan::steer(&ctx),
        Ok(_) => finish(Cause::NotIp),
        Err(cause) => finish(cause),
    };
    if action == XDP_PASS {
        // SAFETY: does not return on success; where the slot is empty it does.
        unsafe { maps::NEXT.tail_call(&ctx, 0) };
    }
    action & !MADE_HERE
}

/// Takes the outer header off packets that an edge sent here.
#[xdp]
pub fn director_decap(ctx: XdpContext) -> u32 {
    decap::decap(&ctx)
}

/// Steers an IPv4 packet.
#[inline(always)]
pub fn four(ctx: &XdpContext) -> u32 {
    let action = steer4(ctx);
    if action & slow::SLOW == 0 {
        action
    } else {
        slow::slow4(ctx, action)
    }
}

/// Steers an IPv6 packet.
#[inline(always)]
pub fn six(ctx: &XdpContext) -> u32 {
    let action = steer6(ctx);
    if action & slow::SLOW == 0 {
        action
    } else {
        slow::slow6(ctx, action)
    }
}

// One function a family, not inlined: the verifier walks each by itself, and
// the compiler cannot mix what the two keep on the stack.

#[inline(never)]
fn steer4(ctx: &XdpContext) -> u32 {
    steer_family::<u32>(ctx).unwrap_or_else(slow::leave)
}

#[inline(never)]
fn steer6(ctx: &XdpContext) -> u32 {
    steer_family::<[u32; 4]>(ctx).unwrap_or_else(slow::leave)
}

#[inline(always)]
fn steer_family<A: Maps>(ctx: &XdpContext) -> Result<u32, Cause> {
    let frame = XdpFrame(ctx);
    if !maps::may_be_ours(A::destination(&frame).ok_or(Cause::Truncated)?) {
        return Err(Cause::NotOurs);
    }
    let mut packet = MaybeUninit::<Packet<A>>::uninit();
    if let Err(cause) = A::parse(&frame, &mut packet) {
        return Err(not_steered::<A>(ctx, cause));
    }
    // SAFETY: `parse` promises that.
    let packet = unsafe { packet.assume_init_ref() };
    let mut key = steer::service_key(packet);
    let service = match maps::service(&key) {
        Some(service) => service,
        None => {
            let kind = maps::kind_of(&packet.destination);
            if kind & vip::NAT_SOURCE != 0 {
                return nat::to_client(ctx, packet);
            }
            if kind & vip::ANY_PORT == 0 {
                return Err(Cause::NotOurs);
            }
            key.port = 0;
            maps::service(&key).ok_or(Cause::NotOurs)?
        }
    };
    if packet.source.is_martian(packet.destination) {
        return Err(Cause::Martian);
    }
    guard::check(packet, service)?;
    if service.mode == mode::PROXY {
        if service.flags & service_flags::SYN_COOKIES != 0 && syncookie::concerns(packet) {
            let scratch = maps::scratch().ok_or(Cause::NoEndpoint)?;
            scratch.service.set(u64::from(service.index));
            return Err(Cause::SynCookie);
        }
        maps::count_steered(service.index, 0, packet.ip_length, packet.is_syn());
        return Ok(XDP_PASS);
    }
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let scratch = maps::scratch().ok_or(Cause::NoEndpoint)?;
    let is_named = service.affinity == affinity::QUIC && quic::pick(ctx, packet, service, scratch);
    if !is_named {
        let picked = steer::pick(&KernelTables::<true>, service, packet, scratch);
        if picked == Err(Cause::NoEndpoint) {
            return Err(Cause::NoEndpoint);
        }
        let pick = scratch.picked();
        if pick.is(picked::NEW | picked::WAS_DEAD) {
            trace::flow(packet, service, &pick, picked.is_err());
        }
        picked?;
        if pick.is(picked::LOST) {
            maps::count(Cause::FlowNotRecorded);
        }
    }
    if service.mss != 0 && packet.is_syn() {
        mss::clamp(ctx, packet.transport, service.mss);
    }
    let pick = scratch.picked();
    if service.mode == mode::NAT {
        nat::to_endpoint(ctx, packet, service, &pick, scratch)
    } else {
        tunnel::to_endpoint(ctx, packet, service, &pick, scratch)
    }
}

/// What becomes of a packet without ports that can be read. Only a VIP's
/// packets are refused for it: others pass, however odd.
#[inline(always)]
fn not_steered<A: Maps>(ctx: &XdpContext, cause: Cause) -> Cause {
    match A::destination(&XdpFrame(ctx)) {
        Some(destination) if maps::kind_of(&destination) != 0 => cause,
        _ => Cause::NotOurs,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
