//! What the daemon does by itself and by order: comparing, sweeping, reading
//! the configuration again.

use std::io;

use director_core::Event;
use director_ebpf::abi::event::FlowEvent;

use super::{Daemon, Names, start, tracers};
use crate::{
    config::{self, Edge},
    datapath::Attached,
    l7::Proxy,
    probes,
};

impl Daemon {
    /// Compares what the kernel holds with what it should hold, and repairs.
    pub(super) fn reconcile(&mut self) {
        self.reconciliation.passes += 1;
        if let Some(proxy) = &mut self.l7 {
            proxy.renew();
        }
        self.reconciliation.last_unix_ms = Some(self.clock.unix_ms(self.clock.now()));
        self.reconciliation.error = None;
        match self.datapath.audit() {
            Ok(differences) => {
                for difference in differences {
                    self.reconciliation.repairs += 1;
                    self.metrics.repair(difference.map);
                    tracing::warn!("repaired {difference}");
                }
            }
            Err(error) => {
                tracing::error!("the maps could not be compared: {error:#}");
                self.reconciliation.error = Some(format!("{error:#}"));
            }
        }
        for interface in self.config.edge.interfaces.clone() {
            match self.datapath.attach(&interface, self.config.edge.attach) {
                Ok(Attached::Kept) => {}
                Ok(Attached::New(mode)) => {
                    self.reconciliation.repairs += 1;
                    self.metrics.repair("link");
                    tracing::warn!(interface, "attached again, mode {mode}");
                }
                Err(error) => {
                    tracing::error!("{error:#}");
                    self.reconciliation.error = Some(format!("{error:#}"));
                }
            }
        }
    }

    /// Looks at the next slice of the flow tables.
    pub(super) fn sweep(&mut self) {
        self.datapath.sweep(self.config.edge.hold);
        self.tracers.flush();
    }

    /// Brings sampling to what the tracers ask for.
    pub(super) fn tracers_changed(&mut self) {
        self.tracers.retain();
        if self.datapath.trace() == 0 {
            // What was sampled for those before is none of the next one's.
            self.events.discard();
        }
        if let Err(error) = self.datapath.set_trace(self.tracers.one_in()) {
            tracing::error!("tracing could not be changed: {error:#}");
        }
    }

    /// Tells tracers of flow events.
    pub(super) fn flow_events(&mut self, events: io::Result<Vec<FlowEvent>>) {
        match events {
            Ok(events) => {
                for event in events {
                    let told = self.datapath.tell(&event);
                    let event = tracers::event(&told, &self.names, &self.clock);
                    self.tracers.tell(&event, self.datapath.trace());
                }
            }
            Err(error) => {
                tracing::error!("flow events could not be read: {error}");
                self.tracers.clear();
                self.tracers_changed();
            }
        }
    }

    /// Reads the configuration again: services, sites, probes and what of
    /// [edge] can change while packets flow; the rest of it waits for a restart.
    /// A file with errors changes nothing.
    pub(super) fn reload(&mut self) {
        let loaded = match config::load(&self.path) {
            Ok(loaded) => loaded,
            Err(errors) => {
                tracing::error!("the configuration stays as it was:\n{errors}");
                return;
            }
        };
        let mut config = loaded.config;
        let waiting = waiting(&self.config.edge, &config.edge);
        if !waiting.is_empty() {
            tracing::warn!(
                "changes of {} under [edge] take effect at the next start",
                waiting.join(", ")
            );
        }
        config.edge = self.reload_edge(config.edge);
        config.l7 = self.reload_l7(&config);
        self.config = config;
        self.names = Names::new(&self.config.model);
        self.addresses
            .send_replace(start::endpoint_addresses(&self.config.model));
        // Before the event: the paces that it tells are then not lost.
        self.prober.set_targets(probes::targets(&self.config.model));
        self.event(Event::Model(self.config.model.clone()));
        tracing::info!("configuration loaded again");
    }

    /// Brings the proxy to a new configuration. Returns what it serves then: where
    /// that fails, what it served before.
    fn reload_l7(&mut self, new: &config::Config) -> director_core::l7::L7 {
        let done = match &mut self.l7 {
            Some(proxy) => proxy.reload(&new.model, &new.l7),
            None if new.l7.listeners.is_empty() => Ok(()),
            None => Proxy::start(&new.model, &new.l7, Vec::new()).map(|(proxy, signals)| {
                self.l7 = Some(proxy);
                self.inputs.told = signals;
            }),
        };
        if let Err(error) = done {
            tracing::error!("the proxy stays as it was: {error:#}");
            return self.config.l7.clone();
        }
        let plans = new
            .model
            .services
            .iter()
            .filter_map(|s| self.core.plan(&s.name));
        if let Some(proxy) = &self.l7 {
            plans.for_each(|plan| proxy.apply(plan));
        }
        new.l7.clone()
    }

    /// Takes up what can change of `new`. Returns what is in force then.
    fn reload_edge(&mut self, new: Edge) -> Edge {
        let mut edge = self.config.edge.clone();
        edge.hold = new.hold;
        let (icmp, gue_port) = (new.icmp, new.tunnel.gue_port);
        match self.datapath.set_settings(icmp, gue_port) {
            Ok(()) => {
                edge.icmp = icmp;
                edge.tunnel.gue_port = gue_port;
            }
            Err(error) => tracing::error!("the settings could not be changed: {error:#}"),
        }
        // A long list takes a second or two.
        if new.deny != edge.deny {
            match self.datapath.set_deny(&new.deny) {
                Ok(()) => edge.deny = new.deny,
                Err(error) => tracing::error!("the deny list could not be changed: {error:#}"),
            }
        }
        edge
    }
}

/// Keys of `[edge]` that differ and cannot change while packets flow.
fn waiting(old: &Edge, new: &Edge) -> Vec<&'static str> {
    // Named in full, so that a new key cannot be forgotten here.
    let Edge {
        name,
        interfaces,
        attach,
        pin_dir,
        socket,
        metrics,
        hold: _,
        deny: _,
        tunnel,
        nat,
        icmp: _,
        limits,
    } = new;
    let sources = |it: &config::TunnelSources| (it.v4, it.v6, it.prefix4, it.prefix6);
    let all = [
        ("name", *name != old.name),
        ("interfaces", *interfaces != old.interfaces),
        ("attach", *attach != old.attach),
        ("pin_dir", *pin_dir != old.pin_dir),
        ("socket", *socket != old.socket),
        ("metrics", *metrics != old.metrics),
        ("tunnel", sources(tunnel) != sources(&old.tunnel)),
        ("nat", *nat != old.nat),
        ("limits", *limits != old.limits),
    ];
    let differ = all.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_cannot_change_live_waits() {
        let text = super::super::listings::tests::CONFIG;
        let loaded = config::parse(text, "test.toml").expect("a valid configuration");
        let old = loaded.config.edge;
        let mut new = old.clone();
        new.hold += Duration::from_secs(1);
        new.deny.push("192.0.2.0/24".parse().expect("a prefix"));
        new.icmp.echo = !new.icmp.echo;
        new.tunnel.gue_port += 1;
        assert_eq!(waiting(&old, &new), Vec::<&str>::new());
        new.tunnel.prefix4 -= 1;
        new.limits.flows += 1;
        assert_eq!(waiting(&old, &new), ["tunnel", "limits"]);
    }
}
