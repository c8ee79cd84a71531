//! The SYN-ACK that carries a SYN cookie (RFC 4987, 3.6), as pure functions.

use crate::{
    abi::{Address, TCP},
    parse::{IPV4, Packet, tcp_flags},
    rewrite::{DONT_FRAGMENT, OUTER_HOP_LIMIT, fold, sum_of, words},
};

/// Length of the TCP header: with one option, the MSS.
pub const LENGTH: usize = 24;

/// Bytes that the client may send before the stack says more: no more than any
/// stack takes at first.
const WINDOW: u16 = 32_767;
/// Kind and length of the MSS option (RFC 9293, 3.2).
const MSS_OPTION: [u8; 2] = [2, 4];

/// IPv4 header of the answer to a packet, as 32-bit words in memory order.
#[inline(always)]
#[must_use]
pub fn ipv4(source: u32, destination: u32) -> [u32; 5] {
    let length = ((IPV4 + LENGTH) as u16).to_be();
    let mut header = [
        words(u16::from_ne_bytes([0x45, 0]), length),
        words(0, DONT_FRAGMENT),
        words(u16::from_ne_bytes([OUTER_HOP_LIMIT, TCP]), 0),
        destination,
        source,
    ];
    header[2] |= words(0, !fold(sum_of(&header)));
    header
}

/// The same of IPv6, without the addresses that follow: first two words.
#[inline(always)]
#[must_use]
pub fn ipv6() -> [u32; 2] {
    let next = u16::from_ne_bytes([TCP, OUTER_HOP_LIMIT]);
    [
        0x6000_0000_u32.to_be(),
        words((LENGTH as u16).to_be(), next),
    ]
}

/// TCP header of the answer to the SYN `packet`, whose sequence number is
/// `sequence` as it stands there.
#[inline(always)]
#[must_use]
pub fn tcp<A: Address>(packet: &Packet<A>, sequence: u32, cookie: u32, mss: u16) -> [u32; 6] {
    let start = [(LENGTH as u8 / 4) << 4, tcp_flags::SYN | tcp_flags::ACK];
    let mut header = [
        words(packet.destination_port, packet.source_port),
        cookie.to_be(),
        u32::from_be(sequence).wrapping_add(1).to_be(),
        words(u16::from_ne_bytes(start), WINDOW.to_be()),
        0,
        words(u16::from_ne_bytes(MSS_OPTION), mss.to_be()),
    ];
    let sum = sum_of(&header)
        + sum_of(&packet.source.widen())
        + sum_of(&packet.destination.widen())
        + u64::from(u16::from_ne_bytes([0, TCP]))
        + u64::from((LENGTH as u16).to_be());
    header[4] = words(!fold(sum), 0);
    header
}
