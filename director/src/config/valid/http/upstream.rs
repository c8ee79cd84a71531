//! How servers are spoken to: `[service.upstream]` and `[pool.upstream]`.

use std::{ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use director_core::l7::{CertificateFiles, ProxyProtocol, Upstream, UpstreamProtocol, UpstreamTls};

use super::{reader::Reader, value};
use crate::config::{
    field::Table,
    place::{Given, Located, Place, key},
    raw,
    report::Report,
};

const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);
const IDLE_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// How the servers of a service are spoken to where it does not say.
fn default(service: Arc<str>) -> Upstream {
    Upstream {
        service,
        protocol: UpstreamProtocol::default(),
        tls: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        connections: None,
        proxy_protocol: None,
    }
}

/// The upstream of the service at a place; `None` when something is wrong.
pub(in crate::config::valid) fn upstream(
    report: &mut Report<'_>,
    service: &Place,
    name: Option<&Located<Arc<str>>>,
    raw: &Option<Table<raw::http::Upstream>>,
    directory: &Path,
) -> Option<Upstream> {
    let Located { value: raw, place } = match report.table(service, "upstream", raw) {
        Given::Absent => return Some(default(name?.value.clone())),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let protocol = reader.choice(
        key("protocol", r#""http1""#),
        &raw.protocol,
        &[
            ("http1", UpstreamProtocol::Http1),
            ("http2", UpstreamProtocol::Http2),
        ],
    );
    let connect_timeout = key("connect_timeout", r#""1s""#);
    let connect_timeout = reader.duration(connect_timeout, &raw.connect_timeout, CONNECT_TIMEOUT);
    let idle_timeout = key("idle_timeout", r#""60s""#);
    let idle_timeout = reader.duration(idle_timeout, &raw.idle_timeout, IDLE_TIMEOUT);
    let connections = reader.number(key("connections", "100"), &raw.connections, 1..=100_000);
    let proxy_protocol = reader.choice(
        key("proxy_protocol", r#""v2""#),
        &raw.proxy_protocol,
        &[("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)],
    );
    let tls = tls(report, &place, &raw.tls, directory);
    let default = default(name?.value.clone());
    Some(Upstream {
        protocol: protocol.value_or(default.protocol)?,
        tls: tls?,
        connect_timeout: connect_timeout.value_or(default.connect_timeout)?,
        idle_timeout: idle_timeout.value_or(default.idle_timeout)?,
        connections: connections.into_option()?,
        proxy_protocol: proxy_protocol.into_option()?,
        ..default
    })
}

fn tls(
    report: &mut Report<'_>,
    upstream: &Place,
    raw: &Option<Table<raw::http::UpstreamTls>>,
    directory: &Path,
) -> Option<Option<UpstreamTls>> {
    let Located { value: raw, place } = match report.table(upstream, "tls", raw) {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let readable = value::readable_in(directory);
    let server_name = key("server_name", r#""shop.internal""#);
    let server_name = reader.text(server_name, &raw.server_name, value::host);
    let ca = reader.text(key("ca", r#""ca.pem""#), &raw.ca, &readable);
    let certificate = key("certificate", r#""edge.pem""#);
    let certificate = reader.text(certificate, &raw.certificate, &readable);
    let own_key = reader.text(key("key", r#""edge.key""#), &raw.key, &readable);
    let client = match (certificate, own_key) {
        (Given::Absent, Given::Absent) => Some(None),
        (Given::Value(certificate), Given::Value(key)) => Some(Some(CertificateFiles {
            certificate: certificate.value,
            key: key.value,
        })),
        (certificate, Given::Absent) => {
            reader.without(&certificate, "certificate", "key");
            None
        }
        (Given::Absent, own_key) => {
            reader.without(&own_key, "key", "certificate");
            None
        }
        _ => None,
    };
    Some(Some(UpstreamTls {
        server_name: server_name.into_option()?,
        ca: ca.into_option()?,
        client: client?,
    }))
}
