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
            outer_ipv4(&endpoint, &outer(length, class, IPIP)).iter().flat_map(|w| w.to_ne_bytes()).collect();
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
            outer_ipv6(&endpoint, &outer(length, class, IP6IP6)).iter().flat_map(|w| w.to_ne_bytes()).collect();
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

/// Of a flow whose hash has all bits set.
fn outer(length: u16, traffic_class: u8, protocol: u8) -> Outer {
    Outer {
        protocol,
        traffic_class,
        length,
        entropy: u32::MAX,
    }
}

#[test]
fn gue_over_ipv6_has_the_checksum_of_the_whole() {
    use etherparse::PacketBuilder;
    for length in [0, 1, 8, 501] {
        let payload = vec![0xa5; length];
        let builder = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        builder()
            .ipv4([192, 0, 2, 1], [203, 0, 113, 10], 60)
            .tcp(40_000, 80, 7, 1024)
            .write(&mut v4, &payload)
            .expect("written");
        builder()
            .ipv6([0x20; 16], [0x21; 16], 60)
            .udp(40_000, 443)
            .write(&mut v6, &payload)
            .expect("written");
        check_gue::<u32>(&v4);
        check_gue::<[u32; 4]>(&v6);
    }
}

fn check_gue<A: crate::parse::Parse>(frame: &[u8]) {
    let mut packet = core::mem::MaybeUninit::uninit();
    A::parse(frame, &mut packet).expect("sound");
    // SAFETY: `parse` has initialised it.
    let packet = unsafe { packet.assume_init() };
    let endpoint = endpoint(&[0x30; 16], &[0x31; 16]);
    let header = gue(6080_u16.to_be(), packet.ip_length, 0xdead_beef, 0);
    let checksum = gue_checksum6(&endpoint, header, packet_sum(&packet));
    let ip = &frame[14..14 + usize::from(packet.ip_length)];
    let udp = etherparse::UdpHeader {
        source_port: 0xc000 | 0xdead,
        destination_port: 6080,
        length: packet.ip_length + 8,
        checksum: 0,
    };
    let wanted = udp
        .calc_checksum_ipv6_raw([0x30; 16], [0x31; 16], ip)
        .expect("it fits");
    assert_eq!(checksum, wanted.to_be());
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
        mtu: 1500,
        outer_sum: outer_sum(source[0], destination[0]),
        family: 4,
        ..Endpoint::UNUSED
    }
}
