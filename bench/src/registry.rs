//! `cargo xtask bench registry`: user space says where a flow goes, on one core.
//!
//! Flows come in an order that caches cannot foresee, each for a service that
//! its number says; the service is found by address, port and protocol.
//!
//! Services are found as in the kernel, by their hints.
//!
//! - `plan-…`: hash, slot and endpoint of the plan that `director-core` made.
//! - `steer-…`: by the code that the kernel runs (`steer::pick`), on tables as
//!   there.
//! - `…-1`: one service with 6 endpoints; `…-1k`: a thousand with 10 each, whose
//!   tables have 16,381 slots, as by default; `…-1k-small`: with 1,021. The
//!   floor is that of one service.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use director_core::{EndpointState, PlannedEndpoint, ServicePlan, TableSize, table};
use director_ebpf::{
    abi::{self, Endpoint, Entry, HINTS, Service, ServiceKey, Slot, TCP, hint_of, mode, state},
    bench::{HEADERS, Plan, flow_of},
    parse::Packet,
    scratch::Scratch,
    steer::{self, Tables},
};

use crate::{
    cpu::{pin_to_last, thread_time},
    report::Row,
};

/// Flows that picks go round, a power of two: more than caches hold.
const FLOWS: u32 = 1 << 22;

/// Runs every case in each round and returns the rows.
///
/// # Errors
/// When this cannot stay on one CPU.
pub fn run(rounds: u32, picks: u32) -> Result<Vec<Row>> {
    pin_to_last()?;
    let sizes = [
        ("1", Registry::new(1, 6, 16_381)?),
        ("1k", Registry::new(1000, 10, 16_381)?),
        ("1k-small", Registry::new(1000, 10, 1021)?),
    ];
    let mut figures = vec![(Vec::new(), Vec::new()); sizes.len()];
    for round in 0..=rounds {
        for ((_, registry), (plan, steer)) in sizes.iter().zip(&mut figures) {
            let by_plan = rate(picks, |packet| registry.by_plan(packet))?;
            let by_steer = rate(picks, |packet| registry.by_steer(packet))?;
            // The first round warms caches and clocks.
            if round > 0 {
                plan.push(by_plan);
                steer.push(by_steer);
            }
        }
    }
    let [(plan_1, steer_1), ..] = figures.as_slice() else {
        return Ok(Vec::new());
    };
    let rows = sizes
        .iter()
        .zip(&figures)
        .flat_map(|((name, _), (plan, steer))| {
            let row = |how, values: &[f64], floor, floors: &[f64]| {
                let mut row = Row::new("registry", &format!("{how}-{name}"), "picks/s", values);
                row.against_floor(floor, values, floors);
                row
            };
            [
                row("plan", plan, "plan-1", plan_1),
                row("steer", steer, "steer-1", steer_1),
            ]
        });
    Ok(rows.collect())
}

/// Picks a second of this thread's CPU time.
fn rate(picks: u32, pick: impl Fn(&Packet<u32>) -> Option<u32>) -> Result<f64> {
    let order = Plan {
        headers: [0; HEADERS],
        source_offset: 0,
        port_offset: 0,
        mask: FLOWS - 1,
        is_random: 1,
    };
    let start = thread_time()?;
    let mut missed = 0_u32;
    for turn in 0..u64::from(picks) {
        let (source, source_port) = flow_of(&order, turn);
        let packet = Packet {
            source,
            source_port,
            destination: steer::mix(turn) as u32,
            protocol: TCP,
            ..Packet::default()
        };
        missed += u32::from(black_box(pick(black_box(&packet))).is_none());
    }
    let took: Duration = thread_time()?.saturating_sub(start);
    anyhow::ensure!(missed == 0, "{missed} of {picks} flows were sent nowhere");
    Ok(f64::from(picks) / took.as_secs_f64())
}

/// Services, their tables and endpoints, in both forms.
struct Registry {
    vips: Vec<(u32, u16)>,
    plans: Vec<ServicePlan>,
    /// Index of each service.
    places: HashMap<(u32, u16, u8), u32>,
    hints: Vec<u32>,
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    endpoints: Vec<Endpoint>,
}

impl Registry {
    fn new(services: u32, endpoints: u32, table_size: u32) -> Result<Self> {
        let size = TableSize::new(table_size)?;
        let mut registry = Self {
            vips: Vec::new(),
            plans: Vec::new(),
            places: HashMap::new(),
            hints: vec![0; HINTS as usize],
            entries: Vec::new(),
            slots: Vec::new(),
            endpoints: vec![entry_of(0, state::UNUSED)],
        };
        for index in 0..services {
            registry.add(index, endpoints, size)?;
        }
        Ok(registry)
    }

