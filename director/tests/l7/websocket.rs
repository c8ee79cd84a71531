//! Upgraded connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{
    accept_async, client_async,
    tungstenite::{Message, handshake::derive_accept_key},
};

use crate::{
    certs::{Authority, handshake},
    edge::{Edge, soon},
    peers::{self, connect},
    raw,
};

/// Upgrades at once in the test of many.
const AT_ONCE: usize = 32;

async fn echo() -> SocketAddr {
    peers::raw(|stream| async {
        let Ok(mut socket) = accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            let is_close = message.is_close();
            if is_close || socket.send(message).await.is_err() {
                break;
            }
        }
        let _ = socket.close(None).await;
    })
    .await
}

#[tokio::test]
async fn messages_go_both_ways() {
    let authority = Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let server = echo().await;
    let plain = Edge::to(server).start();
    let secure = Edge::to(server).listener(|listener| listener.tls = Some(tls)).start();
    let stream = connect(plain.address).await;
    let (socket, answer) = client_async("ws://shop.example/", stream).await.expect("an upgrade");
    assert_eq!(answer.status(), 101);
    talk(socket).await;
    let config = Arc::new(authority.client(&["http/1.1"]));
    let stream = handshake(secure.address, &config, "shop.example").await.expect("TLS");
    let (socket, _) = client_async("wss://shop.example/", stream).await.expect("an upgrade");
    talk(socket).await;
}

async fn talk<S>(mut socket: tokio_tungstenite::WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let sent = Message::binary(vec![9; length]);
        soon("a message is sent", socket.send(sent.clone())).await.expect("an open socket");
        let got = soon("an echo", socket.next()).await.expect("an echo").expect("an echo");
        assert_eq!(got, sent);
    }
    socket.close(None).await.expect("it closes");
    while let Some(last) = soon("the end", socket.next()).await {
        assert!(last.expect("a clean end").is_close());
    }
}

/// Answers 101 with its first frame in the same segment, echoes one frame, and ends.
async fn eager() -> SocketAddr {
    peers::raw(|mut stream| async move {
        let mut head = Vec::new();
        while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
            if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let at = text.find("sec-websocket-key: ").expect("a key") + "sec-websocket-key: ".len();
        let accept = derive_accept_key(&head[at..][..24]);
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        answer.extend_from_slice(b"\x82\x05hello");
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        // A masked frame of five bytes.
        let mut frame = [0; 11];
        if stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        let _ = stream.write_all(b"\x82\x03bye\x88\x00").await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await
}

/// One upgrade: the frame that came with the 101, one sent, one answered.
async fn upgrade(edge: SocketAddr) -> Result<(), String> {
    let stream = connect(edge).await;
    let upgraded = soon("an upgrade", client_async("ws://shop.example/", stream)).await;
    let (mut socket, _) = upgraded.map_err(|error| format!("upgrade: {error}"))?;
    let first = soon("the first frame", socket.next()).await.ok_or("ended before the first frame")?;
    let first = first.map_err(|error| format!("first frame: {error}"))?;
    if first != Message::binary(&b"hello"[..]) {
        return Err(format!("first frame: {first:?}"));
    }
    let sent = socket.send(Message::binary(&b"12345"[..])).await;
    sent.map_err(|error| format!("sending: {error}"))?;
    let second = soon("the second frame", socket.next()).await.ok_or("ended before the second frame")?;
    match second {
        Ok(frame) if frame == Message::binary(&b"bye"[..]) => Ok(()),
        other => Err(format!("second frame: {other:?}")),
    }
}

/// pingora's issue 946 tears some of these down right after the 101.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_upgrade_is_torn_down_when_the_server_speaks_at_once() {
    let many = std::env::var("DIRECTOR_UPGRADES").map_or(2_000, |n| n.parse().expect("a number"));
    let edge = Edge::to(eager().await).start();
    let left = Arc::new(AtomicUsize::new(many));
    let clients = (0..AT_ONCE).map(|_| {
        let (left, address) = (left.clone(), edge.address);
        tokio::spawn(async move {
            let mut failed = Vec::new();
            while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                failed.extend(upgrade(address).await.err());
            }
            failed
        })
    });
    let mut failed = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        failed.extend(client.await.expect("no panic"));
    }
    assert!(failed.is_empty(), "{} of {many}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let server = raw::canned(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let edge = Edge::to(server).start();
    let answer = raw::exchange(
        edge.address,
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
          sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("no"), "{answer}");
}
