//! Packets through the real XDP program, by `BPF_PROG_TEST_RUN`: what goes in,
//! the verdict, and what comes out, read by an independent parser.
//!
//! `DIRECTOR_BPF_OBJECT` names another object than the embedded one to test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod audit;
mod chain;
mod cookies;
mod edge;
mod frames;
mod nat;
mod quic;
mod refused;
mod tunnel;
