//! What the edge proxy decides: where a request goes, whether it may be sent, and
//! what is made of its failure. The proxy itself, with its sockets, is in
//! `director`.

pub mod adaptive;
pub mod breakers;
pub mod budget;
pub mod load;
pub mod model;
pub mod pick;
pub mod rate;
pub mod route;
pub mod shed;

pub use self::{
    adaptive::{AdaptiveLimit, Admitted},
    breakers::{BreakerId, BreakerStatus, Breakers, Change, Changes, Permits, Refused},
    budget::RetryBudget,
    load::{EndpointLoad, InFlight, Latency},
    model::*,
    pick::{Pool, SiteIndex},
    rate::RateLimiter,
    route::{CompiledRewrite, RequestView, RewriteError, RouteError, Router},
    shed::Limit,
};
