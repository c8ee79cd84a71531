//! What befalls the world: faults, and what its operator does.

use std::{net::IpAddr, time::Duration};

use director_core::{Event, Failure, Target};

use super::{Fault, Happening, World};
use crate::check::Violation;

impl World {
    pub(super) fn plan_act(&mut self) {
        let gap = match self.rng.u8(..4) {
            // While the last one is still being found out about,
            0 => self.rng.u64(1..=1000),
            // or when everything has settled.
            _ => self.rng.u64(1000..=10_000),
        };
        self.plan(self.now + Duration::from_millis(gap), Happening::Act);
    }

    pub(super) fn act(&mut self) -> Result<(), Violation> {
        match self.rng.u8(..20) {
            0..5 => {
                let fault = self.some_fault();
                self.each_of(1, |world, server| world.set_fault(server, Some(fault)));
            }
            5..8 => self.lose_site(),
            8..12 => self.recover(),
            12 => self.each_of(1, |world, server| {
                let period = Duration::from_millis(world.rng.u64(20..=3000));
                let left = world.rng.u8(1..=20);
                world.plan(
                    world.now + period,
                    Happening::Flap {
                        server,
                        period,
                        left,
                    },
                );
            }),
            13..16 => {
                let (target, on) = (self.some_target(), self.rng.u8(..3) > 0);
                self.stats.drains += 1;
                self.tell(Event::Drain { target, on })?;
            }
            16 | 17 => {
                let model = self.checker.oracle.model.clone();
                let model = self.generator.edit(&mut self.rng, &model);
                self.stats.reloads += 1;
                self.load(model)?;
            }
            18 => self.restart()?,
            _ => self.fail_locally()?,
        }
        Ok(())
    }

    /// Something that an operator can name, mostly something that is there.
    fn some_target(&mut self) -> Target {
        let oracle = &self.checker.oracle;
        let members: Vec<_> = oracle.members.keys().cloned().collect();
        let sites: Vec<_> = oracle.model.sites.iter().map(|s| s.name.clone()).collect();
        match (
            self.rng.bool(),
            self.rng.choice(members),
            self.rng.choice(sites),
        ) {
            (true, Some(endpoint), _) => Target::Endpoint(endpoint),
            (_, _, Some(site)) => Target::Site(site),
            _ => Target::Site("nowhere".into()),
        }
    }

    fn some_fault(&mut self) -> Fault {
        let faults = [Fault::Kill, Fault::Blackhole, Fault::Sick];
        faults[self.rng.usize(..faults.len())]
    }

    /// Addresses of all servers in the model.
    fn servers(&self) -> Vec<IpAddr> {
        let members = self.checker.oracle.members.values();
        let mut servers: Vec<_> = members.map(|m| m.address).collect();
        servers.sort_unstable();
        servers.dedup();
        servers
    }

    fn each_of(&mut self, count: usize, act: impl Fn(&mut Self, IpAddr)) {
        let servers = self.servers();
        for server in self.rng.choose_multiple(servers, count) {
            act(self, server);
        }
    }

    fn lose_site(&mut self) {
        let fault = self.some_fault();
        let members = self.checker.oracle.members.values();
        let Some(site) = self.rng.choice(members).map(|m| m.site.clone()) else {
            return;
        };
        let members = self.checker.oracle.members.values();
        let lost: Vec<_> = members
            .filter(|m| m.site == site)
            .map(|m| m.address)
            .collect();
        lost.into_iter()
            .for_each(|server| self.set_fault(server, Some(fault)));
    }

    /// Ends some faults, or all.
    fn recover(&mut self) {
        let failed: Vec<_> = self.faults.keys().copied().collect();
        let count = if self.rng.bool() { failed.len() } else { 1 };
        for server in self.rng.choose_multiple(failed, count) {
            self.set_fault(server, None);
        }
    }

    pub(super) fn flap(&mut self, server: IpAddr, period: Duration, left: u8) {
        let is_up = !self.faults.contains_key(&server);
        let fault = is_up.then(|| self.some_fault());
        self.set_fault(server, fault);
        if left > 0 {
            let left = left - 1;
            self.plan(
                self.now + period,
                Happening::Flap {
                    server,
                    period,
                    left,
                },
            );
        }
    }

    /// The prober reports a fault of its own, about an endpoint or about one
    /// that is no more.
    fn fail_locally(&mut self) -> Result<(), Violation> {
        let members = self.checker.oracle.members.keys().cloned();
        let Some(mut endpoint) = self.rng.choice(members) else {
            return Ok(());
        };
        let mut outcome = Err(Failure::Local);
        if self.rng.u8(..3) == 0 {
            endpoint.endpoint = "gone".into();
            outcome = Ok(Duration::ZERO);
        }
        self.tell(Event::Probe { endpoint, outcome })
    }
}
