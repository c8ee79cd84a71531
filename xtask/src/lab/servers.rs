//! The lab's servers, and the decapsulation in front of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Lab;
use super::netns::within;
use super::process::{Process, log_tail};
use super::spec::{Endpoint, Site};
use super::topology::to;
use crate::{cancel, run};

/// Until a server that was started must listen.
const LISTENING_WITHIN: Duration = Duration::from_secs(30);

impl Lab {
    /// Starts the servers of `sites`, and returns when all of them listen.
    pub(super) fn start_servers(&mut self, sites: &[Site]) -> Result<()> {
        let endpoints: Vec<&Endpoint> = sites.iter().flat_map(|site| &site.endpoints).collect();
        for endpoint in &endpoints {
            let process = self.start_server(endpoint)?;
            self.servers.insert(endpoint.name.clone(), process);
            self.save()?;
        }
        for endpoint in endpoints {
            self.wait_listening(endpoint)?;
        }
        Ok(())
    }

    fn start_server(&self, endpoint: &Endpoint) -> Result<Process> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(program);
        command.args(["drill-server", "--name", &endpoint.name]);
        // On every address that its host has: its own, and where it answers
        // clients itself, the VIP.
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for address in any.map(|ip| SocketAddr::new(ip, self.vip().port())) {
            command.args(["--listen", &address.to_string()]);
        }
        command.arg("--stats").arg(self.stats_path(&endpoint.name));
        command.arg("--ids").arg(self.ids_path(&endpoint.name));
        Process::start(
            &self.netns(&endpoint.name),
            command,
            &self.log_path(&endpoint.name),
        )
    }

    fn wait_listening(&self, endpoint: &Endpoint) -> Result<()> {
        let log = self.log_path(&endpoint.name);
        let what = format!("the server {} listens", endpoint.name);
        cancel::wait_until(&what, LISTENING_WITHIN, || {
            if !self.servers[&endpoint.name].is_alive() {
                bail!("the server {} ended:\n{}", endpoint.name, log_tail(&log));
            }
            within(&self.netns(&endpoint.name), || {
                let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                Ok(loopback
                    .map(|ip| SocketAddr::new(ip, self.vip().port()))
                    .iter()
                    .all(|address| TcpStream::connect(address).is_ok()))
            })
        })
    }

    /// Kills the servers of a site, as a power cut would.
    pub(super) fn kill_servers(&mut self, site: &str) -> Result<()> {
        let site = self.site(site)?.clone();
        for endpoint in &site.endpoints {
            if let Some(server) = self.servers.get(&endpoint.name) {
                server.kill();
            }
        }
        for endpoint in &site.endpoints {
            if let Some(mut server) = self.servers.remove(&endpoint.name) {
                server.wait(super::GRACE)?;
            }
        }
        self.save()
    }

    /// Has every server's host take the outer header off what the edge sends.
    pub(super) fn start_decapsulation(&self) -> Result<()> {
        for endpoint in self.sites().iter().flat_map(|site| &site.endpoints) {
            cancel::check()?;
            self.decapsulate(&endpoint.name, "eth0")?;
        }
        Ok(())
    }

    /// Has the client receive what the edge answers by XDP_TX: echoes, resets,
    /// SYN cookies. To an end of a veth without a program of its own, the kernel
    /// hands such frames only when another one comes; decapsulation is a program
    /// that passes them.
    pub(super) fn receive_answers(&self) -> Result<()> {
        self.decapsulate("client", &to("edge"))
    }

    fn decapsulate(&self, host: &str, interface: &str) -> Result<()> {
        let mut command = self.director_command()?;
        command
            .args(["decap", "--iface", interface, "--pin-dir"])
            .arg(self.bpffs().join(format!("decap-{host}")));
        within(&self.netns(host), || run::capture(&mut command))
            .map(drop)
            .with_context(|| format!("cannot start decapsulation on {host}"))
    }
}
