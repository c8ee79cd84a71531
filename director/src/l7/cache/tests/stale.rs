//! Validation, and what is served when no server can answer. Responses come with an
//! `Age`, so that nothing has to wait for them to become stale.

use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicUsize, Ordering},
};

use super::world::{Reply, World, respond};

/// Fresh for 10 seconds, 12 seconds ago.
const STALE: &[(&str, &str)] = &[("cache-control", "max-age=10"), ("age", "12")];

/// A server that answers with a status that can be changed.
async fn world(headers: &'static [(&'static str, &'static str)]) -> (World, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let told = Arc::clone(&status);
    let world = World::new(move |_| {
        let status = told.load(Ordering::Relaxed);
        async move { respond(status, headers, "body") }
    })
    .await;
    world.get("/", &[]).await;
    (world, status)
}

#[track_caller]
fn is_stale(reply: &Reply) {
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "body"),
        "{reply:?}"
    );
    assert!(reply.cache().contains("ttl=-"), "{reply:?}");
    assert!(reply.header("age").parse::<u64>().unwrap() >= 12);
}

#[tokio::test]
async fn what_is_stale_is_validated_by_etag() {
    let world = World::new(|request| async move {
        let validated = request.headers().get("if-none-match");
        if validated.is_some_and(|etag| etag == "\"1\"") {
            return respond(
                304,
                &[("cache-control", "max-age=60"), ("etag", "\"1\"")],
                "",
            );
        }
        let headers = [("cache-control", "no-cache"), ("etag", "\"1\"")];
        respond(200, &headers, "body")
    })
    .await;
    world.get("/", &[]).await;
    let validated = world.get("/", &[]).await;
    assert_eq!((validated.status, validated.body.as_str()), (200, "body"));
    assert_eq!(validated.cache(), "director; fwd=stale; fwd-status=304");
    assert_eq!(world.asked_last("if-none-match").as_deref(), Some("\"1\""));
    // The 304 says that it is fresh now.
    let hit = world.get("/", &[]).await;
    assert!(hit.cache().starts_with("director; hit"), "{hit:?}");
    assert_eq!(world.asked(), 2);
    // A client's own validation is answered too.
    let unchanged = world.get("/", &[("If-None-Match", "\"1\"")]).await;
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn while_the_server_is_down_what_is_stale_is_served() {
    let (world, _) = world(STALE).await;
    world.down().await;
    is_stale(&world.get("/", &[]).await);
    is_stale(&world.ask("HEAD", "/", &[]).await.with_body("body"));
    assert_eq!(world.get("/other", &[]).await.status, 502);
}

#[tokio::test]
async fn an_error_status_that_is_retried_is_one() {
    let (world, status) = world(STALE).await;
    status.store(503, Ordering::Relaxed);
    let stale = world.get("/", &[]).await;
    is_stale(&stale);
    assert_eq!(
        stale.cache().split("ttl").next(),
        Some("director; fwd=stale; ")
    );
    // One that is not goes to the client.
    let (world, status) = self::world(STALE).await;
    status.store(500, Ordering::Relaxed);
    assert_eq!(world.get("/", &[]).await.status, 500);
    // And takes nothing from the cache.
    status.store(503, Ordering::Relaxed);
    is_stale(&world.get("/", &[]).await);
}

#[tokio::test]
async fn the_limit_of_staleness_holds() {
    const WITHIN: &[(&str, &str)] = &[("cache-control", "max-age=10"), ("age", "65")];
    const BEYOND: &[(&str, &str)] = &[
        ("cache-control", "max-age=10"),
        ("age", "71"),
        ("etag", "\"1\""),
    ];
    const SAYS: &[(&str, &str)] = &[
        ("cache-control", "max-age=10, stale-if-error=5"),
        ("age", "16"),
        ("etag", "\"1\""),
    ];
    for (headers, status) in [(WITHIN, 200), (BEYOND, 502), (SAYS, 502)] {
        let (world, _) = world(headers).await;
        assert_eq!(world.caching.store().entries(), 1);
        world.down().await;
        assert_eq!(world.get("/", &[]).await.status, status, "{headers:?}");
        world.answerable(false);
        assert_eq!(world.get("/", &[]).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn what_must_be_validated_is_never_served_stale() {
    for control in [
        "max-age=10, must-revalidate",
        "max-age=10, proxy-revalidate",
        "s-maxage=10",
        "max-age=10, no-cache, stale-if-error=60",
        "max-age=10, must-revalidate, stale-if-error=60, stale-while-revalidate=60",
    ] {
        let headers = [("cache-control", control), ("age", "12"), ("etag", "\"1\"")];
        let world = World::new(move |_| async move { respond(200, &headers, "body") }).await;
        world.get("/", &[]).await;
        assert_eq!(world.caching.store().entries(), 1, "{control}");
        world.down().await;
        world.answerable(false);
        let reply = world.get("/", &[]).await;
        assert_eq!(reply.status, 502, "{control}: {reply:?}");
    }
}

#[tokio::test]
async fn where_no_server_may_be_asked_none_is() {
    let (world, _) = world(STALE).await;
    world.answerable(false);
    let stale = world.get("/", &[]).await;
    is_stale(&stale);
    assert!(stale.cache().starts_with("director; hit"), "{stale:?}");
    assert_eq!(world.asked(), 1);
    world.answerable(true);
    world.get("/", &[]).await;
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn all_who_wait_are_served_when_the_server_fails() {
    let (world, status) = world(STALE).await;
    status.store(503, Ordering::Relaxed);
    let world = Arc::new(world);
    let clients = (0..50).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.get("/", &[]).await })
    });
    for reply in futures::future::join_all(clients).await {
        is_stale(&reply.unwrap());
    }
}

#[tokio::test]
async fn what_is_stale_is_served_while_it_is_renewed() {
    let count = AtomicUsize::new(0);
    let world = World::new(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let age = if number == 1 { "12" } else { "0" };
        let headers = [
            ("cache-control", "max-age=10, stale-while-revalidate=30"),
            ("age", age),
        ];
        async move { respond(200, &headers, &number.to_string()) }
    })
    .await;
    world.get("/", &[]).await;
    let stale = world.get("/", &[]).await;
    assert_eq!(stale.body, "1");
    assert!(
        stale.cache().contains("stale-while-revalidate"),
        "{stale:?}"
    );
    while world.get("/", &[]).await.body == "1" {
        tokio::task::yield_now().await;
    }
    let hit = world.get("/", &[]).await;
    assert_eq!(hit.body, "2");
    assert!(hit.cache().starts_with("director; hit"), "{hit:?}");
    assert_eq!(world.asked(), 2);
    // Who wants it validated does not get it stale.
    let asked = world.get("/", &[("Cache-Control", "no-cache")]).await;
    assert_eq!(asked.body, "3");
}

#[tokio::test]
async fn a_client_that_wants_validation_still_gets_an_answer_in_an_outage() {
    let (world, _) = world(&[("cache-control", "max-age=60")]).await;
    world.down().await;
    let reply = world.get("/", &[("Cache-Control", "no-cache")]).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "body"));
}
