#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Duration;

use super::super::topology::three_sites;
use super::*;

const PATIENCE: Duration = Duration::from_millis(900);
const S: u64 = 1_000_000;

fn marks() -> Marks {
    Marks {
        fault: 10 * S,
        injected: 10 * S + 2000,
        detected: Some(15 * S),
        recovery: 25 * S,
        recovered: None,
        end: 50 * S,
        windows: Windows::default(),
    }
}

fn answered(start_us: u64, endpoint: u16) -> Attempt {
    Attempt {
        id: 0,
        start_us,
        latency_us: 1000,
        endpoint: Some(endpoint),
        outcome: Outcome::Answered,
    }
}

fn failing(start_us: u64, latency_us: u32, outcome: Outcome) -> Attempt {
    Attempt {
        id: 0,
        start_us,
        latency_us,
        endpoint: None,
        outcome,
    }
}

/// `rate` attempts a second over `span`, dealt to the sites by `weights` of 10.
fn steady(span: Span, rate: u64, weights: [u64; 3]) -> Vec<Attempt> {
    let step = S / rate;
    let mut random = fastrand::Rng::with_seed(span.from);
    let mut deal = || {
        let mut ticket = random.u64(..10);
        for (site, weight) in (0_u16..).zip(weights) {
            match ticket.checked_sub(weight) {
                Some(rest) => ticket = rest,
                None => return site * 2 + u16::from(random.bool()),
            }
        }
        unreachable!("the weights add up to 10")
    };
    (0..(span.to - span.from) / step)
        .map(|n| answered(span.from + n * step, deal()))
        .collect()
}

#[test]
fn shares_count_what_was_answered_in_time_in_the_span_only() {
    let topology = three_sites("dc01");
    let mut attempts = vec![
        answered(5, 0),
        answered(5, 1),
        answered(6, 2),
        answered(9, 5),
        answered(10, 5),
        answered(4, 5),
    ];
    attempts.push(failing(6, 1000, Outcome::Refused));
    attempts.push(Attempt {
        outcome: Outcome::Delayed,
        ..answered(6, 4)
    });
    let shares = shares(&attempts, &topology, Span { from: 5, to: 10 });
    assert_eq!(shares.counts, [2, 1, 1]);
    assert_eq!(shares.by_site, [0.5, 0.25, 0.25]);
}

#[test]
fn an_empty_window_has_no_shares() {
    let shares = shares(&[], &three_sites("dc01"), Span { from: 0, to: 9 });
    assert_eq!((shares.total, shares.by_site), (0, vec![0.0; 3]));
}

#[test]
fn rto_is_the_start_of_the_last_failure_and_delayed_ones_fail() {
    let attempts = [
        answered(9 * S, 0),
        failing(11 * S, 400, Outcome::Refused),
        Attempt {
            outcome: Outcome::Delayed,
            latency_us: 1_100_000,
            ..answered(14 * S, 2)
        },
        failing(12 * S, 5_000_000, Outcome::TimedOut),
        answered(20 * S, 2),
    ];
    let failed = failed(&attempts, &marks(), PATIENCE);
    assert_eq!(failed.rto_us, 4 * S);
    assert_eq!(failed.after_fault, 3);
    assert_eq!(failed.delayed, 1);
    assert_eq!(failed.before_fault, 0);
    assert!((failed.share - 0.75).abs() < 1e-9);
    let kinds = [Outcome::Delayed, Outcome::Refused, Outcome::TimedOut].map(|kind| (kind, 1));
    assert_eq!(failed.by_outcome, kinds);
}

#[test]
fn without_failures_the_rto_is_zero() {
    let failed = failed(&[answered(11 * S, 2)], &marks(), PATIENCE);
    assert_eq!(failed, Failed::default());
}

#[test]
fn one_under_way_at_the_fault_is_its_victim_and_one_out_of_patience_is_not() {
    let attempts = [
        // Begun 3 ms before and reset by the fault.
        failing(10 * S - 3000, 3500, Outcome::Reset),
        // Given up after the fault, but it had failed by then.
        failing(8 * S, 5_000_000, Outcome::TimedOut),
        failing(2 * S, 300, Outcome::Refused),
    ];
    let failed = failed(&attempts, &marks(), PATIENCE);
    assert_eq!((failed.after_fault, failed.before_fault), (1, 2));
    assert_eq!(failed.rto_us, 0);
}

fn broke(connection: u32, endpoint: u16, at_us: u64, kind: BreakKind) -> Break {
    Break {
        connection,
        endpoint,
        at_us,
        kind,
    }
}

#[test]
fn a_surviving_connection_breaks_once_whatever_followed() {
    let topology = three_sites("dc01");
    let breaks = [
        broke(1, 0, 11 * S, BreakKind::Reset),
        broke(2, 2, 11 * S, BreakKind::Stalled),
        broke(2, 2, 13 * S, BreakKind::Reset),
        broke(3, 5, 30 * S, BreakKind::Missteered),
        // Of the hit site, but before it was hit.
        broke(4, 1, 9 * S, BreakKind::Closed),
    ];
    let (count, kinds) = broken_surviving(&breaks, &topology, &marks(), false);
    assert_eq!(count, 3);
    let expected = [BreakKind::Closed, BreakKind::Stalled, BreakKind::Missteered];
    assert_eq!(kinds, expected.map(|kind| (kind, 1)));
    let (planned, _) = broken_surviving(&breaks, &topology, &marks(), true);
    assert_eq!(planned, 4, "a planned change breaks none of any site");
}

