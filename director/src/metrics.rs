//! What Prometheus scrapes, in the OpenMetrics text format.
//!
//! Events are counted as they come; everything that the kernel or the core
//! keeps is read at the scrape, so that no label outlives its endpoint.

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::api::StatusReport;

/// How many packets were not steered, by the label of the cause.
pub type Causes = Vec<(&'static str, u64)>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabels {
    service: String,
    site: String,
    endpoint: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SiteLabels {
    site: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProbeLabels {
    service: String,
    endpoint: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TransitionLabels {
    service: String,
    endpoint: String,
    to: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MapLabels {
    map: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    service: String,
    rule: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FamilyLabels {
    family: String,
}

type GaugeF = Gauge<f64, AtomicU64>;

/// The events that the daemon counts.
pub struct Metrics {
    registry: Registry,
    probes: Family<ProbeLabels, Counter>,
    probe_seconds: Histogram,
    transitions: Family<TransitionLabels, Counter>,
    repairs: Family<MapLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    plans: Counter,
    apply_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("director");
        let probes = Family::default();
        let probe_seconds = Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        ]);
        let transitions = Family::default();
        let repairs = Family::default();
        let refused = Family::default();
        let plans = Counter::default();
        let apply_seconds =
            Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5]);
        registry.register("probes", "Probes by result", probes.clone());
        registry.register(
            "probe_seconds",
            "How long probes took",
            probe_seconds.clone(),
        );
        registry.register("transitions", "Changes of verdict", transitions.clone());
        registry.register(
            "map_repairs",
            "Differences found in BPF maps",
            repairs.clone(),
        );
        registry.register(
            "plans_refused",
            "Plans that a safety rule held",
            refused.clone(),
        );
        registry.register(
            "plans_applied",
            "Plans brought to the kernel",
            plans.clone(),
        );
        let help = "From a plan to its being in force";
        registry.register("plan_apply_seconds", help, apply_seconds.clone());
        Self {
            registry,
            probes,
            probe_seconds,
            transitions,
            repairs,
            refused,
            plans,
            apply_seconds,
        }
    }
}

impl Metrics {
    pub fn probe(&self, service: &str, endpoint: &str, took: Duration, is_ok: bool) {
        let result = if is_ok { "ok" } else { "failed" };
        let (service, endpoint) = (service.to_owned(), endpoint.to_owned());
        self.probes
            .get_or_create(&ProbeLabels {
                service,
                endpoint,
                result,
            })
            .inc();
        self.probe_seconds.observe(took.as_secs_f64());
    }

    pub fn transition(&self, service: &str, endpoint: &str, to: &str) {
        let labels = TransitionLabels {
            service: service.to_owned(),
            endpoint: endpoint.to_owned(),
            to: to.to_owned(),
        };
        self.transitions.get_or_create(&labels).inc();
    }

    pub fn repair(&self, map: &'static str) {
        self.repairs.get_or_create(&MapLabels { map }).inc();
    }

    pub fn refused(&self, service: &str, rule: String) {
        self.refused
            .get_or_create(&RefusedLabels {
                service: service.to_owned(),
                rule,
            })
            .inc();
    }

    pub fn applied(&self, took: Duration) {
        self.plans.inc();
        self.apply_seconds.observe(took.as_secs_f64());
    }

    /// Everything, as text.
    pub fn text(&self, status: &StatusReport, causes: &Causes, proxy: Option<&Registry>) -> String {
        let mut out = String::new();
        let result = text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &snapshot(status, causes)))
            .and_then(|()| proxy.map_or(Ok(()), |proxy| text::encode_registry(&mut out, proxy)))
            .and_then(|()| text::encode_eof(&mut out));
        if result.is_err() {
            // Only a String that cannot grow fails, which aborts before this.
            let _ = write!(out, "# EOF");
        }
        out
    }
}

/// A registry of what holds at this moment.
fn snapshot(status: &StatusReport, causes: &Causes) -> Registry {
    let mut registry = Registry::with_prefix("director");
    let not_steered = Family::<CauseLabels, Counter>::default();
    for (cause, count) in causes {
        not_steered
            .get_or_create(&CauseLabels { cause })
            .inc_by(*count);
    }
    registry.register(
        "packets_not_steered",
        "Packets for VIPs by cause",
        not_steered,
    );

    let passes: Counter = Counter::default();
    passes.inc_by(status.reconciliation.passes);
    registry.register(
        "reconciliations",
        "Comparisons of maps with the plan",
        passes,
    );
    let last: GaugeF = Gauge::default();
    last.set(status.reconciliation.last_unix_ms.unwrap_or(0) as f64 / 1000.0);
    registry.register(
        "last_reconciliation_timestamp_seconds",
        "When the last one was",
        last,
    );

    let lost: Counter = Counter::default();
    lost.inc_by(status.trace_events_lost);
    let help = "Flow events that tracers were too slow for";
    registry.register("trace_events_lost", help, lost);

    tables(&mut registry, status);
    sites(&mut registry, status);
    services(&mut registry, status);
    endpoints(&mut registry, status);
    registry
}

