//! A BPF array map of `u32` as memory.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use memmap2::{MmapOptions, MmapRaw};

/// The kernel lays array values out at multiples of this.
const STRIDE: usize = 8;

/// A `BPF_F_MMAPABLE` array of `u32`, read and written without system calls.
pub struct Words {
    memory: MmapRaw,
    length: usize,
}

impl Words {
    /// Maps `map` into memory.
    ///
    /// # Errors
    /// When it is not an array of four-byte values, or cannot be mapped.
    pub fn new(map: &MapData) -> Result<Self> {
        let info = map.info()?;
        ensure!(
            info.value_size() == 4,
            "values of {} bytes, not 4",
            info.value_size()
        );
        let length = info.max_entries() as usize;
        let memory = MmapOptions::new()
            .len(length * STRIDE)
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("mapping it into memory")?;
        Ok(Self { memory, length })
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.length, "word {index} of {}", self.length);
        // SAFETY: in bounds of the mapping, which lives as long as `self`, and
        // aligned, as a mapping starts on a page. Others (the kernel, another
        // mapping of the same map) may write at any time, hence atomics.
        unsafe {
            &*self
                .memory
                .as_mut_ptr()
                .add(index * STRIDE)
                .cast::<AtomicU32>()
        }
    }

    /// Reads a word; what was written before it was stored is seen.
    pub fn get(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word after all that was written before.
    pub fn set(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Reads `count` words from `start`.
    pub fn read(&self, start: usize, count: usize) -> Vec<u32> {
        (start..start + count)
            .map(|index| self.get(index))
            .collect()
    }

    /// Writes `values` from `start`.
    pub fn write(&self, start: usize, values: &[u32]) {
        for (offset, value) in values.iter().enumerate() {
            self.word(start + offset).store(*value, Ordering::Relaxed);
        }
    }
}

/// Waits until no XDP program that started before this call still runs: they
/// are RCU readers, and `membarrier(2)` waits for all of them.
pub fn wait_for_readers() {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer != 0 {
        // Not there with nohz_full CPUs. Programs run for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
