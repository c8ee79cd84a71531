//! What is written and counted of requests.

use std::path::Path;

use director_core::l7::AccessLog;
use serde_json::Value;

use crate::{
    edge::{Edge, SERVICE, until},
    peers::{Client, full, said, serve, text},
};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn every_request_is_a_line_and_a_moved_log_is_begun_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog { path: path.clone(), one_in: 1 };
    let edge = Edge::to(serve(|_| async { said("hello") }).await).rest(|l7| l7.access_log = Some(log)).start();
    let mut one = Client::one(edge.address).await;
    let mut two = Client::two(edge.address).await;
    let answer = one.get("/a?secret=1").await;
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(text(answer).await, "hello");
    let posted = http::Request::post("/b\"c").body(full("12345"));
    assert!(posted.is_err(), "no client sends that");
    let posted = http::Request::post("/b").body(full("12345")).expect("a request");
    assert_eq!(text(two.send(posted).await).await, "hello");
    until("both are written", || lines(&path).len() == 2).await;
    let written = lines(&path);
    let first = &written[0];
    for (name, expected) in [
        ("service", Value::from(SERVICE)),
        ("route", "default".into()),
        ("client", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("host", "shop.example".into()),
        ("path", "/a".into()),
        ("version", "1.1".into()),
        ("status", 200.into()),
        ("response_bytes", 5.into()),
        ("site", "dc01".into()),
        ("endpoint", "a".into()),
        ("tries", 1.into()),
        ("why", Value::Null),
        ("request_id", id.into()),
        ("tls", Value::Null),
    ] {
        assert_eq!(first[name], expected, "{name} of {first}");
    }
    assert!(first["time_unix_ms"].as_u64().expect("a time") > 1_600_000_000_000);
    assert!(first["duration_ms"].as_f64().expect("a duration") > 0.0);
    let second = &written[1];
    assert_eq!((&second["version"], &second["method"]), (&"2".into(), &"POST".into()));
    assert_eq!(second["request_bytes"], 5);
    assert_eq!(second["host"], "shop.example");
    // As logs are rotated: what is written from now on is in a new file.
    let moved = folder.path().join("access.log.1");
    std::fs::rename(&path, &moved).expect("a rename");
    until("the file is made anew", || path.exists()).await;
    assert_eq!(text(one.get("/after").await).await, "hello");
    until("it is written", || lines(&path).len() == 1).await;
    assert_eq!(lines(&path)[0]["path"], "/after");
    assert_eq!(lines(&moved).len(), 2);
}

#[tokio::test]
async fn failures_are_written_where_successes_are_sampled() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog { path: path.clone(), one_in: 10 };
    let mut edge = Edge::to(serve(|_| async { said("hello") }).await).rest(|l7| l7.access_log = Some(log)).start();
    let mut client = Client::one(edge.address).await;
    for _ in 0..20 {
        assert_eq!(client.get("/fine").await.status(), 200);
    }
    edge.reload(|l7| {
        let director_core::l7::Action::Forward(forward) = &mut l7.listeners[0].routes[0].action else {
            unreachable!("the default route forwards")
        };
        forward.pool = "absent".into();
    })
    .expect("a reload");
    for _ in 0..5 {
        // The edge may end a connection behind a failure.
        assert_eq!(Client::one(edge.address).await.get("/failed").await.status(), 503);
    }
    until("all are written", || lines(&path).len() >= 7).await;
    let written = lines(&path);
    let count = |name: &str| written.iter().filter(|line| line["path"] == name).count();
    assert_eq!((count("/fine"), count("/failed")), (2, 5));
}

#[tokio::test]
async fn requests_are_counted_by_route_site_and_status() {
    let mut edge = Edge::empty()
        .server("dc01", "a", serve(|_| async { said("one") }).await)
        .server("dc02", "b", serve(|_| async { said("two") }).await)
        .start();
    edge.drain_site("dc02", true);
    let mut client = Client::one(edge.address).await;
    for _ in 0..3 {
        assert_eq!(text(client.get("/").await).await, "one");
    }
    edge.drain_site("dc02", false);
    edge.down("a");
    for _ in 0..2 {
        assert_eq!(text(client.get("/").await).await, "two");
    }
    let expected = [
        r#"director_l7_requests_total{service="shop",route="default",site="dc01",code="2xx"} 3"#,
        r#"director_l7_requests_total{service="shop",route="default",site="dc02",code="2xx"} 2"#,
        r#"director_l7_connections{service="shop"} 1"#,
    ];
    until("all are counted", || expected.iter().all(|line| edge.metrics().contains(line))).await;
    let metrics = edge.metrics();
    assert!(metrics.contains(r#"director_l7_latency_seconds{service="shop",route="default",site="dc01",quantile="0.99"}"#));
    drop(client);
    until("it is closed", || edge.metrics().contains(r#"director_l7_connections{service="shop"} 0"#)).await;
    let answer = crate::raw::exchange(edge.address, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(edge.metrics().contains("no_host"), "{}", edge.metrics());
}
