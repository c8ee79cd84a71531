//! Whether files have changed.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use director_core::l7::{Tls, UpstreamTls};

/// Files, and what they looked like. To be made before the files are read: a change
/// between the two is then seen by the next look.
#[derive(Clone, Debug)]
pub struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What differs after a file was written, replaced, or a link to it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same, of the last change of contents or permissions. No program sets it.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|metadata: Metadata| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Watch {
    /// Looks at files for the first time. One that cannot be looked at counts as
    /// changed once it can.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter().map(|file| {
            let stamp = Stamp::of(&file);
            (file, stamp)
        });
        Self {
            files: files.collect(),
        }
    }

    /// Looks again; whether any file has changed since the last look. A system call
    /// for each file.
    pub fn changed(&mut self) -> bool {
        let mut any = false;
        for (file, stamp) in &mut self.files {
            let now = Stamp::of(file);
            any |= now != *stamp;
            *stamp = now;
        }
        any
    }
}

/// All files of a listener.
pub fn files(tls: &Tls) -> impl Iterator<Item = PathBuf> {
    let own = tls.certificates.iter();
    let own = own.flat_map(|files| [&files.certificate, &files.key]);
    own.chain(tls.client_auth.iter().map(|auth| &auth.ca))
        .cloned()
}

/// All files of an upstream.
pub fn upstream_files(tls: &UpstreamTls) -> impl Iterator<Item = PathBuf> {
    let own = tls.client.iter();
    let own = own.flat_map(|files| [&files.certificate, &files.key]);
    own.chain(&tls.ca).cloned()
}
