//! The one event loop: everything that happens becomes an event to the core,
//! and what the core commands is done here, in order.

mod listings;
mod names;
mod proxy;
mod report;
mod start;
mod tracers;
mod upkeep;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use director_core::{Command, Core, EndpointRef, Event, Notice, Target};
use director_ebpf::abi::event::FlowEvent;
use health_probes::{Prober, Report};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    api::{DrainReport, ReconciliationReport},
    config::Config,
    control::{MetricsPort, Request},
    datapath::{Datapath, Events, Hop, SWEEP_EVERY},
    handover,
    l7::{self, Proxy},
    metrics::Metrics,
    net::{NextHop, NextHops},
    probes,
};

pub use self::start::uses;
use self::{listings::Listings, names::Names, tracers::Tracers};

/// How often the maps are compared with what they should hold.
const RECONCILE: Duration = Duration::from_secs(5);
/// Flow events that are taken at once.
const EVENTS: usize = 256;

/// A running daemon.
pub struct Daemon {
    config: Config,
    path: PathBuf,
    core: Core,
    datapath: Datapath,
    prober: Prober<EndpointRef>,
    metrics: Metrics,
    clock: Clock,
    /// When the maps came to hold each site's verdict, Unix milliseconds.
    site_since: HashMap<Arc<str>, u64>,
    reconciliation: ReconciliationReport,
    hops: NextHops,
    /// Endpoint addresses that the network watcher is to look after.
    addresses: watch::Sender<Vec<IpAddr>>,
    inputs: Inputs,
    /// Where the configuration has something for it to serve.
    l7: Option<Proxy>,
    listings: Listings,
    events: Events,
    tracers: Tracers,
    /// What flow events are named by.
    names: Names,
    /// Held for as long as the daemon runs: one per socket.
    lock: start::Lock,
    /// Since the end of the start.
    metrics_port: Option<MetricsPort>,
    start: handover::Start,
}

/// Where events come from.
struct Inputs {
    reports: mpsc::Receiver<Report<EndpointRef>>,
    hops: mpsc::Receiver<NextHops>,
    requests: mpsc::Receiver<Request>,
    told: mpsc::Receiver<l7::Signal>,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

/// The core's time, and wall time for people.
struct Clock {
    start: Instant,
    start_unix: Duration,
}

impl Clock {
    fn new() -> Self {
        let start_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_unix,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Unix milliseconds of a moment of the core's time.
    fn unix_ms(&self, moment: Duration) -> u64 {
        u64::try_from((self.start_unix + moment).as_millis()).unwrap_or(u64::MAX)
    }
}

enum Input {
    Report(Report<EndpointRef>),
    Hops(NextHops),
    Request(Request),
    Signal(l7::Signal),
    /// The reader of a listing takes more.
    List(usize),
    Events(std::io::Result<Vec<FlowEvent>>),
    TracerGone,
    Sweep,
    Reconcile,
    Reload,
    Upgrade,
    Stop,
}

impl Daemon {
    /// Runs until SIGTERM or SIGINT. Steering goes on after that: programs,
    /// links and maps are pinned.
    ///
    /// # Errors
    /// When a signal handler cannot be set.
    pub async fn run(mut self) -> Result<()> {
        let mut reconcile = tokio::time::interval(RECONCILE);
        reconcile.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        reconcile.tick().await;
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let inputs = &mut self.inputs;
            let input = tokio::select! {
                Some(report) = inputs.reports.recv() => Input::Report(report),
                Some(hops) = inputs.hops.recv() => Input::Hops(hops),
                Some(request) = inputs.requests.recv() => Input::Request(request),
                Some(signal) = inputs.told.recv() => Input::Signal(signal),
                which = self.listings.ready() => Input::List(which),
                events = self.events.read(EVENTS), if !self.tracers.is_empty() => Input::Events(events),
                () = self.tracers.gone() => Input::TracerGone,
                _ = sweep.tick() => Input::Sweep,
                _ = reconcile.tick() => Input::Reconcile,
                _ = inputs.signals.hangup.recv() => Input::Reload,
                _ = inputs.signals.upgrade.recv() => Input::Upgrade,
                _ = inputs.signals.terminate.recv() => Input::Stop,
                _ = inputs.signals.interrupt.recv() => Input::Stop,
            };
            match input {
                Input::Report(report) => self.report(report),
                Input::Hops(hops) => self.hops(hops),
                Input::Request(request) => self.request(request).await,
                Input::Signal(signal) => self.signal(signal),
                Input::List(which) => self.listings.advance(which, &self.datapath),
                Input::Events(events) => self.flow_events(events),
                Input::TracerGone => self.tracers_changed(),
                Input::Sweep => self.sweep(),
                Input::Reconcile => self.reconcile(),
                Input::Reload => self.reload(),
                Input::Upgrade => match self.hand_over() {
                    Ok(next) => return self.leave(next).await,
                    Err(error) => tracing::error!("this program goes on: {error:#}"),
                },
                Input::Stop => break,
            }
        }
        self.stop_proxy().await;
        if let Err(error) = self.datapath.set_trace(0) {
            tracing::warn!("tracing could not be turned off: {error:#}");
        }
        let _ = std::fs::remove_file(&self.config.edge.socket);
        tracing::info!("stopped; steering stays in place (`director unload` removes it)");
        Ok(())
    }

