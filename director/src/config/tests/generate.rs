//! Valid configurations, and the files that say them.

use std::{fmt::Write as _, net::IpAddr, path::PathBuf, time::Duration};

use director_core::model::{
    Endpoint, HealthPolicy, Mode, Model, ProbeSpec, Protocol, Service, Site, Steering,
};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::super::{Attach, Config, Edge, Limits, NatSources, TunnelSources};

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9._-]{0,62}"
}

fn duration(millis: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    millis.prop_map(Duration::from_millis)
}

fn policy() -> impl Strategy<Value = HealthPolicy> {
    let probe = prop_oneof![
        (1..=u16::MAX).prop_map(|port| ProbeSpec::Tcp { port: Some(port) }),
        (
            option::of(1..=u16::MAX),
            "[a-z0-9.:-]{1,40}",
            "/[a-zA-Z0-9/_.~%?=&-]{0,40}",
            (100..=599u16, 100..=599u16),
            option::of("\\PC{1,40}"),
        )
            .prop_map(|(port, host, path, (a, b), body)| ProbeSpec::Http {
                port,
                host,
                path,
                status: a.min(b)..=a.max(b),
                body,
            }),
    ];
    let intervals = (duration(50..=600_000), duration(50..=600_000));
    let counts = (1..=10u32, 1..=10u32, 0..=50u8);
    (probe, intervals, duration(10..=60_000), counts).prop_map(
        |(probe, (a, b), timeout, (rise, fall, jitter_percent))| HealthPolicy {
            probe,
            interval: a.max(b),
            fast_interval: a.min(b),
            timeout,
            rise,
            fall,
            jitter_percent,
        },
    )
}

/// A service and, for each of its endpoints, port, weight and site. Addresses
/// are given by index, so that no two are the same.
type ServiceSeed = (HealthPolicy, bool, bool, bool, u16, Vec<(u16, u32, Index)>);

