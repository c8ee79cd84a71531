//! What is configured against what the maps in the kernel are sized for.

use super::{edge::EdgeDraft, service::ServiceDraft};
use crate::config::{place::Located, report::Report};

/// Reports what is too many, and tables too small for their endpoints.
pub(super) fn check(report: &mut Report<'_>, edge: &EdgeDraft, services: &[ServiceDraft<'_>]) {
    let Some(limits) = &edge.limits else { return };
    let count = |limit: &Option<Located<u32>>| {
        limit
            .as_ref()
            .map_or(usize::MAX, |limit| limit.value as usize)
    };
    let most = count(&limits.services);
    if let Some(extra) = services.get(most) {
        report.error(
            &extra.place,
            format!(
                "is one of {} services, and the limit is {most}",
                services.len()
            ),
            format!(
                "set services under [edge.limits] to {} or more",
                services.len()
            ),
        );
    }
    let most = count(&limits.endpoints);
    let endpoints = || {
        services
            .iter()
            .flat_map(|service| service.endpoints.iter().flatten())
    };
    if let Some(extra) = endpoints().nth(most) {
        let all = endpoints().count();
        report.error(
            &extra.place,
            format!("is one of {all} endpoints of all services, and the limit is {most}"),
            format!("set endpoints under [edge.limits] to {all} or more"),
        );
    }
    let Some(slots) = limits.table_size.as_ref() else {
        return;
    };
    for service in services {
        let endpoints = service.endpoints.as_ref().map_or(0, Vec::len);
        table_size(report, service, slots.value, endpoints);
    }
}

/// Shares are as coarse as slots: below a hundred for each endpoint, they are
/// more than 1 % off (Eisenbud et al., "Maglev", NSDI 2016, section 3.4).
fn table_size(report: &mut Report<'_>, service: &ServiceDraft<'_>, slots: u32, endpoints: usize) {
    let help = "use a larger table_size under [edge.limits], or fewer endpoints";
    if endpoints > slots as usize {
        report.error(
            &service.place,
            format!("has {endpoints} endpoints for a table of {slots} slots: some would get none"),
            help,
        );
    } else if endpoints * 100 > slots as usize {
        report.warning(
            &service.place,
            format!(
                "has {endpoints} endpoints for a table of {slots} slots: with fewer than 100 \
                 slots for each, shares are more than 1 % off"
            ),
            help,
        );
    }
}
