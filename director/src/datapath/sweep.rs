//! Flow records over time: what is over is forgotten, slots without records
//! are no longer looked up, and indices of endpoints that nothing names any
//! more may be given away again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use director_ebpf::{
    abi::{
        Slot, TCP,
        flow::{BUSY, EMPTY, FlowValue, WAYS},
    },
    flows::{self, Family},
    parse::Packet,
    steer,
};

use super::{
    Datapath,
    desired::protocol_value,
    maps::Of,
    memory::wait_for_readers,
    plain::wide,
    slots,
};

/// Buckets looked at per call: about a millisecond's worth.
const SLICE: usize = 16_384;

/// How far the round through the tables has come.
#[derive(Default)]
pub struct Sweep {
    next4: usize,
    next6: usize,
    /// When the round began.
    began: Option<Instant>,
    /// Slots with records, by service.
    live: HashMap<u32, HashSet<u32>>,
    /// Records found in this round so far.
    records: u64,
    /// Records found in the last whole round.
    pub total: u64,
}

impl Datapath {
    /// Looks at the next slice of the flow tables; to be called every few
    /// seconds. At the end of a round, slots whose last change is longer ago
    /// than `hold` are settled, and those without records are no longer looked
    /// up.
    pub fn sweep(&mut self, hold: Duration) {
        let mut sweep = std::mem::take(&mut self.sweep);
        let began = *sweep.began.get_or_insert_with(Instant::now);
        let now = seconds();
        let buckets4 = self.maps.v4.flows.len();
        let buckets6 = self.maps.v6.flows.len();
        // Both tables in about as many calls.
        let step4 = SLICE.max(buckets4 / 64);
        let step6 = SLICE.max(buckets6 / 64);
        let end4 = (sweep.next4 + step4).min(buckets4);
        let end6 = (sweep.next6 + step6).min(buckets6);
        self.look::<u32>(sweep.next4..end4, now, &mut sweep);
        self.look::<[u32; 4]>(sweep.next6..end6, now, &mut sweep);
        (sweep.next4, sweep.next6) = (end4, end6);
        if end4 == buckets4 && end6 == buckets6 {
            self.settle(hold, began, &sweep.live);
            sweep = Sweep {
                total: sweep.records,
                ..Sweep::default()
            };
        }
        self.sweep = sweep;
    }

    /// Flow records found in the last whole round.
    pub fn records(&self) -> u64 {
        self.sweep.total
    }

    fn look<A: Of>(&self, buckets: std::ops::Range<usize>, now: u16, sweep: &mut Sweep) {
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
                sweep.records += 1;
                // SAFETY: as above.
                let source = unsafe { A::source(bucket, way, key) };
                if let Some(slot) = self.slot_of(source, key, value) {
                    sweep.live.entry(value.service()).or_default().insert(slot);
                }
            }
        }
    }

    fn is_over(&self, value: FlowValue, now: u16) -> bool {
        let Some(Some(service)) = self.desired.services.get(value.service() as usize) else {
            return true;
        };
        let is_udp = protocol_value(service.vip.protocol) != TCP;
        flows::is_over(value, now) || (is_udp && value.age(now) > service.value.idle)
    }

    /// Slot of a recorded flow.
    fn slot_of<A: Of>(&self, source: A, key: u64, value: FlowValue) -> Option<u32> {
        let service = self.desired.services.get(value.service() as usize)?.as_ref()?;
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
                wait_for_readers();
            }
            self.desired.services[index] = Some(service);
        }
    }

    /// Forgets every record that names a retired endpoint, so that its index
    /// may be given away.
    pub(super) fn recycle(&mut self) {
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
                    if key > BUSY && is_retired(value) && flows::claim(flows::key_at(ports, way), key) {
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

/// Seconds of the clock that the program uses, modulo 65,536.
pub(super) fn seconds() -> u16 {
    let now = nix::time::ClockId::CLOCK_MONOTONIC.now();
    now.map_or(0, |now| now.tv_sec() as u16)
}