    fn report(&mut self, report: Report<EndpointRef>) {
        let is_ok = report.result.is_ok();
        let EndpointRef { service, endpoint } = &report.key;
        self.metrics.probe(service, endpoint, report.latency, is_ok);
        if let Err(health_probes::Failure::Local(why)) = &report.result {
            tracing::warn!(endpoint = %report.key, "the probe could not be made: {why}");
        }
        let outcome = match &report.result {
            Ok(()) => Ok(report.latency),
            Err(failure) => Err(probes::failure(failure)),
        };
        self.event(Event::Probe {
            endpoint: report.key,
            outcome,
        });
    }

    /// Gives the core an event and does what it commands. Returns its notices.
    fn event(&mut self, event: Event) -> Vec<Notice> {
        let now = self.clock.now();
        let commands = self.core.handle(event, now);
        let mut notices = Vec::new();
        for command in commands {
            match command {
                Command::Apply(plan) => self.apply(&plan),
                Command::Remove { service } => {
                    if let Err(error) = self.datapath.remove(&service) {
                        tracing::error!(%service, "the service could not be removed: {error:#}");
                    }
                }
                Command::Pace { endpoint, pace } => {
                    self.prober.set_pace(&endpoint, probes::pace(pace));
                }
                Command::Notice(notice) => notices.push(notice),
            }
        }
        // After the maps, so that what is told holds already.
        for notice in &notices {
            self.notice(notice);
        }
        notices
    }

