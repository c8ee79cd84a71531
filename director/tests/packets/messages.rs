//! ICMP messages to send, and what a received one says, by `etherparse`.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv6Header, Ipv4Header, Ipv6Header, PacketBuilder,
};

use crate::frames::{CLIENT_MAC, EDGE_MAC};

/// A message as it is sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    /// Type and code.
    pub kind: [u8; 2],
    /// The four bytes after the checksum.
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

impl Message {
    pub fn new(source: &str, destination: &str, kind: [u8; 2]) -> Self {
        Self {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            hop_limit: 60,
            kind,
            rest: [0; 4],
            payload: Vec::new(),
        }
    }

    pub fn echo(source: &str, destination: &str) -> Self {
        let kind = if source.contains(':') { 128 } else { 8 };
        Self::new(source, destination, [kind, 0])
    }

    /// The frame, with right checksums.
    pub fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, EDGE_MAC);
        let [kind, code] = self.kind;
        let mut frame = Vec::new();
        let step = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet
                .ipv4(source.octets(), destination.octets(), self.hop_limit)
                .icmpv4_raw(kind, code, self.rest),
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let step = ethernet
                    .ipv6(source.octets(), destination.octets(), self.hop_limit)
                    .icmpv6_raw(kind, code, self.rest);
                step.write(&mut frame, &self.payload).unwrap();
                return frame;
            }
            _ => panic!("families differ"),
        };
        step.write(&mut frame, &self.payload).unwrap();
        frame
    }
}

/// Reads a frame without its tail of padding, and verifies its checksums.
pub fn read(frame: &[u8]) -> Message {
    let (ethernet, packet) = Ethernet2Header::from_slice(frame).unwrap();
    if ethernet.ether_type == EtherType::IPV4 {
        let (ip, rest) = Ipv4Header::from_slice(packet).unwrap();
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let length = usize::from(ip.total_len) - ip.header_len();
        let bytes = &rest[..length];
        let checksum = Icmpv4Header::from_slice(bytes).unwrap().0.checksum;
        // A header of eight bytes, whatever the type.
        let (header, payload) = bytes.split_at(8);
        let raw = etherparse::Icmpv4Type::Unknown {
            type_u8: header[0],
            code_u8: header[1],
            bytes5to8: header[4..8].try_into().unwrap(),
        };
        assert_eq!(checksum, raw.calc_checksum(payload), "ICMP checksum");
        message(
            ip.source.into(),
            ip.destination.into(),
            ip.time_to_live,
            header,
            payload,
        )
    } else {
        let (ip, rest) = Ipv6Header::from_slice(packet).unwrap();
        let bytes = &rest[..usize::from(ip.payload_length)];
        let checksum = Icmpv6Header::from_slice(bytes).unwrap().0.checksum;
        let (header, payload) = bytes.split_at(8);
        let raw = etherparse::Icmpv6Type::Unknown {
            type_u8: header[0],
            code_u8: header[1],
            bytes5to8: header[4..8].try_into().unwrap(),
        };
        let sum = raw
            .calc_checksum(ip.source, ip.destination, payload)
            .unwrap();
        assert_eq!(checksum, sum, "ICMPv6 checksum");
        message(
            ip.source.into(),
            ip.destination.into(),
            ip.hop_limit,
            header,
            payload,
        )
    }
}

fn message(source: IpAddr, destination: IpAddr, hop_limit: u8, h: &[u8], p: &[u8]) -> Message {
    Message {
        source,
        destination,
        hop_limit,
        kind: [h[0], h[1]],
        rest: h[4..8].try_into().unwrap(),
        payload: p.to_vec(),
    }
}
