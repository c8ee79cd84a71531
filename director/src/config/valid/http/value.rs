//! Single values of the proxy's keys.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::Ipv6Addr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use hyper::{
    Method, Uri,
    header::{HeaderName, HeaderValue},
};
use regex::{Regex, RegexBuilder};

use crate::config::{
    field::Amount,
    place::Fault,
    words::{quoted, shown},
};

/// Memory that one compiled pattern may take, in bytes.
const REGEX_SIZE: usize = 1024 * 1024;

/// Longest pattern, in bytes.
const PATTERN_LIMIT: usize = 4096;

/// Longest name of a host (RFC 1035, section 2.3.4), in bytes.
const HOST_LIMIT: usize = 253;

/// Longest path and longest value of a header, in bytes.
const TEXT_LIMIT: usize = 8 * 1024;

/// Fields of one connection or of a message's framing (RFC 9110, section 7.6.1;
/// RFC 9112, section 6): the proxy alone decides about them.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A number of bytes, or a number with KiB, MiB or GiB behind it.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Amount) -> Result<u64, Fault> {
    move |amount| {
        let (bytes, written) = match amount {
            Amount::Bytes(bytes) => (u64::try_from(*bytes).ok(), bytes.to_string()),
            Amount::Text(text) => {
                let bytes = parsed_size(text).ok_or_else(|| {
                    Fault::new(format!("{} is not a size", quoted(text))).help(
                        "write a number of bytes, or one with a unit, such as \"32KiB\", \
                         \"1MiB\" or \"2GiB\"",
                    )
                })?;
                (Some(bytes), shown(text))
            }
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let (low, high) = (shown_size(*range.start()), shown_size(*range.end()));
            Fault::new(format!("must be from {low} to {high}, not {written}"))
        })
    }
}

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// What is too large for 64 bits counts as the largest number.
fn parsed_size(text: &str) -> Option<u64> {
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?.trim_end(), *shift)))
        .unwrap_or((text, 0));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().unwrap_or(u64::MAX);
    Some(number.saturating_mul(1 << shift))
}

fn shown_size(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// The name of a header, in lower case.
pub(super) fn header_name(text: &str) -> Result<Box<str>, Fault> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Ok(name.as_str().into()),
        Err(_) => Err(
            Fault::new(format!("{} is not a header's name", quoted(text)))
                .help("use letters, digits and '-', as in \"x-user\""),
        ),
    }
}

/// The same of a header that may be written.
pub(super) fn editable_header(text: &str) -> Result<Box<str>, Fault> {
    let name = header_name(text)?;
    if FRAMING.contains(&&*name) {
        return Err(Fault::new(format!(
            "{name} says how messages are sent, which the proxy decides"
        ))
        .help("remove it"));
    }
    if &*name == "host" {
        return Err(Fault::new("host is not edited as other headers are")
            .help("set the key host of the route"));
    }
    Ok(name)
}

/// A header's value, as it is sent.
pub(super) fn header_value(text: &str) -> Result<Box<str>, Fault> {
    let plain = HeaderValue::from_str(text).is_ok() && text.len() <= TEXT_LIMIT;
    if plain && text.trim() == text {
        return Ok(text.into());
    }
    Err(
        Fault::new(format!("{} cannot be a header's value", quoted(text))).help(format!(
            "use at most {TEXT_LIMIT} visible characters of ASCII, with blanks only between them"
        )),
    )
}

/// A method, as it is sent.
pub(super) fn method(text: &str) -> Result<Box<str>, Fault> {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    let upper = text.to_ascii_uppercase();
    if known.contains(&&*upper) && upper != text {
        return Err(Fault::new(format!(
            "{} is another method than {upper}: their case counts",
            quoted(text)
        ))
        .help(format!("did you mean {}?", quoted(&upper))));
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(Fault::new(format!("{} is not a method", quoted(text)))
            .help("write it as clients send it, such as \"GET\"")),
    }
}

/// What a cookie may be called (RFC 6265, section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Result<Box<str>, Fault> {
    match header_name(text) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(
            Fault::new(format!("{} is not a cookie's name", quoted(text)))
                .help("use letters, digits and '-', as in \"director\""),
        ),
    }
}

/// A host, in lower case: a name, an address, or `*.` and a name.
pub(super) fn host_pattern(text: &str) -> Result<Box<str>, Fault> {
    if text == "*" {
        return Err(Fault::new("\"*\" is not a host")
            .help("leave hosts out to match every host, or write \"*.example.org\""));
    }
    match text.strip_prefix("*.") {
        Some(parent) => Ok(format!("*.{}", host(parent)?).into()),
        None => host(text),
    }
}

