//! What is kept of a response: what decides about it, its head, its body.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use pingora_cache::{CacheMeta, key::HashBinary};
use pingora_http::ResponseHeader;

use super::budget::{Budget, Charge};

/// What an entry takes besides the text of its head and its body: its places in the
/// cache's tables, its key, the head's maps. More than what they measure.
const ENTRY_BYTES: u64 = 1024;
/// What a header field takes besides its text.
const FIELD_BYTES: u64 = 64;

/// A response that is kept.
pub(super) struct Entry {
    meta: Meta,
    pub(super) body: Bytes,
    /// Bytes of it all.
    pub(super) weight: u64,
    body_bytes: u64,
    /// Milliseconds from `began` to when no server could answer, and 1; 0: never.
    failed: AtomicU64,
    began: Instant,
    _head: Charge,
}

impl Entry {
    pub(super) fn new(meta: Meta, head: Charge, body: Filling) -> Self {
        let body_bytes = body.charge.bytes();
        Self {
            weight: head.bytes() + body_bytes,
            meta,
            body: body.into_bytes(),
            body_bytes,
            failed: AtomicU64::new(0),
            began: Instant::now(),
            _head: head,
        }
    }

    /// The same body, with another head.
    pub(super) fn with_meta(&self, meta: Meta, head: Charge) -> Self {
        Self {
            weight: head.bytes() + self.body_bytes,
            meta,
            body: self.body.clone(),
            body_bytes: self.body_bytes,
            failed: AtomicU64::new(0),
            began: Instant::now(),
            _head: head,
        }
    }

    pub(super) fn meta(&self) -> CacheMeta {
        self.meta.restore()
    }

    /// Notes that no server could answer just now.
    pub(super) fn note_failure(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.failed.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether no server could answer at a time that is not longer ago than this.
    pub(super) fn failed_within(&self, ago: Duration) -> bool {
        match self.failed.load(Ordering::Relaxed) {
            0 => false,
            failed => self.began.elapsed() <= Duration::from_millis(failed).saturating_add(ago),
        }
    }
}

/// A [`CacheMeta`] that can be copied. pingora's own can only be copied by way of
/// its form on disk, which compresses the head.
pub(super) struct Meta {
    fresh_until: SystemTime,
    provenance: SystemTime,
    epoch: SystemTime,
    stale_while_revalidate: u32,
    stale_if_error: u32,
    variance: Option<HashBinary>,
    head: ResponseHeader,
}

impl Meta {
    pub(super) fn new(meta: &CacheMeta) -> Self {
        Self {
            fresh_until: meta.fresh_until(),
            provenance: meta.provenance(),
            epoch: meta.epoch(),
            stale_while_revalidate: meta.stale_while_revalidate_sec(),
            stale_if_error: meta.stale_if_error_sec(),
            variance: meta.variance(),
            head: meta.response_header_copy(),
        }
    }

    /// Bytes that it takes, with all that an entry takes besides its body.
    pub(super) fn weight(&self) -> u64 {
        let fields: usize = self
            .head
            .headers
            .iter()
            .map(|(name, value)| name.as_str().len() * 2 + value.len())
            .sum();
        ENTRY_BYTES + fields as u64 + FIELD_BYTES * self.head.headers.len() as u64
    }

    /// `created` becomes the provenance: pingora asks for the one only to compare it
    /// with the other, to tell variants that are older than their primary entry.
    fn restore(&self) -> CacheMeta {
        let mut meta = CacheMeta::new(
            self.fresh_until,
            self.provenance,
            self.stale_while_revalidate,
            self.stale_if_error,
            self.head.clone(),
        );
        meta.set_epoch_override(self.epoch);
        if let Some(variance) = self.variance {
            meta.set_variance(variance);
        }
        meta
    }
}

/// A body on its way into the cache. It owns its bytes: what pingora hands over are
/// parts of larger buffers, which they would keep alive.
pub(super) struct Filling {
    bytes: Vec<u8>,
    charge: Charge,
    /// What `Content-Length` says.
    declared: Option<usize>,
    /// The largest body that may be kept.
    most: usize,
}

/// Why a body is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("larger than what the cache can keep")]
    TooLarge,
    #[error("the cache has no bytes left for it")]
    NoRoom,
    #[error("not as long as its Content-Length says")]
    Length,
}

impl Filling {
    pub(super) fn new(
        budget: &Arc<Budget>,
        declared: Option<usize>,
        most: usize,
    ) -> Result<Self, Refused> {
        if declared.is_some_and(|length| length > most) {
            return Err(Refused::TooLarge);
        }
        Ok(Self {
            bytes: Vec::new(),
            charge: Charge::take(budget, 0).ok_or(Refused::NoRoom)?,
            declared,
            most,
        })
    }

    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), Refused> {
        let length = self.bytes.len() + data.len();
        if length > self.most {
            return Err(Refused::TooLarge);
        }
        if self.declared.is_some_and(|declared| length > declared) {
            return Err(Refused::Length);
        }
        if length > self.bytes.capacity() {
            let doubled = length.max(self.bytes.capacity() * 2);
            let capacity = doubled.min(self.declared.unwrap_or(self.most));
            if !self.charge.resize(capacity as u64) {
                return Err(Refused::NoRoom);
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// All of it is there.
    pub(super) fn finish(mut self) -> Result<Self, Refused> {
        if self
            .declared
            .is_some_and(|length| length != self.bytes.len())
        {
            return Err(Refused::Length);
        }
        self.bytes.shrink_to_fit();
        if !self.charge.resize(self.bytes.capacity() as u64) {
            return Err(Refused::NoRoom);
        }
        Ok(self)
    }

    /// The charge lasts as long as anyone reads the bytes.
    fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Filling {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
