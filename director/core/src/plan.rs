//! What the kernel should hold for a service.

use std::{fmt, net::IpAddr, sync::Arc};

/// The complete desired state of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Name of the service.
    pub service: Arc<str>,
    /// 1 for the first plan of a service, one more for each after it.
    pub version: u64,
    /// Every configured endpoint, sorted by name, address and port: the same
    /// on every edge, whatever the order in its configuration.
    pub endpoints: Vec<PlannedEndpoint>,
    /// Slot to index into `endpoints`. As long as the table size; or empty where
    /// there is nothing to steer to, as in [`Mode::Proxy`](crate::Mode::Proxy).
    pub table: Arc<[u16]>,
}

impl ServicePlan {
    /// The same with nothing to steer to.
    #[must_use]
    pub fn without_endpoints(&self) -> Self {
        Self {
            service: self.service.clone(),
            version: self.version,
            endpoints: Vec::new(),
            table: Arc::default(),
        }
    }

    /// Slots of the table that each endpoint holds, in the order of `endpoints`.
    ///
    /// A slot that points outside of `endpoints` counts for none of them.
    #[must_use]
    pub fn slots(&self) -> Vec<u32> {
        let mut slots = vec![0; self.endpoints.len()];
        for &owner in self.table.iter() {
            if let Some(count) = slots.get_mut(usize::from(owner)) {
                *count += 1;
            }
        }
        slots
    }
}

/// One endpoint within a [`ServicePlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedEndpoint {
    /// Unique within the service.
    pub name: Arc<str>,
    /// Name of the site it stands in.
    pub site: Arc<str>,
    /// Address of the server.
    pub address: IpAddr,
    /// Port that the server listens on.
    pub port: u16,
    /// What the kernel is told about it.
    pub state: EndpointState,
    /// Effective weight, see [`crate::weights`]; 0 unless `state` is active.
    pub weight: u64,
}

impl PlannedEndpoint {
    /// Whether it may hold slots of the table.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.state == EndpointState::Active && self.weight > 0
    }
}

/// How the kernel treats an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// Takes the new flows of its slots.
    Active,
    /// Takes no new flow; flows that are recorded stay.
    Draining,
    /// Takes nothing; flows that are recorded are steered anew.
    Dead,
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Dead => "dead",
        })
    }
}
