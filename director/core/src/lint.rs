//! The rules that stand before every plan.
//!
//! They know nothing of how a plan came about, so they catch a wrong one
//! whatever produced it. A plan that breaks a rule is not applied; the one in
//! force stays.

use std::fmt;

use crate::{
    plan::{PlannedEndpoint, ServicePlan},
    table::TableSize,
};

/// A rule that a plan must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LintRule {
    /// A published service keeps an endpoint to steer to: the last healthy ones
    /// are never ejected, neither by probes nor by a drain.
    NoEndpointLeft,
    /// The table has as many slots as configured, unless there is nothing to
    /// steer to.
    TableIncomplete,
    /// Every slot points to an endpoint of the plan.
    SlotOutOfRange,
    /// Every slot points to an endpoint that is active and has a weight.
    SlotToIneligible,
    /// A plan is newer than the one in force.
    VersionNotNewer,
    /// An endpoint's slots are within 2 points of its share of the weights, or
    /// within one slot where tables are so small that a slot is more than that.
    ShareOffWeight,
}

impl fmt::Display for LintRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEndpointLeft => "no-endpoint-left",
            Self::TableIncomplete => "table-incomplete",
            Self::SlotOutOfRange => "slot-out-of-range",
            Self::SlotToIneligible => "slot-to-ineligible",
            Self::VersionNotNewer => "version-not-newer",
            Self::ShareOffWeight => "share-off-weight",
        })
    }
}

/// Why a plan was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Refusal {
    /// The rule it breaks.
    pub rule: LintRule,
    /// What is wrong, where, and what mends it.
    pub detail: String,
}

/// What a plan is held against.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The plan in force, if the service is published.
    pub applied: Option<&'a ServicePlan>,
    /// Slots that a table must have.
    pub table_size: TableSize,
}

/// A share may be off by one part in this many: 2 points.
const SHARE_TOLERANCE: u128 = 50;

/// Checks a plan that is proposed.
///
/// # Errors
/// The first rule that it breaks, in the order of [`LintRule`].
pub fn check(plan: &ServicePlan, context: Context<'_>) -> Result<(), Refusal> {
    no_endpoint_left(plan, context)?;
    table_complete(plan, context)?;
    slots_in_range(plan)?;
    slots_eligible(plan)?;
    version_newer(plan, context)?;
    shares_as_weighted(plan)
}

fn refuse(rule: LintRule, detail: String) -> Result<(), Refusal> {
    Err(Refusal { rule, detail })
}

fn no_endpoint_left(plan: &ServicePlan, context: Context<'_>) -> Result<(), Refusal> {
    let published = context.applied.is_some_and(|p| !p.table.is_empty());
    if published && !plan.endpoints.iter().any(PlannedEndpoint::is_eligible) {
        let detail = format!(
            "service {} would have no endpoint left of {}, so it keeps the table it has: \
             bring an endpoint back, or end a drain",
            plan.service,
            plan.endpoints.len()
        );
        return refuse(LintRule::NoEndpointLeft, detail);
    }
    Ok(())
}

fn table_complete(plan: &ServicePlan, context: Context<'_>) -> Result<(), Refusal> {
    let slots = plan.table.len();
    let size = context.table_size.get() as usize;
    let nothing_to_steer_to = !plan.endpoints.iter().any(PlannedEndpoint::is_eligible);
    if slots == size || (slots == 0 && nothing_to_steer_to) {
        return Ok(());
    }
    let detail = format!(
        "the table of service {} has {slots} slots instead of {size}, for {} endpoints; \
         a table can tell at most {} endpoints apart",
        plan.service,
        plan.endpoints.len(),
        u16::MAX
    );
    refuse(LintRule::TableIncomplete, detail)
}

