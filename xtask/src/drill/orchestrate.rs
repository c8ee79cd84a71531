//! One run: raise the network, load it, lose the site, give it back, count.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::cancel;
use crate::lab::{Lab, LabSpec};

use super::figures::Run;
use super::ids::Ids;
use super::load::records::Clock;
use super::load::{self, Load, LoadSpec};
use super::measure::{Marks, Span, Windows, recovered_at};
use super::plan::{Layer, Plan};
use super::progress::Progress;
use super::proxy::{self, metrics::Counters};
use super::stats::Stats;
use super::status;
use super::topology::{SiteWeight, Topology};

/// Length of the windows of steady state before and after.
const WINDOW: Duration = Duration::from_secs(10);
/// For new connections to run evenly before the first window.
const SETTLE: Duration = Duration::from_secs(1);
/// Until all endpoints must be healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// Beyond what the checks' timing allows, until a loss counts as not detected.
const DETECTION_SLACK: Duration = Duration::from_secs(15);
/// Beyond what the checks' timing allows, until a site counts as not recovered.
const RECOVERY_SLACK: Duration = Duration::from_secs(30);
/// Until a breaker must have opened.
const BREAKER_WITHIN: Duration = Duration::from_secs(10);
/// How often something is looked at while waiting. A status is a process of
/// its own, so it is asked for less often; the verdict's time comes with it.
const GLANCE: Duration = Duration::from_millis(20);
const STATUS_EVERY: Duration = Duration::from_millis(100);
/// Lines of the director's log shown with an error.
const LOG_LINES: usize = 15;

/// Carries out one run of `plan` with the director at `binary`.
///
/// # Errors
/// When the network, the director or the load fails, or a signal asked for the
/// end. Whatever happened, the network is taken down.
pub fn run_once(
    plan: &Plan,
    binary: &Path,
    progress: &Progress,
) -> anyhow::Result<(Topology, Run)> {
    progress.phase("raising the network: client, edge, three sites");
    let mut lab = Lab::up(LabSpec {
        prefix: format!("director-drill-{}", std::process::id()),
        mode: plan.mode,
        family: plan.family,
        interval: plan.health.interval,
        fast_interval: plan.health.fast_interval,
        timeout: plan.health.timeout,
        rise: plan.health.rise,
        fall: plan.health.fall,
        director: Some(binary.to_owned()),
        ..LabSpec::default()
    })?;
    let measured = measured(plan, &mut lab, progress);
    let measured = measured.map_err(|error| with_log(error, &lab.log_path("director")));
    progress.phase("taking the network down");
    let down = lab
        .down()
        .context("the network could not be taken down in full");
    let measured = measured?;
    down?;
    Ok(measured)
}

