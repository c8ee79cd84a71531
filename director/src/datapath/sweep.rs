//! Flow records over time: what is over is forgotten, slots without records
//! are no longer looked up, and indices of endpoints that nothing names any
//! more may be given away again.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    time::{Duration, Instant},
};

use director_ebpf::{
    abi::{
        Slot, TCP,
        flow::{BUSY, EMPTY, FlowValue, WAYS},
        nat,
    },
    flows::{self, Family},
    parse::Packet,
    ports, steer,
};

use super::{
    Datapath, desired::protocol_value, maps::Of, memory::wait_for_readers, plain::wide, slots,
};

/// How often [`Datapath::sweep`] is to be called.
pub const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// Calls of a round through large tables: a minute's worth.
pub const ROUND_CALLS: usize = 240;
/// Buckets looked at per call, at least: a fraction of a millisecond's worth.
const SLICE: usize = 2_048;

/// How far the round through the tables has come.
#[derive(Default)]
pub struct Sweep {
    /// Calls of this round so far.
    calls: usize,
    /// When the round began.
    began: Option<Instant>,
    /// Slots with records, by service.
    live: HashMap<u32, HashSet<u32>>,
    /// Found in this round so far, by family.
    found: [Found; 2],
    /// Found in the last whole round.
    last: [Found; 2],
}

#[derive(Clone, Copy, Default)]
struct Found {
    flows: u64,
    nat_ports: u64,
}

/// How full the tables of a family are, as the last whole round found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// 4 or 6.
    pub family: u8,
    pub flows: u64,
    /// Flows that there is room for, were they spread evenly.
    pub flow_capacity: u64,
    pub nat_ports: u64,
    /// 0 where no service of the family is in `nat` mode.
    pub nat_capacity: u64,
}

impl Datapath {
    /// Looks at the next slice of the tables; to be called every
    /// [`SWEEP_EVERY`]. At the end of a round, slots whose last change is longer
    /// ago than `hold` are settled, and those without records are no longer
    /// looked up.
    pub fn sweep(&mut self, hold: Duration) {
        let mut sweep = std::mem::take(&mut self.sweep);
        let began = *sweep.began.get_or_insert_with(Instant::now);
        let now = seconds();
        let is_end4 = self.look_at::<u32>(now, &mut sweep);
        let is_end6 = self.look_at::<[u32; 4]>(now, &mut sweep);
        sweep.calls += 1;
        if is_end4 && is_end6 {
            self.settle(hold, began, &sweep.live);
            sweep = Sweep {
                last: sweep.found,
                ..Sweep::default()
            };
        }
        self.sweep = sweep;
    }

    /// How full the tables are, IPv4's first.
    #[must_use]
    pub fn table_use(&self) -> [TableUse; 2] {
        [self.table_use_of::<u32>(), self.table_use_of::<[u32; 4]>()]
    }

    fn table_use_of<A: Of>(&self) -> TableUse {
        let maps = A::maps(&self.maps);
        let found = self.sweep.last[place::<A>()];
        let spans = maps.nat.len() / nat::SPAN as usize;
        let usable = (nat::SPAN - nat::FIRST) as usize;
        TableUse {
            family: A::FAMILY,
            flows: found.flows,
            flow_capacity: (maps.flows.len() * WAYS) as u64,
            nat_ports: found.nat_ports,
            nat_capacity: (spans * usable * WAYS) as u64,
        }
    }

    /// Looks at the next slice of a family's tables. Returns whether it was the
    /// last.
    fn look_at<A: Of>(&self, now: u16, sweep: &mut Sweep) -> bool {
        let maps = A::maps(&self.maps);
        let (flows, nat) = (maps.flows.len(), maps.nat.len());
        let calls = sweep.calls;
        self.look::<A>(slice(calls, flows), now, sweep);
        let ports = self.look_at_ports::<A>(slice(calls, nat), now);
        sweep.found[place::<A>()].nat_ports += ports;
        slice(calls, flows).end == flows && slice(calls, nat).end == nat
    }

