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
pub const ABI_VERSION: u32 = 1;
/// ELF section of the BPF object that holds [`ABI_VERSION`], in the target's
/// byte order.
pub const ABI_SECTION: &str = ".director.abi";

/// IP protocol numbers (IANA).
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

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

/// Value of `SERVICES4` and `SERVICES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Index into `BANKS`, `SERVICE_COUNTERS` and, times two, `SLOTS`.
    pub index: u32,
    /// One of [`mode`].
    pub mode: u32,
}

/// Values of [`Service::mode`].
pub mod mode {
    pub const TUNNEL: u32 = 1;
    pub const NAT: u32 = 2;
}

/// Key of `FLOWS4` and `FLOWS6`: a client's flow to a service. The protocol is
/// the service's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    pub source: A,
    pub source_port: u16,
    pub port: u16,
    pub service: u32,
}

/// Value of `FLOWS4` and `FLOWS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// Index into `ENDPOINTS`.
    pub endpoint: u32,
    /// [`Endpoint::generation`] when the flow was recorded: a record of an
    /// index's earlier holder does not count.
    pub generation: u32,
    /// In `nat` mode, the port that stands for the client; else 0.
    pub nat_port: u16,
    /// In `nat` mode, index into [`Settings::nat4`] or [`Settings::nat6`].
    pub nat_source: u16,
}

/// Key of `NAT4` and `NAT6`: a server's flow to a NAT address of ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatKey<A> {
    pub endpoint: A,
    pub source: A,
    pub endpoint_port: u16,
    pub source_port: u16,
    pub protocol: u32,
}

/// Value of `NAT4` and `NAT6`: whom the NAT port stands for, and the way back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatEntry<A> {
    pub client: A,
    pub vip: A,
    pub client_port: u16,
    pub vip_port: u16,
    pub endpoint: u32,
    /// Interface that the client's packets came in by; replies leave by it.
    pub interface: u32,
    /// Ethernet header of the replies: the client's last hop and ourselves.
    pub macs: [u16; 6],
    /// Coarse seconds since boot of the server's last packet.
    pub seen: u32,
    /// Bits of [`closing`].
    pub closing: u32,
}

/// Bits of [`NatEntry::closing`].
pub mod closing {
    pub const CLIENT_FIN: u32 = 1;
    pub const SERVER_FIN: u32 = 2;
    pub const RST: u32 = 4;
}

/// Value of `ENDPOINTS`. One cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: [u32; 4],
    /// Source address of the outer header in `tunnel` mode.
    pub tunnel_source: [u32; 4],
    /// Never 0 while the entry is in use; raised when it changes hands.
    pub generation: u32,
    /// Index of the service it belongs to.
    pub service: u32,
    /// Interface towards the next hop; 0: not known, look it up per packet.
    pub interface: u32,
    /// Ethernet header towards the next hop: destination, source.
    pub macs: [u16; 6],
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

/// An empty slot of a table.
pub const NO_ENDPOINT: u32 = 0;

// SAFETY: `repr(C)`, integers only, and the asserts below show that the size is
// the sum of the fields' sizes: no padding. The same holds for all that follow.
unsafe impl Plain for Settings {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for ServiceKey<A> {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Service {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for FlowKey<A> {}
// SAFETY: as for `Settings`.
unsafe impl Plain for FlowEntry {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for NatKey<A> {}
// SAFETY: as for `Settings`.
unsafe impl<A: Plain> Plain for NatEntry<A> {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Endpoint {}
// SAFETY: as for `Settings`.
unsafe impl Plain for Counter {}

const _: () = {
    assert!(size_of::<Settings>() == 4 * 4 + 4 * NAT_SOURCES + 16 * NAT_SOURCES);
    assert!(size_of::<ServiceKey<u32>>() == 8);
    assert!(size_of::<ServiceKey<[u32; 4]>>() == 20);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<FlowKey<u32>>() == 12);
    assert!(size_of::<FlowKey<[u32; 4]>>() == 24);
    assert!(size_of::<FlowEntry>() == 12);
    assert!(size_of::<NatKey<u32>>() == 16);
    assert!(size_of::<NatKey<[u32; 4]>>() == 40);
    assert!(size_of::<NatEntry<u32>>() == 40);
    assert!(size_of::<NatEntry<[u32; 4]>>() == 64);
    assert!(size_of::<Endpoint>() == 64);
    assert!(core::mem::offset_of!(Endpoint, generation) == 32);
    assert!(core::mem::offset_of!(Endpoint, macs) == 44);
    assert!(core::mem::offset_of!(Endpoint, state) == 62);
    assert!(size_of::<Counter>() == 24);
};
