//! Flow records in buckets: find, record, refresh, forget.
//!
//! No locks. A way is taken by a compare-and-swap of its key to [`BUSY`], then
//! written, then given its key; a reader looks at the key before and after the
//! value. This relies on stores and loads being seen in order, as x86 does; on
//! other machines a reader could take a record for another flow's in the few
//! nanoseconds of its writing, and send one packet astray.
//!
//! What gives way in a full bucket: first what is over (closed, or silent for
//! hours), then flows of which only one packet was seen, the oldest first. A
//! first packet never pushes out an established flow: a flood of SYNs has
//! nothing to flush.

use crate::{
    abi::{
        Address, Plain,
        flow::{BUSY, Bucket4, Bucket6, EMPTY, FlowValue, WAYS, flags},
    },
    scratch::Scratch,
    steer,
};

/// A half-open record is over after this many seconds: longer than SYNs are
/// sent again.
pub const HALF_OPEN_SECONDS: u16 = 60;
/// A closed flow is over after this many seconds: longer than a lost last
/// segment is sent again.
pub const CLOSED_SECONDS: u16 = 30;
/// A silent flow is over after this many seconds (RFC 5382, REQ-5: at least 2 h
/// 4 min).
pub const IDLE_SECONDS: u16 = 7_440;
/// Records are refreshed no more often than this, in seconds: most packets then
/// only read.
const REFRESH_SECONDS: u16 = 8;

/// A family with its bucket.
pub trait Family: Address {
    type Bucket: Plain;

    /// Key of a way, never [`EMPTY`] nor [`BUSY`].
    fn key(self, source_port: u16, port: u16) -> u64;
    /// Whether a way whose key fits is this source's.
    ///
    /// # Safety
    /// `bucket` points to a live bucket, and `way` is less than [`WAYS`].
    unsafe fn is_source(self, bucket: *mut Self::Bucket, way: usize) -> bool;
    /// The source of a way with this key.
    ///
    /// # Safety
    /// As [`Family::is_source`].
    unsafe fn source(bucket: *mut Self::Bucket, way: usize, key: u64) -> Self;
    /// Notes the source in a way.
    ///
    /// # Safety
    /// As [`Family::is_source`].
    unsafe fn set_source(self, bucket: *mut Self::Bucket, way: usize);
}

impl Family for u32 {
    type Bucket = Bucket4;

    #[inline(always)]
    fn key(self, source_port: u16, port: u16) -> u64 {
        // A source of 0.0.0.0 and 0.0.0.1 is refused before.
        u64::from(self) << 32 | u64::from(source_port) << 16 | u64::from(port)
    }
    #[inline(always)]
    unsafe fn is_source(self, _: *mut Bucket4, _: usize) -> bool {
        true
    }
    #[inline(always)]
    unsafe fn source(_: *mut Bucket4, _: usize, key: u64) -> u32 {
        (key >> 32) as u32
    }
    #[inline(always)]
    unsafe fn set_source(self, _: *mut Bucket4, _: usize) {}
}

impl Family for [u32; 4] {
    type Bucket = Bucket6;

    #[inline(always)]
    fn key(self, source_port: u16, port: u16) -> u64 {
        let high = u64::from(self[0]) << 32 | u64::from(self[1]);
        let low = u64::from(self[2]) << 32 | u64::from(self[3]);
        let digest = steer::mix(high ^ low.rotate_left(23)) as u32 | 1;
        u64::from(digest) << 32 | u64::from(source_port) << 16 | u64::from(port)
    }
    #[inline(always)]
    unsafe fn is_source(self, bucket: *mut Bucket6, way: usize) -> bool {
        // SAFETY: as the caller promises.
        unsafe { Self::source(bucket, way, 0) == self }
    }
    #[inline(always)]
    unsafe fn source(bucket: *mut Bucket6, way: usize, _: u64) -> [u32; 4] {
        // SAFETY: as the caller promises.
        unsafe { (*bucket).sources.as_ptr().add(way).read_volatile() }
    }
    #[inline(always)]
    unsafe fn set_source(self, bucket: *mut Bucket6, way: usize) {
        // SAFETY: as the caller promises.
        unsafe { (*bucket).sources.as_mut_ptr().add(way).write_volatile(self) }
    }
}

/// Where the key of a way lies.
#[inline(always)]
pub fn key_at<B: Plain>(bucket: *mut B, way: usize) -> *mut u64 {
    bucket.cast::<u64>().wrapping_add(2 * way)
}

/// Where the value of a way lies.
#[inline(always)]
pub fn value_at<B: Plain>(bucket: *mut B, way: usize) -> *mut u64 {
    bucket.cast::<u64>().wrapping_add(2 * way + 1)
}

/// Bucket that a flow falls on.
#[inline(always)]
#[must_use]
pub const fn bucket_of(hash: u64, seed: u32, buckets: u32) -> u32 {
    steer::slot((hash as u32).wrapping_mul(seed | 1), buckets)
}

