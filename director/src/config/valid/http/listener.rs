//! What the proxy listens with: `[service.http]` and its tables.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use director_core::l7::{CertificateFiles, ClientAuth, Forwarded, HttpLimits, Network, Rate, Tls};

use super::{reader::Reader, value};
use crate::config::{
    Prefix,
    field::Table,
    place::{Given, Key, Located, Place, key},
    raw,
    report::Report,
    valid::prefix::network,
};

/// Bodies and caches are no larger, in bytes.
const BODY: u64 = 1 << 40;

const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(24);

const CERTIFICATES: Key = key(
    "certificates",
    r#"[{ certificate = "shop.pem", key = "shop.key" }]"#,
);

/// What a listener is, but for its address and its routes.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) tls: Option<Tls>,
    pub(super) http2: bool,
    pub(super) proxy_protocol_from: Vec<Network>,
    pub(super) trusted: Vec<Network>,
    pub(super) forwarded: Forwarded,
    pub(super) request_id: Option<Box<str>>,
    pub(super) traceparent: bool,
    pub(super) limits: HttpLimits,
}

pub(super) fn settings(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Http,
    directory: &Path,
) -> Option<Settings> {
    let mut reader = Reader { report, place };
    let http2 = reader.truth(key("http2", "true"), &raw.http2);
    let from = key("proxy_protocol_from", r#"["192.0.2.0/24"]"#);
    let from = networks(&mut reader, from, &raw.proxy_protocol_from);
    let trusted = key("trusted", r#"["198.51.100.0/24"]"#);
    let trusted = networks(&mut reader, trusted, &raw.trusted);
    let forwarded = reader.choice(
        key("forwarded", r#""x-forwarded""#),
        &raw.forwarded,
        &[
            ("none", Forwarded::None),
            ("x-forwarded", Forwarded::XForwarded),
            ("forwarded", Forwarded::Forwarded),
            ("both", Forwarded::Both),
        ],
    );
    let request_id = key("request_id", r#""x-request-id""#);
    let request_id = reader.text(request_id, &raw.request_id, |text| match text {
        "" => Ok(None),
        name => value::editable_header(name).map(Some),
    });
    let traceparent = reader.truth(key("traceparent", "true"), &raw.traceparent);
    let tls = tls(report, place, &raw.tls, directory);
    let limits = limits(report, place, &raw.limits);
    Some(Settings {
        tls: tls?,
        http2: http2.value_or(true)?,
        proxy_protocol_from: from?,
        trusted: trusted?,
        forwarded: forwarded.value_or(Forwarded::default())?,
        request_id: request_id.value_or(Some("x-request-id".into()))?,
        traceparent: traceparent.value_or(true)?,
        limits: limits?,
    })
}

fn networks(reader: &mut Reader<'_, '_>, key: Key, raw: &raw::Texts) -> Option<Vec<Network>> {
    let prefixes = reader.texts(key, raw, network).value_or(Vec::new())?;
    let network = |Prefix { address, length }| Network {
        address,
        bits: length,
    };
    Some(prefixes.into_iter().map(network).collect())
}

fn tls(
    report: &mut Report<'_>,
    http: &Place,
    raw: &Option<Table<raw::http::Tls>>,
    directory: &Path,
) -> Option<Option<Tls>> {
    let Located { value: raw, place } = match report.table(http, "tls", raw) {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let certificates = certificates(report, &place, raw, directory);
    let mut reader = Reader {
        report,
        place: &place,
    };
    let tls12 = reader.truth(key("tls12", "true"), &raw.tls12);
    let ca = key("client_ca", r#""clients.pem""#);
    let ca = reader.text(ca, &raw.client_ca, value::readable_in(directory));
    let required = reader.choice(
        key("client_auth", r#""required""#),
        &raw.client_auth,
        &[("required", true), ("optional", false)],
    );
    if matches!(ca, Given::Absent) {
        reader.without(&required, "client_auth", "client_ca");
    }
    let required = required.value_or(true);
    let client_auth = match ca.into_option()? {
        Some(ca) => Some(ClientAuth {
            ca,
            required: required?,
        }),
        None => None,
    };
    Some(Some(Tls {
        certificates: certificates?,
        tls12: tls12.value_or(true)?,
        client_auth,
    }))
}

fn certificates(
    report: &mut Report<'_>,
    tls: &Place,
    raw: &raw::http::Tls,
    directory: &Path,
) -> Option<Vec<CertificateFiles>> {
    let tables = report.tables(tls, CERTIFICATES.name, &raw.certificates, |_| None)?;
    if tables.is_empty() {
        let written = raw.certificates.as_ref();
        // A list whose items are all wrong has been reported.
        if written.is_none_or(|list| list.value.as_ref().is_ok_and(Vec::is_empty)) {
            report.missing(tls, CERTIFICATES);
        }
        return None;
    }
    let readable = value::readable_in(directory);
    let all = tables.len();
    let mut files = Vec::new();
    for Located { value: raw, place } in tables {
        let certificate = key("certificate", r#""shop.pem""#);
        let certificate =
            report.require(&place, certificate, &raw.certificate, |text| readable(text));
        let own_key = key("key", r#""shop.key""#);
        let own_key = report.require(&place, own_key, &raw.key, |text| readable(text));
        if let (Some(certificate), Some(key)) = (certificate, own_key) {
            files.push(CertificateFiles {
                certificate: certificate.value,
                key: key.value,
            });
        }
    }
    (files.len() == all).then_some(files)
}

fn limits(
    report: &mut Report<'_>,
    http: &Place,
    raw: &Option<Table<raw::http::Limits>>,
) -> Option<HttpLimits> {
    let default = HttpLimits::default();
    let Located { value: raw, place } = match report.table(http, "limits", raw) {
        Given::Absent => return Some(default),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let most = 1..=10_000_000;
    let connections = key("connections", "100000");
    let connections = reader.number(connections, &raw.connections, most.clone());
    let per_client = key("connections_per_client", "100");
    let per_client = reader.number(per_client, &raw.connections_per_client, most);
    // The parser of HTTP/1.1 takes no more fields, and no larger heads.
    let header_bytes = key("header_bytes", r#""32KiB""#);
    let header_bytes = reader.size(header_bytes, &raw.header_bytes, 1024..=512 * 1024);
    let headers = reader.number(key("headers", "100"), &raw.headers, 1..=256);
    let body_bytes = reader.size(key("body_bytes", r#""100MiB""#), &raw.body_bytes, 0..=BODY);
    let header_timeout = key("header_timeout", r#""10s""#);
    let header_timeout = reader.duration(header_timeout, &raw.header_timeout, TIMEOUT);
    let body_timeout = key("body_timeout", r#""60s""#);
    let body_timeout = reader.duration(body_timeout, &raw.body_timeout, TIMEOUT);
    let idle_timeout = key("idle_timeout", r#""60s""#);
    let idle_timeout = reader.duration(idle_timeout, &raw.idle_timeout, TIMEOUT);
    let streams = reader.number(key("streams", "128"), &raw.streams, 1..=10_000);
    let resets = reader.number(key("resets", "200"), &raw.resets, 1..=1_000_000);
    let rate = rate(&mut reader, &raw.rate, &raw.burst);
    let header_bytes = header_bytes.value_or(default.header_bytes.into())?;
    Some(HttpLimits {
        connections: connections.value_or(default.connections)?,
        connections_per_client: per_client.into_option()?,
        header_bytes: u32::try_from(header_bytes).ok()?,
        headers: headers.value_or(default.headers)?,
        body_bytes: body_bytes.into_option()?,
        header_timeout: header_timeout.value_or(default.header_timeout)?,
        body_timeout: body_timeout.value_or(default.body_timeout)?,
        idle_timeout: idle_timeout.value_or(default.idle_timeout)?,
        streams: streams.value_or(default.streams)?,
        resets: resets.value_or(default.resets)?,
        rate: rate?,
    })
}

/// The keys `rate` and `burst` of a table.
pub(super) fn rate(
    reader: &mut Reader<'_, '_>,
    rate: &raw::Integer,
    burst: &raw::Integer,
) -> Option<Option<Rate>> {
    let rate = reader.number(key("rate", "1000"), rate, 1..=1_000_000);
    let burst = reader.number(key("burst", "2000"), burst, 1..=10_000_000);
    if matches!(rate, Given::Absent) {
        reader.without(&burst, "burst", "rate");
    }
    let burst = burst.into_option();
    let Some(per_second) = rate.into_option()? else {
        return Some(None);
    };
    Some(Some(Rate {
        per_second,
        burst: burst?.unwrap_or(per_second),
    }))
}
