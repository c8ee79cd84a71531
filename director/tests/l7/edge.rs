//! An edge proxy in this process, with the plans that its core makes.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use director::l7::{Proxy, Signal};
use director_core::{
    Adopted, Command, Core, CoreOptions, Endpoint, EndpointRef, EndpointState, Event, Failure, HealthPolicy, Mode,
    Model, Protocol, Service, Site, Steering, Target,
    breaker::BreakerPolicy,
    l7::{
        Action, Affinity, Forward, Forwarded, HeaderEdits, HttpLimits, L7, Listener, Matches, Retry, Route,
        RouteBreaker, Upstream, UpstreamProtocol,
    },
};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

/// The one service.
pub const SERVICE: &str = "shop";
/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an edge is to be; begins with defaults that are out of the way.
pub struct Builder {
    servers: Vec<(String, String, SocketAddr)>,
    listener: Listener,
    forward: Forward,
    upstream: Upstream,
    rest: L7,
}

impl Builder {
    /// Adds a server to a site.
    pub fn server(mut self, site: &str, name: &str, address: SocketAddr) -> Self {
        self.servers.push((site.to_owned(), name.to_owned(), address));
        self
    }

    /// Changes the listener. Its routes are the default one where none is set.
    pub fn listener(mut self, change: impl FnOnce(&mut Listener)) -> Self {
        change(&mut self.listener);
        self
    }

    pub fn limits(self, change: impl FnOnce(&mut HttpLimits)) -> Self {
        self.listener(|listener| change(&mut listener.limits))
    }

    /// Changes how the default route forwards.
    pub fn forward(mut self, change: impl FnOnce(&mut Forward)) -> Self {
        change(&mut self.forward);
        self
    }

    pub fn upstream(mut self, change: impl FnOnce(&mut Upstream)) -> Self {
        change(&mut self.upstream);
        self
    }

    /// Servers speak HTTP/2.
    pub fn h2_servers(self) -> Self {
        self.upstream(|upstream| upstream.protocol = UpstreamProtocol::Http2)
    }

    /// Changes what is of no listener.
    pub fn rest(mut self, change: impl FnOnce(&mut L7)) -> Self {
        change(&mut self.rest);
        self
    }

    pub fn start(self) -> Edge {
        let (held, address) = free_port();
        let mut listener = self.listener;
        listener.address = address.ip();
        listener.port = address.port();
        if listener.routes.is_empty() {
            listener.routes.push(route(Action::Forward(Box::new(self.forward))));
        }
        let model = model(address, &self.servers);
        let config = L7 { listeners: vec![listener], upstreams: vec![self.upstream], ..self.rest };
        let (proxy, signals) = Proxy::start(&model, &config).expect("the proxy starts");
        let mut edge = Edge {
            address,
            config,
            model,
            proxy: Some(proxy),
            signals,
            core: Core::new(CoreOptions::default()),
            born: Instant::now(),
            _held: held,
        };
        let adopted = edge.model.services[0].endpoints.iter().map(|endpoint| Adopted {
            service: SERVICE.into(),
            address: endpoint.address,
            port: endpoint.port,
            state: EndpointState::Active,
        });
        let adopted = adopted.collect();
        edge.tell(Event::Adopted(adopted));
        edge.tell(Event::Model(edge.model.clone()));
        edge
    }
}

/// A running edge; dropped, it stops.
pub struct Edge {
    pub address: SocketAddr,
    pub config: L7,
    pub model: Model,
    pub signals: mpsc::Receiver<Signal>,
    proxy: Option<Proxy>,
    core: Core,
    born: Instant,
    /// Keeps the port from others.
    _held: Socket,
}

impl Edge {
    /// An edge in front of one server, to be changed before it starts.
    pub fn to(server: SocketAddr) -> Builder {
        Self::empty().server("dc01", "a", server)
    }

    /// An edge in front of nothing.
    pub fn empty() -> Builder {
        Builder {
            servers: Vec::new(),
            listener: Listener {
                service: SERVICE.into(),
                address: Ipv4Addr::LOCALHOST.into(),
                port: 0,
                tls: None,
                http2: true,
                proxy_protocol_from: Vec::new(),
                trusted: Vec::new(),
                forwarded: Forwarded::XForwarded,
                request_id: Some("x-request-id".into()),
                traceparent: true,
                limits: HttpLimits::default(),
                routes: Vec::new(),
            },
            forward: forward(),
            upstream: Upstream {
                service: SERVICE.into(),
                protocol: UpstreamProtocol::Http1,
                tls: None,
                connect_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(60),
                connections: None,
                proxy_protocol: None,
            },
            rest: L7 {
                threads: Some(2),
                drain_limit: Duration::from_millis(100),
                ..L7::default()
            },
        }
    }

