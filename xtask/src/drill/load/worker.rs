//! One process of the client: it takes a job over a socket, makes its part of
//! the load, and reports what it sees, several times a second.
//!
//! Processes rather than threads, because a process may be given no more open
//! files than its hard limit says, and a drill needs several times that.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::arrivals::{self, Shard};
use super::live::{self, Share};
use super::records::{Clock, Recorder, Records};
use super::requests;
use crate::drill::system;
use crate::lab::enter_netns;

/// How often a worker reports.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// Which part of the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// A share of the live connections.
    Live(Share),
    /// A part of the new connections.
    Arrivals(Shard),
    /// A part of the requests.
    Requests(requests::Share),
}

/// All a worker needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Which part of the load.
    pub part: Part,
    /// The network namespace to make it in; `None` for this one.
    pub netns: Option<PathBuf>,
    /// CPU priority.
    pub nice: i32,
    /// The drill's zero: see [`Clock::continued`].
    pub zero: Duration,
    /// Addresses of the service, taken in turn.
    pub targets: Vec<SocketAddr>,
    /// Addresses to connect from, taken in turn.
    pub sources: Vec<IpAddr>,
    /// Names of all endpoints.
    pub endpoints: Vec<String>,
    /// Time between two exchanges of a live connection.
    pub period: Duration,
    /// A live connection unanswered for longer has broken.
    pub stall: Duration,
    /// Within which a new connection must be answered.
    pub patience: Duration,
    /// How long it is waited for all the same.
    pub give_up: Duration,
}

/// What a worker is told after its job; the end of the socket tells it to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Begin new connections.
    Measure,
    /// Let what is under way end, report, and end.
    Stop,
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What was seen since the last message, and the counts so far.
    Seen(Records),
    /// It cannot go on.
    Failed(String),
    /// It has done all of its job.
    Done,
}

/// What every connection of a worker needs to know.
#[derive(Debug)]
pub struct Context {
    /// Takes what it sees.
    pub recorder: Recorder,
    /// See [`Job::endpoints`].
    pub endpoints: Vec<String>,
    /// See [`Job::period`].
    pub period: Duration,
    /// See [`Job::stall`].
    pub stall: Duration,
    /// See [`Job::patience`].
    pub patience: Duration,
    /// See [`Job::give_up`].
    pub give_up: Duration,
    targets: Vec<SocketAddr>,
    sources: Vec<IpAddr>,
    own_ports: bool,
}

impl Context {
    /// Where connection `number` comes from: the sources in turn, and of each
    /// the next of `ports`, so that no address and port is used twice in a run.
    /// The kernel would use those again first whose connection was refused, as
    /// nothing waits on them, and so send the site that refused more than its
    /// share later. Where the ports are not all ours, or used up, it chooses.
    pub fn source(&self, number: u64, ports: &Range<u16>) -> SocketAddr {
        let turn = number / self.sources.len() as u64;
        let port = match u16::try_from(turn) {
            Ok(turn) if self.own_ports && turn < ports.end - ports.start => ports.start + turn,
            _ => 0,
        };
        SocketAddr::new(in_turn(&self.sources, number), port)
    }

    /// The address connection `number` goes to.
    pub fn target(&self, number: u64) -> SocketAddr {
        in_turn(&self.targets, number)
    }
}

fn in_turn<T: Copy>(list: &[T], number: u64) -> T {
    list[(number % list.len() as u64) as usize]
}

/// What the connections wait for; each goes from false to true once.
#[derive(Clone, Debug)]
pub struct Gates {
    /// New connections begin.
    pub measure: watch::Receiver<bool>,
    /// The load ends.
    pub stop: watch::Receiver<bool>,
}

/// The body of `xtask drill-client`: serves the socket that is its standard
/// input, until told to stop or until the drill is gone.
///
/// # Errors
/// When the socket cannot be used; every other error is told through it.
pub fn run() -> anyhow::Result<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut link = UnixStream::from(socket);
    let result = serve(BufReader::new(link.try_clone()?), &link);
    let last = match result {
        Ok(()) => Message::Done,
        Err(error) => Message::Failed(format!("{error:#}")),
    };
    send(&mut link, &last)
}

