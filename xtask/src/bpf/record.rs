//! `obj/BUILD.json`: what the committed objects were made from and with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use super::toolchain::Versions;

/// The record beside the committed objects.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The toolchain that made the objects.
    pub toolchain: Versions,
    /// [`source_hash`] of the sources they were made from.
    pub source_hash: String,
    /// File name to SHA-256 of each object.
    pub objects: BTreeMap<String, String>,
}

impl Record {
    /// # Errors
    /// When the file is missing or is not a record.
    pub fn read(file: &Path) -> Result<Self> {
        let hint = "run: cargo xtask build-ebpf";
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}; {hint}", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a build record; {hint}", file.display()))
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("cannot format the record")?;
        text.push('\n');
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A hash over everything in the repository that decides what the objects hold:
/// the sources and manifest of director-ebpf, the build profiles, and the locked
/// versions of the aya-ebpf crates.
///
/// # Errors
/// When a file cannot be read or a manifest is not TOML.
pub fn source_hash(root: &Path) -> Result<String> {
    let package = root.join("director-ebpf");
    let mut files: Vec<PathBuf> = vec![package.join("Cargo.toml")];
    for entry in WalkDir::new(package.join("src")) {
        let entry = entry.context("cannot list the BPF sources")?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file);
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        part(&mut hash, name.to_string_lossy().as_bytes());
        part(&mut hash, &bytes);
    }
    part(
        &mut hash,
        profiles(&read_toml(&root.join("Cargo.toml"))?).as_bytes(),
    );
    part(
        &mut hash,
        locked(&read_toml(&root.join("Cargo.lock"))?).as_bytes(),
    );
    Ok(hexadecimal(&hash.finalize()))
}

/// The length goes first, so that no two sequences of parts look alike.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn read_toml(file: &Path) -> Result<toml::Table> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.parse()
        .with_context(|| format!("{} is not TOML", file.display()))
}

/// The build profiles that the BPF build uses, in a fixed order.
fn profiles(manifest: &toml::Table) -> String {
    let profile = manifest.get("profile").and_then(toml::Value::as_table);
    ["release", "bpf"]
        .iter()
        .map(|name| {
            let settings = profile.and_then(|p| p.get(*name));
            format!(
                "{name} = {}\n",
                settings.map(ToString::to_string).unwrap_or_default()
            )
        })
        .collect()
}

/// Name, version and checksum of every locked aya-ebpf crate.
fn locked(lock: &toml::Table) -> String {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, key: &str| {
        package
            .get(key)
            .and_then(toml::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    packages
        .into_iter()
        .flatten()
        .filter(|package| text(package, "name").starts_with("aya-ebpf"))
        .map(|package| {
            let [name, version, checksum] =
                ["name", "version", "checksum"].map(|key| text(package, key));
            format!("{name} {version} {checksum}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    const MANIFEST: &str =
        "[workspace]\n[profile.release]\ndebug = 1\n[profile.bpf]\ninherits = \"release\"\n";
    const LOCK: &str = "[[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"aa\"\n\
                        [[package]]\nname = \"tokio\"\nversion = \"1.0.0\"\n";

    fn checkout() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("director-ebpf/src/bpf")).unwrap();
        std::fs::write(root.join("director-ebpf/Cargo.toml"), "[package]").unwrap();
        std::fs::write(root.join("director-ebpf/src/lib.rs"), "a").unwrap();
        std::fs::write(root.join("director-ebpf/src/bpf/main.rs"), "b").unwrap();
        std::fs::write(root.join("Cargo.toml"), MANIFEST).unwrap();
        std::fs::write(root.join("Cargo.lock"), LOCK).unwrap();
        dir
    }

    fn hash_after(file: &str, text: &str) -> String {
        let dir = checkout();
        std::fs::write(dir.path().join(file), text).unwrap();
        source_hash(dir.path()).unwrap()
    }

    #[test]
    fn the_hash_is_of_contents_not_of_the_folder() {
        let (one, two) = (checkout(), checkout());
        assert_eq!(
            source_hash(one.path()).unwrap(),
            source_hash(two.path()).unwrap()
        );
    }

    #[test]
    fn whatever_decides_the_object_changes_the_hash() {
        let before = source_hash(checkout().path()).unwrap();
        for (file, text) in [
            ("director-ebpf/src/lib.rs", "changed".to_owned()),
            ("director-ebpf/src/new.rs", "a".to_owned()),
            ("director-ebpf/Cargo.toml", "[package]\n".to_owned()),
            ("Cargo.toml", MANIFEST.replace("debug = 1", "debug = 2")),
            ("Cargo.lock", LOCK.replace("0.2.1", "0.2.2")),
        ] {
            assert_ne!(hash_after(file, &text), before, "{file}");
        }
        let other_crate = LOCK.replace("1.0.0", "1.0.1");
        assert_eq!(hash_after("Cargo.lock", &other_crate), before);
    }

    #[test]
    fn a_known_digest() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
    }
}
