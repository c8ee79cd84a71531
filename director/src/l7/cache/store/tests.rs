//! What [`ByteCache`] holds to.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pingora_cache::{
    CacheKey, CacheMeta, Storage,
    key::CacheHashKey,
    storage::{PurgeOutcome, PurgeTarget, PurgeType},
    trace::Span,
};
use pingora_http::ResponseHeader;

use super::ByteCache;

fn cache(limit: u64) -> &'static ByteCache {
    Box::leak(Box::new(ByteCache::new(limit)))
}

fn key(number: u64) -> CacheKey {
    CacheKey::new(number.to_be_bytes(), "")
}

fn meta(length: Option<usize>) -> CacheMeta {
    let mut head = ResponseHeader::build(200, None).unwrap();
    head.insert_header("etag", "\"1\"").unwrap();
    if let Some(length) = length {
        head.insert_header("content-length", length).unwrap();
    }
    let now = SystemTime::now();
    CacheMeta::new(now + Duration::from_secs(60), now, 5, 7, head)
}

/// Whether it was kept.
async fn fill(cache: &'static ByteCache, key: &CacheKey, parts: &[Bytes], declared: bool) -> bool {
    let trace = Span::inactive().handle();
    let length = declared.then(|| parts.iter().map(Bytes::len).sum());
    let Ok(mut handler) = cache.get_miss_handler(key, &meta(length), &trace).await else {
        return false;
    };
    for part in parts {
        if handler.write_body(part.clone(), false).await.is_err() {
            return false;
        }
    }
    handler.finish().await.is_ok()
}

async fn read(cache: &'static ByteCache, key: &CacheKey) -> Option<Vec<u8>> {
    let trace = Span::inactive().handle();
    let (_, mut hit) = cache.lookup(key, &trace).await.unwrap()?;
    let mut body = Vec::new();
    while let Some(chunk) = hit.read_body().await.unwrap() {
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

#[tokio::test]
async fn what_was_filled_is_read() {
    let cache = cache(1 << 20);
    let body = vec![Bytes::from(vec![1; 100_000]), Bytes::from_static(b"end")];
    assert!(fill(cache, &key(1), &body, false).await);
    assert_eq!(read(cache, &key(1)).await.unwrap(), body.concat());
    assert_eq!(read(cache, &key(2)).await, None);
    assert!(cache.contains(&key(1)));
}

#[tokio::test]
async fn what_decides_about_it_is_kept() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    let mut given = meta(None);
    given.set_variance([3; 16]);
    given.set_epoch_override(SystemTime::now() - Duration::from_secs(40));
    let handler = cache
        .get_miss_handler(&key(1), &given, &trace)
        .await
        .unwrap();
    handler.finish().await.unwrap();
    let (kept, _) = cache.lookup(&key(1), &trace).await.unwrap().unwrap();
    assert_eq!(kept.fresh_until(), given.fresh_until());
    assert_eq!(kept.provenance(), given.provenance());
    assert_eq!(kept.created(), given.created());
    assert_eq!(kept.epoch(), given.epoch());
    assert_eq!(kept.variance(), given.variance());
    assert_eq!(kept.stale_while_revalidate_sec(), 5);
    assert_eq!(kept.stale_if_error_sec(), 7);
    assert_eq!(kept.headers(), given.headers());
}

#[tokio::test]
async fn a_range_is_read() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    fill(cache, &key(1), &[Bytes::from_static(b"0123456789")], true).await;
    let (_, mut hit) = cache.lookup(&key(1), &trace).await.unwrap().unwrap();
    hit.seek(3, Some(5)).unwrap();
    assert_eq!(hit.read_body().await.unwrap().unwrap(), "34");
    assert_eq!(hit.read_body().await.unwrap(), None);
    hit.seek(8, Some(100)).unwrap();
    assert_eq!(hit.read_body().await.unwrap().unwrap(), "89");
    assert!(hit.seek(10, None).is_err());
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    let mut handler = cache
        .get_miss_handler(&key(1), &meta(None), &trace)
        .await
        .unwrap();
    handler
        .write_body(Bytes::from_static(b"half"), false)
        .await
        .unwrap();
    assert!(cache.bytes() > 4);
    drop(handler);
    assert_eq!(cache.bytes(), 0);
    assert_eq!(read(cache, &key(1)).await, None);
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_is_not_kept() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    for body in ["four", "more than five"] {
        let mut handler = cache
            .get_miss_handler(&key(1), &meta(Some(5)), &trace)
            .await
            .unwrap();
        let written = handler.write_body(Bytes::from(body), false).await;
        assert!(written.is_err() || handler.finish().await.is_err());
    }
    assert_eq!((cache.bytes(), cache.entries()), (0, 0));
}

