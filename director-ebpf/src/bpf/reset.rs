//! RST in the name of a dead endpoint, so that its clients need not wait.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{
    abi::TCP,
    cause::Cause,
    icmp::ip_header,
    parse::{ETHERNET, Frame as _, Packet, tcp_flags},
    tcp,
};

use crate::{frame::XdpFrame, maps::Maps, slow};

/// Answers a segment with RST (RFC 9293, 3.5.2). None is answered that is one
/// itself.
#[inline(never)]
pub fn answer<A: Maps>(ctx: &XdpContext, packet: &Packet<A>) -> Cause {
    if packet.protocol != TCP || packet.tcp_flags & tcp_flags::RST != 0 {
        return Cause::NotReset;
    }
    let frame = XdpFrame(ctx);
    let (Some([seq, ack]), Some([offset, _])) = (
        frame.load::<[u32; 2]>(packet.transport + 4),
        frame.load::<[u8; 2]>(packet.transport + 12),
    ) else {
        return Cause::NotReset;
    };
    let Some(macs) = frame.load::<[u16; 6]>(0) else {
        return Cause::NotReset;
    };
    let header = tcp::reset(packet, seq, ack, offset);
    let at = ETHERNET + ip_header::<A>();
    if !slow::resize(ctx, at + tcp::HEADER, 0) {
        return Cause::NotReset;
    }
    let is_written =
        XdpFrame(ctx).store(at, header) && slow::turn(ctx, packet, macs, TCP, tcp::HEADER as u16);
    if is_written {
        Cause::Reset
    } else {
        Cause::NotReset
    }
}
