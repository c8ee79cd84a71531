//! Another process takes over.

use std::{collections::BTreeMap, sync::Arc};

use director_core::{Adopted, Core, CoreOptions, Event, ServicePlan};

use super::World;
use crate::{
    check::{Checker, Violation, states},
    ensure,
    prober::Prober,
};

impl World {
    /// The process ends, and another one takes over what the kernel holds. Its
    /// daemon may have kept the drains; its model may be another one.
    pub(super) fn restart(&mut self) -> Result<(), Violation> {
        let old = std::mem::replace(&mut self.checker, Checker::new(self.table_size.get()));
        self.core = Core::new(CoreOptions {
            table_size: self.table_size,
        });
        self.prober = Prober::new(self.sabotage.prober_lag);
        let mut before = self.kernel.clone();
        let adopted = before.values().flat_map(|plan| {
            plan.endpoints.iter().map(|endpoint| Adopted {
                service: plan.service.clone(),
                address: endpoint.address,
                port: endpoint.port,
                state: endpoint.state,
            })
        });
        let adopted = Event::Adopted(adopted.collect());
        if let Some(sabotage) = &self.sabotage.kernel {
            before.values_mut().for_each(|plan| sabotage(plan));
        }
        let is_edited = self.rng.u8(..4) == 0;
        let model = if is_edited {
            self.generator.edit(&mut self.rng, &old.oracle.model)
        } else {
            old.oracle.model.clone()
        };
        self.trace(|| "restart".to_owned());
        if self.rng.bool() {
            self.tell(adopted)?;
            self.load(model)?;
        } else {
            self.load(model)?;
            if self.rng.bool() {
                for target in old.oracle.drains() {
                    if self.core.knows(&target) {
                        self.tell(Event::Drain { target, on: true })?;
                    }
                }
            }
            self.tell(adopted)?;
        }
        self.stats.restarts += 1;
        if !is_edited {
            self.check_kept(&old, &before)?;
        }
        Ok(())
    }

    /// A restart with the same model moves no flow.
    fn check_kept(
        &mut self,
        old: &Checker,
        before: &BTreeMap<Arc<str>, ServicePlan>,
    ) -> Result<(), Violation> {
        for (name, plan) in &self.checker.applied {
            // Unless the kernel held something that is not of this model.
            let Some(before) = before.get(name).filter(|_| !old.stale.contains(name)) else {
                continue;
            };
            if !old.applied.contains_key(name) {
                continue;
            }
            let owner = |plan: &ServicePlan, slot: usize| {
                let endpoint = &plan.endpoints[usize::from(plan.table[slot])];
                (endpoint.address, endpoint.port)
            };
            for slot in 0..plan.table.len() {
                let (is, was) = (owner(plan, slot), owner(before, slot));
                ensure!(
                    is == was,
                    "a restart moved slot {slot} of {name} from {was:?} to {is:?}"
                );
            }
            ensure!(
                states(plan) == states(before),
                "a restart changed states of {name}"
            );
            self.stats.tables_kept += 1;
        }
        Ok(())
    }
}
