//! Keys and values of the BPF maps: the one definition both halves use.
//!
//! Addresses and ports are kept as they stand in the packet (network byte
//! order in memory), everything else in the host's order. No struct has
//! implicit padding, so that a key's bytes are what is hashed; the asserts at
//! the end fail the build when a layout changes. Whoever changes one raises
//! [`ABI_VERSION`].

/// Version of everything in this file. It is in the BPF object (section
/// [`ABI_SECTION`]) and in [`Settings`]; the daemon refuses to load or adopt
/// another.
pub const ABI_VERSION: u32 = 2;
/// ELF section of the BPF object that holds [`ABI_VERSION`], in the target's
/// byte order.
pub const ABI_SECTION: &str = ".director.abi";

pub mod event;
pub mod flow;
pub mod nat;
mod slot;

pub use slot::{NO_ENDPOINT, Slot};

/// IP protocol numbers (IANA).
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP6: u8 = 58;

/// Most NAT source addresses per family.
pub const NAT_SOURCES: usize = 4;
/// NAT ports are taken from `NAT_PORT_FIRST..=65535`.
pub const NAT_PORT_FIRST: u16 = 1024;

/// A type that any bytes make a valid value of, without padding.
///
/// # Safety
/// The type must be `repr(C)` or a primitive, without padding bytes, and valid
/// for every bit pattern.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers and arrays of them have no padding and no invalid values.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// An address as it stands in a packet: `u32` for IPv4, `[u32; 4]` for IPv6,
/// both holding network byte order.
pub trait Address: Plain + Eq + Default {
    /// 4 or 6.
    const FAMILY: u8;
    /// Ethertype of the family, network byte order.
    const ETHERTYPE: u16;
    /// The address as stored in [`Endpoint::address`].
    fn widen(self) -> [u32; 4];
    /// The reverse of [`Address::widen`].
    fn narrow(wide: [u32; 4]) -> Self;
}

impl Address for u32 {
    const FAMILY: u8 = 4;
    const ETHERTYPE: u16 = 0x0800_u16.to_be();
    #[inline(always)]
    fn widen(self) -> [u32; 4] {
        [self, 0, 0, 0]
    }
    #[inline(always)]
    fn narrow(wide: [u32; 4]) -> Self {
        wide[0]
    }
}

impl Address for [u32; 4] {
    const FAMILY: u8 = 6;
    const ETHERTYPE: u16 = 0x86dd_u16.to_be();
    #[inline(always)]
    fn widen(self) -> [u32; 4] {
        self
    }
    #[inline(always)]
    fn narrow(wide: [u32; 4]) -> Self {
        wide
    }
}

/// IPv4 address as it stands in a packet.
pub const fn ipv4(address: core::net::Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

/// IPv6 address as it stands in a packet.
pub const fn ipv6(address: core::net::Ipv6Addr) -> [u32; 4] {
    let o = address.octets();
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// `SETTINGS[0]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub abi_version: u32,
    /// Slots of one Maglev table; the length of half a service's span in `SLOTS`.
    pub table_size: u32,
    /// How many of `nat4` and `nat6` are in use.
    pub nat4_count: u32,
    pub nat6_count: u32,
    pub nat4: [u32; NAT_SOURCES],
    pub nat6: [[u32; 4]; NAT_SOURCES],
    /// The NAT tables' planes: spans of all ports of all sources (see
    /// [`nat`]).
    pub nat4_planes: u32,
    pub nat6_planes: u32,
    /// Bits of [`settings_flags`].
    pub flags: u32,
    /// ICMP packets made per second and CPU, at most.
    pub icmp_rate: u32,
    /// Of new flows, one in this many is told to `EVENTS`; 0: none.
    pub trace_every: u32,
    /// Destination port of GUE, network byte order.
    pub gue_port: u16,
    pub zero: u16,
    /// Odd, random: which bucket of the flow tables a flow falls on cannot be
    /// foreseen from outside.
    pub seed: u32,
}

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// Echo requests to a VIP are answered.
    pub const ECHO: u32 = 1;
}

/// Key of `SERVICES4` and `SERVICES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey<A> {
    pub address: A,
    pub port: u16,
    pub protocol: u8,
    pub zero: u8,
}

