//! Which requests one drill server carried out, in a file that outlives the
//! process: how often, by the number that the client gave each.
//!
//! As with the counters ([`super::stats`]), the kernel keeps the last store of a
//! shared mapping whatever becomes of the process.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, bail};
use memmap2::{MmapMut, MmapOptions};

/// Requests that can be told apart; a minute's drill has some hundred thousand.
/// The file is sparse, and as large as what is used of it.
const MOST: usize = 1 << 24;
/// What the path of a request with a number begins with.
const PATH: &str = "/drill/";

/// The number in a request's path, if there is one.
#[must_use]
pub fn of_path(path: &str) -> Option<u32> {
    path.strip_prefix(PATH)?.parse().ok()
}

/// The path of request `id`.
#[must_use]
pub fn path(id: u32) -> String {
    format!("{PATH}{id}")
}

/// A byte for each request: how often it was carried out.
#[derive(Debug)]
pub struct Ids {
    map: MmapMut,
}

impl Ids {
    /// Opens `path` for noting, and creates it when it is absent or empty. What
    /// it holds stays.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped, or has another length.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the file of requests {shown}"))?;
        if file.metadata()?.len() == 0 {
            file.set_len(MOST as u64)?;
        }
        let found = file.metadata()?.len();
        if found != MOST as u64 {
            bail!("{shown} is no drill server's file of requests: {found} bytes instead of {MOST}");
        }
        // SAFETY: the file is as long as the mapping (checked above) and no one
        // shortens it; every access goes through atomics, so that another process
        // writing the same file is no data race.
        let map = unsafe { MmapOptions::new().len(MOST).map_mut(&file) }
            .with_context(|| format!("cannot map the file of requests {shown}"))?;
        Ok(Self { map })
    }

    /// Notes that request `id` was carried out; beyond what the file holds, nothing.
    pub fn note(&self, id: u32) {
        if let Some(times) = self.times().get(id as usize) {
            let more = |times: u8| times.checked_add(1);
            // At 255 it stands.
            let _ = times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        }
    }

    /// How often each request was carried out, up to the last one noted.
    #[must_use]
    pub fn noted(&self) -> Vec<u8> {
        let mut noted: Vec<u8> = self
            .times()
            .iter()
            .map(|times| times.load(Ordering::Relaxed))
            .collect();
        let used = noted.iter().rposition(|times| *times != 0);
        noted.truncate(used.map_or(0, |last| last + 1));
        noted
    }

    fn times(&self) -> &[AtomicU8] {
        // SAFETY: the mapping is MOST bytes long (checked when it was made) and
        // lives as long as `self`; an AtomicU8 is laid out as a u8, and the bytes
        // are only ever touched as atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), MOST) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn what_was_carried_out_survives_the_process_that_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ids");
        let first = Ids::open(&path).unwrap();
        first.note(3);
        first.note(3);
        // Forgotten, not dropped: as after SIGKILL, nothing gets to flush.
        std::mem::forget(first);
        let second = Ids::open(&path).unwrap();
        second.note(1);
        second.note(u32::MAX);
        assert_eq!(Ids::open(&path).unwrap().noted(), [0, 1, 0, 2]);
        for _ in 0..300 {
            second.note(0);
        }
        assert_eq!(second.noted()[0], u8::MAX);
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("foreign");
        std::fs::write(&path, b"text").unwrap();
        let error = Ids::open(&path).unwrap_err().to_string();
        assert!(error.contains("no drill server's file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn a_number_goes_into_a_path_and_comes_out() {
        assert_eq!(of_path(&path(17)), Some(17));
        for other in ["/drill", "/drill/", "/drill/x", "/health", "/drill/-1"] {
            assert_eq!(of_path(other), None, "{other}");
        }
    }
}
