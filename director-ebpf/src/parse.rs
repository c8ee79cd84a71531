//! Bytes to a [`Packet`], or the cause why not.
//!
//! Only what steering needs is read: Ethernet II, IPv4 (RFC 791, options
//! skipped), IPv6 (RFC 8200, no extension headers), TCP and UDP ports. VLAN
//! tags are taken off before, and put back where the frame stays.
//!
//! Here and in [`crate::steer`], what is found is written to an argument rather
//! than returned within a `Result`: such a value is undefined in the other
//! case, the compiler may work on it before the branch, and the kernel's
//! verifier refuses a program that reads an undefined register.

use core::mem::MaybeUninit;

use crate::{
    abi::{Address, ICMP, ICMP6, Plain, TCP, UDP},
    cause::Cause,
};

/// Length of an Ethernet II header.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Length of an IPv6 header.
pub const IPV6: usize = 40;
/// Ethertypes of VLAN tags (IEEE 802.1Q and 802.1ad), network byte order.
pub const VLAN: u16 = 0x8100_u16.to_be();
pub const QINQ: u16 = 0x88a8_u16.to_be();

/// TCP flag bits (RFC 9293, section 3.1).
pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// A frame that can be read with bounds checks.
pub trait Frame {
    /// The value at `offset`, or `None` where the frame ends before its end.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;
    /// `N` words from `offset` on, written to `words`; false where the frame
    /// ends before their end. For BPF, where the compiler would copy an array
    /// byte by byte.
    fn load_words<const N: usize>(&self, offset: usize, words: &mut MaybeUninit<[u32; N]>) -> bool;
    /// Bytes in the frame.
    fn length(&self) -> usize;
}

impl Frame for [u8] {
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        let bytes = self.get(offset..end)?;
        // SAFETY: `bytes` is exactly `size_of::<T>()` long, `Plain` types are
        // valid for any bits, and the read does not assume alignment.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    fn load_words<const N: usize>(&self, offset: usize, words: &mut MaybeUninit<[u32; N]>) -> bool {
        match self.load::<[u32; N]>(offset) {
            Some(found) => {
                words.write(found);
                true
            }
            None => false,
        }
    }

    fn length(&self) -> usize {
        self.len()
    }
}

/// What steering reads of a TCP or UDP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<A> {
    pub source: A,
    pub destination: A,
    /// Network byte order, as the addresses.
    pub source_port: u16,
    pub destination_port: u16,
    /// [`TCP`] or [`UDP`]; after [`Cause::Icmp`], of ICMP.
    pub protocol: u8,
    /// 0 for UDP.
    pub tcp_flags: u8,
    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    pub traffic_class: u8,
    pub hop_limit: u8,
    /// IPv6's flow label, host byte order; 0 for IPv4.
    pub flow_label: u32,
    /// Length of the IP packet, which may be less than what the frame holds.
    pub ip_length: u16,
    /// Where the TCP or UDP header starts in the frame.
    pub transport: usize,
}

impl<A> Packet<A> {
    /// Opens a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }
}

/// Reads the Ethernet header: the ethertype in network byte order.
///
/// # Errors
/// [`Cause::NotIp`] where the frame is shorter than that.
#[inline(always)]
pub fn ethertype<F: Frame + ?Sized>(frame: &F) -> Result<u16, Cause> {
    frame.load::<u16>(12).ok_or(Cause::NotIp)
}

/// A family that can be read from a frame.
pub trait Parse: Address {
    /// The destination, where the frame holds a whole IP header.
    fn destination<F: Frame + ?Sized>(frame: &F) -> Option<Self>;

    /// Reads an IP packet of this family into `packet`, which is initialised
    /// where the answer is `Ok`.
    ///
    /// # Errors
    /// Why it cannot be steered by its ports. With [`Cause::Icmp`], `packet` is
    /// initialised too; its ports are 0.
    fn parse<F: Frame + ?Sized>(
        frame: &F,
        packet: &mut MaybeUninit<Packet<Self>>,
    ) -> Result<(), Cause>;

    /// Whether no packet from this source to `destination` is sound: from
    /// nowhere, from many, from the host itself (RFC 1122, 3.2.1.3; RFC 4291,
    /// 2.5 and 2.7), or from the VIP to itself.
    fn is_martian(self, destination: Self) -> bool;
}

impl Parse for u32 {
    #[inline(always)]
    fn destination<F: Frame + ?Sized>(frame: &F) -> Option<u32> {
        frame.load::<u32>(ETHERNET + 16)
    }

    #[inline(always)]
    fn parse<F: Frame + ?Sized>(
        frame: &F,
        packet: &mut MaybeUninit<Packet<u32>>,
    ) -> Result<(), Cause> {
        let short = Cause::Truncated;
        let mut header = MaybeUninit::<[u32; 5]>::uninit();
        if !frame.load_words(ETHERNET, &mut header) {
            return Err(short);
        }
        // SAFETY: `load_words` says that it has written them.
        let header = unsafe { header.assume_init_ref() };
        let [version, traffic_class, l0, l1] = header[0].to_ne_bytes();
        let ip_length = u16::from_be_bytes([l0, l1]);
        let [_, _, f0, f1] = header[1].to_ne_bytes();
        let fragment = u16::from_be_bytes([f0, f1]);
        let [hop_limit, protocol, ..] = header[2].to_ne_bytes();

        let header_length = usize::from(version & 0x0f) * 4;
        if version >> 4 != 4 || header_length < IPV4 || usize::from(ip_length) < header_length {
            return Err(Cause::Malformed);
        }
        if ETHERNET + usize::from(ip_length) > frame.length() {
            return Err(short);
        }
        // More fragments to come, or not the first one (RFC 791, 3.1).
        if fragment & 0x3fff != 0 {
            return Err(Cause::Fragment);
        }
        let packet = packet.write(Packet {
            source: header[3],
            destination: header[4],
            source_port: 0,
            destination_port: 0,
            protocol,
            tcp_flags: 0,
            traffic_class,
            hop_limit,
            flow_label: 0,
            ip_length,
            transport: ETHERNET + header_length,
        });
        ports(frame, packet, ICMP, usize::from(ip_length) - header_length)
    }

