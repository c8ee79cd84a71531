//! Which requests of a route go to the same place.

use std::{ops::RangeInclusive, time::Duration};

use director_core::l7::Affinity;

use super::{
    reader::{Reader, at},
    value,
};
use crate::config::{
    field::Table,
    place::{Given, Located, Place, key},
    raw,
    report::Report,
    valid::value::choice,
};

/// Browsers keep no cookie much longer.
const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(31_557_600);

#[derive(Clone, Copy, PartialEq, Eq)]
enum AffinityType {
    Cookie,
    Header,
    Source,
    Mcp,
}

pub(super) fn affinity(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Affinity>>,
) -> Given<Affinity> {
    let Located { value: raw, place } = match report.table(route, "affinity", raw) {
        Given::Absent => return Given::Absent,
        Given::Refused => return Given::Refused,
        Given::Value(located) => located,
    };
    match affinity_of(report, &place, raw) {
        Some(value) => Given::Value(Located { value, place }),
        None => Given::Refused,
    }
}

fn affinity_of(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Affinity,
) -> Option<Affinity> {
    let types = choice(&[
        ("cookie", AffinityType::Cookie),
        ("header", AffinityType::Header),
        ("source", AffinityType::Source),
        ("mcp", AffinityType::Mcp),
    ]);
    let kind = report.require(place, key("type", r#""cookie""#), &raw.r#type, types);
    let kind = kind?.value;
    let is_cookie = kind == AffinityType::Cookie;
    let mut fits = true;
    for (name, at, is_used, what) in [
        (
            "name",
            at(&raw.name),
            is_cookie || kind == AffinityType::Header,
            "\"cookie\" and \"header\"",
        ),
        ("max_age", at(&raw.max_age), is_cookie, "\"cookie\""),
    ] {
        if let Some(at) = at.filter(|_| !is_used) {
            let message = format!("is for affinity of type {what} only");
            report.error(&place.key(name, at), message, format!("remove {name}"));
            fits = false;
        }
    }
    let affinity = match kind {
        AffinityType::Cookie => {
            let mut reader = Reader { report, place };
            let name = key("name", r#""director""#);
            let name = reader.text(name, &raw.name, value::cookie_name);
            let max_age = reader.duration(key("max_age", r#""1h""#), &raw.max_age, MAX_AGE);
            Affinity::Cookie {
                name: name.value_or("director".into())?,
                max_age: max_age.into_option()?,
            }
        }
        AffinityType::Header => {
            let name = key("name", r#""x-user""#);
            let name = report.require(place, name, &raw.name, |text| value::header_name(text));
            Affinity::Header { name: name?.value }
        }
        AffinityType::Source => Affinity::Source,
        AffinityType::Mcp => Affinity::Mcp,
    };
    fits.then_some(affinity)
}
