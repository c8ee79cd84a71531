//! What a listener serves, as it stands. A reload replaces it at once; a request
//! keeps what it began with.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use director_core::{
    EndpointRef, Now,
    breaker::Transition,
    l7::{
        Action, AdaptiveLimit, Forward, Listener, Passive, RateLimiter, RetryBudget, Route, Router,
    },
};
use rustls::ServerConfig;
use tokio::sync::{Notify, mpsc};

use super::{
    access::AccessLog,
    cache::Caching,
    gate::Gate,
    metrics::{ListenerMetrics, Metrics, RouteMetrics, SiteMetrics},
    pool::Pool,
    seal::Seal,
};

/// Clients whose rates are remembered, of a listener and of each of its routes.
const CLIENTS: usize = 65_536;

/// What all threads and listeners share.
pub struct Shared {
    pub start: Instant,
    pub metrics: Metrics,
    pub signals: mpsc::Sender<Signal>,
    pub passive: ArcSwap<Passive>,
    pub access: ArcSwapOption<AccessLog>,
    pub seal: ArcSwapOption<Seal>,
    /// Made once: pingora asks that it stays for good.
    pub caching: OnceLock<&'static Caching>,
}

impl Shared {
    pub fn now(&self) -> Now {
        self.start.elapsed()
    }

    /// Tells the daemon, or leaves it where it has too much to do: probes find out.
    pub fn signal(&self, signal: Signal) {
        let _ = self.signals.try_send(signal);
    }
}

/// What requests tell of endpoints.
#[derive(Debug)]
pub enum Signal {
    /// It failed several times in a row.
    Suspect(EndpointRef),
    /// A breaker changed.
    Breaker {
        service: Arc<str>,
        route: Arc<str>,
        /// A site, or `site/endpoint`.
        breaker: String,
        transition: Transition,
    },
}

/// A listener, for as long as it is configured.
pub struct Slot {
    pub service: Arc<str>,
    pub metrics: ListenerMetrics,
    /// Open connections.
    pub open: AtomicU32,
    view: ArcSwap<ListenerView>,
    tls: ArcSwapOption<ServerConfig>,
    /// Open connections by client, where they are limited.
    clients: Mutex<HashMap<IpAddr, u32>>,
}

impl Slot {
    pub fn new(
        service: Arc<str>,
        view: ListenerView,
        tls: Option<Arc<ServerConfig>>,
        metrics: &Metrics,
    ) -> Self {
        Self {
            metrics: metrics.listener(&service),
            service,
            open: AtomicU32::new(0),
            view: ArcSwap::from_pointee(view),
            tls: ArcSwapOption::new(tls),
            clients: Mutex::default(),
        }
    }

    pub fn view(&self) -> Arc<ListenerView> {
        self.view.load_full()
    }

    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.load_full()
    }

    pub fn set_view(&self, view: ListenerView) {
        self.view.store(Arc::new(view));
    }

    pub fn set_tls(&self, tls: Option<Arc<ServerConfig>>) {
        self.tls.store(tls);
    }

    /// Takes in a connection, unless there are too many.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Entered> {
        let view = self.view.load();
        let limits = &view.config.limits;
        let mut counted = None;
        if let Some(most) = limits.connections_per_client {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let own = clients.entry(client).or_default();
            if *own >= most {
                return None;
            }
            *own += 1;
            counted = Some(client);
        }
        let entered = Entered {
            slot: self.clone(),
            counted,
        };
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        (open < limits.connections).then_some(entered)
    }
}

/// An open connection, until it is dropped.
pub struct Entered {
    slot: Arc<Slot>,
    counted: Option<IpAddr>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.slot.open.fetch_sub(1, Ordering::Relaxed);
        self.slot.metrics.connections.dec();
        if let Some(client) = self.counted {
            let mut clients = self
                .slot
                .clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = clients.get_mut(&client) {
                *own -= 1;
                if *own == 0 {
                    clients.remove(&client);
                }
            }
        }
    }
}

/// A listener's configuration, ready to serve.
pub struct ListenerView {
    pub config: Listener,
    pub router: Router,
    /// In the order of the configuration's.
    pub routes: Vec<RouteView>,
    pub rates: Arc<RateLimiter<IpAddr>>,
    /// Of requests that take no route.
    pub unrouted: SiteMetrics,
}

