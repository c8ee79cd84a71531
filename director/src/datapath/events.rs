//! `EVENTS`: the ring buffer of sampled flow events.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use director_core::Protocol;
use director_ebpf::abi::{
    UDP,
    event::{FlowEvent, kind},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{Datapath, Vip, maps::typed, plain::address, sweep::monotonic};

/// The reading end of the ring buffer.
pub struct Events(AsyncFd<RingBuf<MapData>>);

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It was placed by the table.
    Placed,
    /// It left a dead endpoint for another.
    Moved,
    /// It was answered with RST, as its endpoint is dead.
    Reset,
}

impl Happened {
    /// Name in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Moved => "moved",
            Self::Reset => "reset",
        }
    }
}

/// A flow event in the terms of the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How long ago it was.
    pub age: Duration,
    pub happened: Happened,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
    /// TCP flags of the packet, as in its header.
    pub tcp_flags: u8,
    /// `None` where the service was removed meanwhile.
    pub vip: Option<Vip>,
    /// `None` where there is none, or it was removed meanwhile.
    pub endpoint: Option<(IpAddr, u16)>,
}

impl Datapath {
    /// Takes the reading end of the ring buffer, once. To be called within a
    /// runtime of `tokio`.
    ///
    /// # Errors
    /// When it was taken before, or cannot be mapped.
    pub fn events(&mut self) -> Result<Events> {
        let ring = typed(&mut self.bpf, "EVENTS")?;
        // SAFETY: the ring owns its descriptor for as long as it lives, and never
        // gives it away.
        let watched = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Events(
            watched
                .map_err(io::Error::from)
                .context("watching EVENTS")?,
        ))
    }

    /// Says an event in the terms of the services.
    #[must_use]
    pub fn tell(&self, event: &FlowEvent) -> Told {
        let at = |words, port| SocketAddr::new(address(words, event.family), u16::from_be(port));
        let service = self.desired.services.get(event.service as usize);
        let service = service.and_then(Option::as_ref);
        Told {
            age: monotonic().saturating_sub(Duration::from_nanos(event.time)),
            happened: match event.kind {
                kind::MOVED => Happened::Moved,
                kind::RESET => Happened::Reset,
                _ => Happened::Placed,
            },
            source: at(event.source, event.source_port),
            destination: at(event.destination, event.destination_port),
            protocol: if event.protocol == UDP {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            tcp_flags: event.tcp_flags,
            vip: service.map(|service| service.vip),
            endpoint: self.endpoint_at(event.endpoint),
        }
    }
}

impl Events {
    /// Waits for events and takes up to `most`. Nothing is lost where the
    /// caller stops waiting.
    ///
    /// # Errors
    /// When the ring buffer cannot be waited for.
    pub async fn read(&mut self, most: usize) -> io::Result<Vec<FlowEvent>> {
        let mut guard = self.0.readable_mut().await?;
        let events = take(guard.get_inner_mut(), most);
        if events.len() < most {
            guard.clear_ready();
        }
        Ok(events)
    }

    /// Forgets the events that nobody has read.
    pub fn discard(&mut self) {
        while self.0.get_mut().next().is_some() {}
    }
}

fn take(ring: &mut RingBuf<MapData>, most: usize) -> Vec<FlowEvent> {
    let mut events = Vec::new();
    while events.len() < most
        && let Some(item) = ring.next()
    {
        if item.len() >= size_of::<FlowEvent>() {
            // SAFETY: as many bytes are there, and any of them make an event.
            events.push(unsafe { item.as_ptr().cast::<FlowEvent>().read_unaligned() });
        }
    }
    events
}
