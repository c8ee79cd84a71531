//! The kernel half of director, as far as it can also run elsewhere.
//!
//! [`abi`] defines the BPF map keys and values that both halves share.
//! [`parse`], [`steer`] and [`rewrite`] are the packet path without its
//! kernel calls: the XDP programs (`src/bpf`) run them on frames and BPF maps,
//! the daemon's `explain` on maps read from user space, tests on slices.
#![cfg_attr(not(test), no_std)]
// For the compare-and-swap of `flows`.
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features)
)]

pub mod abi;
pub mod bench;
pub mod cause;
pub mod flows;
pub mod parse;
pub mod ports;
pub mod quic;
pub mod rewrite;
pub mod scratch;
pub mod steer;
pub mod synack;
