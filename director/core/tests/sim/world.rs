//! A world to run the core in: servers that fail, a prober, a kernel that holds
//! what it was told, an operator, and a process that is restarted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use director_core::{
    Command, Core, CoreOptions, EndpointRef, Event, Failure, Model, Now, Pace, ServicePlan,
    TableSize,
};
use fastrand::Rng;

use crate::{
    check::{Checker, Handled, Violation},
    ensure,
    oracle::bound,
    prober::Prober,
    sabotage::Sabotage,
    scenario::Generator,
    stats::Stats,
};

mod operator;
mod restart;

/// Everything, at one time.
pub struct World {
    now: Now,
    rng: Rng,
    generator: Generator,
    table_size: TableSize,
    core: Core,
    checker: Checker,
    prober: Prober,
    /// What the kernel holds, whatever becomes of the process.
    kernel: BTreeMap<Arc<str>, ServicePlan>,
    faults: BTreeMap<IpAddr, Fault>,
    agenda: BinaryHeap<Reverse<(Now, u64, Happening)>>,
    /// Makes things planned for the same time happen in order.
    last_number: u64,
    sabotage: Sabotage,
    is_traced: bool,
    pub stats: Stats,
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Its port refuses, and open connections are reset.
    Kill,
    /// Packets to it vanish.
    Blackhole,
    /// It answers, but not well.
    Sick,
}

