//! The XDP programs: `director_steer` on an edge, `director_decap` on a site's
//! servers.
#![no_std]
#![no_main]

mod decap;
mod frame;
mod link;
mod maps;
mod nat;
mod tunnel;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use director_ebpf::{
    abi::{ABI_VERSION, Address, mode},
    cause::Cause,
    parse::{self, Packet},
    steer::{self, Tables},
};
use frame::XdpFrame;
use maps::{KernelTables, Maps, finish};

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
/// clients. Everything else passes untouched.
#[xdp]
pub fn director_steer(ctx: XdpContext) -> u32 {
    let frame = XdpFrame(&ctx);
    match parse::ethertype(&frame) {
        Ok(<u32 as Address>::ETHERTYPE) => steer4(&ctx),
        Ok(<[u32; 4] as Address>::ETHERTYPE) => steer6(&ctx),
        Ok(_) => finish(Cause::NotIp),
        Err(cause) => finish(cause),
    }
}

// One function a family, not inlined: the verifier walks each by itself, and
// the compiler cannot mix what the two keep on the stack.

#[inline(never)]
fn steer4(ctx: &XdpContext) -> u32 {
    steer_family::<u32>(ctx).unwrap_or_else(finish)
}

#[inline(never)]
fn steer6(ctx: &XdpContext) -> u32 {
    steer_family::<[u32; 4]>(ctx).unwrap_or_else(finish)
}

/// Takes the outer header off packets that an edge sent here.
#[xdp]
pub fn director_decap(ctx: XdpContext) -> u32 {
    decap::decap(&ctx)
}

#[inline(always)]
fn steer_family<A: Maps + tunnel::Encapsulate>(ctx: &XdpContext) -> Result<u32, Cause> {
    let mut packet = Packet::default();
    if let Err(cause) = A::parse(&XdpFrame(ctx), &mut packet) {
        return Err(for_vip(cause, &packet.destination));
    }
    let key = steer::service_key(&packet);
    match KernelTables.service(&key) {
        Some(service) if service.mode == mode::NAT => nat::to_endpoint(ctx, &packet, &service),
        Some(service) => tunnel::to_endpoint(ctx, &packet, &service),
        None => not_for_service(ctx, &packet),
    }
}

/// The cause, or that the packet is not ours where only a VIP's packets are
/// refused for it: others pass, however odd.
#[inline(always)]
fn for_vip<A: Maps>(cause: Cause, destination: &A) -> Cause {
    let concerns_vips = matches!(cause, Cause::Fragment | Cause::ExtensionHeader);
    // SAFETY: only whether there is an entry is read.
    if concerns_vips && unsafe { A::vips().get(destination) }.is_none() {
        return Cause::NotOurs;
    }
    cause
}

/// A server's reply to a NAT address, or not ours.
#[inline(always)]
fn not_for_service<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Result<u32, Cause> {
    let settings = maps::settings().ok_or(Cause::NotOurs)?;
    let (sources, count) = A::nat_sources(settings);
    if count == 0 {
        return Err(Cause::NotOurs);
    }
    for source in sources {
        if *source == packet.destination {
            return nat::to_client(ctx, packet);
        }
    }
    Err(Cause::NotOurs)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
