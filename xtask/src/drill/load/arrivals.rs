//! New connections in an open loop: the clock alone decides when one begins,
//! so that a slow answer never spares the service the next one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::exchange::{Failure, exchange, open};
use super::records::{Attempt, Counts, Outcome, to_us};
use super::worker::{Context, Gates};

/// The first source port of new connections; those below are for live ones.
pub const ARRIVALS_FROM: u16 = 20_224;
/// At 10,000 a second from 32 addresses they last for more than two minutes.
pub const PORTS: Range<u16> = ARRIVALS_FROM..u16::MAX;
/// How often a process starts what is due: tokio's timer knows no finer step.
const TICK: Duration = Duration::from_millis(1);

/// Which of the arrivals are one process's: every `of`-th, from `index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// This process.
    pub index: u32,
    /// All of them.
    pub of: u32,
    /// New connections a second that all of them begin together.
    pub rate: u32,
}

/// Begins this process's arrivals when told to measure, until told to stop, and
/// returns once each has its outcome.
pub async fn run(context: Arc<Context>, shard: Shard, gates: Gates) {
    let begin = |number, _| {
        let context = Arc::clone(&context);
        async move { attempt(&context, number).await }
    };
    in_open_loop(&context, shard, gates, begin).await;
}

/// Calls `begin` with the number of each of this process's arrivals and when it
/// was due, from the order to measure until the one to stop; returns once what it
/// began has ended.
pub async fn in_open_loop<F>(
    context: &Context,
    shard: Shard,
    mut gates: Gates,
    begin: impl Fn(u64, Instant) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let started = tokio::select! {
        started = gates.measure.wait_for(|measure| *measure) => started.is_ok(),
        _ = gates.stop.wait_for(|stop| *stop) => false,
    };
    if !started {
        return;
    }
    let (alive, mut ended) = mpsc::channel::<()>(1);
    schedule(context, shard, &mut gates.stop, &alive, begin).await;
    drop(alive);
    let _ = ended.recv().await;
}

async fn schedule<F>(
    context: &Context,
    shard: Shard,
    stop: &mut watch::Receiver<bool>,
    alive: &mpsc::Sender<()>,
    begin: impl Fn(u64, Instant) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let zero = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = u64::from(shard.index);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = Instant::now();
        loop {
            let due = zero + due_after(next, shard.rate);
            if due > now {
                break;
            }
            let lag_us = to_us(now - due);
            let noted = |counts: &mut Counts| counts.new_lag_us = counts.new_lag_us.max(lag_us);
            context.recorder.count(noted);
            let (alive, arrival) = (alive.clone(), begin(next, due));
            tokio::spawn(async move {
                arrival.await;
                drop(alive);
            });
            next += u64::from(shard.of);
        }
    }
}

/// Splits `rate` new connections a second over `processes`.
pub fn shards(rate: u32, processes: u32) -> Vec<Shard> {
    let of = processes.clamp(1, rate.max(1));
    (0..of).map(|index| Shard { index, of, rate }).collect()
}

/// When arrival `number` is due, from the first; exact however long it runs.
fn due_after(number: u64, rate: u32) -> Duration {
    let rate = u64::from(rate.max(1));
    let rest = Duration::from_secs(number % rate) / u32::try_from(rate).unwrap_or(u32::MAX);
    Duration::from_secs(number / rate) + rest
}

async fn attempt(context: &Context, number: u64) {
    let begin = Instant::now();
    let source = context.source(number, &PORTS);
    let mut asked = false;
    let trying = async {
        let stream = open(source, context.target(number)).await?;
        asked = true;
        let endpoint = exchange(&stream, &context.endpoints).await?;
        // The answer's arrival ends the attempt; closing is not part of it.
        Ok::<_, Failure>((endpoint, begin.elapsed()))
    };
    let result = timeout(context.give_up, trying).await;
    let (outcome, endpoint, latency) = match result {
        Ok(Ok((endpoint, latency))) => {
            context.recorder.answered(endpoint);
            let outcome = if latency <= context.patience {
                Outcome::Answered
            } else {
                Outcome::Delayed
            };
            (outcome, Some(endpoint), latency)
        }
        Ok(Err(failure)) => match failure.outcome() {
            Some(outcome) => (outcome, None, begin.elapsed()),
            None => {
                context.recorder.local_error(|| {
                    format!("cannot open a new connection from {source}: {failure:?}")
                });
                (Outcome::Unreachable, None, begin.elapsed())
            }
        },
        Err(_) => (Outcome::TimedOut, None, begin.elapsed()),
    };
    if asked && endpoint.is_none() {
        context.recorder.count(|counts| counts.unanswered += 1);
    }
    context.recorder.attempt(Attempt {
        id: u32::try_from(number).unwrap_or(u32::MAX),
        start_us: context.recorder.clock().us(begin.into_std()),
        latency_us: u32::try_from(to_us(latency)).unwrap_or(u32::MAX),
        endpoint,
        outcome,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift() {
        for rate in [1, 3, 7, 2000, 19_999] {
            for seconds in [0, 1, 59, 3600] {
                let number = u64::from(rate) * seconds;
                assert_eq!(due_after(number, rate), Duration::from_secs(seconds));
            }
        }
        assert_eq!(due_after(1, 2000), Duration::from_micros(500));
        assert!(due_after(6, 7) < Duration::from_secs(1));
    }
}
