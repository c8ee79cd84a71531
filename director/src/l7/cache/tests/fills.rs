//! Fills: one for many, those that fail, and those that are too large.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use director_core::l7::model::CachePolicy;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::Semaphore;

use super::world::{Body, POLICY, World, respond};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// A chunked response of these parts; one that is none breaks it off.
fn chunked(parts: Vec<Option<Bytes>>) -> Response<Body> {
    let frames = parts.into_iter().map(|part| match part {
        Some(data) => Ok(Frame::data(data)),
        None => Err(io::Error::other("broken off")),
    });
    Response::builder()
        .header(FRESH.0, FRESH.1)
        .body(StreamBody::new(futures::stream::iter(frames)).boxed())
        .unwrap()
}

async fn many(world: &Arc<World>, clients: usize) -> Vec<super::world::Reply> {
    let clients = (0..clients).map(|_| {
        let world = Arc::clone(world);
        tokio::spawn(async move { world.get("/", &[]).await })
    });
    let replies = futures::future::join_all(clients).await;
    replies.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn many_misses_are_one_request() {
    let world = Arc::new(World::new(|_| async { respond(200, &[FRESH], "body") }).await);
    let replies = many(&world, 50).await;
    assert!(replies.iter().all(|reply| reply.body == "body"));
    assert_eq!(world.asked(), 1);
    let forwarded = replies
        .iter()
        .filter(|reply| reply.cache().contains("stored"));
    assert_eq!(forwarded.count(), 1);
}

#[tokio::test]
async fn who_waits_for_a_fill_that_fails_is_served_by_the_next() {
    let count = AtomicUsize::new(0);
    let gate = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&gate);
    let world = World::new(move |_| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let gate = Arc::clone(&gate);
        async move {
            if first {
                // Until the others wait.
                gate.acquire().await.unwrap().forget();
                return respond(503, &[], "failed");
            }
            respond(200, &[FRESH], "body")
        }
    })
    .await;
    let world = Arc::new(world);
    let others = tokio::spawn({
        let world = Arc::clone(&world);
        async move { many(&world, 20).await }
    });
    while world.asked() == 0 {
        tokio::task::yield_now().await;
    }
    open.add_permits(1);
    let replies = others.await.unwrap();
    let failed = replies.iter().filter(|reply| reply.status == 503).count();
    assert_eq!(failed, 1);
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_kept() {
    let count = AtomicUsize::new(0);
    let world = World::new(move |_| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        let half = Some(Bytes::from_static(b"half"));
        let rest = (!first).then(|| Bytes::from_static(b" and half"));
        async move { chunked(vec![half, rest]) }
    })
    .await;
    world.get("/", &[]).await;
    assert_eq!(world.caching.store().entries(), 0);
    assert_eq!(world.get("/", &[]).await.body, "half and half");
    assert_eq!(world.get("/", &[]).await.body, "half and half");
    assert_eq!(world.asked(), 2);
    assert!(world.caching.store().bytes() < 10_000);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_streamed_and_not_kept() {
    let large = "x".repeat(usize::try_from(POLICY.body_bytes).unwrap() + 1);
    let declared = large.clone();
    let world = World::new(move |request| {
        let body = declared.clone();
        async move {
            if request.uri().path() == "/declared" {
                return respond(200, &[FRESH], &body);
            }
            let body = Bytes::from(body);
            chunked(vec![Some(body.slice(..1000)), Some(body.slice(1000..))])
        }
    })
    .await;
    for target in ["/declared", "/declared", "/chunked", "/chunked"] {
        let reply = world.get(target, &[]).await;
        assert_eq!((reply.status, reply.body.len()), (200, large.len()));
    }
    assert_eq!(world.asked(), 4);
    assert_eq!(world.caching.store().bytes(), 0);
}

#[tokio::test]
async fn bodies_that_the_store_has_no_room_for_are_streamed() {
    let policy = CachePolicy {
        body_bytes: u64::MAX,
        ..POLICY
    };
    let large = "x".repeat(300_000);
    let body = large.clone();
    let world = World::with(policy, 100_000, move |_| {
        let body = Bytes::from(body.clone());
        async move { chunked(vec![Some(body.slice(..9)), Some(body.slice(9..))]) }
    })
    .await;
    assert_eq!(world.get("/", &[]).await.body.len(), large.len());
    assert_eq!(world.caching.store().bytes(), 0);
}

#[tokio::test]
async fn the_limit_holds_whatever_is_asked_for() {
    const LIMIT: u64 = 500_000;
    let world = World::with(POLICY, LIMIT, |request| async move {
        let length: usize = request.uri().path()[1..].parse().unwrap();
        respond(200, &[FRESH], &"x".repeat(length))
    })
    .await;
    let world = Arc::new(world);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let clients = (0..20).map(|_| {
            let world = Arc::clone(&world);
            let length = random.usize(0..150_000);
            tokio::spawn(async move {
                let reply = world.get(&format!("/{length}"), &[]).await;
                assert_eq!(reply.body.len(), length);
                assert!(world.caching.store().bytes() <= LIMIT);
            })
        });
        for client in futures::future::join_all(clients).await {
            client.unwrap();
        }
    }
    assert!(world.caching.store().entries() > 0);
}

/// A response that ends with its connection may have been cut off.
#[tokio::test]
async fn a_body_without_an_end_is_not_kept() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let head = b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\n\r\nbody";
            let _ = stream.write_all(head).await;
        }
    });
    let world = World::new(|_| async { respond(500, &[], "") }).await;
    world.ask_at(address);
    let reply = tokio::time::timeout(Duration::from_secs(60), world.get("/", &[])).await;
    assert_eq!(reply.unwrap().body, "body");
    assert_eq!(world.caching.store().entries(), 0);
}
