//! Requests of every form, by HTTP/1.1 and HTTP/2, in plain text and over TLS.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode, body::Incoming};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    certs::{Authority, handshake},
    edge::{Edge, soon, until},
    peers::{Body, Client, body, connect, empty, full, said, serve, serve_h2, streamed, text},
    raw::{self, read_until},
};

const MIB: usize = 1024 * 1024;
const LARGE: usize = 50 * MIB;

/// Answers with what it was asked.
async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let length = request.headers().get("content-length").map(|l| l.to_str().expect("text").to_owned());
    let chunked = request.headers().contains_key("transfer-encoding");
    let sent = request.into_body().collect().await.map(|body| body.to_bytes().len());
    said(format!("{line} length={length:?} chunked={chunked} body={sent:?}"))
}

/// Every kind of client, against servers of either version.
async fn clients(edge: SocketAddr) -> [Client; 2] {
    [Client::one(edge).await, Client::two(edge).await]
}

fn post(path: &str, body: Body) -> Request<Body> {
    Request::post(path).body(body).expect("a request")
}

#[tokio::test]
async fn methods_and_lengths_reach_servers_of_either_version() {
    for edge in [
        Edge::to(serve(mirror).await).start(),
        Edge::to(serve_h2(mirror).await).h2_servers().start(),
    ] {
        for mut client in clients(edge.address).await {
            let answer = client.get("/a").await;
            assert_eq!(answer.status(), 200);
            assert!(answer.headers().contains_key("x-request-id"));
            assert!(text(answer).await.starts_with("GET /a length=None chunked=false body=Ok(0)"));
            let answer = client.send(Request::head("/h").body(empty()).expect("a request")).await;
            assert_ne!(answer.headers()["content-length"], "0");
            assert!(body(answer).await.is_empty());
            let answer = client.send(post("/p", full("12345"))).await;
            assert_eq!(text(answer).await, r#"POST /p length=Some("5") chunked=false body=Ok(5)"#);
            let answer = client.send(Request::delete("/d").body(empty()).expect("a request")).await;
            assert!(text(answer).await.starts_with("DELETE /d "));
        }
    }
}

#[tokio::test]
async fn a_body_without_a_length_arrives() {
    let edges = [
        Edge::to(serve(mirror).await).start(),
        Edge::to(serve_h2(mirror).await).h2_servers().start(),
    ];
    for edge in edges {
        for mut client in clients(edge.address).await {
            let (sender, body) = streamed(4);
            let parts = tokio::spawn(async move {
                for _ in 0..10 {
                    sender.send(Bytes::from(vec![b'x'; 1000])).await.expect("the body is read");
                }
            });
            let answer = text(client.send(post("/", body)).await).await;
            assert!(answer.ends_with("body=Ok(10000)"), "{answer}");
            assert!(answer.contains("length=None"), "{answer}");
            parts.await.expect("the parts are sent");
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let edge = Edge::to(serve(mirror).await).start();
    let mut client = connect(edge.address).await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    client.write_all(head).await.expect("a head");
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"12345").await.expect("a body");
    read_until(&mut client, "body=Ok(5)").await;
}

/// Counts what it is sent, and says when the first byte came.
async fn sink(seen: Arc<AtomicU64>, request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return said("cut") };
        seen.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::SeqCst);
    }
    said(seen.load(Ordering::SeqCst).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_is_streamed() {
    let seen = Arc::<AtomicU64>::default();
    let count = seen.clone();
    let one = serve(move |request| sink(count.clone(), request)).await;
    let count = seen.clone();
    let two = serve_h2(move |request| sink(count.clone(), request)).await;
    for edge in [Edge::to(one).start(), Edge::to(two).h2_servers().start()] {
        for mut client in clients(edge.address).await {
            seen.store(0, Ordering::SeqCst);
            let (sender, body) = streamed(1);
            let arrived = seen.clone();
            let sent = tokio::spawn(async move {
                let part = Bytes::from(vec![7; MIB / 4]);
                sender.send(part.clone()).await.expect("the body is read");
                // The last is sent only when the first has arrived.
                until("the first bytes at the server", || arrived.load(Ordering::SeqCst) > 0).await;
                for _ in 1..LARGE / part.len() {
                    sender.send(part.clone()).await.expect("the body is read");
                }
            });
            let answer = client.send(post("/", body)).await;
            assert_eq!(text(answer).await, LARGE.to_string());
            sent.await.expect("all is sent");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_is_streamed_no_faster_than_it_is_read() {
    let made = Arc::<AtomicU64>::default();
    let answer = |made: Arc<AtomicU64>| {
        made.store(0, Ordering::SeqCst);
        let (sender, body) = streamed(1);
        tokio::spawn(async move {
            for _ in 0..LARGE / (MIB / 4) {
                if sender.send(Bytes::from(vec![7; MIB / 4])).await.is_err() {
                    return;
                }
                made.fetch_add(1, Ordering::SeqCst);
            }
        });
        async { Response::new(body) }
    };
    let (first, second) = (made.clone(), made.clone());
    let one = serve(move |_| answer(first.clone())).await;
    let two = serve_h2(move |_| answer(second.clone())).await;
    for edge in [Edge::to(one).start(), Edge::to(two).h2_servers().start()] {
        for mut client in clients(edge.address).await {
            let response = client.get("/").await;
            let mut body = response.into_body();
            let mut got = soon("a part", body.frame()).await.expect("a part").expect("a part").into_data().expect("data").len();
            // What is not read is not fetched, but for what buffers on the way hold:
            // sockets' may have 6 MiB each.
            let mut last = u64::MAX;
            while last != made.load(Ordering::SeqCst) {
                last = made.load(Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            assert!(last < (LARGE / (MIB / 4)) as u64 / 2, "{last} parts were fetched ahead");
            while let Some(frame) = soon("a part", body.frame()).await {
                got += frame.expect("a part").into_data().map_or(0, |data| data.len());
            }
            assert_eq!(got, LARGE);
        }
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_many_requests() {
    let connections = Arc::<AtomicU64>::default();
    let count = connections.clone();
    let server = raw::counted(count).await;
    let edge = Edge::to(server).start();
    let mut client = Client::one(edge.address).await;
    for _ in 0..50 {
        assert_eq!(text(client.get("/").await).await, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "the server's connection is kept too");
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let edge = Edge::to(serve(mirror).await).start();
    // Without bodies, with lengths, with chunks: where the next begins is known.
    let bodies: [(&str, &str, &str); 3] = [
        ("GET", "", ""),
        ("POST", "content-length: 3\r\n", "abc"),
        ("POST", "transfer-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ];
    for (method, fields, content) in bodies {
        let mut all = String::new();
        for number in 1..=3 {
            let close = if number == 3 { "connection: close\r\n" } else { "" };
            all += &format!("{method} /{number} HTTP/1.1\r\nhost: a\r\n{fields}{close}\r\n{content}");
        }
        let answers = raw::exchange(edge.address, all.as_bytes()).await;
        let found: Vec<usize> = (1..=3).filter_map(|n| answers.find(&format!("{method} /{n} "))).collect();
        assert_eq!(found.len(), 3, "{method} {fields}: {answers}");
        assert!(found.is_sorted(), "{answers}");
    }
}

#[tokio::test]
async fn http_1_0_is_spoken() {
    let edge = Edge::to(serve(mirror).await).start();
    // Without keep-alive, the end of the connection is the end of the body.
    let answer = raw::exchange(edge.address, b"GET /old HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 200 OK\r\n") && answer.contains("GET /old"), "{answer}");
    let two = b"GET /1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n";
    let answer = raw::exchange(edge.address, two).await;
    assert!(answer.contains("GET /1") && answer.contains("GET /2"), "{answer}");
    // Chunks of a server are not shown to a client that does not know them.
    let server = raw::canned(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let edge = Edge::to(server).start();
    let answer = raw::exchange(edge.address, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let answer = || {
        let (sender, body) = streamed(1);
        let response = Response::builder().header("content-type", "text/event-stream").body(body);
        (sender, response.expect("a response"))
    };
    let senders = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (first, second) = (senders.clone(), senders.clone());
    let make = move |senders: Arc<std::sync::Mutex<Vec<_>>>| {
        let (sender, response) = answer();
        senders.lock().expect("no panic").push(sender);
        async { response }
    };
    let one = serve(move |_| make(first.clone())).await;
    let two = serve_h2(move |_| make(second.clone())).await;
    for edge in [Edge::to(one).start(), Edge::to(two).h2_servers().start()] {
        for mut client in clients(edge.address).await {
            let mut body = client.get("/events").await.into_body();
            let sender = senders.lock().expect("no panic").pop().expect("a request came");
            for number in 0..5 {
                // The next is sent only when this one was read.
                let event = format!("data: {number}\n\n");
                sender.send(event.clone().into()).await.expect("the body is read");
                let frame = soon("an event", body.frame()).await.expect("an event").expect("an event");
                assert_eq!(frame.into_data().expect("data"), event);
            }
            drop(sender);
            assert!(soon("the end", body.frame()).await.is_none());
        }
    }
}

#[tokio::test]
async fn large_headers_pass_both_ways() {
    let large = |request: Request<Incoming>| async move {
        let length = request.headers()["x-large"].len();
        let response = Response::builder().header("x-length", length).header("x-large", "y".repeat(20_000));
        response.body(empty()).expect("a response")
    };
    for edge in [Edge::to(serve(large).await).start(), Edge::to(serve_h2(large).await).h2_servers().start()] {
        for mut client in clients(edge.address).await {
            let request = Request::get("/").header("x-large", "x".repeat(20_000)).body(empty());
            let answer = client.send(request.expect("a request")).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["x-length"], "20000");
            assert_eq!(answer.headers()["x-large"].len(), 20_000);
        }
    }
}

#[tokio::test]
async fn alpn_chooses_the_version() {
    let authority = Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let edge = Edge::to(serve(mirror).await).listener(|listener| listener.tls = Some(tls)).start();
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&[][..], None),
    ] {
        let config = Arc::new(authority.client(offered));
        let stream = handshake(edge.address, &config, "shop.example").await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        let mut client = match chosen {
            Some(b"h2") => Client::two_over(stream).await,
            _ => Client::one_over(stream).await,
        };
        let answer = client.send(post("/p", full(vec![0; 100_000]))).await;
        assert!(text(answer).await.ends_with("body=Ok(100000)"));
    }
}

#[tokio::test]
async fn http_2_is_not_spoken_where_it_is_switched_off() {
    let authority = Authority::new();
    let tls = authority.tls(&["shop.example"]);
    let server = serve(mirror).await;
    let edge = Edge::to(server).listener(|l| (l.tls, l.http2) = (Some(tls), false)).start();
    let config = Arc::new(authority.client(&["h2", "http/1.1"]));
    let stream = handshake(edge.address, &config, "shop.example").await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let plain = Edge::to(server).listener(|listener| listener.http2 = false).start();
    let answer = raw::exchange(plain.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_others_are_served() {
    let authority = Authority::new();
    let tls = authority.tls(&["localhost"]);
    let server = serve(mirror).await;
    let plain = Edge::to(server).start();
    let secure = Edge::to(server).listener(|listener| listener.tls = Some(tls)).start();
    let http = format!("http://{}/x", plain.address);
    let https = format!("https://localhost:{}/x", secure.address.port());
    let ca = authority.ca();
    let ca = ca.to_str().expect("a path");
    for (arguments, expected) in [
        (vec!["--http1.1", &*http], "GET /x"),
        (vec!["--http2-prior-knowledge", &*http], "GET /x"),
        (vec!["--http1.0", &*http], "GET /x"),
        (vec!["--http2", "--cacert", ca, &*https], "GET /x"),
        (vec!["--http1.1", "--cacert", ca, "--data-binary", "abc", &*https], "body=Ok(3)"),
        (vec!["--http1.1", "-T", ca, &*http], "chunked=false"),
        (vec!["--http1.1", "-H", "transfer-encoding: chunked", "-T", ca, &*http], "chunked=true"),
    ] {
        let output = run("curl", &[&["-sS", "--max-time", "20"], &*arguments].concat()).await;
        assert!(output.contains(expected), "{arguments:?}: {output}");
    }
    for arguments in [vec!["--h1", &*http], vec!["-m", "8", &*http], vec!["-m", "8", &*https]] {
        let output = run("h2load", &[&["-n", "2000", "-c", "4"], &*arguments].concat()).await;
        assert!(output.contains("2000 succeeded, 0 failed, 0 errored"), "{arguments:?}: {output}");
    }
}

/// What a program says.
async fn run(program: &str, arguments: &[&str]) -> String {
    let output = soon(program, Command::new(program).args(arguments).kill_on_drop(true).output()).await;
    let output = output.expect("it is installed");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{error}");
    out.into_owned() + &error
}

#[tokio::test]
async fn an_empty_edge_says_that_nobody_serves() {
    let edge = Edge::empty().start();
    for mut client in clients(edge.address).await {
        let answer = client.get("/").await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
    }

}
