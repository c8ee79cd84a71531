//! The slow path: ICMP, and answers that are made here. It runs when the fast
//! path has returned, on a frame that is still as it came, and so has the stack
//! to itself.

use core::mem::MaybeUninit;

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use director_ebpf::{
    abi::vip,
    cause::Cause,
    icmp::{self as message, Kind},
    parse::{ETHERNET, Frame as _, Packet},
    rewrite::Fresh,
};

use crate::{
    errors,
    frame::XdpFrame,
    icmp,
    maps::{self, Maps, finish},
    reset, syncookie,
};

/// Bit of an action that says: the slow path is to take the packet, for the
/// cause in the upper half.
pub const SLOW: u32 = 0x200;

/// What becomes of a packet that was not steered: an XDP action, or one for the
/// slow path, where the cause is counted.
#[inline(always)]
pub fn leave(cause: Cause) -> u32 {
    match cause {
        Cause::Icmp | Cause::TooBigTold | Cause::Reset | Cause::SynCookie => {
            SLOW | (cause as u32) << 16
        }
        other => finish(other),
    }
}

#[inline(never)]
pub fn slow4(ctx: &XdpContext, action: u32) -> u32 {
    slow::<u32>(ctx, action >> 16)
}

#[inline(never)]
pub fn slow6(ctx: &XdpContext, action: u32) -> u32 {
    slow::<[u32; 4]>(ctx, action >> 16)
}

#[inline(always)]
fn slow<A: Maps>(ctx: &XdpContext, cause: u32) -> u32 {
    let mut packet = MaybeUninit::<Packet<A>>::uninit();
    let read = read_again(ctx, &mut packet);
    if read == NOT_READ {
        return finish(Cause::Malformed);
    }
    // SAFETY: `read_again` has read it.
    let packet = unsafe { packet.assume_init_ref() };
    if cause == Cause::TooBigTold as u32 {
        return finish(icmp::tell_too_big(ctx, packet));
    }
    if cause == Cause::Reset as u32 {
        return finish(reset::answer(ctx, packet));
    }
    if cause == Cause::SynCookie as u32 {
        return syncookie::check(ctx, packet);
    }
    // The address pair is only there with this cause.
    if read != READ_ICMP {
        return finish(Cause::Malformed);
    }
    let kind = maps::kind_of(&packet.destination);
    // Options would move all that follows; the host's own stack copes.
    if packet.transport != ETHERNET + message::ip_header::<A>() {
        return finish(Cause::IcmpOther);
    }
    let Some(message) = XdpFrame(ctx).load::<u8>(ETHERNET + message::ip_header::<A>()) else {
        return finish(Cause::IcmpOther);
    };
    match message::kind::<A>(message) {
        Kind::EchoRequest if kind & vip::VIP != 0 => finish(icmp::echo(ctx, packet)),
        Kind::Error => errors::follow(ctx, packet, kind),
        _ => finish(Cause::IcmpOther),
    }
}

const NOT_READ: u32 = 0;
const READ: u32 = 1;
const READ_ICMP: u32 = 2;

/// Reads the packet once more. Not inlined, for the stack that it needs. The
/// context is hidden from the compiler, which else passes its pointers as
/// 32-bit numbers in its place, and the verifier takes no such.
#[inline(never)]
fn read_again<A: Maps>(ctx: &XdpContext, packet: &mut MaybeUninit<Packet<A>>) -> u32 {
    match A::parse(&XdpFrame(core::hint::black_box(ctx)), packet) {
        Ok(()) => READ,
        Err(Cause::Icmp) => READ_ICMP,
        Err(_) => NOT_READ,
    }
}

/// Turns a frame round: its Ethernet header, and a new IP header from the
/// packet's destination to its source, before `length` bytes of `protocol`.
#[inline(always)]
pub fn turn<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    macs: [u16; 6],
    protocol: u8,
    length: u16,
) -> bool {
    let frame = XdpFrame(ctx);
    let m = macs;
    // DSCP as it came, ECN unset: an answer is no capable transport's.
    let traffic_class = packet.traffic_class & 0xfc;
    let is_written = if A::FAMILY == 4 {
        let fresh = Fresh {
            source: packet.destination.widen()[0],
            destination: packet.source.widen()[0],
            protocol,
            traffic_class,
            length,
        };
        frame.store(ETHERNET, fresh.ipv4())
    } else {
        let fresh = Fresh {
            source: packet.destination.widen(),
            destination: packet.source.widen(),
            protocol,
            traffic_class,
            length,
        };
        frame.store(ETHERNET, fresh.ipv6())
    };
    is_written
        && frame.store(0, [m[3], m[4], m[5], m[0], m[1], m[2]])
        && frame.store(12, A::ETHERTYPE)
}

/// Cuts a frame to `length` bytes, which is no more than it has, and makes room
/// for `head` bytes before it.
#[inline(always)]
pub fn resize(ctx: &XdpContext, length: usize, head: usize) -> bool {
    let by = length as i32 - XdpFrame(ctx).length() as i32;
    // SAFETY: the context is the kernel's own; pointers are taken anew.
    unsafe {
        bpf_xdp_adjust_tail(ctx.ctx, by) == 0
            && (head == 0 || bpf_xdp_adjust_head(ctx.ctx, -(head as i32)) == 0)
    }
}
