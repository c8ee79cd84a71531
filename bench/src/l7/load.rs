//! The load: wrk for HTTP/1.1, h2load for HTTP/2, and what they say.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;

use super::child;

/// What is asked of a proxy.
pub struct Plan<'a> {
    pub port: u16,
    pub path: &'a str,
    /// Bytes of the body.
    pub length: usize,
    pub connections: u32,
    /// Whole seconds.
    pub time: Duration,
    /// CPUs of the load.
    pub cpus: &'a [usize],
    /// For files that come and go.
    pub directory: &'a Path,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Requests a second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Microseconds of the proxy's CPU time a request, unlike the rest not what
    /// the load saw.
    pub cpu: f64,
}

/// Beyond the time of a measurement.
const PATIENCE: Duration = Duration::from_secs(15);
const FIGURES: &str = include_str!("figures.lua");
/// Requests at once of one connection of HTTP/2.
const STREAMS: u32 = 16;

/// Figures from times in microseconds.
pub fn times(rate: f64, histogram: &Histogram<u64>) -> Figures {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64;
    Figures {
        rate,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        cpu: f64::NAN,
    }
}

/// HTTP/1.1, over new connections if `closes`. wrk takes the time of a request
/// from when the connection is there on.
///
/// # Errors
/// When a request failed.
pub fn wrk(plan: &Plan<'_>, is_tls: bool, closes: bool) -> Result<Figures> {
    let script = plan.directory.join("figures.lua");
    fs::write(&script, FIGURES)?;
    let scheme = if is_tls { "https" } else { "http" };
    let mut command = Command::new("wrk");
    command
        .arg("--threads")
        .arg(plan.cpus.len().min(plan.connections as usize).to_string())
        .arg("--connections")
        .arg(plan.connections.to_string())
        .arg("--duration")
        .arg(format!("{}s", plan.time.as_secs()))
        .arg("--script")
        .arg(script);
    if closes {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("{scheme}://127.0.0.1:{}{}", plan.port, plan.path));
    let text = child::output("wrk", &mut command, plan.cpus, plan.time + PATIENCE)?;
    from_wrk(&text, plan.length).with_context(|| text.clone())
}

/// Reads the line that `figures.lua` writes.
fn from_wrk(text: &str, length: usize) -> Result<Figures> {
    let line = text.lines().find_map(|line| line.strip_prefix("figures "));
    let line = line.context("wrk wrote no figures")?;
    let numbers: Vec<f64> = line
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("wrk's figures are no numbers")?;
    let [
        requests,
        time,
        bytes,
        p50,
        p99,
        p999,
        connect,
        cut,
        status,
        late,
    ] = numbers[..]
    else {
        bail!("wrk wrote {} figures", numbers.len());
    };
    ensure!(
        connect + cut + status + late == 0.0,
        "requests failed: {connect} connections not made, {cut} cut, {status} answered with an \
         error, {late} late"
    );
    ensure!(requests > 0.0, "no request was answered");
    ensure!(bytes >= requests * length as f64, "answers were too short");
    Ok(Figures {
        rate: requests / (time / 1e6),
        p50,
        p99,
        p999,
        cpu: f64::NAN,
    })
}

/// HTTP/2 over TLS.
///
/// # Errors
/// When a request failed.
pub fn h2load(plan: &Plan<'_>) -> Result<Figures> {
    let log = plan.directory.join("h2load.log");
    let _ = fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command
        .arg(format!(
            "--threads={}",
            plan.cpus.len().min(plan.connections as usize)
        ))
        .arg(format!("--clients={}", plan.connections))
        .arg(format!("--max-concurrent-streams={STREAMS}"))
        .arg(format!("--duration={}", plan.time.as_secs()))
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("https://127.0.0.1:{}{}", plan.port, plan.path))
        .stderr(Stdio::null());
    let text = child::output("h2load", &mut command, plan.cpus, plan.time + PATIENCE)?;
    let log = fs::read_to_string(log).context("reading h2load's log")?;
    from_h2load(&text, &log, plan).with_context(|| text.clone())
}

/// Reads h2load's summary, and its log: start, status and microseconds of each
/// request.
fn from_h2load(text: &str, log: &str, plan: &Plan<'_>) -> Result<Figures> {
    ensure!(
        text.contains("Application protocol: h2"),
        "HTTP/2 was not agreed on"
    );
    ensure!(
        text.contains("TLS Protocol: TLSv1.3"),
        "TLS 1.3 was not agreed on"
    );
    let failed = |word: &str| {
        let mut words = text
            .lines()
            .find(|line| line.starts_with("requests:"))?
            .split(", ");
        let part = words.find_map(|part| part.strip_suffix(word))?;
        part.trim().parse::<u64>().ok()
    };
    for word in ["failed", "errored", "timeout"] {
        let count = failed(word).with_context(|| format!("no count of requests that {word}"))?;
        ensure!(count == 0, "{count} requests {word}");
    }
    let mut histogram = Histogram::<u64>::new(3)?;
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        ensure!(fields.next() == Some("200"), "h2load's log says: {line}");
        let time = fields.next().and_then(|time| time.parse().ok());
        histogram.record(time.with_context(|| format!("no time in {line}"))?)?;
    }
    ensure!(!histogram.is_empty(), "no request was answered");
    let data = text
        .lines()
        .find(|line| line.starts_with("traffic:"))
        .and_then(|line| line.rsplit_once('(')?.1.strip_suffix(") data"))
        .and_then(|bytes| bytes.parse::<u64>().ok())
        .context("no count of bytes")?;
    ensure!(
        data >= histogram.len() * plan.length as u64,
        "answers were too short"
    );
    Ok(times(
        histogram.len() as f64 / plan.time.as_secs_f64(),
        &histogram,
    ))
}
