//! One client's connection, from its first byte to its last.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use director_core::l7::Network;
use http::StatusCode;
use pingora_core::{
    apps::{HttpServerApp as _, ServerApp as _},
    protocols::http::ServerSession,
};
use pingora_proxy::HttpProxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{
    conn::{Allowance, Conn, Peer, Resets, TlsPeer},
    guard::{self, Chunks, Framing, GuardLimits, Refusal},
    request::App,
    slot::{ListenerView, Slot},
};
use crate::proxy_protocol::{self, Parse};

/// The first bytes of HTTP/2 (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The shortest PROXY header: `PROXY UNKNOWN` with its line's end.
const SHORTEST_PROXY_HEADER: usize = 15;
/// How long the answer to a refused request may take.
const SAYING: Duration = Duration::from_secs(1);

/// Why a connection ended before it was a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Early {
    /// It sent nothing, or left in the middle.
    Gone,
    Timeout,
    ProxyHeader,
    Tls,
}

impl Early {
    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
        }
    }
}

/// Serves a connection until either side ends it.
pub async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    slot: Arc<Slot>,
    proxy: Arc<HttpProxy<App>>,
    shutdown: watch::Receiver<bool>,
) {
    let view = slot.view();
    let mut conn = match establish(stream, remote, &slot, &view).await {
        Ok(conn) => conn,
        Err(early) => {
            slot.metrics.early(early.label());
            return;
        }
    };
    // What was agreed at the start holds for a connection of HTTP/2.
    if conn.is_h2() {
        let limit = view.config.limits.header_timeout;
        drop(view);
        match timeout(limit, preface(&mut conn)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return slot.metrics.early(Early::Gone.label()),
            Err(_) => return slot.metrics.early(Early::Timeout.label()),
        }
        conn.set_h2();
        proxy.process_new(Box::new(conn), &shutdown).await;
        return;
    }
    drop(view);
    requests(Box::new(conn), &slot, &proxy, shutdown).await;
}

/// Waits for the first bytes of HTTP/2: what reads them from here on waits for them
/// without end.
async fn preface(conn: &mut Conn) -> io::Result<()> {
    while conn.ahead().len() < H2_PREFACE.len() {
        if conn.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// PROXY header and TLS.
async fn establish(
    mut stream: TcpStream,
    remote: SocketAddr,
    slot: &Slot,
    view: &ListenerView,
) -> Result<Conn, Early> {
    let limit = view.config.limits.header_timeout;
    // Gathered by `Conn` instead.
    let _ = stream.set_nodelay(true);
    let mut peer = Peer {
        client: remote,
        server: stream.local_addr().map_err(|_| Early::Gone)?,
        tls: None,
        resets: Resets::default(),
        doomed: false.into(),
    };
    if Network::any_contains(&view.config.proxy_protocol_from, remote.ip()) {
        let read = timeout(limit, proxy_header(&mut stream));
        let header = read.await.map_err(|_| Early::Timeout)??;
        peer.client = header.source.unwrap_or(peer.client);
        peer.server = header.destination.unwrap_or(peer.server);
    }
    let Some(config) = slot.tls() else {
        return Ok(Conn::plain(stream, peer));
    };
    let accepted = timeout(limit, TlsAcceptor::from(config).accept(stream));
    let stream = match accepted.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(client = %peer.client, "TLS handshake: {error}");
            return Err(Early::Tls);
        }
        Err(_) => return Err(Early::Timeout),
    };
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let suite = session.negotiated_cipher_suite();
    peer.tls = Some(TlsPeer {
        version,
        cipher: suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        certificate: session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| fingerprint(certificate)),
    });
    Ok(Conn::tls(stream, peer))
}

