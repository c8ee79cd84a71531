//! The edge proxy.

pub mod guard;
