//! The steering program with services to steer to.

use std::sync::Arc;

use anyhow::Result;
use aya::programs::ProgramFd;
use director::{
    config::{Limits, NatSources, TunnelSources},
    datapath::{Datapath, Hop, Object, Options, Uses},
};
use director_core::{
    EndpointState, HealthPolicy, Mode, PlannedEndpoint, Protocol, ServicePlan, Steering,
    model::{Endpoint, Service},
};

use super::cases::Table;

const TABLE_SIZE: u32 = 16_381;
const FLOWS: u32 = 1 << 20;

/// One loaded program a mode: the same VIP cannot have two.
pub struct Edge {
    tunnel: Datapath,
    nat: Datapath,
}

impl Edge {
    pub fn new() -> Result<Self> {
        Ok(Self {
            tunnel: loaded(Mode::Tunnel)?,
            nat: loaded(Mode::Nat)?,
        })
    }

    pub fn program(&mut self, table: Table) -> Result<ProgramFd> {
        let datapath = match table {
            Table::Tunnel => &mut self.tunnel,
            Table::Nat => &mut self.nat,
        };
        Ok(datapath.program()?.fd()?.try_clone()?)
    }
}

fn loaded(mode: Mode) -> Result<Datapath> {
    let options = Options {
        object: Object::embedded()?,
        limits: Limits {
            flows: FLOWS,
            nat_flows: FLOWS,
            services: 8,
            endpoints: 32,
            table_size: TABLE_SIZE,
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
        nat: NatSources {
            v4: (2..6).map(|last| [198, 51, 100, last].into()).collect(),
            v6: Vec::new(),
        },
        pins: None,
    };
    let (mut datapath, _) = Datapath::open(&options)?;
    let endpoints4: Vec<String> = (1..=6).map(|site| format!("198.18.{site}.11")).collect();
    publish(
        &mut datapath,
        "web4",
        "203.0.113.10",
        mode,
        Protocol::Tcp,
        &endpoints4,
    )?;
    if mode == Mode::Tunnel {
        publish(
            &mut datapath,
            "udp4",
            "203.0.113.10",
            mode,
            Protocol::Udp,
            &endpoints4,
        )?;
        let endpoints6: Vec<String> = (1..=6)
            .map(|site| format!("2001:db8:1{site}::11"))
            .collect();
        publish(
            &mut datapath,
            "web6",
            "2001:db8:53::10",
            mode,
            Protocol::Tcp,
            &endpoints6,
        )?;
    }
    Ok(datapath)
}

fn publish(
    datapath: &mut Datapath,
    name: &str,
    vip: &str,
    mode: Mode,
    protocol: Protocol,
    addresses: &[String],
) -> Result<()> {
    let mut endpoints = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let address = address.parse()?;
        // Some other interface than the one that test runs come in by, as on an
        // edge with two.
        let hop = Hop {
            interface: 2,
            destination: [2; 6],
            source: [4; 6],
            mtu: 1500,
        };
        datapath.set_hop(address, Some(hop))?;
        let name = Arc::from(format!("e{index}"));
        endpoints.push(Endpoint {
            name,
            site: "dc01".into(),
            address,
            port: 80,
            weight: 1,
            server_id: None,
        });
    }
    let planned = endpoints.iter().map(|endpoint| PlannedEndpoint {
        name: endpoint.name.clone(),
        site: endpoint.site.clone(),
        address: endpoint.address,
        port: endpoint.port,
        state: EndpointState::Active,
        weight: 1,
    });
    let plan = ServicePlan {
        service: name.into(),
        version: 1,
        endpoints: planned.collect(),
        table: (0..TABLE_SIZE).map(|slot| (slot % 6) as u16).collect(),
    };
    let service = Service {
        name: name.into(),
        vip: vip.parse()?,
        port: 80,
        protocol,
        mode,
        steering: Steering::default(),
        health: HealthPolicy::default(),
        endpoints,
    };
    datapath.apply(&service, &plan)
}
