//! `cargo xtask bench l7`: the edge proxy beside nginx and HAProxy as reverse
//! proxies.
//!
//! - All three have the same CPUs, threads, servers, certificate (ECDSA, P-256)
//!   and TLS (1.3 alone, X25519, AES-256-GCM; session tickets on), and keep
//!   connections to the servers. None writes an access log.
//! - The load and the servers, nginx with two static files, have the other CPUs.
//! - nginx and HAProxy do nothing beyond proxying. Ours does what it does unless
//!   configured otherwise: request IDs, trace context, `X-Forwarded-*`, breakers
//!   and metrics. `http1-1k-bare` has those off, but for metrics, which always
//!   are; `http1-1k-everything` has an access log of every request too.
//! - wrk asks by HTTP/1.1, h2load by HTTP/2. wrk resumes TLS sessions, so
//!   `tls13-resumed-conn-1k` is its; for `tls13-new-conn-1k`, full handshakes,
//!   there is a client here ([`fresh`]). wrk takes the time of a request from when
//!   its connection is there on, `fresh` from connecting on.
//! - Each round measures all proxies, a case after the other; which comes first
//!   changes from round to round. Figures are medians over the rounds.
//! - Beside what the load sees is the CPU time that a request takes of the proxy.
//!   Where the proxy's CPU was not all its own, that says more.
//! - A request that fails, a wrong length, or a connection that was to be new
//!   and is not, fails the benchmark.

mod child;
pub mod edge;
mod fresh;
mod idle;
mod load;
mod subject;

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, sched_setaffinity, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Pid, gettid},
};

use self::{
    child::Child,
    load::{Figures, Plan},
    subject::{Cpus, LARGE, SMALL, Stage, Subject},
};
use crate::{
    cpu::{self, Session},
    report::Row,
};

/// What opens connections to a proxy in each round, besides requests.
const FEW: u64 = 1000;
/// How long a case runs in the first round.
const WARM: Duration = Duration::from_secs(1);
const IDLE: &str = "idle-10k";

/// How a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Wrk { is_tls: bool, closes: bool },
    Fresh,
    H2load,
}

impl Load {
    fn closes(self) -> bool {
        matches!(self, Self::Wrk { closes: true, .. } | Self::Fresh)
    }

    fn is_tls(self) -> bool {
        !matches!(self, Self::Wrk { is_tls: false, .. })
    }
}

/// One kind of request.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    load: Load,
    file: (&'static str, usize),
    connections: u32,
    ours: Subject,
    /// What ours is compared with: peers, or the floor of the same name.
    peers: &'static [Subject],
    floor: Option<&'static str>,
}

const KEPT: Load = Load::Wrk {
    is_tls: false,
    closes: false,
};
const PEERS: &[Subject] = &[Subject::Nginx, Subject::Haproxy];
const BARE: &str = "http1-1k-bare";

#[rustfmt::skip]
const CASES: [Case; 9] = {
    const fn case(name: &'static str, load: Load, file: (&'static str, usize), connections: u32) -> Case {
        Case { name, load, file, connections, ours: Subject::Ours, peers: PEERS, floor: None }
    }
    const fn wrk(is_tls: bool, closes: bool) -> Load {
        Load::Wrk { is_tls, closes }
    }
    [
        case("http1-1k", KEPT, SMALL, 32),
        Case { ours: Subject::Bare, peers: &[], ..case(BARE, KEPT, SMALL, 32) },
        Case { ours: Subject::Everything, peers: &[], floor: Some(BARE), ..case("http1-1k-everything", KEPT, SMALL, 32) },
        case("http1-100k", KEPT, LARGE, 32),
        case("http1-new-conn-1k", wrk(false, true), SMALL, 32),
        case("tls13-1k", wrk(true, false), SMALL, 32),
        case("tls13-new-conn-1k", Load::Fresh, SMALL, 16),
        case("tls13-resumed-conn-1k", wrk(true, true), SMALL, 16),
        case("h2-1k", Load::H2load, SMALL, 8),
    ]
};

/// Which case, which proxy, and its figures of all rounds.
type Series = (Case, Subject, Vec<Figures>);

/// Runs all cases in each round: five rows a case and peer, one for memory.
///
/// # Errors
/// Without privilege or CPUs for it, a program, or when a request fails.
pub fn run(rounds: u32, time: Duration, threads: usize, only: &[String]) -> Result<Vec<Row>> {
    child::note_signals()?;
    let cpus = divide(threads)?;
    sched_setaffinity(Pid::from_raw(0), &cpu::set(&cpus.rest)?)?;
    cpu::raise(gettid())?;
    let _session = Session::raise()?;
    prepare()?;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text));
    let cases = CASES.iter().filter(|case| {
        // A floor is of use to the case that stands on it.
        let above = CASES.iter().find(|other| other.floor == Some(case.name));
        wanted(case.name) || above.is_some_and(|above| wanted(above.name))
    });
    let mut series = Vec::new();
    for case in cases {
        let subjects = [case.ours].into_iter().chain(case.peers.iter().copied());
        series.extend(subjects.map(|subject| (*case, subject, Vec::new())));
    }
    let mut stage = Stage::new(cpus)?;
    measure(&mut stage, &mut series, rounds, time)?;
    let mut rows = rows(&series);
    if wanted(IDLE) {
        rows.push(idle(&stage, rounds)?);
    }
    Ok(rows)
}

