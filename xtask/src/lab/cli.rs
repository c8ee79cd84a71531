//! `cargo xtask lab`: the network left standing, for hands-on use.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};

use super::network::ip;
use super::spec::{Family, Fault, LabSpec, Mode, STANDING_PREFIX};
use super::topology::{Host, Role};
use super::{Lab, build_director, down, enter_netns};
use crate::run::{Usage, shown};
use crate::{cancel, prereq};

/// Until all endpoints of a new lab must be healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Subcommands of `cargo xtask lab`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Raise the network, its servers and the director, and leave them standing
    Up(Up),
    /// Take it down
    Down(Name),
    /// Show hosts, addresses and servers, and what the director says
    Status(Name),
    /// Run a command on one of the hosts
    Exec(Exec),
    /// Start or stop the director; stopped, steering goes on in the kernel
    Director(Director),
    /// Let a fault happen to a site
    Fault(Break),
    /// Undo a fault
    Recover(Break),
}

/// Which lab.
#[derive(Clone, Debug, clap::Args)]
pub struct Name {
    /// Name of the lab, with which its namespaces begin
    #[arg(long, default_value = STANDING_PREFIX)]
    prefix: String,
}

/// Arguments of `lab up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    name: Name,
    /// How the director hands packets to the sites
    #[arg(long, value_enum, default_value_t = Mode::Tunnel)]
    mode: Mode,
    /// Address family of the service
    #[arg(long, value_enum, default_value_t = Family::V4)]
    ip: Family,
    /// Raise the network and the servers alone
    #[arg(long)]
    no_director: bool,
}

/// Arguments of `lab exec`.
#[derive(Clone, Debug, clap::Args)]
pub struct Exec {
    #[command(flatten)]
    name: Name,
    /// client, edge, dc01, dc01-a, ...
    host: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Arguments of `lab director`.
#[derive(Clone, Debug, clap::Args)]
pub struct Director {
    #[command(flatten)]
    name: Name,
    /// What to do with it
    #[arg(value_enum)]
    action: Switch,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Switch {
    Start,
    Stop,
}

/// Arguments of `lab fault` and `lab recover`.
#[derive(Clone, Debug, clap::Args)]
pub struct Break {
    #[command(flatten)]
    name: Name,
    /// What happens
    #[arg(value_enum)]
    fault: Fault,
    /// The site it happens to
    site: String,
}

/// Carries out `cargo xtask lab ACTION`.
///
/// # Errors
/// When it cannot be carried out.
pub fn run(action: &Action) -> Result<()> {
    match action {
        Action::Up(args) => up(args),
        Action::Down(name) => {
            down(&name.prefix)?;
            println!("the lab {} is down", name.prefix);
            Ok(())
        }
        Action::Status(name) => status(&Lab::standing(&name.prefix)?),
        Action::Exec(args) => exec(args),
        Action::Director(args) => {
            let mut lab = Lab::standing(&args.name.prefix)?;
            match args.action {
                Switch::Start => lab.start_director(),
                Switch::Stop => lab.stop_director(),
            }
        }
        Action::Fault(args) => {
            let mut lab = Lab::standing(&args.name.prefix)?;
            lab.inject(args.fault, &args.site)?;
            println!("{} of {}", args.fault.as_str(), args.site);
            Ok(())
        }
        Action::Recover(args) => {
            let mut lab = Lab::standing(&args.name.prefix)?;
            lab.recover(args.fault, &args.site)?;
            println!("{} recovered from {}", args.site, args.fault.as_str());
            Ok(())
        }
    }
}

fn up(args: &Up) -> Result<()> {
    prereq::kernel()?;
    prereq::lab_tools()?;
    Lab::check_free(&args.name.prefix)?;
    cancel::install()?;
    let director = if args.no_director {
        None
    } else {
        Some(build_director()?)
    };
    let mut lab = Lab::up(LabSpec {
        prefix: args.name.prefix.clone(),
        mode: args.mode,
        family: args.ip,
        director,
        ..LabSpec::default()
    })?;
    if !args.no_director {
        lab.start_director()?;
        lab.wait_healthy(HEALTHY_WITHIN)?;
    }
    let option = if args.name.prefix == STANDING_PREFIX {
        String::new()
    } else {
        format!(" --prefix {}", args.name.prefix)
    };
    println!("the lab {} is up", args.name.prefix);
    println!("look around:  cargo xtask lab status{option}");
    if !args.no_director {
        let vip = lab.vip();
        println!("be a client:  cargo xtask lab exec{option} client curl http://{vip}/");
    }
    println!(
        "lose a site:  cargo xtask lab fault{option} kill dc01\n\
         configured:   {}\n\
         take it down: cargo xtask lab down{option}",
        lab.config_path().display(),
    );
    lab.leave_standing()
}

fn status(lab: &Lab) -> Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["HOST", "ROLE", "STATE", "ADDRESSES"]);
    for host in &lab.topology.hosts {
        let (role, state) = describe(lab, host);
        let addresses = addresses(lab, &host.name)?;
        table.add_row([host.name.as_str(), role, state, &addresses]);
    }
    println!("{table}");
    if lab.director_runs() {
        let output = lab.director_cli(&["status"])?;
        print!(
            "\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn describe(lab: &Lab, host: &Host) -> (&'static str, &'static str) {
    let runs = |running: bool| if running { "running" } else { "not running" };
    match host.role {
        Role::Client => ("client", "-"),
        Role::Router => ("site router", "-"),
        Role::Edge => ("director", runs(lab.director_runs())),
        Role::Server => {
            let server = lab.servers.get(&host.name);
            (
                "server",
                runs(server.is_some_and(|server| server.is_alive())),
            )
        }
    }
}

/// `interface address` of a host, but for those that go without saying.
fn addresses(lab: &Lab, host: &str) -> Result<String> {
    let lines = ip(
        &lab.spec().prefix,
        host,
        &["-o", "address", "show", "scope", "global"],
    )?;
    let shown: Vec<String> = lines
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (interface, _, address) = (words.next()?, words.next()?, words.next()?);
            Some(format!("{address} {interface}"))
        })
        .collect();
    const MOST: usize = 8;
    let mut text = shown[..shown.len().min(MOST)].join("\n");
    if shown.len() > MOST {
        text.push_str(&format!("\nand {} more", shown.len() - MOST));
    }
    Ok(text)
}

/// Becomes the command: its exit code is ours, and the terminal is its own.
fn exec(args: &Exec) -> Result<()> {
    let lab = Lab::standing(&args.name.prefix)?;
    if lab.topology.host(&args.host).is_none() {
        let names: Vec<&str> = lab
            .topology
            .hosts
            .iter()
            .map(|host| host.name.as_str())
            .collect();
        return Err(Usage(format!(
            "there is no host {}; there are {}",
            args.host,
            names.join(", ")
        ))
        .into());
    }
    let (program, arguments) = args
        .command
        .split_first()
        .context("clap asks for a command")?;
    enter_netns(&lab.netns(&args.host))?;
    let mut command = Command::new(program);
    command.args(arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", shown(&command)))
}
