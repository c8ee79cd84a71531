//! Reports as text for people.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::{
    api::{EndpointReport, ServiceReport, StatusReport},
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
    out += "\n\n";

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
        out += &format!(
            "\n{}\n{}\n",
            heading(service),
            endpoints(&service.endpoints, &age)
        );
    }
    out.truncate(out.trim_end().len());
    out
}

fn heading(service: &ServiceReport) -> String {
    let state = match (&service.held, service.published) {
        (Some(rule), _) => format!(", HELD by {rule}"),
        (None, false) => ", not published".to_owned(),
        (None, true) => String::new(),
    };
    let vip = std::net::SocketAddr::new(service.vip, service.port);
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
        let address = std::net::SocketAddr::new(endpoint.address, endpoint.port);
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

/// How long ago, to two units.
fn age(now: Duration, since_ms: u64) -> String {
    let since = now.saturating_sub(Duration::from_millis(since_ms));
    let text = humantime::format_duration(Duration::from_secs(since.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_at_most_two_units() {
        let now = Duration::from_secs(100_000);
        assert_eq!(age(now, 100_000_000), "0s");
        assert_eq!(age(now, 0), "1day 3h");
        // A clock that was set back must not show nonsense.
        assert_eq!(age(now, 200_000_000), "0s");
    }
}
