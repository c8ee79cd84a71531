//! What the edge proxy decides: where a request goes, whether it may be sent, and
//! what is made of its failure. The proxy itself, with its sockets, is in
//! `director`.

pub mod model;
pub mod route;

pub use self::{
    model::*,
    route::{CompiledRewrite, RequestView, RewriteError, RouteError, Router},
};