/// A host alone, in lower case.
pub(super) fn host(text: &str) -> Result<Box<str>, Fault> {
    let fault =
        |why: &str, help: &str| Err(Fault::new(format!("{} {why}", quoted(text))).help(help));
    let inner = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if let Some(v6) = inner.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        return Ok(format!("[{v6}]").into());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return fault(
            "has no brackets",
            "write an IPv6 address as \"[2001:db8::10]\"",
        );
    }
    if let Some((name, _)) = text.split_once(':').filter(|(name, _)| is_name(name)) {
        let help = format!("write the host alone: {}", quoted(name));
        return fault("has a port, which does not count here", &help);
    }
    if !text.is_ascii() {
        return fault(
            "has characters that names of hosts cannot have",
            "write it as it is in the DNS, where labels begin with \"xn--\"",
        );
    }
    if text.contains('*') {
        return fault(
            "has a * where none can be",
            "write the name in full; only hosts of a route may begin with one, as \"*.example.org\"",
        );
    }
    if !is_name(text) {
        return fault("is not a host", "write a name such as \"www.example.org\"");
    }
    Ok(text.to_ascii_lowercase().into())
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(inner)
    };
    text.len() <= HOST_LIMIT && text.split('.').all(is_label)
}

/// A value of `Host`: a host, and a port where there is one.
pub(super) fn authority(text: &str) -> Result<Box<str>, Fault> {
    let port = |port: &str| port.parse().is_ok_and(|port: u16| port != 0);
    match text.rsplit_once(':') {
        Some((name, digits)) if port(digits) && text.parse::<Ipv6Addr>().is_err() => {
            Ok(format!("{}:{digits}", host(name)?).into())
        }
        _ => host(text),
    }
}

/// A path without a query.
pub(super) fn path(text: &str) -> Result<Box<str>, Fault> {
    let why = if !text.starts_with('/') {
        "does not begin with a slash"
    } else if text.contains('?') {
        "has a query, which is no part of a path"
    } else if text.contains('#') {
        "has a fragment, which is never sent"
    } else if text.len() > TEXT_LIMIT {
        "is too long"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.parse::<Uri>().is_err() {
        "has characters that a path cannot have"
    } else {
        return Ok(text.into());
    };
    Err(Fault::new(format!("{} {why}", quoted(text)))
        .help("write a path such as \"/api\", with %20 and the like for other characters"))
}

/// The same, where a slash at the end says nothing.
pub(super) fn prefix(text: &str) -> Result<Box<str>, Fault> {
    let path = path(text)?;
    match path.trim_end_matches('/') {
        "" => Ok("/".into()),
        prefix => Ok(prefix.into()),
    }
}

/// A pattern that compiles, by itself and bound to both ends.
pub(super) fn pattern(text: &str) -> Result<Box<str>, Fault> {
    if text.len() > PATTERN_LIMIT {
        return Err(Fault::new(format!("has more than {PATTERN_LIMIT} bytes"))
            .help("use a shorter pattern"));
    }
    for pattern in [text, &format!("^(?:{text})$")] {
        compiled(pattern).map_err(|why| {
            Fault::new(format!("{} does not compile: {why}", quoted(text)))
                .help("see https://docs.rs/regex for what patterns may have")
        })?;
    }
    Ok(text.into())
}

/// The reason of a failure is one line.
pub(super) fn compiled(pattern: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
    compiled.map_err(|error| {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default().trim();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

/// A path that names something, relative to a directory.
pub(super) fn file_in(directory: &Path) -> impl Fn(&str) -> Result<PathBuf, Fault> {
    move |text| {
        if text.is_empty() || text.contains('\0') {
            return Err(Fault::new(format!("{} names no file", quoted(text))));
        }
        Ok(directory.join(text))
    }
}

/// The same, of a file that is there and can be read.
pub(super) fn readable_in(directory: &Path) -> impl Fn(&str) -> Result<PathBuf, Fault> {
    move |text| {
        let path = file_in(directory)(text)?;
        open(&path).map_err(|error| unreadable(&path, &error))?;
        Ok(path)
    }
}

/// What is in a file of at most so many bytes.
pub(super) fn contents(path: &Path, most: u64) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut bytes = Vec::new();
        open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > most {
        let shown = quoted(&path.display().to_string());
        let most = shown_size(most);
        return Err(Fault::new(format!("{shown} is larger than {most}")).help("use a smaller file"));
    }
    Ok(bytes)
}

/// A regular file: a pipe could keep a reload waiting.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let shown = quoted(&path.display().to_string());
    let help = match error.kind() {
        io::ErrorKind::NotFound => {
            "name a file that is there; paths are relative to the configuration's directory"
        }
        _ => "name a regular file that director may read",
    };
    Fault::new(format!("{shown} cannot be read: {error}")).help(help)
}
