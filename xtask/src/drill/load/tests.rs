//! The load generator against real drill servers, on loopback.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::records::{BreakKind, Outcome};
use super::*;
use crate::drill::ids::Ids;
use crate::drill::server;
use crate::drill::stats::{Conduct, Snapshot, Stats};

/// Holds the arguments of [`server_process`].
const SERVER: &str = "DRILL_SERVER_ARGUMENTS";
/// Says that [`client_process`] is to be a client.
const CLIENT: &str = "DRILL_CLIENT";

#[derive(Parser)]
struct ServerCommand {
    #[command(flatten)]
    args: server::Args,
}

/// The body of a server's process: the tests below start this very binary with
/// this very test, so that a server can be killed without them.
#[test]
#[ignore = "runs as the server of other tests"]
fn server_process() {
    if let Ok(words) = std::env::var(SERVER) {
        let words = std::iter::once("drill-server").chain(words.split(' '));
        server::run(&ServerCommand::parse_from(words).args).unwrap();
    }
}

/// The body of a client's process, likewise.
#[test]
#[ignore = "runs as the client of other tests"]
fn client_process() {
    if std::env::var_os(CLIENT).is_some() {
        worker::run().unwrap();
    }
}

/// This very binary, running one of the two tests above.
fn this_binary(test: &str) -> Command {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact"]);
    command.arg(format!("{module}::{test}"));
    command
}

fn client() -> anyhow::Result<Command> {
    let mut command = this_binary("client_process");
    command.env(CLIENT, "1");
    Ok(command)
}

struct Server {
    name: String,
    address: SocketAddr,
    stats: PathBuf,
    ids: PathBuf,
    process: Child,
    _dir: TempDir,
}

impl Server {
    fn start(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stats, ids) = (dir.path().join("stats"), dir.path().join("ids"));
        // Free a moment ago; loopback ports are not handed out again at once.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let words = format!(
            "--name {name} --listen {address} --stats {} --ids {}",
            stats.display(),
            ids.display()
        );
        let process = this_binary("server_process")
            .env(SERVER, words)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            name: name.into(),
            address,
            stats,
            ids,
            process,
            _dir: dir,
        };
        until("the server listens", || TcpStream::connect(address).is_ok());
        // That connection is over for the server too, so that no test counts it.
        until("it is idle", || server.counts().closed == 1);
        server
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    fn counts(&self) -> Snapshot {
        Stats::read(&self.stats).unwrap()
    }

    /// One request on a connection of its own, and the whole answer.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, as some tests ask of it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spec(servers: &[&Server], connections: u32, rate: u32) -> LoadSpec {
    LoadSpec {
        kind: Kind::Connections,
        targets: servers.iter().map(|server| server.address).collect(),
        sources: (1..=4).map(|n| IpAddr::from([127, 0, 0, n])).collect(),
        endpoints: servers.iter().map(|server| server.name.clone()).collect(),
        connections,
        rate,
        patience: Duration::from_secs(5),
        period: Duration::from_millis(100),
        stall: Duration::from_secs(30),
        netns: None,
    }
}

/// A load with all its live connections open.
fn opened(spec: &LoadSpec, clock: Clock) -> Load {
    let load = Load::start(spec, clock, client).unwrap();
    until("all live connections are open", || {
        load.check().unwrap();
        load.live_progress() == (u64::from(spec.connections), 0)
    });
    load
}

/// The error that ends a load which cannot work.
fn failure(spec: &LoadSpec) -> String {
    let load = Load::start(spec, Clock::start(), client).unwrap();
    let mut error = String::new();
    until("it is noticed", || {
        let failed = load.check().err();
        error = failed.map_or(String::new(), |error| format!("{error:#}"));
        !error.is_empty()
    });
    error
}

#[test]
fn both_sides_count_the_same() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let mut load = opened(&spec(&[&a, &b], 50, 100), Clock::start());
    load.measure().unwrap();
    until("200 new connections have ended", || {
        load.progress().0 >= 200
    });
    let Records {
        attempts,
        breaks,
        counts,
    } = load.stop().unwrap();

    assert_eq!(counts.live_opened, [25, 25]);
    assert_eq!(breaks, []);
    let answered = |one: &Attempt| one.outcome == Outcome::Answered;
    assert!(attempts.iter().all(answered));
    assert_eq!((counts.unanswered, counts.live_unanswered), (0, vec![0, 0]));
    assert_eq!(counts.answers, [a.counts().answered, b.counts().answered]);
    let new = |endpoint| {
        let of = |one: &&Attempt| one.endpoint == Some(endpoint);
        attempts.iter().filter(of).count() as u64
    };
    assert!(new(0).abs_diff(new(1)) <= 1, "targets are taken in turn");
    // The exchanges of live connections beyond each one's first.
    assert!(counts.answers[0] > 25 + new(0));
}

