//! Valid configurations; `written` has the files that say them.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use director_core::{
    l7::{L7, ProxyProtocol, Upstream, UpstreamProtocol},
    model::{
        Affinity, Encapsulation, Endpoint, HealthPolicy, Mode, Model, OnDeath, ProbeSpec, Protocol,
        Service, Site, Steering, Track,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use super::super::{Attach, Config, Edge, IcmpPolicy, Limits, NatSources, Prefix, TunnelSources};

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

/// An endpoint: whether its family may be the other one, port, weight, site.
type EndpointSeed = (bool, u16, u32, Index);

/// A service before its parts fit each other. Addresses are given by index, so
/// that no two are the same.
#[derive(Clone, Debug)]
struct ServiceSeed {
    health: HealthPolicy,
    v6: bool,
    protocol: Protocol,
    mode: Mode,
    port: u16,
    steering: Steering,
    endpoints: Vec<EndpointSeed>,
}

fn service_seed() -> impl Strategy<Value = ServiceSeed> {
    let protocols = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let modes = prop::sample::select(vec![Mode::Tunnel, Mode::Nat, Mode::L2, Mode::Proxy]);
    let endpoints = vec(
        (any::<bool>(), 1..=u16::MAX, 1..=1000u32, any::<Index>()),
        1..5,
    );
    (
        policy(),
        any::<bool>(),
        protocols,
        modes,
        prop_oneof![Just(0), 1..=u16::MAX],
        steering(),
        endpoints,
    )
        .prop_map(
            |(health, v6, protocol, mode, port, steering, endpoints)| ServiceSeed {
                health,
                v6,
                protocol,
                mode,
                port,
                steering,
                endpoints,
            },
        )
}

/// Any steering, whatever goes with it.
fn steering() -> impl Strategy<Value = Steering> {
    let words = (
        prop::sample::select(vec![Encapsulation::Ip, Encapsulation::Gue]),
        prop::sample::select(vec![Track::Auto, Track::Always, Track::Never]),
        prop::sample::select(vec![Affinity::Flow, Affinity::Source, Affinity::Quic]),
        prop::sample::select(vec![OnDeath::Resteer, OnDeath::Reset]),
    );
    (
        words,
        option::of(536..=9000u16),
        option::of(1..=1_000_000u32),
        any::<bool>(),
        duration(1000..=7_200_000),
    )
        .prop_map(
            |(words, mss, connection_rate, syn_cookies, idle_timeout)| Steering {
                encapsulation: words.0,
                track: words.1,
                affinity: words.2,
                on_death: words.3,
                mss,
                connection_rate,
                syn_cookies,
                idle_timeout,
            },
        )
}

/// The steering, without what does not go with a mode and a protocol.
fn fitting(steering: Steering, mode: Mode, protocol: Protocol) -> Steering {
    let default = Steering::default();
    let mut fit = steering;
    if mode != Mode::Tunnel {
        fit.encapsulation = default.encapsulation;
    }
    if matches!(mode, Mode::Nat | Mode::Proxy) {
        fit.track = default.track;
    }
    if protocol == Protocol::Udp {
        (fit.mss, fit.connection_rate) = (None, None);
        fit.on_death = default.on_death;
    } else {
        fit.idle_timeout = default.idle_timeout;
    }
    fit.syn_cookies &= mode == Mode::Proxy && protocol == Protocol::Tcp;
    let may_be_quic = matches!(mode, Mode::Tunnel | Mode::L2) && protocol == Protocol::Udp;
    if fit.affinity == Affinity::Quic && !may_be_quic {
        fit.affinity = default.affinity;
    }
    fit
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
    let ServiceSeed {
        mut health,
        v6,
        protocol,
        mode,
        mut port,
        steering,
        mut endpoints,
    } = seed;
    if mode == Mode::Nat {
        port = port.max(1);
    }
    if mode == Mode::Proxy {
        health = HealthPolicy::default();
        endpoints.clear();
    }
    if let ProbeSpec::Http { port: of_probe, .. } = &mut health.probe
        && (protocol == Protocol::Udp || port == 0)
    {
        of_probe.get_or_insert(port.max(1));
    }
    let steering = fitting(steering, mode, protocol);
    let is_quic = steering.affinity == Affinity::Quic;
    let endpoints = endpoints.into_iter().enumerate();
    Service {
        name: format!("service-{index}").into(),
        vip: address(v6, 200, index),
        port,
        protocol,
        mode,
        steering,
        health,
        endpoints: endpoints
            .map(|(host, (is_other, own_port, weight, site))| Endpoint {
                name: format!("endpoint.{host}").into(),
                site: site.get(sites).name.clone(),
                address: address(v6 ^ (is_other && mode == Mode::Tunnel), index, host),
                port: if mode == Mode::Nat { own_port } else { port },
                weight,
                server_id: is_quic.then(|| u32::from(own_port) << 8 | (host as u32 + 1)),
            })
            .collect(),
    }
}

/// No two the same, and none of IPv4 mapped into IPv6.
fn deny() -> impl Strategy<Value = Vec<Prefix>> {
    let v4 = (any::<Ipv4Addr>(), 0..=32u8).prop_map(|(v4, length)| (IpAddr::V4(v4), length));
    let v6 = (any::<u64>(), any::<u64>(), 0..=128u8).prop_map(|(high, low, length)| {
        let bits = u128::from(high | 1) << 64 | u128::from(low);
        (IpAddr::V6(bits.into()), length)
    });
    let prefix = prop_oneof![v4, v6].prop_map(|(address, length)| Prefix::around(address, length));
    prop::collection::hash_set(prefix, 0..8).prop_map(|set| set.into_iter().collect())
}

/// Of blocks that no other address of these configurations is in.
fn tunnel() -> impl Strategy<Value = TunnelSources> {
    (26..=32u8, 64..=128u8, 1..=u16::MAX).prop_map(|(prefix4, prefix6, gue_port)| {
        let v4 = Prefix::around([198, 51, 100, 77].into(), prefix4).address;
        let v6 = Prefix::around([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1].into(), prefix6).address;
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
            unreachable!("a prefix is of the family of its address");
        };
        TunnelSources {
            v4: Some(v4),
            v6: Some(v6),
            prefix4,
            prefix6,
            gue_port,
        }
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let size = prop::sample::select(vec![251u32, 509, 4093, 16_381, 65_521, 131_071]);
    (
        1024..=67_108_864u32,
        1024..=16_777_216u32,
        10..=1000u32,
        50..=10_000u32,
        size,
    )
        .prop_map(
            |(flows, nat_flows, services, endpoints, table_size)| Limits {
                flows,
                nat_flows,
                services,
                endpoints,
                table_size,
            },
        )
}

fn nat() -> impl Strategy<Value = NatSources> {
    (1..=4u8, 1..=4u16).prop_map(|(v4, v6)| NatSources {
        v4: (2..2 + v4).map(|i| [198, 51, 100, i].into()).collect(),
        v6: (2..2 + v6)
            .map(|i| [0x2001, 0xdb8, 1, 0, 0, 0, 0, i].into())
            .collect(),
    })
}

fn edge() -> impl Strategy<Value = Edge> {
    let attach = prop::sample::select(vec![Attach::Auto, Attach::Driver, Attach::Generic]);
    let interfaces = prop::collection::btree_set("[a-zA-Z0-9@_-]{1,15}", 1..5);
    let paths = ("/[a-z/]{0,40}[a-z]", "/[a-z/.]{0,90}[a-z]");
    let icmp = (any::<bool>(), 1..=1_000_000u32);
    let host = (name(), attach, interfaces, paths, 1..=u16::MAX);
    let path = (duration(1000..=86_400_000), deny(), tunnel(), nat(), icmp);
    (host, path, limits()).prop_map(|(host, path, limits)| {
        let (name, attach, interfaces, paths, port) = host;
        let (hold, deny, tunnel, nat, (echo, rate)) = path;
        Edge {
            name,
            interfaces: interfaces.into_iter().collect(),
            attach,
            pin_dir: PathBuf::from(paths.0),
            socket: PathBuf::from(paths.1),
            metrics: ([127, 0, 0, 1], port).into(),
            hold,
            deny,
            tunnel,
            nat,
            icmp: IcmpPolicy { echo, rate },
            limits,
        }
    })
}

/// How the endpoints of any service are spoken to.
fn upstream() -> impl Strategy<Value = Upstream> {
    let protocols = prop::sample::select(vec![UpstreamProtocol::Http1, UpstreamProtocol::Http2]);
    let headers = option::of(prop::sample::select(vec![
        ProxyProtocol::V1,
        ProxyProtocol::V2,
    ]));
    (
        protocols,
        duration(1..=60_000),
        duration(1000..=3_600_000),
        option::of(1..=100_000u32),
        headers,
    )
        .prop_map(
            |(protocol, connect_timeout, idle_timeout, connections, proxy_protocol)| Upstream {
                service: "".into(),
                protocol,
                tls: None,
                connect_timeout,
                idle_timeout,
                connections,
                proxy_protocol,
            },
        )
}

/// Any configuration that is valid.
pub(super) fn config() -> impl Strategy<Value = Config> {
    let sites = prop::collection::btree_map(name(), 1..=1000u32, 1..5);
    (
        edge(),
        sites,
        vec(service_seed(), 0..6),
        1..=4096usize,
        upstream(),
    )
        .prop_map(|(edge, sites, seeds, probe_concurrency, upstream)| {
            let sites: Vec<_> = sites
                .into_iter()
                .map(|(name, weight)| Site {
                    name: name.into(),
                    weight,
                })
                .collect();
            let services = seeds.into_iter().enumerate();
            let services: Vec<_> = services
                .map(|(index, seed)| service(index, seed, &sites))
                .collect();
            let asked = services
                .iter()
                .filter(|it| it.protocol == Protocol::Tcp && !it.endpoints.is_empty());
            let upstreams = asked.map(|service| Upstream {
                service: service.name.clone(),
                ..upstream.clone()
            });
            let l7 = L7 {
                upstreams: upstreams.collect(),
                ..L7::default()
            };
            Config {
                edge,
                model: Model { sites, services },
                l7,
                probe_concurrency,
            }
        })
}
