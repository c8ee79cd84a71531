//! The PROXY protocol, versions 1 and 2: what a balancer says of a client before the
//! connection's own first byte. After HAProxy's `doc/proxy-protocol.txt`, whose
//! sections are named below.
//!
//! Our own, and not a crate's: a header comes in pieces from a peer, and what is
//! needed of it is a strict "not yet, here it is, or never" within fixed limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use director_core::l7::ProxyProtocol;

#[cfg(test)]
mod tests;

/// The longest header of version 1, with its line end (section 2.1).
pub const V1_BYTES: usize = 107;

/// The longest header of version 2 that is taken: addresses and a few TLVs.
pub const V2_BYTES: usize = V2_FIXED + 512;

/// Signature, version and command, family and transport, length (section 2.2).
const V2_FIXED: usize = 16;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const V1_SIGNATURE: &[u8; 6] = b"PROXY ";

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parse {
    /// A beginning of a header: more bytes are needed.
    Incomplete,
    Done {
        header: Header,
        /// Bytes of the header; what follows is the connection's own.
        length: usize,
    },
    /// Not a header, whatever may follow; and why.
    Invalid(&'static str),
}

/// Who is connected to whom. IPv4 addresses within IPv6 are made IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client; `None` where the peer speaks for itself, as in its health probes,
    /// or of something else than TCP.
    pub source: Option<SocketAddr>,
    /// Where the client connected to.
    pub destination: Option<SocketAddr>,
}

/// Reads the header of either version at the beginning of `bytes`. At most
/// [`V2_BYTES`] are ever needed.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parse {
    if begins(bytes, V1_SIGNATURE) {
        v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        v2(bytes)
    } else {
        Parse::Invalid("no PROXY protocol header")
    }
}

/// Whether there is as much of a signature as there are bytes.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

/// A line of text (section 2.1).
fn v1(bytes: &[u8]) -> Parse {
    let within = &bytes[..bytes.len().min(V1_BYTES)];
    let Some(end) = within.iter().position(|byte| b"\r\n".contains(byte)) else {
        return if within.len() < V1_BYTES {
            Parse::Incomplete
        } else {
            Parse::Invalid("version 1: no line end within 107 bytes")
        };
    };
    match within.get(end..end + 2) {
        Some(b"\r\n") => {}
        None if within[end] == b'\r' && within.len() < V1_BYTES => return Parse::Incomplete,
        _ => return Parse::Invalid("version 1: the line does not end in CRLF"),
    }
    // Both signature and line end are there, so the line is at least the former.
    let line = within.get(V1_SIGNATURE.len()..end);
    match line.map_or(Err("version 1: no protocol"), line_of) {
        Ok(header) => Parse::Done {
            header,
            length: end + 2,
        },
        Err(reason) => Parse::Invalid(reason),
    }
}

/// What follows "PROXY ".
fn line_of(line: &[u8]) -> Result<Header, &'static str> {
    // Whatever follows UNKNOWN is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Header::default());
    }
    let text = std::str::from_utf8(line).map_err(|_| "version 1: not ASCII")?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [protocol, source, destination, source_port, destination_port] = *fields else {
        return Err("version 1: not five fields");
    };
    let address = |text: &str| match protocol {
        "TCP4" => text.parse().map(IpAddr::V4).ok(),
        "TCP6" => text.parse().map(IpAddr::V6).ok(),
        _ => None,
    };
    let socket = |text, port| -> Result<_, &'static str> {
        let address = address(text).ok_or("version 1: not an address of its protocol")?;
        let port = decimal(port).ok_or("version 1: not a port")?;
        Ok(Some(SocketAddr::new(address.to_canonical(), port)))
    };
    Ok(Header {
        source: socket(source, source_port)?,
        destination: socket(destination, destination_port)?,
    })
}

/// A number as it is commonly written: neither sign nor zeros before it.
fn decimal(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_shortest = text == "0" || !text.starts_with('0');
    (is_plain && is_shortest).then(|| text.parse().ok())?
}

