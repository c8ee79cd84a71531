//! Clamping of the maximum segment size that TCP peers announce, so that what
//! they send fits the path through an outer header (RFC 9293, 3.7.1).

use aya_ebpf::programs::XdpContext;
use director_ebpf::{parse::Frame as _, rewrite::Change, tcp};

use crate::{frame::XdpFrame, maps};

/// Lowers the option of the SYN whose TCP header is at `transport` to `most`
/// bytes. It is never raised nor added. A header whose options lie about their
/// lengths stays as it is.
#[inline(never)]
pub fn clamp(ctx: &XdpContext, transport: usize, most: u16) {
    let Some(scratch) = maps::scratch() else {
        return;
    };
    let frame = XdpFrame(ctx);
    // An IPv4 header has at most 60 bytes.
    let transport = transport & 127;
    if !tcp::find_mss(&frame, transport, scratch) {
        return;
    }
    let within = scratch.offset.get() as usize & 63;
    let Some(announced) = frame.load::<u16>(transport + within) else {
        return;
    };
    if u16::from_be(announced) <= most {
        return;
    }
    let Some(sum) = frame.load::<u16>(transport + 16) else {
        return;
    };
    let lowered = most.to_be();
    // At an odd place its bytes are of two words, each in the other's place.
    let change = if within & 1 == 0 {
        Change::default().half(announced, lowered)
    } else {
        Change::default().half(announced.swap_bytes(), lowered.swap_bytes())
    };
    if frame.store(transport + 16, change.apply(sum)) {
        frame.store(transport + within, lowered);
    }
}
