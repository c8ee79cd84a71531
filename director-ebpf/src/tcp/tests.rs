#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
use proptest::prelude::*;

use super::*;

fn packet<A: Address>(source: A, destination: A, headers: usize, flags: u8) -> Packet<A> {
    Packet {
        source,
        destination,
        source_port: 40_000_u16.to_be(),
        destination_port: 80_u16.to_be(),
        protocol: TCP,
        tcp_flags: flags,
        ip_length: (headers + 32 + 100) as u16,
        transport: ETHERNET + headers,
        ..Packet::default()
    }
}

fn header(words: [u32; 5]) -> TcpHeader {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    TcpHeader::from_slice(&bytes).unwrap().0
}

proptest! {
    #[test]
    fn a_reset_fits_its_segment(seq: u32, ack: u32, flags in 0u8..64, from: [u8; 16], to: [u8; 16]) {
        let narrow = |a: [u8; 16]| u32::from_ne_bytes([a[0], a[1], a[2], a[3]]);
        let wide = |a: [u8; 16]| {
            let mut words = a.chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap()));
            [(); 4].map(|()| words.next().unwrap())
        };
        // 32 bytes of TCP header, 100 of data.
        let p4 = packet(narrow(from), narrow(to), 20, flags);
        let r4 = header(reset(&p4, seq.to_be(), ack.to_be(), 0x80));
        let p6 = packet(wide(from), wide(to), 40, flags);
        let r6 = header(reset(&p6, seq.to_be(), ack.to_be(), 0x80));
        let (f, t) = ([from[0], from[1], from[2], from[3]], [to[0], to[1], to[2], to[3]]);
        let ip4 = Ipv4Header::new(20, 64, IpNumber::TCP, t, f).unwrap();
        prop_assert_eq!(r4.checksum, r4.calc_checksum_ipv4(&ip4, &[]).unwrap());
        let ip6 = Ipv6Header { source: to, destination: from, ..Ipv6Header::default() };
        prop_assert_eq!(r6.checksum, r6.calc_checksum_ipv6(&ip6, &[]).unwrap());
        for reset in [r4, r6] {
            prop_assert!(reset.rst && !reset.syn && !reset.fin);
            prop_assert_eq!((reset.source_port, reset.destination_port), (80, 40_000));
            if flags & tcp_flags::ACK != 0 {
                prop_assert_eq!((reset.sequence_number, reset.ack), (ack, false));
            } else {
                let control = (flags & 1) + (flags >> 1 & 1);
                let next = seq.wrapping_add(100 + u32::from(control));
                prop_assert_eq!(reset.sequence_number, 0);
                prop_assert_eq!((reset.acknowledgment_number, reset.ack), (next, true));
            }
        }
    }

    /// Any options: what is found is an option of the right length in them.
    #[test]
    fn an_option_found_lies_within_the_header(options in prop::collection::vec(any::<u8>(), 0..=40)) {
        let mut bytes = vec![0; HEADER];
        bytes.extend(&options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[12] = ((bytes.len() / 4) as u8) << 4;
        let mut scratch = Scratch::default();
        if find_mss(bytes.as_slice(), 0, &mut scratch) {
            let at = scratch.offset.get() as usize;
            prop_assert!(at + 2 <= bytes.len());
            prop_assert_eq!(&bytes[at - 2..at], &[MSS, 4]);
        }
    }
}
