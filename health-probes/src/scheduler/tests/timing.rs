//! When probes start, and how soon a failure is known.

use proptest::prelude::*;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_interval_runs_from_start_to_start() {
    let schedule = Schedule {
        // No whole number of a timer's milliseconds.
        interval: Duration::from_micros(5_000_300),
        ..STEADY
    };
    let mut bench = Bench::new(1, 8, 1, |_| (ms(300), Ok(())));
    bench.prober.set_targets(vec![target(1, schedule)]);
    let reports = bench.pass(secs(60)).await;
    let starts = bench.starts(1);
    assert_eq!(starts[0], Duration::ZERO);
    let gaps = gaps(&starts);
    // Only the first interval is cut, to spread targets out.
    assert!(gaps[0] <= schedule.interval, "{gaps:?}");
    assert!(gaps.len() >= 11, "{gaps:?}");
    for gap in &gaps[1..] {
        assert_gap(*gap, schedule.interval);
    }
    for report in reports {
        assert_eq!(
            (report.key, report.latency, report.result),
            (1, ms(300), Ok(()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_longer_than_its_interval_is_followed_at_once() {
    let schedule = Schedule {
        timeout: secs(20),
        ..STEADY
    };
    let mut bench = Bench::new(4, 8, 1, |_| (secs(7), Ok(())));
    bench.prober.set_targets(vec![target(1, schedule)]);
    bench.pass(secs(60)).await;
    let gaps = gaps(&bench.starts(1));
    assert_eq!(gaps, vec![secs(7); gaps.len()]);
    assert_eq!(gaps.len(), 8);
    assert_eq!(bench.seen.lock().unwrap().most_of_one, 1);
}

#[tokio::test(start_paused = true)]
async fn jitter_only_shortens() {
    let schedule = Schedule {
        jitter_percent: 30,
        ..STEADY
    };
    let mut bench = Bench::new(1, 8, 7, |_| WELL);
    bench.prober.set_targets(vec![target(1, schedule)]);
    bench.pass(secs(1000)).await;
    let gaps = gaps(&bench.starts(1));
    let gaps = &gaps[1..];
    assert!(gaps.len() >= 199, "{}", gaps.len());
    assert!(gaps.iter().all(|gap| *gap <= secs(5)));
    assert!(gaps.iter().all(|gap| *gap + GRAIN >= ms(3500)));
    // Over its whole range, and not by one fixed amount.
    assert!(gaps.iter().any(|gap| *gap < ms(3700)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap > ms(4800)), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn first_intervals_spread_targets_out() {
    let mut bench = Bench::new(1000, 8, 3, |_| WELL);
    bench.prober.set_targets(targets(0..1000, STEADY));
    bench.pass(secs(6)).await;
    let mut tenths = [0; 10];
    for key in 0..1000 {
        let starts = bench.starts(key);
        assert_eq!(starts[0], Duration::ZERO);
        tenths[(starts[1].as_millis() as usize / 500).min(9)] += 1;
    }
    assert!(tenths.iter().all(|n| (60..=140).contains(n)), "{tenths:?}");
}

#[tokio::test(start_paused = true)]
async fn those_that_recover_together_are_spread_out_again() {
    let mut bench = Bench::new(1000, 8, 3, |_| WELL);
    bench.prober.set_targets(targets(0..1000, STEADY));
    (0..1000).for_each(|key| bench.prober.set_pace(&key, Pace::Fast));
    bench.pass(ms(10_200)).await;
    (0..1000).for_each(|key| bench.prober.set_pace(&key, Pace::Normal));
    let recovered = Instant::now();
    bench.pass(secs(20)).await;
    let seen = bench.seen.lock().unwrap();
    // Once all is settled again: 200 a second, not 1000 within half a second.
    let (from, to) = (recovered + secs(10), recovered + ms(10_500));
    let burst = seen
        .starts
        .values()
        .flatten()
        .filter(|start| (from..to).contains(start))
        .count();
    assert!((60..=140).contains(&burst), "{burst}");
}

#[tokio::test(start_paused = true)]
async fn a_fast_pace_pulls_the_next_start_forward() {
    let mut bench = Bench::new(1, 8, 1, |_| WELL);
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(secs(12)).await;
    // Run up to a start, from where the next is known.
    let last = bench.last_start(1);
    bench.pass(last + secs(5) + ms(100) - secs(12)).await;
    let last = bench.last_start(1);

    // Soon after the start: the fast interval from it.
    bench.prober.set_pace(&1, Pace::Fast);
    bench.pass(ms(700)).await;
    assert_gap(bench.last_start(1) - last, ms(500));
    let fast = bench.starts(1).len();
    bench.pass(secs(10)).await;
    for gap in gaps(&bench.starts(1)[fast - 1..]) {
        assert_gap(gap, ms(500));
    }

    // Back to normal: no later than the interval from the last start.
    bench.prober.set_pace(&1, Pace::Normal);
    let last = bench.last_start(1);
    bench.pass(secs(11)).await;
    let later: Vec<_> = bench.starts(1).into_iter().filter(|s| *s > last).collect();
    assert!(later[0] - last <= secs(5));
    assert_gap(later[1] - later[0], secs(5));

    // Long after the start: at once.
    let last = bench.last_start(1);
    let now = Instant::now() - bench.begin;
    bench.pass(last + secs(8) - now).await;
    let now = Instant::now() - bench.begin;
    assert!(now - bench.last_start(1) > ms(500));
    bench.prober.set_pace(&1, Pace::Fast);
    bench.pass(ms(100)).await;
    assert_eq!(bench.last_start(1), now);
}

#[tokio::test(start_paused = true)]
async fn a_fast_pace_never_puts_off() {
    // The first interval is cut at random, often below the fast one.
    let mut below = 0;
    for seed in 0..50 {
        let mut second = Vec::new();
        for pace in [Pace::Normal, Pace::Fast] {
            let mut bench = Bench::new(1, 8, seed, |_| WELL);
            bench.prober.set_targets(vec![target(1, STEADY)]);
            bench.pass(ms(11)).await;
            bench.prober.set_pace(&1, pace);
            bench.pass(secs(6)).await;
            second.push(bench.starts(1)[1]);
        }
        assert!(second[1] <= second[0].min(ms(500)), "{seed}: {second:?}");
        below += usize::from(second[0] < ms(500));
    }
    assert!(below > 0);
}

#[tokio::test(start_paused = true)]
async fn a_pace_that_is_set_again_changes_nothing() {
    let mut bench = Bench::new(1, 8, 1, |_| WELL);
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(secs(6)).await;
    let count = bench.starts(1).len();
    for _ in 0..50 {
        bench.prober.set_pace(&1, Pace::Normal);
        bench.pass(secs(1)).await;
    }
    for gap in gaps(&bench.starts(1)[count - 1..]) {
        assert_gap(gap, secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pace_set_while_a_probe_is_under_way_counts_after_it() {
    let mut bench = Bench::new(1, 8, 1, |_| (ms(400), Ok(())));
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(ms(100)).await;
    bench.prober.set_pace(&1, Pace::Fast);
    bench.pass(ms(2000)).await;
    let gaps = gaps(&bench.starts(1));
    assert_eq!(gaps.len(), 4, "{gaps:?}");
    gaps.into_iter().for_each(|gap| assert_gap(gap, ms(500)));
}

#[tokio::test(start_paused = true)]
async fn probe_now_starts_at_once() {
    let mut bench = Bench::new(1, 8, 1, |_| WELL);
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(secs(7)).await;
    let count = bench.starts(1).len();
    let now = Instant::now() - bench.begin;
    bench.prober.probe_now(&1);
    bench.pass(secs(6)).await;
    let starts = bench.starts(1);
    assert_eq!(starts[count], now);
    // And the interval runs from there.
    assert_gap(starts[count + 1] - now, secs(5));
}

#[tokio::test(start_paused = true)]
async fn probe_now_while_one_is_under_way_gives_one_more() {
    let mut bench = Bench::new(4, 8, 1, |_| (ms(400), Ok(())));
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(ms(100)).await;
    (0..5).for_each(|_| bench.prober.probe_now(&1));
    bench.pass(ms(350)).await;
    (0..5).for_each(|_| bench.prober.probe_now(&99));
    bench.pass(ms(50)).await;
    assert_eq!(bench.starts(1), [ms(0), ms(400)]);
    bench.pass(secs(11)).await;
    let starts = bench.starts(1);
    assert_gap(starts[2] - starts[1], secs(5));
    assert_eq!(bench.seen.lock().unwrap().most_of_one, 1);
}

/// One run of the caller's part against an endpoint that is lost at `fault`:
/// how long after it `fall` failures in a row were known.
fn detect(
    schedule: Schedule,
    fall: u32,
    fault: Duration,
    latency: Duration,
    seed: u64,
) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let lost = Instant::now() + fault;
        let mut bench = Bench::new(1, 1, seed, move |_| {
            // An answer under way at the fault still comes: so the fault is not
            // seen by that probe, which is the worst case.
            if Instant::now() < lost {
                (latency, Ok(()))
            } else {
                SILENT
            }
        });
        bench.prober.set_targets(vec![target(1, schedule)]);
        let mut failures = 0;
        while failures < fall {
            let report = bench.reports.recv().await.unwrap();
            match report.result {
                Ok(()) => failures = 0,
                Err(failure) => {
                    assert_eq!(failure, Failure::Timeout);
                    failures += 1;
                    bench.prober.set_pace(&1, Pace::Fast);
                }
            }
        }
        Instant::now() - lost
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// The bound that the crate promises, whatever the phase of the fault.
    #[test]
    fn a_black_hole_is_known_in_time(
        interval in 100_000u64..10_000_000,
        fast in 10_000u64..2_000_000,
        timeout in 10u64..2_000,
        latency in 0u64..2_000,
        jitter_percent in 0u8..=100,
        fall in 1u32..6,
        fault in 0u64..40_000_000,
        seed: u64,
    ) {
        let (interval, fast) = (Duration::from_micros(interval), Duration::from_micros(fast));
        // Whole milliseconds, which is what timers can do.
        let timeout = ms(timeout);
        let schedule = Schedule {
            interval,
            fast_interval: fast,
            timeout,
            // Half of all cases without, as jitter hides lateness.
            jitter_percent: jitter_percent.saturating_sub(50),
        };
        let latency = ms(latency).min(timeout - ms(1));
        let fault = Duration::from_micros(fault);
        let took = detect(schedule, fall, fault, latency, seed);
        // A start due during a probe comes after it.
        let bound = interval.max(latency) + fast.max(timeout) * (fall - 1) + timeout;
        prop_assert!(took <= bound, "{took:?} is over {bound:?}");
    }
}

#[test]
fn the_defaults_detect_within_six_and_a_half_seconds() {
    let worst = (0..2000)
        .map(|step| detect(STEADY, 3, secs(20) + ms(step * 5), ms(1), step))
        .max()
        .unwrap();
    assert!(worst <= ms(6500), "{worst:?}");
    // The bound is tight: a looser schedule would be found out here.
    assert!(worst >= ms(6450), "{worst:?}");
}
