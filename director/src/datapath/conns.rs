//! Which flows are recorded: the flow tables, and the NAT ports of services in
//! `nat` mode, which have both sides of a flow.
//!
//! The tables are read as they lie in memory while the kernel writes them. A
//! flow that begins or ends meanwhile may be listed or not.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use director_ebpf::{
    abi::{
        flow::{self, BUSY, FlowValue, WAYS},
        mode, nat,
        nat::SPAN,
    },
    flows, ports,
};

use super::{
    Datapath, Vip,
    maps::Of,
    plain::{address, family},
    sweep::{record, seconds},
};
use crate::config::Prefix;

/// Buckets between two looks at the clock.
const BUCKETS_PER_LOOK: usize = 64;

/// What is known of a recorded flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conn {
    /// The service, with port 0 where it takes every port.
    pub vip: Vip,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub endpoint: (IpAddr, u16),
    pub state: ConnState,
    /// Seconds since it was last seen, to within eight.
    pub idle: u16,
    /// Address and port that stand for the client (`nat` mode).
    pub nat: Option<SocketAddr>,
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnState {
    /// Only its first packet was seen.
    Opening,
    Established,
    /// A side has sent FIN or RST.
    Closing,
}

impl ConnState {
    /// Name in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }

    fn new(flags: u8, closing: u8, half_open: u8) -> Self {
        if flags & closing != 0 {
            Self::Closing
        } else if flags & half_open != 0 {
            Self::Opening
        } else {
            Self::Established
        }
    }
}

/// Which flows are asked for: those to which all that is there applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnFilter {
    pub vip: Option<Vip>,
    pub source: Option<Prefix>,
    /// Services and endpoints of theirs, by address and port.
    pub endpoints: Option<HashSet<(Vip, IpAddr, u16)>>,
}

impl ConnFilter {
    fn has(&self, conn: &Conn) -> bool {
        let (ip, port) = conn.endpoint;
        self.vip.is_none_or(|vip| vip == conn.vip)
            && self.source.is_none_or(|p| p.contains(conn.source.ip()))
            && self
                .endpoints
                .as_ref()
                .is_none_or(|all| all.contains(&(conn.vip, ip, port)))
    }
}

/// How far a listing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    table: usize,
    bucket: usize,
}

/// Tables that a cursor goes through.
const TABLES: usize = 4;

impl Cursor {
    /// Whether everything was looked at.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.table == TABLES
    }
}

impl Datapath {
    /// Lists flows from `cursor` on, and moves it: about `most` of them, and
    /// not for longer than `until`.
    #[must_use]
    pub fn conns(
        &self,
        filter: &ConnFilter,
        cursor: &mut Cursor,
        most: usize,
        until: Instant,
    ) -> Vec<Conn> {
        let mut found = Vec::new();
        let now = seconds();
        while !cursor.is_at_end() {
            let length = match cursor.table {
                0 => self.maps.v4.flows.len(),
                1 => self.maps.v6.flows.len(),
                2 => self.maps.v4.nat.len(),
                _ => self.maps.v6.nat.len(),
            };
            let end = (cursor.bucket + BUCKETS_PER_LOOK).min(length);
            while cursor.bucket < end && found.len() < most {
                let mut each = |conn: Conn| {
                    if filter.has(&conn) {
                        found.push(conn);
                    }
                };
                match cursor.table {
                    0 => self.flows_in::<u32>(cursor.bucket, now, &mut each),
                    1 => self.flows_in::<[u32; 4]>(cursor.bucket, now, &mut each),
                    2 => self.ports_in::<u32>(cursor.bucket, now, &mut each),
                    _ => self.ports_in::<[u32; 4]>(cursor.bucket, now, &mut each),
                }
                cursor.bucket += 1;
            }
            if cursor.bucket == length {
                cursor.table += 1;
                cursor.bucket = 0;
            }
            if found.len() >= most || Instant::now() >= until {
                break;
            }
        }
        found
    }

    /// Address and port of an endpoint that is, or was, in use.
    pub(super) fn endpoint_at(&self, index: u32) -> Option<(IpAddr, u16)> {
        let entry = self.desired.endpoints.get(index as usize)?;
        let is_known = entry.family != 0;
        is_known.then(|| {
            (
                address(entry.address, entry.family),
                u16::from_be(entry.port),
            )
        })
    }

    /// Flows of a bucket, but for those that have a NAT port.
    fn flows_in<A: Of>(&self, index: usize, now: u16, each: &mut impl FnMut(Conn)) {
        let bucket = A::maps(&self.maps).flows.pointer(index);
        for way in 0..WAYS {
            // SAFETY: a live bucket, and `way` within it. A way that passes to
            // another flow meanwhile shows by its key.
            let (key, value, source, after) = unsafe {
                let (key, value) = record::<A>(bucket, way);
                let source = A::source(bucket, way, key);
                (key, value, source, record::<A>(bucket, way).0)
            };
            if key <= BUSY || key != after || self.is_over(value, now) {
                continue;
            }
            let Some(Some(service)) = self.desired.services.get(value.service() as usize) else {
                continue;
            };
            if service.value.mode == mode::NAT {
                continue;
            }
            let Some(endpoint) = self.endpoint_at(value.endpoint()) else {
                continue;
            };
            each(Conn {
                vip: service.vip,
                source: client::<A>(source, key),
                destination: SocketAddr::new(service.vip.address, u16::from_be(key as u16)),
                endpoint,
                state: ConnState::new(value.flags(), flow::flags::CLOSING, flow::flags::HALF_OPEN),
                idle: value.age(now),
                nat: None,
            });
        }
    }

    /// Flows of a bucket of NAT ports.
    fn ports_in<A: Of>(&self, index: usize, now: u16, each: &mut impl FnMut(Conn)) {
        const CLOSING: u8 = nat::flags::CLIENT_FIN | nat::flags::SERVER_FIN | nat::flags::RST;
        let sources = || {
            let all = self.nat_sources.iter();
            all.filter(|source| family(**source) == A::FAMILY)
        };
        let span = sources().count() * SPAN as usize;
        if span == 0 {
            return;
        }
        let plane = index / span * span;
        let bucket = A::maps(&self.maps).nat.pointer(index);
        for way in 0..WAYS {
            // SAFETY: a live bucket, and `way` within it. A way that
            // passes to another flow meanwhile shows by its key.
            let (key, value, source, after) = unsafe {
                let key = flows::key_at(bucket, way).read_volatile();
                let value = FlowValue(flows::value_at(bucket, way).read_volatile());
                let source = A::client(bucket, way, key);
                let after = flows::key_at(bucket, way).read_volatile();
                (key, value, source, after)
            };
            if key <= BUSY || key != after || ports::is_over(value, now) {
                continue;
            }
            let (source_index, port) = ports::port_of(index as u32, way, plane as u32);
            let service = self.desired.services.get(value.service() as usize);
            let (Some(Some(service)), Some(endpoint), Some(ip)) = (
                service,
                self.endpoint_at(value.endpoint()),
                sources().nth(source_index as usize),
            ) else {
                continue;
            };
            each(Conn {
                vip: service.vip,
                source: client::<A>(source, key),
                destination: SocketAddr::new(service.vip.address, service.vip.port),
                endpoint,
                state: ConnState::new(value.flags(), CLOSING, nat::flags::HALF_OPEN),
                idle: value.age(now),
                nat: Some(SocketAddr::new(*ip, port)),
            });
        }
    }
}

fn client<A: Of>(source: A, key: u64) -> SocketAddr {
    let port = u16::from_be((key >> 16) as u16);
    SocketAddr::new(address(source.widen(), A::FAMILY), port)
}
