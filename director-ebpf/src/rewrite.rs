//! Outer headers and checksums, as pure functions.

use crate::{
    abi::{Address, Endpoint, ICMP},
    parse::{ETHERNET, IPV4, Packet},
};

/// Protocol numbers of an encapsulated packet: IPv4 in IP (RFC 2003), IPv6 in
/// IPv6 (RFC 2473).
pub const IPIP: u8 = 4;
pub const IP6IP6: u8 = 41;

/// Hop limit of outer headers.
pub const OUTER_HOP_LIMIT: u8 = 64;

/// Length of a UDP header.
const UDP: u16 = 8;

/// Don't Fragment, in the flags word of an IPv4 header (network byte order).
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// Folds a sum of 16-bit words to 16 bits (RFC 1071).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of the words of an outer IPv4 header that are the same for all packets
/// to an endpoint: what [`Endpoint::outer_sum`] holds, so that the packet path
/// adds only the others.
pub const fn outer_sum(source: u32, destination: u32) -> u16 {
    let first = u16::from_ne_bytes([0x45, 0]) as u64;
    fold(first + DONT_FRAGMENT as u64 + source as u64 + destination as u64)
}

/// What differs from packet to packet in an outer header.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Protocol of what follows: [`IPIP`], [`IP6IP6`] or UDP.
    pub protocol: u8,
    /// Copied from the inner packet (RFC 6040, 4.1: ECN must be).
    pub traffic_class: u8,
    /// Bytes that follow the header.
    pub length: u16,
    /// Hash of the flow: source bits over IPv4, flow label over IPv6 (RFC
    /// 6438), source port of UDP. So routers and network cards spread flows.
    pub entropy: u32,
}

/// Outer IPv4 header (RFC 2003), as 32-bit words in memory order. The
/// identification is 0 as RFC 6864 allows with DF set.
#[inline(always)]
pub fn outer_ipv4(endpoint: &Endpoint, outer: &Outer) -> [u32; 5] {
    let length = (outer.length + IPV4 as u16).to_be();
    let first = u16::from_ne_bytes([0x45, outer.traffic_class]);
    let class = u16::from_ne_bytes([0, outer.traffic_class]);
    let hop = u16::from_ne_bytes([OUTER_HOP_LIMIT, outer.protocol]);
    let varied = outer.entropy & endpoint.tunnel_source[1];
    let sum = u64::from(endpoint.outer_sum)
        + u64::from(length)
        + u64::from(class)
        + u64::from(hop)
        + u64::from(varied);
    [
        words(first, length),
        words(0, DONT_FRAGMENT),
        words(hop, !fold(sum)),
        endpoint.tunnel_source[0] | varied,
        endpoint.address[0],
    ]
}

/// What differs in the IP header of a packet that is made here.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<A> {
    pub source: A,
    pub destination: A,
    pub protocol: u8,
    pub traffic_class: u8,
    /// Bytes that follow the header.
    pub length: u16,
}

/// Hop limit of packets that are made here (RFC 1700, IPv4's default).
pub const FRESH_HOP_LIMIT: u8 = 64;

impl Fresh<u32> {
    /// IPv4 header without options, as 32-bit words in memory order. The
    /// identification is 0 as RFC 6864 allows with DF set.
    #[inline(always)]
    #[must_use]
    pub const fn ipv4(&self) -> [u32; 5] {
        let length = (self.length + IPV4 as u16).to_be();
        let first = u16::from_ne_bytes([0x45, self.traffic_class]);
        let hop = u16::from_ne_bytes([FRESH_HOP_LIMIT, self.protocol]);
        let sum = first as u64
            + length as u64
            + DONT_FRAGMENT as u64
            + hop as u64
            + self.source as u64
            + self.destination as u64;
        [
            words(first, length),
            words(0, DONT_FRAGMENT),
            words(hop, !fold(sum)),
            self.source,
            self.destination,
        ]
    }
}

impl Fresh<[u32; 4]> {
    /// IPv6 header, as 32-bit words in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn ipv6(&self) -> [u32; 10] {
        let next = u16::from_ne_bytes([self.protocol, FRESH_HOP_LIMIT]);
        let (s, d) = (self.source, self.destination);
        [
            (0x6000_0000_u32 | (self.traffic_class as u32) << 20).to_be(),
            words(self.length.to_be(), next),
            s[0],
            s[1],
            s[2],
            s[3],
            d[0],
            d[1],
            d[2],
            d[3],
        ]
    }
}

/// Sum of the pseudo-header that the checksums of TCP, UDP and ICMPv6 cover
/// (RFC 9293, 3.1; RFC 8200, 8.1), of `length` bytes of `protocol`.
#[inline(always)]
pub fn pseudo_sum<A: Address>(source: A, destination: A, protocol: u8, length: u16) -> u64 {
    sum_of(&source.widen())
        + sum_of(&destination.widen())
        + u64::from(length.to_be())
        + u64::from(u16::from_ne_bytes([0, protocol]))
}

