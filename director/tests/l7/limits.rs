//! What a client may take: time, bytes, streams, requests, connections.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use director_core::l7::Rate;
use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    edge::{Edge, soon, until},
    peers::{Client, connect, empty, full, said, serve, serve_h2, streamed, text},
    raw::{self, exchange, rest},
};

const SHORT: Duration = Duration::from_millis(300);
/// How long a drip takes from byte to byte.
const DRIP: Duration = Duration::from_millis(50);

async fn hello() -> SocketAddr {
    serve(|request| async move {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        said("hello")
    })
    .await
}

/// Sends bytes one by one until the edge ends the connection; what it said.
async fn drip(edge: SocketAddr, start: &[u8]) -> String {
    let mut stream = connect(edge).await;
    stream.write_all(start).await.expect("an open connection");
    let (mut reader, mut writer) = stream.into_split();
    let sender = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(DRIP).await;
        }
    });
    let mut all = Vec::new();
    let _ = soon("the edge ends it", reader.read_to_end(&mut all)).await;
    sender.abort();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_head_in_drips_is_ended() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.header_timeout = SHORT)
        .start();
    for start in [
        "G",
        "GET / HTTP/1.1\r\nhost: a\r\nx: ",
        "PRI * HTTP/2.0\r\n",
    ] {
        let answer = drip(edge.address, start.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{start}: {answer}");
    }
    let answer = drip(edge.address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\nG").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 408"),
        "{answer}"
    );
    assert!(
        edge.metrics().contains(r#"reason="timeout""#),
        "{}",
        edge.metrics()
    );
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended() {
    let authority = crate::certs::Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let edge = Edge::to(hello().await)
        .listener(|l| l.tls = Some(tls))
        .limits(|l| l.header_timeout = SHORT)
        .start();
    let mut silent = connect(edge.address).await;
    assert_eq!(rest(&mut silent).await, "");
    assert_eq!(drip(edge.address, b"\x16\x03\x01\x02\x00").await, "");
    // HTTP/2 is agreed on and then not spoken.
    let config = std::sync::Arc::new(authority.client(&["h2"]));
    let mut mute = crate::certs::handshake(edge.address, &config, "shop.example")
        .await
        .expect("TLS");
    let mut all = Vec::new();
    let _ = soon("the edge ends it", mute.read_to_end(&mut all)).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.idle_timeout = SHORT)
        .start();
    // Before its first request, and after one.
    assert_eq!(rest(&mut connect(edge.address).await).await, "");
    let mut client = connect(edge.address).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .expect("an open connection");
    let answer = rest(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
    // Of HTTP/2 too, and not while a request is under way.
    let slow = serve_h2(|_| async {
        tokio::time::sleep(3 * SHORT).await;
        said("late")
    });
    let edge = Edge::to(slow.await)
        .h2_servers()
        .limits(|limits| limits.idle_timeout = SHORT)
        .start();
    let mut client = Client::two(edge.address).await;
    assert_eq!(text(client.get("/").await).await, "late");
    let Client::Two(sender) = &client else {
        unreachable!("it is of HTTP/2")
    };
    until("the connection is closed", || sender.is_closed()).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_ended() {
    let edge = Edge::to(hello().await)
        .limits(|limits| limits.body_timeout = SHORT)
        .start();
    for head in [
        "content-length: 10\r\n\r\nabc",
        "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut client = connect(edge.address).await;
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{head}");
        client
            .write_all(request.as_bytes())
            .await
            .expect("an open connection");
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_ended() {
    let dropped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = dropped.clone();
    let server = serve(move |_| {
        let (sender, body) = streamed(1);
        let told = told.clone();
        tokio::spawn(async move {
            while sender.send(Bytes::from(vec![0; 1 << 20])).await.is_ok() {}
            told.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        async { http::Response::new(body) }
    })
    .await;
    let edge = Edge::to(server)
        .limits(|limits| limits.body_timeout = SHORT)
        .start();
    let mut one = Client::one(edge.address).await;
    let unread = one.get("/").await;
    until("the server is rid of it", || {
        dropped.swap(false, std::sync::atomic::Ordering::SeqCst)
    })
    .await;
    drop(unread);
    let mut two = Client::two(edge.address).await;
    let unread = two.get("/").await;
    until("the server is rid of it", || {
        dropped.swap(false, std::sync::atomic::Ordering::SeqCst)
    })
    .await;
    drop(unread);
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
    let server = serve(|_| std::future::pending()).await;
    let edge = Edge::to(server).limits(|limits| limits.streams = 5).start();
    let (sender, _ended) = h2_client(edge.address).await;
    let sender = sender.ready().await.expect("an open connection");
    until("the limit is told", || {
        sender.current_max_send_streams() == 5
    })
    .await;
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