/// Bytes (section 2.2).
fn v2(bytes: &[u8]) -> Parse {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Parse::Incomplete;
    };
    let body = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if V2_FIXED + body > V2_BYTES {
        return Parse::Invalid("version 2: longer than 512 bytes");
    }
    let (command, kind) = (fixed[12], fixed[13]);
    let Some(needed) = address_bytes(command, kind) else {
        return Parse::Invalid("version 2: unknown version, command, family or transport");
    };
    if body < needed {
        return Parse::Invalid("version 2: too short for its addresses");
    }
    let Some(body) = bytes.get(V2_FIXED..V2_FIXED + body) else {
        return Parse::Incomplete;
    };
    Parse::Done {
        header: addresses(command, kind, body),
        length: V2_FIXED + body.len(),
    }
}

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Bytes that addresses of this kind take; `None` where there is no such thing.
fn address_bytes(command: u8, kind: u8) -> Option<usize> {
    match (command, kind >> 4, kind & 0xf) {
        (LOCAL, ..) => Some(0),
        (PROXY, 0, 0..=2) => Some(0),
        (PROXY, 1, 0..=2) => Some(12),
        (PROXY, 2, 0..=2) => Some(36),
        // Paths of two Unix sockets.
        (PROXY, 3, 0..=2) => Some(216),
        _ => None,
    }
}

/// What `body` says; the TLVs after the addresses are skipped, the checksum among
/// them, which section 2.2.3 leaves to receivers.
fn addresses(command: u8, kind: u8, body: &[u8]) -> Header {
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let socket = |address: IpAddr, at| Some(SocketAddr::new(address.to_canonical(), port(at)));
    if command == PROXY
        && kind == TCP4
        && let Some([a, b, c, d, e, f, g, h]) = body.first_chunk()
    {
        return Header {
            source: socket(Ipv4Addr::new(*a, *b, *c, *d).into(), 8),
            destination: socket(Ipv4Addr::new(*e, *f, *g, *h).into(), 10),
        };
    }
    if command == PROXY
        && kind == TCP6
        && let Some((source, rest)) = body.split_first_chunk::<16>()
        && let Some(destination) = rest.first_chunk::<16>()
    {
        return Header {
            source: socket(Ipv6Addr::from(*source).into(), 32),
            destination: socket(Ipv6Addr::from(*destination).into(), 34),
        };
    }
    Header::default()
}

/// The header that tells a server of a connection. Where one of the addresses is
/// IPv6, the other is written as IPv6 too.
#[must_use]
pub fn write(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let own = source.ip().to_canonical();
    let other = destination.ip().to_canonical();
    let ports = (source.port(), destination.port());
    match (own, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => match version {
            ProxyProtocol::V1 => line("TCP4", own, other, ports),
            ProxyProtocol::V2 => binary(TCP4, &own.octets(), &other.octets(), ports),
        },
        _ => {
            let (own, other) = (as_v6(own), as_v6(other));
            match version {
                ProxyProtocol::V1 => line("TCP6", own, other, ports),
                ProxyProtocol::V2 => binary(TCP6, &own.octets(), &other.octets(), ports),
            }
        }
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn line<A: std::fmt::Display>(protocol: &str, own: A, other: A, ports: (u16, u16)) -> Vec<u8> {
    let (port, other_port) = ports;
    format!("PROXY {protocol} {own} {other} {port} {other_port}\r\n").into_bytes()
}

fn binary(kind: u8, own: &[u8], other: &[u8], (port, other_port): (u16, u16)) -> Vec<u8> {
    let body = (own.len() + other.len() + 4) as u16;
    let mut bytes = V2_SIGNATURE.to_vec();
    bytes.extend([PROXY, kind]);
    bytes.extend(body.to_be_bytes());
    bytes.extend(own);
    bytes.extend(other);
    bytes.extend(port.to_be_bytes());
    bytes.extend(other_port.to_be_bytes());
    bytes
}
