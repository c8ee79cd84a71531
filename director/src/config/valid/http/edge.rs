//! What is the same for all that the proxy serves: `[edge.http]`.

use std::{
    fs,
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use director_core::l7::{AccessLog, L7, Passive, SealKey};

use super::{reader::Reader, value};
use crate::config::{
    field::Table,
    place::{Fault, Given, Key, Located, Place, key},
    raw,
    report::Report,
    words::quoted,
};

const DRAIN_LIMIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

/// The most that a cache may take, in bytes.
const CACHE: u64 = 1 << 40;

const SEAL_KEY_FILE: Key = key("seal_key_file", r#""seal.key""#);

/// What could be read of `[edge.http]`; `None` stands for what is wrong.
#[derive(Debug)]
pub(in crate::config::valid) struct EdgeHttpDraft {
    threads: Option<Option<u16>>,
    drain_limit: Option<Duration>,
    pub(super) cache: Option<u64>,
    pub(super) seal_key: Given<SealKey>,
    passive: Option<Passive>,
    access_log: Option<Option<AccessLog>>,
}

impl EdgeHttpDraft {
    /// Without listeners and upstreams.
    pub(in crate::config::valid) fn finish(self) -> Option<L7> {
        Some(L7 {
            listeners: Vec::new(),
            upstreams: Vec::new(),
            access_log: self.access_log?,
            cache_bytes: self.cache?,
            threads: self.threads?,
            drain_limit: self.drain_limit?,
            seal_key: self.seal_key.into_option()?,
            passive: self.passive?,
        })
    }
}

/// `[edge.http]`; `None` when it is no table. Files are looked for in
/// `directory`.
pub(in crate::config::valid) fn edge(
    report: &mut Report<'_>,
    edge: &Place,
    raw: &Option<Table<raw::http::Edge>>,
    directory: &Path,
) -> Option<EdgeHttpDraft> {
    let default = L7::default();
    let Located { value: raw, place } = match report.table(edge, "http", raw) {
        Given::Value(located) => located,
        Given::Refused => return None,
        Given::Absent => {
            return Some(EdgeHttpDraft {
                threads: Some(default.threads),
                drain_limit: Some(default.drain_limit),
                cache: Some(default.cache_bytes),
                seal_key: Given::Absent,
                passive: Some(default.passive),
                access_log: Some(None),
            });
        }
    };
    let mut reader = Reader {
        report,
        place: &place,
    };
    let threads = reader.number(key("threads", "2"), &raw.threads, 1..=1024);
    let drain_limit = key("drain_limit", r#""30s""#);
    let drain_limit = reader.duration(drain_limit, &raw.drain_limit, DRAIN_LIMIT);
    let cache = reader.size(key("cache", r#""64MiB""#), &raw.cache, 0..=CACHE);
    let passive = reader.choice(
        key("passive", r#""probe""#),
        &raw.passive,
        &[
            ("ignore", Passive::Ignore),
            ("probe", Passive::Probe),
            ("decide", Passive::Decide),
        ],
    );
    Some(EdgeHttpDraft {
        threads: threads.into_option(),
        drain_limit: drain_limit.value_or(default.drain_limit),
        cache: cache.value_or(default.cache_bytes),
        seal_key: seal_key(report, &place, raw, directory),
        passive: passive.value_or(default.passive),
        access_log: access_log(report, &place, &raw.access_log, directory),
    })
}

fn access_log(
    report: &mut Report<'_>,
    edge: &Place,
    raw: &Option<Table<raw::http::AccessLog>>,
    directory: &Path,
) -> Option<Option<AccessLog>> {
    let Located { value: raw, place } = match report.table(edge, "access_log", raw) {
        Given::Absent => return Some(None),
        Given::Refused => return None,
        Given::Value(located) => located,
    };
    let path = key("path", r#""/var/log/director/access.json""#);
    let path = report.require(&place, path, &raw.path, |text| {
        let path = value::file_in(directory)(text)?;
        let is_directory = text.ends_with('/') || path.is_dir();
        if is_directory || path.file_name().is_none() {
            return Err(Fault::new(format!("{} is a directory", quoted(text))));
        }
        Ok(path)
    });
    let mut reader = Reader {
        report,
        place: &place,
    };
    let one_in = reader.number(key("one_in", "100"), &raw.one_in, 1..=1_000_000);
    Some(Some(AccessLog {
        path: path?.value,
        one_in: one_in.value_or(1)?,
    }))
}

fn seal_key(
    report: &mut Report<'_>,
    edge: &Place,
    raw: &raw::http::Edge,
    directory: &Path,
) -> Given<SealKey> {
    let given = report.read(edge, SEAL_KEY_FILE, &raw.seal_key_file, |text| {
        let path = value::file_in(directory)(text)?;
        Ok((sealing(&path)?, path))
    });
    let Located { value, place } = match given {
        Given::Absent => return Given::Absent,
        Given::Refused => return Given::Refused,
        Given::Value(located) => located,
    };
    let (key, path): (SealKey, PathBuf) = value;
    let mode = fs::metadata(&path).map_or(0, |metadata| metadata.mode());
    if mode & 0o007 != 0 {
        let shown = quoted(&path.display().to_string());
        report.warning(
            &place,
            format!(
                "{shown} is open to every user of this host (mode {:03o})",
                mode & 0o777
            ),
            "let its owner alone read it: chmod 600",
        );
    }
    Given::Value(Located { value: key, place })
}

/// The key in a file: 32 bytes, or 64 digits and a line's end.
fn sealing(path: &Path) -> Result<SealKey, Fault> {
    let bytes = value::contents(path, 4096)?;
    if let Ok(key) = bytes.as_slice().try_into() {
        return Ok(SealKey(key));
    }
    let digits = bytes.trim_ascii();
    let mut key = [0; 32];
    if digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit) {
        for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
            *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        return Ok(SealKey(key));
    }
    let shown = quoted(&path.display().to_string());
    Err(Fault::new(format!(
        "{shown} has {} bytes, and a key is 32 bytes, or 64 hexadecimal digits",
        bytes.len()
    ))
    .help("make one with: head -c 32 /dev/urandom > seal.key; chmod 600 seal.key"))
}
