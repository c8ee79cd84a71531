//! gRPC: what it asks of HTTP/2 is streams both ways and trailers.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    server::{self, StreamingService},
    transport::{Channel, Endpoint},
};

use crate::{
    edge::{Edge, soon, until},
    peers::{self, serve_h2},
};

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Every method in its most general form: a stream for a stream.
#[derive(Clone)]
struct Methods {
    path: String,
    /// Calls that are under way.
    open: Arc<AtomicUsize>,
}

struct Call(Arc<AtomicUsize>);

impl Call {
    fn begin(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl StreamingService<Bytes> for Methods {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.answer(request).await })
    }
}

impl Methods {
    async fn answer(self, request: Request<Streaming<Bytes>>) -> Result<Response<Messages>, Status> {
        let call = Call::begin(&self.open);
        let deadline = request.metadata().get("grpc-timeout").cloned();
        let mut asked = request.into_inner();
        match &*self.path {
            "/test/Echo" => Ok(Response::new(Box::pin(asked.inspect(move |_| {
                let _ = &call;
            })))),
            "/test/Count" => {
                let until = asked.message().await?.ok_or_else(|| Status::invalid_argument("no number"))?;
                let numbers = (0..until[0]).map(|number| Ok(Bytes::from(vec![number])));
                Ok(Response::new(stream::iter(numbers).boxed()))
            }
            "/test/Late" => {
                let one = stream::iter([Ok(Bytes::from_static(b"one")), Err(Status::data_loss("then none"))]);
                Ok(Response::new(one.boxed()))
            }
            "/test/Never" => {
                assert!(deadline.is_some(), "the deadline is told");
                std::future::pending::<()>().await;
                drop(call);
                Err(Status::internal("never"))
            }
            _ => {
                let mut more = MetadataMap::new();
                more.insert("x-more", "yes".parse().expect("text"));
                Err(Status::with_metadata(Code::NotFound, "no such method: ä%", more))
            }
        }
    }
}

async fn grpc_server(open: Arc<AtomicUsize>) -> SocketAddr {
    serve_h2(move |request| {
        let methods = Methods { path: request.uri().path().to_owned(), open: open.clone() };
        async move {
            let answer = server::Grpc::new(Raw).streaming(methods, request).await;
            answer.map(|body| body.map_err(Into::into).boxed_unsync() as peers::Body)
        }
    })
    .await
}

struct Fixture {
    edge: Edge,
    open: Arc<AtomicUsize>,
}

impl Fixture {
    async fn start() -> Self {
        let open = Arc::<AtomicUsize>::default();
        let edge = Edge::to(grpc_server(open.clone()).await).h2_servers().start();
        Self { edge, open }
    }

    async fn client(&self) -> Grpc<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.edge.address)).expect("a URI");
        let channel = soon("a channel", endpoint.connect()).await.expect("a channel");
        let mut client = Grpc::new(channel);
        client.ready().await.expect("it is ready");
        client
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/test/{method}").parse().expect("a path")
}

#[tokio::test]
async fn one_message_for_one() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    for length in [0, 1, 100_000, 3_000_000] {
        let sent = Bytes::from(vec![5; length]);
        let answer = soon("an answer", client.unary(Request::new(sent.clone()), path("Echo"), Raw)).await;
        assert_eq!(answer.expect("an answer").into_inner(), sent);
        client.ready().await.expect("it is ready");
    }
}

#[tokio::test]
async fn many_messages_for_one() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let request = Request::new(Bytes::from_static(&[200]));
    let answer = soon("an answer", client.server_streaming(request, path("Count"), Raw)).await;
    let mut numbers = answer.expect("an answer").into_inner();
    for number in 0..200 {
        let message = soon("a message", numbers.message()).await.expect("a message");
        assert_eq!(message.expect("a message"), vec![number]);
    }
    assert!(numbers.message().await.expect("a clean end").is_none());
    let trailers = numbers.trailers().await.expect("trailers");
    assert!(trailers.is_some(), "the status came behind the messages");
}

#[tokio::test]
async fn messages_go_both_ways_in_turns() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let asked = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let answer = soon("an answer", client.streaming(Request::new(asked), path("Echo"), Raw)).await;
    let mut echoes = answer.expect("an answer").into_inner();
    for number in 0..100_u32 {
        // The next is sent only when this one came back.
        let sent = Bytes::from(number.to_string());
        sender.send(sent.clone()).await.expect("an open call");
        let message = soon("an echo", echoes.message()).await.expect("an echo");
        assert_eq!(message.expect("an echo"), sent);
    }
    drop(sender);
    assert!(soon("the end", echoes.message()).await.expect("a clean end").is_none());
}

#[tokio::test]
async fn errors_keep_their_status() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    // In the head: there was nothing to say before.
    let answer = client.unary(Request::new(Bytes::new()), path("Absent"), Raw).await;
    let status = answer.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such method: ä%"));
    assert_eq!(status.metadata().get("x-more").expect("metadata"), "yes");
    // In trailers, behind a message.
    client.ready().await.expect("it is ready");
    let request = Request::new(Bytes::new());
    let answer = client.server_streaming(request, path("Late"), Raw).await;
    let mut messages = answer.expect("an answer").into_inner();
    assert_eq!(messages.message().await.expect("a message").expect("a message"), "one");
    let status = messages.message().await.expect_err("a status");
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "then none"));
}

#[tokio::test]
async fn a_deadline_is_told_and_a_call_that_is_given_up_ends_at_the_server() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client().await;
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(300));
    let status = soon("a status", client.unary(request, path("Never"), Raw)).await.expect_err("a status");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    until("the server's call ends", || fixture.open.load(Ordering::SeqCst) == 0).await;
    // The connection is as good as before.
    client.ready().await.expect("it is ready");
    let answer = client.unary(Request::new(Bytes::from_static(b"a")), path("Echo"), Raw).await;
    assert_eq!(answer.expect("an answer").into_inner(), "a");
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let fixture = Fixture::start().await;
    let client = fixture.client().await;
    let calls = (0..300_u32).map(|number| {
        let mut client = client.clone();
        async move {
            client.ready().await.expect("it is ready");
            let sent = Bytes::from(vec![number as u8; 2000]);
            let answer = client.unary(Request::new(sent.clone()), path("Echo"), Raw).await;
            assert_eq!(answer.expect("an answer").into_inner(), sent);
        }
    });
    soon("all answers", futures::future::join_all(calls)).await;
}
