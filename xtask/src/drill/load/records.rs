//! What a drill's client saw, kept raw: every new connection and every break
//! of a live one. The figures are computed from these records afterwards
//! ([`crate::drill::measure`]), so that none of them depends on a clock of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Index of an endpoint in the list a drill was started with.
pub type EndpointId = u16;

/// The zero of a drill's time: the same instant by the monotonic and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall: SystemTime,
}

impl Clock {
    /// A clock that stands at zero now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The same clock in another process, from what [`Clock::zero`] said in the
    /// first. The wall clock serves for this one moment only; from there on both
    /// go by the monotonic one.
    #[must_use]
    pub fn continued(zero: Duration) -> Self {
        let wall = UNIX_EPOCH + zero;
        let (now, since) = (Instant::now(), wall.elapsed().unwrap_or_default());
        Self {
            origin: now.checked_sub(since).unwrap_or(now),
            wall,
        }
    }

    /// The zero by the wall clock, as the time since 1970.
    #[must_use]
    pub fn zero(&self) -> Duration {
        self.wall.duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// Microseconds since the drill's zero.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.us(Instant::now())
    }

    /// Microseconds from the drill's zero to `instant`; 0 when it was before.
    #[must_use]
    pub fn us(&self, instant: Instant) -> u64 {
        to_us(instant.saturating_duration_since(self.origin))
    }

    /// Microseconds from the drill's zero to a wall-clock time in milliseconds
    /// since 1970, as another process reports it; 0 when it was before.
    #[must_use]
    pub fn us_of_unix_ms(&self, unix_ms: u64) -> u64 {
        unix_ms
            .saturating_mul(1000)
            .saturating_sub(to_us(self.zero()))
    }
}

/// A duration in whole microseconds.
#[must_use]
pub fn to_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How the attempt at one new connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// Established and answered within the patience.
    Answered,
    /// Answered, but only after the patience had run out: a failure, with the
    /// note that waiting would have helped.
    Delayed,
    /// Refused: no one listens.
    Refused,
    /// Reset, or closed before the answer.
    Reset,
    /// Not answered for as long as the client was ready to keep waiting.
    TimedOut,
    /// No route, no host, or another error the network reported.
    Unreachable,
    /// Answered by what is no drill server.
    Malformed,
    /// Answered with a status of 500 or above.
    Error,
}

impl Outcome {
    /// Whether the attempt counts as failed.
    #[must_use]
    pub fn failed(self) -> bool {
        self != Self::Answered
    }
}

/// One attempt at a new connection, or in a drill of the proxy one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, counted through all processes of the client.
    pub id: u32,
    /// When it began, microseconds of the drill's clock.
    pub start_us: u64,
    /// From there to its outcome, microseconds.
    pub latency_us: u32,
    /// Who answered, if anyone did; also with an error.
    pub endpoint: Option<EndpointId>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a live connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BreakKind {
    /// The other side sent RST.
    Reset,
    /// The other side closed it.
    Closed,
    /// A request went unanswered for longer than the stall limit. The client
    /// keeps the connection and waits on, so that a real error may follow.
    Stalled,
    /// Another endpoint than the connection's own answered.
    Missteered,
    /// No route, no host, or another error the network reported.
    Unreachable,
    /// Bytes that are no answer, or an answer that was not asked for.
    Malformed,
}

/// One break of one live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// Which connection.
    pub connection: u32,
    /// The endpoint it belonged to.
    pub endpoint: EndpointId,
    /// When the client learned of it, microseconds of the drill's clock.
    pub at_us: u64,
    /// What it saw.
    pub kind: BreakKind,
}

/// What is counted besides. The vectors are by endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answers read.
    pub answers: Vec<u64>,
    /// Live connections opened.
    pub live_opened: Vec<u64>,
    /// Requests on live connections that were written and never answered.
    pub live_unanswered: Vec<u64>,
    /// The same on connections whose endpoint never showed.
    pub unanswered: u64,
    /// Live connections that could not be opened, after all tries.
    pub live_given_up: u64,
    /// The latest that the schedule of new connections was served, microseconds.
    pub new_lag_us: u64,
    /// Requests for which no kept connection was free, so that they had a new one.
    pub overflow: u64,
    /// The latest that a process of live connections got to its timer, microseconds.
    pub live_lag_us: u64,
}

impl Counts {
    /// Nothing counted of `endpoints` endpoints.
    #[must_use]
    pub fn new(endpoints: usize) -> Self {
        Self {
            answers: vec![0; endpoints],
            live_opened: vec![0; endpoints],
            live_unanswered: vec![0; endpoints],
            ..Self::default()
        }
    }

    /// Adds what another process of the client counted, of the same endpoints.
    pub fn add(&mut self, other: &Self) {
        let add = |ours: &mut Vec<u64>, theirs: &[u64]| {
            for (our, their) in ours.iter_mut().zip(theirs) {
                *our += their;
            }
        };
        add(&mut self.answers, &other.answers);
        add(&mut self.live_opened, &other.live_opened);
        add(&mut self.live_unanswered, &other.live_unanswered);
        self.unanswered += other.unanswered;
        self.live_given_up += other.live_given_up;
        self.overflow += other.overflow;
        self.new_lag_us = self.new_lag_us.max(other.new_lag_us);
        self.live_lag_us = self.live_lag_us.max(other.live_lag_us);
    }
}

