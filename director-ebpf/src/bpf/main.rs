//! The XDP programs: `director_steer` on an edge, `director_decap` on a site's
//! servers.
#![no_std]
#![no_main]

mod decap;
mod frame;
mod guard;
mod icmp;
mod link;
mod maps;
mod nat;
mod quic;
mod reset;
mod syncookie;
mod trace;
mod tunnel;
mod vlan;

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};
use director_ebpf::{
    abi::{ABI_VERSION, Address, Service, ServiceKey, affinity, mode, service_flags, vip},
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
        Ok(<u32 as Address>::ETHERTYPE) => steer4(&ctx),
        Ok(<[u32; 4] as Address>::ETHERTYPE) => steer6(&ctx),
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

// One function a family, not inlined: the verifier walks each by itself, and
// the compiler cannot mix what the two keep on the stack.

#[inline(never)]
pub fn steer4(ctx: &XdpContext) -> u32 {
    steer_family::<u32>(ctx).unwrap_or_else(finish)
}

#[inline(never)]
pub fn steer6(ctx: &XdpContext) -> u32 {
    steer_family::<[u32; 4]>(ctx).unwrap_or_else(finish)
}

#[inline(always)]
fn steer_family<A: Maps>(ctx: &XdpContext) -> Result<u32, Cause> {
    let frame = XdpFrame(ctx);
    let destination = A::destination(&frame).ok_or(Cause::Truncated)?;
    if !maps::may_be_ours(destination) {
        return Err(Cause::NotOurs);
    }
    let mut packet = Packet::default();
    if let Err(cause) = A::parse(&frame, &mut packet) {
        return not_steered(ctx, cause, destination, &packet);
    }
    let mut key = steer::service_key(&packet);
    // SAFETY: read at once; an entry replaced meanwhile reads as the old or the
    // new one, each of which is valid.
    let service = match unsafe { A::services().get(&key) } {
        Some(service) => service,
        None => {
            let kind = maps::kind_of(&destination);
            if kind & vip::NAT_SOURCE != 0 {
                return nat::to_client(ctx, &packet);
            }
            if kind & vip::ANY_PORT == 0 {
                return Err(Cause::NotOurs);
            }
            key.port = 0;
            any_port(&key).ok_or(Cause::NotOurs)?
        }
    };
    if packet.source.is_martian(destination) {
        return Err(Cause::Martian);
    }
    guard::check(&packet, service)?;
    if service.mode == mode::PROXY {
        if service.flags & service_flags::SYN_COOKIES != 0 {
            syncookie::check(ctx, &packet)?;
        }
        maps::count_steered(service.index, 0, packet.ip_length, packet.is_syn());
        return Ok(XDP_PASS);
    }
    if packet.hop_limit <= 1 {
        return Err(Cause::HopLimit);
    }
    let scratch = maps::scratch().ok_or(Cause::NoEndpoint)?;
    let is_named = service.affinity == affinity::QUIC && quic::pick(ctx, &packet, service, scratch);
    if !is_named {
        let picked = steer::pick(&KernelTables, service, &packet, scratch);
        let pick = scratch.picked();
        if pick.is(picked::NEW | picked::WAS_DEAD) {
            trace::flow(&packet, service, &pick, picked.is_err());
        }
        match picked {
            Ok(()) => {}
            Err(Cause::Reset) => return Err(reset::answer(ctx, &packet)),
            Err(cause) => return Err(cause),
        }
        if pick.is(picked::LOST) {
            maps::count(Cause::FlowNotRecorded);
        }
    }
    let pick = scratch.picked();
    if service.mode == mode::NAT {
        nat::to_endpoint(ctx, &packet, service, &pick, scratch)
    } else {
        tunnel::to_endpoint(ctx, &packet, service, &pick)
    }
}

#[inline(always)]
fn any_port<A: Maps>(key: &ServiceKey<A>) -> Option<&'static Service> {
    // SAFETY: as above.
    unsafe { A::services().get(key) }
}

/// What becomes of a packet without ports that can be read. Only a VIP's
/// packets are refused for it: others pass, however odd.
#[inline(always)]
fn not_steered<A: Maps>(
    ctx: &XdpContext,
    cause: Cause,
    destination: A,
    packet: &Packet<A>,
) -> Result<u32, Cause> {
    let kind = maps::kind_of(&destination);
    if kind == 0 {
        return Err(Cause::NotOurs);
    }
    match cause {
        Cause::Icmp => Err(icmp::to_vip(ctx, packet, kind)),
        other => Err(other),
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
