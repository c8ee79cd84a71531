//! The lab: a network of namespaces with a client, an edge and three sites of
//! real servers, for drills and for hands-on use.
//!
//! [`topology`] says what it is, [`network`] makes it, [`director`] runs the
//! director in it, [`faults`] breaks it, [`state`] remembers it between
//! commands, and [`cli`] is `cargo xtask lab`.

mod addresses;
pub mod cli;
mod config;
mod director;
mod faults;
mod netns;
mod network;
mod process;
mod servers;
mod setup;
mod spec;
mod state;
mod topology;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::run::Usage;
pub use config::{PER_TRY, RETRIES};
pub use director::build as build_director;
pub use netns::enter_netns;
use process::{Process, ProcessId};
pub use spec::{Family, Fault, LabSpec, Mode, STANDING_PREFIX, Site};
use state::State;
use topology::Topology;

/// Beginning of the prefixes of drills, which are the drill process's own.
const DRILL_PREFIX: &str = "director-drill-";
/// How long a server or the director may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// A lab that is up. Dropping it takes it down and removes all it made, unless
/// it was left standing.
#[derive(Debug)]
pub struct Lab {
    state: State,
    topology: Topology,
    director: Option<Process>,
    servers: BTreeMap<String, Process>,
    /// Whether the end of this value is the end of the lab.
    owned: bool,
}

impl Lab {
    /// Raises namespaces, links, addresses, routes, servers and, in tunnel mode,
    /// decapsulation, and writes the director's configuration. The director is
    /// not started.
    ///
    /// Before that, labs of drills that were killed are removed.
    ///
    /// # Errors
    /// When a lab of that prefix is there, a step fails or a signal asks for the
    /// end. What was made until then is removed.
    pub fn up(spec: LabSpec) -> Result<Self> {
        network::check_prefix(&spec.prefix)?;
        for prefix in state::abandoned(DRILL_PREFIX) {
            eprintln!("removing the lab {prefix} of a drill that was killed");
            // Another drill that starts now may be at it too.
            if let Err(error) = down(&prefix) {
                eprintln!("{error:#}");
            }
        }
        Self::check_free(&spec.prefix)?;
        let mut lab = Self {
            state: State::claim(&spec)?,
            topology: Topology::new(spec.mode, spec.family),
            director: None,
            servers: BTreeMap::new(),
            owned: true,
        };
        lab.raise()?;
        Ok(lab)
    }

    /// Whether a lab of that prefix can be raised.
    ///
    /// # Errors
    /// When not: there is one, or remains of one, or something else has its names.
    pub fn check_free(prefix: &str) -> Result<()> {
        network::check_prefix(prefix)?;
        state::check_free(prefix)?;
        // Cleaning up goes by name, so what has such a name must be ours.
        let topology = Topology::new(Mode::Tunnel, Family::V4);
        let mut namespaces = topology
            .hosts
            .iter()
            .map(|host| network::netns_path(prefix, &host.name));
        match namespaces.find(|path| path.exists()) {
            Some(path) => bail!(
                "there is a network namespace {} already and no lab it belongs to; \
                 choose another prefix, or delete it with ip netns delete",
                path.display()
            ),
            None => Ok(()),
        }
    }

    fn raise(&mut self) -> Result<()> {
        for dir in [self.bpffs(), self.logs(), self.stats()] {
            std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let none: Option<&str> = None;
        mount(
            Some("bpf"),
            &self.bpffs(),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .context("cannot mount a BPF filesystem for the lab")?;
        network::make(&self.state.spec.prefix, &self.topology)?;
        self.start_servers(&self.topology.sites.clone())?;
        if self.spec().director.is_some() {
            self.receive_answers()?;
            if self.spec().mode == Mode::Tunnel {
                self.start_decapsulation()?;
            }
        }
        let paths = config::Paths {
            pin_dir: self.pin_dir(),
            socket: self.socket(),
            access_log: self.access_log_path(),
        };
        let text = config::text(self.spec(), &self.topology, &paths);
        std::fs::write(self.config_path(), text)
            .context("cannot write the director's configuration")
    }

    /// The lab of that prefix that an earlier command left standing.
    ///
    /// # Errors
    /// When there is none, or it goes down with another process.
    pub fn standing(prefix: &str) -> Result<Self> {
        network::check_prefix(prefix)?;
        let Some(state) = State::read(prefix)? else {
            let option = if prefix == STANDING_PREFIX {
                String::new()
            } else {
                format!(" --prefix {prefix}")
            };
            bail!("there is no lab {prefix}; raise it with: cargo xtask lab up{option}");
        };
        let topology = Topology::new(state.spec.mode, state.spec.family);
        let servers = state
            .servers
            .iter()
            .map(|(name, id)| (name.clone(), Process::adopted(*id)))
            .collect();
        Ok(Self {
            director: state.director.map(Process::adopted),
            servers,
            topology,
            state,
            owned: false,
        })
    }

    /// Ends this value without ending the lab.
    ///
    /// # Errors
    /// When its state cannot be written; then it is taken down.
    pub fn leave_standing(mut self) -> Result<()> {
        self.state.owner = None;
        self.save()?;
        self.owned = false;
        Ok(())
    }

    /// The choices this lab was raised with.
    pub fn spec(&self) -> &LabSpec {
        &self.state.spec
    }

    /// The namespace file of a host (`client`, `edge`, `dc01`, `dc01-a`, ...).
    pub fn netns(&self, host: &str) -> PathBuf {
        network::netns_path(&self.state.spec.prefix, host)
    }

    /// `/run/<prefix>`.
    pub fn run_dir(&self) -> PathBuf {
        state::run_dir(&self.state.spec.prefix)
    }

    /// The director's configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.run_dir().join("director.toml")
    }

    /// Where the director pins, on a BPF filesystem of the lab's own.
    pub fn pin_dir(&self) -> PathBuf {
        self.bpffs().join("director")
    }

    /// The director's control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("director.sock")
    }

