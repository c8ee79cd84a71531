//! Tagged frames: tags are taken off what is ours, and put back on what stays
//! here or is answered.
//!
//! What is steered leaves with the tag of its next hop, or without one.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    helpers::bpf_xdp_adjust_head,
    programs::XdpContext,
};
use director_ebpf::{
    abi::Address,
    parse::{Frame as _, QINQ, VLAN},
};

use crate::{MADE_HERE, four, frame::XdpFrame, maps::may_be_ours, six};

/// The tags of a frame, from its first tag on.
#[derive(Clone, Copy, Default)]
struct Tags {
    words: [u16; 4],
    /// Of what they stand before; network byte order.
    ethertype: u16,
    /// Bytes that they take: 4 or 8.
    length: u16,
}

/// Steers a frame with one or two tags. What takes stack is done in functions of
/// its own, since all of steering's comes on top of this one's.
#[inline(never)]
pub fn steer(ctx: &XdpContext) -> u32 {
    let mut tags = Tags::default();
    let action = take_off(ctx, &mut tags);
    if action != STEERED {
        return action;
    }
    let is_v4 = tags.ethertype == <u32 as Address>::ETHERTYPE;
    let action = if is_v4 { four(ctx) } else { six(ctx) };
    if action != XDP_PASS && action & MADE_HERE == 0 {
        return action;
    }
    put_back(ctx, &tags, action)
}

/// No action: the frame has lost its tags and is to be steered.
const STEERED: u32 = u32::MAX;

/// Takes the tags off what may be ours.
#[inline(never)]
fn take_off(ctx: &XdpContext, tags: &mut Tags) -> u32 {
    let frame = XdpFrame(ctx);
    let Some(words) = frame.load::<[u16; 4]>(12) else {
        return XDP_PASS;
    };
    let has_two = words[2] == VLAN || words[2] == QINQ;
    let (length, ethertype) = if has_two {
        (8, frame.load::<u16>(20).unwrap_or(0))
    } else {
        (4, words[2])
    };
    let is_ours = match ethertype {
        <u32 as Address>::ETHERTYPE => {
            let destination = if has_two {
                frame.load::<u32>(38)
            } else {
                frame.load::<u32>(34)
            };
            destination.is_some_and(may_be_ours)
        }
        <[u32; 4] as Address>::ETHERTYPE => {
            let destination = if has_two {
                frame.load::<[u32; 4]>(46)
            } else {
                frame.load::<[u32; 4]>(42)
            };
            destination.is_some_and(may_be_ours)
        }
        _ => false,
    };
    if !is_ours {
        return XDP_PASS;
    }
    // Hidden, so that the verifier walks all that follows once and not for each
    // number of tags.
    let length = core::hint::black_box(length);
    *tags = Tags {
        words,
        ethertype,
        length,
    };
    if shift(ctx, i32::from(length)) {
        STEERED
    } else {
        XDP_ABORTED
    }
}

/// Gives the frame its tags back.
#[inline(never)]
fn put_back(ctx: &XdpContext, tags: &Tags, action: u32) -> u32 {
    if !shift(ctx, -i32::from(tags.length)) {
        return XDP_ABORTED;
    }
    let frame = XdpFrame(ctx);
    let is_written = if tags.length == 8 {
        frame.store(12, tags.words) && frame.store(20, tags.ethertype)
    } else {
        frame.store(12, [tags.words[0], tags.words[1]]) && frame.store(16, tags.ethertype)
    };
    if is_written { action } else { XDP_ABORTED }
}

/// Moves the start of the frame by `by` bytes, and the addresses with it.
#[inline(always)]
fn shift(ctx: &XdpContext, by: i32) -> bool {
    let Some(macs) = XdpFrame(ctx).load::<[u16; 6]>(0) else {
        return false;
    };
    // SAFETY: the context is the kernel's own; pointers are taken anew.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, by) } != 0 {
        return false;
    }
    XdpFrame(ctx).store(0, macs)
}
