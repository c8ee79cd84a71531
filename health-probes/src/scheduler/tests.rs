//! The scheduler in virtual time, over an imagined network.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod load;
mod targets;
mod timing;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use super::*;
use crate::Prober;

/// How an imagined endpoint answers: after how long, and what.
type Answer = (Duration, Result<(), Failure>);

const WELL: Answer = (Duration::from_millis(10), Ok(()));
const REFUSED: Answer = (Duration::from_millis(10), Err(Failure::Refused));
const SILENT: Answer = (Duration::from_secs(1 << 30), Ok(()));

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the imagined network saw.
#[derive(Default)]
struct Seen {
    /// Starts of probes by target, oldest first.
    starts: HashMap<u32, Vec<Instant>>,
    /// The same for all targets in one row.
    order: Vec<u32>,
    running: HashMap<u32, usize>,
    all_running: usize,
    /// The most probes under way at once, of one target and of all.
    most_of_one: usize,
    most: usize,
    ended: usize,
    abandoned: usize,
}

/// Counts a probe as under way, and as abandoned when it is dropped before its end.
struct UnderWay {
    seen: Arc<Mutex<Seen>>,
    key: u32,
    ended: bool,
}

impl UnderWay {
    fn begin(seen: &Arc<Mutex<Seen>>, key: u32) -> Self {
        let mut inner = seen.lock().unwrap();
        inner.starts.entry(key).or_default().push(Instant::now());
        inner.order.push(key);
        let of_one = inner.running.entry(key).or_default();
        *of_one += 1;
        inner.most_of_one = (*of_one).max(inner.most_of_one);
        inner.all_running += 1;
        inner.most = inner.most.max(inner.all_running);
        Self {
            seen: Arc::clone(seen),
            key,
            ended: false,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut inner = self.seen.lock().unwrap();
        inner.all_running -= 1;
        if let Some(of_one) = inner.running.get_mut(&self.key) {
            *of_one -= 1;
        }
        match self.ended {
            true => inner.ended += 1,
            false => inner.abandoned += 1,
        }
    }
}

/// A prober over an imagined network.
struct Bench {
    prober: Prober<u32>,
    reports: mpsc::Receiver<Report<u32>>,
    seen: Arc<Mutex<Seen>>,
    begin: Instant,
}

impl Bench {
    /// `answer` is asked at the start of every probe. `room` is the report channel's.
    fn new<A>(concurrency: usize, room: usize, seed: u64, answer: A) -> Self
    where
        A: Fn(u32) -> Answer + Clone + Send + 'static,
    {
        let (sender, reports) = mpsc::channel(room);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let network = Arc::clone(&seen);
        let probe = move |probe: Arc<Probe>| {
            let (network, answer) = (Arc::clone(&network), answer.clone());
            async move {
                let key = key_of(&probe);
                let mut under_way = UnderWay::begin(&network, key);
                let (delay, result) = answer(key);
                tokio::time::sleep(delay).await;
                under_way.ended = true;
                result
            }
        };
        let rng = fastrand::Rng::with_seed(seed);
        Self {
            prober: Prober::spawn_scheduler(Scheduler::new(concurrency, rng, probe), sender),
            reports,
            seen,
            begin: Instant::now(),
        }
    }

    /// Lets `duration` of virtual time pass, and hands out the reports made in it.
    async fn pass(&mut self, duration: Duration) -> Vec<Report<u32>> {
        let end = Instant::now() + duration;
        let mut all = Vec::new();
        while let Ok(Some(report)) = tokio::time::timeout_at(end, self.reports.recv()).await {
            all.push(report);
        }
        all
    }

    /// When probes of a target started, since the bench was made.
    fn starts(&self, key: u32) -> Vec<Duration> {
        let seen = self.seen.lock().unwrap();
        let starts = seen.starts.get(&key).into_iter().flatten();
        starts.map(|start| *start - self.begin).collect()
    }

    fn last_start(&self, key: u32) -> Duration {
        *self.starts(key).last().unwrap()
    }
}

fn target(key: u32, schedule: Schedule) -> Target<u32> {
    Target {
        key,
        probe: probe_of(key),
        schedule,
    }
}

fn targets(keys: std::ops::Range<u32>, schedule: Schedule) -> Vec<Target<u32>> {
    keys.map(|key| target(key, schedule)).collect()
}

/// The key is hidden in the address, so that the network knows whom it plays.
fn probe_of(key: u32) -> Probe {
    let address = SocketAddr::from((Ipv4Addr::from_bits(0x7f00_0000 | key), 80));
    Probe::Tcp { address }
}

fn key_of(probe: &Probe) -> u32 {
    match probe {
        Probe::Tcp {
            address: SocketAddr::V4(address),
        } => address.ip().to_bits() & 0x00ff_ffff,
        other => panic!("{other:?} is not of this network"),
    }
}

/// The default schedule, without its jitter.
const STEADY: Schedule = Schedule {
    interval: Duration::from_secs(5),
    fast_interval: Duration::from_millis(500),
    timeout: Duration::from_millis(500),
    jitter_percent: 0,
};

fn gaps(starts: &[Duration]) -> Vec<Duration> {
    starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// A start may be early by the clock's grain, and is never late.
fn assert_gap(gap: Duration, expected: Duration) {
    assert!(
        gap <= expected && gap + GRAIN >= expected,
        "{gap:?} is not {expected:?}"
    );
}

#[test]
fn a_timer_that_came_late_is_not_the_endpoints_fault() {
    let limit = Duration::from_millis(500);
    for late in [0, 1, 250] {
        let latency = limit + Duration::from_millis(late);
        assert_eq!(
            timed_out(latency, limit),
            Failure::Timeout,
            "{late} ms late"
        );
    }
    let told = timed_out(Duration::from_millis(1300), limit);
    let expected = "this process was kept from running for 800 ms";
    assert_eq!(told, Failure::Local(expected.to_owned()));
    // A short limit does not make a busy host's common lateness count.
    let short = Duration::from_millis(20);
    assert_eq!(
        timed_out(Duration::from_millis(110), short),
        Failure::Timeout
    );
}
