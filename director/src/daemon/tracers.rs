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
        let line = TraceLine::Event(Box::new(event.clone()));
        let is_lost =
            self.lost > 0 || matches!(self.reader.try_send(line), Err(TrySendError::Full(_)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        crate::config::parse(super::super::listings::tests::CONFIG, "test.toml")
            .expect("a valid configuration")
            .config
            .model
    }

    fn of(service: &str) -> TraceEvent {
        TraceEvent {
            time_unix_ms: 0,
            event: "placed".to_owned(),
            service: Some(service.to_owned()),
            source: ([192, 0, 2, 1], 40_000).into(),
            destination: ([203, 0, 113, 10], 80).into(),
            protocol: "tcp".to_owned(),
            tcp_flags: flag_names(tcp_flags::SYN),
            endpoint: None,
            endpoint_address: None,
            site: None,
        }
    }

    fn query(one_in: u32, service: Option<&str>) -> TraceRequest {
        TraceRequest {
            one_in: Some(one_in),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn the_one_who_asks_for_most_decides_and_others_get_their_part() {
        let mut tracers = Tracers::default();
        assert_eq!(tracers.one_in(), 0);
        let mut begin = |query| tracers.begin(&query, &model()).expect("a tracer");
        let mut rare = begin(query(10, None));
        let often = begin(query(2, Some("dns")));
        assert_eq!(tracers.one_in(), 2);
        for _ in 0..100 {
            tracers.tell(&of("web"), 2);
        }
        assert_eq!((rare.len(), often.len()), (20, 0));
        drop(often);
        tracers.retain();
        assert_eq!(tracers.one_in(), 10);
        rare.close();
        tracers.retain();
        assert!(tracers.is_empty());
        assert_eq!((tracers.one_in(), tracers.lost), (0, 0));
    }

    #[test]
    fn what_a_slow_reader_loses_is_counted_and_told_once() {
        let mut tracers = Tracers::default();
        let mut reader = tracers.begin(&query(1, None), &model()).expect("a tracer");
        for _ in 0..QUEUE + 5 {
            tracers.tell(&of("web"), 1);
        }
        assert_eq!((reader.len(), tracers.lost), (QUEUE, 5));
        tracers.flush();
        for _ in 0..QUEUE {
            let line = reader.try_recv().expect("a line");
            assert!(matches!(line, TraceLine::Event(_)));
        }
        tracers.flush();
        tracers.tell(&of("web"), 1);
        assert_eq!(reader.try_recv(), Ok(TraceLine::Lost { lost: 5 }));
        assert_eq!(reader.try_recv(), Ok(TraceLine::Event(Box::new(of("web")))));
        tracers.flush();
        assert!(reader.is_empty());
        assert_eq!(tracers.lost, 5);
    }

    #[test]
    fn unknown_services_and_too_many_tracers_are_refused() {
        let mut tracers = Tracers::default();
        let error = tracers.begin(&query(1, Some("wbe")), &model());
        let error = error.expect_err("there is none");
        assert!(error.contains("wbe") && error.contains("web"), "{error}");
        let all: Vec<_> = (0..MOST)
            .map(|_| tracers.begin(&query(1, None), &model()).expect("a tracer"))
            .collect();
        assert!(tracers.begin(&query(1, None), &model()).is_err());
        drop(all);
    }

    #[test]
    fn lines_are_told_apart_by_what_they_say() {
        for line in [
            TraceLine::Event(Box::new(of("web"))),
            TraceLine::Lost { lost: 3 },
        ] {
            let text = serde_json::to_string(&line).expect("JSON");
            let back: TraceLine = serde_json::from_str(&text).expect("a line");
            assert_eq!(back, line);
        }
        let lost = serde_json::to_string(&TraceLine::Lost { lost: 3 });
        assert_eq!(lost.expect("JSON"), r#"{"lost":3}"#);
    }
}
