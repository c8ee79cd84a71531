//! What becomes of requests when servers fail, drain, or come back.

use std::net::SocketAddr;

use director::l7::Signal;
use director_core::breaker::{BreakerPolicy, BreakerState};
use hyper::{Request, Response, StatusCode, body::Incoming};

use crate::{
    edge::{Edge, soon},
    peers::{Body, Client, body, empty, full, serve, text},
};

async fn named(name: &'static str) -> SocketAddr {
    serve(move |_: Request<Incoming>| async move { Response::new(full(name)) }).await
}

async fn failing() -> SocketAddr {
    serve(|_: Request<Incoming>| async {
        let mut response = Response::new(full("no"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await
}

/// An address that nobody listens on.
async fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    socket.local_addr().expect("its address")
}

fn get() -> Request<Body> {
    Request::get("/")
        .header("host", "shop.example")
        .body(empty())
        .expect("a request")
}

async fn names(edge: SocketAddr, count: usize) -> Vec<String> {
    let mut client = Client::one(edge).await;
    let mut names = Vec::new();
    for _ in 0..count {
        let answer = client.send(get()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        names.push(text(answer).await);
    }
    names
}

#[tokio::test]
async fn a_lost_server_fails_no_request_and_becomes_suspect() {
    soon("answers", async {
        let mut edge = Edge::empty()
            .server("dc01", "a", nobody().await)
            .server("dc02", "b", named("b").await)
            .server("dc03", "c", named("c").await)
            // The fixture's own never opens.
            .forward(|forward| forward.breaker.endpoint = BreakerPolicy::default())
            .start();
        let names = names(edge.address, 60).await;
        assert!(names.iter().all(|name| name != "a"));
        assert!(names.iter().any(|name| name == "b") && names.iter().any(|name| name == "c"));
        let (mut suspects, mut opened) = (0, 0);
        while suspects == 0 || opened == 0 {
            match edge.signals.recv().await.expect("signals") {
                Signal::Suspect(endpoint) => {
                    assert_eq!(&*endpoint.endpoint, "a");
                    suspects += 1;
                }
                Signal::Breaker {
                    breaker,
                    transition,
                    ..
                } => {
                    assert_eq!(breaker, "dc01/a");
                    assert_eq!(transition.to, BreakerState::Open);
                    opened += 1;
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_status_is_tried_again_elsewhere_and_the_budget_bounds_it() {
    soon("answers", async {
        let edge = Edge::empty()
            .server("dc01", "a", failing().await)
            .server("dc02", "b", named("b").await)
            .start();
        assert!(names(edge.address, 30).await.iter().all(|name| name == "b"));
        assert!(edge.metrics().contains(r#"event="retry"} "#));

        let alone = Edge::to(failing().await)
            .forward(|forward| (forward.retry.budget_percent, forward.retry.budget_floor) = (0, 0))
            .start();
        let mut client = Client::one(alone.address).await;
        assert_eq!(
            client.send(get()).await.status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert!(
            alone.metrics().contains(r#"event="retry",} 0"#)
                || alone.metrics().contains(r#"event="retry"} 0"#)
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_drained_or_down_gets_nothing_until_it_is_back() {
    soon("answers", async {
        let mut edge = Edge::empty()
            .server("dc01", "a", named("a").await)
            .server("dc02", "b", named("b").await)
            .start();
        edge.drain_server("a", true);
        assert!(names(edge.address, 20).await.iter().all(|name| name == "b"));
        edge.drain_server("a", false);
        edge.down("b");
        assert!(names(edge.address, 20).await.iter().all(|name| name == "a"));
        edge.up("b");
        assert!(names(edge.address, 60).await.iter().any(|name| name == "b"));
    })
    .await;
}

#[tokio::test]
async fn without_a_server_the_fallback_or_503_is_said() {
    soon("answers", async {
        let edge = Edge::to(nobody().await).start();
        let mut client = Client::one(edge.address).await;
        let answer = client.send(get()).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));

        let edge = Edge::to(nobody().await)
            .forward(|forward| {
                forward.fallback = Some(director_core::l7::Answer {
                    status: 503,
                    content_type: "text/plain".into(),
                    body: (*b"closed today").into(),
                });
            })
            .start();
        let mut client = Client::one(edge.address).await;
        assert_eq!(
            body(client.send(get()).await).await,
            "closed today".as_bytes()
        );
    })
    .await;
}

#[tokio::test]
async fn a_drained_edge_ends_what_is_under_way_and_cuts_nothing() {
    soon("answers", async {
        let edge = Edge::to(named("a").await).start();
        let mut client = Client::one(edge.address).await;
        assert_eq!(text(client.send(get()).await).await, "a");
        assert_eq!(edge.stop().await, 0);
    })
    .await;
}
