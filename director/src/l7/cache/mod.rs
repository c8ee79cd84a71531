//! Responses that are kept in memory, to answer without a server or in place of one.

mod budget;
mod entry;
mod store;

pub use store::ByteCache;
