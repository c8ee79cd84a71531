//! Access to the frame of an XDP context.

use core::mem::MaybeUninit;

use aya_ebpf::programs::XdpContext;
use director_ebpf::{abi::Plain, parse::Frame};

/// The frame of an XDP context. Pointers into it end with every
/// `bpf_xdp_adjust_head`, so nothing here hands any out for long.
pub struct XdpFrame<'a>(pub &'a XdpContext);

impl XdpFrame<'_> {
    /// Pointer to a `T` at `offset`, if the frame holds all of it.
    #[inline(always)]
    pub fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.0.data() + offset;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// Writes `value` at `offset`; false where the frame ends before.
    #[inline(always)]
    pub fn store<T: Plain>(&self, offset: usize, value: T) -> bool {
        match self.pointer::<T>(offset) {
            Some(pointer) => {
                // SAFETY: in bounds. BPF targets load and store at any
                // alignment, or the verifier refuses the program.
                unsafe { *pointer = value };
                true
            }
            None => false,
        }
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: as in `store`; a plain load, since one by bytes costs eight
        // instructions where one does.
        self.pointer::<T>(offset).map(|pointer| unsafe { *pointer })
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize, words: &mut MaybeUninit<[u32; N]>) -> bool {
        let Some(from) = self.pointer::<[u32; N]>(offset) else {
            return false;
        };
        let from = from.cast::<u32>();
        let to = words.as_mut_ptr().cast::<u32>();
        for index in 0..N {
            // SAFETY: in bounds, as `pointer` has compared. Volatile, or the
            // compiler makes a call to `memcpy` of it.
            unsafe { *to.add(index) = from.add(index).read_volatile() };
        }
        true
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
}
