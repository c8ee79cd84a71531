//! The live connections: long, quiet, and each expecting the endpoint it began with.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::arrivals::ARRIVALS_FROM;
use super::exchange::{Failure, disturbed, exchange, open};
use super::records::{Break, BreakKind, Counts, EndpointId, to_us};
use super::worker::{Context, Gates};

/// Live connections opened a second, by all processes together.
const OPENING_PACE: u32 = 4000;
/// Connections being opened at once, per process: a burst of handshakes beyond
/// what the servers accept in a few milliseconds measures their queues.
const OPENING_AT_ONCE: usize = 256;
/// A connection is opened and first answered within this, or tried again.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// Source ports of the tries to open a connection, after which it is given up.
const PORTS: [Range<u16>; 3] = [1024..7424, 7424..13_824, 13_824..ARRIVALS_FROM];
/// How long an exchange under way may still take when the load is stopped.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// How often a process looks whether it is late.
const LAG_TICK: Duration = Duration::from_millis(20);

/// One process's share of the live connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Number of the first connection of this share.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// Connections opened a second.
    pub pace: u32,
}

/// Opens this process's share, keeps it exchanging until told to stop, and
/// returns once all of it is closed.
pub async fn run(context: Arc<Context>, share: Share, gates: Gates) {
    // Every task holds a sender; when the last is dropped, all have ended.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let mut stop = gates.stop.clone();
    let lag = tokio::spawn(watch_lag(Arc::clone(&context), gates.measure.clone()));
    tokio::select! {
        () = open_all(&context, share, &gates, &alive) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(alive);
    // Even when all are broken: that is a result, not the end of the drill.
    let _ = stop.wait_for(|stop| *stop).await;
    let _ = ended.recv().await;
    lag.abort();
}

async fn open_all(context: &Arc<Context>, share: Share, gates: &Gates, alive: &mpsc::Sender<()>) {
    let slots = Arc::new(Semaphore::new(OPENING_AT_ONCE));
    let begin = Instant::now();
    for n in 0..share.count {
        sleep_until(begin + Duration::from_secs(u64::from(n)) / share.pace.max(1)).await;
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return; // The semaphore is never closed.
        };
        let context = Arc::clone(context);
        let (stop, alive) = (gates.stop.clone(), alive.clone());
        tokio::spawn(async move {
            connection(&context, share.first + n, slot, stop).await;
            drop(alive);
        });
    }
}

async fn connection(
    context: &Context,
    id: u32,
    slot: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let established = tokio::select! {
        established = establish(context, id) => established,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    drop(slot);
    let Some((stream, endpoint)) = established else {
        context.recorder.count(|counts| counts.live_given_up += 1);
        return;
    };
    let opened = usize::from(endpoint);
    context
        .recorder
        .count(|counts| counts.live_opened[opened] += 1);
    let broke = |kind| {
        context.recorder.broke(Break {
            connection: id,
            endpoint,
            at_us: context.recorder.clock().now_us(),
            kind,
        });
    };
    // The golden ratio spreads any number of phases evenly.
    let phase = (f64::from(id) * 0.618_033_988_749_895).fract();
    let mut next = Instant::now() + context.period.mul_f64(phase);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            failure = disturbed(&stream) => return broke(failure.break_kind()),
            () = sleep_until(next) => {}
        }
        let answered = converse(context, &stream, endpoint, &mut stop, &broke).await;
        if !answered {
            return;
        }
        // Keeps its phase, unless the answer took longer than a period.
        next = (next + context.period).max(Instant::now());
    }
}

async fn establish(context: &Context, id: u32) -> Option<(TcpStream, EndpointId)> {
    let target = context.target(u64::from(id));
    for ports in PORTS {
        let source = context.source(u64::from(id), &ports);
        let mut asked = false;
        let attempt = async {
            let stream = open(source, target).await?;
            asked = true;
            let endpoint = exchange(&stream, &context.endpoints).await?;
            Ok::<_, Failure>((stream, endpoint))
        };
        match timeout(OPEN_LIMIT, attempt).await {
            Ok(Ok((stream, endpoint))) => {
                context.recorder.answered(endpoint);
                return Some((stream, endpoint));
            }
            Ok(Err(Failure::Local(error))) => context
                .recorder
                .local_error(|| format!("cannot open a live connection from {source}: {error}")),
            Ok(Err(_)) | Err(_) => {}
        }
        if asked {
            context.recorder.count(|counts| counts.unanswered += 1);
        }
    }
    None
}

/// One exchange; false when the connection is over.
async fn converse(
    context: &Context,
    stream: &TcpStream,
    endpoint: EndpointId,
    stop: &mut watch::Receiver<bool>,
    broke: &impl Fn(BreakKind),
) -> bool {
    let asking = exchange(stream, &context.endpoints);
    tokio::pin!(asking);
    let stalls_at = Instant::now() + context.stall;
    let mut stalled = false;
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
        sleep(LAST_ANSWER).await;
    };
    tokio::pin!(stopped);
    let outcome = loop {
        tokio::select! {
            // In this order: when this process was late itself, an answer that
            // is there already must not be taken for a stall.
            biased;
            outcome = &mut asking => break outcome,
            () = &mut stopped => {
                context.recorder.live_unanswered(endpoint);
                return false;
            }
            // It waits on: what the network itself will say, and when, is
            // part of what a drill measures.
            () = sleep_until(stalls_at), if !stalled => {
                stalled = true;
                broke(BreakKind::Stalled);
            }
        }
    };
    match outcome {
        Ok(answering) => {
            context.recorder.answered(answering);
            if answering != endpoint {
                broke(BreakKind::Missteered);
            }
            answering == endpoint
        }
        Err(failure) => {
            context.recorder.live_unanswered(endpoint);
            broke(failure.break_kind());
            false
        }
    }
}

/// Notes how late this process serves its timers, while it measures.
async fn watch_lag(context: Arc<Context>, mut measure: watch::Receiver<bool>) {
    if measure.wait_for(|measure| *measure).await.is_err() {
        return;
    }
    let mut ticks = interval(LAG_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = ticks.tick().await;
        let lag_us = to_us(due.elapsed());
        let noted = |counts: &mut Counts| counts.live_lag_us = counts.live_lag_us.max(lag_us);
        context.recorder.count(noted);
    }
}

/// Splits the live connections over `processes`, none of them empty.
pub fn shares(connections: u32, processes: u32) -> Vec<Share> {
    let processes = processes.min(connections);
    let mut first = 0;
    (0..processes)
        .map(|index| {
            let count = connections / processes + u32::from(index < connections % processes);
            let share = Share {
                first,
                count,
                pace: (OPENING_PACE / processes).max(1),
            };
            first += count;
            share
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_add_up() {
        for (connections, processes) in [(1, 2), (7, 3), (50_000, 3), (8, 8)] {
            let shares = shares(connections, processes);
            let mut next = 0;
            for share in &shares {
                assert_eq!(share.first, next);
                assert!(share.count > 0);
                next += share.count;
            }
            assert_eq!(next, connections);
            let pace: u32 = shares.iter().map(|share| share.pace).sum();
            assert!(pace <= OPENING_PACE && pace > 0);
        }
    }
}
