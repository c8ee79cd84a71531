//! The command line of a drill, and the valid plan it becomes.

use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Family, Fault, Mode};
use crate::run::Usage;

use super::judge::GRACE;
use super::load::{Kind, OTHER_FILES};
use super::system;

/// The lab's sites; raising it tells if they are others.
const SITES: [&str; 3] = ["dc01", "dc02", "dc03"];
/// From here on the director's defaults for fast interval and timeout stand;
/// below, both shrink with the interval.
const FULL_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_FAST: Duration = Duration::from_millis(500);
/// The kernel repeats an unanswered SYN after a second (RFC 6298 § 2.1).
const SYN_RETRANSMISSION: Duration = Duration::from_secs(1);
/// What one server may get of all connections: half of the heaviest site's 50 %,
/// and a tenth for chance.
const LARGEST_SHARE: f64 = 0.25 * 1.1;
/// More would use up the client's ports, none of which is used twice in a run.
const FASTEST: u32 = 10_000;

/// Modes that can be asked for, of which not all can be drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DrillMode {
    /// IPIP / IP6IP6 to the endpoint, which answers the client directly
    Tunnel,
    /// Address translation in both directions at the edge
    Nat,
    /// By the endpoint's Ethernet address; it answers the client directly
    L2,
    /// By the edge's proxy (--layer l7)
    Proxy,
}

impl DrillMode {
    fn of_the_lab(self) -> Mode {
        match self {
            Self::Tunnel => Mode::Tunnel,
            Self::Nat => Mode::Nat,
            Self::L2 => Mode::L2,
            Self::Proxy => Mode::Proxy,
        }
    }
}

/// What is drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layer {
    /// The packet path: connections
    L4,
    /// The edge's proxy: requests
    L7,
}

impl Layer {
    /// The word the command line and reports use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L4 => "l4",
            Self::L7 => "l7",
        }
    }

    /// Which load it is put under.
    #[must_use]
    pub fn load(self) -> Kind {
        match self {
            Self::L4 => Kind::Connections,
            Self::L7 => Kind::Requests,
        }
    }

    /// The mode that is meant where none is named.
    fn mode(self) -> DrillMode {
        match self {
            Self::L4 => DrillMode::Tunnel,
            Self::L7 => DrillMode::Proxy,
        }
    }

    /// The connections that are meant where no number is given.
    fn connections(self) -> u32 {
        match self {
            Self::L4 => 50_000,
            Self::L7 => 200,
        }
    }
}

/// Arguments of `cargo xtask failover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What happens to the site
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    pub fault: Fault,
    /// What is drilled: connections through the packet path, or requests through
    /// the edge's proxy
    #[arg(long, value_enum, default_value_t = Layer::L4)]
    pub layer: Layer,
    /// How the director hands packets to the sites; default: tunnel, with
    /// --layer l7 proxy
    #[arg(long, value_enum)]
    pub mode: Option<DrillMode>,
    /// Address family of the service
    #[arg(long, value_enum, default_value_t = Family::V4)]
    pub ip: Family,
    /// Live connections kept exchanging data, 50000 by default; with --layer l7,
    /// those that requests are sent over, 200 by default
    #[arg(long, value_name = "N")]
    pub connections: Option<u32>,
    /// New connections a second; with --layer l7, requests a second
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub rate: u32,
    /// Runs of the drill, each on a network of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub repeat: u32,
    /// The longest that new connections may fail; default: what the health
    /// checks' timing allows. With --layer l7 it is judged only where it is given
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub rto: Option<Duration>,
    /// Interval of the health checks; under 5s the fast interval and the
    /// timeout become 2/5 of it, at most 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Within which a new connection must be established and answered, or a
    /// request be answered
    #[arg(long, value_name = "DURATION", default_value = "900ms", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// The site it happens to
    #[arg(long, default_value = SITES[0], value_parser = SITES)]
    pub site: String,
    /// Folder for report.json, timeline.svg and timeline.png
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// The health checks' timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Between two checks of a healthy endpoint.
    pub interval: Duration,
    /// Between two checks of one in doubt.
    pub fast_interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// Good checks in a row that make an endpoint healthy.
    pub rise: u32,
    /// Bad checks in a row that make it down.
    pub fall: u32,
}

/// A drill that can be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// See [`Args::layer`].
    pub layer: Layer,
    /// See [`Args::fault`].
    pub fault: Fault,
    /// See [`Args::mode`].
    pub mode: Mode,
    /// See [`Args::ip`].
    pub family: Family,
    /// See [`Args::connections`].
    pub connections: u32,
    /// See [`Args::rate`].
    pub rate: u32,
    /// See [`Args::repeat`].
    pub repeat: u32,
    /// See [`Args::patience`].
    pub patience: Duration,
    /// See [`Args::site`].
    pub site: String,
    /// See [`Args::report`].
    pub report: Option<PathBuf>,
    /// The health checks' timing.
    pub health: Health,
    rto: Option<Duration>,
}

