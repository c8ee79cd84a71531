//! Whole outages, played back from a seed: a random model, random faults,
//! drains, reloads and restarts on a virtual clock, and checkers after each
//! event. What is checked is in `check.rs`, the truth it is held against in
//! `oracle.rs`, and what happens to the world in `world.rs`.
//!
//! A seed that fails is printed with the command that plays it again, traced.
//! `SIM_SEEDS=n` runs that many seeds instead of the usual number.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use sabotage::Sabotage;
use stats::Stats;
use world::World;

mod check;
mod oracle;
mod prober;
mod sabotage;
mod scenario;
mod stats;
mod world;

/// Returns a violation unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err(format!($($message)+));
        }
    };
}

/// Seeds of a usual run.
const SEEDS: u64 = 1_000;
/// Virtual time of a seed.
const SPAN: Duration = Duration::from_secs(60);

/// A seed that violated something.
#[derive(Debug)]
struct Failed {
    seed: u64,
    violation: String,
}

fn run_seed(seed: u64, sabotage: &Sabotage, is_traced: bool) -> Result<Stats, Failed> {
    let mut world = World::new(seed, sabotage.clone(), is_traced);
    match world.run(SPAN) {
        Ok(()) => Ok(world.stats),
        Err(violation) => Err(Failed { seed, violation }),
    }
}

/// Runs seeds on all processors until one fails.
fn run_seeds(count: u64, sabotage: &Sabotage) -> Result<Stats, Failed> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut stats = Stats::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return Ok(stats);
            }
            match run_seed(seed, sabotage, false) {
                Ok(of_seed) => stats.add(&of_seed),
                Err(failed) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(failed);
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, |n| n.get());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut stats = Stats::default();
        for worker in workers {
            match worker.join() {
                Ok(of_worker) => stats.add(&of_worker?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(stats)
    })
}

fn from_env(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    let Ok(number) = value.parse() else {
        panic!("{name} must be a number, not {value:?}");
    };
    Some(number)
}

#[test]
fn outages() {
    let result = match from_env("SIM_SEED") {
        Some(seed) => run_seed(seed, &Sabotage::default(), true).map(|stats| (stats, Vec::new())),
        None => run_seeds(from_env("SIM_SEEDS").unwrap_or(SEEDS), &Sabotage::default())
            .map(|stats| (stats, stats.missing())),
    };
    match result {
        Ok((stats, missing)) => {
            println!("{stats:?}");
            assert!(missing.is_empty(), "this never happened: {missing:?}");
        }
        Err(Failed { seed, violation }) => panic!(
            "seed {seed}: {violation}\nplay it again: SIM_SEED={seed} \
             cargo test -p director-core --test sim outages -- --nocapture"
        ),
    }
}