fn measured(plan: &Plan, lab: &mut Lab, progress: &Progress) -> anyhow::Result<(Topology, Run)> {
    let topology = topology(lab, &plan.site)?;
    progress.phase("starting the director, waiting until all endpoints are healthy");
    lab.start_director()?;
    lab.wait_healthy(HEALTHY_WITHIN)?;

    let clock = Clock::start();
    let running = Load::start(
        &LoadSpec {
            kind: plan.layer.load(),
            targets: vec![lab.vip()],
            sources: lab.client_addresses(),
            endpoints: topology.endpoints().to_vec(),
            connections: plan.connections,
            rate: plan.rate,
            patience: plan.patience,
            period: load::PERIOD,
            stall: load::STALL,
            netns: Some(lab.netns("client")),
        },
        clock,
        client,
    )?;
    let mut drill = Drill {
        plan,
        lab,
        topology: &topology,
        progress,
        clock,
        load: running,
        proxy: proxy::Seen::default(),
    };
    if plan.layer == Layer::L4 {
        drill.open_live()?;
    }
    let marks = drill.lose_and_recover()?;
    progress.phase("stopping the load, comparing counts");
    let records = drill.load.stop()?;
    let seen = drill.proxy;
    let servers = topology
        .endpoints()
        .iter()
        .map(|endpoint| Stats::read(&lab.stats_path(endpoint)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let run = Run::new(
        &records,
        marks,
        &topology,
        &servers,
        plan.patience,
        plan.planned(),
    );
    let run = match plan.layer {
        Layer::L4 => run,
        Layer::L7 => {
            let overflow = records.counts.overflow;
            let seen = see_proxy(lab, &topology, proxy::Seen { overflow, ..seen })?;
            run.proxied(&records.attempts, &topology, &seen)
        }
    };
    Ok((topology, run))
}

/// What the proxy and the servers know once the load has stopped. The director
/// is stopped for it, as its access log is whole only then.
fn see_proxy(lab: &mut Lab, topology: &Topology, seen: proxy::Seen) -> anyhow::Result<proxy::Seen> {
    let after = Counters::parse(&lab.metrics()?);
    lab.stop_director()?;
    let path = lab.access_log_path();
    let log = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the access log {}", path.display()))?;
    let noted = |endpoint: &String| Ok(Ids::open(&lab.ids_path(endpoint))?.noted());
    Ok(proxy::Seen {
        after,
        failures: proxy::counts::failures(&log)?,
        carried_out: topology
            .endpoints()
            .iter()
            .map(noted)
            .collect::<anyhow::Result<Vec<_>>>()?,
        ..seen
    })
}

struct Drill<'a> {
    plan: &'a Plan,
    lab: &'a mut Lab,
    topology: &'a Topology,
    progress: &'a Progress,
    clock: Clock,
    load: Load,
    /// In a drill of the proxy: what is read of it meanwhile.
    proxy: proxy::Seen,
}

impl Drill<'_> {
    fn open_live(&mut self) -> anyhow::Result<()> {
        let wanted = u64::from(self.plan.connections);
        self.progress.counted("opening live connections", wanted);
        loop {
            let (opened, given_up) = self.load.live_progress();
            self.progress.at(opened);
            if given_up > 0 {
                bail!(
                    "{given_up} of {wanted} live connections could not be opened, with every \
                     endpoint healthy: nothing to drill until that is mended"
                );
            }
            if opened == wanted {
                return Ok(());
            }
            self.glance()?;
        }
    }

    fn lose_and_recover(&mut self) -> anyhow::Result<Marks> {
        let (fault, site) = (self.plan.fault, self.plan.site.as_str());
        self.load.measure()?;
        self.pass("the load begins", SETTLE)?;
        let before = self.pass("steady state", WINDOW)?;
        if self.plan.layer == Layer::L7 {
            self.proxy.before = Counters::parse(&self.lab.metrics()?);
        }

        let word = fault.as_str();
        self.progress.phase(&format!("{word} of {site}"));
        let fault_us = self.clock.us(self.lab.inject(fault, site)?);
        let injected = self.clock.now_us();
        let detected = if self.plan.planned() {
            None
        } else if fault.passes_checks() {
            self.proxy.breaker_open = self.breaker_open()?;
            None
        } else {
            self.detected()?
        };
        let during_from = detected.or(self.proxy.breaker_open).unwrap_or(injected);
        let hold = self.plan.hold();
        let lost = format!("{site} is out: {word}");
        self.pass(&lost, hold)?;

        let recovery = self.clock.now_us();
        let recovered = self.recovered(recovery)?;
        let after = self.pass("steady state again", WINDOW)?;
        Ok(Marks {
            fault: fault_us,
            injected,
            detected,
            recovery,
            recovered,
            end: self.clock.now_us(),
            windows: Windows {
                before,
                during: Span {
                    from: during_from,
                    to: recovery,
                },
                after,
            },
        })
    }

    /// Waits for the verdict "down"; `None` when it did not come.
    fn detected(&mut self) -> anyhow::Result<Option<u64>> {
        let site = self.plan.site.as_str();
        self.progress.phase(&format!(
            "waiting until the director has noticed that {site} is lost"
        ));
        let deadline = Instant::now() + self.plan.health.bound() + DETECTION_SLACK;
        while Instant::now() < deadline {
            let status = status::site(self.lab.status()?, site)?;
            if status.verdict == "down" {
                return Ok(Some(self.clock.us_of_unix_ms(status.since_unix_ms)));
            }
            self.pause(STATUS_EVERY)?;
        }
        self.progress
            .line(&format!("{site} is lost and the director has not noticed"));
        Ok(None)
    }

    /// Waits until a breaker of the site has opened; `None` when none did.
    fn breaker_open(&mut self) -> anyhow::Result<Option<u64>> {
        let site = self.plan.site.as_str();
        self.progress
            .phase(&format!("waiting until a breaker of {site} opens"));
        let deadline = Instant::now() + BREAKER_WITHIN;
        while Instant::now() < deadline {
            let counters = Counters::parse(&self.lab.metrics()?);
            let since = counters.transitions_since(&self.proxy.before);
            if proxy::metrics::of_site(&since, site, "open") > 0 {
                return Ok(Some(self.clock.now_us()));
            }
            self.glance()?;
        }
        self.progress
            .line(&format!("no breaker of {site} has opened"));
        Ok(None)
    }

    /// Gives the site back and waits until it has its weight; `None` when it
    /// did not get there.
    fn recovered(&mut self, recovery: u64) -> anyhow::Result<Option<u64>> {
        let site = self.plan.site.as_str();
        self.progress
            .phase(&format!("recovery of {site}, waiting for its weight"));
        let seen = self.load.progress().0;
        self.lab.recover(self.plan.fault, site)?;
        let health = self.plan.health;
        let checks = health.interval * health.rise + health.bound();
        let deadline = Instant::now() + checks + RECOVERY_SLACK;
        let mut healthy = false;
        while Instant::now() < deadline {
            healthy = healthy || status::site(self.lab.status()?, site)?.verdict == "healthy";
            // The youngest attempts may not have ended, or not be reported yet.
            let now = self.clock.now_us().saturating_sub(300_000);
            let recovered = self.load.with_attempts(|attempts| {
                recovered_at(&attempts[seen..], self.topology, recovery, now)
            });
            if healthy && recovered.is_some() {
                return Ok(recovered);
            }
            self.pause(STATUS_EVERY)?;
        }
        self.progress
            .line(&format!("{site} has not got its weight back in time"));
        Ok(None)
    }

    /// Lets `duration` pass under load, and returns it as a span.
    fn pass(&mut self, text: &str, duration: Duration) -> anyhow::Result<Span> {
        let tenths = u64::try_from(duration.as_millis() / 100).unwrap_or(u64::MAX);
        self.progress.counted(text, tenths / 10);
        let from = self.clock.now_us();
        let begin = Instant::now();
        while begin.elapsed() < duration {
            self.progress.at(begin.elapsed().as_secs());
            let (ended, broken) = self.load.progress();
            self.progress.note(match self.plan.layer {
                Layer::L4 => format!("{text} ({ended} new connections, {broken} live ones broken)"),
                Layer::L7 => format!("{text} ({ended} requests)"),
            });
            self.glance()?;
        }
        Ok(Span {
            from,
            to: self.clock.now_us(),
        })
    }

    fn pause(&mut self, duration: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < duration {
            self.glance()?;
        }
        Ok(())
    }

    fn glance(&mut self) -> anyhow::Result<()> {
        cancel::check()?;
        self.load.check()?;
        std::thread::sleep(GLANCE);
        Ok(())
    }
}

/// A process of the client: this very program.
fn client() -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program);
    command.arg("drill-client");
    Ok(command)
}

fn topology(lab: &Lab, hit: &str) -> anyhow::Result<Topology> {
    let sites: Vec<_> = lab
        .sites()
        .iter()
        .map(|site| {
            let weight = SiteWeight {
                name: site.name.clone(),
                weight: site.weight,
            };
            let endpoints = site.endpoints.iter().map(|one| one.name.clone());
            (weight, endpoints.collect())
        })
        .collect();
    Topology::new(&sites, hit).ok_or_else(|| anyhow!("the network has no site {hit}"))
}

/// Adds the end of the director's log, which is gone once the lab is down.
fn with_log(error: anyhow::Error, log: &Path) -> anyhow::Error {
    if cancel::requested() {
        return error;
    }
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return error;
    }
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    anyhow!("{error:#}\nthe director's log ends:\n  {tail}")
}
