//! Small models and plans that the unit tests share.
#![allow(clippy::unwrap_used, reason = "a broken fixture is a broken test")]

use std::{net::IpAddr, sync::Arc};

use crate::{
    Endpoint, EndpointRef, EndpointState, HealthPolicy, Mode, Model, PlannedEndpoint, Protocol,
    Service, Site, Steering, TableSize,
};

/// Service `web` on sites `dc01`, `dc02`, ... of the given weights, each with
/// endpoints `dc01-a`, `dc01-b`, ... of the given weights. Past `z`: `dc01-26`, ...
pub fn model(sites: &[(u32, &[u32])]) -> Model {
    let mut model = Model {
        sites: Vec::new(),
        services: vec![Service {
            name: "web".into(),
            vip: [203, 0, 113, 10].into(),
            port: 80,
            protocol: Protocol::Tcp,
            mode: Mode::Tunnel,
            steering: Steering::default(),
            health: HealthPolicy::default(),
            endpoints: Vec::new(),
        }],
    };
    for (number, (weight, endpoints)) in (1u8..).zip(sites) {
        let site: Arc<str> = format!("dc{number:02}").into();
        for (index, &weight) in endpoints.iter().enumerate() {
            let letter = match u8::try_from(index) {
                Ok(small @ 0..26) => char::from(b'a' + small).to_string(),
                _ => index.to_string(),
            };
            let [_, _, high, low] = (index as u32 + 11).to_be_bytes();
            model.services[0].endpoints.push(Endpoint {
                name: format!("{site}-{letter}").into(),
                site: site.clone(),
                address: IpAddr::from([198, 18 + high, number, low]),
                port: 80,
                weight,
                server_id: None,
            });
        }
        model.sites.push(Site {
            name: site,
            weight: *weight,
        });
    }
    model
}

/// The three sites of the lab, weights 50, 30, 20, two endpoints each.
pub fn lab() -> Model {
    model(&[(50, &[1, 1]), (30, &[1, 1]), (20, &[1, 1])])
}

/// An endpoint of service `web`.
pub fn endpoint(name: &str) -> EndpointRef {
    EndpointRef {
        service: "web".into(),
        endpoint: name.into(),
    }
}

/// An active endpoint whose address comes from its name.
pub fn planned(name: &str, weight: u64) -> PlannedEndpoint {
    let sum = name.bytes().fold(0u16, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let [high, low] = sum.to_be_bytes();
    PlannedEndpoint {
        name: name.into(),
        site: "dc01".into(),
        address: IpAddr::from([198, 18, high, low]),
        port: 80,
        state: EndpointState::Active,
        weight,
    }
}

/// A table size known to be a prime.
pub fn table_size(slots: u32) -> TableSize {
    TableSize::new(slots).unwrap()
}
