//! What the proxy says itself: redirects and answers.

use std::path::Path;

use director_core::l7::{Answer, Redirect, Rewrite};

use super::{
    matches::one_at_most,
    reader::{Reader, at},
    value,
};
use crate::config::{
    field::Table,
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::Report,
};

/// The largest body of an answer, in bytes.
const BODY: u64 = 1024 * 1024;

const REDIRECT_STATUS: Key = key("status", "308");

/// A redirect, and where it stands. Its prefix, if any, is the place second.
#[derive(Debug)]
pub(super) struct RedirectDraft {
    pub(super) redirect: Located<Redirect>,
    /// Where it replaces what the route's `path` matched.
    pub(super) prefix: Option<Place>,
}

/// `None` when it is not there or wrong.
pub(super) fn redirect(
    report: &mut Report<'_>,
    route: &Place,
    raw: &Option<Table<raw::http::Redirect>>,
) -> Option<RedirectDraft> {
    let Given::Value(Located { value: raw, place }) = report.table(route, "redirect", raw) else {
        return None;
    };
    let status = report.require(&place, REDIRECT_STATUS, &raw.status, |&status| {
        let known = [301, 302, 303, 307, 308];
        let status_of = known.into_iter().find(|&known| i64::from(known) == status);
        status_of.ok_or_else(|| {
            Fault::new(format!("must be 301, 302, 303, 307 or 308, not {status}"))
                .help("use 308 for good, or 307 for now; both keep the method")
        })
    });
    let mut reader = Reader {
        report,
        place: &place,
    };
    let scheme = reader.choice(
        key("scheme", r#""https""#),
        &raw.scheme,
        &[("http", "http"), ("https", "https")],
    );
    let host = key("host", r#""www.example.org""#);
    let host = reader.text(host, &raw.host, value::host);
    let port = reader.number(key("port", "443"), &raw.port, 1..=u16::MAX);
    let path = reader.text(key("path", r#""/new""#), &raw.path, value::path);
    let prefix = reader.text(key("prefix", r#""/v2""#), &raw.prefix, value::prefix);
    let paths = [("path", at(&raw.path)), ("prefix", at(&raw.prefix))];
    let is_single = one_at_most(report, &place, &paths, "new path");
    let prefix_place = prefix.located().map(|prefix| prefix.place.clone());
    let path = path.into_option()?.map(Rewrite::Path);
    let prefix = prefix.into_option()?.map(Rewrite::Prefix);
    let redirect = Redirect {
        status: status?.value,
        scheme: scheme.into_option()?.map(Into::into),
        host: host.into_option()?,
        port: port.into_option()?,
        path: path.or(prefix),
    };
    is_single.then_some(RedirectDraft {
        redirect: Located {
            value: redirect,
            place,
        },
        prefix: prefix_place,
    })
}

/// The answer under a key of a route. `None` when it is wrong.
pub(super) fn answer(
    report: &mut Report<'_>,
    route: &Place,
    name: &'static str,
    raw: &Option<Table<raw::http::Answer>>,
    default_status: u16,
    directory: &Path,
) -> Option<Option<Answer>> {
    let Located { value: raw, place } = match report.table(route, name, raw) {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let bodies = [("body", at(&raw.body)), ("body_file", at(&raw.body_file))];
    let is_single = one_at_most(report, &place, &bodies, "body");
    let mut reader = Reader {
        report,
        place: &place,
    };
    let status = reader.number(key("status", "503"), &raw.status, 200..=599);
    let content_type = key("content_type", r#""text/plain""#);
    let content_type = reader.text(content_type, &raw.content_type, |text| match text {
        "" => Err(Fault::new("is empty")),
        text => value::header_value(text),
    });
    let body = reader.text(key("body", r#""closed""#), &raw.body, |text| {
        if text.len() as u64 > BODY {
            return Err(Fault::new("is larger than 1MiB").help("use a shorter text"));
        }
        Ok(text.as_bytes().to_owned())
    });
    let file = key("body_file", r#""closed.html""#);
    let file = reader.text(file, &raw.body_file, |text| {
        value::contents(&value::file_in(directory)(text)?, BODY)
    });
    let status = status.or(&place, default_status);
    let has_body = body.located().is_some_and(|body| !body.value.is_empty())
        || file.located().is_some_and(|file| !file.value.is_empty());
    // RFC 9110, sections 15.3.5 and 15.4.5.
    if let Some(status) = status.as_ref().filter(|it| matches!(it.value, 204 | 304))
        && has_body
    {
        let message = format!("is {}, of which no answer has a body", status.value);
        report.error(
            &status.place,
            message,
            "remove the body, or use another status",
        );
    }
    let (body, file) = (body.into_option()?, file.into_option()?);
    let content_type = content_type.value_or("text/plain; charset=utf-8".into())?;
    let answer = Answer {
        status: status?.value,
        content_type,
        body: body.or(file).unwrap_or_default().into(),
    };
    is_single.then_some(Some(answer))
}
