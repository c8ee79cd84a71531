#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use proptest::prelude::*;

use super::*;

/// Sum of bytes as 16-bit words in memory order.
fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum()
}

#[test]
fn a_reply_of_zeros_has_a_checksum_of_ones() {
    assert_eq!(checksum(0, echo_reply::<u32>()), 0xffff);
    let request = u16::from_ne_bytes([8, 0]);
    assert!(is_right(0, request, checksum(0, request)));
    assert!(!is_right(0, 0, 0));
}

#[test]
fn kinds_are_the_families_own() {
    assert_eq!(kind::<u32>(8), Kind::EchoRequest);
    assert_eq!(kind::<[u32; 4]>(128), Kind::EchoRequest);
    for (message, in4, in6) in [
        (0, Kind::Other, Kind::Other),
        (1, Kind::Other, Kind::Error),
        (3, Kind::Error, Kind::Error),
        (4, Kind::Other, Kind::Error),
        (5, Kind::Other, Kind::Other),
        (11, Kind::Error, Kind::Other),
        (12, Kind::Error, Kind::Other),
        (135, Kind::Other, Kind::Other),
    ] {
        assert_eq!(
            (kind::<u32>(message), kind::<[u32; 4]>(message)),
            (in4, in6)
        );
    }
}

proptest! {
    #[test]
    fn checksums_are_those_of_etherparse(id: u16, seq: u16, payload: Vec<u8>) {
        let echo = IcmpEchoHeader { id, seq };
        let bytes = [echo.to_bytes().as_slice(), &payload].concat();
        let reply = Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(echo), &payload);
        let ours = checksum(sum(&bytes), echo_reply::<u32>());
        prop_assert_eq!(u16::from_be(ours), reply.checksum);
    }

    /// Any bytes: what is read lies within them.
    #[test]
    fn a_quoted_packet_lies_within_its_error(bytes: Vec<u8>, end in 0usize..200) {
        let end = end.min(bytes.len());
        let mut flow = Packet::<u32>::default();
        if read_quoted(bytes.as_slice(), end, &mut flow) {
            prop_assert!(flow.transport + QUOTED <= end);
        }
        let mut flow = Packet::<[u32; 4]>::default();
        if read_quoted(bytes.as_slice(), end, &mut flow) {
            prop_assert!(flow.transport + QUOTED <= end);
        }
    }
}
