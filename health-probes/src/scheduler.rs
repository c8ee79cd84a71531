//! When each target is probed: one task that holds all targets in the order of
//! their next starts, and a task for each probe that is under way.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{self, AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{Failure, Pace, Probe, Report, Schedule, Target};

/// Tokio's timers fire on whole milliseconds and never early. Starting what is
/// due within one more millisecond keeps a start from ever being late by the
/// clock's grain, which would add up over the probes of one detection.
const GRAIN: Duration = Duration::from_millis(1);

/// Bounds of an interval, before jitter. The lower keeps an endpoint that refuses
/// at once from being probed in a busy loop; the upper is far beyond any use, and
/// far from where arithmetic on instants overflows.
const INTERVALS: (Duration, Duration) = (
    Duration::from_millis(10),
    Duration::from_secs(365 * 24 * 3600),
);

/// A timer this late, at least, tells that the process was kept from running;
/// less happens on any busy host.
const LEAST_LATENESS: Duration = Duration::from_millis(100);

/// What a [`crate::Prober`] asks of its scheduler.
#[derive(Debug)]
pub(crate) enum Command<K> {
    Targets(Vec<Target<K>>),
    Pace(K, Pace),
    ProbeNow(K),
}

/// Names one target for as long as it exists. Never used again, so that what
/// comes late from a target that was removed cannot be taken for its successor's.
type Id = u64;

/// A start time, or none for a start ahead of all that have one. `None` sorts first.
type Due = Option<Instant>;

/// All targets, and the probes under way.
pub(crate) struct Scheduler<K, F> {
    probe: F,
    concurrency: usize,
    rng: fastrand::Rng,
    last_id: Id,
    ids: HashMap<K, Id>,
    entries: HashMap<Id, Entry<K>>,
    /// Exactly the entries in [`State::Waiting`], by when they are due.
    waiting: BTreeSet<(Due, Id)>,
    tasks: JoinSet<Outcome>,
    /// Whom a task works for: even of one that panicked, tokio tells the task's id.
    owners: HashMap<task::Id, Id>,
    /// The report that waits for room in the channel.
    outbox: Option<(Id, Report<K>)>,
}

struct Entry<K> {
    key: K,
    probe: Arc<Probe>,
    schedule: Schedule,
    pace: Pace,
    state: State,
    last: Option<Round>,
}

enum State {
    Waiting(Due),
    /// `again` asks for one more probe right after this one.
    Running {
        task: AbortHandle,
        again: bool,
    },
}

/// One probe's place in time, and the chances drawn for the interval after it.
#[derive(Clone, Copy)]
struct Round {
    start: Instant,
    /// The start, as long as the probe is under way.
    end: Instant,
    /// What jitter leaves of either interval.
    jitter: f64,
    /// What of the normal interval is left to spread targets out which would
    /// otherwise go on in step.
    spread: f64,
}

struct Outcome {
    end: Instant,
    latency: Duration,
    result: Result<(), Failure>,
}

impl<K> Entry<K> {
    /// When the probe after `round` should start.
    fn next_start(&self, round: &Round) -> Instant {
        let (shortest, longest) = INTERVALS;
        let normal = self.schedule.interval.clamp(shortest, longest);
        let interval = match self.pace {
            Pace::Normal => normal.mul_f64(round.jitter * round.spread),
            Pace::Fast => {
                let fast = self.schedule.fast_interval.clamp(shortest, normal);
                fast.mul_f64(round.jitter)
            }
        };
        (round.start + interval).max(round.end)
    }
}

