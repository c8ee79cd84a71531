//! Placeholder.
use super::model::AdaptiveConcurrency;
use crate::Now;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
#[derive(Debug)]
pub struct AdaptiveLimit {
    config: AdaptiveConcurrency,
    under: AtomicU32,
}
impl AdaptiveLimit {
    #[must_use]
    pub fn new(config: AdaptiveConcurrency) -> Self {
        Self {
            config,
            under: AtomicU32::new(0),
        }
    }
    #[must_use]
    pub fn pressure(&self) -> f64 {
        f64::from(self.under.load(Ordering::Relaxed)) / f64::from(self.config.maximum.max(1))
    }
    pub fn admit(&self) -> bool {
        if self.under.fetch_add(1, Ordering::Relaxed) < self.config.maximum {
            return true;
        }
        self.under.fetch_sub(1, Ordering::Relaxed);
        false
    }
    pub fn settle(&self, _: Duration, _: bool, _: Now) {
        self.under.fetch_sub(1, Ordering::Relaxed);
    }
}
#[must_use]
pub fn admits(tier: u8, pressure: f64) -> bool {
    pressure < [1.01, 1.01, 0.97, 0.9, 0.8][usize::from(tier.min(4))]
}
