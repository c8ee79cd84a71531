//! From a configuration to a running daemon.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use director_core::{
    Adopted, Core, CoreOptions, EndpointRef, EndpointState, Event, Mode, Model, TableSize, Target,
};
use health_probes::Prober;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{mpsc, watch};

use super::{Clock, Daemon, Inputs, Listings, Names, Signals, Tracers};
use crate::{
    api::ReconciliationReport,
    config::Config,
    control,
    datapath::{Attached, Datapath, Held, Options, Uses, Vip},
    handover::{self, Inherited},
    l7::Proxy,
    metrics::Metrics,
    net, probes,
};

/// Shows that no other daemon runs with the same socket.
pub type Lock = Flock<File>;

impl Daemon {
    /// Adopts or makes the kernel state, attaches, and starts to probe.
    ///
    /// # Errors
    /// Whatever keeps it from running. What the kernel held before is untouched
    /// unless the configuration asked for a change.
    pub async fn start(config: Config, path: PathBuf) -> Result<Self> {
        let mut inherited = Inherited::take();
        let start = handover::Start::now()?;
        let lock = lock(&config.edge.socket, inherited.lock.take())?;
        preflight(&config).await?;
        let signals = Signals::new()?;
        let options = Options::new(&config.edge, uses(&config.model))?;
        let (mut datapath, held) = Datapath::open(&options)?;
        // Before services, so that none is published without it.
        datapath.set_deny(&config.edge.deny)?;
        let events = datapath.events()?;

        let (report_sender, reports) = mpsc::channel(1024);
        let (hop_sender, hops) = mpsc::channel(16);
        let (request_sender, requests) = mpsc::channel(64);
        let (addresses, watched) = watch::channel(endpoint_addresses(&config.model));
        let l7 = &config.l7;
        let (l7, told) = if l7.listeners.is_empty() {
            (None, mpsc::channel(1).1)
        } else {
            let (proxy, signals) =
                Proxy::start(&config.model, l7, std::mem::take(&mut inherited.listeners))?;
            (Some(proxy), signals)
        };
        let prober = Prober::spawn(config.probe_concurrency, report_sender);
        let table_size = TableSize::new(config.edge.limits.table_size)?;
        let mut daemon = Self {
            core: Core::new(CoreOptions { table_size }),
            datapath,
            prober,
            metrics: Metrics::default(),
            clock: Clock::new(),
            site_since: HashMap::new(),
            reconciliation: ReconciliationReport::default(),
            hops: net::NextHops::new(),
            addresses,
            inputs: Inputs {
                reports,
                hops,
                requests,
                told,
                signals,
            },
            l7,
            listings: Listings::default(),
            events,
            tracers: Tracers::default(),
            names: Names::new(&config.model),
            path,
            config,
            metrics_port: None,
            start,
            lock,
        };
        daemon.adopt(&held)?;
        net::watch(watched, hop_sender)?;
        // The first look at the network comes before the first packet.
        if let Some(hops) = daemon.inputs.hops.recv().await {
            daemon.hops(hops);
        }
        daemon.attach()?;
        let metrics = daemon.config.edge.metrics;
        let port =
            control::serve_metrics(metrics, inherited.metrics.take(), request_sender.clone())?;
        daemon.metrics_port = Some(port);
        control::serve_socket(&daemon.config.edge.socket, request_sender)?;
        tracing::info!(
            edge = daemon.config.edge.name,
            services = daemon.config.model.services.len(),
            "running"
        );
        inherited.ready();
        Ok(daemon)
    }

    /// Continues with what the kernel holds, as far as the configuration still
    /// has it.
    fn adopt(&mut self, held: &[Held]) -> Result<()> {
        let model = self.config.model.clone();
        let known: HashMap<Vip, (Mode, &str)> = model
            .services
            .iter()
            .map(|service| (Vip::from(service), (service.mode, &*service.name)))
            .collect();
        let is_kept = |vip: &Vip, mode: Mode| known.get(vip).is_some_and(|(m, _)| *m == mode);
        for vip in self.datapath.remove_adopted(is_kept)? {
            tracing::info!("removed the service at {}:{}", vip.address, vip.port);
        }
        let mut adopted = Vec::new();
        for service in held
            .iter()
            .filter(|service| is_kept(&service.vip, service.mode))
        {
            let Some((_, name)) = known.get(&service.vip) else {
                continue;
            };
            for (address, port, state) in &service.endpoints {
                let service = (*name).into();
                adopted.push(Adopted {
                    service,
                    address: *address,
                    port: *port,
                    state: *state,
                });
            }
            tracing::info!(service = name, "adopted from the kernel");
        }
        let drained = drained_sites(&model, &adopted);
        self.event(Event::Adopted(adopted));
        self.prober.set_targets(probes::targets(&model));
        self.event(Event::Model(model));
        for site in drained {
            self.drain_site_instead(&site);
        }
        Ok(())
    }

