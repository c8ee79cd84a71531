//! From what is written to what is meant.

mod across;
mod addresses;
mod deny;
mod edge;
mod health;
mod limits;
mod prefix;
mod service;
mod sources;
mod steering;
mod value;

use std::path::Path;

use director_core::model::Model;

use crate::config::{Config, field::Table, place::Place, raw, report::Report};

/// Checks everything. Files are looked for in `directory`. `None` when something is wrong, which the report then
/// holds; a configuration may be returned beside errors, and is then wrong.
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

    let edge = edge::edge(report, &root, raw, directory);
    let (timing, probe_concurrency) = health::health(report, &root, raw);
    let sites = service::sites(report, &root, raw);
    let services = service::services(report, &root, raw, &timing);
    across::check(report, &edge, sites.as_deref(), services.as_deref());

    let sites = sites?.into_iter().map(service::SiteDraft::finish);
    let services = services?.into_iter().map(service::ServiceDraft::finish);
    Some(Config {
        edge: edge.finish()?,
        model: Model {
            sites: sites.collect::<Option<_>>()?,
            services: services.collect::<Option<_>>()?,
        },
        l7: director_core::l7::L7::default(),
        probe_concurrency: probe_concurrency?,
    })
}
