//! A frame is read as `etherparse` reads it, or refused for the right reason.

use std::mem::MaybeUninit;

use director_ebpf::{
    abi::{Address, ICMP, ICMP6, TCP, UDP},
    cause::Cause,
    parse::{ETHERNET, Frame as _, IPV4, IPV6, Packet, Parse},
    quic,
    scratch::Scratch,
    tcp,
};
use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpOptionElement, TcpSlice, UdpHeaderSlice,
    err::ipv4::HeaderSliceError,
};

/// What is read of a frame of this family, and how that went.
pub fn read<A: Parse>(frame: &[u8]) -> (Result<(), Cause>, Packet<A>) {
    let mut packet = MaybeUninit::<Packet<A>>::uninit();
    let answer = A::parse(frame, &mut packet);
    let is_written = matches!(answer, Ok(()) | Err(Cause::Icmp));
    // SAFETY: `parse` says that it initialises it for these answers.
    let packet = is_written.then(|| unsafe { packet.assume_init() });
    (answer, packet.unwrap_or_default())
}

pub fn check(frame: &[u8]) {
    ipv4(frame);
    ipv6(frame);
    let destination4 = frame.get(ETHERNET + 16..ETHERNET + 20);
    let destination6 = frame.get(ETHERNET + 24..ETHERNET + 40);
    assert_eq!(
        <u32 as Parse>::destination(frame)
            .map(u32::to_ne_bytes)
            .as_ref()
            .map(<[u8; 4]>::as_slice),
        destination4
    );
    assert_eq!(
        <[u32; 4] as Parse>::destination(frame)
            .map(bytes)
            .as_ref()
            .map(<[u8; 16]>::as_slice),
        destination6
    );
    quic_id(frame);
}

/// An address as it stands in a packet.
pub fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn ipv4(frame: &[u8]) {
    let (answer, packet) = read::<u32>(frame);
    let ip = frame.get(ETHERNET..).unwrap_or_default();
    if ip.len() < IPV4 {
        return assert_eq!(answer, Err(Cause::Truncated));
    }
    let header = match Ipv4HeaderSlice::from_slice(ip) {
        Ok(header) => header,
        Err(HeaderSliceError::Content(_)) => return assert_eq!(answer, Err(Cause::Malformed)),
        // Options that the frame does not hold, whether or not the packet does.
        Err(HeaderSliceError::Len(_)) => {
            return assert!(matches!(answer, Err(Cause::Truncated | Cause::Malformed)));
        }
    };
    let (start, length) = (header.slice().len(), usize::from(header.total_len()));
    let expected = if length < start {
        Err(Cause::Malformed)
    } else if length > ip.len() {
        Err(Cause::Truncated)
    } else if header.is_fragmenting_payload() {
        Err(Cause::Fragment)
    } else {
        transport(&ip[start..length], header.protocol(), ICMP, frame, &packet)
    };
    assert_eq!(answer, expected);
    if !matches!(answer, Ok(()) | Err(Cause::Icmp)) {
        return;
    }
    assert_eq!(packet.source.to_ne_bytes(), header.source());
    assert_eq!(packet.destination.to_ne_bytes(), header.destination());
    let class = header.dcp().value() << 2 | header.ecn().value();
    assert_eq!((packet.traffic_class, packet.flow_label), (class, 0));
    assert_eq!(packet.hop_limit, header.ttl());
    assert_eq!(usize::from(packet.ip_length), length);
    assert_eq!(packet.transport, ETHERNET + start);
    let source = header.source_addr();
    let is_martian = source.octets()[0] == 0
        || source.is_loopback()
        || source.is_multicast()
        || source.octets()[0] >= 240
        || source == header.destination_addr();
    assert_eq!(packet.source.is_martian(packet.destination), is_martian);
}