    /// Counts the ports that are taken.
    fn look_at_ports<A: Of>(&self, buckets: Range<usize>, now: u16) -> u64 {
        let table = &A::maps(&self.maps).nat;
        let mut taken = 0;
        for index in buckets {
            let bucket = table.pointer(index);
            for way in 0..WAYS {
                // SAFETY: a live bucket, and `way` within it.
                let (key, value) = unsafe {
                    let value = FlowValue(flows::value_at(bucket, way).read_volatile());
                    (flows::key_at(bucket, way).read_volatile(), value)
                };
                taken += u64::from(key > BUSY && !ports::is_over(value, now));
            }
        }
        taken
    }

    fn look<A: Of>(&self, buckets: Range<usize>, now: u16, sweep: &mut Sweep) {
        let table = &A::maps(&self.maps).flows;
        for index in buckets {
            let bucket = table.pointer(index);
            for way in 0..WAYS {
                // SAFETY: a live bucket, and `way` within it.
                let (key, value) = unsafe { record::<A>(bucket, way) };
                if key == EMPTY || key == BUSY {
                    continue;
                }
                if self.is_over(value, now) {
                    // SAFETY: as above.
                    unsafe { forget::<A>(bucket, way, key, |value| self.is_over(value, now)) };
                    continue;
                }
                sweep.found[place::<A>()].flows += 1;
                // SAFETY: as above.
                let source = unsafe { A::source(bucket, way, key) };
                if let Some(slot) = self.slot_of(source, key, value) {
                    sweep.live.entry(value.service()).or_default().insert(slot);
                }
            }
        }
    }

    pub(super) fn is_over(&self, value: FlowValue, now: u16) -> bool {
        let Some(Some(service)) = self.desired.services.get(value.service() as usize) else {
            return true;
        };
        let is_udp = protocol_value(service.vip.protocol) != TCP;
        flows::is_over(value, now) || (is_udp && value.age(now) > service.value.idle)
    }

    /// Slot of a recorded flow.
    fn slot_of<A: Of>(&self, source: A, key: u64, value: FlowValue) -> Option<u32> {
        let service = self
            .desired
            .services
            .get(value.service() as usize)?
            .as_ref()?;
        let packet = Packet {
            source,
            destination: A::narrow(wide(service.vip.address)),
            source_port: (key >> 16) as u16,
            destination_port: key as u16,
            protocol: protocol_value(service.vip.protocol),
            ..Packet::default()
        };
        let hash = steer::slot_hash(&service.value, &packet, steer::hash(&packet));
        Some(steer::slot(hash, self.table_size as u32))
    }

    fn settle(&mut self, hold: Duration, began: Instant, live: &HashMap<u32, HashSet<u32>>) {
        let none = HashSet::new();
        for index in 0..self.desired.services.len() {
            let Some(mut service) = self.desired.services[index].take() else {
                continue;
            };
            let is_over = |at: Instant| at.elapsed() >= hold;
            let mut slots = service.slots.clone();
            if service.changed.is_some_and(is_over) {
                slots = slots::settled(&slots);
                service.changed = None;
            } else if service.changed.is_none_or(|at| at < began) {
                let live = live.get(&(index as u32)).unwrap_or(&none);
                slots = slots
                    .iter()
                    .enumerate()
                    .map(|(slot, it)| {
                        let is_idle = it.current() == it.base() && !live.contains(&(slot as u32));
                        Slot::new(it.current(), it.base(), it.is_tracked() && !is_idle)
                    })
                    .collect();
            }
            let changed = service.changed;
            if service.slots != slots {
                self.flip(index, &mut service, slots);
                service.changed = changed;
            }
            self.desired.services[index] = Some(service);
        }
    }

