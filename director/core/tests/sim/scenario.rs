//! Random models, and random changes to them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use director_core::{
    Endpoint, HealthPolicy, Mode, Model, ProbeSpec, Protocol, Service, Site, Steering, Track,
};
use fastrand::Rng;

/// Makes models, and addresses that were never used before.
pub struct Generator {
    last_host: u16,
}

impl Generator {
    pub fn new() -> Self {
        Self { last_host: 0 }
    }

    /// One to five sites, one to three services, up to four endpoints each.
    pub fn model(&mut self, rng: &mut Rng) -> Model {
        let sites: Vec<_> = (1..=rng.u8(1..=5))
            .map(|number| Site {
                name: format!("dc{number:02}").into(),
                weight: weight(rng),
            })
            .collect();
        let services = (0..rng.u8(1..=3)).map(|number| self.service(rng, number, &sites));
        let services = services.collect();
        Model { sites, services }
    }

    fn service(&mut self, rng: &mut Rng, number: u8, sites: &[Site]) -> Service {
        let port = 80 + u16::from(number);
        let mut endpoints = Vec::new();
        for (site_number, site) in (1u8..).zip(sites) {
            for host in 1..=rng.u8(0..=4) {
                // The same hosts for all services: a fault hits all of them.
                let address = [198, 18, site_number, host].into();
                endpoints.push(endpoint(rng, site, &format!("{host}"), address, port));
            }
        }
        if endpoints.is_empty() {
            endpoints.push(endpoint(rng, &sites[0], "1", [198, 18, 1, 1].into(), port));
        }
        let mut mode = Mode::Tunnel;
        // The first one always has endpoints, so that there is something to see.
        if number > 0 && rng.u8(..8) == 0 {
            mode = Mode::Proxy;
            endpoints.clear();
        }
        Service {
            name: format!("service{number}").into(),
            vip: [203, 0, 113, number + 1].into(),
            port,
            protocol: Protocol::Tcp,
            mode,
            steering: Steering::default(),
            health: policy(rng),
            endpoints,
        }
    }

    /// An address that no host has yet.
    fn fresh_address(&mut self) -> IpAddr {
        self.last_host += 1;
        let [high, low] = self.last_host.to_be_bytes();
        [198, 19, high, low].into()
    }

    /// The model after an operator edited it.
    pub fn edit(&mut self, rng: &mut Rng, model: &Model) -> Model {
        let mut model = model.clone();
        for _ in 0..rng.u8(1..=3) {
            self.edit_once(rng, &mut model);
        }
        model
    }

    fn edit_once(&mut self, rng: &mut Rng, model: &mut Model) {
        let site_count = model.sites.len();
        let site = model.sites[rng.usize(..site_count)].clone();
        if model.services.is_empty() || rng.u8(..12) == 0 {
            return self.edit_services(rng, model);
        }
        let index = rng.usize(..model.services.len());
        let service = &mut model.services[index];
        if service.mode == Mode::Proxy || rng.u8(..12) == 0 {
            return edit_manner(rng, service);
        }
        let victim = rng.usize(..service.endpoints.len());
        match rng.u8(..11) {
            0 => model.sites[rng.usize(..site_count)].weight = weight(rng),
            1 => service.endpoints[victim].weight = weight(rng),
            2 if service.endpoints.len() > 1 => {
                service.endpoints.remove(victim);
            }
            3 | 4 => {
                let address = self.fresh_address();
                let port = service.port;
                let endpoint = endpoint(rng, &site, &address.to_string(), address, port);
                service.endpoints.push(endpoint);
            }
            5 => service.endpoints[victim].address = self.fresh_address(),
            6 => service.endpoints[victim].site = site.name,
            7 => {
                service.health = HealthPolicy {
                    probe: service.health.probe.clone(),
                    ..policy(rng)
                }
            }
            8 => {
                service.health.probe = ProbeSpec::Tcp {
                    port: Some(rng.u16(1..)),
                }
            }
            9 => service.vip = [203, 0, 113, rng.u8(100..)].into(),
            _ => rng.shuffle(&mut service.endpoints),
        }
    }

    fn edit_services(&mut self, rng: &mut Rng, model: &mut Model) {
        if !model.services.is_empty() && rng.bool() {
            let index = rng.usize(..model.services.len());
            model.services.remove(index);
        } else {
            let taken = |n: u8| {
                model
                    .services
                    .iter()
                    .any(|s| *s.name == *format!("service{n}"))
            };
            let number = (0..).find(|&n| !taken(n)).unwrap_or_default();
            let service = self.service(rng, number, &model.sites);
            model.services.push(service);
        }
    }
}

/// Changes what is told beside the plan, or makes the service the edge's own.
fn edit_manner(rng: &mut Rng, service: &mut Service) {
    let count = service.endpoints.len();
    match rng.u8(..8) {
        0 => {
            service.mode = Mode::Proxy;
            service.endpoints.clear();
        }
        1..4 if count > 0 => {
            service.endpoints[rng.usize(..count)].server_id = Some(rng.u32(1..100));
        }
        4 => service.steering.track = Track::Always,
        5 => service.steering = Steering::default(),
        _ => service.steering.mss = Some(rng.u16(1000..1500)),
    }
}

fn endpoint(rng: &mut Rng, site: &Site, suffix: &str, address: IpAddr, port: u16) -> Endpoint {
    let name: Arc<str> = format!("{}-{suffix}", site.name).into();
    Endpoint {
        name,
        site: site.name.clone(),
        address,
        port,
        weight: weight(rng),
        server_id: None,
    }
}

/// Mostly of the same order, sometimes far off, sometimes zero.
fn weight(rng: &mut Rng) -> u32 {
    match rng.u8(..10) {
        0 => 0,
        1 => rng.u32(1..=1000),
        _ => rng.u32(1..=10),
    }
}

fn policy(rng: &mut Rng) -> HealthPolicy {
    let interval = rng.u64(500..=5000);
    let fast_interval = rng.u64(50..=500);
    HealthPolicy {
        probe: ProbeSpec::Tcp { port: None },
        interval: Duration::from_millis(interval),
        fast_interval: Duration::from_millis(fast_interval),
        timeout: Duration::from_millis(rng.u64(20..=500)),
        rise: rng.u32(1..=4),
        fall: rng.u32(1..=4),
        jitter_percent: rng.u8(0..=50),
    }
}
