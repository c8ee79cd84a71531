//! The part of `director status --json` a drill reads: the sites' verdicts.

use anyhow::Context as _;
use serde::Deserialize;

/// The verdict on one site.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// `healthy`, `down`, `draining`, ...
    pub verdict: String,
    /// Since when it stands in the maps, milliseconds since 1970.
    pub since_unix_ms: u64,
}

#[derive(Deserialize)]
struct Status {
    sites: Vec<SiteStatus>,
}

/// Picks `site` out of the director's status.
///
/// # Errors
/// When the status has another form, or does not know the site.
pub fn site(status: serde_json::Value, site: &str) -> anyhow::Result<SiteStatus> {
    let status: Status = serde_json::from_value(status)
        .context("`director status --json` has another form than this drill knows")?;
    status
        .sites
        .into_iter()
        .find(|one| one.name == site)
        .with_context(|| format!("`director status --json` does not name site {site}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_site_is_found_among_other_facts() {
        let status = json!({"epoch": 7, "sites": [
            {"name": "dc02", "verdict": "healthy", "since_unix_ms": 1, "share": 0.3},
            {"name": "dc01", "verdict": "down", "since_unix_ms": 1_700_000_000_123_u64},
        ]});
        let found = site(status.clone(), "dc01").unwrap();
        assert_eq!(found.verdict, "down");
        assert_eq!(found.since_unix_ms, 1_700_000_000_123);
        let absent = site(status, "dc03").unwrap_err().to_string();
        assert!(absent.contains("dc03"), "{absent}");
        assert!(site(json!({"sites": 3}), "dc01").is_err());
    }
}
