//! Reports as text for people.

mod flows;

pub use flows::{conn, conns_heading, trace_event};

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::{
    api::{EndpointReport, ServiceReport, StatusReport, TableReport},
    config::Config,
};

/// One line about a valid configuration.
pub fn summary(path: &Path, config: &Config) -> String {
    let services = &config.model.services;
    let endpoints: usize = services.iter().map(|service| service.endpoints.len()).sum();
    format!(
        "{}: valid; sites: {}, services: {}, endpoints: {endpoints}",
        path.display(),
        config.model.sites.len(),
        services.len()
    )
}

/// How much kernel memory the tables take, and the deny list, in bytes.
pub fn memory(tables: u64, deny: u64) -> String {
    let deny = match deny {
        0 => String::new(),
        deny => format!(", and up to {} for the deny list", bytes(deny)),
    };
    format!("kernel memory: {} for the tables{deny}", bytes(tables))
}

/// The whole status.
pub fn status(report: &StatusReport) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let age = |since_ms: u64| age(now, since_ms);
    let mut out = format!(
        "edge {} (director {}), up {}\n",
        report.edge,
        report.version,
        age(report.started_unix_ms)
    );
    for interface in &report.interfaces {
        out += &format!(
            "interface {}: {}, xdp {}\n",
            interface.name,
            if interface.up { "up" } else { "DOWN" },
            interface.xdp.as_deref().unwrap_or("NOT ATTACHED")
        );
    }
    let pass = &report.reconciliation;
    out += &format!(
        "reconciliation: {} passes, {} repairs",
        pass.passes, pass.repairs
    );
    if let Some(error) = &pass.error {
        out += &format!("; the last one failed: {error}");
    }
    out += "\n";
    for table in &report.tables {
        out += &format!("{}\n", table_line(table));
    }
    out += "\n";

    let mut sites = table(&["SITE", "VERDICT", "SINCE", "WEIGHT", "SHARE"]);
    for site in &report.sites {
        let mut row = vec![
            Cell::new(&site.name),
            Cell::new(&site.verdict),
            Cell::new(age(site.since_unix_ms)),
        ];
        row.extend([site.weight.to_string(), percent(site.share)].map(right));
        sites.add_row(row);
    }
    out += &format!("{sites}\n");
    for service in &report.services {
        out += &format!("\n{}\n", heading(service));
        // In proxy mode this host serves, so there are no endpoints to show.
        out += &match service.endpoints.as_slice() {
            [] => format!("{} packets to this host\n", service.packets),
            all => format!("{}\n", endpoints(all, &age)),
        };
    }
    out.truncate(out.trim_end().len());
    out
}

fn table_line(table: &TableReport) -> String {
    let mut out = format!(
        "flow table {}: {} of {} recorded",
        table.family, table.flows, table.flow_capacity
    );
    if table.nat_port_capacity > 0 {
        out += &format!(
            ", {} of {} NAT ports in use",
            table.nat_ports, table.nat_port_capacity
        );
    }
    out
}

fn heading(service: &ServiceReport) -> String {
    let state = match (&service.held, service.published) {
        (Some(rule), _) => format!(", HELD by {rule}"),
        (None, false) => ", not published".to_owned(),
        (None, true) => String::new(),
    };
    let vip = match service.port {
        0 => format!("{}, every port", service.vip),
        port => std::net::SocketAddr::new(service.vip, port).to_string(),
    };
    format!(
        "service {}: {} {vip}, mode {}{state}",
        service.name, service.protocol, service.mode
    )
}

fn endpoints(endpoints: &[EndpointReport], age: &dyn Fn(u64) -> String) -> Table {
    let mut table = table(&[
        "ENDPOINT", "SITE", "ADDRESS", "VERDICT", "SINCE", "CAUSE", "LATENCY", "SHARE", "FLOWS",
        "PACKETS",
    ]);
    for endpoint in endpoints {
        let address = match endpoint.port {
            0 => endpoint.address.to_string(),
            port => std::net::SocketAddr::new(endpoint.address, port).to_string(),
        };
        let hop = if endpoint.next_hop {
            ""
        } else {
            " (no next hop)"
        };
        let mut row = vec![
            Cell::new(&endpoint.name),
            Cell::new(&endpoint.site),
            Cell::new(format!("{address}{hop}")),
            Cell::new(&endpoint.verdict),
            Cell::new(age(endpoint.since_unix_ms)),
            Cell::new(&endpoint.cause),
        ];
        let latency = endpoint
            .latency_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let numbers = [
            latency,
            percent(endpoint.share),
            endpoint.flows.to_string(),
            endpoint.packets.to_string(),
        ];
        row.extend(numbers.map(right));
        table.add_row(row);
    }
    table
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().copied());
    table
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Bytes to three digits, in binary units.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// How long ago, to two units.
fn age(now: Duration, since_ms: u64) -> String {
    let since = now.saturating_sub(Duration::from_millis(since_ms));
    let text = humantime::format_duration(Duration::from_secs(since.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(mode: &str, port: u16) -> ServiceReport {
        ServiceReport {
            name: "web".to_owned(),
            vip: [203, 0, 113, 10].into(),
            port,
            protocol: "tcp".to_owned(),
            mode: mode.to_owned(),
            published: true,
            held: None,
            plan_version: 1,
            packets: 7,
            bytes: 700,
            flows: 1,
            slots_tracked: 0,
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn a_service_is_shown_by_its_vip_and_mode() {
        let one = heading(&service("tunnel", 80));
        assert_eq!(one, "service web: tcp 203.0.113.10:80, mode tunnel");
        let every = heading(&service("l2", 0));
        assert_eq!(every, "service web: tcp 203.0.113.10, every port, mode l2");
    }

    #[test]
    fn a_service_of_this_host_shows_its_packets() {
        let report = StatusReport {
            edge: "edge1".to_owned(),
            version: "1".to_owned(),
            started_unix_ms: 0,
            interfaces: Vec::new(),
            reconciliation: crate::api::ReconciliationReport::default(),
            tables: Vec::new(),
            trace_events_lost: 0,
            sites: Vec::new(),
            services: vec![service("proxy", 443)],
        };
        let text = status(&report);
        let end = "service web: tcp 203.0.113.10:443, mode proxy\n7 packets to this host";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn bytes_have_three_digits() {
        for (count, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00 KiB"),
            (10 << 20, "10.0 MiB"),
            (640 << 20, "640 MiB"),
            (3 << 29, "1.50 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn ages_have_at_most_two_units() {
        let now = Duration::from_secs(100_000);
        assert_eq!(age(now, 100_000_000), "0s");
        assert_eq!(age(now, 0), "1day 3h");
        // A clock that was set back must not show nonsense.
        assert_eq!(age(now, 200_000_000), "0s");
    }
}