/// Finds the way that holds a flow, and its record: `way` and `value` of
/// `scratch`, [`WAYS`] where none does.
///
/// # Safety
/// `bucket` points to a live bucket.
#[inline(always)]
pub unsafe fn find<A: Family>(
    bucket: *mut A::Bucket,
    key: u64,
    source: A,
    service: u32,
    scratch: &mut Scratch,
) {
    scratch.way.set(WAYS as u64);
    for way in 0..WAYS {
        // SAFETY: a live bucket, and `way` within it.
        unsafe {
            let held = key_at(bucket, way);
            if held.read_volatile() == key && source.is_source(bucket, way) {
                let found = FlowValue(value_at(bucket, way).read_volatile());
                if found.service() == service && held.read_volatile() == key {
                    scratch.value.set(found.0);
                    scratch.way.set(way as u64);
                    return;
                }
            }
        }
    }
}

/// Changes the record in a way that [`find`] found. Where the way has passed to
/// another flow meanwhile, that flow's record is harmed; it takes two CPUs and
/// a full bucket within nanoseconds.
///
/// # Safety
/// As [`find`], and `way` is less than [`WAYS`].
#[inline(always)]
pub unsafe fn update<A: Family>(bucket: *mut A::Bucket, way: usize, value: FlowValue) {
    // SAFETY: as the caller promises.
    unsafe { value_at(bucket, way & (WAYS - 1)).write_volatile(value.0) }
}

/// Empties a way.
///
/// # Safety
/// As [`update`].
#[inline(always)]
pub unsafe fn forget<A: Family>(bucket: *mut A::Bucket, way: usize) {
    // SAFETY: as the caller promises.
    unsafe { key_at(bucket, way & (WAYS - 1)).write_volatile(EMPTY) }
}

/// Records a flow that [`find`] did not find. False where the bucket had no
/// room, or another CPU took it.
///
/// # Safety
/// As [`find`].
#[inline(always)]
pub unsafe fn record<A: Family>(
    bucket: *mut A::Bucket,
    key: u64,
    source: A,
    value: FlowValue,
    scratch: &mut Scratch,
) -> bool {
    let now = value.seen();
    let is_first = value.flags() & flags::HALF_OPEN != 0;
    scratch
        .best
        .set(if is_first { FIRST_PACKETS_LEAST } else { 1 });
    scratch.way.set(WAYS as u64);
    for way in 0..WAYS {
        // SAFETY: a live bucket, and `way` within it.
        let (its_key, its_value) = unsafe {
            (
                key_at(bucket, way).read_volatile(),
                FlowValue(value_at(bucket, way).read_volatile()),
            )
        };
        let rank = rank(its_key, its_value, now);
        if rank > scratch.best.get() {
            scratch.best.set(rank);
            scratch.way.set(way as u64);
            scratch.held.set(its_key);
        }
    }
    let (is_found, way) = scratch.found_way();
    if !is_found {
        return false;
    }
    // SAFETY: a live bucket, `way` within it; keys are aligned words that are
    // only accessed as such.
    unsafe {
        let slot = key_at(bucket, way);
        if !claim(slot, scratch.held.get()) {
            return false;
        }
        source.set_source(bucket, way);
        value_at(bucket, way).write_volatile(value.0);
        slot.write_volatile(key);
    }
    true
}

/// Takes a way for writing, if it still holds `held`.
///
/// # Safety
/// `key` points to a live key.
#[inline(always)]
pub unsafe fn claim(key: *mut u64, held: u64) -> bool {
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: as the caller promises; keys are aligned.
        let key = unsafe { AtomicU64::from_ptr(key) };
        key.compare_exchange(held, BUSY, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        // The target has the instruction, but `core` does not offer it there.
        // SAFETY: as the caller promises; keys are aligned.
        let (_, is_ok) = unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(key, held, BUSY) };
        is_ok
    }
}

/// Least rank that gives way to a first packet.
const FIRST_PACKETS_LEAST: u64 = 1 << 17;

/// How readily a way gives its place up: its class, then its age.
#[inline(always)]
fn rank(key: u64, value: FlowValue, now: u16) -> u64 {
    if key == EMPTY {
        return u64::MAX;
    }
    if key == BUSY {
        return 0;
    }
    let age = value.age(now);
    let class = if is_over(value, now) {
        3
    } else if value.flags() != 0 {
        2
    } else {
        1
    };
    class << 16 | u64::from(age)
}

/// Whether a recorded flow is over.
#[inline(always)]
#[must_use]
pub fn is_over(value: FlowValue, now: u16) -> bool {
    let limit = if value.flags() & flags::CLOSING != 0 {
        CLOSED_SECONDS
    } else if value.flags() & flags::HALF_OPEN != 0 {
        HALF_OPEN_SECONDS
    } else {
        IDLE_SECONDS
    };
    value.age(now) > limit
}

/// The record of a flow after a further packet, and whether it differs enough
/// to be written.
#[inline(always)]
pub fn refreshed(value: FlowValue, is_closing: bool, now: u16, after: &mut FlowValue) -> bool {
    let new = if is_closing { flags::CLOSING } else { 0 };
    let kept = value.flags() & flags::CLOSING;
    *after = FlowValue::new(value.endpoint(), kept | new, value.service(), now);
    value.flags() != (kept | new) || value.age(now) >= REFRESH_SECONDS
}

#[cfg(test)]
mod tests;
