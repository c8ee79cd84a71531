//! What the edge proxy decides: where a request goes, whether it may be sent, and
//! what is made of its failure. The proxy itself, with its sockets, is in
//! `director`.

pub mod model;

pub use model::*;
