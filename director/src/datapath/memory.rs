//! BPF array maps as memory.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use director_ebpf::abi::Plain;
use memmap2::{MmapOptions, MmapRaw};

/// The kernel lays array values out at multiples of this.
const ALIGNMENT: usize = 8;

/// A `BPF_F_MMAPABLE` array of `T`, read and written without system calls.
pub struct Shared<T> {
    memory: MmapRaw,
    length: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Shared<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(ALIGNMENT);

    /// Maps `map` into memory.
    ///
    /// # Errors
    /// When it is not an array of such values, or cannot be mapped.
    pub fn new(map: &MapData) -> Result<Self> {
        let info = map.info()?;
        ensure!(
            info.value_size() as usize == size_of::<T>(),
            "values of {} bytes, not {}",
            info.value_size(),
            size_of::<T>()
        );
        let length = info.max_entries() as usize;
        let memory = MmapOptions::new()
            .len(length * Self::STRIDE)
            .map_raw(map.fd().as_fd().as_raw_fd())
            .context("mapping it into memory")?;
        Ok(Self {
            memory,
            length,
            values: PhantomData,
        })
    }

    /// Values in the array.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Where a value lies. The kernel may write it at any time, so it is to be
    /// read and written by volatile or atomic accesses only. It is live as long
    /// as `self`, and aligned to eight bytes.
    pub fn pointer(&self, index: usize) -> *mut T {
        assert!(index < self.length, "value {index} of {}", self.length);
        self.memory
            .as_mut_ptr()
            .wrapping_add(index * Self::STRIDE)
            .cast()
    }
}

/// A word that is read and written as a whole.
pub trait Word: Plain {
    /// Reads it; what was written before it was stored is seen.
    ///
    /// # Safety
    /// `at` points to a live, aligned word that is only accessed atomically.
    unsafe fn load(at: *mut Self) -> Self;
    /// Writes it after all that was written before.
    ///
    /// # Safety
    /// As [`Word::load`].
    unsafe fn store(at: *mut Self, value: Self);
}

impl Word for u32 {
    unsafe fn load(at: *mut Self) -> Self {
        // SAFETY: as the caller promises.
        unsafe { AtomicU32::from_ptr(at) }.load(Ordering::Acquire)
    }
    unsafe fn store(at: *mut Self, value: Self) {
        // SAFETY: as the caller promises.
        unsafe { AtomicU32::from_ptr(at) }.store(value, Ordering::Release);
    }
}

impl Word for u64 {
    unsafe fn load(at: *mut Self) -> Self {
        // SAFETY: as the caller promises.
        unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Acquire)
    }
    unsafe fn store(at: *mut Self, value: Self) {
        // SAFETY: as the caller promises.
        unsafe { AtomicU64::from_ptr(at) }.store(value, Ordering::Release);
    }
}

impl<T: Word> Shared<T> {
    /// Reads a word.
    pub fn get(&self, index: usize) -> T {
        // SAFETY: `pointer` gives a live, aligned one; others (the kernel,
        // another mapping of the same map) access it as a whole.
        unsafe { T::load(self.pointer(index)) }
    }

    /// Writes a word after all that was written before.
    pub fn set(&self, index: usize, value: T) {
        // SAFETY: as in `get`.
        unsafe { T::store(self.pointer(index), value) }
    }

    /// Reads `count` words from `start`.
    pub fn read(&self, start: usize, count: usize) -> Vec<T> {
        (start..start + count)
            .map(|index| self.get(index))
            .collect()
    }

    /// Writes `values` from `start`.
    pub fn write(&self, start: usize, values: impl IntoIterator<Item = T>) {
        for (offset, value) in values.into_iter().enumerate() {
            self.set(start + offset, value);
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