/// Value of `SERVICES4` and `SERVICES6`: all that the packet path needs of a
/// service, so that most packets read no settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Index into `BANKS`, `SERVICE_COUNTERS` and, times two, `SLOTS`. At most
    /// [`flow::SERVICES`].
    pub index: u32,
    /// As [`Settings::table_size`].
    pub table_size: u32,
    /// Buckets of the family's flow table.
    pub buckets: u32,
    /// As [`Settings::seed`].
    pub seed: u32,
    /// One of [`mode`].
    pub mode: u8,
    /// One of [`track`].
    pub track: u8,
    /// One of [`affinity`].
    pub affinity: u8,
    /// Bits of [`service_flags`].
    pub flags: u8,
    /// Largest TCP maximum segment size let through, in bytes; 0: any.
    pub mss: u16,
    /// Seconds after which a silent UDP flow is over.
    pub idle: u16,
    /// New connections per second and source address, at most; 0: any number.
    pub connection_rate: u32,
}

/// Value of `ENTRIES`, by service index: the service with its key. One cache
/// line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// First, so that a pointer to the entry is one to the service: the
    /// verifier refuses to move a pointer that may still be null.
    pub service: Service,
    pub port: u16,
    pub protocol: u8,
    /// 4 or 6; 0: not in use.
    pub family: u8,
    pub address: [u32; 4],
    pub zero: [u32; 4],
}

/// Words of `HINTS`.
pub const HINTS: u32 = 8192;

/// Where `HINTS` has the index, plus one, of the service with this key. Where
/// two services share a place, one of them is not found there, but only in
/// `SERVICES4` or `SERVICES6`, which takes longer.
#[inline(always)]
pub fn hint_of<A: Address>(key: &ServiceKey<A>) -> u32 {
    let w = key.address.widen();
    let folded = if A::FAMILY == 4 {
        w[0]
    } else {
        (w[0] ^ w[1].rotate_left(11)) ^ (w[2].rotate_left(19) ^ w[3].rotate_left(5))
    };
    let ports = u32::from(key.port) << 8 | u32::from(key.protocol);
    (folded ^ ports.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1) >> 19
}

/// Bits of the values of `VIPS4` and `VIPS6`.
pub mod vip {
    /// A service has this address.
    pub const VIP: u32 = 1;
    /// One of them takes every port.
    pub const ANY_PORT: u32 = 2;
    /// A NAT source: what comes to it are replies.
    pub const NAT_SOURCE: u32 = 4;
}

/// Values of [`Service::mode`].
pub mod mode {
    /// IP in IP, or in UDP, to the endpoint; it answers the client directly.
    pub const TUNNEL: u8 = 1;
    /// Addresses and ports rewritten in both directions.
    pub const NAT: u8 = 2;
    /// The Ethernet header rewritten; the endpoint answers the client directly.
    pub const L2: u8 = 3;
    /// To the host's own stack.
    pub const PROXY: u8 = 4;
}

/// Values of [`Service::track`]: which flows are recorded.
pub mod track {
    /// Those whose slot has changed hands.
    pub const AUTO: u8 = 0;
    pub const ALWAYS: u8 = 1;
    pub const NEVER: u8 = 2;
}

/// Values of [`Service::affinity`]: what decides about the slot.
pub mod affinity {
    /// Addresses, ports and protocol.
    pub const FLOW: u8 = 0;
    /// The source and destination address.
    pub const SOURCE: u8 = 1;
    /// The QUIC connection id, where it names a server; else as `FLOW`.
    pub const QUIC: u8 = 2;
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// A packet of a dead endpoint's flow is answered with RST.
    pub const RESET: u8 = 1;
    /// `tunnel` mode wraps into UDP.
    pub const GUE: u8 = 2;
    /// SYNs are answered with cookies (`proxy` mode).
    pub const SYN_COOKIES: u8 = 4;
    /// Sources are looked up in `DENY4` or `DENY6`.
    pub const DENY: u8 = 8;
}

/// Destination and source address of an Ethernet header, as they stand there.
/// In words of 32 bits, which the path copies in half as many steps.
pub type Macs = [u32; 3];

