//! A server that answers as told, a proxy with the cache before it, and a client,
//! all on loopback.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::l7::cache::{self, Caching, Key};
use bytes::Bytes;
use director_core::l7::model::CachePolicy;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pingora_cache::{
    CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable, key::HashBinary,
};
use pingora_core::{
    Error, Result, apps::ServerApp, protocols::l4::stream::Stream,
    server::configuration::ServerConf, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub type Body = BoxBody<Bytes, std::io::Error>;
type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Handler = dyn Fn(Request<Incoming>) -> Answer + Send + Sync;

pub const POLICY: CachePolicy = CachePolicy {
    stale_if_error: Duration::from_secs(60),
    body_bytes: 200_000,
};

/// A response with a body and headers.
pub fn respond(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {});
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.boxed()).unwrap()
}

/// What a client got.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: HashMap<String, String>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// As if it had come with a body, for a request that gets none.
    pub fn with_body(mut self, body: &str) -> Self {
        assert_eq!(self.body, "");
        body.clone_into(&mut self.body);
        self
    }

    /// `Cache-Status`.
    pub fn cache(&self) -> &str {
        self.header("cache-status")
    }
}

pub struct World {
    pub caching: &'static Caching,
    proxy: SocketAddr,
    /// Methods, targets and headers of what the server was asked.
    pub asked: Arc<Mutex<Vec<http::request::Parts>>>,
    app: Arc<App>,
}

struct App {
    caching: &'static Caching,
    policy: CachePolicy,
    server: Mutex<SocketAddr>,
    answerable: AtomicBool,
}

impl World {
    pub async fn new<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::with(POLICY, 16 << 20, handler).await
    }

    pub async fn with<F, R>(policy: CachePolicy, limit: u64, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let asked = Arc::default();
        let server = serve(
            Arc::new(move |request| Box::pin(handler(request)) as Answer),
            Arc::clone(&asked),
        )
        .await;
        let caching: &'static Caching = Box::leak(Box::new(Caching::new(limit)));
        let app = Arc::new(App {
            caching,
            policy,
            server: Mutex::new(server),
            answerable: AtomicBool::new(true),
        });
        Self {
            caching,
            proxy: proxy(Arc::clone(&app)).await,
            asked,
            app,
        }
    }

    /// How often the server was asked.
    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// A header of what the server was asked last.
    pub fn asked_last(&self, name: &str) -> Option<String> {
        let asked = self.asked.lock().unwrap();
        let value = asked.last().unwrap().headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }

    /// From now on connections to the server are refused.
    pub async fn down(&self) {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.ask_at(closed.local_addr().unwrap());
    }

    /// From now on another server is asked.
    pub fn ask_at(&self, server: SocketAddr) {
        *self.app.server.lock().unwrap() = server;
    }

    /// Whether any server may be asked, as a breaker would say.
    pub fn answerable(&self, may: bool) {
        self.app.answerable.store(may, Ordering::Relaxed);
    }

    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", target, headers).await
    }

    pub async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.unwrap();
        parse(&String::from_utf8(raw).unwrap())
    }
}

fn parse(raw: &str) -> Reply {
    let (head, mut rest) = raw.split_once("\r\n\r\n").unwrap_or((raw, ""));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = String::new();
    if headers.contains_key("transfer-encoding") {
        while let Some((size, data)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 || data.len() < size {
                break;
            }
            body += &data[..size];
            rest = data[size..].trim_start_matches("\r\n");
        }
    } else {
        body += rest;
    }
    Reply {
        status: status.unwrap(),
        headers,
        body,
    }
}

async fn serve(handler: Arc<Handler>, asked: Arc<Mutex<Vec<http::request::Parts>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (handler, asked) = (Arc::clone(&handler), Arc::clone(&asked));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (parts, body) = request.into_parts();
                asked.lock().unwrap().push(parts.clone());
                let answer = handler(Request::from_parts(parts, body));
                async { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

async fn proxy(app: Arc<App>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Arc::new(pingora_proxy::http_proxy(
        &Arc::new(ServerConf::default()),
        Hooks(app),
    ));
    tokio::spawn(async move {
        let (_stop, watch) = watch::channel(false);
        while let Ok((stream, _)) = listener.accept().await {
            let (proxy, watch) = (Arc::clone(&proxy), watch.clone());
            let stream: Stream = stream.into();
            tokio::spawn(async move { proxy.process_new(Box::new(stream), &watch).await });
        }
    });
    address
}

struct Hooks(Arc<App>);

fn key(session: &Session) -> CacheKey {
    Key {
        listener: "l",
        route: "r",
        pool: "p",
        scheme: "http",
        host: "a",
    }
    .of(session.req_header())
}

#[async_trait::async_trait]
impl ProxyHttp for Hooks {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let server = *self.0.server.lock().unwrap();
        let mut peer = HttpPeer::new(server, false, String::new());
        // A connection that is kept would outlive `World::down`.
        peer.options.idle_timeout = Some(Duration::ZERO);
        Ok(Box::new(peer))
    }

    fn request_cache_filter(&self, session: &mut Session, (): &mut ()) -> Result<()> {
        self.0.caching.enable(session, &self.0.policy);
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, (): &mut ()) -> Result<CacheKey> {
        Ok(key(session))
    }

    fn cache_miss(&self, session: &mut Session, (): &mut ()) {
        self.0.caching.miss(session);
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        hit: &mut HitHandler,
        fresh: bool,
        (): &mut (),
    ) -> Result<Option<ForcedFreshness>> {
        let answerable = self.0.answerable.load(Ordering::Relaxed);
        let request = session.req_header();
        Ok(self.0.caching.hit(request, meta, hit, fresh, answerable))
    }

    async fn proxy_upstream_filter(&self, session: &mut Session, (): &mut ()) -> Result<bool> {
        if cache::only_if_cached(session.req_header()) {
            session.respond_error(504).await?;
            return Ok(false);
        }
        Ok(true)
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        (): &mut (),
    ) -> Result<RespCacheable> {
        let request = session.req_header();
        Ok(cache::cacheable(&self.0.policy, request, response))
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        (): &mut (),
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        cache::variance(meta, request)
    }

    fn should_serve_stale(
        &self,
        session: &mut Session,
        (): &mut (),
        error: Option<&Error>,
    ) -> bool {
        let statuses = [502, 503, 504];
        self.0.caching.serve_stale(session, error, &statuses)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        (): &mut (),
    ) -> Result<()> {
        if cache::invalidates(session.req_header(), response.status.as_u16()) {
            self.0.caching.store().forget(&key(session));
        }
        cache::tell(&session.cache, response)
    }
}
