//! The proxies that are compared, and the servers behind them.
//!
//! All run in a network namespace of the benchmark's own, so that ports are free
//! and connections that the kernel counts are those of the benchmark.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use super::{
    child::{self, Child},
    edge::Features,
};

/// How long a proxy may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
const UPSTREAM: u16 = 9000;
/// What the servers have: path and bytes.
pub const SMALL: (&str, usize) = ("/1k", 1024);
pub const LARGE: (&str, usize) = ("/100k", 100 * 1024);

/// A proxy that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Ours, as it is unless configured otherwise.
    Ours,
    /// Ours with all off that can be.
    Bare,
    /// Ours with everything on.
    Everything,
    Nginx,
    Haproxy,
}

impl Subject {
    pub const ALL: [Self; 5] = [
        Self::Ours,
        Self::Bare,
        Self::Everything,
        Self::Nginx,
        Self::Haproxy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "director",
            Self::Bare => "director without features",
            Self::Everything => "director with every feature",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Ports of plain text and TLS.
    pub fn ports(self) -> (u16, u16) {
        let index = Self::ALL.iter().position(|it| *it == self).unwrap_or(0) as u16;
        (8000 + index, 8400 + index)
    }
}

/// Which CPUs are whose.
#[derive(Clone, Debug)]
pub struct Cpus {
    /// Of the proxy that is measured.
    pub proxy: Vec<usize>,
    /// Of the load and the servers.
    pub rest: Vec<usize>,
}

/// The servers, and where the files of all are.
pub struct Stage {
    pub cpus: Cpus,
    upstream: Child,
    // After the processes that use it.
    directory: TempDir,
}

impl Stage {
    /// Makes files and a certificate, and starts the servers.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub fn new(cpus: Cpus) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("director-bench-")
            .tempdir()?;
        let path = directory.path();
        // nginx's workers give up being root.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(path.join("www"))?;
        for (name, length) in [SMALL, LARGE] {
            fs::write(path.join("www").join(&name[1..]), body(length))?;
        }
        certificate(path)?;
        let threads = cpus.rest.len();
        let template = include_str!("upstream.conf");
        let mut command = nginx(path, "upstream", template, &[("THREADS", &threads)])?;
        let upstream = Child::start("nginx", &mut command, &cpus.rest)?;
        let stage = Self {
            cpus,
            upstream,
            directory,
        };
        stage.await_answer("the servers", UPSTREAM)?;
        Ok(stage)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a proxy, and sees that it serves what the servers have.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self, subject: Subject) -> Result<Child> {
        let path = self.directory();
        let (plain, tls) = subject.ports();
        let threads = self.cpus.proxy.len();
        let values: Values<'_> = &[("PLAIN", &plain), ("TLS", &tls), ("THREADS", &threads)];
        let ours = |features| ours(subject, threads, path, features);
        let mut command = match subject {
            Subject::Ours => ours(Features::Default)?,
            Subject::Bare => ours(Features::Bare)?,
            Subject::Everything => ours(Features::Everything)?,
            Subject::Nginx => nginx(path, "nginx", include_str!("nginx.conf"), values)?,
            Subject::Haproxy => {
                let file = path.join("haproxy.cfg");
                fill(include_str!("haproxy.cfg"), &file, path, values)?;
                let mut command = Command::new("haproxy");
                command.args(["-q", "-db", "-f"]).arg(file);
                command
            }
        };
        command.stdout(Stdio::null());
        let mut child = Child::start(subject.name(), &mut command, &self.cpus.proxy)?;
        self.await_answer(subject.name(), plain)?;
        child.check()?;
        for (file, length) in [SMALL, LARGE] {
            for url in [
                format!("http://127.0.0.1:{plain}{file}"),
                format!("https://127.0.0.1:{tls}{file}"),
            ] {
                let fetched = self
                    .fetch(&url)
                    .with_context(|| format!("asking {}", subject.name()))?;
                ensure!(
                    fetched == body(length),
                    "{}: {url} has another body",
                    subject.name()
                );
            }
        }
        Ok(child)
    }

    fn await_answer(&self, name: &str, port: u16) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            child::check()?;
            match self.fetch(&format!("http://127.0.0.1:{port}{}", SMALL.0)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error)
                        .with_context(|| format!("{name} did not answer within {PATIENCE:?}"));
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// What curl gets: over TLS, by HTTP/2.
    fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        let file = self.directory().join("fetched");
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--fail",
                "--http2",
                "--tls-max",
                "1.3",
                "--max-time",
                "5",
                "--cacert",
            ])
            .arg(self.directory().join("certificate.pem"))
            .arg("--output")
            .arg(&file)
            .args(["--write-out", "%{http_code} %{http_version}", url]);
        let text = child::output("curl", &mut command, &self.cpus.rest, PATIENCE)?;
        let expected = if url.starts_with("https") {
            "200 2"
        } else {
            "200 1.1"
        };
        ensure!(
            text == expected,
            "{url} was answered with {text}, not {expected}"
        );
        Ok(fs::read(file)?)
    }

    /// # Errors
    /// When the servers have ended.
    pub fn check(&mut self) -> Result<()> {
        self.upstream.check()
    }
}

fn body(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}

/// ECDSA over P-256, for all of them.
fn certificate(path: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(path.join("certificate.pem"), &certificate)?;
    fs::write(path.join("key.pem"), &key)?;
    fs::write(path.join("both.pem"), certificate + &key)?;
    Ok(())
}

type Values<'a> = &'a [(&'a str, &'a dyn ToString)];

/// Writes a configuration file from its template.
fn fill(template: &str, file: &Path, directory: &Path, values: Values<'_>) -> Result<()> {
    let mut text = template
        .replace("@DIR@", &directory.display().to_string())
        .replace("@UPSTREAM@", &UPSTREAM.to_string());
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), &value.to_string());
    }
    if let Some(line) = text.lines().find(|line| line.contains('@')) {
        bail!("a template has more places than values: {line}");
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn nginx(directory: &Path, name: &str, template: &str, values: Values<'_>) -> Result<Command> {
    let file = directory.join(format!("{name}.conf"));
    fill(template, &file, directory, values)?;
    let mut command = Command::new("nginx");
    command
        .args(["-g", "daemon off;", "-e"])
        .arg(directory.join(format!("{name}.log")))
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(file);
    Ok(command)
}

/// This program as the proxy.
fn ours(subject: Subject, threads: usize, directory: &Path, features: Features) -> Result<Command> {
    let (plain, tls) = subject.ports();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("l7-edge")
        .args(["--plain", &plain.to_string(), "--tls", &tls.to_string()])
        .args(["--upstream", &UPSTREAM.to_string()])
        .args(["--threads", &threads.to_string()])
        .args(["--features", features.name()])
        .arg("--directory")
        .arg(directory);
    Ok(command)
}
