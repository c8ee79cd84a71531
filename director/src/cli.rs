//! The commands of `director`.

mod flows;

use std::{
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    api::{DrainReport, DrainRequest, ExplainReport, StatusReport},
    client,
    config::{self, Attach, Loaded},
    daemon::{Daemon, uses},
    datapath::{self, Decap, Object, Pins},
    net, privilege, render, simulate,
};

const SOCKET: &str = "/run/director/director.sock";
const DECAP_PINS: &str = "/sys/fs/bpf/director-decap";

/// Port of GUE (IANA).
const GUE_PORT: u16 = 6080;

/// Exit code for a wrong configuration or usage.
const USAGE: u8 = 2;

/// Steers traffic for services that live on several sites.
#[derive(Debug, Parser)]
#[command(name = "director", version, about, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 success, 1 the system failed, 2 wrong usage or configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: steer, probe, and keep the kernel's tables true.
    ///
    /// SIGHUP reads the configuration again. SIGTERM ends the daemon and leaves
    /// steering in place; the next start adopts it without moving a flow.
    Run {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration: every problem with line and key.
    Check {
        /// Configuration file.
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The same, as an option.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Show sites, services and endpoints of the running daemon.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Say which endpoint a flow goes to, and why.
    Explain {
        /// The client's address and port, such as 192.0.2.1:40000.
        #[arg(value_name = "SRC:PORT")]
        source: SocketAddr,
        /// The service's, such as 203.0.113.10:80 or [2001:db8::10]:80.
        #[arg(value_name = "VIP:PORT")]
        destination: SocketAddr,
        #[arg(long, value_enum, default_value_t = Proto::Tcp)]
        proto: Proto,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// List recorded flows, and NAT ports.
    ///
    /// Of a service with track = "auto", only flows that a change of its table
    /// made necessary are recorded: an empty list does not mean no traffic.
    Conns(flows::ConnsArgs),
    /// Tell of new, moved and reset flows as they come, until Ctrl-C.
    ///
    /// Events are sampled only while someone traces. Those that come faster than
    /// they are read are lost, and their number is told.
    Trace(flows::TraceArgs),
    /// Say what would become of the packets of a capture, by the program that
    /// the kernel runs and without an interface.
    Simulate(simulate::Args),
    /// Send no new flows to a site or an endpoint; flows it has stay.
    Drain(DrainArgs),
    /// End a drain.
    Undrain(DrainArgs),
    /// Take everything of director out of the kernel. Packets for VIPs then
    /// pass to the host.
    Unload {
        /// Configuration file, which says where the state is pinned.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// On a site's server: take the outer header off packets from an edge.
    Decap(DecapArgs),
}

#[derive(Debug, Args)]
struct Socket {
    /// Control socket of the daemon.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
}

/// How to attach an XDP program.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// In the driver where it can, else in the network stack.
    Auto,
    Driver,
    Generic,
}

#[derive(Debug, Args)]
struct DrainArgs {
    /// A site's name, or service/endpoint.
    target: String,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Args)]
struct DecapArgs {
    /// Interface that packets from edges come in by.
    #[arg(long)]
    iface: String,
    /// Outer destination to open packets of; may be given several times.
    /// Without it: every address of the interface.
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    #[arg(long, value_enum, default_value_t = How::Auto)]
    attach: How,
    /// Destination port of packets in UDP; 0: leave them as they are.
    #[arg(long, value_name = "PORT", default_value_t = GUE_PORT)]
    gue_port: u16,
    /// Where to pin the program.
    #[arg(long, value_name = "DIR", default_value = DECAP_PINS)]
    pin_dir: PathBuf,
    /// Take it off again.
    #[arg(long)]
    remove: bool,
}

/// Runs the command line and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let to_run = match &cli.command {
        Command::Run { config } => match prepare(config) {
            Ok(loaded) => Some(loaded),
            Err(code) => return code,
        },
        _ => None,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command, to_run)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lets go of what the daemon does not need, first of all, and reads what it is to
/// do. Before there is any other thread: capabilities are a thread's own.
fn prepare(config: &std::path::Path) -> Result<Loaded, ExitCode> {
    let failed = |error: anyhow::Error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    };
    privilege::keep_only_needed().map_err(failed)?;
    let loaded = load(config).ok_or(ExitCode::from(USAGE))?;
    if loaded.config.l7.listeners.is_empty() {
        privilege::let_go_of_ports().map_err(failed)?;
    }
    Ok(loaded)
}

