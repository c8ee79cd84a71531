//! What goes into [`Core`](crate::Core), and what comes out.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    Now,
    health::{Cause, Failure, Pace, Verdict},
    lint::LintRule,
    model::{EndpointRef, Model},
    plan::{EndpointState, ServicePlan},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The configuration, at the start and at every reload.
    ///
    /// An endpoint of the same service and name, address and port keeps its
    /// verdict. Where its probe changed, that verdict stands until outcomes of
    /// the new probe say otherwise, as one adopted from the kernel does.
    /// Drains are kept by name.
    ///
    /// Probers are to follow the model before the commands are carried out, and
    /// are taken to be at [`Pace::Normal`] then: a fast pace is told again.
    Model(Model),
    /// What the kernel held when the process started: once, before or after
    /// the first [`Event::Model`]. The plans that follow hold the same, so that
    /// a restart moves no flow, until probes contradict it.
    ///
    /// An endpoint that was draining counts as drained by an operator, unless
    /// its weight or a drain of its site explains it; an undrain of either the
    /// endpoint or its site ends that. The kernel does not tell of the drain of
    /// a dead endpoint. Where drains are kept elsewhere, send them as
    /// [`Event::Drain`] after the model.
    Adopted(Vec<Adopted>),
    /// A probe has ended. One of an endpoint that is not in the model is ignored.
    Probe {
        /// Whom it asked.
        endpoint: EndpointRef,
        /// How long the answer took, or why there was none.
        outcome: Result<Duration, Failure>,
    },
    /// An operator takes a site or an endpoint out of service, or back in.
    Drain {
        /// What is meant.
        target: Target,
        /// Whether it is to drain.
        on: bool,
    },
}

/// An endpoint that the kernel held when the process started.
///
/// Matched to the model by service, address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Name of the service.
    pub service: Arc<str>,
    /// Address of the server.
    pub address: IpAddr,
    /// Port of the server.
    pub port: u16,
    /// State that the kernel had it in.
    pub state: EndpointState,
}

/// What an operator can drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A site with all of its endpoints.
    Site(Arc<str>),
    /// One endpoint of one service.
    Endpoint(EndpointRef),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(name) => f.write_str(name),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
        }
    }
}

/// Something to be done by the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Bring the kernel to this plan, and to the service's steering and server
    /// IDs as the model has them. Only said when one of them changed.
    Apply(ServicePlan),
    /// Take this service out of the kernel.
    ///
    /// It left the model. Or its address, port, protocol or mode changed: then
    /// [`Command::Apply`] follows once it can be published anew.
    Remove {
        /// Name of the service.
        service: Arc<str>,
    },
    /// Probe this endpoint at another pace from now on.
    Pace {
        /// Whose prober is meant.
        endpoint: EndpointRef,
        /// The new pace.
        pace: Pace,
    },
    /// Something to tell people: logs, metrics, events.
    Notice(Notice),
}

/// Something that people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The verdict of an endpoint changed.
    Endpoint {
        /// Whose.
        endpoint: EndpointRef,
        /// The site it stands in.
        site: Arc<str>,
        /// The verdict until now.
        from: Verdict,
        /// The verdict from now on.
        to: Verdict,
        /// What changed it.
        cause: Cause,
        /// When.
        now: Now,
    },
    /// The verdict of a site changed.
    Site {
        /// Whose.
        site: Arc<str>,
        /// The verdict until now.
        from: Verdict,
        /// The verdict from now on.
        to: Verdict,
        /// When.
        now: Now,
    },
    /// A plan was refused; the one applied before it stays in force. Said when
    /// a service begins to be held, and again only if the rule changes.
    Refused {
        /// Name of the service.
        service: Arc<str>,
        /// The rule that the plan would break.
        rule: LintRule,
        /// What is wrong and what mends it.
        detail: String,
    },
    /// A service that was held is held no more.
    Resumed {
        /// Name of the service.
        service: Arc<str>,
    },
    /// A drain names something that is not in the model; nothing was done.
    UnknownTarget {
        /// What was named.
        target: Target,
    },
}