    #[inline(always)]
    fn is_martian(self, destination: u32) -> bool {
        let [first, ..] = self.to_ne_bytes();
        first == 0 || first == 127 || first >= 224 || self == destination
    }
}

impl Parse for [u32; 4] {
    #[inline(always)]
    fn destination<F: Frame + ?Sized>(frame: &F) -> Option<[u32; 4]> {
        let mut words = MaybeUninit::<[u32; 4]>::uninit();
        // SAFETY: `load_words` says that it has written them.
        frame
            .load_words(ETHERNET + 24, &mut words)
            .then(|| unsafe { words.assume_init() })
    }

    #[inline(always)]
    fn parse<F: Frame + ?Sized>(
        frame: &F,
        packet: &mut MaybeUninit<Packet<[u32; 4]>>,
    ) -> Result<(), Cause> {
        let short = Cause::Truncated;
        let to = packet.as_mut_ptr();
        let mut start = MaybeUninit::<[u32; 2]>::uninit();
        // SAFETY: fields of `packet`, to be written; each is whole once
        // `load_words` has said so. Right where they are to stay, since to copy
        // them costs more than to read them.
        let (source, destination) = unsafe {
            (
                &mut *(&raw mut (*to).source).cast::<MaybeUninit<[u32; 4]>>(),
                &mut *(&raw mut (*to).destination).cast::<MaybeUninit<[u32; 4]>>(),
            )
        };
        if !frame.load_words(ETHERNET + 24, destination)
            || !frame.load_words(ETHERNET + 8, source)
            || !frame.load_words(ETHERNET, &mut start)
        {
            return Err(short);
        }
        // SAFETY: `load_words` says that it has written them.
        let start = unsafe { start.assume_init_ref() };
        let [p0, p1, protocol, hop_limit] = start[1].to_ne_bytes();
        let payload = u16::from_be_bytes([p0, p1]);
        let start = u32::from_be(start[0]);

        if start >> 28 != 6 {
            return Err(Cause::Malformed);
        }
        // A jumbogram (RFC 2675) says 0 here and does not fit an XDP frame.
        let Some(ip_length) = payload.checked_add(IPV6 as u16) else {
            return Err(Cause::Malformed);
        };
        if ETHERNET + usize::from(ip_length) > frame.length() {
            return Err(short);
        }
        match protocol {
            44 => return Err(Cause::Fragment),
            // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP,
            // shim6, and the two for experiments (IANA's registry).
            0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
                return Err(Cause::ExtensionHeader);
            }
            _ => {}
        }
        // SAFETY: the addresses are written, and here all the rest is.
        let packet = unsafe {
            (&raw mut (*to).source_port).write(0);
            (&raw mut (*to).destination_port).write(0);
            (&raw mut (*to).protocol).write(protocol);
            (&raw mut (*to).tcp_flags).write(0);
            (&raw mut (*to).traffic_class).write((start >> 20) as u8);
            (&raw mut (*to).hop_limit).write(hop_limit);
            (&raw mut (*to).flow_label).write(start & 0xf_ffff);
            (&raw mut (*to).ip_length).write(ip_length);
            (&raw mut (*to).transport).write(ETHERNET + IPV6);
            packet.assume_init_mut()
        };
        ports(frame, packet, ICMP6, usize::from(payload))
    }

    #[inline(always)]
    fn is_martian(self, destination: [u32; 4]) -> bool {
        let is_low = self[0] | self[1] | self[2] == 0 && u32::from_be(self[3]) <= 1;
        is_low || self[0].to_ne_bytes()[0] == 0xff || self == destination
    }
}

/// Reads what steering needs of the transport header, which has `length` bytes
/// with what it carries.
#[inline(always)]
fn ports<A, F: Frame + ?Sized>(
    frame: &F,
    packet: &mut Packet<A>,
    icmp: u8,
    length: usize,
) -> Result<(), Cause> {
    let least = match packet.protocol {
        TCP => 20,
        UDP => 8,
        protocol if protocol == icmp => return Err(Cause::Icmp),
        _ => return Err(Cause::NotOurs),
    };
    if length < least {
        return Err(Cause::Malformed);
    }
    let short = Cause::Truncated;
    let [source, destination] = frame.load::<[u16; 2]>(packet.transport).ok_or(short)?;
    packet.source_port = source;
    packet.destination_port = destination;
    if packet.protocol == TCP {
        let [offset, flags] = frame.load::<[u8; 2]>(packet.transport + 12).ok_or(short)?;
        let header = usize::from(offset >> 4) * 4;
        if header < 20 || header > length {
            return Err(Cause::Malformed);
        }
        packet.tcp_flags = flags;
    }
    Ok(())
}
