//! The cache within a real proxy: clients and a server on loopback.

mod fills;
mod stale;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};

use world::{World, respond};

const FRESH: (&str, &str) = ("cache-control", "max-age=60");

/// A server of which every answer has another body: "1", "2" and so on.
async fn counting(headers: &'static [(&'static str, &'static str)]) -> World {
    let count = AtomicUsize::new(0);
    World::new(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { respond(200, headers, &number.to_string()) }
    })
    .await
}

#[tokio::test]
async fn what_is_fresh_is_served_without_the_server() {
    let world = counting(&[FRESH, ("x-kept", "yes")]).await;
    let miss = world.get("/a?b", &[]).await;
    assert_eq!((miss.status, miss.body.as_str()), (200, "1"));
    assert_eq!(miss.cache(), "director; fwd=uri-miss; stored");
    let hit = world.get("/a?b", &[]).await;
    assert_eq!((hit.status, hit.body.as_str()), (200, "1"));
    assert!(hit.cache().starts_with("director; hit; ttl="), "{hit:?}");
    assert_eq!(hit.header("x-kept"), "yes");
    assert!(hit.header("age").parse::<u64>().unwrap() < 60);
    assert_eq!(world.get("/a?c", &[]).await.body, "2");
    assert_eq!(world.asked(), 2);
}

#[tokio::test]
async fn the_age_that_a_response_comes_with_counts() {
    let world = counting(&[FRESH, ("age", "40")]).await;
    world.get("/", &[]).await;
    let hit = world.get("/", &[]).await;
    let age: u64 = hit.header("age").parse().unwrap();
    assert!((40..60).contains(&age), "{hit:?}");

    let world = counting(&[FRESH, ("age", "61")]).await;
    world.get("/", &[]).await;
    assert_eq!(world.get("/", &[]).await.body, "2");
}

#[tokio::test]
async fn a_head_request_fills_and_is_answered() {
    let world = counting(&[FRESH]).await;
    let head = world.ask("HEAD", "/", &[]).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), "1");
    assert_eq!(world.get("/", &[]).await.body, "1");
    let head = world.ask("HEAD", "/", &[]).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(world.asked(), 1);
    assert_eq!(world.asked.lock().unwrap()[0].method, "GET");
}

#[tokio::test]
async fn responses_that_must_not_be_kept_are_not() {
    let cases: [&[(&str, &str)]; 10] = [
        &[],
        &[("cache-control", "no-store, max-age=60")],
        &[("cache-control", "private, max-age=60")],
        &[FRESH, ("set-cookie", "a=b")],
        &[FRESH, ("vary", "accept, *")],
        &[("cache-control", "max-age=60, s-maxage=0")],
        &[("cache-control", "max-age=60, max-age=x")],
        &[("cache-control", "s-maxage=-1")],
        &[("expires", "0")],
        &[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")],
    ];
    for headers in cases {
        let world = counting(headers).await;
        world.get("/", &[]).await;
        let second = world.get("/", &[]).await;
        assert_eq!(second.body, "2", "{headers:?}: {second:?}");
    }
}

#[tokio::test]
async fn errors_are_not_kept() {
    for status in [206, 400, 401, 403, 429, 500, 503] {
        let world = World::new(move |_| async move { respond(status, &[FRESH], "x") }).await;
        world.get("/", &[]).await;
        let second = world.get("/", &[]).await;
        assert_eq!((second.status, world.asked()), (status, 2));
    }
}

#[tokio::test]
async fn variants_are_told_apart() {
    let world = World::new(|request| async move {
        let language = request.headers().get("accept-language");
        let language = language.map_or("none", |value| value.to_str().unwrap());
        respond(200, &[FRESH, ("vary", "Accept-Language")], language)
    })
    .await;
    for _ in 0..2 {
        for language in ["de", "en", ""] {
            let reply = world.get("/", &[("Accept-Language", language)]).await;
            assert_eq!(reply.body, language);
        }
        assert_eq!(world.get("/", &[]).await.body, "none");
    }
    assert_eq!(world.asked(), 4);
}

#[tokio::test]
async fn authorization_is_heeded() {
    let authorized = [("Authorization", "Basic eDp5")];
    let world = counting(&[FRESH]).await;
    world.get("/", &authorized).await;
    assert_eq!(world.get("/", &[]).await.body, "2", "not another's");
    assert_eq!(world.get("/", &authorized).await.body, "3", "not the kept");
    assert_eq!(world.get("/", &[]).await.body, "2", "kept all the while");

    for permitted in [
        "public, max-age=60",
        "s-maxage=60",
        "max-age=60, must-revalidate",
    ] {
        let world =
            World::new(move |_| async move { respond(200, &[("cache-control", permitted)], "x") })
                .await;
        world.get("/", &authorized).await;
        world.get("/", &authorized).await;
        world.get("/", &[]).await;
        assert_eq!(world.asked(), 1, "{permitted}");
    }
}

#[tokio::test]
async fn a_client_may_ask_for_validation() {
    let world = counting(&[FRESH, ("age", "30")]).await;
    world.get("/", &[]).await;
    for (number, header) in [
        ("Cache-Control", "no-cache"),
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "max-age=29"),
        ("Cache-Control", "min-fresh=31"),
        ("Pragma", "no-cache"),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = world.get("/", &[header]).await;
        assert_eq!(reply.body, (number + 2).to_string(), "{header:?}");
        assert_eq!(reply.cache(), "director; fwd=stale; stored");
    }
    let kept = world
        .get("/", &[("Cache-Control", "max-age=50, min-fresh=5")])
        .await;
    assert_eq!(kept.body, "6");
    assert_eq!(
        world.get("/", &[("Cache-Control", "no-store")]).await.body,
        "7"
    );
    assert_eq!(world.get("/", &[]).await.body, "6");
}

#[tokio::test]
async fn only_if_cached_never_reaches_the_server() {
    let world = counting(&[FRESH]).await;
    let only = [("Cache-Control", "only-if-cached")];
    assert_eq!(world.get("/", &only).await.status, 504);
    assert_eq!(world.asked(), 0);
    world.get("/", &[]).await;
    assert_eq!(world.get("/", &only).await.body, "1");
}

#[tokio::test]
async fn a_change_makes_what_is_kept_invalid() {
    let world = counting(&[FRESH]).await;
    world.get("/", &[]).await;
    world.ask("POST", "/", &[("Content-Length", "0")]).await;
    assert_eq!(world.get("/", &[]).await.body, "3");
}

#[tokio::test]
async fn ranges_are_answered_from_what_is_kept_and_fill_nothing() {
    let world = World::new(|request| async move {
        if request.headers().contains_key("range") {
            respond(206, &[("content-range", "bytes 2-4/10"), FRESH], "234")
        } else {
            respond(200, &[FRESH], "0123456789")
        }
    })
    .await;
    let range = [("Range", "bytes=2-4")];
    for _ in 0..2 {
        let passed = world.get("/", &range).await;
        assert_eq!((passed.status, passed.body.as_str()), (206, "234"));
    }
    assert_eq!(world.asked(), 2);
    world.get("/", &[]).await;
    let kept = world.get("/", &range).await;
    assert_eq!((kept.status, kept.body.as_str()), (206, "234"));
    assert_eq!(world.asked(), 3);
}
