//! The status, held against everything that was told before.

use director_core::{EndpointRef, EndpointState, Pace, ServiceStatus, Status};

use super::{Checker, Violation};
use crate::ensure;

impl Checker {
    pub(super) fn check_status(&self, status: &Status) -> Result<(), Violation> {
        let model = &self.oracle.model;
        let order = status.services.iter().map(|s| &s.name);
        ensure!(
            order.eq(model.services.iter().map(|s| &s.name)),
            "services are out of order"
        );
        let order = status.sites.iter().map(|s| &s.name);
        ensure!(
            order.eq(model.sites.iter().map(|s| &s.name)),
            "sites are out of order"
        );
        for site in &status.sites {
            let name = &site.name;
            ensure!(
                site.verdict == self.oracle.site_verdict(name),
                "status of {name} is off"
            );
            ensure!(
                site.draining == self.oracle.drained_sites.contains(name),
                "drain of {name} is off"
            );
        }
        status
            .services
            .iter()
            .try_for_each(|service| self.check_service(service))
    }

    fn check_service(&self, service: &ServiceStatus) -> Result<(), Violation> {
        let name = &service.name;
        let applied = self.applied.get(name);
        ensure!(
            service.published == applied.is_some(),
            "{name} is not as published"
        );
        ensure!(
            service.version == applied.map_or(0, |p| p.version),
            "version of {name} is off"
        );
        ensure!(
            service.held.is_some() == self.held.contains(name),
            "hold of {name} is off"
        );
        let slots = applied.map_or(Vec::new(), |plan| plan.slots());
        for endpoint in &service.endpoints {
            let key = EndpointRef {
                service: name.clone(),
                endpoint: endpoint.name.clone(),
            };
            let Some(member) = self.oracle.members.get(&key) else {
                return Err(format!("{key} is in the status only"));
            };
            let is = self.oracle.verdict(member);
            ensure!(
                endpoint.verdict == is,
                "{key} is {is} and not {}",
                endpoint.verdict
            );
            let (row_ok, row_bad) = (endpoint.successes, endpoint.failures);
            ensure!(row_ok == 0 || row_bad == 0, "{key} has rows of both kinds");
            ensure!(
                member.wanted_pace() == Pace::Fast || row_ok + row_bad > 0,
                "{key} is not in doubt, yet has no outcome"
            );
            let planned = applied.and_then(|plan| {
                let index = plan
                    .endpoints
                    .iter()
                    .position(|e| e.name == endpoint.name)?;
                Some((&plan.endpoints[index], slots[index], plan.table.len()))
            });
            let share = planned.map_or(0.0, |(_, slots, of)| f64::from(slots) / of as f64);
            ensure!(
                (endpoint.share - share).abs() < 1e-9,
                "share of {key} is off"
            );
            let is_active = planned.is_some_and(|(e, ..)| e.state == EndpointState::Active);
            ensure!(
                (endpoint.effective_weight > 0) == is_active,
                "weight of {key} is off"
            );
        }
        ensure!(
            service.endpoints.len() == self.oracle.of_service(name).count(),
            "the status of {name} is not complete"
        );
        let sum: f64 = service.sites.iter().map(|s| s.effective).sum();
        let whole = f64::from(u8::from(!self.oracle.is_proxy(name)));
        ensure!(
            applied.is_none() || self.stale.contains(name) || (sum - whole).abs() < 1e-9,
            "shares of {name} come to {sum}"
        );
        Ok(())
    }
}
