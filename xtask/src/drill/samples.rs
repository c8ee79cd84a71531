//! A made-up run of a default drill, for the tests of what judges and shows it.

use std::time::Duration;

use clap::Parser;

use super::figures::Run;
use super::load::records::{Attempt, Break, BreakKind, Counts, Outcome, Records};
use super::measure::{Marks, Span, Windows, recovered_at};
use super::plan::{Args, Plan};
use super::proxy;
use super::stats::Snapshot;
use super::topology::{Topology, three_sites};

const S: u64 = 1_000_000;
const RATE: u64 = 2000;
const FAULT: u64 = 22 * S;
const DETECTED: u64 = FAULT + 5_640_000;
const RECOVERY: u64 = DETECTED + 9_500_000;
const BACK: u64 = RECOVERY + 6_200_000;
const END: u64 = RECOVERY + 23 * S;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
}

/// The arguments of a command line.
pub fn args(options: &str) -> Result<Args, clap::Error> {
    let words = std::iter::once("failover").chain(options.split_whitespace());
    Ok(Command::try_parse_from(words)?.args)
}

/// The plan of a command line.
pub fn plan(options: &str) -> anyhow::Result<Plan> {
    Plan::new(&args(options)?)
}

/// A run in which dc01 was killed and all went well, with its topology.
pub fn killed() -> (Topology, Run) {
    let topology = three_sites("dc01");
    let records = records(&topology);
    (topology.clone(), figures(&records, &topology))
}

/// A run of a drill of the edge proxy in which all went well, with its topology.
pub fn proxied() -> (Topology, Run, proxy::Figures) {
    let topology = three_sites("dc01");
    let mut records = records(&topology);
    records.breaks.clear();
    records.counts.live_opened.fill(0);
    let mut carried_out = vec![Vec::new(); topology.endpoints().len()];
    for (id, attempt) in (0..).zip(&mut records.attempts) {
        // What was refused at first was tried again elsewhere.
        let endpoint = attempt.endpoint.unwrap_or(if id % 5 < 3 { 2 } else { 4 });
        if attempt.outcome.failed() {
            records.counts.answers[usize::from(endpoint)] += 1;
        }
        (attempt.id, attempt.endpoint, attempt.outcome) = (id, Some(endpoint), Outcome::Answered);
        let noted: &mut Vec<u8> = &mut carried_out[usize::from(endpoint)];
        noted.resize(id as usize + 1, 0);
        noted[id as usize] = 1;
    }
    let states = [("open", 2), ("half_open", 2), ("closed", 1)];
    let states = states.map(|(state, times)| (state.to_owned(), times));
    let seen = proxy::Seen {
        after: proxy::metrics::Counters {
            retries: 700,
            transitions: [("dc01".to_owned(), states.into())].into(),
            ..Default::default()
        },
        breaker_open: Some(FAULT + 40_000),
        carried_out,
        ..Default::default()
    };
    let run = figures(&records, &topology).proxied(&records.attempts, &topology, &seen);
    let figures = run.proxy.clone().unwrap_or_default();
    (topology, run, figures)
}

/// What is computed from `records` of [`records`].
pub fn figures(records: &Records, topology: &Topology) -> Run {
    let span = |from, to| Span { from, to };
    let marks = Marks {
        fault: FAULT,
        injected: FAULT + 3000,
        detected: Some(DETECTED),
        recovery: RECOVERY,
        recovered: recovered_at(&records.attempts, topology, RECOVERY, END),
        end: END,
        windows: Windows {
            before: span(FAULT - 10 * S, FAULT),
            during: span(DETECTED, RECOVERY),
            after: span(END - 10 * S, END),
        },
    };
    let servers: Vec<Snapshot> = records
        .counts
        .answers
        .iter()
        .map(|&answered| Snapshot {
            answered,
            ..Snapshot::default()
        })
        .collect();
    let patience = Duration::from_millis(900);
    Run::new(records, marks, topology, &servers, patience, false)
}

/// What the client of such a run records: refusals from the fault to the
/// verdict, every live connection of dc01 reset within 200 ms.
pub fn records(topology: &Topology) -> Records {
    let mut random = fastrand::Rng::with_seed(1);
    let mut records = Records {
        counts: Counts {
            live_opened: vec![12_500, 12_500, 7500, 7500, 5000, 5000],
            new_lag_us: 3000,
            live_lag_us: 40_000,
            ..Counts::new(topology.endpoints().len())
        },
        ..Records::default()
    };
    let step = S / RATE;
    for number in 0..(END - FAULT + 10 * S) / step {
        let start_us = FAULT - 10 * S + number * step;
        let out = (DETECTED..BACK).contains(&start_us);
        let ticket = random.f64() * if out { 0.5 } else { 1.0 };
        let endpoint = match ticket {
            ticket if ticket < 0.3 => 2,
            ticket if ticket < 0.5 => 4,
            _ => 0,
        } + u16::from(random.bool());
        let refused = topology.is_hit(endpoint) && (FAULT..DETECTED).contains(&start_us);
        if !refused {
            records.counts.answers[usize::from(endpoint)] += 1;
        }
        records.attempts.push(Attempt {
            id: 0,
            start_us,
            latency_us: 200 + random.u32(..900),
            endpoint: (!refused).then_some(endpoint),
            outcome: if refused {
                Outcome::Refused
            } else {
                Outcome::Answered
            },
        });
    }
    for connection in 0..25_000 {
        records.breaks.push(Break {
            connection,
            endpoint: u16::from(connection % 2 == 0),
            at_us: FAULT + 1000 + u64::from(connection) * 8,
            kind: BreakKind::Reset,
        });
    }
    records
}
