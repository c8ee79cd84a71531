//! `NAT4` and `NAT6`: which client a NAT port stands for.
//!
//! A way of a bucket *is* a port: way `w` of bucket `b` within a source's span
//! stands for port `8 b + w`. So two flows cannot hold the same port towards
//! the same server, replies find their client by one array access, and a port
//! is taken by one compare-and-swap. A source's span has all ports of one
//! source address; a plane has the spans of all sources. Servers are spread
//! over the planes by their address and port, so that many servers can have
//! more flows than there are ports.

use super::{Macs, Plain, flow::WAYS};

/// Buckets of one source's span.
pub const SPAN: u32 = 65_536 / WAYS as u32;
/// First bucket that is used: ports below 1,024 are not.
pub const FIRST: u32 = 1_024 / WAYS as u32;

/// The way back to a client: replies leave by the interface that its packets
/// came in by, to the station they came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayBack {
    pub interface: u32,
    /// Ethernet header of replies: destination, source.
    pub macs: Macs,
}

/// Value of `NAT4`: eight ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports4 {
    /// Key (client address and port, and service) and
    /// [`super::flow::FlowValue`].
    pub ways: [[u64; 2]; WAYS],
    pub backs: [WayBack; WAYS],
}

/// Value of `NAT6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports6 {
    /// Key (a digest of the client's address, its port, and the service) and
    /// [`super::flow::FlowValue`].
    pub ways: [[u64; 2]; WAYS],
    pub clients: [[u32; 4]; WAYS],
    pub backs: [WayBack; WAYS],
}

/// Bits of a port's record, beside those of [`super::flow::flags`].
pub mod flags {
    pub const HALF_OPEN: u8 = 1;
    pub const CLIENT_FIN: u8 = 2;
    pub const SERVER_FIN: u8 = 4;
    pub const RST: u8 = 8;
    /// Of UDP, else of TCP.
    pub const UDP: u8 = 16;
}

/// Value of `FRONTS`: what replies of a service are given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Front {
    pub address: [u32; 4],
    /// Network byte order.
    pub port: u16,
    /// As [`super::Service::mss`].
    pub mss: u16,
    pub protocol: u8,
    pub zero: [u8; 3],
}

// SAFETY: `repr(C)`, integers only, no padding, as the asserts show.
unsafe impl Plain for WayBack {}
// SAFETY: as above.
unsafe impl Plain for Ports4 {}
// SAFETY: as above.
unsafe impl Plain for Ports6 {}
// SAFETY: as above.
unsafe impl Plain for Front {}
const _: () = {
    assert!(size_of::<WayBack>() == 16);
    assert!(size_of::<Ports4>() == 256);
    assert!(size_of::<Ports6>() == 384);
    assert!(size_of::<Front>() == 24);
};
