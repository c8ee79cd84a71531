//! Plans, held against the rules by other means than the core's own lint.

use director_core::{EndpointState, ServicePlan};

use super::Violation;
use crate::{ensure, oracle::Oracle};

/// A share may be off by this much, or by a slot.
const TOLERANCE: f64 = 0.02;

/// Checks a plan that is new. `is_told_otherwise`: what is told beside it is new.
pub fn check(
    plan: &ServicePlan,
    before: Option<&ServicePlan>,
    is_told_otherwise: bool,
    table_size: u32,
    oracle: &Oracle,
) -> Result<(), Violation> {
    let name = &plan.service;
    let version = before.map_or(0, |p| p.version) + 1;
    ensure!(
        plan.version == version,
        "{name} has version {} after {version}",
        plan.version
    );
    if let Some(before) = before {
        ensure!(
            is_told_otherwise || plan.endpoints != before.endpoints || plan.table != before.table,
            "the plan of {name} did not change"
        );
    }
    let slots = match oracle.is_proxy(name) {
        true => 0,
        false => table_size as usize,
    };
    ensure!(
        plan.table.len() == slots,
        "the table of {name} has {} slots",
        plan.table.len()
    );
    let total: f64 = oracle
        .of_service(name)
        .filter(|(_, m)| oracle.state(m) == EndpointState::Active)
        .map(|(_, m)| m.weight)
        .sum();
    let mut slots = vec![0.0; plan.endpoints.len()];
    for &owner in plan.table.iter() {
        let Some(count) = slots.get_mut(usize::from(owner)) else {
            return Err(format!("a slot of {name} points to endpoint {owner}"));
        };
        *count += 1.0;
    }
    for (endpoint, slots) in plan.endpoints.iter().zip(slots) {
        let is_eligible = endpoint.state == EndpointState::Active && endpoint.weight > 0;
        ensure!(
            is_eligible || slots == 0.0,
            "{} of {name} is {} and has {slots} slots",
            endpoint.name,
            endpoint.state
        );
        let member = oracle
            .of_service(name)
            .find(|(key, _)| key.endpoint == endpoint.name);
        let weight = member.map_or(0.0, |(_, member)| member.weight);
        let wants = if is_eligible { weight / total } else { 0.0 };
        let has = slots / f64::from(table_size);
        let tolerance = TOLERANCE.max(1.0 / f64::from(table_size));
        ensure!(
            (wants - has).abs() <= tolerance,
            "{} of {name} has a share of {has} instead of {wants}",
            endpoint.name
        );
    }
    Ok(())
}

/// Checks that the plan in force holds the endpoints of the model, each in the
/// state it is in by now. So nothing that is down or drained has a slot.
pub fn check_current(plan: &ServicePlan, oracle: &Oracle) -> Result<(), Violation> {
    let name = &plan.service;
    // By name, like the plan.
    let mut planned = plan.endpoints.iter();
    for (key, member) in oracle.of_service(name) {
        let Some(endpoint) = planned.next() else {
            return Err(format!("{key} is not in the plan"));
        };
        let is = (
            &endpoint.name,
            &endpoint.site,
            endpoint.address,
            endpoint.port,
        );
        let should = (&key.endpoint, &member.site, member.address, member.port);
        ensure!(is == should, "the plan has {is:?} instead of {should:?}");
        let state = oracle.state(member);
        ensure!(
            endpoint.state == state,
            "{key} is {} in the plan instead of {state}",
            endpoint.state
        );
    }
    ensure!(
        planned.next().is_none(),
        "the plan of {name} holds what is not in the model"
    );
    Ok(())
}
