//! Bodies that pass while they are still being sent.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, body::Incoming};

use crate::http::{LARGE, MIB, clients, post};
use crate::{
    edge::{Edge, soon, until},
    peers::{Body, said, serve, serve_h2, streamed, text},
};

/// Counts what it is sent, and says when the first byte came.
async fn sink(seen: Arc<AtomicU64>, request: Request<Incoming>) -> Response<Body> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return said("cut") };
        seen.fetch_add(
            frame.data_ref().map_or(0, |data| data.len() as u64),
            Ordering::SeqCst,
        );
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
                until("the first bytes at the server", || {
                    arrived.load(Ordering::SeqCst) > 0
                })
                .await;
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
            let mut got = soon("a part", body.frame())
                .await
                .expect("a part")
                .expect("a part")
                .into_data()
                .expect("data")
                .len();
            // What is not read is not fetched, but for what buffers on the way hold:
            // sockets' may have 6 MiB each.
            let mut last = u64::MAX;
            while last != made.load(Ordering::SeqCst) {
                last = made.load(Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            assert!(
                last < (LARGE / (MIB / 4)) as u64 / 2,
                "{last} parts were fetched ahead"
            );
            while let Some(frame) = soon("a part", body.frame()).await {
                got += frame
                    .expect("a part")
                    .into_data()
                    .map_or(0, |data| data.len());
            }
            assert_eq!(got, LARGE);
        }
    }
}
