//! Placeholder.
use std::{collections::HashMap, hash::Hash, sync::Mutex, time::Duration};
use super::model::Rate;
use crate::Now;
#[derive(Debug)]
pub struct RateLimiter<K> { most: usize, by: Mutex<HashMap<K, Duration>> }
impl<K: Hash + Eq> RateLimiter<K> {
    #[must_use]
    pub fn new(most: usize) -> Self { Self { most, by: Mutex::default() } }
    /// # Errors
    /// How long to wait.
    pub fn check(&self, key: K, now: Now, rate: Rate) -> Result<(), Duration> {
        let Ok(mut by) = self.by.lock() else { return Ok(()) };
        if by.len() >= self.most { by.clear(); }
        let step = Duration::from_secs(1) / rate.per_second.max(1);
        let next = by.entry(key).or_insert(now);
        let base = (*next).max(now);
        let slack = step * rate.burst.max(1).saturating_sub(1);
        if base - now > slack { return Err(base - now - slack); }
        *next = base + step;
        Ok(())
    }
}
