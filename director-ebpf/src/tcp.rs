//! TCP (RFC 9293), as pure functions: the RST that answers a segment, and where
//! a header holds its maximum segment size.

use crate::{
    abi::{Address, TCP},
    parse::{ETHERNET, Frame, Packet, tcp_flags},
    rewrite::{fold, pseudo_sum},
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
    let [s0, s1] = packet.destination_port.to_ne_bytes();
    let [d0, d1] = packet.source_port.to_ne_bytes();
    let ports = u32::from_ne_bytes([s0, s1, d0, d1]);
    let word = u32::from_ne_bytes([(HEADER as u8 / 4) << 4, flags, 0, 0]);
    let sum = pseudo_sum(packet.destination, packet.source, TCP, HEADER as u16)
        + u64::from(ports)
        + u64::from(its_seq)
        + u64::from(its_ack)
        + u64::from(word);
    let [c0, c1] = (!fold(sum)).to_ne_bytes();
    [
        ports,
        its_seq,
        its_ack,
        word,
        u32::from_ne_bytes([c0, c1, 0, 0]),
    ]
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