#[test]
fn the_lost_sites_clients_learn_by_the_error_and_not_by_their_impatience() {
    let topology = three_sites("dc01");
    let mut records = Records::default();
    records.counts.live_opened = vec![60, 41, 70, 70, 40, 40];
    records.breaks.push(broke(7, 0, 9 * S, BreakKind::Reset));
    for connection in 100..198 {
        let at = 10 * S + u64::from(connection - 99) * 10_000;
        records
            .breaks
            .push(broke(connection, 1, at, BreakKind::Reset));
    }
    records
        .breaks
        .push(broke(198, 0, 15 * S, BreakKind::Stalled));
    records.breaks.push(broke(198, 0, 18 * S, BreakKind::Reset));
    records
        .breaks
        .push(broke(199, 0, 15 * S, BreakKind::Stalled));
    records.breaks.push(broke(500, 2, 15 * S, BreakKind::Reset));

    let lost = lost(&records, &topology, &marks());
    assert_eq!(lost.connections, 100);
    assert_eq!(lost.unlearned, 1);
    assert_eq!(lost.by_kind, [(BreakKind::Reset, 99)]);
    let learned = lost.learned.unwrap();
    let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
    assert!(near(learned.p50, 500.0), "{learned:?}");
    assert!(near(learned.p99, 8000.0), "{learned:?}");
    // The one that never learned waited until the end.
    assert!(near(learned.max, 40_000.0), "{learned:?}");
}

#[test]
fn a_recovered_site_counts_from_the_second_that_starts_its_weight() {
    let topology = three_sites("dc01");
    let back = 31 * S + 300_000;
    let out = Span {
        from: 25 * S,
        to: back,
    };
    let full = Span {
        from: back,
        to: 40 * S,
    };
    let mut attempts = steady(out, 2000, [0, 6, 4]);
    attempts.extend(steady(full, 2000, [5, 3, 2]));
    let at = |now| recovered_at(&attempts, &topology, 25 * S, now);
    assert_eq!(at(31 * S), None);
    assert_eq!(at(back + 2 * S), None, "not for long enough yet");
    let recovered = at(40 * S).unwrap();
    // A window of a second is within tolerance a little before it is full.
    assert!(recovered.abs_diff(back) <= 100_000, "{recovered}");
}

#[test]
fn a_site_that_falls_back_has_not_recovered() {
    let topology = three_sites("dc01");
    let span = |from, to| Span {
        from: from * S,
        to: to * S,
    };
    let mut attempts = steady(span(25, 28), 2000, [5, 3, 2]);
    attempts.extend(steady(span(28, 40), 2000, [0, 6, 4]));
    assert_eq!(recovered_at(&attempts, &topology, 25 * S, 40 * S), None);
    assert_eq!(recovered_at(&[], &topology, 25 * S, 40 * S), None);
}

#[test]
fn small_samples_are_given_their_scatter_and_large_ones_two_points() {
    assert!((tolerance(0.5, 20_000, 4.0) - 0.02).abs() < 1e-9);
    assert!((tolerance(0.5, 100, 4.0) - 0.2).abs() < 1e-9);
    assert!((tolerance(0.0, 10, 4.0) - 0.02).abs() < 1e-9);
    assert!((tolerance(0.5, 0, 4.0) - 0.02).abs() < 1e-9);
}

#[test]
fn the_timeline_has_every_attempt_of_its_span_once() {
    let topology = three_sites("dc01");
    let span = Span { from: S, to: 3 * S };
    let mut attempts = steady(span, 1000, [5, 3, 2]);
    attempts.push(failing(2 * S, 10, Outcome::Refused));
    attempts.push(answered(3 * S, 0));
    attempts.push(answered(0, 0));
    let timeline = timeline(&attempts, &topology, span);
    assert_eq!(timeline.len(), 20);
    let answered: u32 = timeline.iter().flat_map(|one| &one.answered).sum();
    assert_eq!(answered, 2000);
    assert_eq!(timeline[10].failed, 1);
    assert_eq!(timeline.iter().map(|one| one.failed).sum::<u32>(), 1);
}

#[test]
fn latency_is_of_those_answered() {
    let span = Span { from: 0, to: S };
    assert_eq!(latency(&[failing(1, 7, Outcome::Refused)], span), None);
    let attempts: Vec<Attempt> = (1..=100)
        .map(|ms| Attempt {
            id: 0,
            latency_us: ms * 1000,
            ..answered(1, 0)
        })
        .collect();
    let times = latency(&attempts, span).unwrap();
    assert!((times.p50 - 50.0).abs() < 0.1, "{times:?}");
    assert!((times.p99 - 99.0).abs() < 0.1, "{times:?}");
    assert!((times.max - 100.0).abs() < 0.1, "{times:?}");
}
