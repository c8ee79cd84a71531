//! A client's connection, as pingora is given it.
//!
//! It lets through no more of what the client sent than the request at hand has,
//! so that what pingora makes of a body's end cannot differ from what
//! [`guard`](super::guard) made of it, and what was sent ahead waits here for its
//! turn. Small writes become one. It holds no buffer while nothing is under way.

mod asked;

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use director_core::Now;
use futures::FutureExt as _;
use pingora_core::protocols::{Shutdown, SocketDigest, raw_connect::ProxyDigest, tls::SslDigest};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::guard::Chunks;

/// Bytes that writes are gathered up to: a record of TLS.
const GATHER: usize = 16 * 1024;
/// Bytes that are read at once ahead of their request.
const READ: usize = 4 * 1024;
/// Bytes that a client may send ahead of the response to a request.
const AHEAD: usize = 64 * 1024;
/// How long the end of a connection may take.
const CLOSING: Duration = Duration::from_secs(1);
/// What a client may still send after the last answer, so that it can read that.
const LINGER_BYTES: u64 = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);
/// How long resets of streams are remembered.
const RESET_WINDOW: Duration = Duration::from_secs(10);

/// What is known of a connection, for all of its requests.
#[derive(Debug)]
pub struct Peer {
    /// The client: of the socket, or as a PROXY header says.
    pub client: SocketAddr,
    /// Where it connected to, in the same manner.
    pub server: SocketAddr,
    pub tls: Option<TlsPeer>,
    /// Streams of HTTP/2 that the client gave up.
    pub resets: Resets,
    /// Set, the connection ends at its next read.
    pub doomed: AtomicBool,
}

impl Peer {
    /// What the client speaks, as URLs name it.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// How often something happened in the present window.
#[derive(Debug, Default)]
pub struct Resets(Mutex<(Now, u32)>);

impl Resets {
    /// Counts one more. Returns how many there were in the window before it.
    pub fn add(&self, now: Now) -> u32 {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, count) = &mut *window;
        if now.saturating_sub(*start) >= RESET_WINDOW {
            (*start, *count) = (now, 0);
        }
        *count += 1;
        *count - 1
    }
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
    /// Up to the end of a body in chunks.
    Chunks(Chunks),
    /// There is no end: HTTP/2, an upgraded connection.
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

    /// Whether the client may be sending what is not read any more.
    fn is_unfinished(&self) -> bool {
        let is_unread = match self.allowance {
            Allowance::Bytes(left) => left > 0 || !self.ahead.is_empty(),
            Allowance::Chunks(_) => true,
            Allowance::Unbounded => false,
        };
        is_unread && !self.at_end
    }

    /// Takes what the client is still sending. Closed with bytes unread, TCP would
    /// reset the connection, and the client might lose the answer by that.
    async fn linger(&mut self) {
        self.allowance = Allowance::Bytes(LINGER_BYTES);
        let mut buffer = [0; READ];
        let taken = async { while let Ok(1..) = self.read(&mut buffer).await {} };
        let _ = tokio::time::timeout(LINGER, taken).await;
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
        // rustls may hold plain text already.
        let mut is_ready = self.is_tls();
        loop {
            if is_ready && let Some(read) = self.fill().now_or_never() {
                self.at_end = read? == 0;
                return Ok(());
            }
            // It may say so without cause, and rustls may take what comes for itself.
            self.ahead = BytesMut::new();
            tcp(&self.transport).readable().await?;
            is_ready = true;
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

    /// As [`poll_transport`], up to the end of a body in chunks.
    fn poll_chunks(
        &mut self,
        mut chunks: Chunks,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(poll_transport(&mut self.transport, cx, buffer))?;
        } else {
            let given = self.split(buffer.remaining().min(self.ahead.len()));
            buffer.put_slice(&given);
        }
        let came = &buffer.filled()[start..];
        let own = chunks
            .read(came)
            .map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal))?;
        if own < came.len() {
            // What was ahead before is behind what comes first.
            let rest = std::mem::take(&mut self.ahead);
            self.ahead.extend_from_slice(&came[own..]);
            self.ahead.extend_from_slice(&rest);
            buffer.set_filled(start + own);
        }
        self.allowance = if chunks.is_done() {
            Allowance::Bytes(0)
        } else {
            Allowance::Chunks(chunks)
        };
        Poll::Ready(Ok(()))
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
            Allowance::Chunks(chunks) => return this.poll_chunks(chunks, cx, buffer),
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
