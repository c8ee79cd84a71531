//! The daemon's state, for people and programs.

use std::collections::HashMap;

use director_core::{Mode, Protocol, status::ServiceStatus};

use super::Daemon;
use crate::{
    api::{
        EndpointReport, ExplainReport, ExplainRequest, InterfaceReport, ServiceReport, SiteReport,
        StatusReport, TableReport,
    },
    datapath::{Counters, Explanation, TableUse, Total, Tuple, Vip},
    metrics::Causes,
    net,
};

impl Daemon {
    /// One reading of all counters; all zero, and said, where that fails.
    pub(super) fn counters(&self) -> Counters {
        self.datapath.counters().unwrap_or_else(|error| {
            tracing::error!("the counters could not be read: {error:#}");
            Counters::default()
        })
    }

    pub(super) async fn status(&self, counters: &Counters) -> StatusReport {
        let by_endpoint: HashMap<_, Total> = counters
            .endpoints
            .iter()
            .map(|(vip, ip, port, total)| ((*vip, *ip, *port), *total))
            .collect();
        let by_service: HashMap<Vip, (Total, usize)> = counters
            .services
            .iter()
            .zip(&counters.tracked)
            .map(|((vip, total), (_, tracked))| (*vip, (*total, *tracked)))
            .collect();
        let status = self.core.status();
        let sites = status.sites.iter().map(|site| SiteReport {
            name: site.name.to_string(),
            weight: site.weight,
            verdict: site.verdict.to_string(),
            since_unix_ms: self
                .site_since
                .get(&site.name)
                .copied()
                .unwrap_or_else(|| self.clock.unix_ms(Default::default())),
            draining: site.draining,
            share: site.share,
        });
        let services = status
            .services
            .iter()
            .map(|service| self.service(service, &by_service, &by_endpoint));
        StatusReport {
            edge: self.config.edge.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_ms: self.clock.unix_ms(Default::default()),
            interfaces: self.interfaces().await,
            reconciliation: self.reconciliation.clone(),
            tables: self.datapath.table_use().iter().map(table).collect(),
            trace_events_lost: self.tracers.lost,
            sites: sites.collect(),
            services: services.collect(),
        }
    }

    async fn interfaces(&self) -> Vec<InterfaceReport> {
        let links = net::links().await.unwrap_or_default();
        let report = |name: &String| {
            let link = links.iter().find(|link| link.name == *name);
            InterfaceReport {
                name: name.clone(),
                xdp: link.and_then(|link| link.xdp).map(str::to_owned),
                up: link.is_some_and(|link| link.is_up),
            }
        };
        self.config.edge.interfaces.iter().map(report).collect()
    }

    fn service(
        &self,
        service: &ServiceStatus,
        by_service: &HashMap<Vip, (Total, usize)>,
        by_endpoint: &HashMap<(Vip, std::net::IpAddr, u16), Total>,
    ) -> ServiceReport {
        let vip = Vip {
            address: service.vip,
            port: service.port,
            protocol: service.protocol,
        };
        let endpoints = service.endpoints.iter().map(|e| {
            let total = by_endpoint
                .get(&(vip, e.address, e.port))
                .copied()
                .unwrap_or_default();
            EndpointReport {
                name: e.name.to_string(),
                site: e.site.to_string(),
                address: e.address,
                port: e.port,
                verdict: e.verdict.to_string(),
                cause: e.cause.to_string(),
                since_unix_ms: self.clock.unix_ms(e.since),
                draining: e.draining,
                latency_ms: e.last_latency.map(|latency| latency.as_secs_f64() * 1000.0),
                last_failure: e.last_failure.map(|failure| failure.to_string()),
                weight: e.weight,
                share: e.share,
                next_hop: self.hops.get(&e.address).is_some_and(Option::is_some),
                packets: total.packets,
                bytes: total.bytes,
                flows: total.flows,
            }
        });
        let (total, tracked) = by_service.get(&vip).copied().unwrap_or_default();
        ServiceReport {
            name: service.name.to_string(),
            vip: service.vip,
            port: service.port,
            protocol: protocol_name(service.protocol).to_owned(),
            mode: match service.mode {
                Mode::Tunnel => "tunnel",
                Mode::Nat => "nat",
                Mode::L2 => "l2",
                Mode::Proxy => "proxy",
                Mode::Pool => "pool",
            }
            .to_owned(),
            published: service.published,
            held: service.held.map(|rule| rule.to_string()),
            plan_version: service.version,
            packets: total.packets,
            bytes: total.bytes,
            flows: total.flows,
            slots_tracked: tracked as u64,
            endpoints: endpoints.collect(),
        }
    }

