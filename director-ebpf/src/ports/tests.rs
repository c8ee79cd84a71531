use std::collections::HashSet;

use super::*;

const SERVER: [u32; 4] = [0x0b01_12c6, 0, 0, 0];
const PORT: u16 = 0x901f;
const ENDPOINT: u32 = 7;
const SEED: u32 = 0x9e37_79b1;

/// A table of one plane.
struct Table {
    buckets: Vec<Ports4>,
    sources: u32,
    scratch: Scratch,
}

impl Table {
    fn new(sources: u32) -> Self {
        // SAFETY: any bits are a valid bucket; all zeros is an empty one.
        let empty: Ports4 = unsafe { core::mem::zeroed() };
        Self {
            buckets: vec![empty; (sources * SPAN) as usize],
            sources,
            scratch: Scratch::default(),
        }
    }

    fn bucket(&mut self, hash: u64, n: u32) -> (u32, *mut Ports4) {
        let plane = plane(SERVER, PORT, self.sources, 1);
        let index = candidate(hash, SEED, n, plane, self.sources);
        (index, &raw mut self.buckets[index as usize])
    }

    fn find(&mut self, client: u32, port: u16) -> Option<(u32, u16)> {
        let hash = mix(u64::from(client) << 16 | u64::from(port));
        for n in 0..CANDIDATES {
            let (index, bucket) = self.bucket(hash, n);
            let key = key(client, port, 1);
            // SAFETY: a live bucket.
            unsafe { find::<u32>(bucket, key, client, ENDPOINT, &mut self.scratch) };
            let way = self.scratch.way.get() as usize;
            if way < WAYS {
                return Some(port_of(index, way, 0));
            }
        }
        None
    }

    /// As the program does it.
    fn take(&mut self, client: u32, port: u16, flags: u8, now: u16) -> Option<(u32, u16)> {
        let hash = mix(u64::from(client) << 16 | u64::from(port));
        no_room(&mut self.scratch);
        for n in 0..CANDIDATES {
            let (index, bucket) = self.bucket(hash, n);
            // SAFETY: a live bucket.
            unsafe { room(bucket, index, now, &mut self.scratch) };
            if n == 1 && self.scratch.best.get() > 0 {
                break;
            }
        }
        let s = &self.scratch;
        let (way, held) = if s.best.get() == 0 {
            (s.other_way.get() as usize, s.other_held.get())
        } else {
            (s.way.get() as usize, s.held.get())
        };
        if way >= WAYS {
            return None;
        }
        let index = s.bucket.get() as u32;
        let bucket = &raw mut self.buckets[index as usize];
        let value = FlowValue::new(ENDPOINT, flags, 1, now);
        let key = key(client, port, 1);
        // SAFETY: a live bucket.
        unsafe { take(bucket, way, held, key, client, value, WayBack::default()) }
            .then(|| port_of(index, way, 0))
    }
}

#[test]
fn fifty_thousand_flows_to_one_server_have_a_port_each() {
    let mut table = Table::new(1);
    let mut taken = HashSet::new();
    for flow in 0..50_000 {
        let (client, port) = (0xc000_0200 + flow / 1000, 1024 + (flow % 1000) as u16);
        let (source, nat_port) = table.take(client, port, 0, 100).expect("a port");
        assert_eq!(source, 0);
        assert!(nat_port >= 1024);
        assert!(taken.insert(nat_port), "{nat_port} was given twice");
    }
    for flow in 0..50_000 {
        let (client, port) = (0xc000_0200 + flow / 1000, 1024 + (flow % 1000) as u16);
        let (_, nat_port) = table.find(client, port).expect("found again");
        assert!(taken.remove(&nat_port));
    }
}

#[test]
fn ports_come_back_after_close_and_time_out() {
    let mut table = Table::new(1);
    let all = (SPAN - FIRST) * WAYS as u32;
    let fill = |table: &mut Table, first: u32, flags, now| {
        let flows = first..first + 4 * all;
        flows
            .filter(|flow| table.take(*flow, 1, flags, now).is_some())
            .count()
    };
    let closed = flags::CLIENT_FIN | flags::SERVER_FIN;
    assert_eq!(fill(&mut table, 1, closed, 100), all as usize);
    assert_eq!(fill(&mut table, 1 << 24, 0, 100 + CLOSED_SECONDS), 0);
    let after = 101 + CLOSED_SECONDS;
    assert_eq!(fill(&mut table, 2 << 24, 0, after), all as usize);
    assert_eq!(fill(&mut table, 3 << 24, 0, after + TCP_IDLE_SECONDS), 0);
    let idle = after + TCP_IDLE_SECONDS + 1;
    assert_eq!(fill(&mut table, 4 << 24, flags::UDP, idle), all as usize);
    let idle = idle + UDP_IDLE_SECONDS + 1;
    assert_eq!(fill(&mut table, 5 << 24, 0, idle), all as usize);
}

#[test]
fn a_flood_that_takes_all_ports_holds_them_for_seconds_only() {
    let mut table = Table::new(1);
    for flow in 1..400_000 {
        table.take(flow, 1, flags::HALF_OPEN, 100);
    }
    assert!(table.take(1 << 30, 1, flags::HALF_OPEN, 100).is_none());
    let later = 101 + PRESSED_SECONDS;
    assert!(table.take(1 << 30, 1, flags::HALF_OPEN, later).is_some());
}

#[test]
fn a_port_names_its_place_and_the_other_way_round() {
    for plane in [0, 2 * SPAN] {
        for (source, port) in [(0, 1024), (1, 65_535), (1, 1031), (0, 40_000)] {
            let (bucket, way) = place_of(source, port, plane);
            assert_eq!(port_of(bucket, way, plane), (source, port));
        }
    }
}
