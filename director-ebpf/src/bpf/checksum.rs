//! Sums over the bytes of a frame.

use aya_ebpf::{helpers::bpf_csum_diff, programs::XdpContext};
use director_ebpf::{parse::Frame as _, rewrite::fold, scratch::Scratch};

use crate::{frame::XdpFrame, maps};

/// Bytes that the kernel sums up at a time: the most that its helper takes, and
/// less of what is left.
const BLOCK: usize = 512;
const SMALL_BLOCK: usize = 64;
/// Most blocks: a jumbo frame.
const BLOCKS: usize = 9216 / BLOCK;
/// Offsets are at most this, as the verifier must know of them.
const OFFSETS: usize = 0x3fff;

/// Sum of the 16-bit words from `start` to `end` of the frame, the last one
/// filled up with zero (RFC 1071). Where it stands is kept in the scratch
/// memory, so that the verifier sees the same state after any number of blocks.
#[inline(never)]
pub fn sum(ctx: &XdpContext, start: usize, end: usize) -> u16 {
    let Some(scratch) = maps::scratch() else {
        return 0;
    };
    let frame = XdpFrame(ctx);
    let end = core::hint::black_box(end);
    scratch.offset.set(start as u64);
    scratch.sum.set(0);
    for _ in 0..BLOCKS {
        if !add_block::<BLOCK>(&frame, end, scratch) {
            break;
        }
    }
    for _ in 0..BLOCK / SMALL_BLOCK {
        if !add_block::<SMALL_BLOCK>(&frame, end, scratch) {
            break;
        }
    }
    for _ in 0..SMALL_BLOCK / 2 {
        let at = scratch.offset.get() as usize & OFFSETS;
        if at + 2 > end {
            break;
        }
        let Some(word) = frame.load::<u16>(at) else {
            break;
        };
        scratch.sum.set(scratch.sum.get() + u64::from(word));
        scratch.offset.set(at as u64 + 2);
    }
    let at = scratch.offset.get() as usize & OFFSETS;
    // With the byte before it: the verifier takes no bound of one byte from an
    // offset that varies.
    if at < end
        && let Some([_, last]) = frame.load::<[u8; 2]>(at.wrapping_sub(1) & OFFSETS)
    {
        let word = u16::from_ne_bytes([last, 0]);
        scratch.sum.set(scratch.sum.get() + u64::from(word));
    }
    fold(scratch.sum.get())
}

/// Adds `N` bytes to the sum; false where fewer are left.
#[inline(always)]
fn add_block<const N: usize>(frame: &XdpFrame<'_>, end: usize, scratch: &mut Scratch) -> bool {
    let at = scratch.offset.get() as usize & OFFSETS;
    if at + N > end {
        return false;
    }
    let Some(block) = frame.pointer::<[u8; N]>(at) else {
        return false;
    };
    // SAFETY: `N` bytes of the frame; nothing is subtracted.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, block.cast(), N as u32, 0) };
    scratch
        .sum
        .set(scratch.sum.get() + (sum as u64 & 0xffff_ffff));
    scratch.offset.set((at + N) as u64);
    true
}
