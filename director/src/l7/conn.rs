//! A client's connection, as pingora is given it.
//!
//! It lets through no more of what the client sent than the request at hand has,
//! so that what pingora makes of a body's end cannot differ from what
//! [`guard`](super::guard) made of it, and what was sent ahead waits here for its
//! turn. Small writes become one. It holds no buffer while nothing is under way.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use futures::FutureExt as _;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, raw_connect::ProxyDigest, tls::SslDigest,
};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// Bytes that writes are gathered up to: a record of TLS.
const GATHER: usize = 16 * 1024;
/// Bytes that are read at once ahead of their request.
const READ: usize = 4 * 1024;
/// Bytes that a client may send ahead of the response to a request.
const AHEAD: usize = 64 * 1024;
/// How long the end of a connection may take.
const CLOSING: Duration = Duration::from_secs(1);

/// What is known of a connection, for all of its requests.
#[derive(Debug)]
pub struct Peer {
    /// The client: of the socket, or as a PROXY header says.
    pub client: SocketAddr,
    /// Where it connected to, in the same manner.
    pub server: SocketAddr,
    pub tls: Option<TlsPeer>,
    /// Streams of HTTP/2 that the client gave up.
    pub resets: AtomicU32,
    /// Set, the connection ends at its next read.
    pub doomed: AtomicBool,
}

/// What TLS tells of a connection.
#[derive(Debug)]
pub struct TlsPeer {
    pub version: &'static str,
    pub cipher: String,
    /// SHA-256 of the client's certificate, which was verified; hexadecimal.
    pub certificate: Option<String>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How many more bytes may be read for the request at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// So many; what comes after waits.
    Bytes(u64),
    /// The reader finds the end itself: chunks, HTTP/2, an upgraded connection.
    Unbounded,
}

/// See the module's text.
#[derive(Debug)]
pub struct Conn {
    transport: Transport,
    /// Read, and not yet given on.
    ahead: BytesMut,
    /// To be written.
    gathered: BytesMut,
    allowance: Allowance,
    at_end: bool,
    is_h2: bool,
    peer: Arc<Peer>,
    digest: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    ssl: Option<Arc<SslDigest>>,
}

impl Conn {
    pub fn plain(stream: TcpStream, peer: Peer) -> Self {
        Self::new(Transport::Plain(stream), peer)
    }

    pub fn tls(stream: TlsStream<TcpStream>, peer: Peer) -> Self {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let mut conn = Self::new(Transport::Tls(Box::new(stream)), peer);
        conn.is_h2 = is_h2;
        conn
    }

