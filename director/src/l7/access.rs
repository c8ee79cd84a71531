//! The access log: one JSON object a line, written by a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use director_core::l7;
use serde::Serialize;

/// Entries that wait to be written; beyond, they are lost and counted.
const WAITING: usize = 16_384;
/// How long an entry may stay in memory.
const FLUSH: Duration = Duration::from_secs(1);

/// What became of a request.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub time_unix_ms: u64,
    pub service: Arc<str>,
    pub route: Option<Arc<str>>,
    pub client: String,
    pub method: String,
    pub host: String,
    pub path: String,
    pub version: &'static str,
    /// 0: the client left first.
    pub status: u16,
    pub request_bytes: usize,
    pub response_bytes: usize,
    pub duration_ms: f64,
    pub site: Option<Arc<str>>,
    pub endpoint: Option<Arc<str>>,
    /// How often servers were asked.
    pub tries: u8,
    /// What kept it from a server's answer.
    pub why: Option<String>,
    pub request_id: String,
    pub tls: Option<&'static str>,
}

/// Where entries go.
pub struct AccessLog {
    config: l7::AccessLog,
    entries: SyncSender<Entry>,
    seen: AtomicU64,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the file, and writes to it from now on.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(config: &l7::AccessLog) -> Result<Self> {
        let file = open(&config.path)?;
        let (entries, receiver) = sync_channel(WAITING);
        let path = config.path.clone();
        let lost = Arc::<AtomicU64>::default();
        let told = lost.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&receiver, file, &path, &told))
            .context("starting the thread of the access log")?;
        Ok(Self {
            config: config.clone(),
            entries,
            seen: AtomicU64::new(0),
            lost,
        })
    }

    pub fn config(&self) -> &l7::AccessLog {
        &self.config
    }

    /// Whether a request is written. Those that failed always are.
    pub fn takes(&self, failed: bool) -> bool {
        let one_in = u64::from(self.config.one_in.max(1));
        failed
            || self
                .seen
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(one_in)
    }

    /// Writes an entry, unless too many wait.
    pub fn add(&self, entry: Entry) {
        if self.entries.try_send(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn open(path: &PathBuf) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening the access log {}", path.display()))
}

/// Writes entries until nobody can send more. A file that was moved away is made
/// anew, so that logs can be rotated.
fn write(entries: &Receiver<Entry>, file: File, path: &PathBuf, lost: &AtomicU64) {
    let mut out = BufWriter::with_capacity(64 * 1024, file);
    let mut flushed = Instant::now();
    loop {
        match entries.recv_timeout(FLUSH) {
            Ok(entry) => {
                if serde_json::to_writer(&mut out, &entry).is_err() || out.write_all(b"\n").is_err()
                {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if flushed.elapsed() < FLUSH {
            continue;
        }
        flushed = Instant::now();
        if let Err(error) = out.flush() {
            tracing::warn!("the access log {}: {error}", path.display());
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!("{lost} lines of the access log were lost: the disk is too slow");
        }
        if !path.exists() {
            match open(path) {
                Ok(file) => out = BufWriter::with_capacity(64 * 1024, file),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }
    let _ = out.flush();
}