/// Outer IPv6 header (RFC 2473).
#[inline(always)]
pub fn outer_ipv6(endpoint: &Endpoint, outer: &Outer) -> [u32; 10] {
    let label = outer.entropy & 0xf_ffff;
    let start = (0x6000_0000_u32 | u32::from(outer.traffic_class) << 20 | label).to_be();
    let next = u16::from_ne_bytes([outer.protocol, OUTER_HOP_LIMIT]);
    let s = endpoint.tunnel_source;
    let d = endpoint.address;
    [
        start,
        words(outer.length.to_be(), next),
        s[0],
        s[1],
        s[2],
        s[3],
        d[0],
        d[1],
        d[2],
        d[3],
    ]
}

/// Congestion notification of a packet whose outer header is taken off (RFC
/// 6040, figure 4). `None`: to be dropped, since its transport could not tell
/// its sender.
#[inline(always)]
#[must_use]
pub const fn decapsulated_ecn(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT1, ECT0) => Some(ECT1),
        (_, inner) => Some(inner),
    }
}

/// UDP header of GUE (draft-ietf-intarea-gue, variant 1: the IP packet follows
/// directly), with `length` bytes following and `checksum` as it is.
#[inline(always)]
pub fn gue(port: u16, length: u16, entropy: u32, checksum: u16) -> [u32; 2] {
    let source = (0xc000 | (entropy >> 16) as u16).to_be();
    [words(source, port), words((length + UDP).to_be(), checksum)]
}

/// Checksum of the UDP header that [`gue`] makes over IPv6, where it may not be
/// left out in general (RFC 6935). The inner packet is not read for it: its own
/// checksums say what its bytes sum up to.
#[inline(always)]
pub fn gue_checksum6(endpoint: &Endpoint, header: [u32; 2], inner_sum: u16) -> u16 {
    let [_, rest] = header;
    let [l0, l1, ..] = rest.to_ne_bytes();
    let length = u16::from_ne_bytes([l0, l1]);
    let sum = sum_of(&endpoint.tunnel_source)
        + sum_of(&endpoint.address)
        + u64::from(length)
        + u64::from(u16::from_ne_bytes([0, 17]))
        + sum_of(&header)
        + u64::from(inner_sum);
    match !fold(sum) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Sum of a whole IP packet's words, given that its checksums are right:
/// a right IPv4 header sums up to zero, and a right segment to the complement
/// of its pseudo-header, or to zero where it has none (ICMP).
#[inline(always)]
pub fn packet_sum<A: Address>(packet: &Packet<A>) -> u16 {
    let header = packet.transport - ETHERNET;
    let length = packet.ip_length - header as u16;
    if A::FAMILY == 4 && packet.protocol == ICMP {
        return 0;
    }
    let pseudo = pseudo_sum(packet.source, packet.destination, packet.protocol, length);
    let of_segment = !fold(pseudo);
    if A::FAMILY == 4 {
        return of_segment;
    }
    let segment = length.to_be();
    let addresses = sum_of(&packet.source.widen()) + sum_of(&packet.destination.widen());
    let start = 0x6000_u16 | u16::from(packet.traffic_class) << 4;
    let label = packet.flow_label;
    let next = u16::from_ne_bytes([packet.protocol, packet.hop_limit]);
    let start = (u32::from(start) << 16 | label).to_be();
    let sum = u64::from(start) + u64::from(segment) + u64::from(next) + addresses;
    fold(sum + u64::from(of_segment))
}

#[inline(always)]
pub(crate) fn sum_of(words: &[u32]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += u64::from(*word);
    }
    sum
}

/// Two 16-bit words, in memory order, as one of 32 bits.
#[inline(always)]
pub const fn words(first: u16, second: u16) -> u32 {
    let a = first.to_ne_bytes();
    let b = second.to_ne_bytes();
    u32::from_ne_bytes([a[0], a[1], b[0], b[1]])
}

/// Collects what changed under a checksum, then updates it (RFC 1624, eqn. 3).
/// All words are taken as they stand in memory: the sum does not depend on the
/// byte order (RFC 1071, 2B).
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// A 32-bit word went from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// A 16-bit word went from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// An address went from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub fn address<A: Address>(self, old: A, new: A) -> Self {
        let (old, new) = (old.widen(), new.widen());
        let changed = self.word(old[0], new[0]);
        if A::FAMILY == 4 {
            changed
        } else {
            changed
                .word(old[1], new[1])
                .word(old[2], new[2])
                .word(old[3], new[3])
        }
    }

    /// The checksum after the change.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + !checksum as u64)
    }

    /// The checksum after the change, of UDP: 0 says "none" and stays (RFC 768;
    /// over IPv6 it does not occur), and a sum of 0 is sent as all ones.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            sum => sum,
        }
    }
}

#[cfg(test)]
mod tests;
