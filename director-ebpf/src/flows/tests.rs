use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const SERVICE: u32 = 3;

/// One bucket, on memory of its own.
struct Table<A: Family> {
    bucket: Box<A::Bucket>,
    scratch: Scratch,
}

impl<A: Family> Table<A> {
    fn new() -> Self {
        Self {
            // SAFETY: any bits are a valid bucket; all zeros is an empty one.
            bucket: Box::new(unsafe { core::mem::zeroed() }),
            scratch: Scratch::default(),
        }
    }

    fn find(&mut self, source: A, port: u16) -> Option<(usize, FlowValue)> {
        let key = source.key(port, 80);
        // SAFETY: a live bucket.
        unsafe {
            find(
                &raw mut *self.bucket,
                key,
                source,
                SERVICE,
                &mut self.scratch,
            )
        };
        let way = self.scratch.way.get() as usize;
        (way < WAYS).then(|| (way, self.scratch.found()))
    }

    fn record(&mut self, source: A, port: u16, endpoint: u32, flags: u8, now: u16) -> bool {
        let value = FlowValue::new(endpoint, flags, SERVICE, now);
        let key = source.key(port, 80);
        // SAFETY: a live bucket.
        unsafe { record(&raw mut *self.bucket, key, source, value, &mut self.scratch) }
    }
}

proptest! {
    #[test]
    fn a_value_holds_what_it_was_made_of(
        endpoint in 0u32..1 << 24, flags in any::<u8>(), service in 0u32..1 << 16, now in any::<u16>(),
    ) {
        let value = FlowValue::new(endpoint, flags, service, now);
        prop_assert_eq!(value.endpoint(), endpoint);
        prop_assert_eq!(value.flags(), flags);
        prop_assert_eq!(value.service(), service);
        prop_assert_eq!(value.seen(), now);
    }

    /// What is found is always what was recorded last, in both families.
    #[test]
    fn nothing_is_found_that_was_not_recorded(
        steps in proptest::collection::vec((0u32..12, 1u16..4, 1u32..9, any::<bool>()), 1..80),
    ) {
        let mut v4 = Table::<u32>::new();
        let mut v6 = Table::<[u32; 4]>::new();
        let mut model = HashMap::new();
        for (now, (host, port, endpoint, is_first)) in (0..).zip(steps) {
            let source = 0xc000_0200 + host;
            let wide = [0x2001_0db8, 0, host, host.rotate_left(7)];
            let flags = if is_first { flags::HALF_OPEN } else { 0 };
            for is_v6 in [false, true] {
                let known = if is_v6 { v6.find(wide, port) } else { v4.find(source, port) };
                if let Some((_, value)) = known {
                    prop_assert_eq!(Some(&value.endpoint()), model.get(&(is_v6, host, port)));
                    continue;
                }
                let is_kept = if is_v6 {
                    v6.record(wide, port, endpoint, flags, now)
                } else {
                    v4.record(source, port, endpoint, flags, now)
                };
                if is_kept {
                    model.insert((is_v6, host, port), endpoint);
                }
            }
        }
    }
}

#[test]
fn a_flood_of_first_packets_pushes_out_no_established_flow() {
    let mut table = Table::<u32>::new();
    for port in 0..6 {
        assert!(table.record(1, port, 5, 0, 100));
    }
    for port in 1000..9000 {
        let now = 100 + port / 100;
        table.record(2, port, 6, flags::HALF_OPEN, now);
    }
    for port in 0..6 {
        assert_eq!(table.find(1, port).expect("kept").1.endpoint(), 5);
    }
}

#[test]
fn a_full_bucket_of_established_flows_takes_no_first_packet_but_an_established_one() {
    let mut table = Table::<u32>::new();
    for port in 0..8 {
        assert!(table.record(1, port, 5, 0, 100 + port));
    }
    assert!(!table.record(2, 1, 6, flags::HALF_OPEN, 200));
    assert!(table.record(2, 1, 6, 0, 200));
    // The one that was silent for longest gave way.
    assert!(table.find(1, 0).is_none());
    assert!(table.find(1, 1).is_some());
}

#[test]
fn what_is_over_gives_way_first() {
    let mut table = Table::<u32>::new();
    for port in 0..8 {
        let flags = if port == 3 { flags::CLOSING } else { 0 };
        table.record(1, port, 5, flags, 100);
    }
    let later = 100 + CLOSED_SECONDS + 1;
    assert!(table.record(2, 1, 6, flags::HALF_OPEN, later));
    assert!(table.find(1, 3).is_none());
}

#[test]
fn a_second_packet_makes_a_flow_established() {
    let first = FlowValue::new(5, flags::HALF_OPEN, SERVICE, 100);
    let mut after = FlowValue::default();
    assert!(refreshed(first, false, 100, &mut after));
    assert_eq!((after.flags(), after.endpoint()), (0, 5));
    // Then it is left alone for a while.
    assert!(!refreshed(after, false, 101, &mut FlowValue::default()));
    assert!(refreshed(after, false, 120, &mut FlowValue::default()));
    assert!(refreshed(after, true, 101, &mut after));
    assert_eq!(after.flags(), flags::CLOSING);
}

#[test]
fn half_of_the_ways_in_use_leave_nearly_every_flow_its_place() {
    const BUCKETS: usize = 1 << 14;
    // SAFETY: any bits are a valid bucket.
    let empty: Bucket4 = unsafe { core::mem::zeroed() };
    let mut table = vec![empty; BUCKETS];
    let mut scratch = Scratch::default();
    let flows = (BUCKETS * WAYS / 2) as u32;
    let mut lost = 0;
    for flow in 1..=flows {
        let hash = steer::mix(u64::from(flow));
        let bucket = &raw mut table[bucket_of(hash, 0x9e37_79b1, BUCKETS as u32) as usize];
        let value = FlowValue::new(5, flags::HALF_OPEN, SERVICE, 100);
        // SAFETY: a live bucket.
        let is_kept = unsafe { record(bucket, flow.key(1, 80), flow, value, &mut scratch) };
        lost += u32::from(!is_kept);
        let established = FlowValue::new(5, 0, SERVICE, 100);
        if is_kept {
            // SAFETY: as above, and `record` has left the way there.
            unsafe { update::<u32>(bucket, scratch.way.get() as usize, established) };
        }
    }
    assert!(lost * 100 < flows, "{lost} of {flows}");
}
