//! Checkers that cannot fail check nothing: here each is made to.

#![allow(clippy::unwrap_used, reason = "a poisoned lock fails the test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use director_core::{
    Cause, Command, EndpointState, Notice, PlannedEndpoint, ServicePlan, Status, Verdict,
};

use crate::run_seed;

/// A change to something before it is checked.
type Edit<T> = Arc<dyn Fn(&mut T) + Send + Sync>;

/// How a run differs from a sound one.
#[derive(Clone, Default)]
pub struct Sabotage {
    /// Added to every interval of the prober.
    pub prober_lag: Duration,
    /// What the core said.
    pub commands: Option<Edit<Vec<Command>>>,
    /// What the core says of itself.
    pub status: Option<Edit<Status>>,
    /// What the kernel held before a restart.
    pub kernel: Option<Edit<ServicePlan>>,
}

/// Asserts that some seed fails, and fails over this.
fn assert_noticed(sabotage: &Sabotage, complaint: &str) {
    // One after the other, so that it is the same seed every time.
    match (0..300).find_map(|seed| run_seed(seed, sabotage, false).err()) {
        None => panic!("nobody noticed: {complaint}"),
        Some(failed) => assert!(
            failed.violation.contains(complaint),
            "{failed:?} instead of {complaint:?}"
        ),
    }
}

fn sabotaged_commands(edit: impl Fn(&mut Vec<Command>) + Send + Sync + 'static) -> Sabotage {
    Sabotage {
        commands: Some(Arc::new(edit)),
        ..Sabotage::default()
    }
}

/// Plans are told with this change.
fn assert_plan_noticed(edit: impl Fn(&mut ServicePlan) + Send + Sync + 'static, complaint: &str) {
    let sabotage = sabotaged_commands(move |commands| {
        for command in commands {
            if let Command::Apply(plan) = command {
                edit(plan);
            }
        }
    });
    assert_noticed(&sabotage, complaint);
}

/// Commands of this kind are not told.
fn assert_loss_noticed(is_lost: fn(&Command) -> bool, complaint: &str) {
    let sabotage = sabotaged_commands(move |commands| commands.retain(|c| !is_lost(c)));
    assert_noticed(&sabotage, complaint);
}

/// Commands of this kind are told twice.
fn assert_echo_noticed(is_echoed: fn(&Command) -> bool, complaint: &str) {
    let sabotage = sabotaged_commands(move |commands| {
        let again: Vec<_> = commands.iter().filter(|c| is_echoed(c)).cloned().collect();
        commands.extend(again);
    });
    assert_noticed(&sabotage, complaint);
}

fn assert_kernel_noticed(edit: fn(&mut ServicePlan), complaint: &str) {
    let sabotage = Sabotage {
        kernel: Some(Arc::new(edit)),
        ..Sabotage::default()
    };
    assert_noticed(&sabotage, complaint);
}

fn assert_status_noticed(edit: fn(&mut Status), complaint: &str) {
    let sabotage = Sabotage {
        status: Some(Arc::new(edit)),
        ..Sabotage::default()
    };
    assert_noticed(&sabotage, complaint);
}

fn edit_slots(plan: &mut ServicePlan, edit: impl FnOnce(&mut [u16])) {
    let mut table = plan.table.to_vec();
    if table.is_empty() {
        return;
    }
    edit(&mut table);
    plan.table = table.into();
}

#[test]
fn slow_probers() {
    let sabotage = Sabotage {
        prober_lag: Duration::from_secs(8),
        ..Sabotage::default()
    };
    assert_noticed(&sabotage, "after its server");
}

#[test]
fn restarts_that_change_something() {
    let swap_ends = |plan: &mut ServicePlan| {
        edit_slots(plan, |table| {
            let last = table.len() - 1;
            table.swap(0, last);
        });
    };
    assert_kernel_noticed(swap_ends, "a restart moved slot 0");
    let revive = |plan: &mut ServicePlan| {
        let endpoints = plan.endpoints.iter_mut();
        let dead = endpoints.filter(|e| e.state == EndpointState::Dead);
        dead.for_each(|e| e.state = EndpointState::Draining);
    };
    assert_kernel_noticed(revive, "a restart changed states");
}

#[test]
fn lost_and_repeated_commands() {
    let is_apply = |c: &Command| matches!(c, Command::Apply(_));
    assert_loss_noticed(is_apply, "and no plan");
    assert_echo_noticed(is_apply, "two plans of");
    let is_remove = |c: &Command| matches!(c, Command::Remove { .. });
    assert_loss_noticed(is_remove, "removed [] instead of");
    assert_echo_noticed(is_remove, "instead of");
    let is_pace = |c: &Command| matches!(c, Command::Pace { .. });
    assert_loss_noticed(is_pace, "pace of");
    assert_echo_noticed(is_pace, "already");
    let is_verdict = |c: &Command| matches!(c, Command::Notice(Notice::Endpoint { .. }));
    assert_loss_noticed(is_verdict, "and not Some(Unknown)");
    assert_echo_noticed(is_verdict, "and not unknown");
    let is_site = |c: &Command| matches!(c, Command::Notice(Notice::Site { .. }));
    assert_loss_noticed(is_site, "and not unknown");
    assert_echo_noticed(is_site, "and not unknown");
    let is_refused = |c: &Command| matches!(c, Command::Notice(Notice::Refused { .. }));
    assert_loss_noticed(is_refused, "is held: true, not as told");
    assert_echo_noticed(is_refused, "was held already");
    let is_resumed = |c: &Command| matches!(c, Command::Notice(Notice::Resumed { .. }));
    assert_loss_noticed(is_resumed, "is held: false, not as told");
    assert_echo_noticed(is_resumed, "but was not held");
}