/// Something that is to happen.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// A probe ends, if its server still is as it was.
    Answer {
        endpoint: EndpointRef,
        id: u64,
        begun: Now,
        timeout: Duration,
    },
    /// A probe of a server that does not answer ends.
    Failed {
        endpoint: EndpointRef,
        id: u64,
        failure: Ending,
    },
    /// The operator, or fate, does something.
    Act,
    /// A server goes on flapping, for so many more times.
    Flap {
        server: IpAddr,
        period: Duration,
        left: u8,
    },
    /// The verdict about an endpoint must be right if nothing happened since.
    Deadline { endpoint: EndpointRef },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Refused,
    Timeout,
    Status,
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage, is_traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let sizes = [101, 251, 509].map(TableSize::new);
        let table_size = rng.choice(sizes).and_then(Result::ok).unwrap_or_default();
        Self {
            now: Now::ZERO,
            rng,
            generator: Generator::new(),
            table_size,
            core: Core::new(CoreOptions { table_size }),
            checker: Checker::new(table_size.get()),
            prober: Prober::new(sabotage.prober_lag),
            kernel: BTreeMap::new(),
            faults: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            last_number: 0,
            sabotage,
            is_traced,
            stats: Stats::default(),
        }
    }

    /// Lives through `end`, and stops at the first violation.
    pub fn run(&mut self, end: Now) -> Result<(), Violation> {
        let model = self.generator.model(&mut self.rng);
        self.load(model)?;
        self.plan_act();
        while let Some(next) = self.next_time().filter(|&next| next <= end) {
            self.now = next;
            self.step()
                .map_err(|violation| format!("at {next:?}: {violation}"))?;
        }
        Ok(())
    }

    fn next_time(&self) -> Option<Now> {
        let agenda = self.agenda.peek().map(|Reverse((time, ..))| *time);
        let probe = self.prober.next().map(|(time, _)| time);
        agenda.into_iter().chain(probe).min()
    }

    /// Lets one thing happen. Deadlines come last of all that is due.
    fn step(&mut self) -> Result<(), Violation> {
        let due = self.prober.next().filter(|(time, _)| *time == self.now);
        if let Some(endpoint) = due.map(|(_, endpoint)| endpoint.clone()) {
            self.begin_probe(&endpoint);
            return Ok(());
        }
        let Some(Reverse((_, _, happening))) = self.agenda.pop() else {
            return Ok(());
        };
        match happening {
            Happening::Answer {
                endpoint,
                id,
                begun,
                timeout,
            } => self.answer(endpoint, id, begun, timeout),
            Happening::Failed {
                endpoint,
                id,
                failure,
            } => {
                let failure = match failure {
                    Ending::Refused => Failure::Refused,
                    Ending::Timeout => Failure::Timeout,
                    Ending::Status => Failure::Status(503),
                };
                self.end_probe(endpoint, id, Err(failure))
            }
            Happening::Act => {
                self.plan_act();
                self.act()
            }
            Happening::Flap {
                server,
                period,
                left,
            } => {
                self.flap(server, period, left);
                Ok(())
            }
            Happening::Deadline { endpoint } => self.check_deadline(&endpoint),
        }
    }

    fn plan(&mut self, time: Now, happening: Happening) {
        self.last_number += 1;
        let number = match happening {
            Happening::Deadline { .. } => u64::MAX,
            _ => self.last_number,
        };
        self.agenda.push(Reverse((time, number, happening)));
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{:>12?} {}", self.now, what());
        }
    }

    fn begin_probe(&mut self, endpoint: &EndpointRef) {
        let Some((id, begun)) = self.prober.begin(endpoint, self.now, &mut self.rng) else {
            return;
        };
        let soon = (begun.timeout / 2).min(Duration::from_millis(20));
        let latency = Duration::from_micros(self.rng.u64(100..=soon.as_micros() as u64));
        let (endpoint, timeout) = (endpoint.clone(), begun.timeout);
        let (after, failure) = match self.faults.get(&begun.address) {
            None => {
                let answer = Happening::Answer {
                    endpoint,
                    id,
                    begun: self.now,
                    timeout,
                };
                return self.plan(self.now + latency, answer);
            }
            Some(Fault::Kill) => (latency, Ending::Refused),
            Some(Fault::Blackhole) => (timeout, Ending::Timeout),
            Some(Fault::Sick) => (latency, Ending::Status),
        };
        self.plan(
            self.now + after,
            Happening::Failed {
                endpoint,
                id,
                failure,
            },
        );
    }

    fn answer(
        &mut self,
        endpoint: EndpointRef,
        id: u64,
        begun: Now,
        timeout: Duration,
    ) -> Result<(), Violation> {
        let member = self.checker.oracle.members.get(&endpoint);
        let fault = member.and_then(|m| self.faults.get(&m.address)).copied();
        match fault {
            // The answer was on its way when the server became sick.
            None | Some(Fault::Sick) => self.end_probe(endpoint, id, Ok(self.now - begun)),
            Some(Fault::Kill) => self.end_probe(endpoint, id, Err(Failure::Reset)),
            Some(Fault::Blackhole) => {
                let failure = Ending::Timeout;
                self.plan(
                    begun + timeout,
                    Happening::Failed {
                        endpoint,
                        id,
                        failure,
                    },
                );
                Ok(())
            }
        }
    }

    fn end_probe(
        &mut self,
        endpoint: EndpointRef,
        id: u64,
        outcome: Result<Duration, Failure>,
    ) -> Result<(), Violation> {
        if !self.prober.end(&endpoint, id, self.now) {
            return Ok(());
        }
        self.stats.probes += 1;
        self.tell(Event::Probe { endpoint, outcome })
    }

    /// Tells the core what happened, does as it says, and checks what it said.
    fn tell(&mut self, event: Event) -> Result<(), Violation> {
        let mut commands = self.core.handle(event.clone(), self.now);
        if let Some(sabotage) = &self.sabotage.commands {
            sabotage(&mut commands);
        }
        if !commands.is_empty() || !matches!(event, Event::Probe { .. }) {
            self.trace(|| format!("{event:?}{}", brief(&commands)));
        }
        if let Event::Model(model) = &event {
            self.prober.set_targets(model, self.now);
        }
        for command in &commands {
            match command {
                Command::Apply(plan) => {
                    self.kernel.insert(plan.service.clone(), plan.clone());
                }
                Command::Remove { service } => {
                    self.kernel.remove(service);
                }
                Command::Pace { endpoint, pace } => {
                    let is_told_again = matches!(event, Event::Model(_)) && *pace == Pace::Fast;
                    ensure!(
                        self.prober.pace(endpoint) != Some(*pace) || is_told_again,
                        "{endpoint} has pace {pace} already"
                    );
                    self.prober
                        .set_pace(endpoint, *pace, self.now, &mut self.rng);
                }
                Command::Notice(_) => {}
            }
        }
        let handled = Handled {
            event: &event,
            commands: &commands,
            now: self.now,
            sabotage: &self.sabotage,
        };
        self.checker
            .check(&handled, &self.core, &self.prober, &mut self.stats)
    }

    fn load(&mut self, model: Model) -> Result<(), Violation> {
        self.tell(Event::Model(model))?;
        let members = self.checker.oracle.members.iter();
        let fresh = members.filter(|(_, m)| m.steady_since == self.now);
        let fresh: Vec<_> = fresh.map(|(key, _)| key.clone()).collect();
        fresh.into_iter().for_each(|key| self.plan_deadline(key));
        Ok(())
    }

    /// When the verdict about an endpoint must be right, from how things are.
    fn deadline(&self, endpoint: &EndpointRef) -> Option<Now> {
        let oracle = &self.checker.oracle;
        let member = oracle.members.get(endpoint)?;
        let is_up = !self.faults.contains_key(&member.address);
        Some(member.steady_since + bound(oracle.policy(endpoint)?, is_up))
    }

    fn plan_deadline(&mut self, endpoint: EndpointRef) {
        if let Some(time) = self.deadline(&endpoint) {
            self.plan(time, Happening::Deadline { endpoint });
        }
    }

    /// Gives a server a fault, or ends it.
    fn set_fault(&mut self, server: IpAddr, fault: Option<Fault>) {
        let before = self.faults.get(&server).copied();
        if before == fault {
            return;
        }
        self.trace(|| format!("{server} has fault {fault:?}"));
        match fault {
            Some(fault) => self.faults.insert(server, fault),
            None => self.faults.remove(&server),
        };
        let members = self.checker.oracle.members.iter_mut();
        let hit: Vec<_> = members
            .filter(|(_, m)| m.address == server)
            .map(|(key, member)| {
                member.steady_since = self.now;
                key.clone()
            })
            .collect();
        hit.into_iter().for_each(|key| self.plan_deadline(key));
    }

    fn check_deadline(&mut self, endpoint: &EndpointRef) -> Result<(), Violation> {
        let oracle = &self.checker.oracle;
        let is_due = self.deadline(endpoint) == Some(self.now);
        let Some(member) = oracle.members.get(endpoint).filter(|_| is_due) else {
            return Ok(());
        };
        let is_up = !self.faults.contains_key(&member.address);
        let verdict = oracle.verdict(member);
        ensure!(
            (verdict != director_core::Verdict::Down) == is_up
                && verdict != director_core::Verdict::Unknown,
            "{endpoint} is still {verdict} {:?} after its server {}",
            self.now - member.steady_since,
            if is_up { "was well" } else { "failed" }
        );
        if is_up {
            self.stats.recoveries += 1;
        } else {
            self.stats.detections += 1;
        }
        Ok(())
    }
}

/// Commands for a trace: a line each, without tables.
fn brief(commands: &[Command]) -> String {
    let line = |command: &Command| match command {
        Command::Apply(plan) => {
            let endpoints = plan.endpoints.iter().zip(plan.slots());
            let endpoints: String = endpoints
                .map(|(e, slots)| format!(" {}={}:{slots}", e.name, e.state))
                .collect();
            format!("apply {} {}{endpoints}", plan.service, plan.version)
        }
        other => format!("{other:?}"),
    };
    let lines = commands
        .iter()
        .map(|command| format!("\n    -> {}", line(command)));
    lines.collect()
}
