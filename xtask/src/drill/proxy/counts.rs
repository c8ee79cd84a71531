//! Both sides' counts, request by request: what the client was answered, what the
//! servers carried out, and what the proxy says of those that failed.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

use super::super::ids;
use super::super::load::records::{Attempt, EndpointId};
use super::super::topology::Topology;
use super::was_answered;

/// What the counts of both sides come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Requests answered by an endpoint whose server did not carry them out.
    pub missing: u64,
    /// Requests carried out that the client never sent.
    pub unknown: u64,
    /// Times that requests were carried out beyond the first, by whatever server.
    pub duplicates: u64,
    /// Requests carried out of which the client had no answer.
    pub unanswered: u64,
    /// By endpoint: how often it carried out any.
    pub carried_out: Vec<u64>,
}

impl Ledger {
    /// Compares the client's records with what each endpoint's server noted.
    #[must_use]
    pub fn new(attempts: &[Attempt], noted: &[Vec<u8>]) -> Self {
        let mut ledger = Self {
            carried_out: noted.iter().map(|of| sum(of)).collect(),
            ..Self::default()
        };
        let most = noted.iter().map(Vec::len).max().unwrap_or(0);
        let mut left: Vec<u64> = (0..most)
            .map(|id| {
                noted
                    .iter()
                    .filter_map(|of| of.get(id))
                    .copied()
                    .map(u64::from)
                    .sum()
            })
            .collect();
        for attempt in attempts {
            let id = attempt.id as usize;
            let times = left.get_mut(id).map_or(0, std::mem::take);
            ledger.duplicates += times.saturating_sub(1);
            if !was_answered(attempt) {
                ledger.unanswered += u64::from(times > 0);
                continue;
            }
            let noted_by = |endpoint: EndpointId| noted.get(usize::from(endpoint))?.get(id);
            let times = attempt.endpoint.and_then(noted_by).copied().unwrap_or(0);
            ledger.missing += u64::from(times == 0);
        }
        ledger.unknown = left.iter().sum();
        ledger
    }
}

fn sum(times: &[u8]) -> u64 {
    times.iter().copied().map(u64::from).sum()
}

/// A failed request, as the proxy's access log has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Failure {
    path: String,
    status: u16,
    site: Option<String>,
    tries: u32,
    why: Option<String>,
}

/// Reads the lines of the access log that tell of failures.
///
/// # Errors
/// When a line has another form.
pub fn failures(log: &str) -> anyhow::Result<Vec<Failure>> {
    let mut failures = Vec::new();
    for line in log.lines() {
        let entry: Failure = serde_json::from_str(line).with_context(|| {
            format!("the access log has another form than this drill knows: {line}")
        })?;
        if entry.status >= 500 || entry.status == 0 {
            failures.push(entry);
        }
    }
    Ok(failures)
}

/// Why requests failed, and how many for each reason.
#[must_use]
pub fn why(failures: &[Failure]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for failure in failures {
        let why = failure.why.clone();
        let why = why.unwrap_or_else(|| format!("answered with {}", failure.status));
        *counts.entry(why).or_default() += 1;
    }
    counts
}

/// Requests that failed for the client although no try of theirs can have gone to
/// the lost site. The proxy tells how many tries there were and where the last
/// one went, so with several of them an earlier one may have.
#[must_use]
pub fn broken_surviving(failed: &[&Attempt], failures: &[Failure], topology: &Topology) -> u64 {
    let told: BTreeMap<u32, &Failure> = failures
        .iter()
        .filter_map(|one| Some((ids::of_path(&one.path)?, one)))
        .collect();
    let hit = topology.sites()[topology.hit()].name.as_str();
    let surviving = |attempt: &&&Attempt| match told.get(&attempt.id) {
        Some(failure) => match (failure.tries, failure.site.as_deref()) {
            (0, _) => true,
            (1, Some(site)) => site != hit,
            _ => false,
        },
        // It waited for tries before, perhaps at the lost site.
        None if was_answered(attempt) => false,
        // The proxy does not know of it, so no site did either.
        None => attempt
            .endpoint
            .is_none_or(|endpoint| !topology.is_hit(endpoint)),
    };
    failed.iter().filter(surviving).count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::super::super::load::records::Outcome;
    use super::super::super::topology::three_sites;
    use super::*;

    fn attempt(id: u32, endpoint: Option<EndpointId>, outcome: Outcome) -> Attempt {
        Attempt {
            id,
            start_us: 0,
            latency_us: 1,
            endpoint,
            outcome,
        }
    }

    #[test]
    fn each_request_is_looked_for_where_it_was_answered() {
        let attempts = [
            attempt(0, Some(0), Outcome::Answered),
            attempt(1, Some(1), Outcome::Answered),
            attempt(2, Some(1), Outcome::Delayed),
            attempt(3, None, Outcome::TimedOut),
            attempt(4, Some(0), Outcome::Error),
        ];
        let good = Ledger::new(&attempts, &[vec![1, 1, 0, 2], vec![0, 1, 1]]);
        let expected = Ledger {
            duplicates: 2,
            unanswered: 1,
            carried_out: vec![4, 2],
            ..Ledger::default()
        };
        assert_eq!(good, expected);
        let bad = Ledger::new(&attempts, &[vec![1, 1, 1, 0, 0, 0, 3], vec![]]);
        assert_eq!((bad.missing, bad.unknown), (2, 3));
    }

    fn log() -> Vec<Failure> {
        let lines = [
            r#"{"path":"/drill/1","status":503,"site":null,"tries":0,"why":"no endpoint"}"#,
            r#"{"path":"/drill/2","status":502,"site":"dc01","tries":1,"why":"refused"}"#,
            r#"{"path":"/drill/3","status":500,"site":"dc02","tries":3,"why":null}"#,
            r#"{"path":"/drill/4","status":502,"site":"dc02","tries":1,"why":"refused"}"#,
            r#"{"path":"/drill/5","status":200,"site":"dc02","tries":1,"why":null}"#,
        ];
        failures(&lines.join("\n")).unwrap()
    }

    #[test]
    fn the_log_tells_reasons() {
        let log = log();
        assert_eq!(log.len(), 4);
        let why = why(&log);
        assert_eq!((why["refused"], why["answered with 500"]), (2, 1));
        assert!(failures("no json").is_err());
    }

    #[test]
    fn a_failure_that_the_lost_site_had_no_part_in_is_counted() {
        let failed: Vec<Attempt> = (1..=6)
            .map(|id| attempt(id, None, Outcome::Error))
            .collect();
        let failed: Vec<&Attempt> = failed.iter().collect();
        // 1 was not sent to any site, 4 to another one, 6 is not in the log.
        assert_eq!(broken_surviving(&failed, &log(), &three_sites("dc01")), 4);
    }
}
