//! Threads that serve, and their sockets.
//!
//! Every thread has a runtime, a socket of each listener, and connections to
//! servers of its own, so that a request stays on one core. The kernel spreads
//! connections over the sockets (`SO_REUSEPORT`).

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use pingora_core::{
    apps::HttpServerApp as _, protocols::http::v2::server::H2Options,
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    request::App,
    serve,
    slot::{Shared, Slot},
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// Tries of a request that pingora goes along with; a route's own limit is lower.
const TRIES: usize = 32;
/// Connections to servers that a thread keeps without a request.
const POOL: usize = 1024;
/// Pause after an accept failed for want of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(20);

/// What a thread is told.
enum Order {
    Listen(Arc<Slot>, TcpListener),
    /// Accept no more; what is open goes on.
    Close(Arc<str>),
    /// Accept no more, and end when all is done.
    Drain,
}

/// The threads.
pub struct Threads {
    orders: Vec<mpsc::UnboundedSender<Order>>,
    threads: Vec<JoinHandle<()>>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    drained: watch::Sender<bool>,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(count: usize, shared: &Arc<Shared>) -> Result<Self> {
        let (drained, watched) = watch::channel(false);
        let open = Arc::<AtomicUsize>::default();
        let (mut orders, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let worker = Worker {
                shared: shared.clone(),
                drained: watched.clone(),
                open: open.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("l7-{number}"))
                .spawn(move || runtime.block_on(worker.run(receiver)))
                .context("starting a thread of the proxy")?;
            orders.push(sender);
            threads.push(thread);
        }
        Ok(Self {
            orders,
            threads,
            open,
            drained,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.orders.len()
    }

    /// Serves a listener with these sockets, one or more for each thread.
    pub fn listen(&self, slot: &Arc<Slot>, sockets: impl IntoIterator<Item = TcpListener>) {
        for (index, socket) in sockets.into_iter().enumerate() {
            self.order(
                index % self.orders.len(),
                Order::Listen(slot.clone(), socket),
            );
        }
    }

    /// Accepts no more connections of a listener.
    pub fn close(&self, service: &Arc<str>) {
        for index in 0..self.orders.len() {
            self.order(index, Order::Close(service.clone()));
        }
    }

    fn order(&self, thread: usize, order: Order) {
        // A thread that is gone has said why.
        let _ = self.orders[thread].send(order);
    }

    /// Accepts no more, lets what is under way end, and waits for that for at most
    /// `limit`. Returns how many connections were still open then.
    pub async fn drain(self, limit: Duration) -> usize {
        for index in 0..self.orders.len() {
            self.order(index, Order::Drain);
        }
        let _ = self.drained.send(true);
        let threads = self.threads;
        let all = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()))
        });
        let _ = tokio::time::timeout(limit, all).await;
        self.open.load(Ordering::Relaxed)
    }
}

/// A socket for each of `count` threads, those that are there already among them.
/// The address need not be the host's own (`IP_FREEBIND`): a VIP may come later.
///
/// # Errors
/// When the address is taken, or the right to bind it is missing.
pub fn bind(
    address: SocketAddr,
    count: usize,
    mut sockets: Vec<TcpListener>,
) -> Result<Vec<TcpListener>> {
    while sockets.len() < count {
        sockets.push(one(address).with_context(|| format!("listening on {address}"))?);
    }
    Ok(sockets)
}

fn one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One thread.
struct Worker {
    shared: Arc<Shared>,
    drained: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
}

impl Worker {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut listening: HashMap<Arc<str>, Vec<watch::Sender<bool>>> = HashMap::new();
        let mut proxies: HashMap<Arc<str>, Arc<HttpProxy<App>>> = HashMap::new();
        let mut accepting = JoinSet::new();
        while let Some(order) = orders.recv().await {
            match order {
                Order::Listen(slot, socket) => {
                    let socket = match tokio::net::TcpListener::from_std(socket) {
                        Ok(socket) => socket,
                        Err(error) => {
                            tracing::error!(service = %slot.service, "a socket cannot be used: {error}");
                            continue;
                        }
                    };
                    let name = slot.service.clone();
                    let known = proxies
                        .get(&name)
                        .filter(|_| listening.contains_key(&name))
                        .cloned();
                    let proxy = known.unwrap_or_else(|| proxy(&self.shared, &slot));
                    proxies.insert(name.clone(), proxy.clone());
                    let (stop, stopped) = watch::channel(false);
                    listening.entry(name).or_default().push(stop);
                    accepting.spawn(accept(
                        socket,
                        slot,
                        proxy,
                        stopped,
                        self.drained.clone(),
                        self.open.clone(),
                    ));
                }
                Order::Close(service) => {
                    for stop in listening.remove(&service).into_iter().flatten() {
                        let _ = stop.send(true);
                    }
                    if let Some(proxy) = proxies.remove(&service) {
                        proxy.http_cleanup().await;
                    }
                }
                Order::Drain => break,
            }
        }
        for stop in listening.into_values().flatten() {
            let _ = stop.send(true);
        }
        for proxy in proxies.into_values() {
            proxy.http_cleanup().await;
        }
        while accepting.join_next().await.is_some() {}
        let mut poll = tokio::time::interval(Duration::from_millis(10));
        while self.open.load(Ordering::Relaxed) > 0 {
            poll.tick().await;
        }
    }
}

fn proxy(shared: &Arc<Shared>, slot: &Arc<Slot>) -> Arc<HttpProxy<App>> {
    let conf = ServerConf {
        max_retries: TRIES,
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let app = App {
        shared: shared.clone(),
        slot: slot.clone(),
    };
    let mut proxy = http_proxy(&Arc::new(conf), app);
    let view = slot.view();
    let limits = &view.config.limits;
    let mut options = H2Options::default();
    options.max_concurrent_streams(limits.streams);
    options.max_header_list_size(limits.header_bytes);
    options.max_pending_accept_reset_streams(limits.resets as usize);
    proxy.h2_options = Some(options);
    let mut server = pingora_core::apps::HttpServerOptions::default();
    server.h2_idle_timeout = Some(limits.idle_timeout);
    proxy.server_options = Some(server);
    Arc::new(proxy)
}

/// Accepts until told to stop; then what is in the queue already is still served.
async fn accept(
    socket: tokio::net::TcpListener,
    slot: Arc<Slot>,
    proxy: Arc<HttpProxy<App>>,
    mut stopped: watch::Receiver<bool>,
    drained: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            _ = stopped.wait_for(|is_over| *is_over) => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client left while it waited, or there are too many of them.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::debug!(service = %slot.service, "accept: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                }
                continue;
            }
        };
        let Some(entered) = slot.enter(remote.ip()) else {
            slot.metrics.early("too_many");
            continue;
        };
        let (slot, proxy, drained) = (slot.clone(), proxy.clone(), drained.clone());
        let counted = Counted::new(&open);
        tokio::spawn(async move {
            serve::connection(stream, remote, slot, proxy, drained).await;
            drop((entered, counted));
        });
    }
}

/// One more open connection, until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
