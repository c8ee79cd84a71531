//! Benchmarks of director, each next to its floor and its peer.

mod cpu;
mod edge;
mod frames;
mod l4;
mod l7;
mod queue;
mod registry;
mod report;
mod wrapper;
mod xdp;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

/// Benchmarks of director, each next to its floor and its peer.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What the XDP program costs a packet, by `BPF_PROG_TEST_RUN`.
    ///
    /// Every case runs in each round, beside an empty program and one that
    /// does a single LRU look-up; figures are medians over the rounds.
    Xdp {
        /// Rounds; each runs every case once.
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Packets of a case in a round.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=100_000_000))]
        packets: u32,
        /// Only the floors and the cases whose name has this in it; may be
        /// given several times.
        #[arg(long, value_name = "TEXT")]
        only: Vec<String>,
        /// Write the rows there, as a JSON array.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// What an edge forwards in a network of namespaces, and what it costs its
    /// CPU, beside the kernel's own forwarding of the same packets.
    ///
    /// Every case runs in each round; figures are medians over the rounds. The
    /// rate is packets that arrived, and better higher; the cost better lower.
    L4 {
        /// Rounds; each runs every case once.
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Milliseconds that a case is measured for in a round, once warm.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=60_000))]
        window: u64,
        /// Only what is compared with and the cases whose name has this in it;
        /// may be given several times.
        #[arg(long, value_name = "TEXT")]
        only: Vec<String>,
        /// Write the rows there, as a JSON array.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// The edge proxy beside nginx and HAProxy as reverse proxies, by wrk and
    /// h2load, and what idle connections take of its memory.
    ///
    /// Every proxy runs each case in each round; figures are medians over the
    /// rounds. Requests per second are better higher, all else lower.
    L7 {
        /// Rounds; each runs every case once.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Seconds that a case is measured for in a round, once warm.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Threads of each proxy, each with a CPU.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        threads: u16,
        /// Only the cases whose name has this in it; may be given several times.
        #[arg(long, value_name = "TEXT")]
        only: Vec<String>,
        /// Write the rows there, as a JSON array.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// The proxy that `l7` measures.
    #[command(hide = true)]
    L7Edge(l7::edge::Options),
    /// Flow events through the ring buffer to their reader: how many a second,
    /// and how many are lost.
    Queue {
        /// Rounds; each runs every case once.
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// New flows of a case in a round, each of which is an event.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
        flows: u32,
        /// Write the rows there, as a JSON array.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Endpoints picked for flows in user space, on one core.
    Registry {
        /// Rounds; each runs every case once.
        #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
        /// Picks of a case in a round.
        #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
        picks: u32,
        /// Write the rows there, as a JSON array.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

impl Bench {
    fn run(self) -> anyhow::Result<()> {
        let (rows, json) = match self {
            Self::Xdp {
                rounds,
                packets,
                only,
                json,
            } => (xdp::run(rounds, packets, &only)?, json),
            Self::L4 {
                rounds,
                window,
                only,
                json,
            } => (l4::run(rounds, Duration::from_millis(window), &only)?, json),
            Self::L7 {
                rounds,
                seconds,
                threads,
                only,
                json,
            } => {
                let time = Duration::from_secs(seconds);
                (l7::run(rounds, time, usize::from(threads), &only)?, json)
            }
            Self::L7Edge(options) => match l7::edge::serve(&options)? {},
            Self::Queue {
                rounds,
                flows,
                json,
            } => (queue::run(rounds, flows)?, json),
            Self::Registry {
                rounds,
                picks,
                json,
            } => (registry::run(rounds, picks)?, json),
        };
        println!("{}", report::table(&rows));
        report::write(&rows, json.as_deref())
    }
}

fn main() -> ExitCode {
    match Cli::parse().bench.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
