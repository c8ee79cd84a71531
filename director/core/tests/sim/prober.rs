//! A prober on a virtual clock, with the schedule of the real one: intervals
//! run from start to start and are only ever shortened, the next start is never
//! before the last end, and a fast pace pulls a waiting start forward.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use director_core::{EndpointRef, HealthPolicy, Model, Now, Pace, ProbeSpec};
use fastrand::Rng;

/// All targets.
pub struct Prober {
    targets: BTreeMap<EndpointRef, Target>,
    /// The targets that wait, by their next starts.
    waiting: BTreeSet<(Now, EndpointRef)>,
    last_id: u64,
    /// Added to every interval: what a prober must not do.
    pub lag: Duration,
}

struct Target {
    /// Tells a target from one of the same name before it.
    id: u64,
    asks: Asks,
    policy: HealthPolicy,
    pace: Pace,
    state: State,
    last: Option<Round>,
}

#[derive(Clone, PartialEq)]
struct Asks {
    address: IpAddr,
    port: u16,
    probe: ProbeSpec,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting(Now),
    Running,
}

#[derive(Clone, Copy)]
struct Round {
    start: Now,
    end: Now,
    /// What is left of either interval, and of the normal one besides, per mille.
    jitter: u32,
    spread: u32,
}

impl Target {
    fn next_start(&self, round: &Round, lag: Duration) -> Now {
        let interval = match self.pace {
            Pace::Normal => self.policy.interval * round.jitter / 1000 * round.spread / 1000,
            Pace::Fast => {
                let fast = self.policy.fast_interval.min(self.policy.interval);
                fast * round.jitter / 1000
            }
        };
        (round.start + interval + lag).max(round.end)
    }
}

/// A probe that begins.
pub struct Begun {
    pub address: IpAddr,
    pub timeout: Duration,
}

impl Prober {
    pub fn new(lag: Duration) -> Self {
        Self {
            targets: BTreeMap::new(),
            waiting: BTreeSet::new(),
            last_id: 0,
            lag,
        }
    }

    /// The targets of a model; those that are as before keep their place in time.
    pub fn set_targets(&mut self, model: &Model, now: Now) {
        let mut old = std::mem::take(&mut self.targets);
        for service in &model.services {
            for endpoint in &service.endpoints {
                let key = EndpointRef {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                };
                let asks = Asks {
                    address: endpoint.address,
                    port: endpoint.port,
                    probe: service.health.probe.clone(),
                };
                let kept = old.remove(&key).filter(|target| target.asks == asks);
                let target = match kept {
                    Some(target) => target,
                    None => self.new_target(asks, service.health.clone(), now),
                };
                let is_changed = target.policy != service.health;
                self.targets.insert(key.clone(), target);
                if is_changed {
                    self.reschedule(&key, &service.health, now);
                }
            }
        }
        let targets = self.targets.iter();
        self.waiting = targets
            .filter_map(|(key, target)| match target.state {
                State::Waiting(due) => Some((due, key.clone())),
                State::Running => None,
            })
            .collect();
    }

    fn new_target(&mut self, asks: Asks, policy: HealthPolicy, now: Now) -> Target {
        self.last_id += 1;
        Target {
            id: self.last_id,
            asks,
            policy,
            pace: Pace::Normal,
            state: State::Waiting(now),
            last: None,
        }
    }

    fn reschedule(&mut self, key: &EndpointRef, policy: &HealthPolicy, now: Now) {
        let Some(target) = self.targets.get_mut(key) else {
            return;
        };
        target.policy = policy.clone();
        if let Some(round) = target.last {
            let due = target.next_start(&round, self.lag);
            self.move_start(key, due, now);
        }
    }

    /// Moves a start that is waited for, though not into the past.
    fn move_start(&mut self, key: &EndpointRef, due: Now, now: Now) {
        if let Some(target) = self.targets.get_mut(key)
            && let State::Waiting(planned) = target.state
        {
            let due = due.max(now);
            target.state = State::Waiting(due);
            self.waiting.remove(&(planned, key.clone()));
            self.waiting.insert((due, key.clone()));
        }
    }

    pub fn pace(&self, key: &EndpointRef) -> Option<Pace> {
        self.targets.get(key).map(|target| target.pace)
    }

    pub fn set_pace(&mut self, key: &EndpointRef, pace: Pace, now: Now, rng: &mut Rng) {
        let Some(target) = self.targets.get_mut(key).filter(|t| t.pace != pace) else {
            return;
        };
        target.pace = pace;
        let Some(round) = &mut target.last else {
            return;
        };
        if pace == Pace::Normal {
            round.spread = rng.u32(1..=1000);
        }
        let round = *round;
        let mut due = target.next_start(&round, self.lag);
        if let (Pace::Fast, State::Waiting(planned)) = (pace, target.state) {
            due = due.min(planned);
        }
        self.move_start(key, due, now);
    }

    /// When and by whom the next probe begins.
    pub fn next(&self) -> Option<(Now, &EndpointRef)> {
        self.waiting.first().map(|(due, key)| (*due, key))
    }

    /// Begins a probe. Returns also the id to end it with.
    pub fn begin(&mut self, key: &EndpointRef, now: Now, rng: &mut Rng) -> Option<(u64, Begun)> {
        let target = self.targets.get_mut(key)?;
        let shortest = 1000 - 10 * u32::from(target.policy.jitter_percent);
        target.last = Some(Round {
            start: now,
            end: now,
            jitter: rng.u32(shortest..=1000),
            spread: if target.last.is_none() {
                rng.u32(1..=1000)
            } else {
                1000
            },
        });
        if let State::Waiting(due) = std::mem::replace(&mut target.state, State::Running) {
            self.waiting.remove(&(due, key.clone()));
        }
        let begun = Begun {
            address: target.asks.address,
            timeout: target.policy.timeout,
        };
        Some((target.id, begun))
    }

    /// Ends a probe. False if its target is gone: then nobody hears of it.
    pub fn end(&mut self, key: &EndpointRef, id: u64, now: Now) -> bool {
        let Some(target) = self.targets.get_mut(key).filter(|t| t.id == id) else {
            return false;
        };
        let Some(round) = &mut target.last else {
            return false;
        };
        round.end = now;
        let round = *round;
        let due = target.next_start(&round, self.lag);
        target.state = State::Waiting(due);
        self.waiting.insert((due, key.clone()));
        true
    }
}
