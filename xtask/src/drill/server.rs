//! The HTTP server a drill loses: small, real, and honest about what it did.
//!
//! It runs as a process of its own (`xtask drill-server`), so that a drill can
//! kill it as a machine would. `GET /health` answers `ok`; every other request
//! answers the server's own name, by which a client notices mis-steering, unless
//! it was told to fail or to be slow ([`Conduct`]).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::ids::{self, Ids};
use super::stats::{Conduct, Counter, Stats};
use super::system;

/// Longest queue of connections not yet accepted; the kernel clamps it to
/// `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// How long SIGTERM waits for answers under way.
const GRACE: Duration = Duration::from_secs(1);
/// hyper's smallest read buffer: a drill's requests are under 100 bytes, and
/// a server holds tens of thousands of connections.
const READ_BUFFER: usize = 8 * 1024;

/// Arguments of `xtask drill-server`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Name in every answer
    #[arg(long)]
    pub name: String,
    /// Address to listen on; may be given several times, and need not be
    /// assigned to an interface yet
    #[arg(long, required = true, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// File for the counters; counts on when it exists
    #[arg(long, value_name = "FILE")]
    pub stats: PathBuf,
    /// File to note in which requests were carried out, by the number in their
    /// path; noted on when it exists
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
    /// CPU priority, lower than the director's, so that a drill's load does
    /// not starve its prober
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(0..=19))]
    pub nice: i32,
}

/// What every connection of one server shares.
struct Shared {
    name: Bytes,
    header: HeaderValue,
    stats: Stats,
    ids: Option<Ids>,
}

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// When the name is no header value, an address cannot be bound, or the stats
/// file cannot be used.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let header = HeaderValue::from_str(&args.name)
        .with_context(|| format!("--name {:?} cannot stand in an HTTP header", args.name))?;
    let shared = Rc::new(Shared {
        name: Bytes::from(args.name.clone()),
        header,
        stats: Stats::open(&args.stats)?,
        ids: args.ids.as_deref().map(Ids::open).transpose()?,
    });
    system::raise_open_files()?;
    system::lower_priority(args.nice)?;
    // One thread is enough for a server's share of a drill, and leaves the
    // cores to the other roles on the same machine.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the server's runtime")?;
    LocalSet::new().block_on(&runtime, serve(args, shared))
}

async fn serve(args: &Args, shared: Rc<Shared>) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = watch::channel(());
    for &address in &args.listen {
        let listener = listen(address)?;
        tokio::task::spawn_local(accept(listener, Rc::clone(&shared), stopping.clone()));
    }
    drop(stopping);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Every connection holds a receiver: told to stop, it ends the answer
    // under way and drops it.
    stop.send_replace(());
    let _ = tokio::time::timeout(GRACE, stop.closed()).await;
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().with_context(|| format!("cannot listen on {address}"))
}

async fn accept(listener: TcpListener, shared: Rc<Shared>, mut stopping: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                shared.stats.count(Counter::Accepted);
                tokio::task::spawn_local(connection(stream, Rc::clone(&shared), stopping.clone()));
            }
            Err(error) => {
                // Out of descriptors or memory: the next accept would fail at
                // once too, so wait for connections to end.
                eprintln!("drill-server: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, shared: Rc<Shared>, mut stopping: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let requests = std::cell::Cell::new(0_u64);
    let probes = std::cell::Cell::new(0_u64);
    {
        let service = service_fn(|request: Request<Incoming>| {
            requests.set(requests.get() + 1);
            let health = is_health(&request);
            if health {
                probes.set(probes.get() + 1);
                if probes.get() == 1 {
                    shared.stats.count(Counter::ProbeConnections);
                }
            }
            let id = ids::of_path(request.uri().path());
            let shared = Rc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, health, id).await) }
        });
        let serving = http1::Builder::new()
            .auto_date_header(false)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let ended = tokio::select! {
            _ = serving.as_mut() => true,
            _ = stopping.changed() => false,
        };
        if !ended {
            serving.as_mut().graceful_shutdown();
            // The outcome of a client's connection is the client's to judge.
            let _ = serving.await;
        }
    }
    if requests.get() == 0 {
        shared.stats.count(Counter::SilentConnections);
    }
    shared.stats.count(Counter::Closed);
}

fn is_health(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET && request.uri().path() == "/health"
}

/// Counts, then answers: the count is never behind what a client has read.
async fn answer(shared: &Shared, health: bool, id: Option<u32>) -> Response<Full<Bytes>> {
    let conduct = if health {
        Conduct::Well
    } else {
        shared.stats.conducted()
    };
    let mut status = StatusCode::OK;
    let (counter, body) = match conduct {
        _ if health => (Some(Counter::HealthAnswered), Bytes::from_static(b"ok")),
        Conduct::Failing => {
            status = StatusCode::INTERNAL_SERVER_ERROR;
            (None, Bytes::from_static(b"told to fail"))
        }
        Conduct::Well | Conduct::Slow(_) => (Some(Counter::Answered), shared.name.clone()),
    };
    if let (Some(id), Some(ids), Some(Counter::Answered)) = (id, &shared.ids, counter) {
        // Before the delay: what a slow server was asked for, it does.
        ids.note(id);
    }
    if let Conduct::Slow(by) = conduct {
        tokio::time::sleep(by).await;
    }
    if let Some(counter) = counter {
        shared.stats.count(counter);
    }
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("x-endpoint", shared.header.clone());
    response
}
