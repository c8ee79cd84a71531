//! `director conns`: recorded flows, in slices between other events.

use std::{
    collections::HashSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use director_core::Model;
use futures::future;
use tokio::sync::mpsc;

use super::{names::Names, report::protocol_name};
use crate::{
    api::{ConnReport, ConnsRequest},
    config::Prefix,
    datapath::{Conn, ConnFilter, Cursor, Datapath, Vip},
};

/// Longest that the event loop is kept by a slice.
const SLICE: Duration = Duration::from_millis(1);
/// About the most flows of a slice.
const BATCH: usize = 256;
/// Batches that wait for a reader.
const QUEUE: usize = 4;
/// Listings at once.
const MOST: usize = 8;

/// The listings under way.
#[derive(Default)]
pub(super) struct Listings(Vec<Listing>);

struct Listing {
    filter: ConnFilter,
    cursor: Cursor,
    names: Names,
    /// Flows that may still be listed.
    left: u64,
    reader: mpsc::Sender<Vec<ConnReport>>,
}

impl Listings {
    /// Begins a listing.
    ///
    /// # Errors
    /// When it asks for what is not configured, or too many are under way.
    pub fn begin(
        &mut self,
        query: &ConnsRequest,
        model: &Model,
    ) -> Result<mpsc::Receiver<Vec<ConnReport>>, String> {
        if self.0.len() >= MOST {
            return Err(format!("{MOST} listings are under way already"));
        }
        let (reader, batches) = mpsc::channel(QUEUE);
        self.0.push(Listing {
            filter: filter(query, model)?,
            cursor: Cursor::default(),
            names: Names::new(model),
            left: match query.limit.unwrap_or(0) {
                0 => u64::MAX,
                limit => limit,
            },
            reader,
        });
        Ok(batches)
    }

    /// Waits for a listing whose reader takes more, or has gone.
    pub async fn ready(&self) -> usize {
        if self.0.is_empty() {
            return future::pending().await;
        }
        let readers = self.0.iter().map(|it| Box::pin(it.reader.reserve()));
        future::select_all(readers).await.1
    }

    /// Looks at the next slice of a listing.
    pub fn advance(&mut self, which: usize, datapath: &Datapath) {
        let listing = &mut self.0[which];
        let is_gone = listing.reader.is_closed() || !listing.advance(datapath);
        if is_gone || listing.cursor.is_at_end() || listing.left == 0 {
            self.0.swap_remove(which);
        }
    }
}

impl Listing {
    /// Returns whether there is a reader still.
    fn advance(&mut self, datapath: &Datapath) -> bool {
        let until = Instant::now() + SLICE;
        let mut found = datapath.conns(&self.filter, &mut self.cursor, BATCH, until);
        found.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= found.len() as u64;
        let batch: Vec<_> = found.iter().map(|conn| report(conn, &self.names)).collect();
        batch.is_empty() || self.reader.try_send(batch).is_ok()
    }
}

fn report(conn: &Conn, names: &Names) -> ConnReport {
    let endpoint = names.endpoint(&conn.vip, conn.endpoint);
    ConnReport {
        service: names.service(&conn.vip),
        source: conn.source,
        destination: conn.destination,
        protocol: protocol_name(conn.vip.protocol).to_owned(),
        endpoint: endpoint.map(|it| it.name.to_string()),
        endpoint_address: conn.endpoint.into(),
        site: endpoint.map(|it| it.site.to_string()),
        state: conn.state.label().to_owned(),
        idle_seconds: conn.idle,
        nat: conn.nat,
    }
}

/// What a query asks for, in the terms of the datapath.
fn filter(query: &ConnsRequest, model: &Model) -> Result<ConnFilter, String> {
    let vip = query.service.as_deref().map(|name| vip(name, model));
    let source = query.source.as_deref().map(str::parse::<Prefix>);
    let mut endpoints = None;
    if query.endpoint.is_some() || query.site.is_some() {
        endpoints = Some(chosen(query, model)?);
    }
    Ok(ConnFilter {
        vip: vip.transpose()?,
        source: source.transpose()?,
        endpoints,
    })
}

/// The VIP of a service.
///
/// # Errors
/// When there is none of that name.
pub(super) fn vip(name: &str, model: &Model) -> Result<Vip, String> {
    let services = &model.services;
    let found = services.iter().find(|service| &*service.name == name);
    found.map(Vip::from).ok_or_else(|| {
        let names: Vec<&str> = services.iter().map(|service| &*service.name).collect();
        format!(
            "there is no service called {name}\n  help: the services are {}",
            names.join(", ")
        )
    })
}

/// The endpoints that a query names by `endpoint` and `site`.
fn chosen(query: &ConnsRequest, model: &Model) -> Result<HashSet<(Vip, IpAddr, u16)>, String> {
    if let Some(name) = &query.site
        && !model.sites.iter().any(|site| &*site.name == name)
    {
        let names: Vec<&str> = model.sites.iter().map(|site| &*site.name).collect();
        return Err(format!(
            "there is no site called {name}\n  help: the sites are {}",
            names.join(", ")
        ));
    }
    let address = query.endpoint.as_ref().map(|it| it.parse::<IpAddr>().ok());
    let mut all = HashSet::new();
    for service in &model.services {
        for endpoint in &service.endpoints {
            let is_named = match (&query.endpoint, address.flatten()) {
                (None, _) => true,
                (Some(_), Some(address)) => endpoint.address == address,
                (Some(name), None) => name.split_once('/').is_some_and(|(its, endpoints)| {
                    (its, endpoints) == (&*service.name, &*endpoint.name)
                }),
            };
            let is_there = query.site.as_ref().is_none_or(|it| **it == *endpoint.site);
            if is_named && is_there {
                all.insert((Vip::from(service), endpoint.address, endpoint.port));
            }
        }
    }
    match &query.endpoint {
        Some(name) if all.is_empty() => Err(format!(
            "there is no endpoint {name}{}\n  help: name its address, or service/endpoint",
            query
                .site
                .as_ref()
                .map_or_else(String::new, |site| format!(" at site {site}"))
        )),
        _ => Ok(all),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two services at the same endpoints of two sites.
    pub const CONFIG: &str = r#"
        [edge]
        name = "edge1"
        interfaces = ["eth0"]
        [edge.tunnel]
        source4 = "198.51.100.1"
        [[site]]
        name = "dc01"
        weight = 50
        [[site]]
        name = "dc02"
        weight = 50
        [[service]]
        name = "web"
        vip = "203.0.113.10"
        port = 80
        protocol = "tcp"
        mode = "tunnel"
        endpoint = [
            { name = "a", site = "dc01", address = "198.18.1.11" },
            { name = "b", site = "dc02", address = "198.18.2.11" },
        ]
        [[service]]
        name = "dns"
        vip = "203.0.113.10"
        port = 53
        protocol = "udp"
        mode = "tunnel"
        health = { type = "http", port = 80 }
        endpoint = [
            { name = "a", site = "dc01", address = "198.18.1.11" },
            { name = "c", site = "dc02", address = "198.18.2.12" },
        ]
    "#;

    fn model() -> Model {
        let loaded = crate::config::parse(CONFIG, "test.toml");
        loaded.expect("a valid configuration").config.model
    }

    fn asked(endpoint: Option<&str>, site: Option<&str>) -> Result<Vec<String>, String> {
        let query = ConnsRequest {
            endpoint: endpoint.map(str::to_owned),
            site: site.map(str::to_owned),
            ..ConnsRequest::default()
        };
        let endpoints = filter(&query, &model())?.endpoints.unwrap_or_default();
        let endpoints = endpoints.iter();
        let mut told: Vec<String> = endpoints
            .map(|(vip, address, _)| format!("{}/{address}", vip.port))
            .collect();
        told.sort();
        Ok(told)
    }

    #[test]
    fn endpoints_are_found_by_address_name_and_site() {
        for (endpoint, site, wanted) in [
            (
                Some("198.18.1.11"),
                None,
                &["53/198.18.1.11", "80/198.18.1.11"][..],
            ),
            (Some("web/a"), None, &["80/198.18.1.11"]),
            (Some("web/a"), Some("dc01"), &["80/198.18.1.11"]),
            (None, Some("dc02"), &["53/198.18.2.12", "80/198.18.2.11"]),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(asked(endpoint, site), Ok(wanted));
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        for (endpoint, site, help) in [
            (Some("web/c"), None, "service/endpoint"),
            (Some("a"), None, "service/endpoint"),
            (Some("web/a"), Some("dc02"), "at site dc02"),
            (Some("192.0.2.9"), None, "service/endpoint"),
            (None, Some("dc03"), "dc01, dc02"),
        ] {
            let error = asked(endpoint, site).expect_err("it is not there");
            assert!(error.contains(help), "{error}");
        }
        for (service, source) in [(Some("wbe"), None), (None, Some("192.0.2.0/33"))] {
            let query = ConnsRequest {
                service: service.map(str::to_owned),
                source: source.map(str::to_owned),
                ..ConnsRequest::default()
            };
            assert!(filter(&query, &model()).is_err());
        }
    }

    #[test]
    fn what_is_not_asked_for_does_not_narrow() {
        let all = filter(&ConnsRequest::default(), &model());
        assert_eq!(all, Ok(ConnFilter::default()));
    }
}
