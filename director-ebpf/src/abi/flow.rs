//! `FLOWS4` and `FLOWS6`: which endpoint a recorded flow belongs to.
//!
//! An array of buckets rather than the kernel's LRU hash: a look-up costs one
//! or two adjacent cache lines, recording a flow costs no more than finding it,
//! nothing is locked, and what gives way is decided here, within the bucket
//! (see [`crate::flows`]). The daemon maps the memory, and so lists and sweeps
//! flows without system calls.

use super::Plain;

/// Ways of a bucket.
pub const WAYS: usize = 8;
/// Services that a record can tell apart.
pub const SERVICES: u32 = 1 << 16;

/// Key of an empty way.
pub const EMPTY: u64 = 0;
/// Key of a way that is being written.
pub const BUSY: u64 = 1;

/// Value of `FLOWS4`. Two cache lines, the first of which is filled first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket4 {
    /// Key (source address, source port and destination port) and
    /// [`FlowValue`].
    pub ways: [[u64; 2]; WAYS],
}

/// Value of `FLOWS6`. Four cache lines, of which a hit mostly reads two.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket6 {
    /// Key (a digest of the source address, the source port and the
    /// destination port) and [`FlowValue`].
    pub ways: [[u64; 2]; WAYS],
    pub sources: [[u32; 4]; WAYS],
}

/// What is recorded of a flow: endpoint (24 bits), [`flags`] (8), service (16)
/// and the second it was last seen in (16, modulo 65,536).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue(pub u64);

/// Bits of a record.
pub mod flags {
    /// Only its first packet was seen.
    pub const HALF_OPEN: u8 = 1;
    /// The client has sent FIN or RST.
    pub const CLOSING: u8 = 2;
}

impl FlowValue {
    #[inline(always)]
    #[must_use]
    pub const fn new(endpoint: u32, flags: u8, service: u32, now: u16) -> Self {
        Self(
            (endpoint & 0xff_ffff) as u64
                | (flags as u64) << 24
                | (service as u64 & 0xffff) << 32
                | (now as u64) << 48,
        )
    }

    /// Index of the endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn endpoint(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }

    /// Bits of [`flags`].
    #[inline(always)]
    #[must_use]
    pub const fn flags(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Index of the service.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u32 {
        (self.0 >> 32) as u32 & 0xffff
    }

    /// Second it was last seen in.
    #[inline(always)]
    #[must_use]
    pub const fn seen(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Seconds since it was last seen.
    #[inline(always)]
    #[must_use]
    pub const fn age(self, now: u16) -> u16 {
        now.wrapping_sub(self.seen())
    }
}

// SAFETY: `repr(C)`, integers only, no padding, as the asserts show.
unsafe impl Plain for Bucket4 {}
// SAFETY: as above.
unsafe impl Plain for Bucket6 {}
const _: () = {
    assert!(size_of::<Bucket4>() == 128);
    assert!(size_of::<Bucket6>() == 256);
};
