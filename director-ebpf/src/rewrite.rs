//! Outer headers and checksums, as pure functions.

use crate::{
    abi::{Address, Endpoint},
    parse::{IPV4, IPV6},
};

/// Protocol numbers of an encapsulated packet: IPv4 in IP (RFC 2003), IPv6 in
/// IPv6 (RFC 2473).
pub const IPIP: u8 = 4;
pub const IP6IP6: u8 = 41;

/// Hop limit of outer headers.
pub const OUTER_HOP_LIMIT: u8 = 64;

/// Don't Fragment, in the flags word of an IPv4 header (network byte order).
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();

/// Bytes that the outer header of a family takes.
#[inline(always)]
pub const fn overhead<A: Address>() -> usize {
    if A::FAMILY == 4 { IPV4 } else { IPV6 }
}

/// Folds a sum of 16-bit words to 16 bits (RFC 1071).
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of an outer IPv4 header's words but total length, type of service and
/// checksum: what [`Endpoint::outer_sum`] holds, so that the packet path adds
/// only the words that differ between packets.
pub const fn outer_sum(source: u32, destination: u32) -> u16 {
    let first = u16::from_ne_bytes([0x45, 0]) as u64;
    let hop = u16::from_ne_bytes([OUTER_HOP_LIMIT, IPIP]) as u64;
    fold(first + DONT_FRAGMENT as u64 + hop + source as u64 + destination as u64)
}

/// Outer IPv4 header (RFC 2003) of an inner packet of `inner_length` bytes, as
/// 32-bit words in memory order. The traffic class is copied (RFC 6040, 4.1:
/// ECN must be), the identification is 0 as RFC 6864 allows with DF set.
#[inline(always)]
pub fn outer_ipv4(endpoint: &Endpoint, inner_length: u16, traffic_class: u8) -> [u32; 5] {
    let length = (inner_length + IPV4 as u16).to_be();
    let first = u16::from_ne_bytes([0x45, traffic_class]);
    let class = u16::from_ne_bytes([0, traffic_class]);
    let sum = u64::from(endpoint.outer_sum) + u64::from(length) + u64::from(class);
    let checksum = !fold(sum);
    let hop = u16::from_ne_bytes([OUTER_HOP_LIMIT, IPIP]);
    [
        words(first, length),
        words(0, DONT_FRAGMENT),
        words(hop, checksum),
        endpoint.tunnel_source[0],
        endpoint.address[0],
    ]
}

/// Outer IPv6 header (RFC 2473) of an inner packet of `inner_length` bytes.
#[inline(always)]
pub fn outer_ipv6(endpoint: &Endpoint, inner_length: u16, traffic_class: u8) -> [u32; 10] {
    let start = (0x6000_0000_u32 | u32::from(traffic_class) << 20).to_be();
    let next = u16::from_ne_bytes([IP6IP6, OUTER_HOP_LIMIT]);
    let s = endpoint.tunnel_source;
    let d = endpoint.address;
    [
        start,
        words(inner_length.to_be(), next),
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

/// Two 16-bit words, in memory order, as one of 32 bits.
#[inline(always)]
const fn words(first: u16, second: u16) -> u32 {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Internet checksum over bytes, straight from RFC 1071.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn a_change_equals_computing_anew(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..=40),
            word in any::<u32>(),
            half in any::<u16>(),
        ) {
            // An all-zero message has two representations of its sum.
            bytes[0] |= 1;
            let before = reference(&bytes).to_be();
            let old_word = u32::from_ne_bytes(bytes[8..12].try_into().expect("four bytes"));
            let old_half = u16::from_ne_bytes(bytes[20..22].try_into().expect("two bytes"));
            bytes[8..12].copy_from_slice(&word.to_ne_bytes());
            bytes[20..22].copy_from_slice(&half.to_ne_bytes());
            let after = Change::default().word(old_word, word).half(old_half, half).apply(before);
            prop_assert_eq!(after, reference(&bytes).to_be());
        }

        #[test]
        fn outer_ipv4_is_a_valid_header(
            source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(),
            length in 28u16..1480, class in any::<u8>(),
        ) {
            let endpoint = endpoint(&source, &destination);
            let bytes: Vec<u8> =
                outer_ipv4(&endpoint, length, class).iter().flat_map(|w| w.to_ne_bytes()).collect();
            let (header, _) = etherparse::Ipv4Header::from_slice(&bytes).expect("a header");
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!(header.total_len, length + 20);
            prop_assert_eq!(header.source, source);
            prop_assert_eq!(header.destination, destination);
            prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), class);
            prop_assert_eq!(header.protocol.0, IPIP);
            prop_assert!(header.dont_fragment);
        }

        #[test]
        fn outer_ipv6_is_a_valid_header(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            length in 48u16..1460, class in any::<u8>(),
        ) {
            let endpoint = endpoint(&source, &destination);
            let bytes: Vec<u8> =
                outer_ipv6(&endpoint, length, class).iter().flat_map(|w| w.to_ne_bytes()).collect();
            let (header, _) = etherparse::Ipv6Header::from_slice(&bytes).expect("a header");
            prop_assert_eq!(header.payload_length, length);
            prop_assert_eq!(header.source, source);
            prop_assert_eq!(header.destination, destination);
            prop_assert_eq!(header.traffic_class, class);
            prop_assert_eq!(header.next_header.0, IP6IP6);
            prop_assert_eq!(header.hop_limit, OUTER_HOP_LIMIT);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        assert_eq!(Change::default().word(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn udp_never_gets_a_zero_checksum() {
        // 0xffff unchanged is the sum that comes out as zero.
        assert_eq!(Change::default().half(0, 0).apply_udp(0xffff), 0xffff);
    }

    fn endpoint(source: &[u8], destination: &[u8]) -> Endpoint {
        let wide = |bytes: &[u8]| {
            let mut words = [0; 4];
            for (word, chunk) in words.iter_mut().zip(bytes.chunks(4)) {
                *word = u32::from_ne_bytes(chunk.try_into().expect("four bytes"));
            }
            words
        };
        let (source, destination) = (wide(source), wide(destination));
        Endpoint {
            address: destination,
            tunnel_source: source,
            generation: 1,
            service: 0,
            interface: 0,
            macs: [0; 6],
            port: 0,
            mtu: 1500,
            outer_sum: outer_sum(source[0], destination[0]),
            state: 1,
            family: 4,
        }
    }
}