    /// The kernel knows drains of endpoints only. Where all of a site's drain,
    /// it was the site that was drained, and so it can be undrained as one.
    fn drain_site_instead(&mut self, site: &str) {
        self.event(Event::Drain {
            target: Target::Site(site.into()),
            on: true,
        });
        let endpoints: Vec<EndpointRef> = self
            .config
            .model
            .services
            .iter()
            .flat_map(|service| {
                service
                    .endpoints
                    .iter()
                    .filter(|e| &*e.site == site)
                    .map(|endpoint| EndpointRef {
                        service: service.name.clone(),
                        endpoint: endpoint.name.clone(),
                    })
            })
            .collect();
        for endpoint in endpoints {
            self.event(Event::Drain {
                target: Target::Endpoint(endpoint),
                on: false,
            });
        }
    }

    fn attach(&mut self) -> Result<()> {
        let interfaces = self.config.edge.interfaces.clone();
        for interface in &interfaces {
            match self.datapath.attach(interface, self.config.edge.attach)? {
                Attached::New(mode) => tracing::info!(interface, "attached, mode {mode}"),
                Attached::Kept => tracing::info!(interface, "program replaced in place"),
            }
        }
        for link in self.datapath.detach_others(&interfaces)? {
            tracing::info!("removed {link}: the interface is no longer configured");
        }
        Ok(())
    }
}

/// Sites all of whose endpoints the kernel drains, although their weights say
/// otherwise.
fn drained_sites(model: &Model, adopted: &[Adopted]) -> BTreeSet<String> {
    let mut sites: HashMap<&str, bool> = HashMap::new();
    for service in model.services.iter().filter(|s| s.mode.is_steered()) {
        for endpoint in &service.endpoints {
            let site_weight = model
                .sites
                .iter()
                .find(|s| s.name == endpoint.site)
                .map_or(0, |s| s.weight);
            let held = adopted.iter().find(|a| {
                a.service == service.name
                    && a.address == endpoint.address
                    && a.port == endpoint.port
            });
            let is_drained = held.is_some_and(|a| a.state == EndpointState::Draining)
                && endpoint.weight > 0
                && site_weight > 0;
            let all = sites.entry(&*endpoint.site).or_insert(true);
            *all &= is_drained;
        }
    }
    sites
        .into_iter()
        .filter(|(_, all)| *all)
        .map(|(site, _)| site.to_owned())
        .collect()
}

/// Addresses whose next hops are to be known.
pub fn endpoint_addresses(model: &Model) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = model
        .services
        .iter()
        .flat_map(|s| s.endpoints.iter().map(|e| e.address))
        .collect();
    addresses.into_iter().collect()
}

/// Which flow maps a model needs at full size.
pub fn uses(model: &Model) -> Uses {
    let any = |v4: bool, nat: bool| {
        model
            .services
            .iter()
            .filter(|s| s.mode != Mode::Pool)
            .any(|s| s.vip.is_ipv4() == v4 && (!nat || s.mode == Mode::Nat))
    };
    Uses {
        ipv4: any(true, false),
        ipv6: any(false, false),
        nat4: any(true, true),
        nat6: any(false, true),
    }
}

/// `inherited` is the lock of the program before this one, which is this one's too.
fn lock(socket: &Path, inherited: Option<File>) -> Result<Lock> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = socket.with_extension("lock");
    let made = inherited.map_or_else(|| File::create(&path), Ok);
    let file = made.with_context(|| format!("making {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => bail!(
            "another daemon runs with the socket {}\n  help: stop it, or give this one another edge.socket and edge.pin_dir",
            socket.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// What must hold of this host and cannot be seen from the file alone.
async fn preflight(config: &Config) -> Result<()> {
    let links = net::links().await?;
    let mut problems = Vec::new();
    for interface in &config.edge.interfaces {
        if !links.iter().any(|link| link.name == *interface) {
            let names: Vec<&str> = links.iter().map(|link| &*link.name).collect();
            problems.push(format!(
                "edge.interfaces: there is no interface {interface}\n  help: this host has {}",
                names.join(", ")
            ));
        }
    }
    let ours = net::addresses().await?;
    let nat = &config.edge.nat;
    let sources = nat
        .v4
        .iter()
        .map(|a| IpAddr::V4(*a))
        .chain(nat.v6.iter().map(|a| IpAddr::V6(*a)));
    for source in sources {
        if ours.iter().any(|(_, address)| *address == source) {
            problems.push(format!(
                "edge.nat: {source} is an address of this host, whose own connections would be mistaken for clients'\n  \
                 help: name an address that is routed here and assigned to no interface"
            ));
        }
    }
    if config.model.services.iter().any(|s| s.steering.syn_cookies) {
        warn_of_cookies();
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("\n"))
    }
}

/// SYN cookies are the stack's own, and follow its setting (see ip-sysctl in the
/// kernel's documentation).
fn warn_of_cookies() {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_syncookies";
    let lost = match fs::read_to_string(SETTING).as_deref().map(str::trim) {
        Ok("2") => return,
        Ok("0") => "no SYN is answered with a cookie",
        _ => "SYNs are answered with cookies only while a listener's queue is full",
    };
    tracing::warn!("syn_cookies: {lost}; net.ipv4.tcp_syncookies = 2 has all of them answered so");
}
