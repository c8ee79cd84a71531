//! Which requests are refused before a server is asked, when there is less room
//! than work: by the tier of their route.
//!
//! | tier | refused from a pressure of |
//! |---|---|
//! | 4 | 0.80 |
//! | 3 | 0.90 |
//! | 2 | 0.97 |
//! | 1 | never |

/// How many requests may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// None is known.
    Unknown,
    /// For all that is configured: what is left of it takes as much less.
    Configured(u32),
    /// For what is there, as a limit that follows latency.
    Measured(u32),
}

/// Pressure on a pool, from 0: none to 1: all that there is is in use, and
/// beyond. `left` is the share of its configured weight that is eligible, 0 to 1.
///
/// It is the larger of the share that is lost and of the load on what is left: a
/// third lost is no reason to refuse where the rest has room, nine tenths are.
#[must_use]
pub fn pressure(left: f64, in_flight: u32, limit: Limit) -> f64 {
    let left = left.clamp(0.0, 1.0);
    let room = match limit {
        Limit::Unknown => f64::INFINITY,
        Limit::Configured(limit) => f64::from(limit) * left,
        Limit::Measured(limit) => f64::from(limit),
    };
    let load = if room > 0.0 {
        f64::from(in_flight) / room
    } else {
        f64::INFINITY
    };
    load.max(1.0 - left)
}

/// Whether a request of this tier, 1 to 4, is admitted at this pressure.
#[must_use]
pub fn admits(tier: u8, pressure: f64) -> bool {
    match tier {
        0 | 1 => true,
        2 => pressure < 0.97,
        3 => pressure < 0.90,
        4.. => pressure < 0.80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(pressure: f64) -> Vec<u8> {
        (1..=4).filter(|&tier| admits(tier, pressure)).collect()
    }

    #[test]
    fn the_highest_number_is_refused_first_and_the_first_tier_never() {
        assert_eq!(admitted(0.0), [1, 2, 3, 4]);
        assert_eq!(admitted(0.79), [1, 2, 3, 4]);
        assert_eq!(admitted(0.80), [1, 2, 3]);
        assert_eq!(admitted(0.90), [1, 2]);
        assert_eq!(admitted(0.97), [1]);
        assert_eq!(admitted(f64::INFINITY), [1]);
    }

    #[test]
    fn pressure_is_of_what_is_lost_and_of_the_load_on_what_is_left() {
        assert_eq!(pressure(1.0, 1000, Limit::Unknown), 0.0);
        assert_eq!(pressure(0.25, 0, Limit::Unknown), 0.75);
        assert_eq!(pressure(0.5, 40, Limit::Configured(100)), 0.8);
        assert_eq!(pressure(0.5, 60, Limit::Measured(100)), 0.6);
        assert_eq!(pressure(1.0, 200, Limit::Configured(100)), 2.0);
        assert_eq!(pressure(0.0, 0, Limit::Configured(100)), f64::INFINITY);
        assert_eq!(pressure(1.5, 0, Limit::Measured(0)), f64::INFINITY);
    }
}