    pub(super) fn explain(&self, query: &ExplainRequest) -> Result<ExplainReport, String> {
        let protocol = match query.protocol.as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(format!(
                    "{other} is no protocol that is steered: tcp or udp"
                ));
            }
        };
        let flow = Tuple {
            source: query.source,
            destination: query.destination,
            protocol,
        };
        let found = self
            .datapath
            .explain(&flow)
            .map_err(|error| format!("{error:#}"))?;
        Ok(match found {
            None => ExplainReport {
                service: None,
                endpoint: None,
                site: None,
                address: None,
                by: "none".to_owned(),
                slot: None,
                table_endpoint: None,
                verdict: None,
                why: format!(
                    "{} {} is not steered: no published service has it, the packet passes to the host",
                    query.protocol, query.destination
                ),
            },
            Some(found) => self.explained(&found),
        })
    }

    fn explained(&self, found: &Explanation) -> ExplainReport {
        let status = self.core.status();
        let service = status.services.iter().find(|s| {
            (s.vip, s.port, s.protocol) == (found.vip.address, found.vip.port, found.vip.protocol)
        });
        let named = |address, port| {
            let endpoints = service.map(|s| s.endpoints.as_slice()).unwrap_or_default();
            endpoints
                .iter()
                .find(|e| (e.address, e.port) == (address, port))
        };
        let endpoint = named(found.endpoint, found.port);
        let name = endpoint.map_or_else(|| found.endpoint.to_string(), |e| e.name.to_string());
        let elsewhere = (found.endpoint, found.port) != found.table;
        let table_name = named(found.table.0, found.table.1).map(|e| e.name.to_string());
        let slot = found.slot;
        let why = if found.by_flow && elsewhere {
            format!(
                "{name}: the flow is recorded there; slot {slot} of the table now belongs to {}, which a new flow would go to",
                table_name.as_deref().unwrap_or("another endpoint")
            )
        } else if found.by_flow {
            format!(
                "{name}: the flow is recorded there, and slot {slot} of the table says the same"
            )
        } else if found.by_base {
            format!(
                "{name}: no record of the flow, so it began before slot {slot} of the table passed to {}, which a new flow would go to",
                table_name.as_deref().unwrap_or("another endpoint")
            )
        } else {
            format!("{name}: no record of the flow; slot {slot} of the table belongs to it")
        };
        ExplainReport {
            service: service.map(|s| s.name.to_string()),
            site: endpoint.map(|e| e.site.to_string()),
            verdict: endpoint.map(|e| e.verdict.to_string()),
            endpoint: Some(name),
            address: Some((found.endpoint, found.port).into()),
            by: match (found.by_flow, found.by_base) {
                (true, _) => "flow",
                (false, true) => "base",
                (false, false) => "table",
            }
            .to_owned(),
            slot: Some(slot),
            table_endpoint: elsewhere.then_some(table_name).flatten(),
            why,
        }
    }
}

/// How many packets were not steered, by cause.
pub(super) fn causes(counters: &Counters) -> Causes {
    counters
        .causes
        .iter()
        .map(|(cause, count)| (cause.label(), *count))
        .collect()
}

fn table(table: &TableUse) -> TableReport {
    TableReport {
        family: format!("ipv{}", table.family),
        flows: table.flows,
        flow_capacity: table.flow_capacity,
        nat_ports: table.nat_ports,
        nat_port_capacity: table.nat_capacity,
    }
}

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
