//! director: a traffic director and edge proxy for services on several sites.
//!
//! The library is what the `director` program is made of; benchmarks and tests
//! use it too. See ARCHITECTURE.md for the rooms and who may enter which.

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod handover;
pub mod l7;
pub mod metrics;
pub mod net;
pub mod privilege;
pub mod probes;
pub mod proxy_protocol;
pub mod render;
pub mod simulate;
pub mod tls;
