//! `cargo xtask tidy`: the house rules that neither rustc nor clippy knows.
//!
//! Each rule is a function from a file to findings; they are in [`text`] (any
//! file), [`imports`] (who may use what) and [`manifest`] (packages).

mod imports;
mod manifest;
mod paths;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use walkdir::{DirEntry, WalkDir};

use crate::run;

/// Folders of what `cargo xtask fuzz` found.
const FOUND: [&str; 2] = ["fuzz/corpus", "fuzz/regressions"];

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the workspace.
    file: PathBuf,
    /// From 1.
    line: usize,
    message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)
    }
}

/// A file under check.
struct Source<'a> {
    /// Relative to the workspace.
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding {
            file: self.path.to_owned(),
            line,
            message: message.into(),
        }
    }

    fn is_rust(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    fn is_manifest(&self) -> bool {
        self.path
            .file_name()
            .is_some_and(|name| name == "Cargo.toml")
    }
}

/// Checks every file of the workspace and prints all findings.
///
/// # Errors
/// When there is one, or a file cannot be read.
pub fn run() -> Result<()> {
    let root = run::workspace_root()?;
    let mut findings = Vec::new();
    let files = files(&root)?;
    for path in &files {
        // What a fuzzer made, of which some is text by chance.
        if FOUND.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let bytes = std::fs::read(root.join(path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        // Objects, captures, pictures: no rule is about these.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        findings.extend(check(&Source { path, text: &text }));
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in {} files", findings.len(), files.len());
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = text::check(source);
    if source.is_rust() {
        findings.extend(imports::check(source));
    }
    if source.is_manifest() {
        findings.extend(manifest::check(source));
    }
    findings
}

/// What git would commit; without git, everything but build output.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    if let Ok(list) = run::capture(&mut git) {
        let names = list.split('\0').filter(|name| !name.is_empty());
        // A file that was deleted but not yet committed is still in the list.
        return Ok(names
            .map(PathBuf::from)
            .filter(|path| root.join(path).is_file())
            .collect());
    }
    let kept = |entry: &DirEntry| {
        let name = entry.file_name();
        name != "target" && name != ".git"
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(root).into_iter().filter_entry(kept) {
        let entry = entry.context("cannot list the workspace")?;
        if entry.file_type().is_file()
            && let Ok(path) = entry.path().strip_prefix(root)
        {
            files.push(path.to_owned());
        }
    }
    Ok(files)
}

/// Findings in a made-up file, as `line: message`.
#[cfg(test)]
fn found(path: &str, text: &str) -> Vec<String> {
    let source = Source {
        path: Path::new(path),
        text,
    };
    check(&source)
        .iter()
        .map(|finding| format!("{}: {}", finding.line, finding.message))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn build_output_is_not_checked() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["Cargo.toml", "target/x.rs", "a/src/lib.rs"] {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "x").unwrap();
        }
        let mut files = files(dir.path()).unwrap();
        files.sort();
        assert_eq!(files, [Path::new("Cargo.toml"), Path::new("a/src/lib.rs")]);
    }

    #[test]
    fn findings_name_file_and_line() {
        let finding = Finding {
            file: "director/src/net.rs".into(),
            line: 7,
            message: "no".to_owned(),
        };
        assert_eq!(finding.to_string(), "director/src/net.rs:7: no");
    }
}
