//! The drill's client: live connections that must not break, and new ones at a
//! steady rate; or, in a drill of the proxy, requests at a steady rate.
//!
//! It is a few processes ([`worker`]) and what directs them ([`Load`]). New
//! connections have processes of their own with a better CPU priority than
//! those of live ones: a lost site breaks tens of thousands of live connections
//! within milliseconds, and seeing to those must not delay what measures the
//! outage.

mod arrivals;
mod exchange;
mod live;
pub mod records;
mod requests;
#[cfg(test)]
mod tests;
mod wire;
pub mod worker;

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::system;
use records::{Attempt, Clock, Counts, Records, lock};
use worker::{Job, Message, Order, Part, send};

/// A live connection unanswered for longer than this has broken.
pub const STALL: Duration = Duration::from_secs(5);
/// How long a new connection that lost patience is waited for, to tell one
/// that is delayed from one that is lost.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Time between two exchanges of a live connection, if they are not too many.
pub const PERIOD: Duration = Duration::from_secs(3);
/// Exchanges a second of all live connections at most. Each crosses the edge and
/// a site's router; at 17,000 a second, two cores were busy with nothing else
/// and the health checks timed out.
const EXCHANGES_PER_SECOND: u32 = 10_000;
/// New connections a second that one process begins with ease.
const ARRIVALS_PER_PROCESS: u32 = 5000;
/// Open files of a process that are no connections of its load.
pub const OTHER_FILES: u32 = 512;
/// Priorities: the director runs at 0 and the servers at 3. Live connections come
/// last, as it does no harm when an exchange of theirs is begun a little later.
const ARRIVALS_NICE: i32 = 1;
const LIVE_NICE: i32 = 7;

/// Which load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Live connections, and new ones.
    Connections,
    /// Requests over kept connections, and some over new ones.
    Requests,
}

/// What load to make, and of whom.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Which load.
    pub kind: Kind,
    /// Addresses of the service, taken in turn.
    pub targets: Vec<SocketAddr>,
    /// Addresses to connect from, taken in turn.
    pub sources: Vec<IpAddr>,
    /// Names of all endpoints; an [`records::EndpointId`] is an index into it.
    pub endpoints: Vec<String>,
    /// Live connections, or kept ones.
    pub connections: u32,
    /// New connections or requests a second.
    pub rate: u32,
    /// Within which a new connection must be established, or a request sent, and
    /// be answered.
    pub patience: Duration,
    /// Time between two exchanges of a live connection; longer when all of
    /// them together would exceed what the machine can measure.
    pub period: Duration,
    /// A live connection unanswered for longer than this has broken.
    pub stall: Duration,
    /// The network namespace of the client; `None` for this one.
    pub netns: Option<PathBuf>,
}

impl LoadSpec {
    /// Splits the load into jobs of which each keeps within `open_files`.
    fn jobs(&self, clock: Clock, open_files: u64) -> Vec<Job> {
        let room = u32::try_from(open_files).unwrap_or(u32::MAX);
        let room = room.saturating_sub(OTHER_FILES).max(1);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let give_up = GIVE_UP.max(self.patience);
        // Silent ones stay open until given up.
        let waiting = self.rate * (give_up.as_secs() as u32 + 1);
        let by_rate = self.rate.div_ceil(ARRIVALS_PER_PROCESS);
        let arrivals = arrivals::shards(self.rate, by_rate.max(waiting.div_ceil(room)));
        let live = live::shares(self.connections, cores.max(self.connections.div_ceil(room)));
        let parts: Vec<Part> = match self.kind {
            Kind::Connections => {
                let arrivals = arrivals.into_iter().map(Part::Arrivals);
                arrivals.chain(live.into_iter().map(Part::Live)).collect()
            }
            Kind::Requests => {
                let shares = requests::shares(&arrivals, self.connections);
                shares.into_iter().map(Part::Requests).collect()
            }
        };
        let shortest = Duration::from_secs(u64::from(self.connections)) / EXCHANGES_PER_SECOND;
        let job = |part| Job {
            netns: self.netns.clone(),
            nice: match part {
                Part::Live(_) => LIVE_NICE,
                Part::Arrivals(_) | Part::Requests(_) => ARRIVALS_NICE,
            },
            part,
            zero: clock.zero(),
            targets: self.targets.clone(),
            sources: self.sources.clone(),
            endpoints: self.endpoints.clone(),
            period: self.period.max(shortest),
            stall: self.stall,
            patience: self.patience,
            give_up,
        };
        parts.into_iter().map(job).collect()
    }
}

/// What all workers have reported so far.
#[derive(Debug, Default)]
struct Seen {
    records: Records,
    counts: Vec<Counts>,
    failure: Option<String>,
}

impl Seen {
    fn counts(&self, endpoints: usize) -> Counts {
        let mut sum = Counts::new(endpoints);
        for counts in &self.counts {
            sum.add(counts);
        }
        sum
    }
}

#[derive(Debug)]
struct Worker {
    process: Child,
    link: UnixStream,
    reader: JoinHandle<()>,
}

