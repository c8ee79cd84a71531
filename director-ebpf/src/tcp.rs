//! TCP (RFC 9293), as pure functions: the RST that answers a segment, the SYN-ACK
//! that carries a cookie, and where a header holds its maximum segment size.

use crate::{
    abi::{Address, TCP},
    parse::{ETHERNET, Frame, Packet, tcp_flags},
    rewrite::{fold, pseudo_sum, sum_of, words},
    scratch::Scratch,
};

/// Length of a TCP header without options.
pub const HEADER: usize = 20;

/// Header of the RST that answers a segment whose sequence and acknowledgment
/// number and offset word are `seq`, `ack` and `offset` (RFC 9293, 3.5.2), as
/// 32-bit words in memory order, with its checksum.
#[inline(always)]
#[must_use]
pub fn reset<A: Address>(packet: &Packet<A>, seq: u32, ack: u32, offset: u8) -> [u32; 5] {
    let (its_seq, its_ack, flags) = if packet.tcp_flags & tcp_flags::ACK != 0 {
        (ack, 0, tcp_flags::RST)
    } else {
        let headers = packet.transport - ETHERNET + usize::from(offset >> 4) * 4;
        let mut length = u32::from(packet.ip_length).wrapping_sub(headers as u32);
        // Each takes a number of its own (RFC 9293, 3.4).
        length += u32::from(packet.tcp_flags & tcp_flags::SYN != 0);
        length += u32::from(packet.tcp_flags & tcp_flags::FIN != 0);
        let next = u32::from_be(seq).wrapping_add(length).to_be();
        (0, next, tcp_flags::RST | tcp_flags::ACK)
    };
    let ports = words(packet.destination_port, packet.source_port);
    let word = u32::from_ne_bytes([(HEADER as u8 / 4) << 4, flags, 0, 0]);
    let sum = pseudo_sum(packet.destination, packet.source, TCP, HEADER as u16)
        + u64::from(ports)
        + u64::from(its_seq)
        + u64::from(its_ack)
        + u64::from(word);
    [ports, its_seq, its_ack, word, words(!fold(sum), 0)]
}

/// Bytes that the client may send before the stack says more: no more than any
/// stack takes at first.
const WINDOW: u16 = 32_767;

/// TCP header, with an MSS option, of the answer to the SYN `packet`: it carries
/// `cookie` (RFC 4987, 3.6). `sequence` is the SYN's as it stands there.
#[inline(always)]
#[must_use]
pub fn syn_ack<A: Address>(packet: &Packet<A>, sequence: u32, cookie: u32, mss: u16) -> [u32; 6] {
    const LENGTH: u8 = 24;
    let start = [(LENGTH / 4) << 4, tcp_flags::SYN | tcp_flags::ACK];
    let mut header = [
        words(packet.destination_port, packet.source_port),
        cookie.to_be(),
        u32::from_be(sequence).wrapping_add(1).to_be(),
        words(u16::from_ne_bytes(start), WINDOW.to_be()),
        0,
        words(u16::from_ne_bytes([MSS, 4]), mss.to_be()),
    ];
    let length = u16::from(LENGTH);
    let sum = sum_of(&header) + pseudo_sum(packet.destination, packet.source, TCP, length);
    header[4] = words(!fold(sum), 0);
    header
}

/// Kinds of options (RFC 9293, 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Most options that are looked at. Nearly every peer puts this one first.
const OPTIONS: usize = 12;

/// Finds the maximum segment size option of the TCP header at `transport`:
/// `scratch.offset` is where its value starts, counted from `transport`. False
/// where there is none, or an option before it lies about its length.
#[inline(always)]
pub fn find_mss<F: Frame + ?Sized>(frame: &F, transport: usize, scratch: &mut Scratch) -> bool {
    let Some([offset, _]) = frame.load::<[u8; 2]>(transport + 12) else {
        return false;
    };
    let end = usize::from(offset >> 4) * 4;
    scratch.offset.set(HEADER as u64);
    for _ in 0..OPTIONS {
        let at = scratch.offset.get() as usize & 63;
        // No option of interest is a single byte.
        if at + 2 > end {
            return false;
        }
        let Some([kind, length]) = frame.load::<[u8; 2]>(transport + at) else {
            return false;
        };
        if kind == NO_OPERATION {
            scratch.offset.set(at as u64 + 1);
            continue;
        }
        if kind == END {
            return false;
        }
        let length = usize::from(length);
        if kind == MSS {
            scratch.offset.set(at as u64 + 2);
            return length == 4 && at + 4 <= end;
        }
        if length < 2 || at + length > end {
            return false;
        }
        scratch.offset.set((at + length) as u64);
    }
    false
}

#[cfg(test)]
mod tests;
