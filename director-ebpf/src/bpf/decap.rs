//! The servers' end of `tunnel` mode.

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS, helpers::bpf_xdp_adjust_head, macros::map, maps::HashMap,
    programs::XdpContext,
};
use director_ebpf::{
    abi::Address,
    parse::{ETHERNET, Frame as _, IPV4, IPV6, ethertype},
    rewrite::{IP6IP6, IPIP},
};

use crate::frame::XdpFrame;

/// Outer destinations to take the header off for: this server's own addresses.
/// A packet to any other is not for us to open.
#[map]
static DECAP: HashMap<[u32; 4], u32> = HashMap::with_max_entries(256, 0);
/// Packets decapsulated.
#[map]
static DECAPPED: aya_ebpf::maps::PerCpuArray<u64> =
    aya_ebpf::maps::PerCpuArray::with_max_entries(1, 0);

/// Takes the outer header off and passes the packet up; anything else passes
/// as it is.
#[inline(always)]
pub fn decap(ctx: &XdpContext) -> u32 {
    let _ = try_decap(ctx);
    XDP_PASS
}

/// `None` where the packet is to be left as it is.
#[inline(always)]
fn try_decap(ctx: &XdpContext) -> Option<()> {
    let frame = XdpFrame(ctx);
    let (destination, header) = match ethertype(&frame).ok()? {
        <u32 as Address>::ETHERTYPE => {
            // Options never come from an edge; a fragment cannot be opened.
            let is_plain = frame.load::<u8>(ETHERNET)? == 0x45
                && frame.load::<u8>(ETHERNET + 9)? == IPIP
                && u16::from_be(frame.load::<u16>(ETHERNET + 6)?) & 0x3fff == 0;
            (
                is_plain.then_some(frame.load::<u32>(ETHERNET + 16)?.widen())?,
                IPV4,
            )
        }
        <[u32; 4] as Address>::ETHERTYPE => {
            let is_plain = frame.load::<u8>(ETHERNET + 6)? == IP6IP6;
            (
                is_plain.then_some(frame.load::<[u32; 4]>(ETHERNET + 24)?)?,
                IPV6,
            )
        }
        _ => return None,
    };
    // SAFETY: only whether there is an entry is read.
    unsafe { DECAP.get(&destination) }?;
    // The whole inner address pair must be there before the frame is changed.
    let inner_version = frame.load::<u8>(ETHERNET + header)? >> 4;
    if inner_version != if header == IPV4 { 4 } else { 6 } {
        return None;
    }
    let macs = frame.load::<[u16; 6]>(0)?;
    let kind = frame.load::<u16>(12)?;
    // SAFETY: the context is the kernel's own; pointers are taken anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, header as i32) } != 0 {
        return None;
    }
    let frame = XdpFrame(ctx);
    frame.store(0, macs);
    frame.store(12, kind);
    if let Some(counter) = DECAPPED.get_ptr_mut(0) {
        // SAFETY: a per-CPU value that only this program writes.
        unsafe { *counter += 1 };
    }
    Some(())
}
