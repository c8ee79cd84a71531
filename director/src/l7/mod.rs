//! The edge proxy: services that are spoken to in HTTP.

pub mod cache;
pub mod mcp;
pub mod seal;
