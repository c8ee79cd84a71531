//! Headers of both versions, right and wrong, and what holds for any.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ppp::{HeaderResult, v2::Addresses};
use proptest::prelude::*;

use super::*;

fn of(source: &str, destination: &str) -> Header {
    Header {
        source: Some(source.parse().unwrap()),
        destination: Some(destination.parse().unwrap()),
    }
}

/// A header of version 2 from its last four fixed bytes on.
fn v2_of(command: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [V2_SIGNATURE, &[command, kind][..], &length, body].concat()
}

#[track_caller]
fn taken(bytes: &[u8], header: Header) {
    let length = bytes.len();
    assert_eq!(parse(bytes), Parse::Done { header, length });
    // What follows is not looked at.
    let followed = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(parse(&followed), Parse::Done { header, length });
    for cut in 0..length {
        assert_eq!(parse(&bytes[..cut]), Parse::Incomplete, "{cut} bytes");
    }
}

#[track_caller]
fn refused(bytes: &[u8]) {
    let found = parse(bytes);
    let text = String::from_utf8_lossy(bytes);
    assert!(matches!(found, Parse::Invalid(_)), "{text}: {found:?}");
}

#[test]
fn lines_are_read() {
    let both = of("192.0.2.1:0", "198.51.100.1:65535");
    taken(b"PROXY TCP4 192.0.2.1 198.51.100.1 0 65535\r\n", both);
    let both = of("[2001:db8::1]:56324", "[2001:db8::2]:443");
    taken(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", both);
    let mapped = of("192.0.2.1:1", "[2001:db8::2]:2");
    taken(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n", mapped);
    taken(b"PROXY UNKNOWN\r\n", Header::default());
    taken(b"PROXY UNKNOWN \xff what ever 1\r\n", Header::default());
    // The longest of all, from section 2.1.
    let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {all} {all} 65535 65535\r\n");
    assert_eq!(longest.len(), V1_BYTES);
    taken(longest.as_bytes(), Header::default());
}

#[test]
fn lines_that_are_not_quite_right_are_refused() {
    let lines: [&[u8]; 24] = [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\n 2\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n",
    ];
    lines.into_iter().for_each(refused);
    let long = [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat();
    assert_eq!(long.len(), V1_BYTES + 1);
    refused(&long);
    // Even before it ends.
    refused(&long[..V1_BYTES]);
    assert_eq!(parse(&long[..V1_BYTES - 1]), Parse::Incomplete);
}

#[test]
fn bytes_are_read() {
    let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
    let both = of("192.0.2.1:56324", "198.51.100.1:443");
    taken(&v2_of(0x21, 0x11, &four), both);
    let six = "20010db8000000000000000000000001 20010db8000000000000000000000002 dc04 01bb";
    let digits: Vec<u8> = six.bytes().filter(|&byte| byte != b' ').collect();
    let digits = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    let six: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect();
    let both6 = of("[2001:db8::1]:56324", "[2001:db8::2]:443");
    taken(&v2_of(0x21, 0x21, &six), both6);
    // With TLVs: ALPN, and the checksum, which is skipped.
    let tlvs = [1, 0, 2, b'h', b'2', 3, 0, 4, 1, 2, 3, 4];
    taken(&v2_of(0x21, 0x11, &[&four[..], &tlvs].concat()), both);
    taken(&v2_of(0x21, 0x11, &[&four[..], &[4; 500]].concat()), both);
    // The peer itself, whatever else it says.
    for body in [&[][..], &four, &[9; 512]] {
        taken(&v2_of(0x20, 0x11, body), Header::default());
        taken(&v2_of(0x20, 0xff, body), Header::default());
        taken(&v2_of(0x21, 0x00, body), Header::default());
    }
    // Of UDP and Unix sockets we know nothing.
    for (kind, length) in [(0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
        taken(&v2_of(0x21, kind, &vec![7; length]), Header::default());
    }
}

#[test]
fn bytes_that_are_not_quite_right_are_refused() {
    let body = [1; 216];
    for command in [0x00, 0x11, 0x22, 0x2f, 0x31] {
        refused(&v2_of(command, 0x11, &body));
    }
    for kind in [0x13, 0x1f, 0x41, 0xf1, 0x03] {
        refused(&v2_of(0x21, kind, &body));
    }
    for (kind, short) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x31, 215)] {
        refused(&v2_of(0x21, kind, &body[..short]));
    }
    // Before what is too long has come.
    refused(&v2_of(0x21, 0x11, &[1; 513])[..16]);
    let mut broken = v2_of(0x21, 0x11, &body);
    broken[11] = b'\r';
    refused(&broken[..12]);
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| IpAddr::from(Ipv4Addr::from(octets))),
        any::<[u8; 16]>().prop_map(|octets| IpAddr::from(Ipv6Addr::from(octets))),
        any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_ipv6_mapped().into()),
    ];
    (address, any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn version() -> impl Strategy<Value = ProxyProtocol> {
    prop_oneof![Just(ProxyProtocol::V1), Just(ProxyProtocol::V2)]
}

fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

/// What an implementation by others reads; `None` where it refuses.
fn by_others(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            ppp::v1::Addresses::Tcp4(ip) => Some((
                SocketAddr::new(ip.source_address.into(), ip.source_port),
                SocketAddr::new(ip.destination_address.into(), ip.destination_port),
            )),
            ppp::v1::Addresses::Tcp6(ip) => Some((
                SocketAddr::new(ip.source_address.into(), ip.source_port),
                SocketAddr::new(ip.destination_address.into(), ip.destination_port),
            )),
            ppp::v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) => match header.addresses {
            Addresses::IPv4(ip) => Some((
                SocketAddr::new(ip.source_address.into(), ip.source_port),
                SocketAddr::new(ip.destination_address.into(), ip.destination_port),
            )),
            Addresses::IPv6(ip) => Some((
                SocketAddr::new(ip.source_address.into(), ip.source_port),
                SocketAddr::new(ip.destination_address.into(), ip.destination_port),
            )),
            _ => None,
        },
        _ => None,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(version in version(), own in socket(), other in socket()) {
        let bytes = write(version, own, other);
        let header = Header {
            source: Some(canonical(own)),
            destination: Some(canonical(other)),
        };
        taken(&bytes, header);
        let others = by_others(&bytes).map(|(own, other)| (canonical(own), canonical(other)));
        prop_assert_eq!(others, Some((canonical(own), canonical(other))));
    }

    #[test]
    fn no_bytes_cause_a_panic(
        signature in prop_oneof![Just(&b""[..]), Just(&V1_SIGNATURE[..]), Just(&V2_SIGNATURE[..])],
        bytes in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        holds(&[signature, &bytes].concat());
    }

    #[test]
    fn a_change_of_a_header_is_read_as_others_do(
        (version, own, other) in (version(), socket(), socket()),
        (at, to) in (0..64usize, any::<u8>()),
    ) {
        let mut bytes = write(version, own, other);
        let length = bytes.len();
        bytes[at % length] = to;
        holds(&bytes);
        let Parse::Done { header, length } = parse(&bytes) else { return Ok(()) };
        let (Some(source), Some(destination)) = (header.source, header.destination) else {
            return Ok(());
        };
        // Others are given what we took alone, since what follows is not the header's.
        let others = by_others(&bytes[..length]);
        let others = others.map(|(own, other)| (canonical(own), canonical(other)));
        prop_assert_eq!(others, Some((source, destination)));
    }
}

/// What holds for any bytes: a longer beginning never changes what was found.
fn holds(bytes: &[u8]) {
    let found = parse(bytes);
    if let Parse::Done { length, .. } = found {
        assert!(length <= bytes.len() && length <= V2_BYTES);
        assert_eq!(parse(&bytes[..length]), found);
        assert_eq!(parse(&bytes[..length - 1]), Parse::Incomplete);
    }
    if found == Parse::Incomplete {
        assert!(bytes.len() < V2_BYTES);
    }
}
