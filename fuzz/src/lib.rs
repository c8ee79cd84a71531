//! What holds for any packet, any sequence of them, any configuration and any
//! capture. `cargo xtask fuzz` searches for bytes for which it does not; the
//! tests here try those that were found of use before.
//!
//! A target panics where its property fails.
#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

mod answer;
mod capture;
mod config;
mod packet;
mod proxy_protocol;
mod steer;

/// A property of any bytes.
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "packet",
        check: packet::check,
    },
    Target {
        name: "answer",
        check: answer::check,
    },
    Target {
        name: "steer",
        check: steer::check,
    },
    Target {
        name: "config",
        check: config::check,
    },
    Target {
        name: "capture",
        check: capture::check,
    },
    Target {
        name: "proxy_protocol",
        check: proxy_protocol::check,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
