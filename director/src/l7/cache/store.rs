//! [`ByteCache`]: responses in memory, within a limit of bytes.

use std::{any::Any, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::{
    CacheKey, CacheMeta, HitHandler, MissHandler, Storage,
    key::CacheHashKey,
    storage::{HandleHit, HandleMiss, MissFinishType, PurgeOutcome, PurgeTarget, PurgeType},
    trace::SpanHandle,
};
use pingora_core::{Error, ErrorType, Result};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter, sync};

use super::{
    budget::{Budget, Charge},
    entry::{Entry, Filling, Meta, Refused},
};

/// The least that a shard holds, in bytes: an entry must fit into one.
const SHARD_BYTES: u64 = 16 << 20;
const SHARDS: u64 = 64;
/// What is read of a body at once, so that the limit on silence towards a client is
/// one on silence, not on the time of a whole body.
const CHUNK: usize = 64 << 10;
/// Part of a shard that one entry may take, in percent; a bit below what quick_cache
/// takes for the most.
const LARGEST_PERCENT: u64 = 95;

/// Responses in memory. Bodies, heads and keys of what is kept, what is being
/// filled, and what is gone from the cache but still read by a slow client never
/// take more than the limit together: three quarters are for what is kept. What finds
/// no room is served and not kept.
///
/// An entry may take the size of a shard at most: three quarters of the limit, or
/// 16 MiB to 32 MiB where the limit is larger.
///
/// Entries go by S3-FIFO (`quick_cache`), so that what is asked for once does not
/// push out what is asked for often.
pub struct ByteCache {
    kept: sync::Cache<u128, Arc<Entry>, ByWeight, DefaultHashBuilder>,
    budget: Arc<Budget>,
    largest: u64,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<u128, Arc<Entry>> for ByWeight {
    fn weight(&self, _key: &u128, entry: &Arc<Entry>) -> u64 {
        entry.weight
    }
}

impl std::fmt::Debug for ByteCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteCache")
            .field("entries", &self.entries())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl ByteCache {
    /// A cache that takes so many bytes at most.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        let kept = limit_bytes - limit_bytes / 4;
        let shards = (kept / SHARD_BYTES).clamp(1, SHARDS);
        // Down to a power of two; quick_cache would go up.
        let shards = 1 << shards.ilog2();
        let estimate = usize::try_from(kept / 8192).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(shards)
            .weight_capacity(kept)
            .estimated_items_capacity(estimate.clamp(shards * 32, 1 << 20))
            .build();
        let largest = kept / shards as u64 / 100 * LARGEST_PERCENT;
        let kept = match options {
            Ok(options) => sync::Cache::with_options(
                options,
                ByWeight,
                DefaultHashBuilder::default(),
                sync::DefaultLifecycle::default(),
            ),
            // Only said where a number is missing.
            Err(_) => sync::Cache::with_weighter(1024, kept, ByWeight),
        };
        Self {
            kept,
            budget: Budget::new(limit_bytes),
            largest,
        }
    }

    /// Bytes that it takes now, those of fills and of bodies being read included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Responses that are kept.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.kept.len()
    }

    /// Whether something is kept under a key, fresh or not, or a variant of it.
    #[must_use]
    pub fn contains(&self, key: &CacheKey) -> bool {
        self.kept
            .contains_key(&u128::from_be_bytes(key.primary_bin()))
    }

    /// Forgets what is kept under a key, and with it all of its variants, since none
    /// is used that is older than its primary entry. Says whether there was one.
    pub fn forget(&self, key: &CacheKey) -> bool {
        self.kept
            .remove(&u128::from_be_bytes(key.primary_bin()))
            .is_some()
    }

    pub(super) fn entry(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        self.kept.peek(&slot(key))
    }

    fn most(&self, head: u64) -> usize {
        usize::try_from(self.largest.saturating_sub(head)).unwrap_or(usize::MAX)
    }
}

/// Where an entry is kept: 128 bits of BLAKE2b over key and variance.
fn slot(key: &impl CacheHashKey) -> u128 {
    u128::from_be_bytes(key.combined_bin())
}

fn refused(why: Refused) -> Box<Error> {
    Error::explain(ErrorType::WriteError, why.to_string())
}

#[async_trait]
impl Storage for ByteCache {
    async fn lookup(
        &'static self,
        key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<Option<(CacheMeta, HitHandler)>> {
        Ok(self.kept.get(&slot(key)).map(|entry| {
            let handler: HitHandler = Box::new(Hit {
                rest: 0..entry.body.len(),
                entry: entry.clone(),
            });
            (entry.meta(), handler)
        }))
    }

    async fn get_miss_handler(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<MissHandler> {
        let declared = meta
            .headers()
            .get(http::header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let meta = Meta::new(meta);
        let weight = meta.weight();
        let head = Charge::take(&self.budget, weight).ok_or_else(|| refused(Refused::NoRoom))?;
        let body = Filling::new(&self.budget, declared, self.most(weight)).map_err(refused)?;
        Ok(Box::new(Fill {
            cache: self,
            slot: slot(key),
            meta,
            head,
            body,
        }))
    }

    async fn purge(
        &'static self,
        target: PurgeTarget<'_>,
        _why: PurgeType,
        _trace: &SpanHandle,
    ) -> Result<PurgeOutcome> {
        Ok(match self.kept.remove(&slot(target.key())) {
            Some(_) => PurgeOutcome::Purged(None),
            None => PurgeOutcome::NotFound,
        })
    }

    async fn update_meta(
        &'static self,
        key: &CacheKey,
        meta: &CacheMeta,
        _trace: &SpanHandle,
    ) -> Result<bool> {
        let slot = slot(key);
        let Some(entry) = self.kept.peek(&slot) else {
            return Ok(false);
        };
        let meta = Meta::new(meta);
        let head =
            Charge::take(&self.budget, meta.weight()).ok_or_else(|| refused(Refused::NoRoom))?;
        let renewed = Arc::new(entry.with_meta(meta, head));
        // Where it went in the meantime, it stays away.
        Ok(self.kept.replace(slot, renewed, false).is_ok())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// Reads a body that is kept.
pub(super) struct Hit {
    pub(super) entry: Arc<Entry>,
    rest: Range<usize>,
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.end.min(self.rest.start + CHUNK);
        let chunk = self.entry.body.slice(self.rest.start..end);
        self.rest.start = end;
        Ok(Some(chunk))
    }

    async fn finish(
        self: Box<Self>,
        _storage: &'static (dyn Storage + Sync),
        _key: &CacheKey,
        _trace: &SpanHandle,
    ) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let length = self.entry.body.len();
        if start >= length {
            return Error::e_explain(
                ErrorType::InternalError,
                format!("byte {start} of a body of {length} bytes"),
            );
        }
        self.rest = start..end.map_or(length, |end| end.min(length));
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// Takes a body in. Only [`HandleMiss::finish`] puts it into the cache; dropped
/// before, nothing of it stays.
struct Fill {
    cache: &'static ByteCache,
    slot: u128,
    meta: Meta,
    head: Charge,
    body: Filling,
}

#[async_trait]
impl HandleMiss for Fill {
    async fn write_body(&mut self, data: Bytes, _end: bool) -> Result<()> {
        self.body.append(&data).map_err(refused)
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let body = self.body.finish().map_err(refused)?;
        let entry = Entry::new(self.meta, self.head, body);
        let size = usize::try_from(entry.weight).unwrap_or(usize::MAX);
        self.cache.kept.insert(self.slot, Arc::new(entry));
        Ok(MissFinishType::Created(size))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
