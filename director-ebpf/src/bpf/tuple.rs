//! Addresses and ports of a packet, and rewriting them.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::TCP,
    cause::Cause,
    parse::{ETHERNET, Frame as _, Packet},
    rewrite::Change,
};

use crate::{frame::XdpFrame, maps::Maps};

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Default)]
pub struct Tuple<A> {
    pub source: A,
    pub destination: A,
    pub source_port: u16,
    pub destination_port: u16,
}

/// Gives a packet the addresses and ports of `after`, one hop less, and
/// checksums to match.
#[inline(always)]
pub fn rewrite<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    after: &Tuple<A>,
) -> Result<(), Cause> {
    let frame = XdpFrame(ctx);
    let addresses = Change::default()
        .address(packet.source, after.source)
        .address(packet.destination, after.destination);
    let change = addresses
        .half(packet.source_port, after.source_port)
        .half(packet.destination_port, after.destination_port);

    let checksum = if packet.protocol == TCP { 16 } else { 6 };
    let short = Cause::Truncated;
    // The transport header first, while the offset's bounds are fresh for the
    // verifier.
    let sum = frame
        .load::<u16>(packet.transport + checksum)
        .ok_or(short)?;
    let sum = if packet.protocol == TCP {
        change.apply(sum)
    } else {
        change.apply_udp(sum)
    };
    let is_written = frame.store(packet.transport + checksum, sum)
        && frame.store(
            packet.transport,
            [after.source_port, after.destination_port],
        );
    if !is_written {
        return Err(short);
    }
    if rewrite_ip(ctx, packet, after.source, after.destination) {
        Ok(())
    } else {
        Err(short)
    }
}

/// Gives an IP header other addresses, one hop less, and a checksum to match.
/// Its hop limit is at least 1.
#[inline(always)]
pub fn rewrite_ip<A: Maps>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    source: A,
    destination: A,
) -> bool {
    let frame = XdpFrame(ctx);
    if A::FAMILY != 4 {
        return frame.store(ETHERNET + 7, packet.hop_limit - 1)
            && frame.store(ETHERNET + 8, source)
            && frame.store(ETHERNET + 24, destination);
    }
    let Some([hop, sum]) = frame.load::<[u16; 2]>(ETHERNET + 8) else {
        return false;
    };
    let [limit, protocol] = hop.to_ne_bytes();
    let new_hop = u16::from_ne_bytes([limit.wrapping_sub(1), protocol]);
    let sum = Change::default()
        .address(packet.source, source)
        .address(packet.destination, destination)
        .half(hop, new_hop)
        .apply(sum);
    frame.store(ETHERNET + 8, [new_hop, sum])
        && frame.store(ETHERNET + 12, source)
        && frame.store(ETHERNET + 16, destination)
}