    /// Forgets every record that names a retired endpoint, so that its index
    /// may be given away.
    pub(super) fn recycle(&mut self) {
        // To look for nothing in all of a large table takes a tenth of a second.
        if self.desired.retired.is_empty() {
            return;
        }
        // A program that still saw such an endpoint alive may be about to
        // record it.
        wait_for_readers();
        self.purge::<u32>();
        self.purge::<[u32; 4]>();
        self.desired.retired.clear();
    }

    fn purge<A: Of>(&self) {
        let maps = A::maps(&self.maps);
        let is_retired =
            |value: FlowValue| self.desired.retired.contains(&(value.endpoint() as usize));
        for index in 0..maps.flows.len() {
            let bucket = maps.flows.pointer(index);
            for way in 0..WAYS {
                // SAFETY: a live bucket, and `way` within it.
                unsafe {
                    let (key, value) = record::<A>(bucket, way);
                    if key > BUSY && is_retired(value) {
                        forget::<A>(bucket, way, key, is_retired);
                    }
                }
            }
        }
        for index in 0..maps.nat.len() {
            let ports = maps.nat.pointer(index);
            for way in 0..WAYS {
                // SAFETY: a live bucket, and `way` within it.
                unsafe {
                    let key = flows::key_at(ports, way).read_volatile();
                    let value = FlowValue(flows::value_at(ports, way).read_volatile());
                    if key > BUSY
                        && is_retired(value)
                        && flows::claim(flows::key_at(ports, way), key)
                    {
                        flows::key_at(ports, way).write_volatile(EMPTY);
                    }
                }
            }
        }
    }
}

/// Reads a way.
///
/// # Safety
/// `bucket` points to a live bucket, and `way` is less than [`WAYS`].
pub(super) unsafe fn record<A: Family>(bucket: *mut A::Bucket, way: usize) -> (u64, FlowValue) {
    // SAFETY: as the caller promises.
    unsafe {
        (
            flows::key_at(bucket, way).read_volatile(),
            FlowValue(flows::value_at(bucket, way).read_volatile()),
        )
    }
}

/// Empties a way, unless its flow has come to life meanwhile.
///
/// # Safety
/// As [`record`].
unsafe fn forget<A: Family>(
    bucket: *mut A::Bucket,
    way: usize,
    key: u64,
    is_over: impl Fn(FlowValue) -> bool,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let at = flows::key_at(bucket, way);
        if !flows::claim(at, key) {
            return;
        }
        let value = FlowValue(flows::value_at(bucket, way).read_volatile());
        at.write_volatile(if is_over(value) { EMPTY } else { key });
    }
}

/// The `call`th slice of a table of this many buckets.
fn slice(call: usize, buckets: usize) -> Range<usize> {
    let step = buckets.div_ceil(ROUND_CALLS).max(SLICE);
    (call * step).min(buckets)..((call + 1) * step).min(buckets)
}

fn place<A: Of>() -> usize {
    usize::from(A::FAMILY == 6)
}

/// The clock that the program uses.
pub(super) fn monotonic() -> Duration {
    let now = nix::time::ClockId::CLOCK_MONOTONIC.now();
    now.map_or(Duration::ZERO, Duration::from)
}

/// Its seconds, modulo 65,536.
pub(super) fn seconds() -> u16 {
    monotonic().as_secs() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_a_table_once_within_a_minute() {
        for buckets in [1, SLICE, SLICE + 1, 1 << 18, (1 << 22) + 7] {
            let mut next = 0;
            let mut calls = 0;
            while next < buckets {
                let slice = slice(calls, buckets);
                assert_eq!(slice.start, next);
                assert!(slice.end > next);
                next = slice.end;
                calls += 1;
            }
            assert_eq!(next, buckets);
            assert!(SWEEP_EVERY * calls as u32 <= Duration::from_secs(60));
            assert!(slice(calls, buckets).is_empty());
        }
    }
}