/// Value of `ENDPOINTS`. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: [u32; 4],
    /// Source address of the outer header in `tunnel` mode. Over IPv4, the
    /// second word has the bits of the first that vary by flow.
    pub tunnel_source: [u32; 4],
    /// Never 0 while the entry is in use; raised when it changes hands.
    pub generation: u16,
    /// VLAN tag (TCI) of frames towards the next hop, network byte order; 0:
    /// none.
    pub vlan: u16,
    /// Index of the service it belongs to.
    pub service: u32,
    /// Interface towards the next hop; 0: not known, look it up per packet.
    pub interface: u32,
    /// Ethernet header towards the next hop: destination, source.
    pub macs: Macs,
    /// Network byte order.
    pub port: u16,
    /// Largest IP packet that the interface takes; 0: not known.
    pub mtu: u16,
    /// Sum of the outer IPv4 header's constant words (see
    /// [`crate::rewrite::outer_sum`]).
    pub outer_sum: u16,
    /// One of [`state`].
    pub state: u8,
    /// 4 or 6.
    pub family: u8,
}

impl Endpoint {
    /// An entry that is not in use and never was.
    pub const UNUSED: Self = Self {
        address: [0; 4],
        tunnel_source: [0; 4],
        generation: 0,
        vlan: 0,
        service: 0,
        interface: 0,
        macs: [0; 3],
        port: 0,
        mtu: 0,
        outer_sum: 0,
        state: state::UNUSED,
        family: 0,
    };
}

/// Values of [`Endpoint::state`].
pub mod state {
    /// Not in use.
    pub const UNUSED: u8 = 0;
    /// Takes what the table gives it.
    pub const ACTIVE: u8 = 1;
    /// Keeps recorded flows, takes no new ones.
    pub const DRAINING: u8 = 2;
    /// Its recorded flows are steered anew.
    pub const DEAD: u8 = 3;
}

/// Value of `SERVICE_COUNTERS` and `ENDPOINT_COUNTERS`, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    pub packets: u64,
    /// IP bytes from clients, as they came in.
    pub bytes: u64,
    /// Flows placed by the table.
    pub flows: u64,
}

/// Key of `DENY4` and `DENY6` (longest-prefix match).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix<A> {
    /// Bits of `address` that count.
    pub length: u32,
    pub address: A,
}

/// Key of `SERVERS`: a server as QUIC connection ids name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerKey {
    /// Index of the service.
    pub service: u32,
    pub server: u32,
}

/// Words of `FILTER`.
pub const FILTER_WORDS: u32 = 1024;

/// Word and bit of an address in `FILTER`, which has the bits of all VIPs and
/// NAT sources set: a clear bit says that an address is none of ours.
#[inline(always)]
pub fn filter_bit<A: Address>(address: A) -> (u32, u64) {
    let w = address.widen();
    let folded = if A::FAMILY == 4 {
        w[0]
    } else {
        (w[0] ^ w[1].rotate_left(11)) ^ (w[2].rotate_left(19) ^ w[3].rotate_left(5))
    };
    let hash = folded.wrapping_mul(0x9e37_79b1) >> 16;
    (hash >> 6, 1 << (hash & 63))
}

// SAFETY: `repr(C)`, integers only, and the asserts below show that the size is
// the sum of the fields' sizes: no padding. The same holds for all that follow.
unsafe impl Plain for Settings {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for ServiceKey<A> {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Service {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Entry {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for Prefix<A> {}
// SAFETY: as for `Settings`.
unsafe impl Plain for ServerKey {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Endpoint {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Counter {}

const _: () = {
    assert!(size_of::<Settings>() == 4 * 4 + 4 * NAT_SOURCES + 16 * NAT_SOURCES + 28);
    assert!(size_of::<ServiceKey<u32>>() == 8);
    assert!(size_of::<ServiceKey<[u32; 4]>>() == 20);
    assert!(size_of::<Service>() == 28);
    assert!(size_of::<Entry>() == 64);
    assert!(HINTS == 1 << (32 - 19));
    assert!(size_of::<Prefix<u32>>() == 8);
    assert!(size_of::<Prefix<[u32; 4]>>() == 20);
    assert!(size_of::<ServerKey>() == 8);
    assert!(size_of::<Endpoint>() == 64);
    assert!(core::mem::offset_of!(Endpoint, generation) == 32);
    assert!(core::mem::offset_of!(Endpoint, macs) == 44);
    assert!(core::mem::offset_of!(Endpoint, state) == 62);
    assert!(size_of::<Counter>() == 24);
};
