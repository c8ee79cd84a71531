//! The edge proxy: pingora under the verdicts that the packet path follows too.
//!
//! ```text
//! accept -> PROXY header -> TLS -> head -> route -> limits -> endpoint -> server
//!                                                     ^  breakers, retries  │
//!                                                     └─────────────────────┘
//! ```
//!
//! It is told plans as the kernel is ([`Proxy::apply`]), and tells what requests
//! make it believe of endpoints ([`Signal`]).

mod access;
mod account;
mod affinity;
mod answer;
mod attempt;
mod cache;
mod conn;
mod gate;
pub mod guard;
mod headers;
mod mcp;
mod metrics;
mod pool;
mod proxy;
mod request;
pub mod seal;
mod serve;
mod server;
mod slot;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Result;
use arc_swap::{ArcSwap, ArcSwapOption};
use director_core::{
    Model, ServicePlan,
    l7::{L7, Listener, Tls, UpstreamTls},
};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::sync::mpsc;

pub use self::slot::Signal;
use self::{
    access::AccessLog,
    cache::Caching,
    metrics::Metrics,
    pool::Pool,
    seal::Seal,
    server::Threads,
    slot::{Ingredients, ListenerView, Shared, Slot},
};
use crate::tls::{self, UpstreamMaterial};

/// Signals that wait for the daemon.
const SIGNALS: usize = 1024;

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    config: L7,
    threads: Threads,
    pools: HashMap<Arc<str>, Arc<Pool>>,
    listeners: HashMap<Arc<str>, Served>,
    tickets: tls::Shared,
    inherited: Vec<(SocketAddr, TcpListener)>,
}

/// A listener, and what it was made of.
struct Served {
    slot: Arc<Slot>,
    address: SocketAddr,
    tls: Option<Tls>,
    files: Option<tls::Watch>,
    /// The same sockets that the threads have, to be handed on.
    sockets: Vec<TcpListener>,
}

impl Proxy {
    /// Starts to serve. Until plans come, requests are answered with 503.
    ///
    /// # Errors
    /// When an address cannot be bound, or a file cannot be read.
    pub fn start(model: &Model, config: &L7) -> Result<(Self, mpsc::Receiver<Signal>)> {
        Self::take_over(model, config, Vec::new())
    }

