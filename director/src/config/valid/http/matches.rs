//! What requests a route is for.

use director_core::l7::{HeaderEdits, HeaderMatch, Matches, PathMatch, ValueMatch};

use super::{
    reader::{Reader, at},
    value,
};
use crate::config::{
    field::Table,
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::Report,
    words::quoted,
};

const HEADERS: &str = "headers";

const MCP_METHOD: &str = "mcp-method";

/// What a route matches; `None` when something of it is wrong.
pub(super) fn matches(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::Route,
) -> Option<Matches> {
    let mut reader = Reader { report, place };
    let hosts = key("hosts", r#"["shop.example.org", "*.shop.example.org"]"#);
    let hosts = reader.texts(hosts, &raw.hosts, value::host_pattern);
    let methods = reader.texts(key("methods", r#"["GET"]"#), &raw.methods, value::method);
    let mcp = key("mcp_methods", r#"["tools/call"]"#);
    let mcp = reader.texts(mcp, &raw.mcp_methods, mcp_method);
    let mut is_sound = true;
    for (list, name) in [
        (&hosts, "hosts"),
        (&methods, "methods"),
        (&mcp, "mcp_methods"),
    ] {
        if let Some(Located { place, .. }) = list.located().filter(|list| list.value.is_empty()) {
            let help = format!("remove {name} to match all, or name at least one");
            reader
                .report
                .error(place, "is empty, and matches nothing", help);
            is_sound = false;
        }
    }
    let path = path(&mut reader, raw);
    let headers = headers(report, place, raw);
    let mut headers = headers?;
    if let Some(pattern) = mcp_pattern(report, mcp)? {
        headers.push(HeaderMatch {
            name: MCP_METHOD.into(),
            value: ValueMatch::Regex(pattern),
        });
    }
    let matches = Matches {
        hosts: hosts.value_or(Vec::new())?,
        path: path?,
        methods: methods.value_or(Vec::new())?,
        headers,
    };
    is_sound.then_some(matches)
}

/// A pattern of all the methods, where there are any.
fn mcp_pattern(report: &mut Report<'_>, methods: Given<Vec<Box<str>>>) -> Option<Option<Box<str>>> {
    let methods = match methods {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(methods) => methods,
    };
    let alternatives: Vec<_> = methods.value.iter().map(|it| regex::escape(it)).collect();
    match value::pattern(&alternatives.join("|")) {
        Ok(pattern) => Some(Some(pattern)),
        Err(_) => {
            report.error(
                &methods.place,
                "has too many methods to look for at once",
                "name fewer, or match the header mcp-method by a regex of your own",
            );
            None
        }
    }
}

fn mcp_method(text: &str) -> Result<Box<str>, Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.$-".contains(c);
    if text.is_empty() || text.len() > 128 || !text.chars().all(plain) {
        return Err(
            Fault::new(format!("{} is not a method of MCP", quoted(text)))
                .help("write one as clients send it, such as \"tools/call\""),
        );
    }
    Ok(text.into())
}

fn path(reader: &mut Reader<'_, '_>, raw: &raw::http::Route) -> Option<Option<PathMatch>> {
    let kinds = [
        ("path", at(&raw.path)),
        ("path_exact", at(&raw.path_exact)),
        ("path_regex", at(&raw.path_regex)),
    ];
    let is_single = one_at_most(reader.report, reader.place, &kinds, "way to match a path");
    let prefix = reader.text(key("path", r#""/api""#), &raw.path, value::prefix);
    let exact = key("path_exact", r#""/login""#);
    let exact = reader.text(exact, &raw.path_exact, value::path);
    let pattern = key("path_regex", r#""/v[0-9]+/.*""#);
    let pattern = reader.text(pattern, &raw.path_regex, value::pattern);
    let prefix = prefix.into_option()?.map(PathMatch::Prefix);
    let exact = exact.into_option()?.map(PathMatch::Exact);
    let pattern = pattern.into_option()?.map(PathMatch::Regex);
    is_single.then(|| prefix.or(exact).or(pattern))
}

/// Reports every key but the first that is there. Returns whether none was.
pub(super) fn one_at_most(
    report: &mut Report<'_>,
    table: &Place,
    keys: &[(&str, Option<usize>)],
    what: &str,
) -> bool {
    let given = keys.iter().filter_map(|(name, at)| Some((*name, (*at)?)));
    let mut given: Vec<_> = given.collect();
    given.sort_by_key(|(_, at)| *at);
    let Some(((first, at), rest)) = given.split_first() else {
        return true;
    };
    let line = report.line(&table.key(first, *at));
    for (name, at) in rest {
        report.error(
            &table.key(name, *at),
            format!("is a second {what}, beside {first} on line {line}"),
            format!("remove one of {first} and {name}"),
        );
    }
    rest.is_empty()
}

fn headers(
    report: &mut Report<'_>,
    route: &Place,
    raw: &raw::http::Route,
) -> Option<Vec<HeaderMatch>> {
    let tables = report.tables(route, HEADERS, &raw.headers, |header| header.name.as_ref())?;
    let written = raw.headers.as_ref();
    let written = written.and_then(|list| list.value.as_ref().ok());
    let all = written.map_or(0, Vec::len);
    let matches = tables
        .iter()
        .filter_map(|table| header(report, &table.place, table.value));
    let matches: Vec<_> = matches.collect();
    (matches.len() == all).then_some(matches)
}

fn header(
    report: &mut Report<'_>,
    place: &Place,
    raw: &raw::http::HeaderMatch,
) -> Option<HeaderMatch> {
    const VALUE: Key = key("value", r#""1""#);
    let name = report.require(place, key("name", r#""x-canary""#), &raw.name, |text| {
        let name = value::header_name(text)?;
        match &*name {
            "host" => Err(Fault::new("host is not matched as other headers are")
                .help("use the key hosts of the route")),
            _ => Ok(name),
        }
    });
    let kinds = [
        ("value", at(&raw.value)),
        ("regex", at(&raw.regex)),
        ("present", at(&raw.present)),
    ];
    let is_single = one_at_most(report, place, &kinds, "way to match a value");
    if kinds.iter().all(|(_, at)| at.is_none()) {
        report.error(
            place,
            "does not say what the header must be",
            "add value, regex, or present = true or false",
        );
        return None;
    }
    let mut reader = Reader { report, place };
    let exact = reader.text(VALUE, &raw.value, value::header_value);
    let pattern = reader.text(key("regex", r#""a.*""#), &raw.regex, value::pattern);
    let present = reader.truth(key("present", "true"), &raw.present);
    let exact = exact.into_option()?.map(ValueMatch::Exact);
    let pattern = pattern.into_option()?.map(ValueMatch::Regex);
    let present = present.into_option()?.map(|present| match present {
        true => ValueMatch::Present,
        false => ValueMatch::Absent,
    });
    if !is_single {
        return None;
    }
    Some(HeaderMatch {
        name: name?.value,
        value: exact.or(pattern).or(present)?,
    })
}

/// What is edited of the headers of one direction.
pub(super) fn edits(
    report: &mut Report<'_>,
    route: &Place,
    name: &'static str,
    raw: &Option<Table<raw::http::HeaderEdits>>,
) -> Option<HeaderEdits> {
    let Located { value: raw, place } = match report.table(route, name, raw) {
        Given::Absent => return Some(HeaderEdits::default()),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let set = entries(report, &place, "set", &raw.set);
    let add = entries(report, &place, "add", &raw.add);
    let remove = key("remove", r#"["x-b"]"#);
    let mut reader = Reader {
        report,
        place: &place,
    };
    let remove = reader.texts(remove, &raw.remove, value::editable_header);
    Some(HeaderEdits {
        remove: remove.value_or(Vec::new())?,
        set: set?,
        add: add?,
    })
}

/// Names and values of headers; `None` when one is wrong.
fn entries(
    report: &mut Report<'_>,
    table: &Place,
    name: &'static str,
    raw: &raw::Map,
) -> Option<Vec<(Box<str>, Box<str>)>> {
    let entry = key(name, r#"{ "x-a" = "1" }"#);
    let located = match report.read(table, entry, raw, Ok) {
        Given::Absent => return Some(Vec::new()),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let mut edits: Vec<Located<(Box<str>, Box<str>)>> = Vec::new();
    for entry in &located.value.0 {
        let place = located.place.key(&entry.name, entry.at);
        let of_value = located.place.key(&entry.name, entry.value.span.start);
        let example = key(name, r#"{ "x-a" = "1" }"#);
        let name = match value::editable_header(&entry.name) {
            Ok(name) if edits.iter().any(|edit| edit.value.0 == name) => {
                report.error(&place, format!("{name} is there already"), "remove it here");
                None
            }
            Ok(name) => Some(name),
            Err(Fault { message, help }) => {
                report.error(
                    &place,
                    message,
                    help.unwrap_or_else(|| "use another".to_owned()),
                );
                None
            }
        };
        let value = report.value(of_value, example, &entry.value, |text| {
            value::header_value(text)
        });
        if let (Some(name), Some(value)) = (name, value) {
            edits.push(Located {
                value: (name, value.value),
                place,
            });
        }
    }
    let is_sound = edits.len() == located.value.0.len();
    is_sound.then(|| edits.into_iter().map(|edit| edit.value).collect())
}
