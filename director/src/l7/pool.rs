//! The endpoints of a service, as the proxy speaks to them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use director_core::{
    Now, PlannedEndpoint, ServicePlan,
    l7::{self, Upstream, UpstreamProtocol},
};
use pingora_core::{
    ErrorType, OkOrErr as _, OrErr as _, Result,
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr as L4Address, stream::Stream},
    upstreams::peer::{ALPN, HttpPeer},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::watch};

use super::{conn::Peer, gate::Gate};
use crate::{proxy_protocol, tls::UpstreamMaterial};

/// Requests at once on a connection of HTTP/2 to a server.
const STREAMS: usize = 128;
/// Longest that requests wait for a pool's first plan.
const FIRST_PLAN: Duration = Duration::from_secs(2);
/// Connection errors in a row that make an endpoint suspect.
const SUSPECT: u32 = 3;

/// The endpoints of a service. A plan replaces them all at once; a request keeps
/// those that it began with.
pub struct Pool {
    pub service: Arc<str>,
    current: ArcSwap<Endpoints>,
    /// How each is spoken to.
    upstream: ArcSwap<Spoken>,
    /// Whether there was a plan.
    planned: watch::Sender<bool>,
}

struct Spoken {
    upstream: Upstream,
    template: HttpPeer,
}

/// What the plan in force says.
pub struct Endpoints {
    pub picks: l7::Pool,
    /// In the order of the plan.
    members: Vec<Arc<Member>>,
    /// The share of the endpoints that take new requests, 0 to 1; 1 where there is
    /// none at all.
    pub left: f64,
}

/// What is remembered of an endpoint from plan to plan.
struct Member {
    /// Connection errors in a row.
    errors: AtomicU32,
    gate: Arc<Gate>,
}

impl Member {
    fn new(now: Now) -> Self {
        Self {
            errors: AtomicU32::new(0),
            gate: Arc::new(Gate::new(now)),
        }
    }
}

impl Endpoints {
    fn new(plan: &ServicePlan, old: Option<&Self>, now: Now) -> Self {
        let known: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| old.picks.endpoints().iter().zip(&old.members))
            .map(|(endpoint, member)| ((&endpoint.name, endpoint.address, endpoint.port), member))
            .collect();
        let members = plan.endpoints.iter().map(|endpoint| {
            let member = known.get(&(&endpoint.name, endpoint.address, endpoint.port));
            member
                .copied()
                .cloned()
                .unwrap_or_else(|| Arc::new(Member::new(now)))
        });
        let all = &plan.endpoints;
        let eligible = all.iter().filter(|endpoint| endpoint.is_eligible()).count();
        Self {
            left: if all.is_empty() {
                1.0
            } else {
                eligible as f64 / all.len() as f64
            },
            members: members.collect(),
            picks: old.map_or_else(|| l7::Pool::new(plan), |old| old.picks.carry(plan)),
        }
    }

    pub fn endpoint(&self, index: usize) -> &PlannedEndpoint {
        &self.picks.endpoints()[index]
    }

    /// The breaker of an endpoint.
    pub fn gate(&self, index: usize) -> &Arc<Gate> {
        &self.members[index].gate
    }

    /// Endpoints whose breakers are not closed.
    pub fn out(&self) -> usize {
        self.members
            .iter()
            .filter(|member| member.gate.is_out())
            .count()
    }

    /// Notes that an endpoint could not be connected to, or did not answer. Returns
    /// whether it has become suspect by that.
    pub fn failed(&self, index: usize) -> bool {
        let errors = &self.members[index].errors;
        (errors.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(SUSPECT)
    }

    /// Notes that an endpoint answered.
    pub fn answered(&self, index: usize) {
        // Read first: a store would take the cache line from other threads.
        let errors = &self.members[index].errors;
        if errors.load(Ordering::Relaxed) != 0 {
            errors.store(0, Ordering::Relaxed);
        }
    }
}

impl Pool {
    /// A pool without endpoints: its first plan brings them.
    pub fn new(
        service: &Arc<str>,
        upstream: &Upstream,
        material: Option<&UpstreamMaterial>,
        now: Now,
    ) -> Self {
        let nothing = ServicePlan {
            service: service.clone(),
            version: 0,
            endpoints: Vec::new(),
            table: Arc::default(),
        };
        Self {
            service: service.clone(),
            current: ArcSwap::from_pointee(Endpoints::new(&nothing, None, now)),
            upstream: ArcSwap::from_pointee(Spoken::new(upstream, material)),
            planned: watch::Sender::new(false),
        }
    }

