//! How endpoints are probed: `[health]` and `[service.health]`.

use std::{ops::RangeInclusive, time::Duration};

use director_core::model::{HealthPolicy, ProbeSpec};
use hyper::{Uri, header::HeaderValue};

use super::value;
use crate::config::{
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::Report,
    words::quoted,
};

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_mins(10);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

/// How much of an answer's body is searched, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// The longest name of a host, in bytes, with room for a port (RFC 1035,
/// section 2.3.4).
const HOST_LIMIT: usize = 261;

/// What a policy says of time; `None` stands for what is wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing {
    interval: Option<Located<Duration>>,
    fast_interval: Option<Located<Duration>>,
    timeout: Option<Located<Duration>>,
    rise: Option<Located<u32>>,
    fall: Option<Located<u32>>,
    jitter_percent: Option<Located<u8>>,
}

impl Timing {
    fn defaults(place: &Place) -> Self {
        fn at<T>(place: &Place, value: T) -> Option<Located<T>> {
            let place = place.clone();
            Some(Located { value, place })
        }
        Self {
            interval: at(place, Duration::from_secs(5)),
            fast_interval: at(place, Duration::from_millis(500)),
            timeout: at(place, Duration::from_millis(500)),
            rise: at(place, 2),
            fall: at(place, 3),
            jitter_percent: at(place, 10),
        }
    }

    pub(super) fn policy(&self, probe: ProbeSpec) -> Option<HealthPolicy> {
        Some(HealthPolicy {
            probe,
            interval: self.interval.as_ref()?.value,
            fast_interval: self.fast_interval.as_ref()?.value,
            timeout: self.timeout.as_ref()?.value,
            rise: self.rise.as_ref()?.value,
            fall: self.fall.as_ref()?.value,
            jitter_percent: self.jitter_percent.as_ref()?.value,
        })
    }
}

/// `[health]`: the timing that services inherit, and how many probes may be
/// under way at once.
pub(super) fn health(
    report: &mut Report<'_>,
    root: &Place,
    raw: &raw::Root,
) -> (Timing, Option<usize>) {
    const CONCURRENCY: usize = 256;
    let Located { value: raw, place } = match report.table(root, "health", &raw.health) {
        Given::Value(located) => located,
        Given::Refused => return (Timing::default(), None),
        Given::Absent => return (Timing::defaults(root), Some(CONCURRENCY)),
    };
    let concurrency = report
        .read(
            &place,
            key("concurrency", "256"),
            &raw.concurrency,
            value::number(1..=4096),
        )
        .or(&place, CONCURRENCY);
    let timing = timing(report, &place, raw.timing(), &Timing::defaults(&place));
    (timing, concurrency.map(|concurrency| concurrency.value))
}

