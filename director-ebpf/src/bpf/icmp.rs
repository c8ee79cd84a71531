//! ICMP that is made here: echo replies of VIPs, and "packet too big".

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::{ICMP, ICMP6, settings_flags},
    cause::Cause,
    icmp as message,
    parse::{ETHERNET, Frame as _, Packet},
    rewrite::pseudo_sum,
    scratch::Scratch,
};

use crate::{
    checksum,
    frame::XdpFrame,
    maps::{self, MADE, Maps},
    slow,
};

/// Most bytes of an error, its IP header included (RFC 1812, 4.3.2.3; RFC 4443,
/// 2.4 c).
const fn error_length<A: Maps>() -> usize {
    if A::FAMILY == 4 { 576 } else { 1280 }
}

/// Least MTU of IPv6 (RFC 8200, section 5).
const IPV6_LEAST_MTU: u64 = 1280;

/// The sender is to be told that its packet is too big, and that one of `mtu`
/// bytes would have fit. IPv4 senders are told whether or not they set DF: there
/// is nothing else that could become of the packet, which is not fragmented
/// here.
#[inline(always)]
pub fn too_big(mtu: u16, scratch: &mut Scratch) -> Cause {
    scratch.mtu.set(u64::from(mtu));
    Cause::TooBigTold
}

/// Whether one more ICMP packet may be made now. As with connections (see
/// [`crate::guard`]), a second's worth may be made at once.
#[inline(always)]
fn may_make() -> bool {
    const SECOND: u64 = 1_000_000_000;
    let (Some(settings), Some(due)) = (maps::settings(), MADE.get_ptr_mut(0)) else {
        return false;
    };
    if settings.icmp_rate == 0 {
        return false;
    }
    let gap = SECOND / u64::from(settings.icmp_rate);
    let now = maps::nanoseconds();
    // SAFETY: a per-CPU value, and XDP programs of one CPU do not interrupt one
    // another.
    unsafe {
        let from = (*due).max(now);
        if from - now > SECOND {
            return false;
        }
        *due = from + gap;
    }
    true
}

#[inline(always)]
const fn protocol<A: Maps>() -> u8 {
    if A::FAMILY == 4 { ICMP } else { ICMP6 }
}

/// What the checksum of `length` bytes of ICMP covers besides them.
#[inline(always)]
fn pseudo<A: Maps>(packet: &Packet<A>, length: u16) -> u64 {
    if A::FAMILY == 4 {
        0
    } else {
        pseudo_sum(packet.source, packet.destination, ICMP6, length)
    }
}

/// Answers an echo request.
#[inline(never)]
pub fn echo<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Cause {
    if !maps::settings().is_some_and(|settings| settings.flags & settings_flags::ECHO != 0) {
        return Cause::IcmpOther;
    }
    if packet.source.is_martian(packet.destination) {
        return Cause::Martian;
    }
    let start = ETHERNET + message::ip_header::<A>();
    let end = ETHERNET + usize::from(packet.ip_length);
    if start + message::HEADER > end {
        return Cause::IcmpMalformed;
    }
    let length = packet.ip_length - message::ip_header::<A>() as u16;
    let rest = u64::from(checksum::sum(ctx, start + 4, end)) + pseudo(packet, length);
    let frame = XdpFrame(ctx);
    let Some([request, sum]) = frame.load::<[u16; 2]>(start) else {
        return Cause::IcmpMalformed;
    };
    if !message::is_right(rest, request, sum) {
        return Cause::IcmpMalformed;
    }
    if !may_make() {
        return Cause::EchoRate;
    }
    let reply = message::echo_reply::<A>();
    let Some(macs) = frame.load::<[u16; 6]>(0) else {
        return Cause::IcmpMalformed;
    };
    let is_written = frame.store(start, [reply, message::checksum(rest, reply)])
        && slow::turn(ctx, packet, macs, protocol::<A>(), length);
    if is_written {
        Cause::Echo
    } else {
        Cause::IcmpMalformed
    }
}

/// Tells the sender of a TCP or UDP packet what [`too_big`] noted.
#[inline(never)]
pub fn tell_too_big<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Cause {
    let Some(macs) = XdpFrame(ctx).load::<[u16; 6]>(0) else {
        return Cause::TooBig;
    };
    if !may_make() {
        return Cause::TooBig;
    }
    let headers = message::ip_header::<A>() + message::HEADER;
    let quoted = usize::from(packet.ip_length).min(error_length::<A>() - headers);
    if !slow::resize(ctx, ETHERNET + quoted, headers) {
        return Cause::TooBig;
    }
    let start = ETHERNET + headers;
    let length = (quoted + message::HEADER) as u16;
    let mut rest = u64::from(checksum::sum(ctx, start, start + quoted)) + pseudo(packet, length);
    // Taken only now: `checksum` has used the scratch memory.
    let mtu = maps::scratch().map_or(0, |scratch| scratch.mtu.get());
    let mtu = if A::FAMILY == 4 {
        mtu as u32 & 0xffff
    } else {
        mtu.max(IPV6_LEAST_MTU) as u32
    }
    .to_be();
    rest += u64::from(mtu);
    let head = message::too_big::<A>();
    let frame = XdpFrame(ctx);
    let at = ETHERNET + message::ip_header::<A>();
    let is_written = frame.store(at, [head, message::checksum(rest, head)])
        && frame.store(at + 4, mtu)
        && slow::turn(ctx, packet, macs, protocol::<A>(), length);
    if is_written {
        Cause::TooBigTold
    } else {
        Cause::TooBig
    }
}