/// Writes one message or order as a line.
///
/// # Errors
/// When the other side is gone.
pub fn send(link: &mut UnixStream, message: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    link.write_all(&line).context("the other side is gone")
}

fn serve(mut lines: BufReader<UnixStream>, link: &UnixStream) -> anyhow::Result<()> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)
        .context("standard input is no job: this command is for the drill's own use")?;
    if let Some(netns) = &job.netns {
        // Before any other thread is made, so that all of them are in it.
        enter_netns(netns)?;
    }
    system::raise_open_files()?;
    system::lower_priority(job.nice)?;
    let clock = Clock::continued(job.zero);
    let context = Arc::new(Context {
        recorder: Recorder::new(job.endpoints.len(), clock),
        endpoints: job.endpoints,
        period: job.period,
        stall: job.stall,
        patience: job.patience,
        give_up: job.give_up,
        targets: job.targets,
        sources: job.sources,
        // A namespace of the drill's own has no one else's sockets in it.
        own_ports: job.netns.is_some(),
    });
    let gates = obey(lines)?;
    // Reporting is a thread's work: a slow reader must not hold up the load.
    let (end, ended) = channel();
    let reporter = {
        let (context, link) = (Arc::clone(&context), link.try_clone()?);
        std::thread::spawn(move || report(&context, link, &ended))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime of the load generator")?;
    runtime.block_on(async {
        match job.part {
            Part::Live(share) => live::run(context, share, gates).await,
            Part::Arrivals(shard) => arrivals::run(context, shard, gates).await,
            Part::Requests(share) => requests::run(context, share, gates).await,
        }
    });
    drop(end);
    reporter
        .join()
        .map_err(|_| anyhow!("the report of the load generator panicked"))?
}

/// Opens the gates as the drill orders, on a thread of its own.
fn obey(orders: BufReader<UnixStream>) -> anyhow::Result<Gates> {
    let (measure, measuring) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || {
            for line in orders.lines() {
                match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
                    Some(Order::Measure) => measure.send_replace(true),
                    Some(Order::Stop) => stop.send_replace(true),
                    None => break,
                };
            }
            // The drill is gone or has dropped us: nobody wants the rest.
            std::process::exit(0);
        })
        .context("cannot start a thread of the load generator")?;
    Ok(Gates {
        measure: measuring,
        stop: stopping,
    })
}

/// Reports until `ended` closes, and then what is left.
fn report(context: &Context, mut link: UnixStream, ended: &Receiver<()>) -> anyhow::Result<()> {
    loop {
        let last = ended.recv_timeout(REPORT_EVERY) == Err(RecvTimeoutError::Disconnected);
        send(&mut link, &Message::Seen(context.recorder.take()))?;
        if let Some(error) = context.recorder.first_local_error() {
            // At once, and not at the end of a load that is worth nothing.
            return send(&mut link, &Message::Failed(error));
        }
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(own_ports: bool) -> Context {
        Context {
            recorder: Recorder::new(1, Clock::start()),
            endpoints: vec!["a".into()],
            period: Duration::ZERO,
            stall: Duration::ZERO,
            patience: Duration::ZERO,
            give_up: Duration::ZERO,
            targets: Vec::new(),
            sources: vec![[198, 18, 0, 1].into(), [198, 18, 0, 2].into()],
            own_ports,
        }
    }

    #[test]
    fn no_address_and_port_is_used_twice() {
        let context = context(true);
        let ports = 1000..1010;
        let used: Vec<_> = (0..20).map(|n| context.source(n, &ports)).collect();
        let different: std::collections::BTreeSet<_> = used.iter().collect();
        assert_eq!(different.len(), 20);
        assert!(used.iter().all(|source| ports.contains(&source.port())));
        // Beyond them, the kernel's choice.
        assert_eq!(context.source(20, &ports).port(), 0);
        assert_eq!(context.source(u64::MAX, &ports).port(), 0);
    }

    #[test]
    fn ports_that_are_not_ours_are_left_to_the_kernel() {
        assert_eq!(context(false).source(3, &(1000..1010)).port(), 0);
    }
}
