//! One slot of a service's table.

use super::Plain;

/// No endpoint: an empty slot.
pub const NO_ENDPOINT: u32 = 0;

/// A slot: the owner of new flows, and the owner of flows that were never
/// recorded because they began before the slot changed hands.
///
/// Eight bytes, so that one store replaces it as a whole: 24 bits each for the
/// two endpoint indices, and 16 bits of flags.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot(pub u64);

const INDEX: u64 = 0xff_ffff;
const TRACKED: u64 = 1 << 48;

impl Slot {
    /// Most endpoints that a slot can tell apart.
    pub const ENDPOINTS: u32 = INDEX as u32;

    /// A slot whose flows are recorded if `is_tracked`.
    #[must_use]
    pub const fn new(current: u32, base: u32, is_tracked: bool) -> Self {
        let flags = if is_tracked { TRACKED } else { 0 };
        Self((current as u64 & INDEX) | (base as u64 & INDEX) << 24 | flags)
    }

    /// Index of the endpoint that new flows go to.
    #[inline(always)]
    #[must_use]
    pub const fn current(self) -> u32 {
        (self.0 & INDEX) as u32
    }

    /// Index of the endpoint that has the flows which were never recorded.
    #[inline(always)]
    #[must_use]
    pub const fn base(self) -> u32 {
        (self.0 >> 24 & INDEX) as u32
    }

    /// Whether flows of this slot may be recorded, so that they are to be
    /// looked up.
    #[inline(always)]
    #[must_use]
    pub const fn is_tracked(self) -> bool {
        self.0 & TRACKED != 0
    }
}

// SAFETY: a transparent `u64`.
unsafe impl Plain for Slot {}
