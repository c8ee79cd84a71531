//! `[service.route.breaker]`: when endpoints and sites are given a rest.

use std::{ops::RangeInclusive, time::Duration};

use director_core::{breaker::BreakerPolicy, l7::RouteBreaker};

use super::reader::Reader;
use crate::config::{
    field::Table,
    place::{Given, Located, Place, key},
    raw,
    report::Report,
};

const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);

/// What `failure_percent = 0` stands for: a share that is never reached.
const NEVER: u32 = 101;

/// Breakers of a route that says nothing of them.
pub(super) fn default() -> RouteBreaker {
    RouteBreaker {
        site: site_default(),
        endpoint: BreakerPolicy::default(),
        max_ejection_percent: 50,
        pending: 0,
    }
}

/// Failures in a row say too little of a site, to which all requests go.
fn site_default() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: 0,
        minimum_volume: 50,
        ..BreakerPolicy::default()
    }
}

pub(super) fn breaker(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Breaker>>,
) -> Option<RouteBreaker> {
    let default = default();
    let Located { value: raw, place } = match report.table(route, "breaker", raw) {
        Given::Absent => return Some(default),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let endpoint = policy(report, &place, raw.policy(), default.endpoint);
    let mut reader = Reader {
        report,
        place: &place,
    };
    let max_ejection = reader.number(key("max_ejection", "50"), &raw.max_ejection, 0..=100);
    let pending = reader.number(key("pending", "100"), &raw.pending, 0..=1_000_000);
    let site = match report.table(&place, "site", &raw.site) {
        Given::Absent => Some(default.site),
        Given::Refused => None,
        Given::Value(site) => policy(report, &site.place, site.value.policy(), default.site),
    };
    Some(RouteBreaker {
        site: site?,
        endpoint: endpoint?,
        max_ejection_percent: max_ejection.value_or(default.max_ejection_percent)?,
        pending: pending.value_or(default.pending)?,
    })
}

fn policy(
    report: &mut Report<'_>,
    place: &Place,
    raw: raw::http::BreakerPolicy<'_>,
    default: BreakerPolicy,
) -> Option<BreakerPolicy> {
    let mut reader = Reader { report, place };
    let consecutive = key("consecutive_failures", "5");
    let consecutive = reader.number(consecutive, raw.consecutive_failures, 0..=1_000_000);
    let percent = reader.number(key("failure_percent", "50"), raw.failure_percent, 0..=100);
    let volume = key("minimum_volume", "20");
    let volume = reader.number(volume, raw.minimum_volume, 1..=1_000_000);
    let window = reader.duration(key("window", r#""10s""#), raw.window, WINDOW);
    let slow = reader.duration(key("slow", r#""2s""#), raw.slow, TIME);
    let open_for = reader.duration(key("open_for", r#""1s""#), raw.open_for, TIME);
    let longest = key("longest_open", r#""60s""#);
    let longest = reader.duration(longest, raw.longest_open, TIME);
    let forget = key("forget_after", r#""30s""#);
    let forget = reader.duration(forget, raw.forget_after, TIME);
    let probes = reader.number(key("probes", "1"), raw.probes, 1..=1000);
    let to_close = key("probes_to_close", "2");
    let to_close = reader.number(to_close, raw.probes_to_close, 1..=1000);
    let concurrency = key("concurrency", "100");
    let concurrency = reader.number(concurrency, raw.concurrency, 1..=1_000_000);

    let open_for = open_for.or(place, default.open_for);
    let longest = longest.or(place, default.longest_open);
    if let (Some(open_for), Some(longest)) = (&open_for, &longest)
        && open_for.value > longest.value
    {
        let shown = |it: &Located<Duration>| humantime::format_duration(it.value);
        let (open, most) = (shown(open_for), shown(longest));
        match raw.longest_open.is_some() {
            true => report.error(
                &longest.place,
                format!("{most} is shorter than open_for, {open}"),
                "make longest_open as long as open_for, or longer",
            ),
            false => report.error(
                &open_for.place,
                format!("{open} is longer than longest_open, {most}"),
                "make longest_open as long as open_for, or longer",
            ),
        }
    }
    Some(BreakerPolicy {
        consecutive_failures: consecutive.value_or(default.consecutive_failures)?,
        window: window.value_or(default.window)?,
        minimum_volume: volume.value_or(default.minimum_volume)?,
        failure_percent: match percent.value_or(default.failure_percent)? {
            0 => NEVER,
            percent => percent,
        },
        slow: slow.into_option()?,
        open_for: open_for?.value,
        longest_open: longest?.value,
        forget_after: forget.value_or(default.forget_after)?,
        probes: probes.value_or(default.probes)?,
        probes_to_close: to_close.value_or(default.probes_to_close)?,
        concurrency: concurrency.into_option()?,
    })
}
