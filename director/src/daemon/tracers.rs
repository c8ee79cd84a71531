//! `director trace`: flow events to those who asked for them.

use director_core::Model;
use director_ebpf::parse::tcp_flags;
use futures::future;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Clock, listings::vip, names::Names, report::protocol_name};
use crate::{
    api::{TraceEvent, TraceLine, TraceRequest},
    datapath::Told,
};

/// Lines that wait for a reader; what comes beyond them is lost.
const QUEUE: usize = 4096;
/// Tracers at once.
const MOST: usize = 8;

/// Those who asked for events.
#[derive(Default)]
pub(super) struct Tracers {
    all: Vec<Tracer>,
    /// Events that a reader was too slow for, since the start.
    pub lost: u64,
}

struct Tracer {
    one_in: u32,
    service: Option<String>,
    /// Events that it is owed, in parts of `one_in`.
    credit: u64,
    /// Events that it was too slow for, and was not told of yet.
    lost: u64,
    reader: mpsc::Sender<TraceLine>,
}

impl Tracers {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes another one in.
    ///
    /// # Errors
    /// When it asks for what is not configured, or there are too many.
    pub fn begin(
        &mut self,
        query: &TraceRequest,
        model: &Model,
    ) -> Result<mpsc::Receiver<TraceLine>, String> {
        if self.all.len() >= MOST {
            return Err(format!("{MOST} tracers are connected already"));
        }
        if let Some(name) = &query.service {
            vip(name, model)?;
        }
        let (reader, lines) = mpsc::channel(QUEUE);
        self.all.push(Tracer {
            one_in: query.one_in.unwrap_or(1).max(1),
            service: query.service.clone(),
            credit: 0,
            lost: 0,
            reader,
        });
        Ok(lines)
    }

    /// One in how many flows is to be told of: 0 where nobody asks.
    pub fn one_in(&self) -> u32 {
        let all = self.all.iter().map(|tracer| tracer.one_in);
        all.min().unwrap_or(0)
    }

    /// Waits until one has gone.
    pub async fn gone(&self) {
        if self.all.is_empty() {
            return future::pending().await;
        }
        let readers = self.all.iter().map(|it| Box::pin(it.reader.closed()));
        future::select_all(readers).await;
    }

    /// Lets go of those that have gone.
    pub fn retain(&mut self) {
        self.all.retain(|tracer| !tracer.reader.is_closed());
    }

    /// Lets go of all.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Gives an event, which stands for `one_in` flows, to all that ask for it.
    pub fn tell(&mut self, event: &TraceEvent, one_in: u32) {
        for tracer in &mut self.all {
            self.lost += tracer.tell(event, one_in);
        }
    }

    /// Tells readers of what they lost, where no further event would.
    pub fn flush(&mut self) {
        for tracer in &mut self.all {
            tracer.tell_lost();
        }
    }
}

impl Tracer {
    /// Returns how many events were lost: 0 or 1.
    fn tell(&mut self, event: &TraceEvent, one_in: u32) -> u64 {
        if self.service.is_some() && self.service != event.service {
            return 0;
        }
        self.credit += u64::from(one_in);
        if self.credit < u64::from(self.one_in) {
            return 0;
        }
        self.credit -= u64::from(self.one_in);
        self.tell_lost();
        let line = TraceLine::Event(event.clone());
        let is_lost = self.lost > 0 || matches!(self.reader.try_send(line), Err(TrySendError::Full(_)));
        self.lost += u64::from(is_lost);
        u64::from(is_lost)
    }

    fn tell_lost(&mut self) {
        let line = TraceLine::Lost { lost: self.lost };
        if self.lost > 0 && self.reader.try_send(line).is_ok() {
            self.lost = 0;
        }
    }
}

/// An event with its names.
pub(super) fn event(told: &Told, names: &Names, clock: &Clock) -> TraceEvent {
    let endpoint = told.vip.zip(told.endpoint);
    let endpoint = endpoint.and_then(|(vip, endpoint)| names.endpoint(&vip, endpoint));
    TraceEvent {
        time_unix_ms: clock.unix_ms(clock.now().saturating_sub(told.age)),
        event: told.happened.label().to_owned(),
        service: told.vip.and_then(|vip| names.service(&vip)),
        source: told.source,
        destination: told.destination,
        protocol: protocol_name(told.protocol).to_owned(),
        tcp_flags: flag_names(told.tcp_flags),
        endpoint: endpoint.map(|it| it.name.to_string()),
        endpoint_address: told.endpoint.map(Into::into),
        site: endpoint.map(|it| it.site.to_string()),
    }
}

fn flag_names(flags: u8) -> Vec<String> {
    let known = [
        (tcp_flags::FIN, "fin"),
        (tcp_flags::SYN, "syn"),
        (tcp_flags::RST, "rst"),
        (tcp_flags::ACK, "ack"),
    ];
    let set = known.iter().filter(|(bit, _)| flags & bit != 0);
    set.map(|(_, name)| (*name).to_owned()).collect()
}