    fn add(&mut self, index: u32, endpoints: u32, size: TableSize) -> Result<()> {
        let vip = Ipv4Addr::from(0xcb00_7100 + index % 250);
        let port = (1000 + index / 250) as u16;
        let planned = (0..endpoints).map(|n| PlannedEndpoint {
            name: Arc::from(format!("e{n}")),
            site: "dc01".into(),
            address: IpAddr::V4(Ipv4Addr::from(0xc613_0000 + index * endpoints + n)),
            port,
            state: EndpointState::Active,
            weight: 1,
        });
        let planned: Vec<_> = planned.collect();
        let plan = ServicePlan {
            service: format!("s{index}").into(),
            version: 1,
            table: table::build(&planned, size),
            endpoints: planned,
        };
        let first = self.endpoints.len() as u32;
        let slots = plan.table.iter().map(|n| first + u32::from(*n));
        self.slots
            .extend(slots.map(|owner| Slot::new(owner, owner, false)));
        self.endpoints
            .extend((0..endpoints).map(|_| entry_of(index, state::ACTIVE)));
        let (address, port) = (abi::ipv4(vip), port.to_be());
        self.entries.push(Entry {
            service: Service {
                index,
                table_size: size.get(),
                mode: mode::TUNNEL,
                ..Service::default()
            },
            port,
            protocol: TCP,
            family: 4,
            address: [address, 0, 0, 0],
            zero: [0; 4],
        });
        let hint = &mut self.hints[hint_of(&key(address, port)) as usize];
        if *hint == 0 {
            *hint = index + 1;
        }
        self.places.insert((address, port, TCP), index);
        self.plans.push(plan);
        self.vips.push((address, port));
        Ok(())
    }

    /// The packet, for the service that it is one of.
    fn addressed(&self, packet: &Packet<u32>) -> Packet<u32> {
        let number = steer::slot(packet.destination, self.vips.len() as u32);
        let (destination, destination_port) = self.vips[number as usize];
        Packet {
            destination,
            destination_port,
            ..*packet
        }
    }

    fn by_plan(&self, packet: &Packet<u32>) -> Option<u32> {
        let packet = self.addressed(packet);
        let service = self.service(&steer::service_key(&packet))?;
        let plan = self.plans.get(service.index as usize)?;
        let hash = (steer::hash(&packet) >> 32) as u32;
        let slot = steer::slot(hash, plan.table.len() as u32);
        let endpoint = plan.endpoints.get(usize::from(plan.table[slot as usize]))?;
        (endpoint.state == EndpointState::Active).then_some(u32::from(endpoint.port))
    }

    fn by_steer(&self, packet: &Packet<u32>) -> Option<u32> {
        let packet = self.addressed(packet);
        let service = self.service(&steer::service_key(&packet))?;
        let mut scratch = Scratch::default();
        steer::pick(self, service, &packet, &mut scratch).ok()?;
        let index = scratch.picked().endpoint;
        let endpoint = self.endpoints.get(index as usize)?;
        steer::is_alive(endpoint).then_some(index)
    }

    /// As the program does: by its hint, and otherwise by a map of all.
    fn service(&self, key: &ServiceKey<u32>) -> Option<&Service> {
        let hint = self.hints[hint_of(key) as usize];
        let entry = self.entries.get(hint.checked_sub(1)? as usize)?;
        let is_it =
            (entry.address[0], entry.port, entry.protocol) == (key.address, key.port, key.protocol);
        if is_it {
            return Some(&entry.service);
        }
        let index = self.places.get(&(key.address, key.port, key.protocol))?;
        Some(&self.entries.get(*index as usize)?.service)
    }
}

impl Tables<u32> for Registry {
    const RECORDS: bool = false;

    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        self.endpoints.get(index as usize)
    }
    fn slot(&self, service: &Service, hash: u32) -> Option<Slot> {
        let slot = steer::slot(hash, service.table_size) as usize;
        let start = service.index as usize * service.table_size as usize;
        self.slots.get(start + slot).copied()
    }
    fn bucket(&self, _: u32) -> Option<*mut abi::flow::Bucket4> {
        None
    }
    fn now(&self) -> u16 {
        0
    }
}

fn key(address: u32, port: u16) -> ServiceKey<u32> {
    ServiceKey {
        address,
        port,
        protocol: TCP,
        zero: 0,
    }
}

fn entry_of(service: u32, state: u8) -> Endpoint {
    Endpoint {
        generation: 1,
        service,
        state,
        family: 4,
        ..Endpoint::UNUSED
    }
}