    pub fn proxy(&mut self) -> &mut Proxy {
        self.proxy.as_mut().expect("it runs")
    }

    /// Feeds the core, and carries out what it says of plans.
    pub fn tell(&mut self, event: Event) {
        for command in self.core.handle(event, self.born.elapsed()) {
            if let Command::Apply(plan) = command {
                self.proxy().apply(&plan);
            }
        }
    }

    /// Takes a site out of service, or back in.
    pub fn drain_site(&mut self, site: &str, on: bool) {
        self.tell(Event::Drain { target: Target::Site(site.into()), on });
    }

    /// Takes a server out of service, or back in.
    pub fn drain_server(&mut self, name: &str, on: bool) {
        self.tell(Event::Drain { target: Target::Endpoint(endpoint(name)), on });
    }

    /// Probes find a server down.
    pub fn down(&mut self, name: &str) {
        for _ in 0..HealthPolicy::default().fall {
            self.tell(Event::Probe { endpoint: endpoint(name), outcome: Err(Failure::Refused) });
        }
    }

    /// Probes find a server up again.
    pub fn up(&mut self, name: &str) {
        for _ in 0..HealthPolicy::default().rise {
            self.tell(Event::Probe { endpoint: endpoint(name), outcome: Ok(Duration::from_millis(1)) });
        }
    }

    /// Takes up a changed configuration.
    pub fn reload(&mut self, change: impl FnOnce(&mut L7)) -> anyhow::Result<()> {
        let mut config = self.config.clone();
        change(&mut config);
        let model = self.model.clone();
        self.proxy().reload(&model, &config)?;
        self.config = config;
        Ok(())
    }

    /// All metrics, as they are scraped.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        let registry = self.proxy.as_ref().expect("it runs").registry();
        prometheus_client::encoding::text::encode_registry(&mut text, registry).expect("metrics are text");
        text
    }

    /// Stops it as SIGTERM does. Returns how many connections were cut.
    pub async fn stop(mut self) -> usize {
        self.proxy.take().expect("it runs").drain().await
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let Some(proxy) = self.proxy.take() else { return };
        // On a thread of its own: the one at hand may belong to a runtime.
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(proxy.drain());
            runtime.shutdown_background();
        });
        let _ = stopped.join();
    }
}

/// A name in this service.
pub fn endpoint(name: &str) -> EndpointRef {
    EndpointRef { service: SERVICE.into(), endpoint: name.into() }
}

/// A route for all requests.
pub fn route(action: Action) -> Route {
    Route {
        name: "default".into(),
        matches: Matches::default(),
        action,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        tier: 1,
        rate: None,
    }
}

/// To the service's endpoints, with breakers that are hard to open.
pub fn forward() -> Forward {
    let patient = BreakerPolicy { consecutive_failures: 0, failure_percent: 101, ..BreakerPolicy::default() };
    Forward {
        pool: SERVICE.into(),
        rewrite: None,
        host: None,
        affinity: Affinity::None,
        retry: Retry::default(),
        timeout: None,
        stream_idle: Duration::from_secs(60),
        hedge_after: None,
        breaker: RouteBreaker { site: patient, endpoint: patient, max_ejection_percent: 50, pending: 0 },
        adaptive: None,
        cache: None,
        fallback: None,
        retry_after: Duration::from_secs(5),
    }
}

fn model(address: SocketAddr, servers: &[(String, String, SocketAddr)]) -> Model {
    let sites: BTreeMap<_, _> = servers.iter().map(|(site, ..)| (site.clone(), ())).collect();
    let sites = sites.keys().map(|name| Site { name: (**name).into(), weight: 1 });
    let endpoints = servers.iter().map(|(site, name, server)| Endpoint {
        name: (**name).into(),
        site: (**site).into(),
        address: server.ip(),
        port: server.port(),
        weight: 1,
        server_id: None,
    });
    let service = Service {
        name: SERVICE.into(),
        vip: address.ip(),
        port: address.port(),
        protocol: Protocol::Tcp,
        mode: Mode::Proxy,
        steering: Steering::default(),
        health: HealthPolicy::default(),
        endpoints: endpoints.collect(),
    };
    Model { sites: sites.collect(), services: vec![service] }
}

/// A port that no other test gets for as long as the socket is there. It does not
/// listen, so that connections go to those that do.
fn free_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.set_reuse_port(true).expect("an option");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a free port");
    let address = socket.local_addr().expect("an address").as_socket().expect("of IP");
    (socket, address)
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that must come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("not in {PATIENCE:?}: {what}"))
}

/// What tests share among tasks.
pub type Shared<T> = Arc<std::sync::Mutex<T>>;
