//! Bytes to a [`Packet`], or the cause why not.
//!
//! Only what steering needs is read: Ethernet II, IPv4 (RFC 791, options
//! skipped), IPv6 (RFC 8200, no extension headers), TCP and UDP ports. VLAN
//! tags are not read: such frames are not IP here and pass.
//!
//! Here and in [`crate::steer`], what is found is written to an argument rather
//! than returned within a `Result`: such a value is undefined in the other
//! case, the compiler may work on it before the branch, and the kernel's
//! verifier refuses a program that reads an undefined register.

use crate::{
    abi::{Address, Plain, TCP, UDP},
    cause::Cause,
};

/// Length of an Ethernet II header.
pub const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Length of an IPv6 header.
pub const IPV6: usize = 40;

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
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// 0 for UDP.
    pub tcp_flags: u8,
    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    pub traffic_class: u8,
    pub hop_limit: u8,
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
    /// Reads an IP packet of this family into `packet`.
    ///
    /// # Errors
    /// Why it cannot be steered. With [`Cause::Fragment`] and
    /// [`Cause::ExtensionHeader`], which concern only packets for a VIP,
    /// `packet.destination` is set.
    fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet<Self>) -> Result<(), Cause>;
}

impl Parse for u32 {
    #[inline(always)]
    fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet<u32>) -> Result<(), Cause> {
        let short = Cause::Truncated;
        // The two addresses are read last of the header: where they are there,
        // all of it is.
        let source = frame.load::<u32>(ETHERNET + 12).ok_or(short)?;
        let destination = frame.load::<u32>(ETHERNET + 16).ok_or(short)?;
        let version = frame.load::<u8>(ETHERNET).ok_or(short)?;
        let traffic_class = frame.load::<u8>(ETHERNET + 1).ok_or(short)?;
        let ip_length = u16::from_be(frame.load::<u16>(ETHERNET + 2).ok_or(short)?);
        let fragment = u16::from_be(frame.load::<u16>(ETHERNET + 6).ok_or(short)?);
        let hop_limit = frame.load::<u8>(ETHERNET + 8).ok_or(short)?;
        let protocol = frame.load::<u8>(ETHERNET + 9).ok_or(short)?;

        let header = usize::from(version & 0x0f) * 4;
        if version >> 4 != 4 || header < IPV4 || usize::from(ip_length) < header {
            return Err(Cause::Malformed);
        }
        if ETHERNET + usize::from(ip_length) > frame.length() {
            return Err(short);
        }
        if protocol != TCP && protocol != UDP {
            return Err(Cause::NotOurs);
        }
        // More fragments to come, or not the first one (RFC 791, 3.1).
        if fragment & 0x3fff != 0 {
            packet.destination = destination;
            return Err(Cause::Fragment);
        }
        let transport = ETHERNET + header;
        let mut ports = Transport::default();
        transport_header(
            frame,
            transport,
            protocol,
            usize::from(ip_length) - header,
            &mut ports,
        )?;
        *packet = Packet {
            source,
            destination,
            source_port: ports.source,
            destination_port: ports.destination,
            protocol,
            tcp_flags: ports.flags,
            traffic_class,
            hop_limit,
            ip_length,
            transport,
        };
        Ok(())
    }
}

impl Parse for [u32; 4] {
    #[inline(always)]
    fn parse<F: Frame + ?Sized>(frame: &F, packet: &mut Packet<[u32; 4]>) -> Result<(), Cause> {
        let short = Cause::Truncated;
        let destination = frame.load::<[u32; 4]>(ETHERNET + 24).ok_or(short)?;
        let source = frame.load::<[u32; 4]>(ETHERNET + 8).ok_or(short)?;
        let start = u16::from_be(frame.load::<u16>(ETHERNET).ok_or(short)?);
        let payload = u16::from_be(frame.load::<u16>(ETHERNET + 4).ok_or(short)?);
        let protocol = frame.load::<u8>(ETHERNET + 6).ok_or(short)?;
        let hop_limit = frame.load::<u8>(ETHERNET + 7).ok_or(short)?;

        if start >> 12 != 6 {
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
            TCP | UDP => {}
            44 => {
                packet.destination = destination;
                return Err(Cause::Fragment);
            }
            // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP,
            // shim6, and the two for experiments (IANA's registry).
            0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => {
                packet.destination = destination;
                return Err(Cause::ExtensionHeader);
            }
            _ => return Err(Cause::NotOurs),
        }
        let transport = ETHERNET + IPV6;
        let mut ports = Transport::default();
        transport_header(frame, transport, protocol, usize::from(payload), &mut ports)?;
        *packet = Packet {
            source,
            destination,
            source_port: ports.source,
            destination_port: ports.destination,
            protocol,
            tcp_flags: ports.flags,
            traffic_class: ((start >> 4) & 0xff) as u8,
            hop_limit,
            ip_length,
            transport,
        };
        Ok(())
    }
}

#[derive(Default)]
struct Transport {
    source: u16,
    destination: u16,
    flags: u8,
}

#[inline(always)]
fn transport_header<F: Frame + ?Sized>(
    frame: &F,
    offset: usize,
    protocol: u8,
    length: usize,
    header: &mut Transport,
) -> Result<(), Cause> {
    let least = if protocol == TCP { 20 } else { 8 };
    if length < least {
        return Err(Cause::Malformed);
    }
    let short = Cause::Truncated;
    header.source = frame.load(offset).ok_or(short)?;
    header.destination = frame.load(offset + 2).ok_or(short)?;
    if protocol == TCP {
        header.flags = frame.load(offset + 13).ok_or(short)?;
    }
    Ok(())
}
