//! ICMP (RFC 792) and ICMPv6 (RFC 4443), as pure functions: message types, the
//! checksum of an echo reply, and the packet that an error is about.

use crate::{
    abi::{Address, TCP, UDP},
    parse::{ETHERNET, Frame, IPV4, IPV6, Packet, tcp_flags},
    rewrite::fold,
};

/// Length of the header of an echo or an error.
pub const HEADER: usize = 8;
/// Bytes of the transport header that every error quotes (RFC 792).
const QUOTED: usize = 8;

/// What a message is, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EchoRequest,
    /// About a packet that did not arrive.
    Error,
    Other,
}

/// What a message of this type is. IPv4's source quench is nothing to follow
/// (RFC 6633).
#[inline(always)]
#[must_use]
pub const fn kind<A: Address>(message: u8) -> Kind {
    match (A::FAMILY, message) {
        (4, 8) | (6, 128) => Kind::EchoRequest,
        // Destination unreachable, time exceeded, parameter problem.
        (4, 3 | 11 | 12) => Kind::Error,
        // The same, and packet too big.
        (6, 1..=4) => Kind::Error,
        _ => Kind::Other,
    }
}

/// Type and code of an echo reply, as they stand in memory.
#[inline(always)]
#[must_use]
pub const fn echo_reply<A: Address>() -> u16 {
    u16::from_ne_bytes([if A::FAMILY == 4 { 0 } else { 129 }, 0])
}

/// Type and code of "fragmentation needed" (RFC 1191) and "packet too big"
/// (RFC 4443, 3.2), as they stand in memory.
#[inline(always)]
#[must_use]
pub const fn too_big<A: Address>() -> u16 {
    if A::FAMILY == 4 {
        u16::from_ne_bytes([3, 4])
    } else {
        u16::from_ne_bytes([2, 0])
    }
}

/// Whether a checksum is right: `rest` is the sum of all that it covers but for
/// itself and the type and code.
#[inline(always)]
#[must_use]
pub const fn is_right(rest: u64, type_and_code: u16, checksum: u16) -> bool {
    fold(rest + type_and_code as u64 + checksum as u64) == 0xffff
}

/// Checksum of a message, from sums as in [`is_right`]. Not updated from that of
/// the request: a message of zeros alone needs 0xffff, where an update
/// (RFC 1624) says 0, and receivers tell the two apart there only.
#[inline(always)]
#[must_use]
pub const fn checksum(rest: u64, type_and_code: u16) -> u16 {
    !fold(rest + type_and_code as u64)
}

/// Length of an IP header without options or extensions.
#[inline(always)]
#[must_use]
pub const fn ip_header<A: Address>() -> usize {
    if A::FAMILY == 4 { IPV4 } else { IPV6 }
}

/// Where the packet starts that an error without IPv4 options is about.
#[inline(always)]
#[must_use]
pub const fn quoted<A: Address>() -> usize {
    ETHERNET + ip_header::<A>() + HEADER
}

/// Reads the packet that an error is about: `flow` is what answers it, a packet
/// from its destination to its source, in the middle of a connection, with
/// `transport` where the quoted one's header starts. The error's own packet
/// ends at `end`. False where the quoted packet is cut off before its ports,
/// contradicts itself, or has none.
#[inline(always)]
pub fn read_quoted<A: Address, F: Frame + ?Sized>(
    frame: &F,
    end: usize,
    flow: &mut Packet<A>,
) -> bool {
    let start = quoted::<A>();
    if start + ip_header::<A>() > end {
        return false;
    }
    let is_read = if A::FAMILY == 4 {
        read_ipv4(frame, start, flow)
    } else {
        read_ipv6(frame, start, flow)
    };
    if !is_read || flow.transport + QUOTED > end {
        return false;
    }
    if flow.protocol != TCP && flow.protocol != UDP {
        return false;
    }
    flow.tcp_flags = tcp_flags::ACK;
    let Some([source, destination]) = frame.load::<[u16; 2]>(flow.transport) else {
        return false;
    };
    flow.source_port = destination;
    flow.destination_port = source;
    true
}

#[inline(always)]
fn read_ipv4<A: Address, F: Frame + ?Sized>(frame: &F, start: usize, flow: &mut Packet<A>) -> bool {
    let Some(header) = frame.load::<[u32; 5]>(start) else {
        return false;
    };
    let [version, _, l0, l1] = header[0].to_ne_bytes();
    let [_, _, f0, f1] = header[1].to_ne_bytes();
    let length = usize::from(version & 0x0f) * 4;
    // Ports are in the first fragment only.
    let is_later = u16::from_be_bytes([f0, f1]) & 0x1fff != 0;
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    if version >> 4 != 4 || length < IPV4 || total < length + QUOTED || is_later {
        return false;
    }
    flow.protocol = header[2].to_ne_bytes()[1];
    flow.source = A::narrow([header[4], 0, 0, 0]);
    flow.destination = A::narrow([header[3], 0, 0, 0]);
    flow.transport = start + length;
    true
}

#[inline(always)]
fn read_ipv6<A: Address, F: Frame + ?Sized>(frame: &F, start: usize, flow: &mut Packet<A>) -> bool {
    let Some(h) = frame.load::<[u32; 10]>(start) else {
        return false;
    };
    let [l0, l1, next, _] = h[1].to_ne_bytes();
    let payload = usize::from(u16::from_be_bytes([l0, l1]));
    if u32::from_be(h[0]) >> 28 != 6 || payload < QUOTED {
        return false;
    }
    flow.protocol = next;
    flow.source = A::narrow([h[6], h[7], h[8], h[9]]);
    flow.destination = A::narrow([h[2], h[3], h[4], h[5]]);
    flow.transport = start + IPV6;
    true
}

#[cfg(test)]
mod tests;
