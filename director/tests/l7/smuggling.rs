//! Requests that two programs may read in two ways. The server behind keeps every
//! byte: it must never see the request that is hidden in another.

use tokio::io::AsyncWriteExt as _;

use crate::{
    edge::{Edge, soon},
    peers::connect,
    raw::{Recorder, exchange, read_until, rest},
};

/// What is hidden.
const SECOND: &str = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n";

/// Heads that are refused, whatever follows.
const HEADS: &[(&str, &str)] = &[
    ("length and coding", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("coding and length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"),
    ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\n"),
    ("the same length twice", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 30\r\n\r\n"),
    ("a length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n"),
    ("a negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
    ("a length in hexadecimal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n"),
    ("an empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    ("a length beyond 64 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    ("a length in words", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0 0\r\n\r\n"),
    ("two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("chunked is not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("another coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    ("identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("a vertical tab in a coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
    ("a quoted coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("space before a colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n"),
    ("tab before a colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 30\r\n\r\n"),
    ("a folded field", "POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 30\r\n\r\n"),
    ("a folded first field", "POST / HTTP/1.1\r\n Host: a\r\nContent-Length: 30\r\n\r\n"),
    ("an underscore", "POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n"),
    ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n"),
    ("one bare line feed", "POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 30\r\n\r\n"),
    ("a bare carriage return", "POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 30\r\n\r\n"),
    ("NUL in a value", "POST / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    ("NUL in a name", "POST / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n"),
    ("no colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n\r\n"),
    ("an empty name", "POST / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("another host in the target", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no version", "GET /\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("a small version", "GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("an expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n"),
    ("a nominated length", "POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 30\r\n\r\n"),
    ("a nominated host", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, host\r\n\r\n"),
    ("a body of CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 30\r\n\r\n"),
    ("a body of TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n"),
    ("a body of a WebSocket", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 30\r\n\r\n"),
];

fn is_refusal(answer: &str) -> bool {
    let is_error = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5");
    is_error && answer.matches("HTTP/1.1 ").count() == 1
}

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).start();
    for (what, head) in HEADS {
        let answer = exchange(edge.address, format!("{head}{SECOND}").as_bytes()).await;
        assert!(is_refusal(&answer), "{what}: {answer}");
        assert_eq!(server.seen(), "", "{what}");
    }
}

#[tokio::test]
async fn connect_is_no_way_through() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).start();
    let answer = exchange(edge.address, format!("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n{SECOND}").as_bytes()).await;
    assert!(is_refusal(&answer), "{answer}");
    assert!(!server.seen().contains("/second"), "{}", server.seen());
}

/// Bodies in chunks that are none.
const CHUNKS: &[(&str, &str)] = &[
    ("no size", "\r\nabc\r\n0\r\n\r\n"),
    ("a size that is none", "xyz\r\nabc\r\n0\r\n\r\n"),
    ("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
    ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a size of 64 bits", "FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n"),
    ("no line end behind a chunk", "3\r\nabc0\r\n\r\n"),
    ("a chunk that is longer than said", "3\r\nabcdef\r\n0\r\n\r\n"),
    ("a bare line feed behind a size", "3\nabc\r\n0\r\n\r\n"),
    ("a bare line feed behind a chunk", "3\r\nabc\n0\r\n\r\n"),
    ("a bare carriage return behind a size", "3\rabc\r\n0\r\n\r\n"),
    ("a space before a size", " 3\r\nabc\r\n0\r\n\r\n"),
    ("a bare line feed in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("a bare line feed in trailers", "3\r\nabc\r\n0\r\nX: y\nZ: w\r\n\r\n"),
    ("a bare line feed behind the last", "3\r\nabc\r\n0\n\r\n"),
    ("a bare line feed as the end", "3\r\nabc\r\n0\r\n\n"),
];

#[tokio::test]
async fn chunks_that_are_none_end_the_connection() {
    for (what, chunks) in CHUNKS {
        let server = Recorder::start_silent().await;
        let edge = Edge::to(server.address).start();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = exchange(edge.address, format!("{head}{chunks}{SECOND}").as_bytes()).await;
        assert!(is_refusal(&answer), "{what}: {answer}");
        assert!(!server.seen().contains("/second"), "{what}: {}", server.seen());
        assert!(!server.seen().ends_with("0\r\n\r\n"), "{what}: the server takes it for complete: {}", server.seen());
    }
}

#[tokio::test]
async fn extensions_and_trailers_of_chunks_do_not_confuse() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).start();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    for body in [
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n",
        "003\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0;last\r\n\r\n",
        "3\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 30\r\n\r\n",
    ] {
        let answer = exchange(edge.address, format!("{head}{body}{SECOND}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
        let seen = server.seen();
        assert!(!seen.contains("/second"), "{body:?}: {seen}");
        assert!(!seen.to_ascii_lowercase().contains("content-length"), "{body:?}: {seen}");
    }
}

#[tokio::test]
async fn a_body_ends_where_its_length_says() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).start();
    // Longer than said: the rest is the next request, which is none.
    let head = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let answer = exchange(edge.address, format!("{head}abcdef\r\n\r\n{SECOND}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("HTTP/1.1 400"), "{answer}");
    assert!(!server.seen().contains("/second"), "{}", server.seen());
    assert!(server.seen().ends_with("abc"), "{}", server.seen());
    // Shorter than said: the next request is its body.
    let server = Recorder::start_silent().await;
    let edge = Edge::to(server.address).start();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", SECOND.len() + 10);
    let mut client = connect(edge.address).await;
    client.write_all(format!("{head}{SECOND}").as_bytes()).await.expect("an open connection");
    client.shutdown().await.expect("an open connection");
    let answer = rest(&mut client).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    // It came as a body that has no end.
    let seen = server.seen();
    let at = seen.find("/second").unwrap_or(seen.len());
    assert!(seen[..at].contains("\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn what_is_sent_behind_a_refused_request_is_not_served() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).limits(|limits| limits.body_bytes = Some(10)).start();
    let one = "GET /one HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n";
    let answer = exchange(edge.address, format!("{one}{bad}{SECOND}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("HTTP/1.1 413"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert!(server.seen().contains("/one") && !server.seen().contains("/second"));
}

#[tokio::test]
async fn an_upgrade_that_a_server_refuses_opens_no_tunnel() {
    let server = Recorder::start().await;
    let edge = Edge::to(server.address).start();
    for protocol in ["websocket", "h2c", "anything"] {
        let head = format!("GET /first HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        // All at once, and with the hidden part behind the answer.
        let answer = exchange(edge.address, format!("{head}GET /second HTTP/1.1\r\n X: folded\r\n\r\n").as_bytes()).await;
        assert!(answer.matches("HTTP/1.1 200").count() <= 1, "{protocol}: {answer}");
        assert!(!server.seen().contains("/second"), "{protocol}: {}", server.seen());
        let mut client = connect(edge.address).await;
        client.write_all(head.as_bytes()).await.expect("an open connection");
        read_until(&mut client, "HTTP/1.1 200").await;
        let _ = client.write_all(b"GET /second HTTP/1.1\r\nNo-Host: a\r\n\r\n").await;
        let answer = soon("the end", rest(&mut client)).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{protocol}: {answer}");
        assert!(!server.seen().contains("/second"), "{protocol}: {}", server.seen());
    }
}
