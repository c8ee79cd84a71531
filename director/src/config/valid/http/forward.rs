//! How a route's requests are sent on to servers.

use std::{ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use director_core::l7::{AdaptiveConcurrency, Affinity, CachePolicy, Forward, Retry, Rewrite};

use super::{
    affinity::affinity,
    answer, breaker,
    matches::one_at_most,
    reader::{Reader, at},
    value,
};
use crate::config::{
    field::Table,
    place::{Fault, Given, Located, Place, key},
    raw,
    report::Report,
    valid::value::number,
};

const TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);
const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// What a route says of forwarding, and where what relates to other tables
/// stands.
#[derive(Debug)]
pub(super) struct ForwardDraft {
    pub(super) forward: Option<Forward>,
    /// Where a prefix is rewritten.
    pub(super) prefix: Option<Place>,
    /// Where what clients get is sealed.
    pub(super) seals: Option<Place>,
    /// Where responses are cached.
    pub(super) caches: Option<Place>,
}

/// How a route that says nothing forwards.
pub(super) fn default(pool: Arc<str>) -> Forward {
    Forward {
        pool,
        rewrite: None,
        host: None,
        affinity: Affinity::default(),
        retry: Retry::default(),
        timeout: None,
        stream_idle: Duration::from_mins(10),
        breaker: breaker::default(),
        adaptive: None,
        cache: None,
        fallback: None,
        retry_after: Duration::from_secs(5),
    }
}