    /// Takes up a plan.
    pub fn apply(&self, plan: &ServicePlan, now: Now) {
        let old = self.current.load();
        self.current
            .store(Arc::new(Endpoints::new(plan, Some(&old), now)));
        self.planned
            .send_if_modified(|planned| !std::mem::replace(planned, true));
    }

    /// Waits for the first plan, which comes with the first answer to a probe, but no
    /// longer than a client would for an answer.
    pub async fn first_plan(&self) {
        let mut planned = self.planned.subscribe();
        let planned = planned.wait_for(|planned| *planned);
        let _ = tokio::time::timeout(FIRST_PLAN, planned).await;
    }

    /// Whether there was a plan yet.
    pub fn is_planned(&self) -> bool {
        *self.planned.borrow()
    }

    /// From now on, its servers are spoken to in this way.
    pub fn speak(&self, upstream: &Upstream, material: Option<&UpstreamMaterial>) {
        self.upstream
            .store(Arc::new(Spoken::new(upstream, material)));
    }

    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.current.load_full()
    }

    /// Requests that one endpoint may have at once; `None`: any number.
    pub fn room(&self) -> Option<u32> {
        self.upstream.load().upstream.connections
    }

    /// How an endpoint is connected to for a client's request to `host`. Reads and
    /// writes may be silent for `silence`.
    pub fn peer(
        &self,
        endpoint: &PlannedEndpoint,
        client: &Peer,
        host: &str,
        silence: Duration,
    ) -> Box<HttpPeer> {
        let spoken = self.upstream.load();
        let mut peer = Box::new(spoken.template.clone());
        peer._address = SocketAddr::new(endpoint.address, endpoint.port).into();
        peer.options.read_timeout = Some(silence);
        peer.options.write_timeout = Some(silence);
        if peer.is_tls() && peer.sni.is_empty() {
            host.clone_into(&mut peer.sni);
        }
        if let Some(version) = spoken.upstream.proxy_protocol {
            let header = proxy_protocol::write(version, client.client, client.server);
            // What the header says is true of one client connection only.
            peer.group_key = hash(&(client.client, client.server));
            peer.options.custom_l4 = Some(Arc::new(WithHeader {
                header,
                timeout: spoken.upstream.connect_timeout,
            }));
        }
        peer
    }
}

impl Spoken {
    fn new(upstream: &Upstream, material: Option<&UpstreamMaterial>) -> Self {
        Self {
            upstream: upstream.clone(),
            template: template(upstream, material),
        }
    }
}

/// What members' peers have in common.
fn template(upstream: &Upstream, material: Option<&UpstreamMaterial>) -> HttpPeer {
    let tls = upstream.tls.as_ref();
    let name = tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or("");
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut peer = HttpPeer::new(nowhere, tls.is_some(), name.to_owned());
    let options = &mut peer.options;
    options.connection_timeout = Some(upstream.connect_timeout);
    options.total_connection_timeout = Some(upstream.connect_timeout * 2);
    options.idle_timeout = Some(upstream.idle_timeout);
    options.max_h2_streams = STREAMS;
    match upstream.protocol {
        UpstreamProtocol::Http1 => options.alpn = ALPN::H1,
        UpstreamProtocol::Http2 => options.alpn = ALPN::H2,
    }
    if let Some(material) = material {
        if let Some(authorities) = &material.ca {
            let authorities = authorities
                .iter()
                .map(|der| WrappedX509::new(der.to_vec(), parse_x509));
            options.ca = Some(authorities.collect());
        }
        if let Some(client) = &material.client {
            let chain = client.chain.iter().map(|der| der.to_vec()).collect();
            let key = client.key.secret_der().to_vec();
            peer.client_cert_key = Some(Arc::new(CertKey::new(chain, key)));
        }
    }
    peer
}

/// The same on every edge of one build: fixed keys, as `DefaultHasher` has.
pub fn hash(value: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Connects, and begins with a PROXY header.
#[derive(Debug)]
struct WithHeader {
    header: Vec<u8>,
    timeout: Duration,
}

#[async_trait]
impl Connect for WithHeader {
    async fn connect(&self, address: &L4Address) -> Result<Stream> {
        let address = address
            .as_inet()
            .or_err(ErrorType::ConnectError, "an endpoint has an IP address")?;
        let connected = tokio::time::timeout(self.timeout, async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream.write_all(&self.header).await?;
            std::io::Result::Ok(stream)
        });
        let stream = connected
            .await
            .or_err(ErrorType::ConnectTimedout, "connecting with a PROXY header")?
            .or_err(ErrorType::ConnectError, "connecting with a PROXY header")?;
        Ok(stream.into())
    }
}