/// SHA-256 in hexadecimal.
fn fingerprint(certificate: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(certificate);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a PROXY header and not a byte beyond it.
async fn proxy_header(stream: &mut TcpStream) -> Result<proxy_protocol::Header, Early> {
    let mut bytes = vec![0; SHORTEST_PROXY_HEADER];
    stream
        .read_exact(&mut bytes)
        .await
        .map_err(|_| Early::Gone)?;
    loop {
        match proxy_protocol::parse(&bytes) {
            Parse::Done { header, .. } => return Ok(header),
            Parse::Invalid(reason) => {
                tracing::debug!("PROXY header: {reason}");
                return Err(Early::ProxyHeader);
            }
            Parse::Incomplete => {
                let start = bytes.len();
                bytes.resize(start + missing(&bytes), 0);
                let read = stream.read_exact(&mut bytes[start..]);
                read.await.map_err(|_| Early::Gone)?;
            }
        }
    }
}

/// Bytes that the beginning of a PROXY header surely lacks.
fn missing(bytes: &[u8]) -> usize {
    // Version 2 says its length in the last of its first 16 bytes.
    match bytes {
        [13, 10, 13, ..] if bytes.len() < 16 => 16 - bytes.len(),
        [13, 10, 13, ..] => {
            let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            length
                .min(proxy_protocol::V2_BYTES + 1)
                .saturating_sub(bytes.len())
                .max(1)
        }
        _ => 1,
    }
}

/// Requests of HTTP/1, one after the other.
async fn requests(
    mut conn: Box<Conn>,
    slot: &Arc<Slot>,
    proxy: &Arc<HttpProxy<App>>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let view = slot.view();
        if !awaited(&mut conn, view.config.limits.idle_timeout, &mut shutdown).await {
            return conn.close().await;
        }
        let head = match head(&mut conn, &view).await {
            Ok(Some(head)) => head,
            Ok(None) => {
                // HTTP/2 in plain text.
                drop(view);
                conn.set_h2();
                proxy.process_new(conn, &shutdown).await;
                return;
            }
            Err(Refused::Gone) => return,
            Err(Refused::Because(refusal)) => {
                slot.metrics.refused(refusal);
                return refuse(conn, refusal.status(), &refusal).await;
            }
            Err(Refused::Late) => {
                slot.metrics.early(Early::Timeout.label());
                return refuse(conn, 408, &"the head of a request took too long").await;
            }
        };
        conn.allow(match head.framing {
            // What follows is another protocol, if the server agrees to it.
            _ if head.is_upgrade => Allowance::Unbounded,
            Framing::None => Allowance::Bytes(0),
            Framing::Length(length) => Allowance::Bytes(length),
            Framing::Chunked => Allowance::Chunks(Chunks::default()),
        });
        let bytes = conn.split(head.length);
        let body_timeout = view.config.limits.body_timeout;
        drop(view);
        let mut session = ServerSession::new_http1(conn);
        session.set_pipelined_prefix(bytes);
        // How long a connection is kept is decided above; pingora only says so.
        session.set_keepalive((!*shutdown.borrow()).then_some(60));
        session.set_read_timeout(Some(body_timeout));
        session.set_write_timeout(Some(body_timeout));
        let Some(reused) = proxy.process_new_http(session, &shutdown).await else {
            return;
        };
        let (stream, _) = reused.consume();
        let Ok(next) = stream.into_any().downcast::<Conn>() else {
            return;
        };
        conn = next;
        if conn.peer().doomed.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Waits for the next request. `false`: there is none to come.
async fn awaited(conn: &mut Conn, idle: Duration, shutdown: &mut watch::Receiver<bool>) -> bool {
    if !conn.ahead().is_empty() {
        return true;
    }
    tokio::select! {
        biased;
        readable = timeout(idle, conn.readable()) => matches!(readable, Ok(Ok(()))),
        _ = shutdown.wait_for(|is_over| *is_over) => false,
    }
}

enum Refused {
    Gone,
    Late,
    Because(Refusal),
}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// What of a request's head is needed to serve it.
struct Head {
    length: usize,
    framing: Framing,
    is_upgrade: bool,
}

/// Reads a request's head, whole; `None` when HTTP/2 begins.
async fn head(conn: &mut Conn, view: &ListenerView) -> Result<Option<Head>, Refused> {
    let limits = &view.config.limits;
    match timeout(limits.header_timeout, read_head(conn, view)).await {
        Ok(read) => read,
        Err(_) => Err(Refused::Late),
    }
}

async fn read_head(conn: &mut Conn, view: &ListenerView) -> Result<Option<Head>, Refused> {
    let limits = &view.config.limits;
    let limits = GuardLimits {
        head_bytes: limits.header_bytes as usize,
        fields: usize::from(limits.headers),
        body_bytes: limits.body_bytes,
    };
    let mut seen = 0;
    loop {
        let bytes = conn.ahead();
        if view.config.http2 && !conn.is_tls() && bytes.starts_with(b"PRI ") {
            if bytes.starts_with(H2_PREFACE) {
                return Ok(None);
            }
        } else if let Some(end) = guard::head_end(bytes, seen) {
            let head = guard::check(&bytes[..end], &limits).map_err(Refused::Because)?;
            return Ok(Some(Head {
                length: end,
                framing: head.framing,
                is_upgrade: head.upgrade.is_some(),
            }));
        }
        if bytes.len() > limits.head_bytes
            && let Err(refusal) = guard::check(bytes, &limits)
        {
            return Err(Refused::Because(refusal));
        }
        seen = bytes.len();
        if conn.fill().await? == 0 {
            return Err(Refused::Gone);
        }
    }
}

/// Says why a request is not served, and ends the connection so that the client
/// can read it.
async fn refuse(mut conn: Box<Conn>, status: u16, why: &(dyn std::fmt::Display + Sync)) {
    tracing::debug!(client = %conn.peer().client, "request refused: {why}");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = format!("{why}\n");
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = timeout(SAYING, conn.write_all(response.as_bytes())).await;
    // All that comes is unread from here on.
    conn.allow(Allowance::Bytes(u64::MAX));
    conn.close().await;
}