#[test]
fn every_request_is_counted_on_both_sides_whatever_is_answered() {
    let server = Server::start("a");
    let stats = Stats::open(&server.stats).unwrap();
    let mut spec = spec(&[&server], 4, 200);
    spec.kind = Kind::Requests;
    let mut load = Load::start(&spec, Clock::start(), client).unwrap();
    load.measure().unwrap();
    let seen = |load: &Load, outcome| {
        load.with_attempts(|all| all.iter().any(|one| one.outcome == outcome))
    };
    until("some are answered", || load.progress().0 >= 50);
    stats.conduct(Conduct::Failing);
    until("some fail", || seen(&load, Outcome::Error));
    // Slower than the kept connections allow for, so that others are opened.
    stats.conduct(Conduct::Slow(Duration::from_millis(300)));
    let slow = |one: &Attempt| one.outcome == Outcome::Answered && one.latency_us > 299_000;
    until("some are slow", || {
        load.with_attempts(|all| all.iter().filter(|one| slow(one)).count() > 20)
    });
    let records = load.stop().unwrap();

    let noted = Ids::open(&server.ids).unwrap().noted();
    for one in &records.attempts {
        let times = noted.get(one.id as usize).copied().unwrap_or(0);
        let expected = match one.outcome {
            Outcome::Answered => 1,
            Outcome::Error => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!((times, one.endpoint), (expected, Some(0)), "{one:?}");
    }
    let counts = records.counts;
    assert_eq!(counts.answers, [server.counts().answered]);
    assert!(counts.overflow > 0);
}

#[test]
fn a_killed_server_breaks_its_own_connections_alone() {
    let (a, b) = (Server::start("a"), Server::start("b"));
    let clock = Clock::start();
    let mut load = opened(&spec(&[&a, &b], 40, 200), clock);
    load.measure().unwrap();
    until("new ones are answered", || load.progress().0 >= 20);
    let killed = clock.now_us();
    a.signal(Signal::SIGKILL);
    until("every client of it knows", || load.progress().1 >= 20);
    let seen = load.progress().0;
    until("new ones go on", || load.progress().0 >= seen + 40);
    let records = load.stop().unwrap();

    assert_eq!(records.breaks.len(), 20);
    for event in &records.breaks {
        assert_eq!(event.endpoint, 0);
        // The processes' clocks agree to less than a timer's step.
        assert!(event.at_us + 1000 >= killed, "{event:?}, {killed}");
        let kind = event.kind;
        assert!(
            matches!(kind, BreakKind::Reset | BreakKind::Closed),
            "{kind:?}"
        );
    }
    let refused = |one: &&Attempt| one.outcome == Outcome::Refused;
    assert!(records.attempts.iter().filter(refused).count() >= 10);
    // What the killed one had counted is still there, and adds up.
    let counts = records.counts;
    let ahead = a.counts().answered - counts.answers[0];
    assert!(
        ahead <= counts.live_unanswered[0] + counts.unanswered,
        "{ahead}"
    );
    assert_eq!(counts.answers[1], b.counts().answered);
}

#[test]
fn a_silent_server_stalls_its_connections_and_they_wait_on() {
    let server = Server::start("a");
    let mut spec = spec(&[&server], 8, 100);
    spec.stall = Duration::from_millis(300);
    spec.patience = Duration::from_millis(200);
    let clock = Clock::start();
    let mut load = opened(&spec, clock);
    server.signal(Signal::SIGSTOP);
    load.measure().unwrap();
    until("all have stalled", || load.progress().1 >= 8);
    let stalled = clock.now_us();
    until("new ones have lost patience and still wait", || {
        clock.now_us() > stalled + 400_000
    });
    server.signal(Signal::SIGCONT);
    let delayed = |one: &Attempt| one.outcome == Outcome::Delayed;
    until("the waiting ones are answered, too late", || {
        load.with_attempts(|all| all.iter().any(delayed))
    });
    let records = load.stop().unwrap();
    let kinds: Vec<BreakKind> = records.breaks.iter().map(|event| event.kind).collect();
    assert!(
        kinds.iter().all(|kind| *kind == BreakKind::Stalled),
        "{kinds:?}"
    );
    assert_eq!(
        records.counts.live_unanswered,
        [0],
        "all are answered at last"
    );
    assert_eq!(records.counts.answers, [server.counts().answered]);
}

#[test]
fn an_answer_of_another_endpoint_is_a_break() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for name in ["a", "a", "b"] {
            let mut request = vec![0; wire::REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}").unwrap();
        }
        // Until the client hangs up.
        let _ = stream.read(&mut [0]);
    });
    let mut spec = spec(&[], 1, 1);
    spec.targets = vec![target];
    spec.endpoints = vec!["a".into(), "b".into()];
    let load = opened(&spec, Clock::start());
    until("it is steered elsewhere", || load.progress().1 == 1);
    let records = load.stop().unwrap();
    let event = records.breaks[0];
    assert_eq!((event.endpoint, event.kind), (0, BreakKind::Missteered));
    assert_eq!(records.counts.answers, [2, 1]);
}