    fn apply(&mut self, plan: &director_core::ServicePlan) {
        let service = self
            .config
            .model
            .services
            .iter()
            .find(|s| s.name == plan.service);
        let Some(service) = service else { return };
        if let Some(proxy) = &self.l7 {
            proxy.apply(plan);
        }
        let start = Instant::now();
        match self.datapath.apply(service, plan) {
            Ok(()) => self.metrics.applied(start.elapsed()),
            Err(error) => {
                tracing::error!(service = %plan.service, "the plan could not be applied: {error:#}");
            }
        }
    }

    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Endpoint {
                endpoint,
                site,
                from,
                to,
                cause,
                ..
            } => {
                self.metrics
                    .transition(&endpoint.service, &endpoint.endpoint, &to.to_string());
                tracing::info!(%endpoint, %site, "{from} -> {to}: {cause}");
            }
            Notice::Site { site, from, to, .. } => {
                let now = self.clock.unix_ms(self.clock.now());
                self.site_since.insert(site.clone(), now);
                tracing::info!(%site, "{from} -> {to}");
            }
            Notice::Refused {
                service,
                rule,
                detail,
            } => {
                self.metrics.refused(service, rule.to_string());
                tracing::warn!(%service, "held by rule {rule}: {detail}");
            }
            Notice::Resumed { service } => tracing::info!(%service, "no longer held"),
            Notice::UnknownTarget { target } => {
                tracing::warn!(%target, "drain of an unknown target")
            }
        }
    }

    /// Takes over the ways to the endpoints. An endpoint whose way changed is
    /// probed at once: a link that went down shows here first.
    fn hops(&mut self, hops: NextHops) {
        for (address, hop) in &hops {
            if self.hops.get(address) == Some(hop) {
                continue;
            }
            if let Err(error) = self.datapath.set_hop(*address, hop.map(to_hop)) {
                tracing::error!("the next hop of {address} could not be written: {error:#}");
            }
            self.probe_at(*address);
        }
        let gone: Vec<IpAddr> = self
            .hops
            .keys()
            .filter(|address| !hops.contains_key(address))
            .copied()
            .collect();
        for address in gone {
            if let Err(error) = self.datapath.set_hop(address, None) {
                tracing::error!("the next hop of {address} could not be written: {error:#}");
            }
        }
        self.hops = hops;
    }

    fn probe_at(&self, address: IpAddr) {
        for service in &self.config.model.services {
            for endpoint in service.endpoints.iter().filter(|e| e.address == address) {
                self.prober.probe_now(&EndpointRef {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                });
            }
        }
    }

    async fn request(&mut self, request: Request) {
        // Where the asker has gone meanwhile, nobody misses the answer.
        match request {
            Request::Status(answer) => {
                let _ = answer.send(self.status(&self.counters()).await);
            }
            Request::Metrics(answer) => {
                let counters = self.counters();
                let status = self.status(&counters).await;
                let proxy = self.l7.as_ref().map(Proxy::registry);
                let _ = answer.send(
                    self.metrics
                        .text(&status, &report::causes(&counters), proxy),
                );
            }
            Request::Conns(query, answer) => {
                let _ = answer.send(self.listings.begin(&query, &self.config.model));
            }
            Request::Trace(query, answer) => {
                let _ = answer.send(self.tracers.begin(&query, &self.config.model));
                self.tracers_changed();
            }
            Request::Explain(query, answer) => {
                let _ = answer.send(self.explain(&query));
            }
            Request::Drain { target, on, answer } => {
                let _ = answer.send(self.drain(&target, on));
            }
        }
    }

    fn drain(&mut self, name: &str, on: bool) -> Result<DrainReport, String> {
        let target = match name.split_once('/') {
            Some((service, endpoint)) => Target::Endpoint(EndpointRef {
                service: service.into(),
                endpoint: endpoint.into(),
            }),
            None => Target::Site(name.into()),
        };
        if !self.core.knows(&target) {
            let sites: Vec<&str> = self.config.model.sites.iter().map(|s| &*s.name).collect();
            return Err(format!(
                "there is no site or service/endpoint called {name}\n  help: the sites are {}",
                sites.join(", ")
            ));
        }
        tracing::info!(
            target = name,
            "{}",
            if on { "drain ordered" } else { "drain ended" }
        );
        let notices = self.event(Event::Drain { target, on });
        let notes = notices.into_iter().filter_map(|notice| match notice {
            Notice::Refused {
                service, detail, ..
            } => Some(format!("service {service}: {detail}")),
            _ => None,
        });
        Ok(DrainReport {
            target: name.to_owned(),
            draining: on,
            notes: notes.collect(),
        })
    }
}

fn to_hop(hop: NextHop) -> Hop {
    Hop {
        interface: hop.interface,
        destination: hop.destination,
        source: hop.source,
        mtu: hop.mtu,
        vlan: hop.vlan,
    }
}