fn slots_in_range(plan: &ServicePlan) -> Result<(), Refusal> {
    let outside = |owner: &u16| usize::from(*owner) >= plan.endpoints.len();
    match plan.table.iter().position(outside) {
        None => Ok(()),
        Some(slot) => refuse(
            LintRule::SlotOutOfRange,
            format!(
                "slot {slot} of service {} points to endpoint {} of {}",
                plan.service,
                plan.table[slot],
                plan.endpoints.len()
            ),
        ),
    }
}

fn slots_eligible(plan: &ServicePlan) -> Result<(), Refusal> {
    for (endpoint, slots) in plan.endpoints.iter().zip(plan.slots()) {
        if slots > 0 && !endpoint.is_eligible() {
            let detail = format!(
                "{slots} slots of service {} point to endpoint {}, which is {} with weight {}",
                plan.service, endpoint.name, endpoint.state, endpoint.weight
            );
            return refuse(LintRule::SlotToIneligible, detail);
        }
    }
    Ok(())
}

fn version_newer(plan: &ServicePlan, context: Context<'_>) -> Result<(), Refusal> {
    let in_force = context.applied.map_or(0, |applied| applied.version);
    if plan.version > in_force {
        return Ok(());
    }
    let detail = format!(
        "version {} of service {} is not newer than version {in_force}, which is in force",
        plan.version, plan.service
    );
    refuse(LintRule::VersionNotNewer, detail)
}

