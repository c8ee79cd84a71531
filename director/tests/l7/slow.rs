//! Clients that take their time: they are not waited for without end.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    edge::{Edge, soon, until},
    limits::hello,
    peers::{Client, connect, said, serve, serve_h2, streamed, text},
    raw::rest,
};

pub const SHORT: Duration = Duration::from_millis(300);
/// How long a drip takes from byte to byte.
pub const DRIP: Duration = Duration::from_millis(50);

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
