//! An edge whose program runs on frames that tests make.

use std::{net::IpAddr, sync::Arc};

use aya::programs::{TestRun as _, TestRunOptions};
use director::{
    config::{IcmpPolicy, Limits, NatSources, TunnelSources},
    datapath::{Counters, Datapath, Hop, Object, Options, Pins, Uses},
};
use director_core::{
    EndpointState, HealthPolicy, Mode, PlannedEndpoint, Protocol, ServicePlan, Steering,
    model::{self, Service},
};

pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const TX: u32 = 3;
pub const REDIRECT: u32 = 4;

pub const TABLE_SIZE: usize = 251;
/// `BPF_PROG_TEST_RUN` runs as if a packet came in by the loopback interface.
pub const INGRESS: u32 = 1;
/// Some other interface.
pub const EGRESS: u32 = 7;
pub const HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

pub const TUNNEL4: &str = "198.51.100.1";
pub const TUNNEL6: &str = "2001:db8:1::1";
pub const NAT4: &str = "198.51.100.2";
pub const NAT6: &str = "2001:db8:1::2";

pub struct Edge {
    pub datapath: Datapath,
}

pub struct Out {
    pub action: u32,
    pub frame: Vec<u8>,
}

impl Edge {
    /// An edge without services.
    pub fn new() -> Option<Self> {
        let (datapath, held) = Datapath::open(&options(None)?).unwrap();
        assert_eq!(held, []);
        Some(Self { datapath })
    }

    /// The same with another limit of ICMP packets per second, or without
    /// echo replies.
    pub fn with_icmp(rate: u32, echo: bool) -> Option<Self> {
        let mut options = options(None)?;
        options.icmp = IcmpPolicy { echo, rate };
        let (datapath, _) = Datapath::open(&options).unwrap();
        Some(Self { datapath })
    }

    /// An edge with one service, whose endpoints' next hops are known.
    pub fn with(service: &Service) -> Option<Self> {
        Some(Self::open(&options(None)?, service))
    }

    /// An edge without services, with these options.
    pub fn bare(options: &Options) -> Self {
        let (datapath, _) = Datapath::open(options).unwrap();
        Self { datapath }
    }

    /// The same with these options.
    pub fn open(options: &Options, service: &Service) -> Self {
        let mut edge = Self::bare(options);
        for endpoint in &service.endpoints {
            edge.hop(endpoint.address, EGRESS);
        }
        edge.apply(
            service,
            &vec![EndpointState::Active; service.endpoints.len()],
        );
        edge
    }

    pub fn hop(&mut self, to: IpAddr, interface: u32) {
        self.hop_in_vlan(to, interface, 0);
    }

    pub fn hop_in_vlan(&mut self, to: IpAddr, interface: u32, vlan: u16) {
        let hop = Hop {
            interface,
            destination: HOP_MAC,
            source: OUT_MAC,
            mtu: 1500,
            vlan,
        };
        self.datapath.set_hop(to, Some(hop)).unwrap();
    }

    /// Applies a plan with these states; slots go round the active endpoints.
    pub fn apply(&mut self, service: &Service, states: &[EndpointState]) {
        let endpoints: Vec<PlannedEndpoint> = service
            .endpoints
            .iter()
            .zip(states)
            .map(|(endpoint, state)| PlannedEndpoint {
                name: endpoint.name.clone(),
                site: endpoint.site.clone(),
                address: endpoint.address,
                port: endpoint.port,
                state: *state,
                weight: u64::from(*state == EndpointState::Active),
            })
            .collect();
        let active: Vec<u16> = (0..endpoints.len() as u16)
            .filter(|i| endpoints[usize::from(*i)].state == EndpointState::Active)
            .collect();
        let table = if active.is_empty() {
            Vec::new()
        } else {
            (0..TABLE_SIZE)
                .map(|slot| active[slot % active.len()])
                .collect()
        };
        let plan = ServicePlan {
            service: service.name.clone(),
            version: 1,
            endpoints,
            table: table.into(),
        };
        self.datapath.apply(service, &plan).unwrap();
    }

    pub fn run(&mut self, frame: &[u8]) -> Out {
        let mut out = vec![0; frame.len() + 512];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self.datapath.program().unwrap().test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        Out {
            action: result.return_value,
            frame: out,
        }
    }

    /// Runs a frame that must pass as it is.
    pub fn passes(&mut self, frame: &[u8]) {
        let out = self.run(frame);
        assert_eq!((out.action, out.frame.as_slice()), (PASS, frame));
    }

    /// Runs a frame that must be dropped, or passed as it is, for `cause`.
    pub fn refuses(&mut self, frame: &[u8], action: u32, cause: &str) {
        let before = self.cause(cause);
        let out = self.run(frame);
        assert_eq!(out.action, action, "{cause}");
        assert_eq!(out.frame, frame, "{cause}");
        assert_eq!(self.cause(cause), before + 1, "{cause}");
    }

    pub fn counters(&self) -> Counters {
        self.datapath.counters().unwrap()
    }

    pub fn cause(&self, label: &str) -> u64 {
        let counters = self.counters();
        counters
            .causes
            .iter()
            .find(|(cause, _)| cause.label() == label)
            .expect(label)
            .1
    }
}

/// The object under test: the one that is built in, or another.
pub fn object_bytes() -> Vec<u8> {
    const BUILT_IN: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../director-ebpf/obj/director-xdp.o"
    );
    let path = std::env::var_os("DIRECTOR_BPF_OBJECT").unwrap_or_else(|| BUILT_IN.into());
    std::fs::read(path).unwrap()
}

/// What test edges are opened with; `None`, said aloud, where they cannot run.
pub fn options(pins: Option<Pins>) -> Option<Options> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "packet tests need root");
        eprintln!("skipped: packet tests need root, to load BPF programs");
        return None;
    }
    Some(Options {
        object: Object::from_bytes(object_bytes()).unwrap(),
        limits: Limits {
            flows: 4096,
            services: 8,
            endpoints: 32,
            table_size: TABLE_SIZE as u32,
            nat_flows: 4096,
        },
        uses: Uses {
            ipv4: true,
            ipv6: true,
            nat4: true,
            nat6: true,
        },
        tunnel: TunnelSources {
            v4: Some(TUNNEL4.parse().unwrap()),
            v6: Some(TUNNEL6.parse().unwrap()),
            ..TunnelSources::default()
        },
        icmp: IcmpPolicy {
            echo: true,
            rate: 1000,
        },
        nat: NatSources {
            v4: vec![NAT4.parse().unwrap()],
            v6: vec![NAT6.parse().unwrap()],
        },
        pins,
    })
}

/// A service with `endpoints`, all of one site.
pub fn service(vip: &str, protocol: Protocol, mode: Mode, endpoints: &[&str]) -> Service {
    let port = if mode == Mode::Nat { 8080 } else { 80 };
    let endpoints = endpoints
        .iter()
        .enumerate()
        .map(|(i, address)| model::Endpoint {
            name: Arc::from(format!("e{i}")),
            site: "dc01".into(),
            address: address.parse().unwrap(),
            port,
            weight: 1,
            server_id: None,
        });
    Service {
        name: "web".into(),
        vip: vip.parse().unwrap(),
        port: 80,
        protocol,
        mode,
        steering: Steering::default(),
        health: HealthPolicy::default(),
        endpoints: endpoints.collect(),
    }
}
