//! A lab for a test.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// For something to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// After which a connection counts as swallowed.
pub const SILENCE: Duration = Duration::from_millis(700);
pub const SITES: [&str; 3] = ["dc01", "dc02", "dc03"];

/// A lab of a test's own, taken down at its end.
pub struct Lab {
    pub prefix: String,
    pub family: &'static str,
}

impl Lab {
    /// One without a director. `None`, with the reason on stderr, where labs
    /// cannot be raised.
    pub fn up(name: &str, family: &'static str) -> Option<Self> {
        Self::raise(name, family, &["--no-director"])
    }

    /// The same, with further options of `lab up`.
    pub fn raise(name: &str, family: &'static str, options: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!ci, "labs need root, and CI must not skip them");
            eprintln!("skipped: a lab makes network namespaces: run as root");
            return None;
        }
        let lab = Self {
            prefix: format!("director-test-{name}{family}-{}", std::process::id()),
            family,
        };
        let up = lab.xtask("up", &[&["--ip", family], options].concat());
        assert!(up.status.success(), "{}", shown(&up));
        Some(lab)
    }

    pub fn xtask(&self, action: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lab", action, "--prefix", &self.prefix])
            .args(args)
            .output()
            .unwrap()
    }

    pub fn must(&self, action: &str, args: &[&str]) {
        let output = self.xtask(action, args);
        assert!(
            output.status.success(),
            "{action} {args:?}: {}",
            shown(&output)
        );
    }

    pub fn endpoint(&self, site: &str, server: char) -> SocketAddr {
        let number = &site[3..];
        let host = if server == 'a' { 11 } else { 12 };
        let address = match self.family {
            "4" => format!("198.18.{number}.{host}:80"),
            _ => format!("[2001:db8:d:{number}::{host}]:80"),
        };
        address.parse().unwrap()
    }

    /// Asks a server for its name, from a host of the lab.
    pub fn ask(&self, from: &str, server: SocketAddr) -> std::io::Result<String> {
        self.within(from, move || {
            let mut stream = TcpStream::connect_timeout(&server, SILENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            Ok(body.to_owned())
        })
    }

    /// Runs `job` on a thread that is on a host of the lab.
    pub fn within<T: Send + 'static>(
        &self,
        host: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let netns = Path::new("/run/netns").join(format!("{}-{host}", self.prefix));
        std::thread::spawn(move || {
            setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            job()
        })
        .join()
        .unwrap()
    }

    /// Asks until the server of that name answers.
    pub fn answers(&self, from: &str, name: &str) {
        let (site, server) = name.split_once('-').unwrap();
        let address = self.endpoint(site, server.chars().next().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(from, address) {
                Ok(answer) => return assert_eq!(answer, name),
                Err(error) => assert!(Instant::now() < deadline, "{name} from {from}: {error}"),
            }
        }
    }

    /// Everything of this lab that is on the machine.
    pub fn remains(&self) -> Vec<PathBuf> {
        let in_dir = |dir: &str| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let processes = in_dir("/proc").into_iter().filter(|process| {
            let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(&format!("/run/{}/", self.prefix))
        });
        ["/run", "/run/netns"]
            .into_iter()
            .flat_map(in_dir)
            .chain(mounts.map(PathBuf::from))
            .filter(|path| path.to_string_lossy().contains(&self.prefix))
            .chain(processes)
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if Path::new("/run").join(&self.prefix).exists() {
            let down = self.xtask("down", &[]);
            if !std::thread::panicking() {
                assert!(down.status.success(), "{}", shown(&down));
            }
        }
    }
}

pub fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

/// Sends a request and returns the name in the answer.
pub fn exchange(stream: &mut TcpStream) -> std::io::Result<String> {
    exchange_padded(stream, 0)
}

/// The same, with a request that is `padding` bytes longer.
pub fn exchange_padded(stream: &mut TcpStream, padding: usize) -> std::io::Result<String> {
    let padding = "x".repeat(padding);
    let request = format!("GET / HTTP/1.1\r\nhost: test\r\npadding: {padding}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8_lossy(&answer);
        // Every server's name has six letters.
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && body.len() == 6
        {
            return Ok(body.to_owned());
        }
    }
}

/// The director's program, which raising a lab with a director builds.
pub fn director_program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("director")
}

/// Runs the director's command line on the edge.
pub fn director(lab: &Lab, arguments: &[&str]) -> Output {
    let program = director_program();
    let arguments = [&["edge", program.to_str().unwrap()], arguments].concat();
    lab.xtask("exec", &arguments)
}

/// A file of the lab.
pub fn file(lab: &Lab, name: &str) -> String {
    format!("/run/{}/{name}", lab.prefix)
}

/// What the director says of itself.
pub fn status(lab: &Lab) -> serde_json::Value {
    let socket = file(lab, "director.sock");
    let output = director(lab, &["status", "--json", "--socket", &socket]);
    assert!(output.status.success(), "{}", shown(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until the director's status holds.
pub fn until(lab: &Lab, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(lab);
        if holds(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {status:#}");
    }
}

/// What the director serves as metrics, with the HTTP header.
pub fn metrics(lab: &Lab) -> String {
    lab.within("edge", || {
        let mut stream = TcpStream::connect("127.0.0.1:9600").unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}