#[test]
fn steering_that_is_not_told() {
    let endpoints = Mutex::new(BTreeMap::new());
    let sabotage = sabotaged_commands(move |commands| {
        let mut endpoints = endpoints.lock().unwrap();
        commands.retain(|command| {
            let Command::Apply(plan) = command else {
                return true;
            };
            let before = endpoints.insert(plan.service.clone(), plan.endpoints.clone());
            plan.version == 1 || before.as_ref() != Some(&plan.endpoints)
        });
    });
    assert_noticed(&sabotage, "does not know how");
}

#[test]
fn commands_about_something_else() {
    let sabotage = sabotaged_commands(|commands| {
        if !commands.is_empty() {
            let service = "another".into();
            commands.push(Command::Remove { service });
        }
    });
    assert_noticed(&sabotage, "another");
}

#[test]
fn verdicts_that_cannot_be() {
    fn assert_verdict_noticed(edit: fn(&mut Verdict, &mut Verdict, &mut Cause), complaint: &str) {
        let sabotage = sabotaged_commands(move |commands| {
            for command in commands {
                if let Command::Notice(Notice::Endpoint {
                    from, to, cause, ..
                }) = command
                {
                    edit(from, to, cause);
                }
            }
        });
        assert_noticed(&sabotage, complaint);
    }
    assert_verdict_noticed(|_, _, cause| *cause = Cause::Operator, "by operator at");
    assert_verdict_noticed(|from, to, _| std::mem::swap(from, to), "to unknown by");
    assert_verdict_noticed(|_, to, _| *to = Verdict::Unknown, "to unknown by");
}

#[test]
fn wrong_tables() {
    assert_plan_noticed(|plan| plan.version += 1, "has version");
    assert_plan_noticed(|plan| plan.table = Arc::from([]), "has 0 slots");
    assert_plan_noticed(
        |plan| edit_slots(plan, |table| table[3] = u16::MAX),
        "points to endpoint 65535",
    );
    let steer_to_dead = |plan: &mut ServicePlan| {
        let dead = plan.endpoints.iter().position(|e| !e.is_eligible());
        if let Some(index) = dead {
            edit_slots(plan, |table| table[0] = index as u16);
        }
    };
    assert_plan_noticed(steer_to_dead, "and has 1 slots");
    let give_all_to_the_least = |plan: &mut ServicePlan| {
        let owners = (0..).zip(plan.slots()).filter(|(_, slots)| *slots > 0);
        if let Some((owner, _)) = owners.min_by_key(|(_, slots)| *slots) {
            edit_slots(plan, |table| table.fill(owner));
        }
    };
    assert_plan_noticed(give_all_to_the_least, "instead of");
}

#[test]
fn wrong_endpoints() {
    fn first(plan: &mut ServicePlan, state: EndpointState) -> Option<&mut PlannedEndpoint> {
        plan.endpoints.iter_mut().find(|e| e.state == state)
    }
    let revive = |plan: &mut ServicePlan| {
        if let Some(endpoint) = first(plan, EndpointState::Dead) {
            endpoint.state = EndpointState::Draining;
        }
    };
    assert_plan_noticed(revive, "is draining in the plan instead of dead");
    let rename = |plan: &mut ServicePlan| {
        if let Some(endpoint) = first(plan, EndpointState::Dead) {
            endpoint.name = "another".into();
        }
    };
    assert_plan_noticed(rename, "\"another\"");
    let forget = |plan: &mut ServicePlan| {
        plan.endpoints.pop_if(|e| e.state == EndpointState::Dead);
    };
    assert_plan_noticed(forget, "is not in the plan");
    let weigh = |plan: &mut ServicePlan| {
        if let Some(endpoint) = first(plan, EndpointState::Active) {
            endpoint.weight += 1;
        }
    };
    assert_plan_noticed(weigh, "is not the one that was told");
}

#[test]
fn wrong_status() {
    let swap_sites = |status: &mut Status| status.sites.reverse();
    assert_status_noticed(swap_sites, "sites are out of order");
    let swap_services = |status: &mut Status| status.services.reverse();
    assert_status_noticed(swap_services, "services are out of order");
    let drain = |status: &mut Status| status.sites[0].draining ^= true;
    assert_status_noticed(drain, "drain of");
    let publish = |status: &mut Status| status.services[0].published ^= true;
    assert_status_noticed(publish, "is not as published");
    let hold = |status: &mut Status| {
        let held = director_core::LintRule::NoEndpointLeft;
        status.services[0].held = Some(held);
    };
    assert_status_noticed(hold, "hold of");
    let share = |status: &mut Status| status.services[0].endpoints[0].share += 0.01;
    assert_status_noticed(share, "share of");
    let weight = |status: &mut Status| status.services[0].endpoints[0].effective_weight = 1;
    assert_status_noticed(weight, "weight of");
    let row = |status: &mut Status| {
        let endpoint = &mut status.services[0].endpoints[0];
        (endpoint.successes, endpoint.failures) = (1, 1);
    };
    assert_status_noticed(row, "rows of both kinds");
    let forget = |status: &mut Status| status.services[0].endpoints.truncate(0);
    assert_status_noticed(forget, "is not complete");
}
