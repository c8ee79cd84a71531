//! One request for many: who fills the cache, and who waits for it.

use pingora_cache::{
    CacheKey,
    lock::{CacheKeyLock, CacheLock, LockStatus, Locked, WritePermit},
};

/// pingora's lock, with another answer to why a fill was given up: where the next
/// response may be kept, one of those who wait fills in its place, and the others go
/// on waiting. pingora would send them all to the server.
#[derive(Debug)]
pub(super) struct FillLock(pub(super) CacheLock);

impl CacheKeyLock for FillLock {
    fn lock(&self, key: &CacheKey, stale_writer: bool) -> Locked {
        self.0.lock(key, stale_writer)
    }

    fn release(&self, key: &CacheKey, permit: WritePermit, reason: LockStatus) {
        self.0.release(key, permit, reason);
    }

    fn custom_lock_status(&self, _reason: &'static str) -> LockStatus {
        LockStatus::TransientError
    }
}
