//! Packets through the real XDP program, by `BPF_PROG_TEST_RUN`: what goes in,
//! the verdict, and what comes out, read by an independent parser.
//!
//! `DIRECTOR_BPF_OBJECT` names another object than the embedded one to test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod audit;
mod chain;
mod consistency;
mod cookies;
mod decap;
mod edge;
mod errors;
mod flood;
mod flows;
mod frames;
mod icmp;
mod live;
mod memory;
mod messages;
mod modes;
mod mss;
mod nat;
mod quic;
mod refused;
mod reset;
mod scale;
mod sources;
mod stack;
mod tunnel;
mod verifier;
