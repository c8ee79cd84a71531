//! The counters of one drill server, in a file that outlives the process.
//!
//! A drill kills its servers with SIGKILL and then compares what they had
//! counted with what the client saw, so the counters live in a shared mapping
//! of a file: the kernel keeps the last store whatever became of the process.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use memmap2::{MmapMut, MmapOptions};

/// First word of the file: the bytes `drillsrv` read as a native-endian word.
const MAGIC: u64 = u64::from_ne_bytes(*b"drillsrv");
/// Raised whenever a field is added, moved or given another meaning.
const VERSION: u64 = 2;
/// Words of the file: magic, version, one for each counter, then the conduct.
const WORDS: usize = 2 + COUNTERS + 1;
const COUNTERS: usize = 6;
/// The word that says how to answer.
const CONDUCT: usize = 2 + COUNTERS;
/// The conduct's word of [`Conduct::Failing`]; smaller ones are milliseconds.
const FAILING: u64 = u64::MAX;

/// How a server answers all but health checks. It is in the same file, so that
/// it can be told at any time, and stands over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// At once, with its name.
    Well,
    /// At once, with status 500.
    Failing,
    /// With its name, after this time (to the millisecond).
    Slow(Duration),
}

/// One of the counters; the discriminant is its word after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Connections accepted, of clients and probes alike.
    Accepted = 0,
    /// Connections that ended, for whatever reason.
    Closed = 1,
    /// Requests of clients answered with the server's name: not `GET /health`.
    Answered = 2,
    /// Requests for `/health` answered.
    HealthAnswered = 3,
    /// Connections that asked for `/health`.
    ProbeConnections = 4,
    /// Connections that ended without a request: TCP probes, and clients that gave up.
    SilentConnections = 5,
}

/// A copy of all counters, read one by one (not as one snapshot).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// See [`Counter::Accepted`].
    pub accepted: u64,
    /// See [`Counter::Closed`].
    pub closed: u64,
    /// See [`Counter::Answered`].
    pub answered: u64,
    /// See [`Counter::HealthAnswered`].
    pub health_answered: u64,
    /// See [`Counter::ProbeConnections`].
    pub probe_connections: u64,
    /// See [`Counter::SilentConnections`].
    pub silent_connections: u64,
}

/// The mapped counters of one server.
#[derive(Debug)]
pub struct Stats {
    map: MmapMut,
}

impl Stats {
    /// Opens `path` for counting, and creates it when it is absent or empty.
    ///
    /// A file that holds counters already is continued: a server restarted
    /// after a fault counts on where the killed one stopped.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped, or is of another layout.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot open the stats file {}", path.display()))?;
        let fresh = file.metadata()?.len() == 0;
        if fresh {
            file.set_len(bytes_of(WORDS))?;
        }
        let stats = Self::map(&file, path)?;
        if fresh {
            stats.word(1).store(VERSION, Ordering::Relaxed);
            // Last, so that a reader never takes a half-written header for good.
            stats.word(0).store(MAGIC, Ordering::Release);
        }
        stats.verify(path)?;
        Ok(stats)
    }

    /// Reads the counters in `path`, of a server that runs or has ended.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a stats file of this layout.
    pub fn read(path: &Path) -> anyhow::Result<Snapshot> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the stats file {}", path.display()))?;
        let stats = Self::map(&file, path)?;
        stats.verify(path)?;
        Ok(stats.snapshot())
    }

    /// Adds one to `counter`.
    pub fn count(&self, counter: Counter) {
        self.word(2 + counter as usize)
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Has the server of this file answer so from now on.
    pub fn conduct(&self, conduct: Conduct) {
        let word = match conduct {
            Conduct::Well => 0,
            Conduct::Failing => FAILING,
            Conduct::Slow(by) => u64::try_from(by.as_millis()).unwrap_or(FAILING - 1),
        };
        self.word(CONDUCT).store(word, Ordering::Relaxed);
    }

    /// How the server is to answer.
    #[must_use]
    pub fn conducted(&self) -> Conduct {
        match self.word(CONDUCT).load(Ordering::Relaxed) {
            0 => Conduct::Well,
            FAILING => Conduct::Failing,
            ms => Conduct::Slow(Duration::from_millis(ms)),
        }
    }

    /// The counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: Counter| self.word(2 + counter as usize).load(Ordering::Relaxed);
        Snapshot {
            accepted: read(Counter::Accepted),
            closed: read(Counter::Closed),
            answered: read(Counter::Answered),
            health_answered: read(Counter::HealthAnswered),
            probe_connections: read(Counter::ProbeConnections),
            silent_connections: read(Counter::SilentConnections),
        }
    }

    fn map(file: &File, path: &Path) -> anyhow::Result<Self> {
        let found = file.metadata()?.len();
        if found != bytes_of(WORDS) {
            bail!(
                "{} is not a drill server's stats file: {found} bytes instead of {}",
                path.display(),
                bytes_of(WORDS)
            );
        }
        // SAFETY: the file is as long as the mapping (checked above) and no
        // one shortens it; every access goes through atomics, so that another
        // process writing the same file is no data race.
        let map = unsafe { MmapOptions::new().len(WORDS * 8).map_mut(file) }
            .with_context(|| format!("cannot map the stats file {}", path.display()))?;
        Ok(Self { map })
    }

    fn verify(&self, path: &Path) -> anyhow::Result<()> {
        let magic = self.word(0).load(Ordering::Acquire);
        let version = self.word(1).load(Ordering::Relaxed);
        if magic != MAGIC || version != VERSION {
            bail!(
                "{} is not a drill server's stats file of version {VERSION}; \
                 remove it and start the server again",
                path.display()
            );
        }
        Ok(())
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS);
        // SAFETY: the mapping is WORDS words long (checked when it was made),
        // page-aligned, and lives as long as `self`; the words are only ever
        // touched as atomics.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(index) }
    }
}

const fn bytes_of(words: usize) -> u64 {
    (words * 8) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn counters_survive_the_process_that_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.stats");
        let first = Stats::open(&path).unwrap();
        first.count(Counter::Accepted);
        first.count(Counter::Answered);
        // Forgotten, not dropped: as after SIGKILL, nothing gets to flush.
        std::mem::forget(first);

        let second = Stats::open(&path).unwrap();
        second.count(Counter::Answered);
        second.count(Counter::SilentConnections);
        let seen = Stats::read(&path).unwrap();
        assert_eq!(seen, second.snapshot());
        assert_eq!(
            seen,
            Snapshot {
                accepted: 1,
                answered: 2,
                silent_connections: 1,
                ..Snapshot::default()
            }
        );
    }

    #[test]
    fn the_conduct_reaches_whoever_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.stats");
        let server = Stats::open(&path).unwrap();
        assert_eq!(server.conducted(), Conduct::Well);
        let slow = Conduct::Slow(Duration::from_millis(800));
        for conduct in [Conduct::Failing, slow, Conduct::Well] {
            Stats::open(&path).unwrap().conduct(conduct);
            assert_eq!(server.conducted(), conduct);
        }
        assert_eq!(server.snapshot(), Snapshot::default());
    }

    #[test]
    fn a_foreign_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("foreign");
        for content in [vec![1_u8; 3], vec![0; WORDS * 8], vec![7; WORDS * 8 + 1]] {
            std::fs::write(&path, &content).unwrap();
            let error = Stats::open(&path).unwrap_err().to_string();
            assert!(error.contains("not a drill server's stats file"), "{error}");
            assert!(Stats::read(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert!(Stats::read(&dir.path().join("absent")).is_err());
    }
}
