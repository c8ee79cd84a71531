//! SYN cookies in front of services in `proxy` mode (RFC 4987, 3.6): a SYN is
//! answered here and leaves nothing behind; the host's stack sees a connection
//! once its ACK has brought the cookie back.
//!
//! The cookies are those of the listening socket, so the stack makes a
//! connection of the ACK. It does that only for a socket that has given cookies
//! out of late; `bpf_tcp_gen_syncookie` notes that, the `_raw_` ones do not.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_TCP_LISTEN, xdp_action::XDP_PASS},
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie},
    programs::XdpContext,
};
use director_ebpf::{
    abi::TCP,
    cause::Cause,
    icmp::ip_header,
    parse::{ETHERNET, Frame as _, IPV4, IPV6, Packet, tcp_flags},
    rewrite,
    scratch::Scratch,
    tcp,
};

use crate::{
    frame::XdpFrame,
    maps::{self, Maps, finish},
    slow,
};

/// `BPF_F_CURRENT_NETNS`: that of the interface.
const CURRENT_NETNS: u64 = u64::MAX;
/// Longest TCP header, in 32-bit words.
const WORDS: usize = 15;
/// What `bpf_tcp_check_syncookie` says of a wrong cookie, or where none was
/// given out of late.
const ENOENT: i64 = 2;

/// Whether a packet may begin a connection: a SYN, or the ACK that answers ours.
#[inline(always)]
pub fn concerns<A: Maps>(packet: &Packet<A>) -> bool {
    const SYN_ACK: u8 = tcp_flags::SYN | tcp_flags::ACK;
    let flags = packet.tcp_flags & (SYN_ACK | tcp_flags::RST);
    packet.protocol == TCP && (flags == tcp_flags::SYN || flags == tcp_flags::ACK)
}

/// Answers a SYN, drops an ACK that begins a connection with a cookie that was
/// never given out, and passes the rest: packets of connections that the stack
/// knows, and all where nobody listens or the stack does without cookies.
/// `scratch.service` is the service's index. Returns an XDP action.
#[inline(always)]
pub fn check<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> u32 {
    let is_syn = packet.is_syn();
    let said = ask(ctx, packet, is_syn);
    if is_syn && said >= 0 {
        return finish(answer(ctx, packet, said as u64));
    }
    if !is_syn && said == -ENOENT {
        return finish(Cause::SynCookieWrong);
    }
    if let Some(scratch) = maps::scratch() {
        let service = scratch.service.get() as u32;
        maps::count_steered(service, 0, packet.ip_length, is_syn);
    }
    XDP_PASS
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
            let ip_length = ip_header::<A>() as u32;
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
    let ports = rewrite::words(packet.source_port, packet.destination_port);
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
    let header = tcp::syn_ack(packet, sequence, said as u32, (said >> 32) as u16);
    let Some(macs) = XdpFrame(ctx).load::<[u16; 6]>(0) else {
        return Cause::NoHeadroom;
    };
    let at = ETHERNET + ip_header::<A>();
    let length = size_of_val(&header);
    let is_written = slow::resize(ctx, at + length, 0)
        && XdpFrame(ctx).store(at, header)
        && slow::turn(ctx, packet, macs, TCP, length as u16);
    if is_written {
        Cause::SynCookie
    } else {
        Cause::NoHeadroom
    }
}
