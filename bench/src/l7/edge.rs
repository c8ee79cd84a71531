//! Our proxy, as a process of its own: what the benchmark runs itself as.

use std::{convert::Infallible, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use director_core::{
    Adopted, Command, Core, CoreOptions, Endpoint, EndpointState, Event, HealthPolicy, Mode, Model,
    Protocol, Service, Site, Steering,
    breaker::BreakerPolicy,
    l7::{
        self, AccessLog, Action, CertificateFiles, Forward, Forwarded, HeaderEdits, HttpLimits, L7,
        Listener, Matches, Retry, Route, RouteBreaker, Tls, Upstream, UpstreamProtocol,
    },
};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SITE: &str = "dc01";

/// What the proxy does besides proxying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Features {
    /// Nothing that can be turned off.
    Bare,
    /// What is on unless it is configured otherwise: request IDs, trace context,
    /// `X-Forwarded-*`, breakers.
    Default,
    /// That, and an access log of every request.
    Everything,
}

impl Features {
    /// As an argument.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Default => "default",
            Self::Everything => "everything",
        }
    }
}

/// See [`serve`].
#[derive(Args, Debug)]
pub struct Options {
    /// Port of plain text.
    #[arg(long)]
    plain: u16,
    /// Port of TLS.
    #[arg(long)]
    tls: u16,
    /// Port of the servers.
    #[arg(long)]
    upstream: u16,
    #[arg(long)]
    threads: u16,
    /// Where the certificate is, and the access log goes to.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, value_enum)]
    features: Features,
}

/// Serves on the loopback interface until the process is ended.
///
/// # Errors
/// When a port cannot be bound, or the certificate not read.
pub fn serve(options: &Options) -> Result<Infallible> {
    let ports = [("plain", options.plain), ("tls", options.tls)];
    let services = ports.map(|(name, port)| service(name, port, options.upstream));
    let model = Model {
        sites: vec![Site {
            name: SITE.into(),
            weight: 1,
        }],
        services: services.to_vec(),
    };
    let l7 = L7 {
        listeners: services.iter().map(|it| listener(it, options)).collect(),
        upstreams: services.iter().map(upstream).collect(),
        access_log: (options.features == Features::Everything).then(|| AccessLog {
            path: options.directory.join("access.log"),
            one_in: 1,
        }),
        threads: Some(options.threads),
        ..L7::default()
    };
    let mut core = Core::new(CoreOptions::default());
    // Taken for healthy without a probe. Before there is a model nothing is commanded.
    let adopted = services.map(|service| Adopted {
        service: service.name,
        address: LOOPBACK,
        port: options.upstream,
        state: EndpointState::Active,
    });
    let _ = core.handle(Event::Adopted(adopted.to_vec()), Duration::ZERO);
    let commands = core.handle(Event::Model(model.clone()), Duration::ZERO);
    let (proxy, mut signals) = director::l7::Proxy::start(&model, &l7)?;
    for command in commands {
        if let Command::Apply(plan) = command {
            proxy.apply(&plan);
        }
    }
    loop {
        let signal = signals.blocking_recv();
        signal.ok_or_else(|| anyhow!("the proxy ended"))?;
    }
}

fn service(name: &str, port: u16, upstream: u16) -> Service {
    Service {
        name: name.into(),
        vip: LOOPBACK,
        port,
        protocol: Protocol::Tcp,
        mode: Mode::Proxy,
        steering: Steering::default(),
        health: HealthPolicy::default(),
        endpoints: vec![Endpoint {
            name: "server".into(),
            site: SITE.into(),
            address: LOOPBACK,
            port: upstream,
            weight: 1,
            server_id: None,
        }],
    }
}

fn listener(service: &Service, options: &Options) -> Listener {
    let is_bare = options.features == Features::Bare;
    let file = |name| options.directory.join(name);
    Listener {
        service: service.name.clone(),
        address: service.vip,
        port: service.port,
        tls: (service.port == options.tls).then(|| Tls {
            certificates: vec![CertificateFiles {
                certificate: file("certificate.pem"),
                key: file("key.pem"),
            }],
            tls12: false,
            client_auth: None,
        }),
        http2: true,
        proxy_protocol_from: Vec::new(),
        trusted: Vec::new(),
        forwarded: if is_bare {
            Forwarded::None
        } else {
            Forwarded::default()
        },
        request_id: (!is_bare).then(|| "x-request-id".into()),
        traceparent: !is_bare,
        limits: HttpLimits::default(),
        routes: vec![Route {
            name: "all".into(),
            matches: Matches::default(),
            action: Action::Forward(Box::new(forward(service, is_bare))),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            tier: 1,
            rate: None,
        }],
    }
}

fn forward(service: &Service, is_bare: bool) -> Forward {
    let never = BreakerPolicy {
        consecutive_failures: 0,
        failure_percent: 101,
        ..BreakerPolicy::default()
    };
    let policy = if is_bare {
        never
    } else {
        BreakerPolicy::default()
    };
    Forward {
        pool: service.name.clone(),
        rewrite: None,
        host: None,
        affinity: l7::Affinity::None,
        retry: Retry::default(),
        timeout: None,
        stream_idle: Duration::from_secs(600),
        hedge_after: None,
        breaker: RouteBreaker {
            site: policy,
            endpoint: policy,
            max_ejection_percent: 50,
            pending: 0,
        },
        adaptive: None,
        cache: None,
        fallback: None,
        retry_after: Duration::from_secs(5),
    }
}

fn upstream(service: &Service) -> Upstream {
    Upstream {
        service: service.name.clone(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        connections: None,
        proxy_protocol: None,
    }
}
