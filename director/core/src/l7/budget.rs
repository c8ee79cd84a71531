//! How many requests may be sent again.

use std::sync::Mutex;

use crate::Now;

/// A budget of retries over the last ten seconds or so.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u32,
    floor: u32,
    state: Mutex<(u64, [u64; 2], [u64; 2])>,
}

/// Length of a half of the window, in seconds.
const HALF: u64 = 5;

impl RetryBudget {
    #[must_use]
    pub fn new(percent: u32, floor: u32) -> Self {
        Self { percent, floor, state: Mutex::new((0, [0; 2], [0; 2])) }
    }

    fn turn(state: &mut (u64, [u64; 2], [u64; 2]), now: Now) {
        let half = now.as_secs() / HALF;
        if half != state.0 {
            let next = half == state.0 + 1;
            state.1 = [0, if next { state.1[0] } else { 0 }];
            state.2 = [0, if next { state.2[0] } else { 0 }];
            state.0 = half;
        }
    }

    /// A request begins.
    pub fn deposit(&self, now: Now) {
        if let Ok(mut state) = self.state.lock() {
            Self::turn(&mut state, now);
            state.1[0] += 1;
        }
    }

    /// Whether one may be sent again; it counts if so.
    pub fn withdraw(&self, now: Now) -> bool {
        let Ok(mut state) = self.state.lock() else { return false };
        Self::turn(&mut state, now);
        let requests = state.1[0] + state.1[1];
        let retries = state.2[0] + state.2[1];
        let most = requests * u64::from(self.percent) / 100 + u64::from(self.floor) * 2 * HALF;
        let is_allowed = retries < most;
        state.2[0] += u64::from(is_allowed);
        is_allowed
    }
}
