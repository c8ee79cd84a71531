//! Sums over the bytes of a frame.

use aya_ebpf::programs::XdpContext;
use director_ebpf::{parse::Frame as _, rewrite::fold};

use crate::{frame::XdpFrame, maps};

/// Bytes that are summed up at a time.
const BLOCK: usize = 32;
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
    scratch.offset.set(start as u64);
    scratch.sum.set(0);
    for _ in 0..BLOCKS {
        let at = scratch.offset.get() as usize & OFFSETS;
        if at + BLOCK > end {
            break;
        }
        let Some(words) = frame.load::<[u32; BLOCK / 4]>(at) else {
            break;
        };
        let mut sum = scratch.sum.get();
        for word in words {
            sum += u64::from(word);
        }
        scratch.sum.set(sum);
        scratch.offset.set((at + BLOCK) as u64);
    }
    for _ in 0..BLOCK / 2 {
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
    if at < end
        && let Some(byte) = frame.load::<u8>(at)
    {
        let word = u16::from_ne_bytes([byte, 0]);
        scratch.sum.set(scratch.sum.get() + u64::from(word));
    }
    fold(scratch.sum.get())
}
