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
    Service, ServicePlan,
    l7::{EndpointLoad, PoolView, ProxyProtocol, Upstream, UpstreamProtocol},
};
use pingora_core::{
    ErrorType, OrErr as _, Result,
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr as L4Address, stream::Stream},
    upstreams::peer::{ALPN, HttpPeer},
    utils::tls::CertKey,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::conn::Peer;
use crate::{proxy_protocol, tls::UpstreamMaterial};

/// Requests at once on a connection of HTTP/2 to a server.
const STREAMS: usize = 128;
/// Connection errors in a row that make an endpoint suspect.
const SUSPECT: u32 = 3;

/// The endpoints of a service. They stay the same until a reload; what is to be
/// done with them changes with every plan.
pub struct Pool {
    pub service: Arc<str>,
    /// In the order of plans: by name, address and port.
    pub members: Vec<Member>,
    /// Names of the members' sites.
    pub sites: Vec<Arc<str>>,
    plan: ArcSwap<Planned>,
    upstream: Upstream,
}

/// What the plan in force says.
pub struct Planned {
    pub view: PoolView,
    pub table: Arc<[u16]>,
}

/// One endpoint.
pub struct Member {
    pub name: Arc<str>,
    /// Index into [`Pool::sites`].
    pub site: usize,
    pub address: SocketAddr,
    pub load: Arc<EndpointLoad>,
    /// Connection errors in a row.
    errors: AtomicU32,
    peer: HttpPeer,
}

impl Member {
    /// Notes that it could not be connected to, or did not answer. Returns whether
    /// it has become suspect by that.
    pub fn failed(&self) -> bool {
        (self.errors.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(SUSPECT)
    }

    /// Notes that it answered.
    pub fn answered(&self) {
        // Read first: a store would take the cache line from other threads.
        if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
    }
}

impl Pool {
    /// The endpoints of `service`, with what is remembered of those that `old` has
    /// too.
    pub fn new(
        service: &Service,
        upstream: &Upstream,
        material: Option<&UpstreamMaterial>,
        old: Option<&Self>,
    ) -> Self {
        let mut endpoints: Vec<_> = service.endpoints.iter().collect();
        endpoints.sort_by_key(|e| (&e.name, e.address, e.port));
        let known: HashMap<_, _> = old
            .into_iter()
            .flat_map(|old| &old.members)
            .map(|member| ((&member.name, member.address), &member.load))
            .collect();
        let mut sites: Vec<Arc<str>> = Vec::new();
        let template = template(upstream, material);
        let members = endpoints.into_iter().map(|endpoint| {
            let site = sites.iter().position(|site| *site == endpoint.site);
            let site = site.unwrap_or_else(|| {
                sites.push(endpoint.site.clone());
                sites.len() - 1
            });
            let address = SocketAddr::new(endpoint.address, endpoint.port);
            let load = known.get(&(&endpoint.name, address)).copied().cloned();
            Member {
                name: endpoint.name.clone(),
                site,
                address,
                load: load.unwrap_or_default(),
                errors: AtomicU32::new(0),
                peer: HttpPeer {
                    _address: address.into(),
                    ..template.clone()
                },
            }
        });
        let members: Vec<_> = members.collect();
        let pool = Self {
            service: service.name.clone(),
            members,
            sites,
            plan: ArcSwap::from_pointee(Planned {
                view: PoolView::new(&[]),
                table: Arc::default(),
            }),
            upstream: upstream.clone(),
        };
        if let Some(old) = old
            && old.members.iter().map(|m| (&m.name, m.address)).eq(pool.members.iter().map(|m| (&m.name, m.address)))
        {
            pool.plan.store(old.plan.load_full());
        }
        pool
    }

    /// Takes up a plan; one of another configuration is left out, since another
    /// follows it.
    pub fn apply(&self, plan: &ServicePlan) {
        let ours = self.members.iter().map(|m| (&m.name, m.address));
        let theirs = plan.endpoints.iter();
        if !ours.eq(theirs.map(|e| (&e.name, SocketAddr::new(e.address, e.port)))) {
            return;
        }
        self.plan.store(Arc::new(Planned {
            view: PoolView::new(&plan.endpoints),
            table: plan.table.clone(),
        }));
    }

    pub fn planned(&self) -> arc_swap::Guard<Arc<Planned>> {
        self.plan.load()
    }

    pub fn index_of(&self, endpoint: &str) -> Option<usize> {
        self.members.iter().position(|member| *member.name == *endpoint)
    }

    /// Whether the member may take another request.
    pub fn has_room(&self, member: &Member) -> bool {
        self.upstream.connections.is_none_or(|most| member.load.in_flight() < most)
    }

    /// How a member is connected to for a client's request to `host`.
    pub fn peer(&self, member: &Member, client: &Peer, host: &str, silence: Duration) -> Box<HttpPeer> {
        let mut peer = Box::new(member.peer.clone());
        peer.options.read_timeout = Some(silence);
        peer.options.write_timeout = Some(silence);
        if peer.is_tls() && peer.sni.is_empty() {
            host.clone_into(&mut peer.sni);
        }
        if let Some(version) = self.upstream.proxy_protocol {
            let header = proxy_protocol::write(version, client.client, client.server);
            // What the header says is true of one client connection only.
            peer.group_key = hash(&(client.client, client.server));
            peer.options.custom_l4 = Some(Arc::new(WithHeader {
                header,
                timeout: self.upstream.connect_timeout,
            }));
        }
        peer
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
        if let Some(authorities) = &material.authorities {
            let authorities = authorities.iter().map(|der| super::tls::x509(der.clone()));
            options.ca = Some(authorities.collect());
        }
        if let Some((chain, key)) = &material.client {
            peer.client_cert_key = Some(Arc::new(CertKey::new(chain.clone(), key.clone())));
        }
    }
    peer
}

fn hash(value: &impl std::hash::Hash) -> u64 {
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
        let address = address.as_inet().or_err(ErrorType::ConnectError, "an endpoint has an IP address")?;
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