fn divide(threads: usize) -> Result<Cpus> {
    let mut rest = cpu::allowed()?;
    if rest.len() <= threads {
        bail!(
            "{threads} CPUs for the proxy leave none of {} for the load: give --threads less",
            rest.len()
        );
    }
    let proxy = rest.split_off(rest.len() - threads);
    Ok(Cpus { proxy, rest })
}

/// A network without others, and as many open files as there may be.
fn prepare() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("a network namespace of its own\n  help: run it as root")?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    ensure!(
        up.context("starting `ip`")?.success(),
        "the loopback interface does not come up"
    );
    // New connections leave their ports waiting. Those below are the proxies'.
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(range, "10240 65535").with_context(|| format!("writing {range}"))?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

fn measure(stage: &mut Stage, series: &mut [Series], rounds: u32, time: Duration) -> Result<()> {
    let mut proxies: Vec<(Subject, Child)> = Vec::new();
    for subject in Subject::ALL {
        if series.iter().any(|(_, it, _)| *it == subject) {
            proxies.push((subject, stage.start(subject)?));
        }
    }
    for round in 0..=rounds {
        for case in series.chunk_by_mut(|a, b| a.0.name == b.0.name) {
            // Now one comes first, now another.
            let count = case.len();
            for turn in 0..count {
                let (case, subject, figures) = &mut case[(turn + round as usize) % count];
                let proxy = proxies.iter_mut().find(|(it, _)| it == subject);
                let (_, proxy) = proxy.context("a proxy was not started")?;
                // The first round warms caches.
                let time = if round == 0 { WARM } else { time };
                let measured = one(stage, *case, *subject, proxy, time)
                    .with_context(|| format!("{} of {}", case.name, subject.name()))?;
                if round > 0 {
                    figures.push(measured);
                }
                stage.check()?;
                proxy.check()?;
                child::check()?;
            }
        }
    }
    Ok(())
}

fn one(
    stage: &Stage,
    case: Case,
    subject: Subject,
    proxy: &Child,
    time: Duration,
) -> Result<Figures> {
    let (plain, tls) = subject.ports();
    let plan = Plan {
        port: if case.load.is_tls() { tls } else { plain },
        path: case.file.0,
        length: case.file.1,
        connections: case.connections,
        time,
        cpus: &stage.cpus.rest,
        directory: stage.directory(),
    };
    let (before, idle) = (accepted()?, proxy.worked()?);
    let mut figures = match case.load {
        Load::Wrk { is_tls, closes } => load::wrk(&plan, is_tls, closes),
        Load::Fresh => fresh::run(&plan),
        Load::H2load => load::h2load(&plan),
    }?;
    let (connections, worked) = (accepted()? - before, proxy.worked()? - idle);
    let requests = figures.rate * time.as_secs_f64();
    figures.cpu = worked.as_secs_f64() * 1e6 / requests;
    let requests = requests as u64;
    let expected = if case.load.closes() { requests } else { 0 };
    // What is measured would be something else.
    ensure!(
        connections + FEW > expected,
        "{requests} requests over {connections} connections only"
    );
    ensure!(
        connections < expected + expected / 10 + FEW,
        "{connections} connections for {requests} requests: those to the servers are not kept"
    );
    Ok(figures)
}

/// Connections that were accepted in this network, by the proxies and the servers.
fn accepted() -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut fields = names.split(' ').zip(values.split(' '));
    fields
        .find(|(name, _)| *name == "PassiveOpens")
        .and_then(|(_, value)| value.parse().ok())
        .with_context(|| format!("no PassiveOpens in {path}"))
}

type Unit = (&'static str, fn(&Figures) -> f64);
const UNITS: [Unit; 5] = [
    ("requests/s", |figures| figures.rate),
    ("p50 us", |figures| figures.p50),
    ("p99 us", |figures| figures.p99),
    ("p99.9 us", |figures| figures.p999),
    ("CPU us/request", |figures| figures.cpu),
];

fn rows(series: &[Series]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, subject, own) in series
        .iter()
        .filter(|(case, subject, _)| case.ours == *subject)
    {
        for (unit, of) in UNITS {
            let values = |figures: &[Figures]| figures.iter().map(of).collect::<Vec<_>>();
            let own = values(own);
            let mut row = Row::new("l7", case.name, unit, &own);
            let floor = |name| series.iter().find(|(case, ..)| case.name == name);
            if let Some(name) = case.floor
                && let Some((_, _, figures)) = floor(name)
            {
                row.against_floor(name, &own, &values(figures));
            }
            let peers = series
                .iter()
                .filter(|(it, peer, _)| it.name == case.name && peer != subject);
            let before = rows.len();
            for (_, peer, figures) in peers {
                let mut row = row.clone();
                row.against_peer(peer.name(), &own, &values(figures));
                rows.push(row);
            }
            if rows.len() == before {
                rows.push(row);
            }
        }
    }
    rows
}

fn idle(stage: &Stage, rounds: u32) -> Result<Row> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = idle::CONNECTIONS as u64 + FEW;
    ensure!(
        limit >= needed,
        "{IDLE} needs {needed} open files (ulimit -n), there may be {limit}"
    );
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (subject, values) in [(Subject::Ours, &mut own), (Subject::Nginx, &mut peer)] {
            let measured = idle::measure(stage, subject);
            values.push(measured.with_context(|| format!("{IDLE} of {}", subject.name()))?);
        }
    }
    let mut row = Row::new("l7", IDLE, "KiB", &own);
    row.against_peer(Subject::Nginx.name(), &own, &peer);
    Ok(row)
}
