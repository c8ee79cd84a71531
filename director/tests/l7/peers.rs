//! Servers behind the edge and clients in front of it, of hyper.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use crate::edge::soon;

pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body whose parts are sent to it; it ends when the sender is dropped.
pub fn streamed(parts: usize) -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(parts);
    let parts = futures::stream::unfold(receiver, |mut receiver| async move {
        let part = receiver.recv().await?;
        Some((Ok(hyper::body::Frame::data(part)), receiver))
    });
    (sender, http_body_util::StreamBody::new(parts).boxed_unsync())
}

/// Serves HTTP/1 on a free port until the runtime ends.
pub async fn serve<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = Arc::new(answer);
    raw(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).max_buf_size(256 * 1024);
            let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    })
    .await
}

/// Serves HTTP/2 by prior knowledge on a free port until the runtime ends.
pub async fn serve_h2<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = Arc::new(answer);
    raw(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// Hands every connection to a free port to `serve`.
pub async fn raw<F, S>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A client's connection of either version.
pub enum Client {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Client {
    /// HTTP/1.1 in plain text.
    pub async fn one(edge: SocketAddr) -> Self {
        Self::one_over(connect(edge).await).await
    }

    /// HTTP/2 in plain text.
    pub async fn two(edge: SocketAddr) -> Self {
        Self::two_over(connect(edge).await).await
    }

    pub async fn one_over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let client = http1::Builder::new().max_buf_size(256 * 1024).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = client.expect("HTTP/1");
        tokio::spawn(connection.with_upgrades());
        Self::One(sender)
    }

    pub async fn two_over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let client = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = client.expect("HTTP/2");
        tokio::spawn(connection);
        Self::Two(sender)
    }

    /// Sends a request. Its URI is a path; the host is added.
    pub async fn try_send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        soon("an answer", async {
            match self {
                Self::One(client) => {
                    request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("shop.example"));
                    client.ready().await?;
                    client.send_request(request).await
                }
                Self::Two(client) => {
                    let path = request.uri().path_and_query().expect("a path").as_str();
                    *request.uri_mut() = format!("http://shop.example{path}").parse().expect("a URI");
                    client.ready().await?;
                    client.send_request(request).await
                }
            }
        })
        .await
    }

    /// As [`Self::try_send`], where it must succeed.
    pub async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.try_send(request).await.expect("an answer")
    }

    pub async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(Request::get(path).body(empty()).expect("a request")).await
    }
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(address)).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// A body, read to its end.
pub async fn body(response: Response<Incoming>) -> Bytes {
    try_body(response).await.expect("a body")
}

pub async fn try_body(response: Response<Incoming>) -> hyper::Result<Bytes> {
    soon("a body", response.into_body().collect()).await.map(http_body_util::Collected::to_bytes)
}

/// Text of a body.
pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(body(response).await.into()).expect("text")
}

/// A response of text.
pub fn said(text: impl Into<String>) -> Response<Body> {
    Response::new(full(text.into()))
}
