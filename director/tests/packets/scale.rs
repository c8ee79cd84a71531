//! A thousand services with ten thousand endpoints and ten million flows, as
//! the limits of a configuration allow them.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use director::{
    config::{self, Config},
    datapath::{ConnFilter, Cursor, Datapath, Options, Uses, Vip, memory},
};
use director_core::{
    EndpointState, PlannedEndpoint, ServicePlan, TableSize,
    model::{self, Service},
    table,
};
use director_ebpf::{abi, parse::Packet, steer};

use crate::{
    edge::{EGRESS, Edge, REDIRECT, options},
    flood::{Flood, PORTS, client},
    frames::{Spec, tcp},
    memory::taken,
};

const SERVICES: u32 = 1000;
const ENDPOINTS: u32 = 10_000;
/// Flows of one service.
const EACH: u32 = 10_000;
const FLOWS: u32 = SERVICES * EACH;
/// Of flows, what may find its bucket full: at the configured number of flows,
/// as many ways are taken as are free. Of bucket loads that vary as random ones
/// do, 0.84 % are beyond eight.
const LOSS: f64 = 0.01;
/// Bytes that the test itself needs, beside the maps.
const BESIDE: u64 = 1 << 30;

/// The configuration, as a file.
fn file() -> String {
    let mut text = String::from(
        "[edge]\nname = \"edge1\"\ninterfaces = [\"eth0\"]\n\
         [edge.tunnel]\nsource4 = \"198.51.100.1\"\n",
    );
    writeln!(
        text,
        "[edge.limits]\nflows = {FLOWS}\nservices = {SERVICES}\nendpoints = {ENDPOINTS}\n\
         [[site]]\nname = \"dc01\"\nweight = 1"
    )
    .unwrap();
    for n in 0..SERVICES {
        writeln!(
            text,
            "[[service]]\nname = \"s{n}\"\nvip = \"203.0.113.{}\"\nport = {}\n\
             protocol = \"tcp\"\nmode = \"tunnel\"\ntrack = \"always\"\n\
             [service.health]\ntype = \"tcp\"",
            n % 250 + 1,
            1000 + n / 250,
        )
        .unwrap();
        for e in n * ENDPOINTS / SERVICES..(n + 1) * ENDPOINTS / SERVICES {
            writeln!(
                text,
                "[[service.endpoint]]\nname = \"e{e}\"\nsite = \"dc01\"\naddress = \"198.19.{}.{}\"",
                e >> 8,
                e & 255,
            )
            .unwrap();
        }
    }
    text
}