/// What the client saw, in a run or in a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Attempts at new connections, in the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// Breaks of live connections, in the order in which they were seen.
    pub breaks: Vec<Break>,
    /// What is counted besides.
    pub counts: Counts,
}

/// Collects what the connections of one process see.
#[derive(Debug)]
pub struct Recorder {
    clock: Clock,
    seen: Mutex<Records>,
    local_error: Mutex<Option<String>>,
}

impl Recorder {
    /// An empty recorder for `endpoints` endpoints.
    #[must_use]
    pub fn new(endpoints: usize, clock: Clock) -> Self {
        let seen = Records {
            counts: Counts::new(endpoints),
            ..Records::default()
        };
        Self {
            clock,
            seen: Mutex::new(seen),
            local_error: Mutex::new(None),
        }
    }

    /// The clock of every record.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Keeps an attempt.
    pub fn attempt(&self, attempt: Attempt) {
        lock(&self.seen).attempts.push(attempt);
    }

    /// Keeps a break.
    pub fn broke(&self, event: Break) {
        lock(&self.seen).breaks.push(event);
    }

    /// Counts something.
    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut lock(&self.seen).counts);
    }

    /// Counts an answer of `endpoint` that the client has read.
    pub fn answered(&self, endpoint: EndpointId) {
        self.count(|counts| counts.answers[usize::from(endpoint)] += 1);
    }

    /// Counts a request written on a live connection of `endpoint` and never answered.
    pub fn live_unanswered(&self, endpoint: EndpointId) {
        self.count(|counts| counts.live_unanswered[usize::from(endpoint)] += 1);
    }

    /// Keeps the first error that was this machine's own (out of ports or
    /// descriptors): it makes the drill worthless rather than the director bad.
    pub fn local_error(&self, message: impl FnOnce() -> String) {
        lock(&self.local_error).get_or_insert_with(message);
    }

    /// The first local error, if there was one.
    #[must_use]
    pub fn first_local_error(&self) -> Option<String> {
        lock(&self.local_error).clone()
    }

    /// Takes the attempts and breaks since the last call, with a copy of the counts.
    #[must_use]
    pub fn take(&self) -> Records {
        let mut seen = lock(&self.seen);
        Records {
            attempts: std::mem::take(&mut seen.attempts),
            breaks: std::mem::take(&mut seen.breaks),
            counts: seen.counts.clone(),
        }
    }
}

/// Whoever panicked while holding the lock has at worst lost its own record.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_stays_small() {
        // A default drill keeps some 150,000 of them.
        assert!(size_of::<Attempt>() <= 24, "{}", size_of::<Attempt>());
    }

    #[test]
    fn the_wall_clock_of_another_process_maps_onto_ours() {
        let clock = Clock::start();
        let wall_ms = to_us(clock.zero()) / 1000;
        let mapped = clock.us_of_unix_ms(wall_ms + 1500);
        assert!((1_499_000..=1_500_000).contains(&mapped), "{mapped}");
        assert_eq!(clock.us_of_unix_ms(0), 0);
    }

    #[test]
    fn the_clock_goes_on_in_another_process() {
        let clock = Clock::start();
        let other = Clock::continued(clock.zero());
        let instant = Instant::now();
        assert!(clock.us(instant).abs_diff(other.us(instant)) < 100_000);
    }

    #[test]
    fn counts_of_processes_add_up_and_the_worst_lag_stands() {
        let mut sum = Counts::new(2);
        for lag in [7, 3] {
            let mut counts = Counts::new(2);
            counts.answers = vec![1, 10];
            counts.live_opened = vec![2, 20];
            counts.live_unanswered = vec![3, 30];
            (counts.unanswered, counts.live_given_up) = (4, 5);
            (counts.new_lag_us, counts.live_lag_us) = (lag, 2 * lag);
            sum.add(&counts);
        }
        assert_eq!((sum.answers, sum.live_opened), (vec![2, 20], vec![4, 40]));
        assert_eq!(
            (sum.live_unanswered, sum.unanswered, sum.live_given_up),
            (vec![6, 60], 8, 10)
        );
        assert_eq!((sum.new_lag_us, sum.live_lag_us), (7, 14));
    }

    #[test]
    fn what_was_taken_is_not_given_twice_but_counts_stand() {
        let recorder = Recorder::new(1, Clock::start());
        recorder.answered(0);
        recorder.attempt(Attempt {
            id: 0,
            start_us: 1,
            latency_us: 2,
            endpoint: Some(0),
            outcome: Outcome::Answered,
        });
        assert_eq!(recorder.take().attempts.len(), 1);
        let rest = recorder.take();
        assert_eq!((rest.attempts.len(), rest.counts.answers), (0, vec![1]));
    }

    #[test]
    fn the_first_local_error_stands() {
        let recorder = Recorder::new(1, Clock::start());
        recorder.local_error(|| "first".into());
        recorder.local_error(|| "second".into());
        assert_eq!(recorder.first_local_error().as_deref(), Some("first"));
    }
}
