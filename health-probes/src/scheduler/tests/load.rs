//! Many targets, few slots, slow readers.

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrency_is_never_exceeded_and_waiting_costs_no_timeout() {
    let mut bench = Bench::new(7, 8, 1, |_| (ms(400), Ok(())));
    bench.prober.set_targets(targets(0..100, STEADY));
    let reports = bench.pass(secs(60)).await;
    // 7 slots of 400 ms each: more is due than they can serve.
    assert!(reports.len() >= 7 * 149, "{}", reports.len());
    for report in &reports {
        assert_eq!((report.latency, &report.result), (ms(400), &Ok(())));
    }
    let seen = bench.seen.lock().unwrap();
    assert_eq!(seen.most, 7);
    assert_eq!(seen.most_of_one, 1);
    // First probes in the order given.
    assert_eq!(seen.order[..100], (0..100).collect::<Vec<_>>());
    // And nobody starves: they take turns.
    let counts: Vec<_> = seen.starts.values().map(Vec::len).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 2, "{least}..{most}");
}

#[tokio::test(start_paused = true)]
async fn no_concurrency_is_taken_as_one() {
    let mut bench = Bench::new(0, 8, 1, |_| WELL);
    bench.prober.set_targets(targets(0..3, STEADY));
    assert_eq!(bench.pass(secs(1)).await[..3].len(), 3);
    assert_eq!(bench.seen.lock().unwrap().most, 1);
}