/// Reads the keys of a table over what it inherits.
pub(super) fn timing(
    report: &mut Report<'_>,
    place: &Place,
    raw: raw::Timing<'_>,
    inherited: &Timing,
) -> Timing {
    let (rise, fall) = (value::number(1..=10), value::number(1..=10));
    let mut duration = |key: Key, field, range, inherited: &Option<_>| {
        report
            .read(place, key, field, value::duration(range))
            .or_inherited(inherited.as_ref())
    };
    let interval = key("interval", r#""5s""#);
    let fast_interval = key("fast_interval", r#""500ms""#);
    let timeout = key("timeout", r#""500ms""#);
    let timing = Timing {
        interval: duration(interval, raw.interval, INTERVAL, &inherited.interval),
        fast_interval: duration(
            fast_interval,
            raw.fast_interval,
            INTERVAL,
            &inherited.fast_interval,
        ),
        timeout: duration(timeout, raw.timeout, TIMEOUT, &inherited.timeout),
        rise: report
            .read(place, key("rise", "2"), raw.rise, rise)
            .or_inherited(inherited.rise.as_ref()),
        fall: report
            .read(place, key("fall", "3"), raw.fall, fall)
            .or_inherited(inherited.fall.as_ref()),
        jitter_percent: report
            .read(
                place,
                key("jitter", "10"),
                raw.jitter,
                value::number(0..=50),
            )
            .or_inherited(inherited.jitter_percent.as_ref()),
    };
    relations(report, raw, &timing);
    timing
}

/// Compares the durations of one policy. A pair that is wholly inherited was
/// compared where it stands.
fn relations(report: &mut Report<'_>, raw: raw::Timing<'_>, timing: &Timing) {
    let (Some(interval), Some(fast), Some(timeout)) =
        (&timing.interval, &timing.fast_interval, &timing.timeout)
    else {
        return;
    };
    let shown = |duration: &Located<Duration>| humantime::format_duration(duration.value);
    let (interval_is_own, fast_is_own) = (raw.interval.is_some(), raw.fast_interval.is_some());
    if fast.value > interval.value && (interval_is_own || fast_is_own) {
        let help = "make fast_interval as long as interval, or shorter";
        if fast_is_own {
            let message = format!(
                "{} is longer than the interval, {}",
                shown(fast),
                shown(interval)
            );
            report.error(&fast.place, message, help);
        } else {
            let message = format!(
                "{} is shorter than the fast_interval, {}",
                shown(interval),
                shown(fast)
            );
            report.error(&interval.place, message, help);
        }
    }
    let timeout_is_own = raw.timeout.is_some();
    let (name, shorter, own) = if interval.value < timeout.value {
        ("interval", interval, interval_is_own)
    } else if fast.value < timeout.value {
        ("fast_interval", fast, fast_is_own)
    } else {
        return;
    };
    if own || timeout_is_own {
        let place = if timeout_is_own {
            &timeout.place
        } else {
            &shorter.place
        };
        report.warning(
            place,
            format!(
                "the timeout, {}, is longer than the {name}, {}: probes that get no answer are \
                 the timeout apart",
                shown(timeout),
                shown(shorter)
            ),
            format!("make timeout as long as {name}, or shorter"),
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeType {
    Tcp,
    Http,
}

const TYPE: Key = key("type", r#""http""#);
const PORT: Key = key("port", "8080");

/// What a service does not say by itself, and so must be said of its probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsaid {
    Nothing,
    Port,
    TypeAndPort,
}

impl Unsaid {
    fn why(self) -> &'static str {
        match self {
            Self::TypeAndPort => "is missing: UDP has no handshake to probe",
            _ => "is missing: the service has every port, and none of them to probe",
        }
    }
}

/// The probe of a service, from its health table if it has one.
pub(super) fn probe(
    report: &mut Report<'_>,
    service: &Place,
    health: Option<&Located<&raw::ServiceHealth>>,
    unsaid: Unsaid,
) -> Option<ProbeSpec> {
    let Some(Located { value: raw, place }) = health else {
        if unsaid != Unsaid::Nothing {
            report.error(
                &service.key("health", service.at),
                unsaid.why(),
                "add [service.health] with a type and a port that show whether the service works",
            );
        }
        return Some(ProbeSpec::Tcp { port: None });
    };
    for (present, key, is_needed) in [
        (raw.r#type.is_some(), TYPE, unsaid == Unsaid::TypeAndPort),
        (raw.port.is_some(), PORT, unsaid != Unsaid::Nothing),
    ] {
        if is_needed && !present {
            report.error(
                &place.key(key.name, place.at),
                unsaid.why(),
                format!(
                    "add {} = {}, or what else shows that the service works",
                    key.name, key.example
                ),
            );
        }
    }
    let types = value::choice(&[("tcp", ProbeType::Tcp), ("http", ProbeType::Http)]);
    let probe_type = report
        .read(place, TYPE, &raw.r#type, types)
        .or(place, ProbeType::Tcp);
    let port = report
        .read(place, PORT, &raw.port, value::number(1..=u16::MAX))
        .into_list()
        .map(|port| port.first().map(|port| port.value));
    match probe_type?.value {
        ProbeType::Tcp => {
            for (field, name) in [
                (&raw.path, "path"),
                (&raw.host, "host"),
                (&raw.status, "status"),
                (&raw.body, "body"),
            ] {
                if let Some(field) = field {
                    report.error(
                        &place.key(name, field.span.start),
                        "is for probes of type \"http\" only, and this one is of type \"tcp\"",
                        format!("set type = \"http\", or remove {name}"),
                    );
                }
            }
            Some(ProbeSpec::Tcp { port: port? })
        }
        ProbeType::Http => http(report, place, raw, port),
    }
}

fn http(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::ServiceHealth,
    port: Option<Option<u16>>,
) -> Option<ProbeSpec> {
    let host = report
        .read(
            place,
            key("host", r#""www.example.org""#),
            &raw.host,
            |text| host(text),
        )
        .or(place, String::new());
    let path = report
        .read(place, key("path", r#""/health""#), &raw.path, |text| {
            path(text)
        })
        .or(place, "/".to_owned());
    let status = report
        .read(place, key("status", r#""200-399""#), &raw.status, |text| {
            status(text)
        })
        .or(place, 200..=399);
    let body = report
        .read(place, key("body", r#""ok""#), &raw.body, |text| body(text))
        .into_list()
        .map(|body| body.into_iter().next().map(|body| body.value));
    Some(ProbeSpec::Http {
        port: port?,
        host: host?.value,
        path: path?.value,
        status: status?.value,
        body: body?,
    })
}

fn host(text: &str) -> Result<String, Fault> {
    let sendable = HeaderValue::from_str(text).is_ok();
    let plain = text.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if text.is_empty() || text.len() > HOST_LIMIT || !sendable || !plain {
        return Err(Fault::new(format!("{} is not a host", quoted(text)))
            .help("write a host name as a client would send it, such as \"www.example.org\""));
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<String, Fault> {
    let why = if !text.starts_with('/') {
        "does not begin with a slash"
    } else if text.contains('#') {
        "has a fragment, which is never sent"
    } else if !text.chars().all(|c| c.is_ascii_graphic()) || text.parse::<Uri>().is_err() {
        "has characters that a path cannot have"
    } else {
        return Ok(text.to_owned());
    };
    Err(Fault::new(format!("{} {why}", quoted(text)))
        .help("write a path such as \"/health\", with %20 and the like for other characters"))
}

fn status(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| {
        let digits = part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| part.parse().ok()).flatten();
        number.filter(|status| (100..=599).contains(status))
    };
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        (Some(_), Some(_)) => Err(Fault::new(format!("{} is empty", quoted(text)))
            .help(format!("write the lower status first: \"{high}-{low}\""))),
        _ => Err(Fault::new(format!(
            "{} is neither a status from 100 to 599 nor a range of them",
            quoted(text)
        ))
        .help("write \"200\" or \"200-399\"")),
    }
}

fn body(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty, and would be found in every answer")
            .help("write a text that only a good answer has, or remove body"));
    }
    if text.len() > BODY_LIMIT {
        return Err(Fault::new(format!(
            "has {} bytes, and only the first {BODY_LIMIT} of an answer are searched",
            text.len()
        ))
        .help("write a shorter text"));
    }
    Ok(text.to_owned())
}
