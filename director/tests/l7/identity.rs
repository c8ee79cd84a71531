//! What servers learn of a client: PROXY headers in and out, forwarding headers,
//! ids.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use director_core::l7::{Forwarded, Network, ProxyProtocol};
use http::Request;
use hyper::{Response, body::Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    certs::{Authority, handshake},
    edge::{Edge, until},
    peers::{Body, Client, connect, empty, said, serve, serve_h2, text},
    raw::{self, exchange, rest},
};

const LOOPBACK: Network = Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 };

/// Answers with the fields it got, one a line.
async fn fields(request: Request<Incoming>) -> Response<Body> {
    let mut lines: Vec<String> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
        .collect();
    if let Some(authority) = request.uri().authority() {
        lines.push(format!("host: {authority}"));
    }
    lines.sort();
    said(lines.join("\n") + "\n")
}

/// The values of a field in such an answer.
fn value<'a>(lines: &'a str, name: &str) -> Vec<&'a str> {
    lines.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_proxy_header_says_who_the_client_is() {
    let edge = Edge::to(serve(fields).await).listener(|l| l.proxy_protocol_from = vec![LOOPBACK]).start();
    let source: SocketAddr = "192.0.2.7:4711".parse().expect("an address");
    let destination: SocketAddr = "203.0.113.20:8443".parse().expect("an address");
    let one = director::proxy_protocol::write(ProxyProtocol::V1, source, destination);
    let two = director::proxy_protocol::write(ProxyProtocol::V2, source, destination);
    let six = director::proxy_protocol::write(
        ProxyProtocol::V2,
        "[2001:db8::7]:1".parse().expect("an address"),
        "[2001:db8::1]:80".parse().expect("an address"),
    );
    for (header, client, port) in [
        (&*one, "192.0.2.7", "8443"),
        (&*two, "192.0.2.7", "8443"),
        (&*six, "2001:db8::7", "80"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 80\r\n", "2001:db8::7", "80"),
    ] {
        let answer = exchange(edge.address, &[header, GET.as_bytes()].concat()).await;
        assert_eq!(value(&answer, "x-forwarded-for"), [client], "{answer}");
        assert_eq!(value(&answer, "x-forwarded-port"), [port], "{answer}");
    }
    // Byte by byte too, and of a health check that says nothing.
    let mut client = connect(edge.address).await;
    for byte in [&*two, GET.as_bytes()].concat() {
        client.write_all(&[byte]).await.expect("an open connection");
    }
    assert_eq!(value(&rest(&mut client).await, "x-forwarded-for"), ["192.0.2.7"]);
    let answer = exchange(edge.address, format!("PROXY UNKNOWN\r\n{GET}").as_bytes()).await;
    assert_eq!(value(&answer, "x-forwarded-for"), ["127.0.0.1"], "{answer}");
    // Those that must begin with one and do not are not served.
    assert_eq!(exchange(edge.address, GET.as_bytes()).await, "");
    assert_eq!(exchange(edge.address, format!("PROXY TCP4 a b c d\r\n{GET}").as_bytes()).await, "");
    let broken = [b"\r\n\r\n\0\r\nQUIT\n\x31", &two[13..], GET.as_bytes()].concat();
    assert_eq!(exchange(edge.address, &broken).await, "");
}

#[tokio::test]
async fn a_proxy_header_is_before_tls_and_http_2() {
    let authority = Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let edge = Edge::to(serve(fields).await)
        .listener(|l| (l.tls, l.proxy_protocol_from) = (Some(tls), vec![LOOPBACK]))
        .start();
    let header = b"PROXY TCP4 192.0.2.7 203.0.113.20 4711 8443\r\n";
    let mut stream = connect(edge.address).await;
    stream.write_all(header).await.expect("an open connection");
    let config = std::sync::Arc::new(authority.client(&["h2"]));
    let name = rustls::pki_types::ServerName::try_from("shop.example").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("TLS");
    let lines = text(Client::two_over(stream).await.get("/").await).await;
    assert_eq!(value(&lines, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(value(&lines, "x-forwarded-proto"), ["https"]);
}

#[tokio::test]
async fn a_proxy_header_from_anywhere_else_is_no_http() {
    let server = raw::Recorder::start().await;
    let elsewhere = Network { address: "192.0.2.0".parse().expect("an address"), bits: 24 };
    let edge = Edge::to(server.address).listener(|l| l.proxy_protocol_from = vec![elsewhere]).start();
    let two = director::proxy_protocol::write(
        ProxyProtocol::V2,
        "192.0.2.7:1".parse().expect("an address"),
        "192.0.2.8:2".parse().expect("an address"),
    );
    for header in [&b"PROXY TCP4 192.0.2.7 203.0.113.20 4711 80\r\n"[..], &two] {
        let answer = exchange(edge.address, &[header, GET.as_bytes()].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(server.seen(), "");
    assert!(exchange(edge.address, GET.as_bytes()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn servers_are_told_by_a_proxy_header() {
    let (headers, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let server = crate::peers::raw(move |mut stream| {
        let headers = headers.clone();
        async move {
            let mut all = Vec::new();
            while memchr::memmem::find(&all, b"HTTP/1.1\r\n").is_none() {
                if !matches!(stream.read_buf(&mut all).await, Ok(1..)) {
                    return;
                }
            }
            let _ = headers.send(all);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let mut more = Vec::new();
            let _ = stream.read_to_end(&mut more).await;
            assert_eq!(memchr::memmem::find(&more, b"PROXY"), None, "only at the start");
        }
    })
    .await;
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let edge = Edge::to(server).upstream(|upstream| upstream.proxy_protocol = Some(version)).start();
        for _ in 0..2 {
            let stream = connect(edge.address).await;
            let client = stream.local_addr().expect("an address");
            assert_eq!(text(Client::one_over(stream).await.get("/").await).await, "ok");
            let seen = seen.recv().await.expect("a connection");
            let expected = director::proxy_protocol::write(version, client, edge.address);
            assert!(seen.starts_with(&expected), "{version:?}: {}", String::from_utf8_lossy(&seen));
            assert!(seen[expected.len()..].starts_with(b"GET / HTTP/1.1\r\n"));
            // What others make of it.
            let parsed = ppp::HeaderResult::parse(&seen[..expected.len()]);
            match parsed {
                ppp::HeaderResult::V1(Ok(header)) => {
                    let addresses = header.addresses.to_string();
                    assert!(addresses.contains(&client.port().to_string()), "{addresses}");
                }
                ppp::HeaderResult::V2(Ok(header)) => {
                    assert!(matches!(header.addresses, ppp::v2::Addresses::IPv4(a) if a.source_port == client.port()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn with(fields: &[(&'static str, &'static str)]) -> Request<Body> {
    let mut request = Request::get("/").body(empty()).expect("a request");
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

const CLAIMS: &[(&str, &str)] = &[
    ("x-forwarded-for", "192.0.2.66"),
    ("x-forwarded-for", "192.0.2.67"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "1"),
    ("forwarded", "for=192.0.2.66;proto=https"),
    ("x-request-id", "chosen-by-client"),
];

#[tokio::test]
async fn what_a_stranger_says_of_itself_is_replaced() {
    for edge in [
        Edge::to(serve(fields).await).listener(|l| l.forwarded = Forwarded::Both).start(),
        Edge::to(serve_h2(fields).await).h2_servers().listener(|l| l.forwarded = Forwarded::Both).start(),
    ] {
        for mut client in [Client::one(edge.address).await, Client::two(edge.address).await] {
            let answer = client.send(with(CLAIMS)).await;
            let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
            let lines = text(answer).await;
            assert_eq!(value(&lines, "host"), ["shop.example"], "{lines}");
            assert_eq!(value(&lines, "x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(value(&lines, "x-forwarded-proto"), ["http"]);
            assert_eq!(value(&lines, "x-forwarded-host"), ["shop.example"]);
            assert_eq!(value(&lines, "x-forwarded-port"), [edge.address.port().to_string()]);
            assert_eq!(value(&lines, "forwarded"), ["for=127.0.0.1;host=\"shop.example\";proto=http"]);
            assert_eq!(value(&lines, "x-request-id"), [&*id]);
            assert_ne!(id, "chosen-by-client");
        }
    }
}

#[tokio::test]
async fn a_trusted_hop_is_added_to() {
    let edge = Edge::to(serve(fields).await)
        .listener(|l| (l.forwarded, l.trusted) = (Forwarded::Both, vec![LOOPBACK]))
        .start();
    for mut client in [Client::one(edge.address).await, Client::two(edge.address).await] {
        let answer = client.send(with(CLAIMS)).await;
        assert_eq!(answer.headers()["x-request-id"], "chosen-by-client");
        let lines = text(answer).await;
        assert_eq!(value(&lines, "x-forwarded-for"), ["192.0.2.66, 192.0.2.67, 127.0.0.1"]);
        assert_eq!(value(&lines, "x-forwarded-proto"), ["https"]);
        assert_eq!(value(&lines, "x-forwarded-host"), ["evil.example"]);
        let forwarded = value(&lines, "forwarded");
        assert_eq!(forwarded, ["for=192.0.2.66;proto=https, for=127.0.0.1;host=\"shop.example\";proto=http"]);
        assert_eq!(value(&lines, "x-request-id"), ["chosen-by-client"]);
    }
}

#[tokio::test]
async fn nothing_is_told_where_nothing_is_to_be() {
    let edge = Edge::to(serve(fields).await)
        .listener(|l| {
            l.forwarded = Forwarded::None;
            l.request_id = None;
            l.traceparent = false;
        })
        .start();
    let mut client = Client::one(edge.address).await;
    let answer = client.send(with(&CLAIMS[..6])).await;
    assert!(!answer.headers().contains_key("x-request-id"));
    let lines = text(answer).await;
    for name in ["x-forwarded-for", "x-forwarded-host", "forwarded", "x-request-id", "traceparent"] {
        assert!(value(&lines, name).is_empty(), "{name}: {lines}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_end_at_the_edge() {
    let edge = Edge::to(serve(fields).await).start();
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-private\r\nx-private: 1\r\nkeep-alive: 5\r\n\
                   proxy-connection: close\r\nte: trailers\r\nx-public: 2\r\n\r\n";
    let answer = exchange(edge.address, request.as_bytes()).await;
    let lines = answer.split_once("\r\n\r\n").expect("a body").1;
    assert_eq!(value(lines, "x-public"), ["2"], "{lines}");
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert!(value(lines, name).is_empty(), "{name}: {lines}");
    }
}

#[tokio::test]
async fn a_trace_is_kept_or_begun() {
    let edge = Edge::to(serve(fields).await).start();
    let mut client = Client::one(edge.address).await;
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let lines = text(client.send(with(&[("traceparent", valid), ("tracestate", "a=1")])).await).await;
    assert_eq!(value(&lines, "traceparent"), [valid]);
    assert_eq!(value(&lines, "tracestate"), ["a=1"]);
    let first = text(client.send(with(&[("traceparent", "nonsense"), ("tracestate", "a=1")])).await).await;
    let second = text(client.get("/").await).await;
    assert_eq!(value(&first, "traceparent")[0].len(), valid.len());
    assert!(value(&first, "tracestate").is_empty());
    assert_ne!(value(&first, "traceparent"), value(&second, "traceparent"));
}

#[tokio::test]
async fn a_server_is_told_of_tls() {
    let authority = Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let edge = Edge::to(serve(fields).await).listener(|listener| listener.tls = Some(tls)).start();
    let config = std::sync::Arc::new(authority.client(&["http/1.1"]));
    let stream = handshake(edge.address, &config, "shop.example").await.expect("TLS");
    let lines = text(Client::one_over(stream).await.get("/").await).await;
    assert_eq!(value(&lines, "x-forwarded-proto"), ["https"]);
    until("it is counted", || edge.metrics().contains(r#"code="2xx"} 1"#)).await;
}