impl<K, F, R> Scheduler<K, F>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    F: Fn(Arc<Probe>) -> R + Send + 'static,
    R: Future<Output = Result<(), Failure>> + Send + 'static,
{
    /// A scheduler without targets that runs probes by `probe`, at most
    /// `concurrency` at once.
    pub(crate) fn new(concurrency: usize, rng: fastrand::Rng, probe: F) -> Self {
        Self {
            probe,
            concurrency: concurrency.max(1),
            rng,
            last_id: 0,
            ids: HashMap::new(),
            entries: HashMap::new(),
            waiting: BTreeSet::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            outbox: None,
        }
    }

    /// Runs until nobody commands or nobody reads the reports.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command<K>>,
        reports: mpsc::Sender<Report<K>>,
    ) {
        loop {
            self.start_due();
            let wake = self.next_wake();
            tokio::select! {
                // Commands first: a stop or a changed set of targets is obeyed
                // before anything is done for the old one.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.apply(command),
                    None => return,
                },
                permit = reports.reserve(), if self.outbox.is_some() => {
                    let Ok(permit) = permit else { return };
                    if let Some((_, report)) = self.outbox.take() {
                        permit.send(report);
                    }
                }
                () = reports.closed(), if self.outbox.is_none() => return,
                // Not while a report waits: the outbox holds one, and the others
                // are kept in their finished tasks.
                Some(ended) = self.tasks.join_next_with_id(), if self.outbox.is_none() => {
                    self.finish(ended);
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn has_slot(&self) -> bool {
        self.tasks.len() < self.concurrency
    }

    /// When to look for due targets again; not at all while every slot is taken
    /// or nothing waits.
    fn next_wake(&self) -> Option<Instant> {
        let (due, _) = self.waiting.first().filter(|_| self.has_slot())?;
        due.map(|due| due.checked_sub(GRAIN).unwrap_or(due))
    }

    fn start_due(&mut self) {
        let horizon = Instant::now() + GRAIN;
        while self.has_slot()
            && let Some(&(due, id)) = self.waiting.first()
            && due.is_none_or(|due| due <= horizon)
        {
            self.waiting.pop_first();
            self.start(id);
        }
    }

    fn start(&mut self, id: Id) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let now = Instant::now();
        let shortest = 1.0 - f64::from(entry.schedule.jitter_percent.min(100)) / 100.0;
        entry.last = Some(Round {
            start: now,
            end: now,
            jitter: 1.0 - self.rng.f64() * (1.0 - shortest),
            spread: match entry.last {
                None => 1.0 - self.rng.f64(),
                Some(_) => 1.0,
            },
        });
        let work = (self.probe)(Arc::clone(&entry.probe));
        let limit = entry.schedule.timeout;
        let task = self.tasks.spawn(async move {
            let start = Instant::now();
            let answer = timeout(limit, work).await;
            let end = Instant::now();
            let latency = end - start;
            let result = answer.unwrap_or_else(|_| Err(timed_out(latency, limit)));
            Outcome {
                end,
                latency,
                result,
            }
        });
        self.owners.insert(task.id(), id);
        entry.state = State::Running { task, again: false };
    }

    /// Takes in what a probe's task left behind: plans the target's next start
    /// and makes out the report.
    fn finish(&mut self, ended: Result<(task::Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(id) = self.owners.remove(&task) else {
            return;
        };
        // None: the target was removed while it was being probed.
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let (State::Running { again, .. }, Some(round)) = (&entry.state, &mut entry.last) else {
            return;
        };
        let outcome = outcome.unwrap_or_else(|error| {
            let end = Instant::now();
            Outcome {
                end,
                latency: end - round.start,
                result: Err(Failure::Local(format!("the probe broke down: {error}"))),
            }
        });
        round.end = outcome.end;
        let (again, round) = (*again, *round);
        let due = (!again).then(|| entry.next_start(&round));
        entry.state = State::Waiting(due);
        self.waiting.insert((due, id));
        let report = Report {
            key: entry.key.clone(),
            latency: outcome.latency,
            result: outcome.result,
        };
        self.outbox = Some((id, report));
    }

    fn apply(&mut self, command: Command<K>) {
        match command {
            Command::Targets(targets) => self.set_targets(targets),
            Command::Pace(key, pace) => self.set_pace(&key, pace),
            Command::ProbeNow(key) => self.probe_now(&key),
        }
    }

    fn set_targets(&mut self, targets: Vec<Target<K>>) {
        let now = Instant::now();
        let mut old = std::mem::take(&mut self.ids);
        for target in targets {
            let known = old
                .remove(&target.key)
                .or_else(|| self.ids.remove(&target.key));
            let kept = known.filter(|id| {
                self.entries
                    .get(id)
                    .is_some_and(|entry| *entry.probe == target.probe)
            });
            if kept.is_none()
                && let Some(id) = known
            {
                self.remove(id);
            }
            let id = match kept {
                Some(id) => {
                    self.reschedule(id, target.schedule);
                    id
                }
                None => self.add(&target, now),
            };
            self.ids.insert(target.key, id);
        }
        for id in old.into_values() {
            self.remove(id);
        }
    }

    fn add(&mut self, target: &Target<K>, now: Instant) -> Id {
        self.last_id += 1;
        let entry = Entry {
            key: target.key.clone(),
            probe: Arc::new(target.probe.clone()),
            schedule: target.schedule,
            pace: Pace::Normal,
            state: State::Waiting(Some(now)),
            last: None,
        };
        self.waiting.insert((Some(now), self.last_id));
        self.entries.insert(self.last_id, entry);
        self.last_id
    }

    fn remove(&mut self, id: Id) {
        match self.entries.remove(&id).map(|entry| entry.state) {
            Some(State::Waiting(due)) => {
                self.waiting.remove(&(due, id));
            }
            Some(State::Running { task, .. }) => task.abort(),
            None => {}
        }
        self.outbox.take_if(|(of, _)| *of == id);
    }

    fn reschedule(&mut self, id: Id, schedule: Schedule) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.schedule != schedule
        {
            entry.schedule = schedule;
            if let Some(round) = &entry.last {
                let due = entry.next_start(round);
                self.move_start(id, due);
            }
        }
    }

    fn set_pace(&mut self, key: &K, pace: Pace) {
        let Some((id, entry)) = self.ids.get(key).and_then(|id| {
            let entry = self.entries.get_mut(id)?;
            Some((*id, entry))
        }) else {
            return;
        };
        if entry.pace == pace {
            return;
        }
        entry.pace = pace;
        // None: its first probe is still to come, and due already.
        let Some(round) = &mut entry.last else {
            return;
        };
        if pace == Pace::Normal {
            // What failed together recovers together, and its probes would go on
            // in step for ever.
            round.spread = 1.0 - self.rng.f64();
        }
        let round = *round;
        let mut due = entry.next_start(&round);
        if pace == Pace::Fast
            && let State::Waiting(Some(planned)) = entry.state
        {
            // A fast pace is never the slower one, not even after a first
            // interval that was cut short to spread targets out.
            due = due.min(planned);
        }
        self.move_start(id, due);
    }

    /// Moves the start of a waiting target to `due`, or to now if that has
    /// passed, so that it does not overtake those whose turn came earlier. One
    /// that was asked for at once stays so.
    fn move_start(&mut self, id: Id, due: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let State::Waiting(planned @ Some(_)) = entry.state
        {
            let due = Some(due.max(Instant::now()));
            self.waiting.remove(&(planned, id));
            self.waiting.insert((due, id));
            entry.state = State::Waiting(due);
        }
    }

    fn probe_now(&mut self, key: &K) {
        let Some(id) = self.ids.get(key) else { return };
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        match &mut entry.state {
            State::Running { again, .. } => *again = true,
            State::Waiting(due) => {
                self.waiting.remove(&(*due, *id));
                self.waiting.insert((None, *id));
                *due = None;
            }
        }
    }
}

/// Whose fault a timeout is. Where the timer itself came much too late, this
/// process did not run: it cannot have seen an answer either, and must not
/// blame the endpoint.
fn timed_out(latency: Duration, limit: Duration) -> Failure {
    let late = latency.saturating_sub(limit);
    if late > (limit / 2).max(LEAST_LATENESS) {
        return Failure::Local(format!(
            "this process was kept from running for {} ms",
            late.as_millis()
        ));
    }
    Failure::Timeout
}

#[cfg(test)]
mod tests;
