//! One try of a request at one endpoint.

use std::{
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use director_core::{
    EndpointRef, Now, PlannedEndpoint,
    breaker::{Outcome, Refusal, Transition, may_eject},
    l7::{Forward, InFlight},
};
use tokio::task::AbortHandle;

use super::{
    gate::Pass,
    pool::Endpoints,
    slot::{ForwardView, RouteView, Shared, Signal},
};

/// A try that is under way. Dropped, it says nothing of the endpoint.
pub struct Attempt {
    pub endpoints: Arc<Endpoints>,
    pub index: usize,
    pub started: Now,
    in_flight: Option<InFlight>,
    passes: Option<(Pass, Pass)>,
    deadline: Option<AbortHandle>,
    /// Whether it was ended for taking too long.
    expired: Arc<AtomicBool>,
}

/// Who asks: for names in events.
pub struct Asker<'a> {
    pub shared: &'a Shared,
    pub service: &'a Arc<str>,
    pub route: &'a RouteView,
    pub config: &'a Forward,
    pub view: &'a ForwardView,
}

impl Asker<'_> {
    /// Asks the breakers of an endpoint and of its site.
    ///
    /// # Errors
    /// Why one of them refuses.
    pub fn begin(
        &self,
        endpoints: &Arc<Endpoints>,
        index: usize,
        now: Now,
    ) -> Result<Attempt, Refusal> {
        let endpoint = endpoints.endpoint(index);
        let policy = &self.config.breaker;
        let Some(site) = self.view.sites.get(&endpoint.site) else {
            return Err(Refusal::Open(Duration::ZERO));
        };
        let (pass, transition) = Pass::ask(&site.gate, &policy.site, now);
        self.tell(&endpoint.site, transition);
        let of_site = pass?;
        let (pass, transition) = Pass::ask(endpoints.gate(index), &policy.endpoint, now);
        self.tell_of_endpoint(endpoint, transition);
        let of_endpoint = pass?;
        Ok(Attempt {
            endpoints: endpoints.clone(),
            index,
            started: now,
            in_flight: Some(endpoints.picks.load(index).begin()),
            passes: Some((of_site, of_endpoint)),
            deadline: None,
            expired: Arc::default(),
        })
    }

    /// Whether a breaker would let a request pass to an endpoint.
    pub fn is_open(&self, endpoints: &Endpoints, index: usize, now: Now) -> bool {
        let policy = &self.config.breaker;
        let site = self.view.sites.get(&endpoints.endpoint(index).site);
        endpoints.gate(index).is_open(&policy.endpoint, now)
            || site.is_none_or(|site| site.gate.is_open(&policy.site, now))
    }

    /// Says what became of a try: to the breakers, the load, and, where the endpoint
    /// was not heard of at all, to the prober.
    pub fn settle(&self, attempt: &mut Attempt, outcome: Outcome, was_heard: bool, now: Now) {
        attempt.clear_deadline();
        let Some((of_site, of_endpoint)) = attempt.passes.take() else {
            return;
        };
        let endpoints = attempt.endpoints.clone();
        let endpoint = endpoints.endpoint(attempt.index);
        let took = now.saturating_sub(attempt.started);
        let percent = self.config.breaker.max_ejection_percent;
        let sites = &endpoints.picks.sites().names;
        let out = || {
            sites
                .iter()
                .filter(|s| self.view.sites.get(*s).is_some_and(|v| v.gate.is_out()))
                .count()
        };
        let transition = of_site.settle(outcome, || may_eject(out(), sites.len(), percent), now);
        self.tell(&endpoint.site, transition);
        let all = endpoints.picks.endpoints().len();
        let may_open = || may_eject(endpoints.out(), all, percent);
        let transition = of_endpoint.settle(outcome, may_open, now);
        self.tell_of_endpoint(endpoint, transition);
        let latency = endpoints.picks.latency();
        match outcome {
            Outcome::Answered(_) => {
                if let Some(in_flight) = &attempt.in_flight {
                    in_flight.answered(took, latency, now);
                }
                endpoints.answered(attempt.index);
            }
            Outcome::Failed => {
                if let Some(in_flight) = attempt.in_flight.take() {
                    in_flight.failed(took, latency, now);
                }
                if !was_heard && endpoints.failed(attempt.index) {
                    self.shared.signal(Signal::Suspect(EndpointRef {
                        service: self.view.pool.service.clone(),
                        endpoint: endpoint.name.clone(),
                    }));
                }
            }
        }
    }

    fn tell_of_endpoint(&self, endpoint: &PlannedEndpoint, transition: Option<Transition>) {
        // A name is made where there is something to tell, not for every request.
        if transition.is_some() {
            self.tell(&format!("{}/{}", endpoint.site, endpoint.name), transition);
        }
    }

    fn tell(&self, breaker: &str, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.shared.signal(Signal::Breaker {
                service: self.service.clone(),
                route: self.route.config.name.clone(),
                breaker: breaker.to_owned(),
                transition,
            });
        }
    }
}

impl Attempt {
    /// Ends the connection of `fd` after `left`, so that what waits for it fails.
    ///
    /// The descriptor stays this connection's for as long as the deadline stands:
    /// the task that owns it clears the deadline before it gives the connection
    /// away, without waiting in between, and both run on the same thread.
    pub fn set_deadline(&mut self, fd: RawFd, left: Duration) {
        self.clear_deadline();
        let expired = self.expired.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(left).await;
            expired.store(true, Ordering::Relaxed);
            // One that has been closed by the server needs no ending.
            let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both);
        });
        self.deadline = Some(task.abort_handle());
    }

    pub fn clear_deadline(&mut self) {
        if let Some(task) = self.deadline.take() {
            task.abort();
        }
    }

    pub fn has_expired(&self) -> bool {
        self.expired.load(Ordering::Relaxed)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.clear_deadline();
    }
}
