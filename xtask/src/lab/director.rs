//! The director in a lab: built, started, asked and stopped.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::Lab;
use super::netns::within;
use super::process::{Process, log_tail};
use crate::{cancel, run};

/// Until a director that was started must answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Until the director must have served its metrics.
const METRICS_WITHIN: Duration = Duration::from_secs(5);
/// Until a director that was told to stop must have ended.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Builds the director as this program was built, and returns where it is.
///
/// # Errors
/// When the build fails.
pub fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let (Some(folder), Some(target)) = (own.parent(), own.ancestors().nth(2)) else {
        bail!("{} is in no target folder", own.display());
    };
    let release = match folder.file_name().and_then(OsStr::to_str) {
        Some("release") => &["--release"][..],
        Some("debug") => &[],
        _ => bail!("{} is not where cargo puts programs", own.display()),
    };
    let mut build = run::cargo();
    build
        .current_dir(run::workspace_root()?)
        .args([
            "build",
            "--quiet",
            "--package",
            "director",
            "--bin",
            "director",
        ])
        .args(release)
        .arg("--target-dir")
        .arg(target);
    println!("building the director");
    run::run(&mut build)?;
    Ok(folder.join("director"))
}

/// The part of `director status --json` that says how endpoints are.
#[derive(Deserialize)]
struct Status {
    services: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    published: bool,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    name: String,
    verdict: String,
    cause: String,
    next_hop: bool,
}

impl Lab {
    /// Starts `director run` on the edge; returns once it answers `director status`.
    ///
    /// # Errors
    /// When it runs already, ends at once (with the end of its log), or does not answer.
    pub fn start_director(&mut self) -> Result<()> {
        if self.director.as_ref().is_some_and(Process::is_alive) {
            bail!("the director runs already");
        }
        let mut command = self.director_command()?;
        command.args(["run", "--config"]).arg(self.config_path());
        let log = self.log_path("director");
        self.director = Some(Process::start(&self.netns("edge"), command, &log)?);
        self.save()?;
        cancel::wait_until("the director answers", ANSWERS_WITHIN, || {
            if !self.director.as_ref().is_some_and(Process::is_alive) {
                bail!("the director ended; its log ends:\n{}", log_tail(&log));
            }
            Ok(self.director_cli(&["status", "--json"])?.status.success())
        })
    }

    /// Stops the director with SIGTERM. Steering stays in the kernel.
    ///
    /// # Errors
    /// When it does not run, or had to be killed.
    pub fn stop_director(&mut self) -> Result<()> {
        let Some(mut director) = self.director.take() else {
            bail!("the director does not run");
        };
        let stopped = director.stop(STOPS_WITHIN).context("the director");
        self.save()?;
        stopped
    }

    /// Whether the director runs.
    pub fn director_runs(&self) -> bool {
        self.director.as_ref().is_some_and(Process::is_alive)
    }

    /// Runs `director ARGS...` on the edge, with the control socket named where
    /// the command takes one.
    ///
    /// # Errors
    /// When it cannot be run. Its exit code is the caller's to look at.
    pub fn director_cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.director_command()?;
        command.args(args).process_group(0);
        if let Some("status" | "explain" | "drain" | "undrain") = args.first().copied() {
            command.arg("--socket").arg(self.socket());
        }
        within(&self.netns("edge"), || run::output(&mut command))
    }

    /// What `director status --json` says.
    ///
    /// # Errors
    /// When the director does not answer, or not in JSON.
    pub fn status(&self) -> Result<Value> {
        let output = self.director_cli(&["status", "--json"])?;
        if !output.status.success() {
            bail!(
                "`director status` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout).context("`director status --json` wrote no JSON")
    }

    /// Waits until every service is published, and every endpoint healthy with
    /// its next hop known.
    ///
    /// # Errors
    /// When that has not come about after `timeout`; the message names each
    /// endpoint that is not healthy, and why.
    pub fn wait_healthy(&self, timeout: Duration) -> Result<()> {
        let mut waiting_for = Vec::new();
        let waited = cancel::wait_until("every endpoint is healthy", timeout, || {
            let status: Status = serde_json::from_value(self.status()?)
                .context("`director status --json` has another form than this lab knows")?;
            waiting_for = unready(&status);
            Ok(waiting_for.is_empty())
        });
        if waiting_for.is_empty() {
            return waited;
        }
        waited.with_context(|| waiting_for.join("; "))
    }

    /// What the director serves as metrics, without the HTTP header.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        let address = self.spec().metrics;
        let answer = within(&self.netns("edge"), || {
            let mut stream = TcpStream::connect_timeout(&address, METRICS_WITHIN)?;
            stream.set_read_timeout(Some(METRICS_WITHIN))?;
            let request =
                format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.with_context(|| format!("the director's metrics at {address}"))?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("the director's metrics at {address} are no HTTP"))?;
        Ok(body.to_owned())
    }

    pub(super) fn director_command(&self) -> Result<Command> {
        let binary = self.spec().director.as_ref();
        binary
            .map(Command::new)
            .context("this lab was raised without a director")
    }
}

/// What is not as it should be, in words.
fn unready(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    for service in &status.services {
        if !service.published {
            lines.push("the service is not published".to_owned());
        }
        for Endpoint {
            name,
            verdict,
            cause,
            next_hop,
        } in &service.endpoints
        {
            if verdict != "healthy" {
                lines.push(format!("{name} is {verdict} ({cause})"));
            } else if !next_hop {
                lines.push(format!("{name} has no next hop"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use serde_json::json;

    use super::*;

    fn status(published: bool, verdict: &str, next_hop: bool) -> Status {
        let endpoint =
            json!({"name": "dc01-a", "verdict": verdict, "cause": "refused", "next_hop": next_hop});
        let service = json!({"name": "web", "published": published, "endpoints": [endpoint]});
        serde_json::from_value(json!({"edge": "edge", "services": [service]})).unwrap()
    }

    #[test]
    fn readiness_takes_verdict_next_hop_and_publication() {
        assert!(unready(&status(true, "healthy", true)).is_empty());
        assert_eq!(
            unready(&status(true, "down", true)),
            ["dc01-a is down (refused)"]
        );
        assert_eq!(
            unready(&status(true, "healthy", false)),
            ["dc01-a has no next hop"]
        );
        assert_eq!(unready(&status(false, "healthy", true)).len(), 1);
    }
}
