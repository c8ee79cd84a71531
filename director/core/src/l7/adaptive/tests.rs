use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::*;

const BOUNDS: AdaptiveConcurrency = AdaptiveConcurrency {
    minimum: 4,
    maximum: 1000,
};

/// Time that a server works on a request, on average.
const SERVICE: Duration = Duration::from_millis(50);

/// A server that works on `capacity` requests at once and queues the others, and
/// its clients, who come at random.
struct Play {
    limit: Arc<AdaptiveLimit>,
    random: fastrand::Rng,
    capacity: usize,
    service: Duration,
    now: Now,
    /// Ends of requests that are worked on, and their number.
    working: BinaryHeap<Reverse<(Now, usize)>>,
    waiting: VecDeque<usize>,
    requests: Vec<(Now, Option<Admitted>)>,
    latencies: Vec<Duration>,
    refused: usize,
}

impl Play {
    fn new(capacity: usize, seed: u64) -> Self {
        Self {
            limit: Arc::new(AdaptiveLimit::new(BOUNDS)),
            random: fastrand::Rng::with_seed(seed),
            capacity,
            service: SERVICE,
            now: Now::ZERO,
            working: BinaryHeap::new(),
            waiting: VecDeque::new(),
            requests: Vec::new(),
            latencies: Vec::new(),
            refused: 0,
        }
    }

    /// An exponential time of this mean.
    fn time(&mut self, mean: f64) -> Duration {
        Duration::from_secs_f64(-mean * (1.0 - self.random.f64()).ln())
    }

    fn work(&mut self) {
        while self.working.len() < self.capacity
            && let Some(number) = self.waiting.pop_front()
        {
            // Half of it is the same for all.
            let half = self.service / 2;
            let took = half + self.time(half.as_secs_f64());
            self.working.push(Reverse((self.now + took, number)));
        }
    }

    /// Runs on with `load` times as many requests as the server can answer, and
    /// forgets what was before.
    fn run(&mut self, seconds: u64, load: f64) {
        self.latencies.clear();
        self.refused = 0;
        let until = self.now + Duration::from_secs(seconds);
        let between = self.service.as_secs_f64() / self.capacity as f64 / load;
        let mut next = self.now + self.time(between);
        while self.now < until {
            match self.working.peek() {
                Some(&Reverse((end, number))) if end <= next => {
                    self.working.pop();
                    self.now = end;
                    let (began, admitted) = &mut self.requests[number];
                    let latency = end - *began;
                    admitted
                        .take()
                        .expect("under way")
                        .settle(latency, false, end);
                    self.latencies.push(latency);
                }
                _ => {
                    self.now = next;
                    next = self.now + self.time(between);
                    match self.limit.admit() {
                        Some(admitted) => {
                            self.waiting.push_back(self.requests.len());
                            self.requests.push((self.now, Some(admitted)));
                        }
                        None => self.refused += 1,
                    }
                }
            }
            self.work();
            let limit = self.limit.limit();
            assert!((BOUNDS.minimum..=BOUNDS.maximum).contains(&limit));
        }
    }

    fn is_measuring(&self) -> bool {
        let gradient = self.limit.gradient.lock().expect("no other thread");
        !matches!(gradient.phase, Phase::Follow)
    }

    fn p99(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }

    /// Answers by what the server could have answered.
    fn use_of(&self, seconds: u64) -> f64 {
        let most = self.capacity as f64 * seconds as f64 / self.service.as_secs_f64();
        self.latencies.len() as f64 / most
    }

    fn assert_settled(&mut self, load: f64) {
        let limit = self.limit.limit() as usize;
        let capacity = self.capacity;
        assert!(
            limit * 5 >= capacity * 4 && limit <= capacity * 2 + 10,
            "a limit of {limit} for {capacity} under {load}"
        );
    }
}

#[test]
fn under_too_much_load_the_limit_is_near_what_the_server_takes() {
    for (seed, capacity) in (0..).zip([10, 20, 100, 300]) {
        for load in [1.2, 2.0, 5.0] {
            let mut play = Play::new(capacity, seed);
            play.run(10, load);
            for _ in 0..4 {
                play.run(30, load);
                let (p99, used) = (play.p99(), play.use_of(30));
                while play.is_measuring() {
                    play.run(1, load);
                }
                play.assert_settled(load);
                assert!(p99 < SERVICE * 5, "{p99:?} for {capacity} under {load}");
                assert!(used > 0.9, "{used} of {capacity} under {load}");
            }
        }
    }
}

#[test]
fn a_load_that_the_server_can_take_is_not_refused() {
    for (seed, capacity) in (0..).zip([10, 50, 300]) {
        let mut play = Play::new(capacity, seed);
        play.run(30, 0.6);
        play.run(120, 0.6);
        let share = play.refused as f64 / play.latencies.len() as f64;
        assert!(share < 0.001, "{share} refused of {capacity}");
    }
}

#[test]
fn it_follows_a_server_that_takes_less_and_then_more() {
    let mut play = Play::new(100, 1);
    play.run(60, 1.5);
    play.capacity = 40;
    play.run(20, 1.5);
    play.run(5, 1.5);
    assert!(play.limit.limit() < 90, "{}", play.limit.limit());
    play.capacity = 200;
    play.run(20, 1.5);
    play.run(5, 1.5);
    assert!(play.limit.limit() > 150, "{}", play.limit.limit());
}

#[test]
fn it_gets_used_to_a_server_that_became_slower() {
    let mut play = Play::new(50, 1);
    play.run(60, 1.5);
    play.service = SERVICE * 3;
    play.run(120, 1.5);
    assert!(play.limit.limit() > 35, "{}", play.limit.limit());
}

#[test]
fn failures_lower_it_never_below_the_least() {
    let limit = Arc::new(AdaptiveLimit::new(BOUNDS));
    let mut last = limit.limit();
    for second in 0..100 {
        for milli in 0..100 {
            let now = Duration::from_millis(second * 1000 + milli * 10);
            let admitted = limit.admit().expect("one at a time");
            admitted.settle(Duration::from_millis(1), milli % 2 == 0, now);
            assert!(limit.limit() <= last);
            last = limit.limit();
        }
    }
    assert_eq!(last, BOUNDS.minimum);
    let all: Vec<_> = std::iter::from_fn(|| limit.admit()).collect();
    assert_eq!(all.len(), 4);
    drop(all);
    assert_eq!(limit.in_flight(), 0);
}
