//! `director simulate`, run as a program: captures in, captures and lines out.
//! What becomes of single packets is the packet tests' affair.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod captures;
mod command;
mod files;
#[allow(dead_code, reason = "the packet tests use the rest")]
#[path = "../packets/frames.rs"]
mod frames;
mod packets;
