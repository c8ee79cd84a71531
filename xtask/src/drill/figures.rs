//! One run's figures, put together from both sides' records.

use std::time::Duration;

use super::load::records::{Attempt, BreakKind, Records};
use super::measure::{self, Bucket, Failed, Lost, Marks, Quantiles, Shares, Span};
use super::proxy;
use super::stats::Snapshot;
use super::topology::Topology;

/// Something for each of a run's windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByWindow<T> {
    /// Steady state before the fault.
    pub before: T,
    /// From the verdict (or the drain) to the recovery.
    pub during: T,
    /// Once recovered.
    pub after: T,
}

/// One endpoint's answers by the client's count and by its server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Its name.
    pub endpoint: String,
    /// Answers the client read.
    pub client: u64,
    /// Answers the server gave.
    pub server: u64,
    /// Requests the client wrote and saw no answer to, that may have reached
    /// this endpoint: by so much the server may be ahead.
    pub unanswered: u64,
}

impl Agreement {
    /// Whether both counts can be true. A server counts before it answers, so
    /// it is never behind.
    #[must_use]
    pub fn agrees(&self) -> bool {
        (self.client..=self.client + self.unanswered).contains(&self.server)
    }
}

/// All figures of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// When things happened.
    pub marks: Marks,
    /// New connections that failed.
    pub failed: Failed,
    /// Live connections broken without a reason.
    pub broken_surviving: u64,
    /// Of those, how the first break of each looked.
    pub broken_by_kind: Vec<(BreakKind, u64)>,
    /// Live connections of the lost site; `None` for a planned change.
    pub lost: Option<Lost>,
    /// Live connections opened, by site.
    pub live_by_site: Vec<u64>,
    /// Shares of new connections.
    pub shares: ByWindow<Shares>,
    /// Latency of new connections.
    pub latency: ByWindow<Option<Quantiles>>,
    /// Both sides' counts, by endpoint.
    pub agreement: Vec<Agreement>,
    /// The latest the schedule of new connections was served, milliseconds.
    pub measurement_lag_ms: f64,
    /// The latest a process of live connections got to its timer, milliseconds.
    pub live_lag_ms: f64,
    /// What only a drill of the edge proxy has.
    pub proxy: Option<proxy::Figures>,
    /// New connections by time, from the drill's zero.
    pub timeline: Vec<Bucket>,
}

impl Run {
    /// Computes everything. `servers` is by endpoint; `planned` says that the
    /// site was drained and so lost nothing.
    #[must_use]
    pub fn new(
        records: &Records,
        marks: Marks,
        topology: &Topology,
        servers: &[Snapshot],
        patience: Duration,
        planned: bool,
    ) -> Self {
        let attempts = &records.attempts;
        let windows = marks.windows;
        let shares = |span| measure::shares(attempts, topology, span);
        let latency = |span| measure::latency(attempts, span);
        let (broken_surviving, broken_by_kind) =
            measure::broken_surviving(&records.breaks, topology, &marks, planned);
        let mut live_by_site = vec![0; topology.sites().len()];
        for (endpoint, opened) in (0..).zip(&records.counts.live_opened) {
            live_by_site[topology.site_of(endpoint)] += opened;
        }
        let whole = Span {
            from: windows.before.from,
            to: marks.end,
        };
        Self {
            marks,
            failed: measure::failed(attempts, &marks, patience),
            broken_surviving,
            broken_by_kind,
            lost: (!planned).then(|| measure::lost(records, topology, &marks)),
            live_by_site,
            shares: ByWindow {
                before: shares(windows.before),
                during: shares(windows.during),
                after: shares(windows.after),
            },
            latency: ByWindow {
                before: latency(windows.before),
                during: latency(windows.during),
                after: latency(windows.after),
            },
            agreement: agreement(records, topology, servers),
            measurement_lag_ms: records.counts.new_lag_us as f64 / 1000.0,
            live_lag_ms: records.counts.live_lag_us as f64 / 1000.0,
            timeline: measure::timeline(attempts, topology, whole),
            proxy: None,
        }
    }

    /// Makes it the run of a drill of the edge proxy, whose requests were recorded
    /// like new connections.
    #[must_use]
    pub fn proxied(
        mut self,
        attempts: &[Attempt],
        topology: &Topology,
        seen: &proxy::Seen,
    ) -> Self {
        let figures = proxy::Figures::new(attempts, &self.marks, topology, seen);
        // There are requests, and no connections to lose.
        self.lost = None;
        self.broken_surviving = figures.broken_surviving;
        self.latency = figures.latency.clone();
        for (of, carried_out) in self.agreement.iter_mut().zip(&figures.ledger.carried_out) {
            // A request that was tried again is carried out by servers of which
            // the client had no answer.
            of.server = *carried_out;
            of.unanswered = carried_out.saturating_sub(of.client);
        }
        self.proxy = Some(figures);
        self
    }

    /// From the fault to the verdict "down" in the maps, milliseconds.
    #[must_use]
    pub fn detect_ms(&self) -> Option<f64> {
        let detected = self.marks.detected?;
        Some(between_ms(self.marks.fault, detected))
    }

    /// From the fault to the start of the last failed attempt, milliseconds.
    #[must_use]
    pub fn rto_ms(&self) -> f64 {
        self.failed.rto_us as f64 / 1000.0
    }

    /// From the recovery to the site's weight being back, milliseconds.
    #[must_use]
    pub fn recovered_ms(&self) -> Option<f64> {
        let recovered = self.marks.recovered?;
        Some(between_ms(self.marks.recovery, recovered))
    }
}

fn between_ms(from_us: u64, to_us: u64) -> f64 {
    to_us.saturating_sub(from_us) as f64 / 1000.0
}

fn agreement(records: &Records, topology: &Topology, servers: &[Snapshot]) -> Vec<Agreement> {
    let names = topology.endpoints().iter();
    let counts = records
        .counts
        .answers
        .iter()
        .zip(&records.counts.live_unanswered);
    names
        .zip(counts.zip(servers))
        .map(|(name, ((answers, unanswered), server))| Agreement {
            endpoint: name.clone(),
            client: *answers,
            server: server.answered,
            unanswered: unanswered + records.counts.unanswered,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_may_be_ahead_by_the_unanswered_and_never_behind() {
        let of = |server| Agreement {
            endpoint: "dc01-a".into(),
            client: 100,
            server,
            unanswered: 3,
        };
        let verdicts = [99, 100, 103, 104].map(|server| of(server).agrees());
        assert_eq!(verdicts, [false, true, true, false]);
    }
}
