//! Clients and servers that see every byte.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    edge::{Shared, soon},
    peers,
};

/// A server of HTTP/1 that keeps what it was sent and answers every request with
/// its number on the connection, without reading heads as anyone else does: it
/// answers whenever an empty line came.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Shared<Vec<u8>>,
}

impl Recorder {
    pub async fn start() -> Self {
        Self::with(true).await
    }

    /// One that never answers.
    pub async fn start_silent() -> Self {
        Self::with(false).await
    }

    async fn with(answers: bool) -> Self {
        let seen = Shared::<Vec<u8>>::default();
        let sink = seen.clone();
        let address = peers::raw(move |mut stream| {
            let seen = sink.clone();
            async move {
                let (mut own, mut answered) = (Vec::new(), 0);
                let mut buffer = [0; 16 * 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    seen.lock().expect("no panic").extend_from_slice(&buffer[..read]);
                    own.extend_from_slice(&buffer[..read]);
                    let heads = count(&own, b"\r\n\r\n");
                    while answers && answered < heads {
                        answered += 1;
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{answered}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        Self { address, seen }
    }

    /// All that came, as text.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic")).into_owned()
    }
}

fn count(bytes: &[u8], part: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, part).count()
}

/// Sends bytes and reads all that comes back until the other side ends. A reset
/// after an answer counts as an end.
pub async fn exchange(edge: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = peers::connect(edge).await;
    // The edge may end the connection before it read everything.
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// Everything up to the end.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until what came holds a text.
pub async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = Vec::new();
    soon(text, async {
        while memchr::memmem::find(&all, text.as_bytes()).is_none() {
            let read = stream.read_buf(&mut all).await.expect("more bytes");
            assert!(read > 0, "ended after {:?} without {text:?}", String::from_utf8_lossy(&all));
        }
    })
    .await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Answers every connection in the same way: reads a head, then writes.
pub async fn canned(answer: &'static [u8]) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into();
    peers::raw(move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut all = Vec::new();
            while memchr::memmem::find(&all, b"\r\n\r\n").is_none() {
                if !matches!(stream.read_buf(&mut all).await, Ok(1..)) {
                    return;
                }
            }
            let _ = stream.write_all(&answer).await;
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
        }
    })
    .await
}

/// Answers `ok` to requests without bodies, and counts connections.
pub async fn counted(connections: Arc<std::sync::atomic::AtomicU64>) -> SocketAddr {
    peers::raw(move |mut stream| {
        connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            let mut all = Vec::new();
            while let Ok(1..) = stream.read_buf(&mut all).await {
                while let Some(end) = memchr::memmem::find(&all, b"\r\n\r\n") {
                    all.drain(..end + 4);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await
}