fn service_seed() -> impl Strategy<Value = ServiceSeed> {
    let endpoints = vec((1..=u16::MAX, 1..=1000u32, any::<Index>()), 1..5);
    (
        policy(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        1..=u16::MAX,
        endpoints,
    )
}

fn address(v6: bool, network: usize, host: usize) -> IpAddr {
    let host = u8::try_from(host + 1).unwrap();
    let network = u8::try_from(network).unwrap();
    match v6 {
        true => [0x2001, 0xdb8, 0, network.into(), 0, 0, 0, host.into()].into(),
        false => [198, 18, network, host].into(),
    }
}

fn service(index: usize, seed: ServiceSeed, sites: &[Site]) -> Service {
    let (mut health, v6, udp, nat, port, endpoints) = seed;
    if let (true, ProbeSpec::Http { port: of_probe, .. }) = (udp, &mut health.probe) {
        of_probe.get_or_insert(port);
    }
    let endpoints = endpoints.into_iter().enumerate();
    Service {
        name: format!("service-{index}").into(),
        vip: address(v6, 200, index),
        port,
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        mode: if nat { Mode::Nat } else { Mode::Tunnel },
        steering: Steering::default(),
        health,
        endpoints: endpoints
            .map(|(host, (own_port, weight, site))| Endpoint {
                name: format!("endpoint.{host}").into(),
                site: site.get(sites).name.clone(),
                address: address(v6, index, host),
                port: if nat { own_port } else { port },
                weight,
                server_id: None,
            })
            .collect(),
    }
}

fn edge() -> impl Strategy<Value = Edge> {
    let attach = prop::sample::select(vec![Attach::Auto, Attach::Driver, Attach::Generic]);
    let limits = (1024..=67_108_864u32, 10..=1000u32, 50..=10_000u32);
    let size = prop::sample::select(vec![251u32, 509, 4093, 16_381, 65_521, 131_071]);
    let interfaces = prop::collection::btree_set("[a-zA-Z0-9@_-]{1,15}", 1..5);
    let paths = ("/[a-z/]{0,40}[a-z]", "/[a-z/.]{0,90}[a-z]");
    let sources = (1..=4usize, 1..=4usize);
    (
        name(),
        attach,
        limits,
        size,
        interfaces,
        paths,
        sources,
        1..=u16::MAX,
    )
        .prop_map(
            |(
                name,
                attach,
                (flows, services, endpoints),
                table_size,
                interfaces,
                paths,
                nat,
                port,
            )| {
                Edge {
                    name,
                    interfaces: interfaces.into_iter().collect(),
                    attach,
                    pin_dir: PathBuf::from(paths.0),
                    socket: PathBuf::from(paths.1),
                    metrics: ([127, 0, 0, 1], port).into(),
                    tunnel: TunnelSources {
                        v4: Some([198, 51, 100, 1].into()),
                        v6: Some([0x2001, 0xdb8, 1, 0, 0, 0, 0, 1].into()),
                    },
                    nat: NatSources {
                        v4: (0..nat.0)
                            .map(|i| [198, 51, 100, 2 + i as u8].into())
                            .collect(),
                        v6: (0..nat.1)
                            .map(|i| [0x2001, 0xdb8, 1, 0, 0, 0, 0, 2 + i as u16].into())
                            .collect(),
                    },
                    limits: Limits {
                        flows,
                        services,
                        endpoints,
                        table_size,
                    },
                }
            },
        )
}

/// Any configuration that is valid.
pub(super) fn config() -> impl Strategy<Value = Config> {
    let sites = prop::collection::btree_map(name(), 1..=1000u32, 1..5);
    (edge(), sites, vec(service_seed(), 0..6), 1..=4096usize).prop_map(
        |(edge, sites, seeds, probe_concurrency)| {
            let sites: Vec<_> = sites
                .into_iter()
                .map(|(name, weight)| Site {
                    name: name.into(),
                    weight,
                })
                .collect();
            let services = seeds.into_iter().enumerate();
            let services = services
                .map(|(index, seed)| service(index, seed, &sites))
                .collect();
            Config {
                edge,
                model: Model { sites, services },
                probe_concurrency,
            }
        },
    )
}

/// Writes a configuration as a file that says everything.
pub(super) fn written(config: &Config) -> String {
    let Edge {
        tunnel,
        nat,
        limits,
        ..
    } = &config.edge;
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let text = |text: &str| toml::Value::from(text).to_string();
    let names = config
        .edge
        .interfaces
        .iter()
        .map(|name| text(name))
        .collect();
    let sources4 = nat
        .v4
        .iter()
        .map(|source| text(&source.to_string()))
        .collect();
    let sources6 = nat
        .v6
        .iter()
        .map(|source| text(&source.to_string()))
        .collect();
    let mut out = format!(
        "[edge]\nname = {}\ninterfaces = {}\nattach = {}\npin_dir = {}\nsocket = {}\n\
         metrics = \"{}\"\n[edge.tunnel]\nsource4 = \"{}\"\nsource6 = \"{}\"\n\
         [edge.nat]\nsource4 = {}\nsource6 = {}\n\
         [edge.limits]\nflows = {}\nservices = {}\nendpoints = {}\ntable_size = {}\n\
         [health]\nconcurrency = {}\n",
        text(&config.edge.name),
        list(names),
        text(&format!("{:?}", config.edge.attach).to_lowercase()),
        text(config.edge.pin_dir.to_str().unwrap()),
        text(config.edge.socket.to_str().unwrap()),
        config.edge.metrics,
        tunnel.v4.unwrap(),
        tunnel.v6.unwrap(),
        list(sources4),
        list(sources6),
        limits.flows,
        limits.services,
        limits.endpoints,
        limits.table_size,
        config.probe_concurrency,
    );
    for Site { name, weight } in &config.model.sites {
        writeln!(out, "[[site]]\nname = {}\nweight = {weight}", text(name)).unwrap();
    }
    for service in &config.model.services {
        out += &written_service(service);
    }
    out
}

fn written_service(service: &Service) -> String {
    let text = |text: &str| toml::Value::from(text).to_string();
    let health = &service.health;
    let mut out = format!(
        "[[service]]\nname = \"{}\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\nmode = \"{}\"\n\
         [service.health]\ninterval = \"{}\"\nfast_interval = \"{}\"\ntimeout = \"{}\"\n\
         rise = {}\nfall = {}\njitter = {}\n",
        service.name,
        service.vip,
        service.port,
        format!("{:?}", service.protocol).to_lowercase(),
        format!("{:?}", service.mode).to_lowercase(),
        humantime::format_duration(health.interval),
        humantime::format_duration(health.fast_interval),
        humantime::format_duration(health.timeout),
        health.rise,
        health.fall,
        health.jitter_percent,
    );
    let port = match &health.probe {
        ProbeSpec::Tcp { port } => {
            out += "type = \"tcp\"\n";
            port
        }
        ProbeSpec::Http {
            port,
            host,
            path,
            status,
            body,
        } => {
            let (low, high) = (status.start(), status.end());
            out += &format!(
                "type = \"http\"\nhost = {}\npath = {}\nstatus = \"{low}-{high}\"\n",
                text(host),
                text(path)
            );
            if let Some(body) = body {
                writeln!(out, "body = {}", text(body)).unwrap();
            }
            port
        }
    };
    if let Some(port) = port {
        writeln!(out, "port = {port}").unwrap();
    }
    for endpoint in &service.endpoints {
        writeln!(
            out,
            "[[service.endpoint]]\nname = \"{}\"\nsite = {}\naddress = \"{}\"\nport = {}\nweight = {}",
            endpoint.name,
            text(&endpoint.site),
            endpoint.address,
            endpoint.port,
            endpoint.weight
        )
        .unwrap();
    }
    out
}