/// Whether there is memory for that; where not, it is said.
fn has_memory(needed: u64) -> bool {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = told.lines().find_map(|it| it.strip_prefix("MemAvailable:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    let available = kib.parse::<u64>().unwrap() * 1024;
    let has_enough = available >= needed;
    if !has_enough {
        let said = format!(
            "{} MiB of memory needed, {} there",
            needed >> 20,
            available >> 20
        );
        assert!(std::env::var_os("CI").is_none(), "{said}");
        eprintln!("skipped: {said}");
    }
    has_enough
}

/// The plan for a service, one endpoint of which may be draining.
fn plan(service: &Service, size: TableSize, draining: Option<usize>) -> ServicePlan {
    let planned = |(index, endpoint): (usize, &model::Endpoint)| {
        let is_draining = draining == Some(index);
        PlannedEndpoint {
            name: endpoint.name.clone(),
            site: endpoint.site.clone(),
            address: endpoint.address,
            port: endpoint.port,
            state: if is_draining {
                EndpointState::Draining
            } else {
                EndpointState::Active
            },
            weight: u64::from(!is_draining),
        }
    };
    let endpoints: Vec<_> = service.endpoints.iter().enumerate().map(planned).collect();
    ServicePlan {
        service: service.name.clone(),
        version: 1,
        table: table::build(&endpoints, size),
        endpoints,
    }
}

/// Everything configured, and the packets of its flows.
struct Scale {
    edge: Edge,
    flood: Flood,
    config: Config,
    size: TableSize,
    /// Endpoint of each flow, by its place among its service's, as the first
    /// tables have it.
    owners: Vec<u8>,
}

impl Scale {
    fn services(&self) -> &[Service] {
        &self.config.model.services
    }

    /// A packet of each flow of a service.
    fn packets(&mut self, service: u32, is_syn: bool) {
        let to = &self.config.model.services[service as usize];
        let spec = Spec {
            syn: is_syn,
            payload: vec![0; 42],
            ..tcp("192.0.2.1:1", &format!("{}:{}", to.vip, to.port))
        };
        self.flood.run(&spec.frame(), service * EACH, EACH);
    }

    /// Flows and packets of every endpoint, as they were counted.
    fn counted(&self) -> Vec<(u64, u64)> {
        let counters = self.edge.datapath.counters().unwrap();
        let mut counted = vec![(0, 0); ENDPOINTS as usize];
        for (_, address, _, total) in counters.endpoints {
            counted[number_of(address)] = (total.flows, total.packets);
        }
        counted
    }

    /// Share of the flows that are recorded, each once and where it was placed.
    fn recorded(&self) -> f64 {
        let mut seen = vec![false; FLOWS as usize];
        let mut cursor = Cursor::default();
        while !cursor.is_at_end() {
            let until = Instant::now() + Duration::from_secs(1);
            let datapath = &self.edge.datapath;
            let some = datapath.conns(&ConnFilter::default(), &mut cursor, 100_000, until);
            for conn in some {
                let source = usize::from(low_half(conn.source.ip()));
                let port = usize::from(conn.source.port()) - 1024;
                let flow = source * PORTS as usize + port;
                assert!(!seen[flow], "recorded twice: {conn:?}");
                seen[flow] = true;
                let service = flow / EACH as usize;
                assert_eq!(conn.vip, Vip::from(&self.services()[service]));
                let owner = service * 10 + usize::from(self.owners[flow]);
                assert_eq!(number_of(conn.endpoint.0), owner, "{conn:?}");
            }
        }
        seen.iter().filter(|it| **it).count() as f64 / f64::from(FLOWS)
    }
}

/// The last two bytes of an address, which number clients and endpoints.
fn low_half(address: IpAddr) -> u16 {
    let IpAddr::V4(address) = address else {
        panic!("{address} is none of this test's");
    };
    address.to_bits() as u16
}

/// Number of the endpoint with this address.
fn number_of(address: IpAddr) -> usize {
    usize::from(low_half(address))
}

/// Which endpoint of its service each flow falls on.
fn owners(services: &[Service], plans: &[ServicePlan], size: TableSize) -> Vec<u8> {
    let of = |flow: u32| {
        let number = (flow / EACH) as usize;
        let IpAddr::V4(vip) = services[number].vip else {
            panic!("{} is none of this test's", services[number].vip);
        };
        let (source, source_port) = client(flow);
        let packet = Packet {
            source,
            source_port,
            destination: abi::ipv4(vip),
            destination_port: services[number].port.to_be(),
            protocol: abi::TCP,
            ..Packet::default()
        };
        let hash = (steer::hash(&packet) >> 32) as u32;
        plans[number].table[steer::slot(hash, size.get()) as usize] as u8
    };
    (0..FLOWS).map(of).collect()
}

fn configured() -> Option<Scale> {
    let options = options(None)?;
    let loaded = config::parse(&file(), "director.toml").unwrap();
    let config = loaded.config;
    let limits = config.edge.limits;
    let options = Options {
        limits,
        uses: Uses {
            ipv4: true,
            ..Uses::default()
        },
        ..options
    };
    let told = memory(&limits, options.uses, &options.nat);
    if !has_memory(told + BESIDE) {
        return None;
    }
    let mut edge = Edge::bare(&options);
    takes_no_more(&mut edge.datapath, told);
    for endpoint in config.model.services.iter().flat_map(|it| &it.endpoints) {
        edge.hop(endpoint.address, EGRESS);
    }
    let size = TableSize::new(limits.table_size).unwrap();
    let services = &config.model.services;
    let plans: Vec<_> = services.iter().map(|it| plan(it, size, None)).collect();
    let start = Instant::now();
    for (service, plan) in services.iter().zip(&plans) {
        edge.datapath.apply(service, plan).unwrap();
    }
    println!("all applied in {:?}", start.elapsed());
    assert!(edge.datapath.audit().unwrap().is_empty());
    let program = edge.datapath.program().unwrap();
    let flood = Flood::of(&program.fd().unwrap().try_clone().unwrap());
    let owners = owners(services, &plans, size);
    Some(Scale {
        edge,
        flood,
        config,
        size,
        owners,
    })
}

/// Asserts that the maps take what `director check` says.
fn takes_no_more(datapath: &mut Datapath, told: u64) {
    let kernel: u64 = taken(datapath).iter().map(|(_, bytes)| bytes).sum();
    println!(
        "{} MiB of kernel memory, {} told of",
        kernel >> 20,
        told >> 20
    );
    assert!(
        kernel as f64 <= told as f64 * 1.02,
        "{kernel}, {told} told of"
    );
    assert!(
        kernel as f64 >= told as f64 * 0.9,
        "{kernel}, {told} told of"
    );
}

#[test]
fn ten_million_flows_stay_where_they_were_placed() {
    let Some(mut scale) = configured() else {
        return;
    };
    let start = Instant::now();
    for service in 0..SERVICES {
        scale.packets(service, true);
        scale.packets(service, false);
    }
    println!("{} packets in {:?}", 2 * FLOWS, start.elapsed());
    let placed = scale.counted();
    each_has_its_share(&placed);
    // An endpoint of every tenth service takes no new flows.
    let changed: Vec<_> = scale.services().iter().step_by(10).cloned().collect();
    let plans: Vec<_> = changed
        .iter()
        .map(|it| plan(it, scale.size, Some(3)))
        .collect();
    let mut times = Vec::new();
    for (service, plan) in changed.iter().zip(&plans) {
        let start = Instant::now();
        scale.edge.datapath.apply(service, plan).unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "an endpoint changed in {:?} (median), {:?} (most)",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    for service in 0..SERVICES {
        scale.packets(service, false);
    }
    // Every packet, that of flows without a record too, goes where the first
    // one of its flow went: each endpoint gets one more of each of its flows.
    for (endpoint, (was, is)) in placed.iter().zip(scale.counted()).enumerate() {
        assert_eq!(is, (was.0, was.1 + was.0), "endpoint {endpoint}");
    }
    let recorded = scale.recorded();
    println!("{:.2} % of {FLOWS} flows are recorded", 100.0 * recorded);
    assert!(recorded >= 1.0 - LOSS);
    each_is_reached(&mut scale);
}

/// Asserts that every service has placed its flows, and every endpoint got as
/// many as its slots call for, to six standard deviations.
fn each_has_its_share(placed: &[(u64, u64)]) {
    let share = f64::from(SERVICES) / f64::from(ENDPOINTS);
    let each = f64::from(EACH) * share;
    let limit = 6.0 * (each * (1.0 - share)).sqrt();
    for (service, endpoints) in placed.chunks((ENDPOINTS / SERVICES) as usize).enumerate() {
        let flows: u64 = endpoints.iter().map(|it| it.0).sum();
        assert_eq!(flows, u64::from(EACH), "service {service}");
        for (flows, packets) in endpoints {
            let off = (*flows as f64 - each).abs();
            assert!(off <= limit, "service {service}: {endpoints:?}");
            assert_eq!(*packets, 2 * flows);
        }
    }
}

/// Asserts that a packet to each service leaves for one of its endpoints.
fn each_is_reached(scale: &mut Scale) {
    for number in 0..SERVICES as usize {
        let service = &scale.config.model.services[number];
        let to = format!("{}:{}", service.vip, service.port);
        let out = scale.edge.run(&tcp("192.0.2.1:40000", &to).syn().frame());
        assert_eq!(out.action, REDIRECT, "{to}");
        let outer = Ipv4Addr::from_octets(out.frame[30..34].try_into().unwrap());
        assert_eq!(number_of(outer.into()) / 10, number, "{to}");
    }
}