impl Plan {
    /// Checks what clap cannot: ranges, and what this machine allows.
    ///
    /// # Errors
    /// [`Usage`], naming every option that does not hold and what would.
    pub fn new(args: &Args) -> anyhow::Result<Self> {
        let connections = args.connections.unwrap_or(args.layer.connections());
        let mode = args.mode.unwrap_or(args.layer.mode());
        let mut problems = Vec::new();
        problems.extend(unfit(args.layer, mode, args.fault));
        let mut demand = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        demand(
            (1..=200_000).contains(&connections),
            format!("--connections {connections}: must be 1 to 200000"),
        );
        demand(
            (1..=FASTEST).contains(&args.rate),
            format!(
                "--rate {}: must be 1 to {FASTEST} a second; beyond it the client runs out of ports",
                args.rate
            ),
        );
        demand(
            (1..=100).contains(&args.repeat),
            format!("--repeat {}: must be 1 to 100", args.repeat),
        );
        demand(
            args.rto != Some(Duration::ZERO),
            "--rto 0s: no loss is noticed in no time; give the longest outage you accept".into(),
        );
        let interval = Duration::from_millis(200)..=Duration::from_secs(30);
        demand(
            interval.contains(&args.interval),
            format!("--interval {:?}: must be 200ms to 30s", args.interval),
        );
        demand(
            args.patience >= Duration::from_millis(50) && args.patience < SYN_RETRANSMISSION,
            format!(
                "--patience {:?}: must be 50ms to 999ms; the kernel repeats an unanswered SYN \
                 after 1s, and waiting for that would hide an outage",
                args.patience
            ),
        );
        demand(
            !args.report.as_ref().is_some_and(|dir| dir.is_file()),
            "--report: names a file; give a folder, which is made when it is absent".into(),
        );
        if problems.is_empty() {
            let limit = system::raise_open_files()?;
            problems.extend(too_many_files(connections, args.rate, limit));
        }
        if !problems.is_empty() {
            return Err(Usage(problems.join("\n")).into());
        }
        Ok(Self {
            layer: args.layer,
            fault: args.fault,
            mode: mode.of_the_lab(),
            family: args.ip,
            connections,
            rate: args.rate,
            repeat: args.repeat,
            patience: args.patience,
            site: args.site.clone(),
            report: args.report.clone(),
            health: Health::scaled(args.interval),
            rto: args.rto,
        })
    }

    /// Whether the site is taken out on purpose, so that nothing may fail.
    #[must_use]
    pub fn planned(&self) -> bool {
        self.fault == Fault::Drain
    }

    /// The longest new connections may fail: the one asked for, or what the
    /// health checks' timing allows.
    #[must_use]
    pub fn rto_limit(&self) -> Duration {
        self.rto.unwrap_or(self.health.bound() + GRACE)
    }

    /// The outage that was named as the longest to accept.
    #[must_use]
    pub fn rto_asked(&self) -> Option<Duration> {
        self.rto
    }

    /// How long the site stays lost, from the verdict on: long enough for the
    /// figures of a network without it.
    #[must_use]
    pub fn hold(&self) -> Duration {
        (self.health.bound() + Duration::from_secs(3)).max(Duration::from_secs(6))
    }

    /// 4 or 6.
    #[must_use]
    pub fn ip_version(&self) -> u8 {
        match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }
}

impl Health {
    /// The timing for an interval; rise and fall are the director's defaults.
    fn scaled(interval: Duration) -> Self {
        let fast = if interval < FULL_INTERVAL {
            DEFAULT_FAST.min(interval * 2 / 5)
        } else {
            DEFAULT_FAST
        };
        Self {
            interval,
            fast_interval: fast,
            timeout: fast,
            rise: 2,
            fall: 3,
        }
    }

    /// The longest from a loss to the verdict: the loss falls just after a good
    /// check, and the last of the bad ones takes all of its timeout.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.interval + self.fast_interval * (self.fall - 1) + self.timeout
    }
}

/// Why layer, mode and fault do not go together, if so.
fn unfit(layer: Layer, mode: DrillMode, fault: Fault) -> Option<String> {
    match (layer, mode) {
        (Layer::L4, DrillMode::Proxy) => Some(
            "--mode proxy: packets go no further than the edge there, so that no packet path \
             has sites to lose; drill tunnel, nat or l2, or the edge's proxy with --layer l7"
                .into(),
        ),
        (Layer::L7, DrillMode::Tunnel | DrillMode::Nat | DrillMode::L2) => Some(format!(
            "--mode {} --layer l7: requests are seen by the edge's proxy alone; \
             leave --mode out, or drill packets with --layer l4",
            mode.of_the_lab().as_str()
        )),
        (Layer::L4, _) if fault.passes_checks() => Some(format!(
            "--fault {}: the packet path does not see what servers answer, so that nothing \
             would be steered away; drill kill, blackhole, link-down or drain, or use --layer l7",
            fault.as_str()
        )),
        _ => None,
    }
}

/// The load's client can be as many processes as it needs; a server is one.
fn too_many_files(connections: u32, rate: u32, limit: u64) -> Option<String> {
    let largest = f64::from(connections) * LARGEST_SHARE;
    let needed = largest as u64 + u64::from(rate) + u64::from(OTHER_FILES);
    (needed > limit).then(|| {
        format!(
            "--connections {connections} and --rate {rate} need {needed} open files in one server, and a \
             process may have {limit} here: ask for less, or raise the limit \
             (ulimit -n {needed}; beyond fs.nr_open, sysctl -w fs.nr_open={needed} first)"
        )
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
