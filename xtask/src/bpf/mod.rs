//! `cargo xtask build-ebpf`: the BPF objects, which are committed so that users
//! need no BPF toolchain, and the check that they are what the sources say.

mod record;
mod toolchain;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::run;
use record::{Record, sha256, source_hash};
use toolchain::{Choice, Kind, TARGET, Toolchain};

/// The programs of director-ebpf.
const PROGRAMS: [&str; 2] = ["director-xdp", "director-xdp-bench"];
/// Tells the packet tests which object to load instead of the committed one.
const OBJECT_VARIABLE: &str = "DIRECTOR_BPF_OBJECT";

/// Arguments of `cargo xtask build-ebpf`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Compare with the committed objects instead of replacing them
    #[arg(long)]
    pub check: bool,
    /// The toolchain to build with; --check takes the recorded one when it is here
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    toolchain: Choice,
}

impl Args {
    /// What `cargo xtask test` runs.
    pub fn check() -> Self {
        Self {
            check: true,
            toolchain: Choice::Auto,
        }
    }
}

/// Builds, and installs or compares.
///
/// # Errors
/// When the build fails, or with `--check` the committed objects are not those
/// of the sources.
pub fn build(args: &Args) -> Result<()> {
    let root = run::workspace_root()?;
    if args.check {
        check(&root, args.toolchain)
    } else {
        install(&root, &Toolchain::find(args.toolchain)?)
    }
}

fn objects(root: &Path) -> PathBuf {
    root.join("director-ebpf/obj")
}

fn install(root: &Path, toolchain: &Toolchain) -> Result<()> {
    println!("building with {}", toolchain.versions);
    // Before the build, so that a source saved meanwhile is noticed by --check.
    let source_hash = source_hash(root)?;
    let to = objects(root);
    std::fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut record = Record {
        toolchain: toolchain.versions.clone(),
        source_hash,
        objects: Default::default(),
    };
    for (name, file) in compile(root, toolchain)? {
        let bytes = read(&file)?;
        let target = to.join(&name);
        std::fs::write(&target, &bytes)
            .with_context(|| format!("cannot write {}", target.display()))?;
        println!("{}: {} bytes", target.display(), bytes.len());
        record.objects.insert(name, sha256(&bytes));
    }
    record.write(&to.join("BUILD.json"))
}

/// Builds all programs and strips them; returns their names and files.
fn compile(root: &Path, toolchain: &Toolchain) -> Result<Vec<(String, PathBuf)>> {
    let target = target_dir(root);
    // First, so that the folders crates are unpacked in are there to be mapped.
    run::run(toolchain.cargo(root).args(["fetch", "--quiet", "--locked"]))?;
    let mut cargo = toolchain.cargo(root);
    cargo
        .args(["build", "--locked", "--package", "director-ebpf"])
        .args(["--features", "bpf", "--profile", "bpf"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .args(toolchain.build_args());
    for program in PROGRAMS {
        cargo.args(["--bin", program]);
    }
    run::run(&mut cargo)?;
    let built = target.join(TARGET).join("bpf");
    let mut files = Vec::new();
    for program in PROGRAMS {
        let name = format!("{program}.o");
        let stripped = target.join(&name);
        toolchain.strip(&built.join(program), &stripped)?;
        files.push((name, stripped));
    }
    Ok(files)
}

/// `target/bpf`, apart from the rest: another compiler writes there.
fn target_dir(root: &Path) -> PathBuf {
    run::target_dir(root).join("bpf")
}

fn check(root: &Path, choice: Choice) -> Result<()> {
    let committed = objects(root);
    let record = Record::read(&committed.join("BUILD.json"))?;
    check_sources(root, &record)?;
    check_objects(&committed, &record)?;
    let choice = match (choice, record.toolchain.kind) {
        (Choice::Auto, kind) if Toolchain::present(kind) => match kind {
            Kind::Debian => Choice::Debian,
            Kind::Rustup => Choice::Rustup,
        },
        (choice, _) => choice,
    };
    let toolchain = Toolchain::find(choice)?;
    let fresh = compile(root, &toolchain)?;
    if toolchain.versions == record.toolchain {
        for (name, file) in &fresh {
            if read(file)? != read(&committed.join(name))? {
                bail!(
                    "director-ebpf/obj/{name} is not what {} makes of the sources; \
                     run: cargo xtask build-ebpf",
                    toolchain.versions
                );
            }
        }
        println!("the committed objects are what the sources make, byte for byte");
        return Ok(());
    }
    println!(
        "the toolchain differs, so the objects are not compared but tested:\n  \
         committed: {}\n  here:      {}",
        record.toolchain, toolchain.versions
    );
    test_packets(root, &fresh)
}

fn check_sources(root: &Path, record: &Record) -> Result<()> {
    if source_hash(root)? != record.source_hash {
        bail!(
            "stale object: the sources of director-ebpf (or its profile, or the aya-ebpf \
             versions) changed since director-ebpf/obj was built; run: cargo xtask build-ebpf"
        );
    }
    Ok(())
}

/// The record is of the files beside it.
fn check_objects(committed: &Path, record: &Record) -> Result<()> {
    for program in PROGRAMS {
        let name = format!("{program}.o");
        let hash = sha256(&read(&committed.join(&name))?);
        if record.objects.get(&name) != Some(&hash) {
            bail!(
                "director-ebpf/obj/{name} is not the file its BUILD.json records; \
                 run: cargo xtask build-ebpf"
            );
        }
    }
    Ok(())
}

/// Runs the packet tests on a fresh object.
fn test_packets(root: &Path, fresh: &[(String, PathBuf)]) -> Result<()> {
    let (_, steering) = fresh.first().context("no program was built")?;
    run::run(
        run::cargo()
            .current_dir(root)
            .env(OBJECT_VARIABLE, steering)
            .args([
                "test",
                "--release",
                "--package",
                "director",
                "--test",
                "packets",
            ]),
    )
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    fn record(objects: &Path) -> Record {
        let hashes = PROGRAMS.map(|program| {
            let name = format!("{program}.o");
            std::fs::write(objects.join(&name), program).unwrap();
            (name, sha256(program.as_bytes()))
        });
        let text = serde_json::json!({
            "toolchain": {"kind": "debian", "rustc": "r", "llvm": "l", "bpf_linker": "b"},
            "source_hash": "none",
            "objects": std::collections::BTreeMap::from(hashes),
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_object_that_is_not_the_recorded_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let record = record(dir.path());
        check_objects(dir.path(), &record).unwrap();
        std::fs::write(dir.path().join("director-xdp.o"), "other").unwrap();
        let error = check_objects(dir.path(), &record).unwrap_err().to_string();
        assert!(error.contains("director-xdp.o"), "{error}");
    }

    #[test]
    fn changed_sources_make_the_object_stale() {
        let dir = tempfile::tempdir().unwrap();
        let record = record(dir.path());
        let error = check_sources(&run::workspace_root().unwrap(), &record).unwrap_err();
        assert!(error.to_string().starts_with("stale object"), "{error}");
    }

    #[test]
    fn a_record_survives_writing_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("BUILD.json");
        let written = record(dir.path());
        written.write(&file).unwrap();
        let read = Record::read(&file).unwrap();
        assert_eq!(read.objects, written.objects);
        assert_eq!(read.toolchain, written.toolchain);
    }

    #[test]
    fn a_missing_record_names_the_remedy() {
        let error = Record::read(Path::new("/nonexistent/BUILD.json")).unwrap_err();
        assert!(
            error.to_string().contains("cargo xtask build-ebpf"),
            "{error}"
        );
    }
}