#[tokio::test]
async fn a_body_larger_than_the_cache_is_not_kept() {
    let cache = cache(1 << 20);
    let parts: Vec<Bytes> = (0..64).map(|_| Bytes::from(vec![0; 64 << 10])).collect();
    assert!(!fill(cache, &key(1), &parts, true).await);
    assert!(!fill(cache, &key(1), &parts, false).await);
    assert_eq!(cache.bytes(), 0);
}

#[tokio::test]
async fn an_entry_is_renewed_and_forgotten() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    let body = [Bytes::from_static(b"body")];
    assert!(fill(cache, &key(1), &body, true).await);
    let taken = cache.bytes();
    let mut renewed = meta(Some(4));
    renewed.set_epoch_override(SystemTime::UNIX_EPOCH);
    assert!(cache.update_meta(&key(1), &renewed, &trace).await.unwrap());
    assert_eq!(cache.bytes(), taken);
    let (kept, _) = cache.lookup(&key(1), &trace).await.unwrap().unwrap();
    assert_eq!(kept.epoch(), SystemTime::UNIX_EPOCH);
    assert_eq!(read(cache, &key(1)).await.unwrap(), b"body");
    assert!(!cache.update_meta(&key(2), &renewed, &trace).await.unwrap());

    let compact = key(1).to_compact();
    assert_eq!(compact.combined_bin(), key(1).combined_bin());
    let target = PurgeTarget::Active(&compact);
    let first = cache
        .purge(target, PurgeType::Invalidation, &trace)
        .await
        .unwrap();
    assert_eq!(first, PurgeOutcome::Purged(None));
    let second = cache
        .purge(target, PurgeType::Invalidation, &trace)
        .await
        .unwrap();
    assert_eq!(second, PurgeOutcome::NotFound);
    assert!(!cache.forget(&key(1)));
}

#[tokio::test]
async fn what_is_read_counts_until_it_was_read() {
    let cache = cache(1 << 20);
    let trace = Span::inactive().handle();
    fill(cache, &key(1), &[Bytes::from(vec![0; 100_000])], true).await;
    let (_, mut hit) = cache.lookup(&key(1), &trace).await.unwrap().unwrap();
    let chunk = hit.read_body().await.unwrap();
    assert!(cache.forget(&key(1)));
    assert!(cache.bytes() > 100_000);
    drop(hit);
    assert!(cache.bytes() >= 100_000, "a chunk is still being sent");
    drop(chunk);
    assert_eq!(cache.bytes(), 0);
}

/// Many threads fill, read and forget; whoever looks sees no more than the limit.
#[test]
fn the_limit_holds_whatever_is_filled() {
    const LIMIT: u64 = 4 << 20;
    for seed in 0..8 {
        let cache = cache(LIMIT);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    runtime.block_on(churn(cache, seed * 16 + thread, LIMIT));
                });
            }
        });
        assert!(cache.entries() > 0, "seed {seed}");
        let kept: u64 = cache.kept.iter().map(|(_, entry)| entry.weight).sum();
        assert_eq!(cache.bytes(), kept, "seed {seed}: what nobody uses counts");
    }
}

async fn churn(cache: &'static ByteCache, seed: u64, limit: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let trace = Span::inactive().handle();
    let mut held = Vec::new();
    for _ in 0..400 {
        let key = key(random.u64(0..64));
        match random.u8(0..10) {
            0 => {
                cache.forget(&key);
            }
            1 => held.extend(cache.lookup(&key, &trace).await.unwrap()),
            2 => held.clear(),
            3 => {
                let mut renewed = meta(None);
                renewed.set_epoch_override(SystemTime::now());
                // Fails where there is no room.
                let _ = cache.update_meta(&key, &renewed, &trace).await;
            }
            _ => {
                let mut left = random.usize(0..400_000);
                let mut parts = Vec::new();
                while left > 0 {
                    let part = random.usize(1..=left.min(70_000));
                    parts.push(Bytes::from(vec![0; part]));
                    left -= part;
                }
                fill(cache, &key, &parts, random.bool()).await;
            }
        }
        assert!(cache.bytes() <= limit);
    }
}

#[test]
fn no_limit_is_too_small_or_too_large_to_make_a_cache() {
    for limit in [0, 1, 1000, 1 << 20, 1 << 30, 1 << 40] {
        assert_eq!(ByteCache::new(limit).bytes(), 0);
    }
}
