//! What a client may take: bytes, streams, requests, connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use director_core::l7::Rate;
use http::Request;
use tokio::io::AsyncWriteExt as _;

use crate::{
    edge::{Edge, soon, until},
    peers::{Client, connect, empty, full, said, serve, streamed, text},
    raw::{self, exchange, rest},
    slow::{DRIP, SHORT},
};

pub async fn hello() -> SocketAddr {
    serve(|request| async move {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        said("hello")
    })
    .await
}

/// A connection of the h2 crate, which does what it is told.
async fn h2_client(
    edge: SocketAddr,
) -> (
    h2::client::SendRequest<Bytes>,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let (sender, connection) = h2::client::Builder::new()
        .max_concurrent_reset_streams(0)
        .handshake(connect(edge).await)
        .await
        .expect("HTTP/2");
    (sender, tokio::spawn(connection))
}

fn ask(path: &str) -> Request<()> {
    Request::get(format!("http://shop.example{path}"))
        .body(())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_and_resets_streams_is_cut_while_another_is_served() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.resets = 50)
        .start();
    let mut other = Client::two(edge.address).await;
    let (sender, mut ended) = h2_client(edge.address).await;
    let attack = tokio::spawn(async move {
        let mut sent = 0;
        let mut sender = sender;
        while let Ok(mut ready) = sender.ready().await {
            let Ok((answer, mut stream)) = ready.send_request(ask("/"), false) else {
                break;
            };
            // Sometimes once the request is under way, sometimes at once.
            if sent % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            sent += 1;
            sender = ready;
        }
        sent
    });
    for _ in 0..50 {
        assert_eq!(text(other.get("/").await).await, "hello");
    }
    let _ = soon("the attacker is cut", &mut ended)
        .await
        .expect("no panic");
    let sent = soon("the attack ends", attack).await.expect("no panic");
    assert!(sent < 5_000, "{sent} streams were taken");
    assert_eq!(text(other.get("/").await).await, "hello");
}