/// A route, ready to serve.
pub struct RouteView {
    pub config: Route,
    pub forward: Option<ForwardView>,
    pub rates: Arc<RateLimiter<IpAddr>>,
    pub metrics: RouteMetrics,
    /// Of requests that no site was asked for.
    pub local: SiteMetrics,
}

/// What a route that forwards needs besides its configuration.
pub struct ForwardView {
    pub pool: Arc<Pool>,
    pub sites: HashMap<Arc<str>, SiteView>,
    /// Outlives reloads, as the breakers of sites do.
    pub state: Arc<RouteState>,
}

/// What is remembered of a route from reload to reload.
pub struct RouteState {
    pub budget: RetryBudget,
    pub adaptive: Option<Arc<AdaptiveLimit>>,
    /// Requests that wait for a free place.
    pub pending: AtomicU32,
    /// Told whenever a place may be free.
    pub freed: Notify,
}

/// A route's requests to one site.
pub struct SiteView {
    pub gate: Arc<Gate>,
    pub metrics: SiteMetrics,
}

impl RouteView {
    /// What a route that forwards is configured to do.
    pub fn forward(&self) -> Option<(&Forward, &ForwardView)> {
        match (&self.config.action, &self.forward) {
            (Action::Forward(config), Some(view)) => Some((config, view)),
            _ => None,
        }
    }
}

/// What a new view is made of.
pub struct Ingredients<'a> {
    pub metrics: &'a Metrics,
    pub pools: &'a HashMap<Arc<str>, Arc<Pool>>,
    pub sites: &'a [Arc<str>],
    pub old: Option<&'a ListenerView>,
    pub now: Now,
}

impl ListenerView {
    /// # Errors
    /// When a pattern does not compile, which a valid configuration rules out.
    pub fn new(config: Listener, with: &Ingredients<'_>) -> anyhow::Result<Self> {
        let routes = config.routes.iter().map(|route| {
            let old = with
                .old
                .and_then(|old| old.routes.iter().find(|r| r.config.name == route.name));
            RouteView::new(&config.service, route, old, with)
        });
        let routes = routes.collect();
        let rates = with.old.map_or_else(
            || Arc::new(RateLimiter::new(CLIENTS)),
            |old| old.rates.clone(),
        );
        Ok(Self {
            router: Router::new(&config.routes)?,
            routes,
            rates,
            unrouted: with.metrics.site(&config.service, "", ""),
            config,
        })
    }
}

impl RouteView {
    fn new(service: &str, config: &Route, old: Option<&Self>, with: &Ingredients<'_>) -> Self {
        let forward = match &config.action {
            Action::Forward(forward) => with.pools.get(&forward.pool).map(|pool| {
                let old = old.and_then(|old| old.forward());
                ForwardView::new(service, config, forward, pool.clone(), old, with)
            }),
            Action::Redirect(_) | Action::Answer(_) => None,
        };
        Self {
            config: config.clone(),
            forward,
            rates: old.map_or_else(
                || Arc::new(RateLimiter::new(CLIENTS)),
                |old| old.rates.clone(),
            ),
            metrics: with.metrics.route(service, &config.name),
            local: with.metrics.site(service, &config.name, ""),
        }
    }
}

impl ForwardView {
    fn new(
        service: &str,
        route: &Route,
        config: &Forward,
        pool: Arc<Pool>,
        old: Option<(&Forward, &Self)>,
        with: &Ingredients<'_>,
    ) -> Self {
        let sites = with.sites.iter().map(|site| {
            let known = old.and_then(|(_, old)| old.sites.get(site));
            let view = SiteView {
                gate: known.map_or_else(|| Arc::new(Gate::new(with.now)), |old| old.gate.clone()),
                metrics: with.metrics.site(service, &route.name, site),
            };
            (site.clone(), view)
        });
        let same =
            old.filter(|(old, _)| old.retry == config.retry && old.adaptive == config.adaptive);
        let state = same.map_or_else(
            || {
                Arc::new(RouteState {
                    budget: RetryBudget::new(
                        config.retry.budget_percent,
                        config.retry.budget_floor,
                    ),
                    adaptive: config
                        .adaptive
                        .map(|bounds| Arc::new(AdaptiveLimit::new(bounds))),
                    pending: AtomicU32::new(0),
                    freed: Notify::new(),
                })
            },
            |(_, old)| old.state.clone(),
        );
        Self {
            pool,
            sites: sites.collect(),
            state,
        }
    }
}
