//! Any sequence of packets and changes: a flow stays with its endpoint while
//! that one lives, and no packet goes to one that is dead.

use std::{cell::UnsafeCell, collections::HashMap};

use director_ebpf::{
    abi::{
        Endpoint, Service, Slot, TCP, UDP,
        flow::{Bucket4, Bucket6},
        service_flags, state, track,
    },
    cause::Cause,
    flows::Family,
    parse::{Packet, tcp_flags},
    scratch::Scratch,
    steer::{self, Tables, picked},
};

/// Endpoints, from index 1 on.
const ENDPOINTS: u32 = 4;
/// Flows: fewer than a bucket has ways, so that none pushes another out.
const FLOWS: u8 = 6;

/// One slot, one bucket.
struct World<A: Family> {
    endpoints: [Endpoint; ENDPOINTS as usize + 1],
    slot: Slot,
    bucket: UnsafeCell<A::Bucket>,
    now: u16,
}

impl<A: Family> Tables<A> for World<A> {
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        self.endpoints.get(index as usize)
    }
    fn slot(&self, _: &Service, _: u32) -> Option<Slot> {
        Some(self.slot)
    }
    fn bucket(&self, _: u32) -> Option<*mut A::Bucket> {
        Some(self.bucket.get())
    }
    fn now(&self) -> u16 {
        self.now
    }
}

impl<A: Family> World<A> {
    fn new(bucket: A::Bucket) -> Self {
        let endpoint = Endpoint {
            generation: 1,
            state: state::ACTIVE,
            family: 4,
            ..Endpoint::UNUSED
        };
        let mut endpoints = [endpoint; ENDPOINTS as usize + 1];
        endpoints[0].state = state::UNUSED;
        Self {
            endpoints,
            slot: Slot::new(1, 1, false),
            bucket: UnsafeCell::new(bucket),
            now: 1000,
        }
    }

    fn state(&self, endpoint: u32) -> u8 {
        self.endpoints[endpoint as usize].state
    }

    fn is_alive(&self, endpoint: u32) -> bool {
        steer::is_alive(&self.endpoints[endpoint as usize])
    }

    /// Gives an endpoint another state, and the slot to the first that is
    /// active from `preferred` on, as a plan does. False, and nothing done,
    /// where none would be.
    fn change(&mut self, endpoint: u32, state: u8, preferred: u32, keeps_dead: bool) -> bool {
        let before = self.state(endpoint);
        self.endpoints[endpoint as usize].state = state;
        let next = (0..ENDPOINTS).map(|n| (preferred + n - 1) % ENDPOINTS + 1);
        let Some(owner) = next.into_iter().find(|n| self.state(*n) == state::ACTIVE) else {
            self.endpoints[endpoint as usize].state = before;
            return false;
        };
        let base = self.slot.base();
        let base = if keeps_dead || self.is_alive(base) {
            base
        } else {
            owner
        };
        let is_tracked = self.slot.is_tracked() || base != owner;
        self.slot = Slot::new(owner, base, is_tracked);
        true
    }
}

pub fn check(input: &[u8]) {
    let Some((how, steps)) = input.split_first() else {
        return;
    };
    if how & 1 == 0 {
        let bucket = Bucket4 { ways: [[0; 2]; 8] };
        let sources = |n: u8| u32::from_ne_bytes([192, 0, 2, 1 + n]);
        run(*how, steps, World::<u32>::new(bucket), sources);
    } else {
        let bucket = Bucket6 {
            ways: [[0; 2]; 8],
            sources: [[0; 4]; 8],
        };
        let sources = |n: u8| [0x2001_0db8_u32.to_be(), 0, 0, u32::from(n)];
        run(*how, steps, World::<[u32; 4]>::new(bucket), sources);
    }
}

fn run<A: Family>(how: u8, steps: &[u8], mut world: World<A>, source: impl Fn(u8) -> A) {
    let resets = how & 2 != 0;
    let protocol = if how & 8 == 0 { TCP } else { UDP };
    let service = Service {
        table_size: 1,
        buckets: 1,
        seed: 1,
        // Flows without a first packet that can be told must be recorded, and
        // services of UDP are configured so.
        track: if how & 4 == 0 && protocol == TCP {
            track::AUTO
        } else {
            track::ALWAYS
        },
        flags: if resets { service_flags::RESET } else { 0 },
        ..Service::default()
    };
    // Where each flow was sent last.
    let mut owners = HashMap::<u8, u32>::new();
    for step in steps.chunks_exact(2) {
        let (flow, endpoint) = (step[1] % FLOWS, u32::from(step[1]) % ENDPOINTS + 1);
        let preferred = u32::from(step[1] / 8) % ENDPOINTS + 1;
        let flags = match step[0] % 9 {
            0 => tcp_flags::SYN,
            1 | 2 => tcp_flags::ACK,
            3 => tcp_flags::ACK | tcp_flags::FIN,
            4 => tcp_flags::RST,
            5 => {
                // Seconds, far less than any record lasts.
                world.now = world.now.wrapping_add(u16::from(step[1] & 7));
                continue;
            }
            other => {
                let state = [state::ACTIVE, state::DRAINING, state::DEAD][usize::from(other - 6)];
                if world.change(endpoint, state, preferred, resets) && state == state::DEAD {
                    owners.retain(|_, owner| *owner != endpoint);
                }
                continue;
            }
        };
        let packet = Packet {
            source: source(flow),
            destination: source(200),
            source_port: 40_000_u16.to_be(),
            destination_port: 80_u16.to_be(),
            protocol,
            tcp_flags: if protocol == TCP { flags } else { 0 },
            ..Packet::default()
        };
        packet_of(&world, &service, &packet, flow, &mut owners);
    }
}

fn packet_of<A: Family>(
    world: &World<A>,
    service: &Service,
    packet: &Packet<A>,
    flow: u8,
    owners: &mut HashMap<u8, u32>,
) {
    let mut scratch = Scratch::default();
    let answer = steer::pick(world, service, packet, &mut scratch);
    let pick = scratch.picked();
    let known = owners.get(&flow).copied();
    if answer == Err(Cause::Reset) {
        assert!(service.flags & service_flags::RESET != 0);
        assert_eq!(known, None, "flow {flow} was reset, its endpoint lives");
        return;
    }
    assert_eq!(answer, Ok(()));
    assert!(!pick.is(picked::LOST), "there is room");
    assert!(world.is_alive(pick.endpoint), "to {}", pick.endpoint);
    if packet.is_syn() {
        assert_eq!(world.state(pick.endpoint), state::ACTIVE);
    } else if let Some(owner) = known {
        assert_eq!(pick.endpoint, owner, "flow {flow} moved");
    }
    owners.insert(flow, pick.endpoint);
}