fn tables(registry: &mut Registry, status: &StatusReport) {
    let flows = Family::<FamilyLabels, Gauge>::default();
    let capacity = Family::<FamilyLabels, Gauge>::default();
    let ports = Family::<FamilyLabels, Gauge>::default();
    let port_capacity = Family::<FamilyLabels, Gauge>::default();
    let set = |gauge: &Family<FamilyLabels, Gauge>, family: &str, value: u64| {
        let family = family.to_owned();
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        gauge.get_or_create(&FamilyLabels { family }).set(value);
    };
    for table in &status.tables {
        set(&flows, &table.family, table.flows);
        set(&capacity, &table.family, table.flow_capacity);
        if table.nat_port_capacity > 0 {
            set(&ports, &table.family, table.nat_ports);
            set(&port_capacity, &table.family, table.nat_port_capacity);
        }
    }
    let help = "Recorded flows, as found within the last two minutes";
    registry.register("flow_records", help, flows);
    let help = "Flows that there is room to record";
    registry.register("flow_records_capacity", help, capacity);
    let help = "NAT ports in use, as found within the last two minutes";
    registry.register("nat_ports", help, ports);
    registry.register(
        "nat_ports_capacity",
        "NAT ports that there are",
        port_capacity,
    );
}

fn sites(registry: &mut Registry, status: &StatusReport) {
    let share = Family::<SiteLabels, GaugeF>::default();
    let up = Family::<SiteLabels, Gauge>::default();
    for site in &status.sites {
        let labels = SiteLabels {
            site: site.name.clone(),
        };
        share.get_or_create(&labels).set(site.share);
        up.get_or_create(&labels)
            .set(i64::from(site.verdict != "down"));
    }
    registry.register("site_share", "Share of new flows, 0 to 1", share);
    registry.register("site_up", "0 where every endpoint of the site is down", up);
}

fn services(registry: &mut Registry, status: &StatusReport) {
    let packets = Family::<ServiceLabels, Counter>::default();
    let bytes = Family::<ServiceLabels, Counter>::default();
    let flows = Family::<ServiceLabels, Counter>::default();
    let published = Family::<ServiceLabels, Gauge>::default();
    let held = Family::<ServiceLabels, Gauge>::default();
    let tracked = Family::<ServiceLabels, Gauge>::default();
    for service in &status.services {
        let labels = ServiceLabels {
            service: service.name.clone(),
        };
        packets.get_or_create(&labels).inc_by(service.packets);
        bytes.get_or_create(&labels).inc_by(service.bytes);
        flows.get_or_create(&labels).inc_by(service.flows);
        published
            .get_or_create(&labels)
            .set(i64::from(service.published));
        held.get_or_create(&labels)
            .set(i64::from(service.held.is_some()));
        tracked
            .get_or_create(&labels)
            .set(i64::try_from(service.slots_tracked).unwrap_or(i64::MAX));
    }
    let help = "Slots of the table whose flows may be recorded";
    registry.register("service_slots_tracked", help, tracked);
    registry.register("service_packets", "Packets steered", packets);
    registry.register("service_bytes", "IP bytes from clients", bytes);
    registry.register("service_flows", "Flows placed by the table", flows);
    registry.register(
        "service_published",
        "1 where packets are steered",
        published,
    );
    registry.register(
        "service_held",
        "1 where a safety rule keeps an older table",
        held,
    );
}

fn endpoints(registry: &mut Registry, status: &StatusReport) {
    let packets = Family::<EndpointLabels, Counter>::default();
    let bytes = Family::<EndpointLabels, Counter>::default();
    let flows = Family::<EndpointLabels, Counter>::default();
    let up = Family::<EndpointLabels, Gauge>::default();
    let draining = Family::<EndpointLabels, Gauge>::default();
    let share = Family::<EndpointLabels, GaugeF>::default();
    for service in &status.services {
        for endpoint in &service.endpoints {
            let labels = EndpointLabels {
                service: service.name.clone(),
                site: endpoint.site.clone(),
                endpoint: endpoint.name.clone(),
            };
            packets.get_or_create(&labels).inc_by(endpoint.packets);
            bytes.get_or_create(&labels).inc_by(endpoint.bytes);
            flows.get_or_create(&labels).inc_by(endpoint.flows);
            let is_up = endpoint.verdict == "healthy" || endpoint.verdict == "draining";
            up.get_or_create(&labels).set(i64::from(is_up));
            draining
                .get_or_create(&labels)
                .set(i64::from(endpoint.draining));
            share.get_or_create(&labels).set(endpoint.share);
        }
    }
    registry.register("endpoint_packets", "Packets steered", packets);
    registry.register("endpoint_bytes", "IP bytes from clients", bytes);
    registry.register("endpoint_flows", "Flows placed by the table", flows);
    registry.register("endpoint_up", "1 where probes say it is healthy", up);
    registry.register(
        "endpoint_draining",
        "1 where it takes no new flows by order",
        draining,
    );
    registry.register("endpoint_share", "Share of new flows, 0 to 1", share);
}