#[test]
fn a_fault_of_this_machine_is_no_figure_but_an_error() {
    let server = Server::start("a");
    let mut spec = spec(&[&server], 1, 10);
    // An address of RFC 5737, which no machine has.
    spec.sources = vec![IpAddr::from([192, 0, 2, 1])];
    let error = failure(&spec);
    assert!(error.contains("192.0.2.1"), "{error}");
}

#[test]
fn a_namespace_that_is_not_there_ends_the_load_and_is_named() {
    let server = Server::start("a");
    let mut spec = spec(&[&server], 1, 10);
    spec.netns = Some("/nowhere/client".into());
    let error = failure(&spec);
    assert!(error.contains("/nowhere/client"), "{error}");
}

#[test]
fn a_process_killed_by_someone_else_ends_the_load() {
    let server = Server::start("a");
    let mut load = opened(&spec(&[&server], 4, 10), Clock::start());
    load.workers[0].process.kill().unwrap();
    until("it is noticed", || load.check().is_err());
    assert!(load.stop().is_err());
}

#[test]
fn an_abandoned_load_leaves_no_connection() {
    let server = Server::start("a");
    let load = opened(&spec(&[&server], 20, 10), Clock::start());
    drop(load);
    until("the server has seen all of them go", || {
        let counts = server.counts();
        counts.accepted >= 21 && counts.accepted == counts.closed
    });
}

#[test]
fn the_server_keeps_probes_and_clients_apart_and_ends_on_request() {
    let mut server = Server::start("a");
    let health = server.ask("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.ends_with("\r\n\r\nok"), "{health}");
    let named = server.ask("GET /any HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(named.contains("x-endpoint: a\r\n"), "{named}");
    assert!(named.ends_with("\r\n\r\na"), "{named}");
    drop(TcpStream::connect(server.address).unwrap());
    until("three more have closed", || server.counts().closed == 4);
    let counts = server.counts();
    assert_eq!((counts.answered, counts.health_answered), (1, 1));
    assert_eq!(counts.probe_connections, 1);
    assert_eq!((counts.accepted, counts.silent_connections), (4, 2));

    let idle = TcpStream::connect(server.address).unwrap();
    server.signal(Signal::SIGTERM);
    assert!(server.process.wait().unwrap().success());
    drop(idle);
}

/// Live connections and arrivals a second, by process.
fn split(connections: u32, rate: u32, open_files: u64) -> (Vec<u32>, Vec<u32>) {
    let spec = spec(&[], connections, rate);
    let (mut live, mut arrivals) = (Vec::new(), Vec::new());
    for job in spec.jobs(Clock::start(), open_files) {
        match job.part {
            Part::Live(share) => live.push(share.count),
            Part::Arrivals(shard) => arrivals.push(shard.of),
            Part::Requests(_) => panic!("there are none"),
        }
    }
    (live, arrivals)
}

#[test]
fn no_process_gets_more_connections_than_it_may_have_files() {
    let (live, arrivals) = split(50_000, 2000, 20_000);
    assert_eq!(live, [16_667, 16_667, 16_666]);
    assert_eq!(arrivals, [1]);
    let (live, arrivals) = split(60_000, 10_000, 20_000);
    assert!(live.iter().all(|&count| count <= 19_488), "{live:?}");
    assert_eq!(live.iter().sum::<u32>(), 60_000);
    assert_eq!(arrivals, [4; 4], "10,000 a second leave 60,000 waiting");
}