fn ipv6(frame: &[u8]) {
    let (answer, packet) = read::<[u32; 4]>(frame);
    let ip = frame.get(ETHERNET..).unwrap_or_default();
    if ip.len() < IPV6 {
        return assert_eq!(answer, Err(Cause::Truncated));
    }
    let Ok(header) = Ipv6HeaderSlice::from_slice(ip) else {
        return assert_eq!(answer, Err(Cause::Malformed));
    };
    let next = header.next_header();
    let length = IPV6 + usize::from(header.payload_length());
    let expected = if length > usize::from(u16::MAX) {
        Err(Cause::Malformed)
    } else if length > ip.len() {
        Err(Cause::Truncated)
    } else if next == IpNumber::IPV6_FRAGMENTATION_HEADER {
        Err(Cause::Fragment)
    } else if next.is_ipv6_ext_header_value() {
        Err(Cause::ExtensionHeader)
    } else {
        transport(&ip[IPV6..length], next, ICMP6, frame, &packet)
    };
    assert_eq!(answer, expected);
    if !matches!(answer, Ok(()) | Err(Cause::Icmp)) {
        return;
    }
    assert_eq!(bytes(packet.source), header.source());
    assert_eq!(bytes(packet.destination), header.destination());
    assert_eq!(packet.traffic_class, header.traffic_class());
    assert_eq!(packet.flow_label, header.flow_label().value());
    assert_eq!(packet.hop_limit, header.hop_limit());
    assert_eq!(usize::from(packet.ip_length), length);
    assert_eq!(packet.transport, ETHERNET + IPV6);
    let source = header.source_addr();
    let is_martian = source.is_unspecified()
        || source.is_loopback()
        || source.is_multicast()
        || source == header.destination_addr();
    assert_eq!(packet.source.is_martian(packet.destination), is_martian);
}

/// What reading the transport header should say, and that what it says of ports
/// and flags is so.
fn transport<A: Address>(
    segment: &[u8],
    protocol: IpNumber,
    icmp: u8,
    frame: &[u8],
    packet: &Packet<A>,
) -> Result<(), Cause> {
    let read = (
        u16::from_be(packet.source_port),
        u16::from_be(packet.destination_port),
        packet.tcp_flags,
    );
    let is_icmp = protocol.0 == icmp;
    match protocol.0 {
        TCP => {
            let header = TcpSlice::from_slice(segment).map_err(|_| Cause::Malformed)?;
            let flags = segment[13];
            assert_eq!(
                read,
                (header.source_port(), header.destination_port(), flags)
            );
            assert_eq!(packet.is_syn(), header.syn() && !header.ack());
            options(frame, packet, &header);
        }
        UDP => {
            let header = UdpHeaderSlice::from_slice(segment).map_err(|_| Cause::Malformed)?;
            assert_eq!(read, (header.source_port(), header.destination_port(), 0));
        }
        _ if is_icmp => {
            assert_eq!(read, (0, 0, 0));
            return Err(Cause::Icmp);
        }
        _ => return Err(Cause::NotOurs),
    }
    assert_eq!(packet.protocol, protocol.0);
    Ok(())
}

/// Options that are looked through for a maximum segment size.
const OPTIONS: usize = 12;

fn options<A: Address>(frame: &[u8], packet: &Packet<A>, header: &TcpSlice<'_>) {
    let mut scratch = Scratch::default();
    let is_found = tcp::find_mss(frame, packet.transport, &mut scratch);
    let at = scratch.offset.get() as usize;
    if is_found {
        assert!(at + 2 <= header.header_slice().len());
        assert_eq!(header.slice()[at - 2..at], [2, 4]);
    }
    let value = frame
        .load::<[u8; 2]>(packet.transport + at)
        .map(u16::from_be_bytes);
    // It stops at an option that it does not know; ours goes on.
    let known = header.options_iterator().map_while(Result::ok);
    let mss = known.take(OPTIONS).find_map(|option| match option {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    });
    if let Some(mss) = mss {
        assert_eq!((is_found, value), (true, Some(mss)));
    }
}

/// Bits of the first bytes, as the draft's figures have them.
fn quic_id(frame: &[u8]) {
    let Some(start) = frame.first_chunk::<{ quic::LEAST }>() else {
        return;
    };
    let [first, rotation, high, middle, low, ..] = *start;
    let is_short = first >> 7 == 0;
    let is_routable = rotation >> 5 != 7;
    let id = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
    let named = if is_short && is_routable { id } else { 0 };
    let word = u32::from_ne_bytes([rotation, high, middle, low]);
    assert_eq!(quic::server(first, word) as usize, named);
}