    /// As [`Self::start`]. `inherited` are sockets that listen already, from the
    /// program before this one.
    ///
    /// # Errors
    /// When an address cannot be bound, or a file cannot be read.
    pub fn take_over(
        model: &Model,
        config: &L7,
        inherited: Vec<(SocketAddr, TcpListener)>,
    ) -> Result<(Self, mpsc::Receiver<Signal>)> {
        if !tls::install_provider() {
            tracing::warn!(
                "another library of cryptography was chosen first: TLS goes without X25519MLKEM768"
            );
        }
        raise_descriptors();
        let (signals, receiver) = mpsc::channel(SIGNALS);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            metrics: Metrics::default(),
            signals,
            passive: ArcSwap::from_pointee(config.passive),
            access: ArcSwapOption::empty(),
            seal: ArcSwapOption::empty(),
            caching: OnceLock::new(),
        });
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = config.threads.map_or_else(all, usize::from).max(1);
        let mut proxy = Self {
            threads: Threads::start(count, &shared)?,
            shared,
            config: L7::default(),
            pools: HashMap::new(),
            listeners: HashMap::new(),
            tickets: tls::Shared::new(),
            inherited,
        };
        proxy.reload(model, config)?;
        // What no listener wants is closed.
        proxy.inherited.clear();
        Ok((proxy, receiver))
    }

    /// Takes up another configuration. Requests that are under way end as they
    /// began, and connections stay open.
    ///
    /// # Errors
    /// When an address cannot be bound, or a file cannot be read: then all is as it
    /// was before.
    pub fn reload(&mut self, model: &Model, config: &L7) -> Result<()> {
        // First what can fail.
        let mut materials = HashMap::new();
        for upstream in &config.upstreams {
            if let Some(tls) = &upstream.tls {
                materials.insert(upstream.service.clone(), material(&upstream.service, tls)?);
            }
        }
        let mut prepared = Vec::new();
        for listener in &config.listeners {
            prepared.push(self.prepare(listener)?);
        }
        let access = match &config.access_log {
            None => None,
            Some(wanted) => match &*self.shared.access.load() {
                Some(log) if log.config() == wanted => Some(log.clone()),
                _ => Some(Arc::new(AccessLog::open(wanted)?)),
            },
        };
        let now = self.shared.now();
        let pools = config.upstreams.iter().map(|upstream| {
            let material = materials.get(&upstream.service);
            let known = self.pools.get(&upstream.service).cloned();
            let pool = match known {
                Some(pool) => {
                    pool.speak(upstream, material);
                    pool
                }
                None => Arc::new(Pool::new(&upstream.service, upstream, material, now)),
            };
            (upstream.service.clone(), pool)
        });
        let pools: HashMap<_, _> = pools.collect();
        let sites: Vec<_> = model.sites.iter().map(|site| site.name.clone()).collect();
        let mut views = Vec::new();
        for listener in &config.listeners {
            let old = self
                .listeners
                .get(&listener.service)
                .map(|served| served.slot.view());
            let with = Ingredients {
                metrics: &self.shared.metrics,
                pools: &pools,
                sites: &sites,
                old: old.as_deref(),
                now,
            };
            views.push(ListenerView::new(listener.clone(), &with)?);
        }
        // From here on nothing fails.
        self.shared.access.store(access);
        let seal = config
            .seal_key
            .as_ref()
            .map(|key| Arc::new(Seal::new(key.0)));
        self.shared.seal.store(seal);
        if config.cache_bytes > 0 {
            let made = self
                .shared
                .caching
                .get_or_init(|| Box::leak(Box::new(Caching::new(config.cache_bytes))));
            if config.cache_bytes != self.config.cache_bytes && self.config.cache_bytes > 0 {
                tracing::warn!(
                    "the size of the cache changes at the next start; it has {} bytes in use",
                    made.store().bytes()
                );
            }
        }
        self.shared.passive.store(Arc::new(config.passive));
        let kept: Vec<_> = config.listeners.iter().map(|l| l.service.clone()).collect();
        self.listeners.retain(|service, _| {
            let is_kept = kept.contains(service);
            if !is_kept {
                self.threads.close(service);
            }
            is_kept
        });
        for ((listener, prepared), view) in config.listeners.iter().zip(prepared).zip(views) {
            self.serve(listener, prepared, view);
        }
        self.pools = pools;
        self.config = config.clone();
        Ok(())
    }

    /// What a listener needs that may be missing.
    fn prepare(&mut self, listener: &Listener) -> Result<Prepared> {
        let address = SocketAddr::new(listener.address, listener.port);
        let known = self.listeners.get(&listener.service);
        let sockets = if known.is_some_and(|known| known.address == address) {
            Vec::new()
        } else {
            let mine = self.inherited.extract_if(.., |(own, _)| *own == address);
            let inherited = mine.map(|(_, socket)| socket).collect();
            server::bind(address, self.threads.count(), inherited)?
        };
        let files = listener
            .tls
            .as_ref()
            .map(|tls| tls::Watch::new(tls::files(tls)));
        let tls = match &listener.tls {
            None => None,
            Some(tls) => Some(self.certificates(&listener.service, tls, listener.http2)?),
        };
        Ok(Prepared {
            address,
            sockets,
            tls,
            files,
        })
    }

    fn certificates(&self, service: &str, tls: &Tls, http2: bool) -> Result<Arc<ServerConfig>> {
        let loaded = tls::load(tls).map_err(|problems| problem(service, &problems))?;
        for warning in loaded.warnings(tls::unix_now()) {
            tracing::warn!(service, "{warning}");
        }
        for certificate in &loaded.certificates {
            let name = certificate.names.first().map_or("", |name| &**name);
            self.shared
                .metrics
                .certificate(service, name, certificate.not_after);
        }
        Ok(tls::server_config(&loaded, http2, &self.tickets))
    }

    fn serve(&mut self, listener: &Listener, prepared: Prepared, view: ListenerView) {
        let service = &listener.service;
        let mut sockets = duplicates(&prepared.sockets);
        let slot = match self.listeners.get_mut(service) {
            Some(served) => {
                if prepared.sockets.is_empty() {
                    sockets = std::mem::take(&mut served.sockets);
                } else {
                    self.threads.close(service);
                }
                served.slot.set_view(view);
                served.slot.set_tls(prepared.tls);
                served.slot.clone()
            }
            None => Arc::new(Slot::new(
                service.clone(),
                view,
                prepared.tls,
                &self.shared.metrics,
            )),
        };
        self.threads.listen(&slot, prepared.sockets);
        let served = Served {
            slot,
            address: prepared.address,
            tls: listener.tls.clone(),
            files: prepared.files,
            sockets,
        };
        self.listeners.insert(service.clone(), served);
    }

    /// Takes up certificates that were written anew. One that is not valid is told
    /// of, and what was served before goes on.
    pub fn renew(&mut self) {
        let mut renewed = Vec::new();
        for (service, served) in &mut self.listeners {
            let (Some(tls), Some(files)) = (&served.tls, &mut served.files) else {
                continue;
            };
            if files.changed() {
                renewed.push((service.clone(), tls.clone()));
            }
        }
        for (service, tls) in renewed {
            let served = &self.listeners[&service];
            match self.certificates(&service, &tls, served.slot.view().config.http2) {
                Ok(config) => {
                    served.slot.set_tls(Some(config));
                    tracing::info!(%service, "certificates loaded again");
                }
                Err(error) => {
                    tracing::error!(%service, "certificates stay as they were: {error:#}")
                }
            }
        }
    }

    /// Follows a plan: the endpoints of a service that routes may name.
    pub fn apply(&self, plan: &ServicePlan) {
        if let Some(pool) = self.pools.get(&plan.service) {
            pool.apply(plan, self.shared.now());
        }
    }

    /// Counts a breaker's transition.
    pub fn count_transition(&self, service: &str, route: &str, breaker: &str, to: &'static str) {
        self.shared.metrics.breaker(service, route, breaker, to);
    }

    /// What was counted, up to now.
    pub fn registry(&self) -> &Registry {
        self.shared.metrics.registry()
    }

    /// The sockets that listen, for the program after this one.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn sockets(&self) -> std::io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let all = self.listeners.values().flat_map(|served| {
            let own = served.sockets.iter();
            own.map(|socket| Ok((served.address, socket.try_clone()?.into())))
        });
        all.collect()
    }

    /// What connection errors mean.
    pub fn passive(&self) -> director_core::l7::Passive {
        **self.shared.passive.load()
    }

    /// Accepts no more and ends when all requests are answered, or after the
    /// configured limit. Returns how many connections were cut.
    pub async fn drain(self) -> usize {
        // Closed at once, unless another program has them too.
        drop(self.listeners);
        let limit: Duration = self.config.drain_limit;
        self.threads.drain(limit).await
    }
}

/// The same sockets once more. Without them, only handing on fails.
fn duplicates(sockets: &[TcpListener]) -> Vec<TcpListener> {
    sockets
        .iter()
        .filter_map(|socket| socket.try_clone().ok())
        .collect()
}

/// See [`Proxy::prepare`].
struct Prepared {
    address: SocketAddr,
    sockets: Vec<TcpListener>,
    tls: Option<Arc<ServerConfig>>,
    files: Option<tls::Watch>,
}

fn material(service: &str, tls: &UpstreamTls) -> Result<UpstreamMaterial> {
    tls::upstream_material(tls).map_err(|problems| problem(service, &problems))
}

fn problem(service: &str, problems: &[tls::TlsProblem]) -> anyhow::Error {
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    anyhow::anyhow!("service {service}: {}", all.join("\n"))
}

/// Every connection takes descriptors: as many as the system lets this process have.
fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}
