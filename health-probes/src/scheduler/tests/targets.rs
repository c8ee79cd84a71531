//! Targets that come, change and go.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[tokio::test(start_paused = true)]
async fn unchanged_targets_keep_their_place_and_pace() {
    let mut bench = Bench::new(10, 8, 1, |_| WELL);
    bench.prober.set_targets(targets(0..3, STEADY));
    bench.prober.set_pace(&1, Pace::Fast);
    bench.pass(secs(10)).await;
    let before = [0, 1].map(|key| bench.last_start(key));
    // Given again, in another order and among others.
    bench.prober.set_targets(vec![
        target(7, STEADY),
        target(1, STEADY),
        target(0, STEADY),
    ]);
    let now = Instant::now() - bench.begin;
    bench.pass(secs(5)).await;
    for (key, gap, before) in [(0, secs(5), before[0]), (1, ms(500), before[1])] {
        let starts = bench.starts(key);
        let next = starts.into_iter().find(|start| *start > before).unwrap();
        assert_gap(next - before, gap);
    }
    assert_eq!(bench.starts(7)[0], now);
    assert!(bench.last_start(2) < now);
}

#[tokio::test(start_paused = true)]
async fn a_changed_schedule_applies_from_the_last_start() {
    let mut bench = Bench::new(10, 8, 1, |_| WELL);
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(secs(12)).await;
    let last = bench.last_start(1);
    let schedule = Schedule {
        interval: secs(60),
        ..STEADY
    };
    bench.prober.set_targets(vec![target(1, schedule)]);
    bench.pass(secs(100)).await;
    let starts = bench.starts(1);
    let next = starts.into_iter().find(|start| *start > last).unwrap();
    assert_gap(next - last, secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_changed_probe_makes_a_new_target() {
    let mut bench = Bench::new(10, 8, 1, |key| if key == 1 { SILENT } else { WELL });
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.prober.set_pace(&1, Pace::Fast);
    bench.pass(secs(12) + ms(100)).await;
    let changed = Target {
        probe: probe_of(2),
        ..target(1, STEADY)
    };
    let now = Instant::now() - bench.begin;
    bench.prober.set_targets(vec![changed]);
    let reports = bench.pass(secs(20)).await;
    // At once, at normal pace, and nothing more of the old one, which was under way.
    let starts = bench.starts(2);
    assert_eq!(starts[0], now);
    assert_gap(starts[2] - starts[1], secs(5));
    assert!(bench.last_start(1) < now);
    assert_eq!(reports.len(), starts.len());
    assert!(reports.iter().all(|report| report.result == Ok(())));
}

#[tokio::test(start_paused = true)]
async fn the_probe_of_a_removed_target_is_abandoned() {
    let mut bench = Bench::new(2, 8, 1, |key| if key < 2 { SILENT } else { WELL });
    bench.prober.set_targets(targets(0..2, STEADY));
    assert_eq!(bench.pass(ms(100)).await, []);
    // Its slot is free at once, and no report comes of it.
    bench.prober.set_targets(targets(2..4, STEADY));
    let reports = bench.pass(ms(100)).await;
    assert_eq!(bench.seen.lock().unwrap().abandoned, 2);
    let keys: Vec<_> = reports.iter().map(|report| report.key).collect();
    assert_eq!(keys[..2], [2, 3]);
    assert!(keys.iter().all(|key| *key >= 2), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn a_target_removed_and_given_again_starts_anew() {
    let mut bench = Bench::new(1, 8, 1, |_| WELL);
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(secs(7)).await;
    bench.prober.set_targets(Vec::new());
    let count = bench.starts(1).len();
    assert_eq!(bench.pass(secs(60)).await, []);
    assert_eq!(bench.starts(1).len(), count);
    let now = Instant::now() - bench.begin;
    bench.prober.set_targets(vec![target(1, STEADY)]);
    bench.pass(ms(10)).await;
    assert_eq!(bench.starts(1)[count], now);
}

#[tokio::test(start_paused = true)]
async fn of_a_key_given_twice_the_later_target_counts() {
    let mut bench = Bench::new(10, 8, 1, |_| WELL);
    let twice = |schedule| {
        let later = Target {
            probe: probe_of(2),
            ..target(1, schedule)
        };
        vec![target(1, schedule), later]
    };
    bench.prober.set_targets(twice(STEADY));
    bench.pass(secs(12)).await;
    assert_eq!(bench.starts(1), []);
    assert!(bench.starts(2).len() >= 3);
    bench.prober.set_targets(Vec::new());
    bench.pass(ms(10)).await;
    assert_eq!(bench.pass(secs(12)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_is_a_local_fault_and_not_the_last() {
    let broken = Arc::new(AtomicBool::new(true));
    let mut bench = Bench::new(1, 8, 1, move |_| {
        assert!(!broken.swap(false, Ordering::Relaxed), "broken on purpose");
        WELL
    });
    bench.prober.set_targets(vec![target(1, STEADY)]);
    let reports = bench.pass(secs(12)).await;
    assert!(
        matches!(&reports[0].result, Err(Failure::Local(_))),
        "{reports:?}"
    );
    assert_eq!(reports[1].result, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn extreme_schedules_do_no_harm() {
    let longest = Schedule {
        interval: Duration::MAX,
        fast_interval: Duration::MAX,
        timeout: Duration::MAX,
        jitter_percent: u8::MAX,
    };
    let shortest = Schedule {
        interval: Duration::ZERO,
        fast_interval: Duration::ZERO,
        timeout: Duration::ZERO,
        jitter_percent: 0,
    };
    let mut bench = Bench::new(2, 8, 1, |_| WELL);
    bench
        .prober
        .set_targets(vec![target(1, longest), target(2, shortest)]);
    bench.prober.set_pace(&1, Pace::Fast);
    let reports = bench.pass(secs(1)).await;
    let of = |key| reports.iter().filter(move |report| report.key == key);
    assert!(of(1).all(|report| report.result == Ok(())) && of(1).count() >= 1);
    assert!(of(2).all(|report| report.result == Err(Failure::Timeout)) && of(2).count() >= 1);
}
