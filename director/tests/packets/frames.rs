//! Frames to send, and what a received one says, by `etherparse`.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, IpNumber, Ipv4Header, Ipv6Header, NetHeaders, PacketBuilder, PacketHeaders,
    TransportHeader,
};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What a TCP or UDP frame is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub udp: bool,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub hop_limit: u8,
    pub traffic_class: u8,
    /// Bytes of IPv4 options, a multiple of 4.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// A TCP segment in the middle of a connection.
pub fn tcp(source: &str, destination: &str) -> Spec {
    Spec {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        udp: false,
        syn: false,
        fin: false,
        rst: false,
        hop_limit: 60,
        traffic_class: 0,
        options: Vec::new(),
        payload: b"the quick brown fox".to_vec(),
    }
}

pub fn udp(source: &str, destination: &str) -> Spec {
    Spec {
        udp: true,
        ..tcp(source, destination)
    }
}

impl Spec {
    pub fn syn(mut self) -> Self {
        self.syn = true;
        self.payload.clear();
        self
    }

    /// The frame, with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC);
        let number = if self.udp {
            IpNumber::UDP
        } else {
            IpNumber::TCP
        };
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header::new(
                    0,
                    self.hop_limit,
                    number,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.dscp = (self.traffic_class >> 2).try_into().unwrap();
                header.ecn = (self.traffic_class & 3).try_into().unwrap();
                header.options = self.options.as_slice().try_into().unwrap();
                ethernet.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class,
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                ethernet.ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
            }
            _ => panic!("families differ"),
        };
        let mut frame = Vec::new();
        if self.udp {
            let step = ip.udp(self.source.port(), self.destination.port());
            step.write(&mut frame, &self.payload).unwrap();
        } else {
            let mut step = ip.tcp(self.source.port(), self.destination.port(), 1000, 64_000);
            step = if self.syn { step.syn() } else { step.ack(500) };
            if self.fin {
                step = step.fin();
            }
            if self.rst {
                step = step.rst();
            }
            step.write(&mut frame, &self.payload).unwrap();
        }
        frame
    }
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub macs: ([u8; 6], [u8; 6]),
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub payload: Vec<u8>,
}

/// The outer addresses of an encapsulated frame, and the inner one with the
/// outer Ethernet header before it.
pub fn open(frame: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    let ethernet = etherparse::Ethernet2Header::from_slice(frame).unwrap().0;
    let (source, destination, rest, inner): (IpAddr, IpAddr, &[u8], IpNumber) =
        match ethernet.ether_type {
            EtherType::IPV4 => {
                let (header, rest) = Ipv4Header::from_slice(&frame[14..]).unwrap();
                assert_eq!(
                    header.header_checksum,
                    header.calc_header_checksum(),
                    "outer checksum"
                );
                assert!(header.dont_fragment);
                let length = usize::from(header.total_len) - header.header_len();
                (
                    header.source.into(),
                    header.destination.into(),
                    &rest[..length],
                    header.protocol,
                )
            }
            EtherType::IPV6 => {
                let (header, rest) = Ipv6Header::from_slice(&frame[14..]).unwrap();
                let length = usize::from(header.payload_length);
                (
                    header.source.into(),
                    header.destination.into(),
                    &rest[..length],
                    header.next_header,
                )
            }
            other => panic!("ethertype {other:?}"),
        };
    assert_eq!(
        inner,
        if source.is_ipv4() {
            IpNumber::IPV4
        } else {
            IpNumber::IPV6
        }
    );
    let inner = [&frame[..14], rest].concat();
    (source, destination, inner)
}

/// Reads a TCP or UDP frame and verifies every checksum in it.
pub fn read(frame: &[u8]) -> Seen {
    let packet = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(etherparse::LinkHeader::Ethernet2(ethernet)) = packet.link else {
        panic!("no link")
    };
    let net = packet.net.expect("an IP packet");
    let transport = packet.transport.expect("TCP or UDP");
    let payload = packet.payload.slice().to_vec();
    let (source, destination, hop_limit, traffic_class): (IpAddr, IpAddr, u8, u8) = match &net {
        NetHeaders::Ipv4(header, _) => {
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "IPv4 checksum"
            );
            verify(&transport, &payload, |t| checksum4(t, header, &payload));
            let class = header.dscp.value() << 2 | header.ecn.value();
            (
                header.source.into(),
                header.destination.into(),
                header.time_to_live,
                class,
            )
        }
        NetHeaders::Ipv6(header, _) => {
            verify(&transport, &payload, |t| checksum6(t, header, &payload));
            let (source, destination) = (header.source.into(), header.destination.into());
            (source, destination, header.hop_limit, header.traffic_class)
        }
        other => panic!("{other:?}"),
    };
    let (from, to) = match &transport {
        TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
        TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
        other => panic!("{other:?}"),
    };
    Seen {
        macs: (ethernet.destination, ethernet.source),
        source: (source, from).into(),
        destination: (destination, to).into(),
        hop_limit,
        traffic_class,
        payload,
    }
}

fn verify(transport: &TransportHeader, payload: &[u8], compute: impl Fn(&TransportHeader) -> u16) {
    let found = match transport {
        TransportHeader::Tcp(tcp) => tcp.checksum,
        TransportHeader::Udp(udp) if udp.checksum == 0 => return,
        TransportHeader::Udp(udp) => udp.checksum,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        found,
        compute(transport),
        "transport checksum, {} bytes",
        payload.len()
    );
}

fn checksum4(transport: &TransportHeader, ip: &Ipv4Header, payload: &[u8]) -> u16 {
    match transport {
        TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv4(ip, payload).unwrap(),
        TransportHeader::Udp(udp) => udp.calc_checksum_ipv4(ip, payload).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn checksum6(transport: &TransportHeader, ip: &Ipv6Header, payload: &[u8]) -> u16 {
    match transport {
        TransportHeader::Tcp(tcp) => tcp.calc_checksum_ipv6(ip, payload).unwrap(),
        TransportHeader::Udp(udp) => udp.calc_checksum_ipv6(ip, payload).unwrap(),
        other => panic!("{other:?}"),
    }
}