fn shares_as_weighted(plan: &ServicePlan) -> Result<(), Refusal> {
    if plan.table.is_empty() {
        return Ok(());
    }
    let size = plan.table.len() as u128;
    let eligible = || plan.endpoints.iter().filter(|e| e.is_eligible());
    let total: u128 = eligible().map(|e| u128::from(e.weight)).sum();
    let tolerance = (size * total / SHARE_TOLERANCE).max(total);
    for (endpoint, slots) in plan.endpoints.iter().zip(plan.slots()) {
        let weight = if endpoint.is_eligible() {
            endpoint.weight
        } else {
            0
        };
        // slots / size against weight / total, without division.
        let has = u128::from(slots) * total;
        let wants = u128::from(weight) * size;
        if has.abs_diff(wants) > tolerance {
            let detail = format!(
                "endpoint {} of service {} has {slots} of {size} slots, but a weight of {weight} of {total}",
                endpoint.name, plan.service
            );
            return refuse(LintRule::ShareOffWeight, detail);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{EndpointState, fixture, table};

    fn size() -> TableSize {
        fixture::table_size(101)
    }

    /// Two active endpoints of weights 2 and 1, one draining, one dead.
    fn good() -> ServicePlan {
        let mut endpoints = vec![
            fixture::planned("a", 2),
            fixture::planned("b", 1),
            fixture::planned("c", 0),
            fixture::planned("d", 0),
        ];
        endpoints[2].state = EndpointState::Draining;
        endpoints[3].state = EndpointState::Dead;
        ServicePlan {
            service: "web".into(),
            version: 2,
            table: table::build(&endpoints, size()),
            endpoints,
        }
    }

    fn applied() -> ServicePlan {
        ServicePlan {
            version: 1,
            ..good()
        }
    }

    fn broken(plan: &ServicePlan, applied: Option<&ServicePlan>) -> Option<LintRule> {
        let context = Context {
            applied,
            table_size: size(),
        };
        check(plan, context).err().map(|refusal| {
            assert!(
                refusal.detail.contains("web"),
                "{refusal} names the service"
            );
            refusal.rule
        })
    }

    fn with_slots(edit: impl FnOnce(&mut [u16])) -> ServicePlan {
        let plan = good();
        let mut table = plan.table.to_vec();
        edit(&mut table);
        ServicePlan {
            table: table.into(),
            ..plan
        }
    }

    #[test]
    fn a_good_plan_passes_first_and_later() {
        assert_eq!(broken(&good(), None), None);
        assert_eq!(broken(&good(), Some(&applied())), None);
    }

    #[test]
    fn a_published_service_is_never_left_without_an_endpoint() {
        let mut plan = good();
        plan.endpoints[0].state = EndpointState::Dead;
        plan.endpoints[1].weight = 0;
        plan.table = Arc::from([]);
        assert_eq!(
            broken(&plan, Some(&applied())),
            Some(LintRule::NoEndpointLeft)
        );
        assert_eq!(broken(&plan, None), None, "nothing was published");
        plan.endpoints.clear();
        assert_eq!(
            broken(&plan, Some(&applied())),
            Some(LintRule::NoEndpointLeft)
        );
    }

    #[test]
    fn a_service_without_endpoints_has_plans_without_a_table() {
        let empty = |version| ServicePlan {
            service: "web".into(),
            version,
            endpoints: Vec::new(),
            table: Arc::from([]),
        };
        assert_eq!(broken(&empty(1), None), None);
        assert_eq!(broken(&empty(2), Some(&empty(1))), None);
    }

    #[test]
    fn tables_are_complete_or_there_is_nothing_to_steer_to() {
        let short = ServicePlan {
            table: good().table[1..].into(),
            ..good()
        };
        assert_eq!(broken(&short, None), Some(LintRule::TableIncomplete));
        let missing = ServicePlan {
            table: Arc::from([]),
            ..good()
        };
        assert_eq!(broken(&missing, None), Some(LintRule::TableIncomplete));
        assert_eq!(
            broken(&missing, Some(&applied())),
            Some(LintRule::TableIncomplete)
        );
    }

    #[test]
    fn slots_point_to_endpoints_of_the_plan() {
        let plan = with_slots(|table| table[7] = 4);
        assert_eq!(broken(&plan, None), Some(LintRule::SlotOutOfRange));
    }

    #[test]
    fn slots_point_to_active_endpoints_with_a_weight() {
        for ineligible in [2, 3] {
            let plan = with_slots(|table| table[7] = ineligible);
            assert_eq!(broken(&plan, None), Some(LintRule::SlotToIneligible));
        }
        let mut plan = good();
        plan.endpoints[0].weight = 0;
        assert_eq!(broken(&plan, None), Some(LintRule::SlotToIneligible));
    }

    #[test]
    fn versions_rise() {
        for version in [2, 3] {
            let applied = ServicePlan { version, ..good() };
            assert_eq!(
                broken(&good(), Some(&applied)),
                Some(LintRule::VersionNotNewer)
            );
        }
        let unversioned = ServicePlan {
            version: 0,
            ..good()
        };
        assert_eq!(broken(&unversioned, None), Some(LintRule::VersionNotNewer));
    }

    #[test]
    fn shares_may_be_two_points_off_and_no_more() {
        // 101 slots: 67 and 34 of 67.3 and 33.7. So b, two slots short, is 1.7
        // points off, and three slots short 2.6.
        for (stolen, verdict) in [(2, None), (3, Some(LintRule::ShareOffWeight))] {
            let plan = with_slots(|table| {
                let of_b = table.iter_mut().filter(|slot| **slot == 1);
                of_b.take(stolen).for_each(|slot| *slot = 0);
            });
            assert_eq!(broken(&plan, None), verdict, "{stolen} slots moved");
        }
        let starved = with_slots(|table| table.fill(0));
        assert_eq!(broken(&starved, None), Some(LintRule::ShareOffWeight));
    }

    #[test]
    fn in_the_smallest_tables_one_slot_is_the_tolerance() {
        let endpoints: Vec<_> = ["a", "b", "c"].map(|name| fixture::planned(name, 1)).into();
        let table_size = fixture::table_size(2);
        let plan = ServicePlan {
            service: "web".into(),
            version: 1,
            table: table::build(&endpoints, table_size),
            endpoints,
        };
        assert_eq!(
            check(
                &plan,
                Context {
                    applied: None,
                    table_size
                }
            ),
            Ok(())
        );
    }
}
