//! What is made of a packet has right checksums and says what it should: RST,
//! SYN-ACK, echo reply, "packet too big", outer headers, rewritten addresses.

use director_ebpf::{
    abi::{Address, Endpoint, ICMP, ICMP6, TCP, UDP},
    cause::Cause,
    icmp,
    parse::{ETHERNET, Packet, Parse, tcp_flags},
    rewrite::{self, Change, Fresh, Outer},
    tcp,
};
use etherparse::{TcpHeader, TcpOptionElement, checksum::Sum16BitWords};

use crate::packet::{bytes, read};

/// Bytes before the frame that choose what is made of it.
const CHOICES: usize = 16;

pub fn check(input: &[u8]) {
    let Some((choices, frame)) = input.split_first_chunk::<CHOICES>() else {
        return;
    };
    of::<u32>(choices, frame);
    of::<[u32; 4]>(choices, frame);
}

fn of<A: Parse>(choices: &[u8; CHOICES], frame: &[u8]) {
    let (answer, packet) = read::<A>(frame);
    match answer {
        Ok(()) => {
            let sound = sound(frame, &packet);
            too_big(choices, frame, &packet);
            rewritten(choices, &sound, &packet);
            wrapped(choices, &sound, &packet);
            if packet.protocol == TCP {
                reset(frame, &packet);
                syn_ack(choices, frame, &packet);
            }
        }
        Err(Cause::Icmp) => {
            echo(frame, &packet);
            quoted(frame, &packet);
        }
        Err(_) => {}
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Sum of the bytes as words in memory order, as the program has it.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    let words = words.map(|pair| u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    words.map(u64::from).sum()
}

/// The sum of a pseudo-header, by `etherparse`.
fn pseudo<A: Address>(from: A, to: A, protocol: u8, length: usize) -> Sum16BitWords {
    let (from, to) = (bytes(from.widen()), bytes(to.widen()));
    // The words after an IPv4 address are 0, and add nothing.
    Sum16BitWords::new()
        .add_2bytes([0, protocol])
        .add_4bytes((length as u32).to_be_bytes())
        .add_16bytes(from)
        .add_16bytes(to)
}

/// Whether a segment's checksum is right.
fn is_sound<A: Address>(from: A, to: A, protocol: u8, segment: &[u8]) -> bool {
    let sum = if A::FAMILY == 4 && protocol == ICMP {
        Sum16BitWords::new()
    } else {
        pseudo(from, to, protocol, segment.len())
    };
    sum.add_slice(segment).ones_complement() == 0
}

/// Where the checksum of a TCP or UDP header is.
fn checksum_at(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// The IP packet with right checksums; but for UDP that has none.
fn sound<A: Address>(frame: &[u8], packet: &Packet<A>) -> Vec<u8> {
    let start = packet.transport - ETHERNET;
    let mut ip = frame[ETHERNET..ETHERNET + usize::from(packet.ip_length)].to_vec();
    if A::FAMILY == 4 {
        ip[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&ip[..start]);
        ip[10..12].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    }
    let at = start + checksum_at(packet.protocol);
    if packet.protocol == UDP {
        // The program takes it that UDP has all of the packet, as it has but
        // with options (RFC 9868).
        let length = (ip.len() - start) as u16;
        ip[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
        if ip[at..at + 2] == [0, 0] && A::FAMILY == 4 {
            return ip;
        }
    }
    ip[at..at + 2].fill(0);
    let (from, to) = (packet.source, packet.destination);
    let sum = pseudo(from, to, packet.protocol, ip.len() - start).add_slice(&ip[start..]);
    let mut checksum = sum.ones_complement();
    if packet.protocol == UDP && checksum == 0 {
        checksum = 0xffff;
    }
    ip[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    ip
}

fn reset<A: Address>(frame: &[u8], packet: &Packet<A>) {
    let at = packet.transport;
    let (seq, ack, offset) = (number(frame, at + 4), number(frame, at + 8), frame[at + 12]);
    let made = to_bytes(&tcp::reset(packet, seq, ack, offset));
    assert!(is_sound(packet.destination, packet.source, TCP, &made));
    let (its, _) = TcpHeader::from_slice(&made).unwrap();
    let end = ETHERNET + usize::from(packet.ip_length);
    let (segment, payload) = TcpHeader::from_slice(&frame[at..end]).unwrap();
    assert!(its.rst && !its.syn && !its.fin && its.window_size == 0);
    let ports = (segment.destination_port, segment.source_port);
    assert_eq!((its.source_port, its.destination_port), ports);
    assert_ne!(its.ack, segment.ack);
    if segment.ack {
        assert_eq!(its.sequence_number, segment.acknowledgment_number);
    } else {
        let length = payload.len() as u32 + u32::from(segment.syn) + u32::from(segment.fin);
        let next = segment.sequence_number.wrapping_add(length);
        assert_eq!((its.sequence_number, its.acknowledgment_number), (0, next));
    }
}

fn syn_ack<A: Address>(choices: &[u8; CHOICES], frame: &[u8], packet: &Packet<A>) {
    let cookie = number(choices, 0);
    let mss = u16::from_ne_bytes([choices[4], choices[5]]);
    let sequence = number(frame, packet.transport + 4);
    let made = to_bytes(&tcp::syn_ack(packet, sequence, cookie, mss));
    assert!(is_sound(packet.destination, packet.source, TCP, &made));
    let (its, rest) = TcpHeader::from_slice(&made).unwrap();
    assert!(its.syn && its.ack && !its.rst && !its.fin && rest.is_empty());
    assert_eq!(its.sequence_number, cookie);
    let next = u32::from_be(sequence).wrapping_add(1);
    assert_eq!(its.acknowledgment_number, next);
    let options: Vec<_> = its.options_iterator().collect();
    assert_eq!(options, [Ok(TcpOptionElement::MaximumSegmentSize(mss))]);
}

/// What the checksum of a message of ICMP covers besides it.
fn covered<A: Address>(packet: &Packet<A>, length: usize) -> u64 {
    if A::FAMILY == 4 {
        return 0;
    }
    rewrite::pseudo_sum(packet.source, packet.destination, ICMP6, length as u16)
}

const fn icmp_of<A: Address>() -> u8 {
    if A::FAMILY == 4 { ICMP } else { ICMP6 }
}

fn echo<A: Address>(frame: &[u8], packet: &Packet<A>) {
    let start = ETHERNET + icmp::ip_header::<A>();
    let end = ETHERNET + usize::from(packet.ip_length);
    let message = frame.get(start..end).unwrap_or_default();
    if message.len() < icmp::HEADER {
        return;
    }
    let rest = sum(&message[4..]) + covered(packet, message.len());
    let half = |at| u16::from_ne_bytes([message[at], message[at + 1]]);
    let (from, to) = (packet.source, packet.destination);
    let is_right = is_sound(from, to, icmp_of::<A>(), message);
    assert_eq!(icmp::is_right(rest, half(0), half(2)), is_right);
    let kind = icmp::echo_reply::<A>();
    let checksum = icmp::checksum(rest, kind);
    let head = [kind.to_ne_bytes(), checksum.to_ne_bytes()].concat();
    let reply = [head.as_slice(), &message[4..]].concat();
    assert!(is_sound(to, from, icmp_of::<A>(), &reply));
}

fn too_big<A: Address>(choices: &[u8; CHOICES], frame: &[u8], packet: &Packet<A>) {
    let most = usize::from(choices[0]).max(icmp::HEADER);
    let quoted = usize::from(packet.ip_length).min(most);
    let quoted = &frame[ETHERNET..ETHERNET + quoted];
    let mtu = u32::from(u16::from_ne_bytes([choices[1], choices[2]])).to_be();
    let length = icmp::HEADER + quoted.len();
    let rest = sum(quoted) + u64::from(mtu) + covered(packet, length);
    let kind = icmp::too_big::<A>();
    let checksum = icmp::checksum(rest, kind);
    let head = [kind.to_ne_bytes(), checksum.to_ne_bytes()].concat();
    let message = [head.as_slice(), &mtu.to_ne_bytes(), quoted].concat();
    let (from, to) = (packet.destination, packet.source);
    assert!(is_sound(from, to, icmp_of::<A>(), &message));
    let fresh = Fresh {
        source: packet.destination.widen()[0],
        destination: packet.source.widen()[0],
        protocol: ICMP,
        traffic_class: packet.traffic_class,
        length: length as u16,
    };
    assert_right_ipv4(&to_bytes(&fresh.ipv4()), 20 + length);
}

/// Asserts that it is a whole header, of a packet of this length.
fn assert_right_ipv4(header: &[u8], length: usize) {
    let (read, rest) = etherparse::Ipv4Header::from_slice(header).unwrap();
    assert!(rest.is_empty());
    assert_eq!(read.header_checksum, read.calc_header_checksum());
    assert_eq!(usize::from(read.total_len), length);
}

/// The packet that an error quotes is the one that stands there, turned round.
fn quoted<A: Address>(frame: &[u8], packet: &Packet<A>) {
    let end = ETHERNET + usize::from(packet.ip_length);
    let mut flow = Packet::<A>::default();
    if !icmp::read_quoted(frame, end, &mut flow) {
        return;
    }
    let start = icmp::quoted::<A>();
    assert!(flow.transport + icmp::HEADER <= end);
    let ports = &frame[flow.transport..flow.transport + 4];
    let read = [flow.destination_port, flow.source_port].map(u16::to_ne_bytes);
    assert_eq!(read.concat(), ports);
    assert!(flow.protocol == TCP || flow.protocol == UDP);
    assert_eq!(flow.tcp_flags, tcp_flags::ACK);
    let ip = &frame[start..end];
    if A::FAMILY == 4 {
        let header = etherparse::Ipv4HeaderSlice::from_slice(ip).unwrap();
        assert_eq!(bytes(flow.destination.widen())[..4], header.source());
        assert_eq!(bytes(flow.source.widen())[..4], header.destination());
        assert_eq!(flow.transport, start + header.slice().len());
        assert_eq!(header.fragments_offset().value(), 0);
        assert_eq!(flow.protocol, header.protocol().0);
    } else {
        let header = etherparse::Ipv6HeaderSlice::from_slice(ip).unwrap();
        assert_eq!(bytes(flow.destination.widen()), header.source());
        assert_eq!(bytes(flow.source.widen()), header.destination());
        assert_eq!(flow.protocol, header.next_header().0);
    }
}

/// Addresses and ports changed as in `nat` mode leave right checksums right.
fn rewritten<A: Address>(choices: &[u8; CHOICES], ip: &[u8], packet: &Packet<A>) {
    let word = |n: usize| number(choices, 4 * (n % 4));
    let source = A::narrow([word(0), word(1), word(2), word(3)]);
    let port = word(2) as u16;
    let start = packet.transport - ETHERNET;
    let mut ip = ip.to_vec();
    let change = Change::default().address(packet.source, source);
    let width = if A::FAMILY == 4 { 4 } else { 16 };
    let at = if A::FAMILY == 4 { 12 } else { 8 };
    ip[at..at + width].copy_from_slice(&bytes(source.widen())[..width]);
    let half = |ip: &[u8], at| u16::from_ne_bytes([ip[at], ip[at + 1]]);
    if A::FAMILY == 4 {
        let after = change.apply(half(&ip, 10));
        ip[10..12].copy_from_slice(&after.to_ne_bytes());
        let sum = Sum16BitWords::new().add_slice(&ip[..start]);
        assert_eq!(sum.ones_complement(), 0);
    }
    let change = change.half(packet.source_port, port);
    ip[start..start + 2].copy_from_slice(&port.to_ne_bytes());
    let at = start + checksum_at(packet.protocol);
    let before = half(&ip, at);
    let after = if packet.protocol == TCP {
        change.apply(before)
    } else {
        change.apply_udp(before)
    };
    if packet.protocol == UDP {
        assert_eq!(after == 0, before == 0);
        if after == 0 {
            return;
        }
    }
    ip[at..at + 2].copy_from_slice(&after.to_ne_bytes());
    let to = packet.destination;
    assert!(is_sound(source, to, packet.protocol, &ip[start..]));
}

/// Outer headers are right, and the checksum of GUE too, which is computed
/// without reading the packet.
fn wrapped<A: Address>(choices: &[u8; CHOICES], ip: &[u8], packet: &Packet<A>) {
    let word = |n: usize| number(choices, 4 * (n % 4));
    let varies = word(3);
    let mut endpoint = Endpoint {
        address: [word(0), word(1), word(2), word(3)],
        tunnel_source: [word(1) & !varies, varies, word(0), word(2)],
        family: 6,
        ..Endpoint::UNUSED
    };
    endpoint.outer_sum = rewrite::outer_sum(endpoint.tunnel_source[0], endpoint.address[0]);
    let entropy = word(2) ^ word(1);
    let outer = Outer {
        protocol: rewrite::IPIP,
        traffic_class: packet.traffic_class,
        length: packet.ip_length,
        entropy,
    };
    let header = to_bytes(&rewrite::outer_ipv4(&endpoint, &outer));
    assert_right_ipv4(&header, 20 + ip.len());
    let fixed = number(&header, 12) & !varies;
    assert_eq!(fixed, endpoint.tunnel_source[0]);

    let has_none = packet.protocol == UDP && {
        let at = packet.transport - ETHERNET + checksum_at(UDP);
        ip[at..at + 2] == [0, 0]
    };
    if has_none {
        return;
    }
    let length = packet.ip_length;
    let port = 6080_u16.to_be();
    let header = rewrite::gue(port, length, entropy, 0);
    let sum = rewrite::gue_checksum6(&endpoint, header, rewrite::packet_sum(packet));
    assert_ne!(sum, 0);
    let header = to_bytes(&rewrite::gue(port, length, entropy, sum));
    let datagram = [header.as_slice(), ip].concat();
    assert!(is_sound(
        endpoint.tunnel_source,
        endpoint.address,
        UDP,
        &datagram
    ));
}
