//! Captured frames: what they carry, and that every checksum in them is right.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use etherparse::checksum::Sum16BitWords;
use etherparse::{Ethernet2Slice, IpNumber, IpPayloadSlice, IpSlice, TcpSlice, UdpSlice};

/// Port of GUE (IANA).
const GUE: u16 = 6080;

/// The header in front of a packet in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    pub destination: IpAddr,
    pub gue: bool,
}

/// A frame of which every checksum is right.
#[derive(Debug)]
pub struct Packet {
    pub outer: Option<Outer>,
    pub protocol: IpNumber,
    /// Without a port where the protocol has none.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Bytes of the frame that a checksum covers.
    pub covered: Vec<Range<usize>>,
}

/// Reads a frame of IPv4 or IPv6 and verifies the checksums of all its headers,
/// those in a tunnel too. The error says what is wrong with it.
pub fn read(frame: &[u8]) -> Result<Packet, String> {
    let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).map_err(|e| e.to_string())?;
    let mut reader = Reader {
        frame,
        outer: None,
        covered: Vec::new(),
    };
    let (protocol, source, destination) = reader.ip(ethernet.payload_slice())?;
    Ok(Packet {
        outer: reader.outer,
        protocol,
        source,
        destination,
        covered: reader.covered,
    })
}

struct Reader<'a> {
    frame: &'a [u8],
    outer: Option<Outer>,
    covered: Vec<Range<usize>>,
}

type Inner = (IpNumber, SocketAddr, SocketAddr);

impl<'a> Reader<'a> {
    fn ip(&mut self, bytes: &'a [u8]) -> Result<Inner, String> {
        let ip = IpSlice::from_slice(bytes).map_err(|e| e.to_string())?;
        if let Some(v4) = ip.ipv4() {
            let header = &bytes[..v4.header().slice().len()];
            self.verify("IPv4 header", Sum16BitWords::new(), header)?;
        }
        let payload = ip.payload();
        if payload.fragmented {
            return Err("a fragment".to_owned());
        }
        let (source, destination) = (ip.source_addr(), ip.destination_addr());
        let ports = |from, to| {
            let source = SocketAddr::new(source, from);
            (payload.ip_number, source, SocketAddr::new(destination, to))
        };
        match payload.ip_number {
            IpNumber::IPV4 | IpNumber::IPV6 => self.tunnel(destination, false, payload.payload),
            IpNumber::TCP => {
                let tcp = TcpSlice::from_slice(payload.payload).map_err(|e| e.to_string())?;
                self.verify("TCP", pseudo_header(&ip, payload), payload.payload)?;
                Ok(ports(tcp.source_port(), tcp.destination_port()))
            }
            IpNumber::UDP => {
                let udp = UdpSlice::from_slice(payload.payload).map_err(|e| e.to_string())?;
                let is_gue = udp.destination_port() == GUE;
                // Over IPv4 a tunnel may go without (RFC 768, RFC 8085 3.4).
                if udp.checksum() != 0 {
                    self.verify("UDP", pseudo_header(&ip, payload), payload.payload)?;
                } else if !is_gue || destination.is_ipv6() {
                    return Err("UDP without a checksum".to_owned());
                }
                if is_gue {
                    return self.tunnel(destination, true, udp.payload());
                }
                Ok(ports(udp.source_port(), udp.destination_port()))
            }
            IpNumber::ICMP => {
                self.verify("ICMP", Sum16BitWords::new(), payload.payload)?;
                Ok(ports(0, 0))
            }
            IpNumber::IPV6_ICMP => {
                self.verify("ICMPv6", pseudo_header(&ip, payload), payload.payload)?;
                Ok(ports(0, 0))
            }
            other => Err(format!("protocol {other:?}")),
        }
    }

    fn tunnel(&mut self, destination: IpAddr, gue: bool, inner: &'a [u8]) -> Result<Inner, String> {
        if self.outer.replace(Outer { destination, gue }).is_some() {
            return Err("a tunnel in a tunnel".to_owned());
        }
        self.ip(inner)
    }

    /// `bytes` hold the checksum itself, so with it the sum is all ones.
    fn verify(&mut self, what: &str, sum: Sum16BitWords, bytes: &[u8]) -> Result<(), String> {
        let off = sum.add_slice(bytes).ones_complement();
        if off != 0 {
            return Err(format!("the checksum of {what} is off by {off:#06x}"));
        }
        let from = bytes.as_ptr().addr() - self.frame.as_ptr().addr();
        self.covered.push(from..from + bytes.len());
        Ok(())
    }
}

/// RFC 9293 3.1, RFC 8200 8.1.
fn pseudo_header(ip: &IpSlice<'_>, payload: &IpPayloadSlice<'_>) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new();
    for address in [ip.source_addr(), ip.destination_addr()] {
        sum = match address {
            IpAddr::V4(v4) => sum.add_4bytes(v4.octets()),
            IpAddr::V6(v6) => sum.add_16bytes(v6.octets()),
        };
    }
    let length = u16::try_from(payload.payload.len()).expect("IP's length is 16 bits");
    sum.add_2bytes([0, payload.ip_number.0])
        .add_2bytes(length.to_be_bytes())
}

/// Every single bit error in what a checksum covers is seen, so that what is
/// read as right is right.
pub fn every_error_is_seen(frame: &[u8]) {
    let mut changed = frame.to_vec();
    for place in read(frame).unwrap().covered.into_iter().flatten() {
        changed[place] ^= 1;
        assert!(read(&changed).is_err(), "byte {place} of {frame:02x?}");
        changed[place] ^= 1;
    }
}
