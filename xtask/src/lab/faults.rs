//! Breaking a site, and mending it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Lab;
use super::addresses::server_subnet;
use super::network;
use super::spec::{Family, Fault, Mode};
use super::topology::to;
use crate::drill::stats::{Conduct, Stats};

/// Priority of the rule that swallows a site's packets: after the router's own
/// addresses (0), before its routes (32766).
const BLACKHOLE_RULE: &str = "10";
/// How long a slow site's servers take for an answer: longer than the lab's
/// proxy waits for one try, shorter than a client's patience.
const SLOWNESS: Duration = Duration::from_millis(800);

impl Lab {
    /// Lets `fault` happen to `site`. Returns the instant just before it took
    /// effect.
    ///
    /// # Errors
    /// When there is no such site, or the fault cannot be brought about.
    pub fn inject(&mut self, fault: Fault, site: &str) -> Result<Instant> {
        self.site(site)?;
        let before = Instant::now();
        match fault {
            Fault::Kill => self.kill_servers(site)?,
            Fault::Blackhole => self.blackhole(site, true)?,
            Fault::LinkDown => self.uplinks(site, "down")?,
            Fault::Drain => self.steer_away("drain", site)?,
            Fault::ErrorBurst => self.conduct(site, Conduct::Failing)?,
            Fault::SlowSite => self.conduct(site, Conduct::Slow(SLOWNESS))?,
        }
        Ok(before)
    }

    /// Undoes `fault` at `site`. Returns the instant at which all was in place
    /// again (not yet noticed by the director).
    ///
    /// # Errors
    /// When there is no such site, or it cannot be undone.
    pub fn recover(&mut self, fault: Fault, site: &str) -> Result<Instant> {
        let servers = self.site(site)?.clone();
        match fault {
            Fault::Kill => self.start_servers(&[servers])?,
            Fault::Blackhole => self.blackhole(site, false)?,
            Fault::LinkDown => self.reconnect(site)?,
            Fault::Drain => self.steer_away("undrain", site)?,
            Fault::ErrorBurst | Fault::SlowSite => self.conduct(site, Conduct::Well)?,
        }
        Ok(Instant::now())
    }

    /// A rule rather than a route: it wins over the connected routes without
    /// touching them, and a packet it meets is dropped without an ICMP answer.
    /// In l2 mode what the edge sends is not routed; there the switch forwards
    /// no frame between its ports, all of which keep their carrier.
    fn blackhole(&self, site: &str, is_on: bool) -> Result<()> {
        let action = if is_on { "add" } else { "del" };
        let family = self.spec().family;
        let subnet = server_subnet(site, family).context("a site without a subnet")?;
        let flag = match family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        let rule = [
            flag,
            "rule",
            action,
            "priority",
            BLACKHOLE_RULE,
            "to",
            &subnet,
            "blackhole",
        ];
        network::ip(&self.spec().prefix, site, &rule)?;
        if self.spec().mode == Mode::L2 {
            let isolated = if is_on { "on" } else { "off" };
            let servers = self.site(site)?.endpoints.iter();
            let ports = std::iter::once(to("edge")).chain(servers.map(|one| to(&one.name)));
            let lines: String = ports
                .map(|port| format!("link set dev {port} type bridge_slave isolated {isolated}\n"))
                .collect();
            network::ip_batch(&self.spec().prefix, site, &lines)?;
        }
        Ok(())
    }

    /// The site's ends of its links to the edge and to the client: the other
    /// ends lose carrier, as when a fibre is cut.
    fn uplinks(&self, site: &str, state: &str) -> Result<()> {
        let lines =
            ["to-edge", "to-client"].map(|interface| format!("link set dev {interface} {state}\n"));
        network::ip_batch(&self.spec().prefix, site, &lines.concat())
    }

    /// Routes went with the links, so the router is set up again.
    fn reconnect(&self, site: &str) -> Result<()> {
        self.uplinks(site, "up")?;
        let router = self
            .topology
            .host(site)
            .context("a site without a router")?;
        network::set_up(&self.spec().prefix, router)?;
        network::wait_usable(&self.spec().prefix, &self.topology)
    }

    /// Tells a site's servers how to answer from now on.
    fn conduct(&self, site: &str, conduct: Conduct) -> Result<()> {
        for endpoint in &self.site(site)?.endpoints {
            Stats::open(&self.stats_path(&endpoint.name))?.conduct(conduct);
        }
        Ok(())
    }

    fn steer_away(&self, command: &str, site: &str) -> Result<()> {
        let output = self.director_cli(&[command, site])?;
        if !output.status.success() {
            bail!(
                "`director {command} {site}` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}
