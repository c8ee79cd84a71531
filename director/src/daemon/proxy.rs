//! The edge proxy's part: what its requests tell, and another program in place of
//! this one.

use std::os::fd::AsFd as _;

use anyhow::Result;
use director_core::{Event, Failure, l7::Passive};

use super::Daemon;
use crate::{
    l7::{self, Proxy},
    privilege,
};

impl Daemon {
    /// Starts the program that is in this one's file now. Returns its process ID once
    /// it serves.
    pub(super) fn hand_over(&mut self) -> Result<u32> {
        let mut parts = vec![("lock".to_owned(), self.lock.as_fd().try_clone_to_owned()?)];
        if let Some(port) = &self.metrics_port {
            parts.push(("metrics".to_owned(), port.socket()?));
        }
        if let Some(proxy) = &self.l7 {
            let sockets = proxy.sockets()?.into_iter();
            parts.extend(sockets.map(|(address, socket)| (address.to_string(), socket)));
        }
        tracing::info!("handing over to a new program");
        privilege::inherited(|| self.start.next(parts))
    }

    /// Ends when the requests that are under way do: all else is the new program's.
    pub(super) async fn leave(mut self, next: u32) -> Result<()> {
        tracing::info!(pid = next, "handed over");
        if let Some(port) = &self.metrics_port {
            port.stop();
        }
        self.stop_proxy().await;
        Ok(())
    }

    /// Lets requests that are under way end.
    pub(super) async fn stop_proxy(&mut self) {
        if let Some(proxy) = self.l7.take() {
            let cut = proxy.drain().await;
            tracing::info!("the proxy has stopped; {cut} connections were cut");
        }
    }

    /// Takes in what requests made the proxy believe.
    pub(super) fn signal(&mut self, signal: l7::Signal) {
        match signal {
            l7::Signal::Suspect(endpoint) => {
                let passive = self.l7.as_ref().map(Proxy::passive).unwrap_or_default();
                match passive {
                    Passive::Ignore => {}
                    Passive::Probe => self.prober.probe_now(&endpoint),
                    Passive::Decide => {
                        self.prober.probe_now(&endpoint);
                        let outcome = Err(Failure::Unreachable);
                        self.event(Event::Probe { endpoint, outcome });
                    }
                }
            }
            l7::Signal::Breaker {
                service,
                route,
                breaker,
                transition,
            } => {
                let to = transition.to.label();
                if let Some(proxy) = &self.l7 {
                    proxy.count_transition(&service, &route, &breaker, to);
                }
                tracing::info!(%service, %route, %breaker, "breaker {} -> {to}: {}", transition.from, transition.cause);
            }
        }
    }
}