/// The keys of a route that are for forwarding alone, and where those stand that
/// are there.
pub(super) fn keys(raw: &raw::http::Route) -> [(&'static str, Option<usize>); 13] {
    [
        ("timeout", at(&raw.timeout)),
        ("stream_idle", at(&raw.stream_idle)),
        ("retry_after", at(&raw.retry_after)),
        ("host", at(&raw.host)),
        ("rewrite_path", at(&raw.rewrite_path)),
        ("rewrite_prefix", at(&raw.rewrite_prefix)),
        ("rewrite_regex", at(&raw.rewrite_regex)),
        ("fallback", at(&raw.fallback)),
        ("affinity", at(&raw.affinity)),
        ("retry", at(&raw.retry)),
        ("breaker", at(&raw.breaker)),
        ("adaptive", at(&raw.adaptive)),
        ("cache", at(&raw.cache)),
    ]
}

/// Reads all of them. Without a `pool` nothing comes of it.
pub(super) fn forward(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Route,
    pool: Option<Arc<str>>,
    directory: &Path,
) -> ForwardDraft {
    let affinity = affinity(report, place, &raw.affinity);
    let is_sealed = |it: &Affinity| matches!(it, Affinity::Cookie { .. } | Affinity::Mcp);
    let sealed = affinity.located().filter(|it| is_sealed(&it.value));
    let seals = sealed.map(|it| it.place.clone());
    let cache = cache(report, place, &raw.cache);
    let caches = cache.located().map(|cache| cache.place.clone());
    let mut prefix = None;
    let forward = read(report, place, raw, directory, &mut prefix);
    let forward = forward.and_then(|forward| {
        Some(Forward {
            pool: pool?,
            affinity: affinity.value_or(Affinity::None)?,
            cache: cache.into_option()?,
            ..forward
        })
    });
    ForwardDraft {
        forward,
        prefix,
        seals,
        caches,
    }
}

/// All but pool, affinity and cache.
fn read(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Route,
    directory: &Path,
    prefix: &mut Option<Place>,
) -> Option<Forward> {
    let default = default("".into());
    let mut reader = Reader { report, place };
    let timeout = reader.duration(key("timeout", r#""30s""#), &raw.timeout, TIME);
    let stream_idle = key("stream_idle", r#""10m""#);
    let stream_idle = reader.duration(stream_idle, &raw.stream_idle, TIME);
    let retry_after = key("retry_after", r#""5s""#);
    let retry_after = reader.duration(retry_after, &raw.retry_after, RETRY_AFTER);
    let host = key("host", r#""internal.example.org""#);
    let host = reader.text(host, &raw.host, value::authority);
    let rewrite = rewrite(report, place, raw, prefix);
    let retry = retry(report, place, &raw.retry, timeout.located());
    let breaker = breaker::breaker(report, place, &raw.breaker);
    let adaptive = adaptive(report, place, &raw.adaptive);
    let fallback = answer::answer(report, place, "fallback", &raw.fallback, 503, directory);
    Some(Forward {
        rewrite: rewrite?,
        host: host.into_option()?,
        retry: retry?,
        timeout: timeout.into_option()?,
        stream_idle: stream_idle.value_or(default.stream_idle)?,
        breaker: breaker?,
        adaptive: adaptive?,
        fallback: fallback?,
        retry_after: retry_after.value_or(default.retry_after)?,
        ..default
    })
}

fn rewrite(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Route,
    prefix_place: &mut Option<Place>,
) -> Option<Option<Rewrite>> {
    let kinds = [
        ("rewrite_path", at(&raw.rewrite_path)),
        ("rewrite_prefix", at(&raw.rewrite_prefix)),
        ("rewrite_regex", at(&raw.rewrite_regex)),
    ];
    let is_single = one_at_most(report, place, &kinds, "way to change a path");
    let mut reader = Reader { report, place };
    let path = key("rewrite_path", r#""/x""#);
    let path = reader.text(path, &raw.rewrite_path, value::path);
    let prefix = key("rewrite_prefix", r#""/v2""#);
    let prefix = reader.text(prefix, &raw.rewrite_prefix, value::prefix);
    *prefix_place = prefix.located().map(|prefix| prefix.place.clone());
    let substitution = match report.table(place, "rewrite_regex", &raw.rewrite_regex) {
        Given::Absent => Some(None),
        Given::Refused => None,
        Given::Value(located) => substitution(report, &located).map(Some),
    };
    let path = path.into_option()?.map(Rewrite::Path);
    let prefix = prefix.into_option()?.map(Rewrite::Prefix);
    let substitution = substitution?;
    is_single.then(|| path.or(prefix).or(substitution))
}

fn substitution(
    report: &mut Report<'_>,
    table: &Located<&raw::http::Substitution>,
) -> Option<Rewrite> {
    let Located { value: raw, place } = table;
    let pattern = key("pattern", r#""^/old/(.*)""#);
    let pattern = report.require(place, pattern, &raw.pattern, |text| value::pattern(text));
    let to = key("to", r#""/new/$1""#);
    let to = report.require(place, to, &raw.to, |text| replacement(text));
    let (pattern, to) = (pattern?, to?);
    let compiled = value::compiled(&pattern.value).ok()?;
    for group in groups(&to.value) {
        let is_known = match group.parse::<usize>() {
            Ok(number) => number < compiled.captures_len(),
            Err(_) => compiled.capture_names().flatten().any(|name| name == group),
        };
        if !is_known {
            report.error(
                &to.place,
                format!("has ${group}, and the pattern has no such group"),
                "use a group of the pattern, ${1} before letters and digits, or $$ for a dollar sign",
            );
            return None;
        }
    }
    Some(Rewrite::Regex {
        pattern: pattern.value,
        to: to.value,
    })
}

/// What may become part of a path; groups are named with braces and dollar signs.
fn replacement(text: &str) -> Result<Box<str>, Fault> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#']) {
        return Ok(text.into());
    }
    Err(
        Fault::new("has characters that a path cannot have, or a query or a fragment")
            .help("write %20 and the like for other characters"),
    )
}

/// The groups that a replacement names, as the regex crate reads it.
fn groups(to: &str) -> Vec<&str> {
    let mut groups = Vec::new();
    let mut rest = to;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|it| it.split_once('}'));
        let (group, after) = braced.unwrap_or_else(|| {
            let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            after.split_at(after.find(is_end).unwrap_or(after.len()))
        });
        if !group.is_empty() {
            groups.push(group);
        }
        rest = after;
    }
    groups
}

fn retry(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Retry>>,
    timeout: Option<&Located<Duration>>,
) -> Option<Retry> {
    let default = Retry::default();
    let Located { value: raw, place } = match report.table(route, "retry", raw) {
        Given::Absent => return Some(default),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let retries = reader.number(key("retries", "2"), &raw.retries, 0..=10);
    let statuses = key("statuses", "[502, 503, 504]");
    let status = number(400..=599_u16);
    let statuses = reader.list(statuses, &raw.statuses, status);
    let methods = reader.texts(key("methods", r#"["POST"]"#), &raw.methods, value::method);
    let per_try = reader.duration(key("per_try", r#""2s""#), &raw.per_try, TIME);
    let percent = key("budget_percent", "20");
    let percent = reader.number(percent, &raw.budget_percent, 0..=100);
    let floor = reader.number(key("budget_floor", "3"), &raw.budget_floor, 0..=100_000);
    if let (Given::Value(per_try), Some(timeout)) = (&per_try, timeout)
        && per_try.value >= timeout.value
    {
        let whole = humantime::format_duration(timeout.value);
        report.warning(
            &per_try.place,
            format!("is not before the route's timeout, {whole}: it never ends a try"),
            "make per_try shorter than timeout, or remove it",
        );
    }
    Some(Retry {
        retries: retries.value_or(default.retries)?,
        statuses: statuses.value_or(default.statuses)?,
        methods: methods.value_or(default.methods)?,
        per_try: per_try.into_option()?,
        budget_percent: percent.value_or(default.budget_percent)?,
        budget_floor: floor.value_or(default.budget_floor)?,
    })
}

fn adaptive(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Adaptive>>,
) -> Option<Option<AdaptiveConcurrency>> {
    let Located { value: raw, place } = match report.table(route, "adaptive", raw) {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let limits = || number(1..=1_000_000_u32);
    let minimum = report.require(&place, key("minimum", "10"), &raw.minimum, limits());
    let maximum = report.require(&place, key("maximum", "1000"), &raw.maximum, limits());
    let (minimum, maximum) = (minimum?, maximum?);
    if minimum.value > maximum.value {
        report.error(
            &minimum.place,
            format!("is {}, above the maximum, {}", minimum.value, maximum.value),
            "make minimum as large as maximum, or smaller",
        );
    }
    Some(Some(AdaptiveConcurrency {
        minimum: minimum.value,
        maximum: maximum.value,
    }))
}

fn cache(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Cache>>,
) -> Given<CachePolicy> {
    let Located { value: raw, place } = match report.table(route, "cache", raw) {
        Given::Absent => return Given::Absent,
        Given::Refused => return Given::Refused,
        Given::Value(located) => located,
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let stale = key("stale_if_error", r#""1h""#);
    let stale_range = Duration::ZERO..=Duration::from_hours(24 * 7);
    let stale = reader.duration(stale, &raw.stale_if_error, stale_range);
    let body = key("body_bytes", r#""1MiB""#);
    let body = reader.size(body, &raw.body_bytes, 1..=1 << 30);
    let (Some(stale_if_error), Some(body_bytes)) = (
        stale.value_or(Duration::from_hours(1)),
        body.value_or(1024 * 1024),
    ) else {
        return Given::Refused;
    };
    let value = CachePolicy {
        stale_if_error,
        body_bytes,
    };
    Given::Value(Located { value, place })
}