async fn run(command: Command, to_run: Option<Loaded>) -> Result<ExitCode> {
    match command {
        Command::Run { config } => {
            let loaded = to_run.context("it was read before")?;
            start_logging();
            Daemon::start(loaded.config, config).await?.run().await?;
        }
        Command::Check { file, config } => {
            let path = file.or(config).context("clap asks for one of the two")?;
            let Some(loaded) = load(&path) else {
                return Ok(ExitCode::from(USAGE));
            };
            let config = &loaded.config;
            let edge = &config.edge;
            let bytes = datapath::memory(&edge.limits, uses(&config.model), &edge.nat);
            let deny = datapath::deny_memory(edge.deny.len());
            println!("{}", render::summary(&path, config));
            println!("{}", render::memory(bytes, deny));
        }
        Command::Status { json, socket } => {
            let report: StatusReport = client::get(&socket.socket, "/v1/status").await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{}", render::status(&report));
            }
        }
        Command::Explain {
            source,
            destination,
            proto,
            json,
            socket,
        } => {
            let protocol = match proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
            };
            let query = client::query(&[
                ("source", Some(source.to_string())),
                ("destination", Some(destination.to_string())),
                ("protocol", Some(protocol.to_owned())),
            ]);
            let path = format!("/v1/explain{query}");
            let report: ExplainReport = client::get(&socket.socket, &path).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                println!("{}", report.why);
            }
        }
        Command::Conns(args) => flows::conns(args).await?,
        Command::Trace(args) => flows::trace(args).await?,
        Command::Simulate(args) => {
            let Some(loaded) = load(&args.config) else {
                return Ok(ExitCode::from(USAGE));
            };
            match simulate::run(&args, &loaded.config) {
                Err(error) if error.is::<simulate::Usage>() => {
                    eprintln!("error: {error:#}");
                    return Ok(ExitCode::from(USAGE));
                }
                outcome => outcome?,
            }
        }
        Command::Drain(args) => drain(&args, "/v1/drain").await?,
        Command::Undrain(args) => drain(&args, "/v1/undrain").await?,
        Command::Unload { config } => {
            let Some(loaded) = load(&config) else {
                return Ok(ExitCode::from(USAGE));
            };
            unload(&loaded).await?;
        }
        Command::Decap(args) => decap(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a configuration; tells of every problem and warning.
fn load(path: &std::path::Path) -> Option<Loaded> {
    match config::load(path) {
        Ok(loaded) => {
            let file = path.display().to_string();
            for warning in &loaded.warnings {
                eprintln!("warning: {}", warning.in_file(&file));
            }
            Some(loaded)
        }
        Err(errors) => {
            eprintln!("{errors}");
            None
        }
    }
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DIRECTOR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

async fn drain(args: &DrainArgs, path: &str) -> Result<()> {
    let body = DrainRequest {
        target: args.target.clone(),
    };
    let report: DrainReport = client::post(&args.socket.socket, path, &body).await?;
    let state = if report.draining {
        "takes no new flows"
    } else {
        "takes new flows again"
    };
    println!("{} {state}", report.target);
    for note in &report.notes {
        println!("note: {note}");
    }
    Ok(())
}

async fn unload(loaded: &Loaded) -> Result<()> {
    let edge = &loaded.config.edge;
    if client::get::<StatusReport>(&edge.socket, "/v1/status")
        .await
        .is_ok()
    {
        bail!(
            "the daemon at {} still runs and would put everything back\n  help: stop it first",
            edge.socket.display()
        );
    }
    let removed = Pins::new(&edge.pin_dir).remove()?;
    if removed.is_empty() {
        println!("nothing is pinned under {}", edge.pin_dir.display());
    } else {
        println!(
            "removed {} pins under {}",
            removed.len(),
            edge.pin_dir.display()
        );
    }
    Ok(())
}

async fn decap(args: DecapArgs) -> Result<()> {
    if args.remove {
        let was_there = datapath::remove_decap(&args.pin_dir)?;
        println!(
            "{}",
            if was_there {
                "removed"
            } else {
                "nothing to remove"
            }
        );
        return Ok(());
    }
    let addresses = if args.address.is_empty() {
        addresses_of(&args.iface).await?
    } else {
        args.address
    };
    let decap = Decap {
        object: Object::embedded()?,
        interface: args.iface,
        attach: match args.attach {
            How::Auto => Attach::Auto,
            How::Driver => Attach::Driver,
            How::Generic => Attach::Generic,
        },
        addresses,
        gue_port: args.gue_port,
        pin_dir: args.pin_dir,
    };
    match datapath::start_decap(&decap)? {
        datapath::Attached::New(mode) => println!("attached to {}, mode {mode}", decap.interface),
        datapath::Attached::Kept => println!("replaced the program on {}", decap.interface),
    }
    Ok(())
}

async fn addresses_of(interface: &str) -> Result<Vec<IpAddr>> {
    let links = net::links().await?;
    let Some(link) = links.iter().find(|link| link.name == interface) else {
        let names: Vec<&str> = links.iter().map(|link| &*link.name).collect();
        bail!(
            "there is no interface {interface}\n  help: this host has {}",
            names.join(", ")
        );
    };
    let all = net::addresses().await?;
    Ok(all
        .into_iter()
        .filter(|(index, _)| *index == link.index)
        .map(|(_, ip)| ip)
        .collect())
}