/// A load that runs. Dropping it abandons its connections and ends its
/// processes, so that none of them outlives the namespace it is in.
#[derive(Debug)]
pub struct Load {
    endpoints: usize,
    seen: Arc<Mutex<Seen>>,
    workers: Vec<Worker>,
}

impl Load {
    /// Starts the workers, and begins to open the live connections. `program`
    /// is a command that ends up in [`worker::run`].
    ///
    /// # Errors
    /// When a list of `spec` is empty, or a process cannot be started.
    pub fn start(
        spec: &LoadSpec,
        clock: Clock,
        mut program: impl FnMut() -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        if spec.targets.is_empty() || spec.sources.is_empty() || spec.endpoints.is_empty() {
            bail!("a load needs a target, a source and an endpoint");
        }
        let mut load = Self {
            endpoints: spec.endpoints.len(),
            seen: Arc::default(),
            workers: Vec::new(),
        };
        for job in spec.jobs(clock, system::raise_open_files()?) {
            load.employ(&job, program()?)?;
        }
        Ok(load)
    }

    fn employ(&mut self, job: &Job, mut program: Command) -> anyhow::Result<()> {
        let (mut link, theirs) = UnixStream::pair()?;
        let process = program
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A terminal's Ctrl-C is for the drill, which ends its workers.
            .process_group(0)
            .spawn()
            .context("cannot start a process of the load generator")?;
        let index = self.workers.len();
        lock(&self.seen).counts.push(Counts::new(self.endpoints));
        let (seen, reading) = (Arc::clone(&self.seen), link.try_clone()?);
        let reader = std::thread::spawn(move || {
            if let Err(error) = listen(reading, &seen, index) {
                let error = format!("{error:#}");
                lock(&seen).failure.get_or_insert(error);
            }
        });
        let sent = send(&mut link, job);
        self.workers.push(Worker {
            process,
            link,
            reader,
        });
        sent
    }

    fn order(&mut self, order: Order) -> anyhow::Result<()> {
        for index in 0..self.workers.len() {
            if let Err(error) = send(&mut self.workers[index].link, &order) {
                // Why it is gone says more than that it is.
                self.check()?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins the new connections.
    ///
    /// # Errors
    /// When a worker is gone.
    pub fn measure(&mut self) -> anyhow::Result<()> {
        self.order(Order::Measure)
    }

    /// Live connections opened so far, and those given up.
    #[must_use]
    pub fn live_progress(&self) -> (u64, u64) {
        let counts = lock(&self.seen).counts(self.endpoints);
        (counts.live_opened.iter().sum(), counts.live_given_up)
    }

    /// Attempts that have ended, and breaks, as far as reported.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let seen = lock(&self.seen);
        (seen.records.attempts.len(), seen.records.breaks.len())
    }

    /// Calls `see` with the attempts reported so far, roughly in the order in
    /// which they ended.
    pub fn with_attempts<T>(&self, see: impl FnOnce(&[Attempt]) -> T) -> T {
        see(&lock(&self.seen).records.attempts)
    }

    /// An error that makes going on pointless: a worker that has ended, or this
    /// machine out of something.
    ///
    /// # Errors
    /// With that error.
    pub fn check(&self) -> anyhow::Result<()> {
        match &lock(&self.seen).failure {
            Some(failure) => Err(anyhow!("the load generator failed: {failure}")),
            None if self
                .workers
                .iter()
                .any(|worker| worker.reader.is_finished()) =>
            {
                Err(anyhow!("a process of the load generator ended early"))
            }
            None => Ok(()),
        }
    }

    /// Stops: no more new connections, those under way get their outcome, live
    /// ones finish their exchange and close. Returns all that was seen.
    ///
    /// # Errors
    /// When a worker failed.
    pub fn stop(mut self) -> anyhow::Result<Records> {
        self.order(Order::Stop)?;
        for worker in std::mem::take(&mut self.workers) {
            worker.end(false);
        }
        self.check()?;
        let mut seen = lock(&self.seen);
        let counts = seen.counts(self.endpoints);
        Ok(Records {
            counts,
            ..std::mem::take(&mut seen.records)
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.end(true);
        }
    }
}

impl Worker {
    /// Waits for its end, and brings it about when `abandoned`.
    fn end(mut self, abandoned: bool) {
        if abandoned {
            let _ = self.process.kill();
        }
        // What it had to say it has said through the link; a reader that
        // panicked has printed so.
        let _ = self.reader.join();
        let _ = self.link.shutdown(Shutdown::Both);
        let _ = self.process.wait();
    }
}

/// Takes a worker's messages until it is done.
fn listen(link: UnixStream, seen: &Mutex<Seen>, index: usize) -> anyhow::Result<()> {
    for line in BufReader::new(link).lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line).context("a process of the load generator babbles")? {
            Message::Done => return Ok(()),
            Message::Failed(failure) => bail!(failure),
            Message::Seen(mut part) => {
                let mut seen = lock(seen);
                seen.records.attempts.append(&mut part.attempts);
                seen.records.breaks.append(&mut part.breaks);
                seen.counts[index] = part.counts;
            }
        }
    }
    bail!("a process of the load generator ended early")
}
