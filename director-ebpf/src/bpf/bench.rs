//! What `cargo xtask bench xdp` measures with: a wrapper that gives the program
//! under test a fresh frame each time, and two floors to compare with.
//!
//! `BPF_PROG_TEST_RUN` does not restore the frame between repetitions, so the
//! wrapper does: it undoes a moved head, writes the headers anew, gives them
//! the next flow, and tail-calls the program under test. Its own cost is
//! measured with an empty program in that place, and subtracted.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_ABORTED, XDP_TX},
    helpers::bpf_xdp_adjust_head,
    macros::{map, xdp},
    maps::{Array, LruHashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use director_ebpf::bench::{FRAME, HEADERS, Plan, flow_of};

/// The program under test, at index 0.
#[map]
static UNDER_TEST: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static PLAN: Array<Plan> = Array::with_max_entries(1, 0);
/// Packets made so far, which says whose turn it is.
#[map]
static TURN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LRU: LruHashMap<[u32; 4], [u32; 4]> = LruHashMap::with_max_entries(1 << 20, 0);
#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Makes the next packet and runs the program under test on it.
#[xdp]
pub fn bench_wrap(ctx: XdpContext) -> u32 {
    match next_packet(&ctx) {
        // SAFETY: does not return on success; the program found is an XDP one.
        Some(()) => unsafe { UNDER_TEST.tail_call(&ctx, 0) },
        None => return XDP_ABORTED,
    }
    XDP_ABORTED
}

#[inline(always)]
fn next_packet(ctx: &XdpContext) -> Option<()> {
    let plan = PLAN.get(0)?;
    let length = ctx.data_end() - ctx.data();
    let moved = length as i64 - FRAME as i64;
    // SAFETY: the context is the kernel's own; pointers are taken anew below.
    if moved != 0 && unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), moved as i32) } != 0 {
        return None;
    }
    let turn = TURN.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value that only this program writes.
    let now = unsafe {
        let now = *turn;
        *turn = now + 1;
        now
    };
    let start = ctx.data();
    if start + HEADERS * 8 > ctx.data_end() {
        return None;
    }
    let words = start as *mut u64;
    for index in 0..HEADERS {
        // SAFETY: in bounds, as compared above.
        unsafe { *words.add(index) = plan.headers[index] };
    }
    let (source, port) = flow_of(plan, now);
    let address = start + plan.source_offset as usize % 32;
    let ports = start + plan.port_offset as usize % 64;
    if address + 4 > ctx.data_end() || ports + 2 > ctx.data_end() {
        return None;
    }
    // SAFETY: in bounds, as compared above.
    unsafe {
        *(address as *mut u32) = source;
        *(ports as *mut u16) = port;
    }
    Some(())
}

/// Does nothing: the floor of floors.
#[xdp]
pub fn bench_empty(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Looks the packet's flow up in an LRU map, and counts: the least that a
/// program with a connection table does.
#[xdp]
pub fn bench_lru(ctx: XdpContext) -> u32 {
    look_up(&ctx).unwrap_or(XDP_ABORTED)
}

#[inline(always)]
fn look_up(ctx: &XdpContext) -> Option<u32> {
    let start = ctx.data();
    if start + 38 > ctx.data_end() {
        return None;
    }
    // SAFETY: in bounds, as compared above.
    let key = unsafe {
        [
            *((start + 26) as *const u32),
            *((start + 30) as *const u32),
            *((start + 34) as *const u32),
            6,
        ]
    };
    // SAFETY: only whether there is an entry is read.
    if unsafe { LRU.get(&key) }.is_none() {
        LRU.insert(&key, &[1, 1, 0, 0], 0).ok()?;
    }
    let counter = COUNTER.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value that only this program writes.
    unsafe { *counter += 1 };
    Some(XDP_TX)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
