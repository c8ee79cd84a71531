//! Running other programs, with errors that say which one failed and how.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// A wrong command line or configuration, which ends the process with exit code
/// 2 instead of 1.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A command as a shell would take it, for messages.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain = !arg.is_empty()
            && arg
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c));
        // Writing to a String cannot fail.
        let _ = if plain {
            write!(text, " {arg}")
        } else {
            write!(text, " '{arg}'")
        };
    }
    text
}

/// Runs a command to its end with its output going where ours goes.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command to its end and returns its output, whatever its exit code.
///
/// # Errors
/// When it cannot be started.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Runs a command to its end and returns what it printed, without the last newline.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the message holds what it
/// wrote to stderr.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// Where a program is: in `PATH`, in the places system tools live that a user's
/// `PATH` may lack, or where `cargo install` puts it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// A command for a system tool, also where it is not in `PATH`, as after a plain
/// `su`.
pub fn tool(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| name.into()))
}

/// `$CARGO_HOME`, or `~/.cargo`.
pub fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

fn is_executable(file: &Path) -> bool {
    nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
}

/// The cargo that runs us, or the one in `PATH`.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The workspace's root: the nearest folder up from xtask's package (when cargo
/// runs us) or from the current folder whose `Cargo.toml` has a `[workspace]`.
///
/// # Errors
/// When there is none.
pub fn workspace_root() -> Result<PathBuf> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_dir().context("cannot tell the current folder")?,
    };
    for dir in start.ancestors() {
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        if manifest.lines().any(|line| line.trim() == "[workspace]") {
            return Ok(dir.to_owned());
        }
    }
    Err(Usage(format!(
        "no Cargo workspace at or above {}: run this inside a checkout",
        start.display()
    ))
    .into())
}

/// Where cargo builds the workspace at `root`.
pub fn target_dir(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    root.join(target.map_or_else(|| "target".into(), PathBuf::from))
}

/// For tests that need root: whether there is. Without it they are skipped,
/// saying so, but not in CI, where a skipped test would go unnoticed.
#[cfg(test)]
pub fn test_has_root(purpose: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{purpose} needs root"
        );
        eprintln!("skipped: {purpose} needs root");
    }
    root
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        let mut command = Command::new("ip");
        command.args(["-n", "a b", "addr", ""]);
        assert_eq!(shown(&command), "ip -n 'a b' addr ''");
    }

    #[test]
    fn a_failure_carries_exit_code_and_stderr() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 3"]);
        let error = capture(&mut command).unwrap_err().to_string();
        assert!(error.contains("exit status: 3: broken"), "{error}");
    }

    #[test]
    fn programs_outside_path_are_found() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn the_root_has_the_workspace_manifest() {
        let root = workspace_root().unwrap();
        assert!(root.join("xtask/Cargo.toml").is_file());
    }
}
