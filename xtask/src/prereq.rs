//! What the chores need of the machine: Debian packages, privileges, kernel
//! features. As root, missing packages are installed; otherwise the command that
//! installs them is printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};
use walkdir::WalkDir;

use crate::run;

/// The bpf-linker the committed objects are linked with.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// Where Debian's LLVM 22 lives.
pub const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// What Debian's BPF toolchain consists of (besides bpf-linker).
const DEBIAN_BPF: [&str; 6] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22",
    "llvm-22-dev",
    "libpolly-22-dev",
];

/// Capabilities a lab cannot do without: bit number and name (capability.h).
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// The tools that make a lab's network.
///
/// # Errors
/// When a package is missing and cannot be installed.
pub fn lab_tools() -> Result<()> {
    programs("the lab", &[("ip", "iproute2"), ("ethtool", "ethtool")])
}

/// What the tests use beyond the lab's tools.
///
/// # Errors
/// When a package is missing and cannot be installed.
pub fn test_tools() -> Result<()> {
    programs("the tests", &[("tcpdump", "tcpdump")])
}

/// The proxies that ours is compared with, and what loads them.
///
/// # Errors
/// When a package is missing and cannot be installed.
pub fn proxies() -> Result<()> {
    let tools = [
        ("curl", "curl"),
        ("h2load", "nghttp2-client"),
        ("haproxy", "haproxy"),
        ("ip", "iproute2"),
        ("nginx", "nginx"),
        ("wrk", "wrk"),
    ];
    programs("the benchmark of proxies", &tools)
}

/// Installs the packages of programs that are not there.
fn programs(purpose: &str, programs: &[(&str, &'static str)]) -> Result<()> {
    let missing = programs
        .iter()
        .filter(|(program, _)| run::find_program(program).is_none())
        .map(|(_, package)| *package);
    install(purpose, &missing.collect::<Vec<_>>())
}

/// A font for the pictures a drill writes.
///
/// # Errors
/// When there is none and the package cannot be installed.
pub fn fonts() -> Result<()> {
    let mut folders = ["/usr/share/fonts", "/usr/local/share/fonts"]
        .map(PathBuf::from)
        .to_vec();
    folders.extend(std::env::home_dir().map(|home| home.join(".fonts")));
    folders.extend(std::env::home_dir().map(|home| home.join(".local/share/fonts")));
    let is_font = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("ttf") || e.eq_ignore_ascii_case("otf"))
    };
    let found = folders
        .iter()
        .flat_map(WalkDir::new)
        .flatten()
        .any(|entry| is_font(entry.path()));
    if found {
        return Ok(());
    }
    install("the drill's pictures", &["fonts-dejavu-core"])
}

/// What libFuzzer, which is C++, is built with.
///
/// # Errors
/// When there is none and the package cannot be installed.
pub fn cxx_compiler() -> Result<()> {
    match run::find_program("c++") {
        Some(_) => Ok(()),
        None => install("the fuzzer", &["g++"]),
    }
}

/// Debian's BPF toolchain, without bpf-linker.
///
/// # Errors
/// When a package is missing and cannot be installed.
pub fn debian_bpf_toolchain() -> Result<()> {
    let missing = DEBIAN_BPF
        .into_iter()
        .filter(|package| !is_installed(package));
    install("building the BPF programs", &missing.collect::<Vec<_>>())
}

/// Whether Debian's BPF toolchain is here in full, without bpf-linker.
pub fn has_debian_bpf_toolchain() -> bool {
    DEBIAN_BPF.into_iter().all(is_installed)
}

/// The path of bpf-linker, which is installed with `cargo install` when missing
/// (it links against the LLVM of [`debian_bpf_toolchain`], which must be there).
///
/// # Errors
/// When it is missing and does not build.
pub fn bpf_linker() -> Result<PathBuf> {
    if let Some(path) = run::find_program("bpf-linker") {
        return Ok(path);
    }
    println!(
        "installing bpf-linker {BPF_LINKER_VERSION} with cargo install (takes about 2 minutes)"
    );
    run::run(
        run::cargo()
            .env("LLVM_PREFIX", DEBIAN_LLVM)
            .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION])
            .args(["--locked", "--no-default-features", "--features", "llvm-22"]),
    )?;
    run::find_program("bpf-linker")
        .context("bpf-linker was installed but is in neither PATH nor cargo's bin folder")
}

fn is_installed(package: &str) -> bool {
    run::capture(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Installs Debian packages, or says how to.
fn install(purpose: &str, packages: &[&str]) -> Result<()> {
    static UPDATED: AtomicBool = AtomicBool::new(false);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if run::find_program("apt-get").is_none() {
        bail!(
            "{purpose} needs what Debian packages as {list}; there is no apt-get here: \
             install them with your system's package manager"
        );
    }
    let command = format!("apt-get install -y --no-install-recommends {list}");
    if !nix::unistd::geteuid().is_root() {
        bail!("{purpose} needs {list}; run: sudo apt-get update && sudo {command}");
    }
    println!("installing for {purpose}: {list}");
    if !UPDATED.swap(true, Ordering::SeqCst)
        && let Err(error) = run::run(apt_get().args(["-q", "update"]))
    {
        // Older package lists may still do.
        eprintln!("{error}; trying with the package lists at hand");
    }
    run::run(
        apt_get()
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages),
    )
    .with_context(|| format!("{purpose} needs {list}; try: {command}"))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Privileges and kernel features a lab needs.
///
/// # Errors
/// What is missing and what mends it.
pub fn kernel() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        bail!(
            "this makes network namespaces and loads BPF programs: run it as root \
             (missing: {})",
            missing.join(", ")
        );
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel carries no type information (/sys/kernel/btf/vmlinux): \
             use one built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are"
        );
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("\tbpf")) {
        bail!("this kernel has no BPF filesystem: use one built with CONFIG_BPF_SYSCALL=y");
    }
    // A thread of its own, since there is no way back out of a namespace.
    let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(errno)) => bail!(
            "network namespaces cannot be made here ({errno}): the kernel needs CONFIG_NET_NS=y, \
             and a container around this needs to be privileged"
        ),
        Err(_) => bail!("the check for network namespaces panicked"),
    }
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let all = "Name:\tx\nCapEff:\t000001ffffffffff\n";
        assert_eq!(missing_capabilities(all), Vec::<&str>::new());
        let no_bpf = "CapEff:\t0000007fffffffff\n";
        assert_eq!(missing_capabilities(no_bpf), ["CAP_BPF"]);
        let none = "CapEff:\t0000000000000000\n";
        assert_eq!(missing_capabilities(none).len(), CAPABILITIES.len());
    }
}
