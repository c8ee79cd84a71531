//! SYN cookies in front of services in `proxy` mode (RFC 4987, 3.6): a SYN is
//! answered here and leaves nothing behind; the host's stack sees a connection
//! once its ACK has brought the cookie back.
//!
//! The cookies are those of the listening socket, so the stack makes a
//! connection of the ACK. It does that only for a socket that has given cookies
//! out of late; `bpf_tcp_gen_syncookie` notes that, the `_raw_` ones do not.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_TCP_LISTEN,
    helpers::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
        bpf_xdp_adjust_tail,
    },
    programs::XdpContext,
};
use director_ebpf::{
    abi::Address,
    cause::Cause,
    parse::{ETHERNET, Frame as _, IPV4, IPV6, Packet, tcp_flags},
    scratch::Scratch,
    synack,
};

use crate::{
    frame::XdpFrame,
    maps::{self, Maps},
};

/// `BPF_F_CURRENT_NETNS`: that of the interface.
const CURRENT_NETNS: u64 = u64::MAX;
/// Longest TCP header, in 32-bit words.
const WORDS: usize = 15;
/// What `bpf_tcp_check_syncookie` says of a wrong cookie, or where none was
/// given out of late.
const ENOENT: i64 = 2;

/// Length of the family's IP header.
#[inline(always)]
const fn header<A: Address>() -> usize {
    if A::FAMILY == 4 { IPV4 } else { IPV6 }
}

/// Whether the stack may have a packet. Those of a connection that it knows, it
/// may; also where nobody listens, or the stack does without cookies.
///
/// # Errors
/// [`Cause::SynCookie`] where the frame is now the answer to a SYN,
/// [`Cause::SynCookieWrong`] where the packet begins a connection that no SYN
/// was answered for.
#[inline(always)]
pub fn check<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Result<(), Cause> {
    let is_syn = match packet.tcp_flags & (tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK) {
        tcp_flags::SYN => true,
        tcp_flags::ACK => false,
        _ => return Ok(()),
    };
    let said = ask(ctx, packet, is_syn);
    if is_syn && said >= 0 {
        return Err(answer(ctx, packet, said as u64));
    }
    if !is_syn && said == -ENOENT {
        return Err(Cause::SynCookieWrong);
    }
    Ok(())
}

/// What the socket that listens says: of a SYN its cookie, with the MSS above
/// it, of an ACK 0 where its cookie is right; or a negative error number.
/// Leaves the TCP header in `scratch.words`.
#[inline(never)]
fn ask<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, is_syn: bool) -> i64 {
    const NONE: i64 = -1;
    let Some(scratch) = maps::scratch() else {
        return NONE;
    };
    let length = tuple(packet, &mut scratch.words);
    let flow = scratch.words.as_mut_ptr().cast();
    // SAFETY: the flow is `length` bytes within `words`.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), flow, length, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return NONE;
    }
    let mut said = NONE;
    let frame = XdpFrame(ctx);
    // SAFETY: a live socket until it is released.
    if unsafe { (*socket).state } == BPF_TCP_LISTEN {
        let length = copy(&frame, packet.transport, scratch);
        let tcp = scratch.words.as_mut_ptr().cast();
        // Either family's header; the helper reads its version.
        let ip = if A::FAMILY == 4 {
            frame.pointer::<[u8; IPV4]>(ETHERNET).map(<*mut _>::cast)
        } else {
            frame.pointer::<[u8; IPV6]>(ETHERNET).map(<*mut _>::cast)
        };
        if let Some(ip) = ip {
            let ip_length = header::<A>() as u32;
            // SAFETY: both headers are as long as said, the socket lives.
            said = unsafe {
                if is_syn {
                    bpf_tcp_gen_syncookie(socket.cast(), ip, ip_length, tcp, length)
                } else {
                    bpf_tcp_check_syncookie(socket.cast(), ip, ip_length, tcp, length)
                }
            };
        }
    }
    // SAFETY: looked up above, and not used after this.
    unsafe { bpf_sk_release(socket.cast()) };
    said
}

/// Writes a `struct bpf_sock_tuple`, and returns its length in bytes.
#[inline(always)]
fn tuple<A: Maps>(packet: &Packet<A>, words: &mut [u32; 16]) -> u32 {
    let (source, destination) = (packet.source.widen(), packet.destination.widen());
    let [a, b] = packet.source_port.to_ne_bytes();
    let [c, d] = packet.destination_port.to_ne_bytes();
    let ports = u32::from_ne_bytes([a, b, c, d]);
    if A::FAMILY == 4 {
        words[0] = source[0];
        words[1] = destination[0];
        words[2] = ports;
        12
    } else {
        words[..4].copy_from_slice(&source);
        words[4..8].copy_from_slice(&destination);
        words[8] = ports;
        36
    }
}

/// Copies the TCP header, for the helpers want all of it in known memory.
/// Returns its length in bytes.
#[inline(always)]
fn copy(frame: &XdpFrame<'_>, transport: usize, scratch: &mut Scratch) -> u32 {
    // In a cell, lest every length is a path of its own.
    let length = frame.load::<u8>(transport + 12).unwrap_or(0) >> 4;
    scratch.best.set(u64::from(length));
    for index in 0..WORDS {
        if (index as u64) < scratch.best.get() {
            scratch.words[index] = frame.load::<u32>(transport + 4 * index).unwrap_or(0);
        }
    }
    ((scratch.best.get() & 15).max(5) * 4) as u32
}

/// Makes a SYN into its answer.
#[inline(never)]
fn answer<A: Maps>(ctx: &XdpContext, packet: &Packet<A>, said: u64) -> Cause {
    let Some(scratch) = maps::scratch() else {
        return Cause::NoHeadroom;
    };
    let sequence = scratch.words[1];
    let length = ETHERNET + header::<A>() + synack::LENGTH;
    let change = length as i32 - XdpFrame(ctx).length() as i32;
    // SAFETY: the context is the kernel's own; pointers are taken anew.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, change) } != 0 {
        return Cause::NoHeadroom;
    }
    let frame = XdpFrame(ctx);
    let Some([to, from]) = frame.load::<[[u16; 3]; 2]>(0) else {
        return Cause::NoHeadroom;
    };
    let (source, destination) = (packet.source.widen(), packet.destination.widen());
    let is_written = frame.store(0, [from, to])
        && if A::FAMILY == 4 {
            frame.store(ETHERNET, synack::ipv4(source[0], destination[0]))
        } else {
            frame.store(ETHERNET, synack::ipv6())
                && frame.store(ETHERNET + 8, destination)
                && frame.store(ETHERNET + 24, source)
        };
    let tcp = synack::tcp(packet, sequence, said as u32, (said >> 32) as u16);
    if is_written && frame.store(ETHERNET + header::<A>(), tcp) {
        Cause::SynCookie
    } else {
        Cause::NoHeadroom
    }
}
