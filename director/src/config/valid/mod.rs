//! From what is written to what is meant.

mod across;
mod addresses;
mod deny;
mod edge;
mod health;
mod http;
mod limits;
mod pool;
mod prefix;
mod service;
mod sources;
mod steering;
mod value;

use std::path::Path;

use director_core::model::Model;

use crate::config::{Config, field::Table, place::Place, raw, report::Report};

/// Checks everything. Files are looked for in `directory`. `None` when something
/// is wrong, which the report then holds; a configuration may be returned beside
/// errors, and is then wrong.
pub(super) fn config(
    report: &mut Report<'_>,
    table: &Table<raw::Root>,
    directory: &Path,
) -> Option<Config> {
    let root = Place::root();
    // The parser gives a table for any document.
    let keys = table.value.as_ref().ok()?;
    report.unknown_keys(&root, &keys.unknown);
    let raw = &keys.known;

    let mut edge = edge::edge(report, &root, raw, directory);
    let (timing, probe_concurrency) = health::health(report, &root, raw);
    let sites = service::sites(report, &root, raw);
    let services = service::services(report, &root, raw, &timing, directory);
    across::check(report, &edge, sites.as_deref(), services.as_deref());

    let mut l7 = edge.http.take()?.finish()?;
    let sites = sites?.into_iter().map(service::SiteDraft::finish);
    let mut all = Vec::new();
    for draft in services? {
        let (service, listener, upstream) = draft.finish()?;
        all.push(service);
        l7.listeners.extend(listener);
        l7.upstreams.extend(upstream);
    }
    Some(Config {
        edge: edge.finish()?,
        model: Model {
            sites: sites.collect::<Option<_>>()?,
            services: all,
        },
        l7,
        probe_concurrency: probe_concurrency?,
    })
}