#[tokio::test]
async fn a_client_may_give_up_streams_now_and_then() {
    let server = serve(|_| std::future::pending()).await;
    let edge = Edge::to(server).limits(|limits| limits.resets = 20).start();
    let (sender, ended) = h2_client(edge.address).await;
    for _ in 0..20 {
        let mut sender = soon("it is ready", sender.clone().ready())
            .await
            .expect("an open connection");
        let (answer, mut stream) = sender.send_request(ask("/"), true).expect("a request");
        tokio::time::sleep(Duration::from_millis(5)).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    assert!(!ended.is_finished());
}

#[tokio::test]
async fn streams_at_once_are_limited() {
    let (open, peak) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let places = Arc::new(tokio::sync::Semaphore::new(0));
    let (own_open, own_peak, own_places) = (open.clone(), peak.clone(), places.clone());
    let server = serve(move |_| {
        let (open, peak, places) = (own_open.clone(), own_peak.clone(), own_places.clone());
        async move {
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            drop(places.acquire().await);
            open.fetch_sub(1, Ordering::SeqCst);
            said("hello")
        }
    })
    .await;
    let edge = Edge::to(server).limits(|limits| limits.streams = 5).start();
    let mut client = Client::two(edge.address).await;
    // The limit is told by the time that a request is answered.
    places.add_permits(1);
    assert_eq!(text(client.get("/").await).await, "hello");
    places.acquire().await.expect("a place").forget();
    let Client::Two(sender) = client else {
        unreachable!("it is of HTTP/2")
    };
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let mut client = Client::Two(sender.clone());
            tokio::spawn(async move { text(client.get("/").await).await })
        })
        .collect();
    until("five are at the server", || {
        open.load(Ordering::SeqCst) == 5
    })
    .await;
    places.add_permits(20);
    for request in requests {
        assert_eq!(request.await.expect("no panic"), "hello");
    }
    assert_eq!(peak.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn heads_are_limited_in_both_versions() {
    let edge = Edge::to(hello().await)
        .limits(|l| (l.headers, l.header_bytes) = (10, 4096))
        .start();
    for mut client in [
        Client::one(edge.address).await,
        Client::two(edge.address).await,
    ] {
        let mut many = Request::get("/").body(empty()).expect("a request");
        for number in 0..20 {
            let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
            many.headers_mut()
                .insert(name, "1".parse().expect("a value"));
        }
        assert_eq!(client.send(many).await.status(), 431);
    }
    for mut client in [
        Client::one(edge.address).await,
        Client::two(edge.address).await,
    ] {
        let large = Request::get("/")
            .header("x-large", "x".repeat(5000))
            .body(empty())
            .expect("a request");
        match client.try_send(large).await {
            Ok(answer) => assert_eq!(answer.status(), 431),
            // A client of HTTP/2 is told the limit, and may keep to it itself.
            Err(error) => assert!(matches!(client, Client::Two(_)), "{error}"),
        }
    }
    let answer = exchange(
        edge.address,
        format!("GET /{} HTTP/1.1\r\n", "a".repeat(5000)).as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
}

#[tokio::test]
async fn bodies_are_limited_in_both_versions() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.body_bytes = Some(1000))
        .start();
    for version in [1, 2] {
        let client = || async {
            match version {
                1 => Client::one(edge.address).await,
                _ => Client::two(edge.address).await,
            }
        };
        let fitting = Request::post("/")
            .body(full(vec![0; 1000]))
            .expect("a request");
        assert_eq!(client().await.send(fitting).await.status(), 200);
        let large = Request::post("/")
            .body(full(vec![0; 1001]))
            .expect("a request");
        assert_eq!(
            client().await.send(large).await.status(),
            413,
            "a length, version {version}"
        );
        let (sender, body) = streamed(1);
        let parts = tokio::spawn(async move {
            while sender.send(Bytes::from(vec![0; 300])).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let answer = client()
            .await
            .send(Request::post("/").body(body).expect("a request"))
            .await;
        assert_eq!(answer.status(), 413, "without a length, version {version}");
        parts.abort();
    }
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_back() {
    let rate = Rate {
        per_second: 1,
        burst: 3,
    };
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.rate = Some(rate))
        .start();
    for mut client in [
        Client::one(edge.address).await,
        Client::two(edge.address).await,
    ] {
        let mut refused = None;
        for _ in 0..4 {
            let answer = client.get("/").await;
            if answer.status() == 429 {
                refused = Some(answer);
                break;
            }
        }
        let refused = refused.expect("four at once are too many");
        let wait: u64 = refused.headers()["retry-after"]
            .to_str()
            .expect("text")
            .parse()
            .expect("seconds");
        assert!((1..=3).contains(&wait), "{wait}");
    }
    assert!(
        edge.metrics().contains("rate_limited"),
        "{}",
        edge.metrics()
    );
    // Once it has waited, it is served.
    let mut client = Client::one(edge.address).await;
    soon("it is served again", async {
        while client.get("/").await.status() != 200 {
            tokio::time::sleep(DRIP).await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_of_one_client_are_limited() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.connections_per_client = Some(2))
        .start();
    let mut first = Client::one(edge.address).await;
    let mut second = Client::one(edge.address).await;
    assert_eq!(first.get("/").await.status(), 200);
    assert_eq!(second.get("/").await.status(), 200);
    let mut third = connect(edge.address).await;
    assert_eq!(rest(&mut third).await, "", "it is closed at once");
    drop(first);
    // The place is free once the edge has seen that it left.
    soon("a place is free", async {
        loop {
            let mut stream = connect(edge.address).await;
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await;
            if rest(&mut stream).await.starts_with("HTTP/1.1 200") {
                return;
            }
            tokio::time::sleep(DRIP).await;
        }
    })
    .await;
    assert!(
        edge.metrics().contains(r#"reason="too_many""#),
        "{}",
        edge.metrics()
    );
}

#[tokio::test]
async fn a_client_that_sends_ahead_without_end_is_held_back() {
    // The first is answered never, so that what comes behind it has to wait.
    let server = raw::Recorder::start_silent().await;
    let edge = Edge::to(server.address).start();
    let mut client = connect(edge.address).await;
    client
        .write_all(b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("an open connection");
    until("the first is at the server", || {
        server.seen().contains("/first")
    })
    .await;
    let ahead = b"GET /ahead HTTP/1.1\r\nhost: a\r\n\r\n".repeat(4096);
    let mut sent = 0;
    // Until the buffers of both sockets are full: 64 MiB would be without end.
    while let Ok(written) = tokio::time::timeout(SHORT, client.write(&ahead)).await {
        sent += written.expect("an open connection");
        assert!(sent < 64 << 20, "it takes everything");
    }
    assert!(!server.seen().contains("/ahead"));
}
