//! Memory that the kernel's verifier does not look into.
//!
//! The verifier follows every path, and tells two states apart by what it knows
//! of their registers and stack. What a loop found in which of eight ways would
//! multiply the paths of all that follows. Kept here, in a map's value in the
//! kernel, it is unknown again when it is read back, and the paths join. All
//! accesses are volatile, lest the compiler keeps values in registers.

use crate::{
    abi::{
        Plain,
        flow::{FlowValue, WAYS},
    },
    steer::Pick,
};

/// A cell that is written and read as it stands.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell<T>(T);

impl<T: Copy> Cell<T> {
    #[inline(always)]
    pub fn set(&mut self, value: T) {
        // SAFETY: a live reference.
        unsafe { core::ptr::from_mut(&mut self.0).write_volatile(value) }
    }

    #[inline(always)]
    pub fn get(&self) -> T {
        // SAFETY: a live reference.
        unsafe { core::ptr::from_ref(&self.0).read_volatile() }
    }
}

/// What steering finds on its way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Scratch {
    pub pick: Pick,
    /// Way of a bucket.
    pub way: Cell<u64>,
    /// Key that it held.
    pub held: Cell<u64>,
    pub value: Cell<u64>,
    /// The best of the ways so far: its rank, or how many there are.
    pub best: Cell<u64>,
    /// A second choice.
    pub other_way: Cell<u64>,
    pub other_held: Cell<u64>,
    /// Bucket that the choice is in.
    pub bucket: Cell<u64>,
    pub port: Cell<u64>,
    /// Where in the frame a loop is, and its sum so far.
    pub offset: Cell<u64>,
    pub sum: Cell<u64>,
    /// Largest IP packet that would have fit (see [`Cause::TooBigTold`]).
    ///
    /// [`Cause::TooBigTold`]: crate::cause::Cause::TooBigTold
    pub mtu: Cell<u64>,
    /// Index of the service, for the slow path.
    pub service: Cell<u64>,
    /// What a helper of the kernel reads: a flow, or a TCP header.
    pub words: [u32; 16],
}

impl Scratch {
    #[inline(always)]
    #[must_use]
    pub fn picked(&self) -> Pick {
        // SAFETY: a live reference.
        unsafe { core::ptr::from_ref(&self.pick).read_volatile() }
    }

    /// Whether a loop found a way; and which, within a bucket in any case. The
    /// number is read anew, and so the bound stays in the program: kernels before
    /// 6.8 forget what a comparison said of a number that waits on the stack.
    #[inline(always)]
    #[must_use]
    pub fn found_way(&self) -> (bool, usize) {
        let is_found = self.way.get() < WAYS as u64;
        (is_found, self.way.get() as usize & (WAYS - 1))
    }

    #[inline(always)]
    #[must_use]
    pub fn found(&self) -> FlowValue {
        FlowValue(self.value.get())
    }
}

// SAFETY: `repr(C)`, integers only, no padding, as the assert shows.
unsafe impl Plain for Scratch {}
const _: () = assert!(size_of::<Scratch>() == 16 + 12 * 8 + 4 * 16);
