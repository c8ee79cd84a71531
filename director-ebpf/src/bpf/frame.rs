//! Access to the frame of an XDP context.

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
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
}
