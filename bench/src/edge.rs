//! The steering program with services to steer to.

use std::sync::Arc;

use anyhow::Result;
use director::{
    config::{IcmpPolicy, Limits, NatSources, TunnelSources},
    datapath::{Datapath, Hop, Object, Options, Uses},
};
use director_core::{
    Affinity, Encapsulation, EndpointState, HealthPolicy, Mode, PlannedEndpoint, Protocol,
    ServicePlan, Steering, Track,
    model::{Endpoint, Service},
};

/// Server id in the QUIC packets' connection ids.
pub const SERVER_ID: u32 = 0x01_02_03;
/// Port of the QUIC service.
pub const QUIC_PORT: u16 = 443;
const TABLE_SIZE: u32 = 16_381;
const FLOWS: u32 = 1 << 20;

/// Services to steer to, the same VIPs in each: a VIP cannot have two modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// `tunnel` mode, flows recorded where needed.
    Auto,
    /// The same, every flow recorded.
    Always,
    Gue,
    L2,
    Nat,
}

fn mode(table: Table) -> (Mode, Steering) {
    let steering = Steering::default();
    match table {
        Table::Auto => (Mode::Tunnel, steering),
        Table::Always => (
            Mode::Tunnel,
            Steering {
                track: Track::Always,
                ..steering
            },
        ),
        Table::Gue => (
            Mode::Tunnel,
            Steering {
                encapsulation: Encapsulation::Gue,
                ..steering
            },
        ),
        Table::L2 => (Mode::L2, steering),
        Table::Nat => (Mode::Nat, steering),
    }
}

/// A next hop out of an interface, for frames that go nowhere.
pub const fn hop(interface: u32) -> Hop {
    Hop {
        interface,
        destination: [2; 6],
        source: [4; 6],
        mtu: 1500,
        vlan: 0,
    }
}

/// The program, with a service of each kind whose endpoints are all behind `hop`.
///
/// # Errors
/// Without the privilege to load programs.
pub fn loaded(table: Table, hop: Hop) -> Result<Datapath> {
    let (mode, steering) = mode(table);
    let options = Options {
        object: match std::env::var_os("DIRECTOR_BPF_OBJECT") {
            Some(path) => Object::from_bytes(std::fs::read(path)?)?,
            None => Object::embedded()?,
        },
        limits: Limits {
            flows: FLOWS,
            services: 8,
            endpoints: 32,
            table_size: TABLE_SIZE,
            nat_flows: FLOWS,
        },
        uses: Uses {
            ipv4: true,
            ipv6: mode == Mode::Tunnel,
            nat4: mode == Mode::Nat,
            nat6: false,
        },
        tunnel: TunnelSources {
            v4: Some("198.51.100.1".parse()?),
            v6: Some("2001:db8:1::1".parse()?),
            ..TunnelSources::default()
        },
        icmp: IcmpPolicy {
            echo: true,
            rate: 1_000_000,
        },
        nat: NatSources {
            v4: (2..6).map(|last| [198, 51, 100, last].into()).collect(),
            v6: Vec::new(),
        },
        pins: None,
    };
    let (mut datapath, _) = Datapath::open(&options)?;
    let endpoints4: Vec<String> = (1..=6).map(|site| format!("198.18.{site}.11")).collect();
    let endpoints6: Vec<String> = (1..=6)
        .map(|site| format!("2001:db8:1{site}::11"))
        .collect();
    let web4 = service("web4", "203.0.113.10", mode, Protocol::Tcp, &endpoints4)?;
    publish(&mut datapath, web4, &steering, hop)?;
    if mode == Mode::Tunnel {
        let udp4 = service("udp4", "203.0.113.10", mode, Protocol::Udp, &endpoints4)?;
        publish(&mut datapath, udp4, &steering, hop)?;
        let web6 = service("web6", "2001:db8:53::10", mode, Protocol::Tcp, &endpoints6)?;
        publish(&mut datapath, web6, &steering, hop)?;
        let mut quic = service("quic4", "203.0.113.10", mode, Protocol::Udp, &endpoints4)?;
        quic.port = QUIC_PORT;
        for (id, endpoint) in (SERVER_ID..).zip(&mut quic.endpoints) {
            endpoint.port = QUIC_PORT;
            endpoint.server_id = Some(id);
        }
        let by_id = Steering {
            affinity: Affinity::Quic,
            ..steering
        };
        publish(&mut datapath, quic, &by_id, hop)?;
    }
    Ok(datapath)
}

fn service(
    name: &str,
    vip: &str,
    mode: Mode,
    protocol: Protocol,
    addresses: &[String],
) -> Result<Service> {
    let endpoint = |(index, address): (usize, &String)| {
        Ok(Endpoint {
            name: Arc::from(format!("e{index}")),
            site: "dc01".into(),
            address: address.parse()?,
            port: 80,
            weight: 1,
            server_id: None,
        })
    };
    let endpoints = addresses.iter().enumerate().map(endpoint);
    Ok(Service {
        name: name.into(),
        vip: vip.parse()?,
        port: 80,
        protocol,
        mode,
        steering: Steering::default(),
        health: HealthPolicy::default(),
        endpoints: endpoints.collect::<Result<_>>()?,
    })
}

fn publish(
    datapath: &mut Datapath,
    mut service: Service,
    steering: &Steering,
    hop: Hop,
) -> Result<()> {
    service.steering = steering.clone();
    for endpoint in &service.endpoints {
        datapath.set_hop(endpoint.address, Some(hop))?;
    }
    let planned = service.endpoints.iter().map(|endpoint| PlannedEndpoint {
        name: endpoint.name.clone(),
        site: endpoint.site.clone(),
        address: endpoint.address,
        port: endpoint.port,
        state: EndpointState::Active,
        weight: 1,
    });
    let plan = ServicePlan {
        service: service.name.clone(),
        version: 1,
        endpoints: planned.collect(),
        table: (0..TABLE_SIZE).map(|slot| (slot % 6) as u16).collect(),
    };
    datapath.apply(&service, &plan)
}