    /// The file an endpoint's server keeps its counts in.
    pub fn stats_path(&self, endpoint: &str) -> PathBuf {
        self.stats().join(endpoint)
    }

    /// The file an endpoint's server notes in which requests it carried out.
    pub fn ids_path(&self, endpoint: &str) -> PathBuf {
        self.stats().join(format!("{endpoint}.ids"))
    }

    /// The edge proxy's access log, in proxy mode: the requests that failed.
    pub fn access_log_path(&self) -> PathBuf {
        self.logs().join("access.json")
    }

    /// The log of `director`, or of an endpoint's server.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The sites, their weights and endpoints.
    pub fn sites(&self) -> &[Site] {
        &self.topology.sites
    }

    /// The service's address.
    pub fn vip(&self) -> SocketAddr {
        self.spec().vip()
    }

    /// The addresses the client may connect from, in the lab's family.
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        addresses::client_addresses(self.spec().family)
    }

    fn bpffs(&self) -> PathBuf {
        self.run_dir().join("bpf")
    }

    fn logs(&self) -> PathBuf {
        self.run_dir().join("log")
    }

    fn stats(&self) -> PathBuf {
        self.run_dir().join("stats")
    }

    fn site(&self, name: &str) -> Result<&Site> {
        let found = self.topology.sites.iter().find(|site| site.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.sites().iter().map(|site| site.name.as_str()).collect();
            Usage(format!(
                "there is no site {name}; there are {}",
                names.join(", ")
            ))
            .into()
        })
    }

    /// Writes down which processes are the lab's.
    fn save(&mut self) -> Result<()> {
        self.state.director = self.director.as_ref().map(Process::id);
        self.state.servers = self
            .servers
            .iter()
            .map(|(name, process)| (name.clone(), process.id()))
            .collect();
        self.state.save()
    }

    /// Takes the lab down.
    ///
    /// # Errors
    /// Everything that could not be ended or removed.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        let errors = self.take_down();
        if errors.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = errors.iter().map(|error| format!("  {error:#}")).collect();
        bail!(
            "parts of the lab {} are still there:\n{}",
            self.spec().prefix,
            lines.join("\n")
        )
    }

    /// Ends every process and removes everything, going on whatever fails.
    fn take_down(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        if let Some(mut director) = self.director.take() {
            errors.extend(director.stop(GRACE).context("the director").err());
        }
        for server in self.servers.values() {
            server.kill();
        }
        for (name, mut server) in std::mem::take(&mut self.servers) {
            errors.extend(server.wait(GRACE).context(name).err());
        }
        let prefix = &self.state.spec.prefix;
        for process in network::processes_inside(prefix, &self.topology) {
            eprintln!("still running in the lab's network: {process}; end it yourself");
        }
        errors.extend(network::remove(prefix, &self.topology));
        let unmounted = match umount2(&self.bpffs(), MntFlags::MNT_DETACH) {
            // Never mounted, or never made.
            Err(nix::Error::EINVAL | nix::Error::ENOENT) | Ok(()) => Ok(()),
            Err(errno) => Err(errno).context("cannot unmount the lab's BPF filesystem"),
        };
        // The state stays while something is left, for a later `lab down`.
        match unmounted {
            Ok(()) if errors.is_empty() => {
                let dir = self.run_dir();
                let removed = std::fs::remove_dir_all(&dir);
                errors.extend(
                    removed
                        .with_context(|| format!("cannot remove {}", dir.display()))
                        .err(),
                );
            }
            result => errors.extend(result.err()),
        }
        errors
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            for error in self.take_down() {
                eprintln!("taking the lab down: {error:#}");
            }
        }
    }
}

/// Takes down the lab of that prefix, or what an interrupted run left of it.
///
/// # Errors
/// When there is none, it is in use, or parts could not be removed.
pub fn down(prefix: &str) -> Result<()> {
    let lab = Lab::standing(prefix)?;
    if let Some(owner) = lab.state.owner.filter(|owner| owner.is_alive())
        && owner != ProcessId::own()?
    {
        bail!(
            "the lab {prefix} is in use by process {}, which takes it down when it ends",
            owner.pid()
        );
    }
    lab.down()
}
