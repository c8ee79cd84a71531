//! What the benchmark's two halves share.

use crate::{abi::Plain, steer};

/// Length of every benchmark frame, in bytes.
pub const FRAME: usize = 96;
/// 64-bit words of a frame that are written anew for every packet: all headers
/// that a program may have changed.
pub const HEADERS: usize = 10;

/// What packets the wrapper makes. Value of `PLAN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first bytes of the frame.
    pub headers: [u64; HEADERS],
    /// Where the four bytes of the source address lie that tell flows apart.
    pub source_offset: u32,
    pub port_offset: u32,
    /// Flows less one, a power of two less one: turns go round them.
    pub mask: u32,
    /// 1 visits flows in an order that caches cannot foresee.
    pub is_random: u32,
}

// SAFETY: `repr(C)`, integers only, and 8-byte words come first: no padding,
// as the assert shows.
unsafe impl Plain for Plan {}
const _: () = assert!(size_of::<Plan>() == 8 * HEADERS + 16);

/// Source address and port of the flow whose turn it is, network byte order.
#[inline(always)]
pub fn flow_of(plan: &Plan, turn: u64) -> (u32, u16) {
    let turn = if plan.is_random == 1 {
        steer::mix(turn) as u32
    } else {
        turn as u32
    };
    let flow = turn & plan.mask;
    // 198.18.0.0/15 and up, and ports from 1024: 2^14 of them an address.
    let address = 0xc612_0000_u32.wrapping_add(flow >> 14);
    let port = 1024 + (flow & 0x3fff) as u16;
    (address.to_be(), port.to_be())
}
