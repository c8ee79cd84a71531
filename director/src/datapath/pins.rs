//! Where state is kept in the BPF file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::object::MAPS;

/// The directory that holds an edge's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// When its parent is not in a BPF file system, with how to mount one.
    pub fn create(&self) -> Result<()> {
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        let kind = statfs(parent)
            .with_context(|| format!("{} cannot be read", parent.display()))?
            .filesystem_type();
        if kind != BPF_FS_MAGIC {
            bail!(
                "{} is not in a BPF file system\n  help: mount -t bpf bpf {}",
                self.root.display(),
                parent.display()
            );
        }
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("making {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn link(&self, interface: &str) -> PathBuf {
        // Dots are refused in names on a BPF file system.
        self.root
            .join(format!("link-{}", interface.replace('.', "_")))
    }

    /// Pinned links: all files that `link` could have named.
    pub fn links(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("link-"))
            .map(|entry| entry.path())
            .collect()
    }

    /// Removes every pin that this program makes, links first, and the
    /// directory. Returns what was removed.
    ///
    /// # Errors
    /// When a pin cannot be removed, or the directory holds something else.
    pub fn remove(&self) -> Result<Vec<PathBuf>> {
        let maps = MAPS
            .iter()
            .chain(&["DECAP", "DECAPPED"])
            .map(|name| self.map(name));
        let mut removed = Vec::new();
        for path in self.links().into_iter().chain(maps) {
            match fs::remove_file(&path) {
                Ok(()) => removed.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(format!("removing {}", path.display())),
            }
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.root.display()))?;
            }
            _ => {}
        }
        Ok(removed)
    }
}
