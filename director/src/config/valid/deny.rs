//! Where packets are not taken from: `deny` and `deny_file` of `[edge]`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use super::prefix::network;
use crate::config::{
    Prefix,
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::{Line, Report},
    words::quoted,
};

/// Prefixes in all.
const MOST: usize = 1_000_000;

/// The largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 64 * 1024 * 1024;

/// Lines of a file that are complained about, so that a file of another kind is
/// still answered in few words.
const SHOWN: usize = 20;

const DENY: Key = key("deny", r#"["192.0.2.0/24", "2001:db8:bad::/48"]"#);
const DENY_FILE: Key = key("deny_file", r#""/etc/director/deny.txt""#);

/// Every prefix, those of the list first; `None` when something is wrong.
/// `directory` is where a file is that is named without one.
pub(super) fn deny(
    report: &mut Report<'_>,
    edge: &Place,
    raw: &raw::Edge,
    directory: &Path,
) -> Option<Vec<Prefix>> {
    let listed = listed(report, edge, raw);
    let path = report.read(edge, DENY_FILE, &raw.deny_file, |text| {
        if text.is_empty() || text.contains('\0') {
            return Err(Fault::new(format!("{} names no file", quoted(text))));
        }
        Ok(directory.join(text))
    });
    let path = match path {
        Given::Absent => return listed,
        Given::Refused => return None,
        Given::Value(path) => path,
    };
    match read(&path.value) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let name = path.value.display().to_string();
            // What is wrong in the list has been said; the file is still read.
            let is_sound = listed.is_some();
            let all = lines(
                report,
                &path.place,
                &name,
                &text,
                listed.unwrap_or_default(),
            );
            all.filter(|_| is_sound)
        }
        Err(error) => {
            let shown = path.value.display();
            report.error(
                &path.place,
                format!("{shown} cannot be read: {error}"),
                match error.kind() {
                    io::ErrorKind::FileTooLarge => "a file of prefixes has at most 64 MiB",
                    _ => "name a regular file that director may read, or remove deny_file",
                },
            );
            None
        }
    }
}

fn listed(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> Option<Vec<Prefix>> {
    let list = match report.read(edge, DENY, &raw.deny, Ok) {
        Given::Value(list) => list,
        Given::Refused => return None,
        Given::Absent => return Some(Vec::new()),
    };
    let located = report.items(&list, DENY, network);
    report.unique(&located, Prefix::to_string);
    (located.len() == list.value.len()).then(|| {
        let values = located.into_iter().map(|Located { value, .. }| value);
        values.collect()
    })
}

/// At most the limit, of a regular file: a pipe could keep a reload waiting.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 64 MiB",
        ));
    }
    Ok(bytes)
}

/// Adds the prefixes of a file to those before; `None` when a line is wrong.
/// One that was there before is left out, and warned of: lists are often put
/// together from several.
fn lines(
    report: &mut Report<'_>,
    place: &Place,
    file: &str,
    text: &str,
    mut prefixes: Vec<Prefix>,
) -> Option<Vec<Prefix>> {
    let mut first: HashMap<Prefix, Option<usize>> =
        prefixes.iter().map(|prefix| (*prefix, None)).collect();
    let (mut wrong, mut double) = (0, 0);
    for (line, entry) in entries(file, text) {
        let prefix = match network(entry) {
            Ok(prefix) => prefix,
            Err(fault) => {
                wrong += 1;
                if wrong <= SHOWN {
                    let help = fault.help.unwrap_or_else(|| "mend the line".to_owned());
                    report.error_on(&line, place, fault.message, help);
                }
                continue;
            }
        };
        if let Some(before) = first.get(&prefix) {
            double += 1;
            if double <= SHOWN {
                let before = before.map_or("in deny".to_owned(), |line| format!("on line {line}"));
                report.warning_on(
                    &line,
                    place,
                    format!("{prefix} is {before} already"),
                    "remove it here",
                );
            }
            continue;
        }
        if prefixes.len() == MOST {
            let message = format!("is one too many: {MOST} prefixes can be denied in all");
            report.error_on(&line, place, message, "join those that are neighbours");
            return None;
        }
        first.insert(prefix, Some(line.line));
        prefixes.push(prefix);
    }
    if wrong > SHOWN {
        let message = format!("{wrong} lines of {file} are wrong, and {SHOWN} are shown");
        report.error(
            place,
            message,
            "write one prefix a line, as in 192.0.2.0/24",
        );
    }
    if double > SHOWN {
        let message = format!("{double} lines of {file} say what was said, and {SHOWN} are shown");
        report.warning(place, message, "remove them");
    }
    (wrong == 0).then_some(prefixes)
}

/// What the lines of a file hold, comments and blanks left out.
fn entries<'t>(file: &'t str, text: &'t str) -> impl Iterator<Item = (Line<'t>, &'t str)> {
    // A byte order mark is no character of the first line to an editor.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = (1..).zip(text.lines());
    lines.filter_map(move |(line, written)| {
        let (entry, _) = written.split_once('#').unwrap_or((written, ""));
        let begins = entry.len() - entry.trim_start().len();
        let column = entry[..begins].chars().count() + 1;
        let entry = entry.trim();
        (!entry.is_empty()).then_some((Line { file, line, column }, entry))
    })
}