#[tokio::test(start_paused = true)]
async fn probe_now_goes_ahead_of_the_queue() {
    let mut bench = Bench::new(1, 8, 1, |_| (ms(400), Ok(())));
    bench.prober.set_targets(targets(0..50, STEADY));
    bench.pass(ms(100)).await;
    bench.prober.probe_now(&40);
    bench.pass(secs(1)).await;
    assert_eq!(bench.seen.lock().unwrap().order[..3], [0, 40, 1]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_targets_are_each_probed_in_time() {
    let schedule = Schedule {
        jitter_percent: 10,
        ..STEADY
    };
    let mut bench = Bench::new(256, 1024, 5, |key| match key % 100 {
        0 => SILENT,
        1 => REFUSED,
        _ => WELL,
    });
    bench.prober.set_targets(targets(0..10_000, schedule));
    let reports = bench.pass(secs(120)).await;
    for report in &reports {
        let expected = match report.key % 100 {
            0 => Err(Failure::Timeout),
            1 => Err(Failure::Refused),
            _ => Ok(()),
        };
        assert_eq!(report.result, expected);
    }
    for key in 0..10_000 {
        let starts = bench.starts(key);
        // The first round queues for slots: 10,000 by 256 of 10 ms, some of 500 ms.
        assert!(starts[0] <= secs(1), "{key}: {starts:?}");
        let count = starts.len();
        assert!((23..=29).contains(&count), "{key}: {count} probes");
        for gap in gaps(&starts) {
            assert!(gap <= secs(5), "{key}: {gap:?}");
        }
    }
    let seen = bench.seen.lock().unwrap();
    assert!(seen.most <= 256, "{}", seen.most);
    assert_eq!(seen.most_of_one, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_report_channel_loses_nothing() {
    let mut bench = Bench::new(4, 1, 1, |_| WELL);
    bench.prober.set_targets(targets(0..20, STEADY));
    // Nobody reads: the channel, the outbox and the slots fill up, and all waits.
    tokio::time::sleep(secs(30)).await;
    let ended = bench.seen.lock().unwrap().ended;
    assert_eq!(ended, 1 + 1 + 4);
    let reports = bench.pass(secs(30)).await;
    assert_eq!(bench.seen.lock().unwrap().ended, reports.len());
    let mut first: Vec<_> = reports[..20].iter().map(|report| report.key).collect();
    first.sort_unstable();
    assert_eq!(first, (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn commands_are_obeyed_while_the_report_channel_is_full() {
    let mut bench = Bench::new(2, 1, 1, |_| WELL);
    bench.prober.set_targets(targets(0..20, STEADY));
    tokio::time::sleep(secs(30)).await;
    bench.prober.set_targets(vec![target(50, STEADY)]);
    let reports = bench.pass(secs(5)).await;
    // One was in the channel already; those kept behind it are dropped.
    let keys: Vec<_> = reports.iter().map(|report| report.key).collect();
    assert!(keys[0] < 20 && keys.len() > 1, "{keys:?}");
    assert!(keys[1..].iter().all(|key| *key == 50), "{keys:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_prober_stops_everything() {
    let mut bench = Bench::new(10, 8, 1, |_| SILENT);
    bench.prober.set_targets(targets(0..20, STEADY));
    bench.pass(ms(100)).await;
    drop(bench.prober);
    // The channel closes, so the scheduler is gone, and its probes with it.
    assert_eq!(bench.reports.recv().await, None);
    let seen = bench.seen.lock().unwrap();
    assert_eq!((seen.abandoned, seen.all_running), (10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_nobody_listens_to_ends_at_once() {
    for answer in [SILENT, WELL] {
        let Bench {
            prober, reports, ..
        } = Bench::new(10, 1, 1, move |_| answer.clone());
        prober.set_targets(targets(0..20, STEADY));
        tokio::time::sleep(ms(100)).await;
        let now = Instant::now();
        drop(reports);
        prober.commands.closed().await;
        assert_eq!(Instant::now(), now);
        prober.probe_now(&1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_slower_than_its_interval_takes_turns() {
    let slow = Schedule {
        timeout: secs(20),
        ..STEADY
    };
    // Due after the slow one's interval, and before its end.
    let other = Schedule {
        interval: ms(6500),
        ..STEADY
    };
    let mut bench = Bench::new(
        1,
        8,
        1,
        |key| {
            if key == 0 { (secs(7), Ok(())) } else { WELL }
        },
    );
    let mut all = targets(1..10, other);
    all.push(target(0, slow));
    bench.prober.set_targets(all);
    bench.pass(secs(70)).await;
    let seen = bench.seen.lock().unwrap();
    let turns = seen.order.split(|key| *key == 0).map(<[u32]>::len);
    // All the others between any two of the slow one, once the first round and
    // its cut intervals are over.
    let turns: Vec<_> = turns.collect();
    assert!(turns.len() >= 9, "{turns:?}");
    assert!(
        turns[2..turns.len() - 1].iter().all(|n| *n == 9),
        "{turns:?}"
    );
}

/// A scheduler by itself, whose targets were each probed once.
async fn probed_once(
    targets: Vec<Target<u32>>,
) -> Scheduler<u32, impl Fn(Arc<Probe>) -> std::future::Ready<Result<(), Failure>> + Send> {
    let well = |_| std::future::ready(Ok(()));
    let mut scheduler = Scheduler::new(1, fastrand::Rng::with_seed(1), well);
    let count = targets.len();
    scheduler.set_targets(targets);
    for _ in 0..count {
        scheduler.start_due();
        let ended = scheduler.tasks.join_next_with_id().await.unwrap();
        scheduler.finish(ended);
    }
    scheduler
}

#[tokio::test(start_paused = true)]
async fn a_start_pulled_forward_does_not_overtake_the_queue() {
    let schedule = Schedule {
        interval: secs(1000),
        ..STEADY
    };
    let mut scheduler = probed_once(vec![target(1, schedule)]).await;
    tokio::time::advance(secs(3)).await;
    scheduler.set_targets(vec![target(1, schedule), target(2, schedule)]);
    tokio::time::advance(secs(1)).await;
    scheduler.set_pace(&1, Pace::Fast);
    let queue: Vec<_> = scheduler.waiting.iter().map(|(_, id)| *id).collect();
    assert_eq!(queue, [scheduler.ids[&2], scheduler.ids[&1]]);
    assert_eq!(scheduler.waiting.last().unwrap().0, Some(Instant::now()));
    // While one that was asked for at once stays ahead of it.
    scheduler.probe_now(&1);
    scheduler.set_pace(&1, Pace::Normal);
    scheduler.set_pace(&1, Pace::Fast);
    let first = *scheduler.waiting.first().unwrap();
    assert_eq!(first, (None, scheduler.ids[&1]));
}

#[tokio::test(start_paused = true)]
async fn targets_given_again_keep_their_place_in_the_queue() {
    let mut scheduler = probed_once(targets(0..50, STEADY)).await;
    tokio::time::advance(secs(1000)).await;
    let queue = scheduler.waiting.clone();
    assert_eq!(queue.len(), 50);
    scheduler.set_targets(targets(0..50, STEADY));
    assert_eq!(scheduler.waiting, queue);
}
