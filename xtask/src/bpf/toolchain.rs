//! The compilers that can make BPF objects: rustup's nightly with `rust-src`, or
//! Debian's packages, which carry a compiled `core` for the BPF target.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{prereq, run};

/// The BPF target, little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// Which toolchain is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// rustup's nightly when it has rust-src and bpf-linker is there, else Debian's.
    Auto,
    /// Debian's packages; the committed objects are made with these.
    Debian,
    /// rustup's nightly toolchain with the rust-src component.
    Rustup,
}

/// A kind of toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Debian's packages.
    Debian,
    /// rustup's nightly.
    Rustup,
}

/// The versions that decide which instructions come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The kind of toolchain.
    pub kind: Kind,
    /// First line of `rustc --version`.
    pub rustc: String,
    /// The LLVM that generates the code.
    pub llvm: String,
    /// `bpf-linker --version`.
    pub bpf_linker: String,
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            rustc,
            llvm,
            bpf_linker,
        } = self;
        write!(f, "{kind:?}: {rustc}, LLVM {llvm}, {bpf_linker}")
    }
}

/// A toolchain that is here and complete.
#[derive(Debug)]
pub struct Toolchain {
    linker: PathBuf,
    /// Where the compiler's own sources are, when it compiles them.
    sysroot: Option<PathBuf>,
    objcopy: PathBuf,
    /// What it is made of.
    pub versions: Versions,
}

impl Toolchain {
    /// Finds the toolchain, installing Debian's when that is the choice.
    ///
    /// # Errors
    /// When it cannot be had; the message says what is missing.
    pub fn find(choice: Choice) -> Result<Self> {
        match choice {
            Choice::Rustup => Self::rustup(),
            Choice::Debian => Self::debian(),
            Choice::Auto if rustup_is_complete() => Self::rustup(),
            Choice::Auto => Self::debian(),
        }
    }

    /// The toolchain of a recorded kind when it is here, without installing it.
    pub fn present(kind: Kind) -> bool {
        let linker = run::find_program("bpf-linker").is_some();
        match kind {
            Kind::Rustup => rustup_is_complete(),
            Kind::Debian => linker && prereq::has_debian_bpf_toolchain(),
        }
    }

    fn debian() -> Result<Self> {
        prereq::debian_bpf_toolchain()?;
        let linker = prereq::bpf_linker()?;
        let bin = Path::new(prereq::DEBIAN_LLVM).join("bin");
        let versions = Versions {
            kind: Kind::Debian,
            rustc: run::capture(Command::new("/usr/bin/rustc").arg("--version"))?,
            llvm: run::capture(Command::new(bin.join("llvm-config")).arg("--version"))?,
            bpf_linker: run::capture(Command::new(&linker).arg("--version"))?,
        };
        Ok(Self {
            linker,
            sysroot: None,
            objcopy: bin.join("llvm-objcopy"),
            versions,
        })
    }

    fn rustup() -> Result<Self> {
        let Some(sysroot) = nightly_sysroot() else {
            bail!("rustup has no nightly toolchain; run: rustup toolchain install nightly");
        };
        if !has_rust_src(&sysroot) {
            bail!(
                "rustup's nightly lacks rust-src; run: rustup component add rust-src --toolchain nightly"
            );
        }
        let linker = run::find_program("bpf-linker")
            .context("bpf-linker is missing; run: cargo install bpf-linker")?;
        let rustc = sysroot.join("bin/rustc");
        let verbose = run::capture(Command::new(&rustc).arg("-vV"))?;
        let line = |prefix| {
            verbose
                .lines()
                .find_map(|line: &str| line.strip_prefix(prefix))
        };
        let versions = Versions {
            kind: Kind::Rustup,
            rustc: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm: line("LLVM version: ").unwrap_or_default().to_owned(),
            bpf_linker: run::capture(Command::new(&linker).arg("--version"))?,
        };
        let host = line("host: ").unwrap_or_default();
        Ok(Self {
            linker,
            objcopy: find_objcopy(&sysroot.join("lib/rustlib").join(host).join("bin"))?,
            sysroot: Some(sysroot),
            versions,
        })
    }

    /// A `cargo` set up to compile for the BPF target in the workspace at `root`.
    pub fn cargo(&self, root: &Path) -> Command {
        let mut command = match self.versions.kind {
            Kind::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc");
                command
            }
            Kind::Rustup => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", "nightly", "cargo"])
                    .env_remove("RUSTC");
                command
            }
        };
        command
            .current_dir(root)
            // What a surrounding cargo sets for its own toolchain.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTFLAGS")
            // Debian's compiler is a stable one, and the BPF target needs the
            // unstable `bpf_target_arch` and build-script features of aya-ebpf.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(root));
        command
    }

    fn rustflags(&self, root: &Path) -> String {
        let mut folders = vec![(root.to_owned(), "director")];
        folders.extend(registries().into_iter().map(|folder| (folder, "crates")));
        folders.extend(self.sysroot.clone().map(|folder| (folder, "rust")));
        rustflags(&folders)
    }

    /// Arguments of [`Toolchain::cargo`] after `build`.
    pub fn build_args(&self) -> &'static [&'static str] {
        match self.versions.kind {
            Kind::Debian => &[],
            Kind::Rustup => &["-Z", "build-std=core"],
        }
    }

    /// Copies `from` to `to` without debug sections. BTF, which the kernel reads, stays.
    ///
    /// # Errors
    /// When llvm-objcopy fails.
    pub fn strip(&self, from: &Path, to: &Path) -> Result<()> {
        run::run(
            Command::new(&self.objcopy)
                .arg("--strip-debug")
                .args([from, to]),
        )
    }
}

/// Debug information becomes BTF, which names source files: their folders are
/// mapped to fixed names, so that objects built on two machines are the same.
fn rustflags(folders: &[(PathBuf, &str)]) -> String {
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        // 32-bit and unsigned-compare instructions: Linux 5.1 and later.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    flags.extend(
        folders
            .iter()
            .map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display())),
    );
    flags.join("\x1f")
}

/// Where cargo unpacks crates: one folder per registry, named after its address.
fn registries() -> Vec<PathBuf> {
    let Some(home) = run::cargo_home() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(home.join("registry/src"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

fn rustup_is_complete() -> bool {
    run::find_program("bpf-linker").is_some()
        && nightly_sysroot().is_some_and(|sysroot| has_rust_src(&sysroot))
}

fn nightly_sysroot() -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    run::capture(&mut command).ok().map(PathBuf::from)
}

fn has_rust_src(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
}

/// llvm-objcopy of rustup's llvm-tools, of the system, or of cargo-binutils.
fn find_objcopy(llvm_tools: &Path) -> Result<PathBuf> {
    let own = llvm_tools.join("llvm-objcopy");
    if own.is_file() {
        return Ok(own);
    }
    let system = Path::new(prereq::DEBIAN_LLVM).join("bin/llvm-objcopy");
    if system.is_file() {
        return Ok(system);
    }
    run::find_program("llvm-objcopy")
        .or_else(|| run::find_program("rust-objcopy"))
        .context(
            "llvm-objcopy is missing; run: rustup component add llvm-tools --toolchain nightly",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_mapped_to_a_fixed_name() {
        let flags = rustflags(&[
            (PathBuf::from("/some where/checkout"), "director"),
            (PathBuf::from("/h/registry/src/x-1"), "crates"),
        ]);
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert!(flags.contains(&"--remap-path-prefix=/some where/checkout=director"));
        assert!(flags.contains(&"--remap-path-prefix=/h/registry/src/x-1=crates"));
    }
}