    fn new(transport: Transport, peer: Peer) -> Self {
        let socket = SocketDigest::from_raw_fd(tcp(&transport).as_raw_fd());
        // Not asked of the socket, which knows only the last hop.
        let _ = socket.peer_addr.set(Some(peer.client.into()));
        let _ = socket.local_addr.set(Some(peer.server.into()));
        let ssl = peer.tls.as_ref().map(|tls| {
            let (cipher, version) = (tls.cipher.clone(), tls.version.to_owned());
            Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()))
        });
        let peer = Arc::new(peer);
        let none = ResponseHeader::build_no_case(200, Some(0))
            .unwrap_or_else(|_| unreachable!("200 is a status"));
        let digest = ProxyDigest::new(Box::new(none), Some(Box::new(peer.clone())));
        Self {
            transport,
            ahead: BytesMut::new(),
            gathered: BytesMut::new(),
            allowance: Allowance::Bytes(0),
            at_end: false,
            is_h2: false,
            peer,
            digest: Arc::new(digest),
            socket: Arc::new(socket),
            ssl,
        }
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn is_h2(&self) -> bool {
        self.is_h2
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// From now on it is HTTP/2, begun in plain text.
    pub fn set_h2(&mut self) {
        self.is_h2 = true;
        self.allowance = Allowance::Unbounded;
    }

    /// How much of the rest is the request at hand's.
    pub fn allow(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// What was read and not given on.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Takes the first `length` bytes of what was read and not given on.
    pub fn split(&mut self, length: usize) -> BytesMut {
        let taken = self.ahead.split_to(length);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        taken
    }

    /// Ends it as TLS asks for.
    pub async fn close(mut self: Box<Self>) {
        Shutdown::shutdown(&mut *self).await;
    }

    /// Waits until the client sends something or leaves, without a buffer.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.gathered = BytesMut::new();
        if !self.ahead.is_empty() || self.at_end {
            return Ok(());
        }
        if let Transport::Plain(stream) = &self.transport {
            return stream.readable().await;
        }
        loop {
            // rustls may hold plain text, or take what comes for itself.
            if let Some(read) = self.fill().now_or_never() {
                self.at_end = read? == 0;
                return Ok(());
            }
            self.ahead = BytesMut::new();
            tcp(&self.transport).readable().await?;
        }
    }

    /// Reads more ahead. Returns how many bytes came; 0 at the end.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.ahead.reserve(READ);
        match &mut self.transport {
            Transport::Plain(stream) => stream.read_buf(&mut self.ahead).await,
            Transport::Tls(stream) => stream.read_buf(&mut self.ahead).await,
        }
    }

    /// Reads into `ahead`, as far as there is room.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.ahead.reserve(READ);
        let mut buffer = ReadBuf::uninit(self.ahead.spare_capacity_mut());
        ready!(poll_transport(&mut self.transport, cx, &mut buffer))?;
        let read = buffer.filled().len();
        // SAFETY: the transport has filled that many bytes behind the length.
        unsafe { self.ahead.set_len(self.ahead.len() + read) };
        Poll::Ready(Ok(read))
    }

    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = match &mut self.transport {
                Transport::Plain(stream) => Pin::new(stream).poll_write(cx, &self.gathered),
                Transport::Tls(stream) => Pin::new(stream).poll_write(cx, &self.gathered),
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on while the request at hand is complete, to see the client leave.
    fn poll_beyond(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.at_end {
            if self.ahead.len() >= AHEAD {
                // It is woken no more until the response is done.
                return Poll::Pending;
            }
            if ready!(self.poll_ahead(cx))? == 0 {
                self.at_end = true;
            }
        }
        if self.ahead.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            // Requests that it sent before it stopped sending are still answered.
            Poll::Pending
        }
    }
}

fn tcp(transport: &Transport) -> &TcpStream {
    match transport {
        Transport::Plain(stream) => stream,
        Transport::Tls(stream) => stream.get_ref().0,
    }
}

fn poll_transport(
    transport: &mut Transport,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match transport {
        Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
        Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.peer.doomed.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let most = match this.allowance {
            Allowance::Bytes(0) => return this.poll_beyond(cx),
            Allowance::Bytes(most) => usize::try_from(most).unwrap_or(usize::MAX),
            Allowance::Unbounded => usize::MAX,
        };
        let most = most.min(buffer.remaining());
        let read = if this.ahead.is_empty() {
            let mut part = buffer.take(most);
            ready!(poll_transport(&mut this.transport, cx, &mut part))?;
            let read = part.filled().len();
            // SAFETY: `part` is the front of the unfilled part of `buffer`, and its
            // first `read` bytes were filled.
            unsafe { buffer.assume_init(read) };
            buffer.advance(read);
            read
        } else {
            let given = this.split(most.min(this.ahead.len()));
            buffer.put_slice(&given);
            given.len()
        };
        if let Allowance::Bytes(left) = &mut this.allowance {
            *left -= read as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() + data.len() <= GATHER {
            this.gathered.extend_from_slice(data);
            return Poll::Ready(Ok(data.len()));
        }
        ready!(this.poll_gathered(cx))?;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gathered(cx))?;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gathered(cx))?;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // A client that takes nothing more does not keep us.
        let _ = tokio::time::timeout(CLOSING, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for Conn {
    fn id(&self) -> i32 {
        tcp(&self.transport).as_raw_fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_h2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Conn {}
