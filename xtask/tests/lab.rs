//! The lab without a director: its network, its faults, and that nothing of it
//! stays behind. It needs root; without it the tests are skipped, which in CI is
//! a failure.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// For something to come true.
const PATIENCE: Duration = Duration::from_secs(30);
/// After which a connection counts as swallowed.
const SILENCE: Duration = Duration::from_millis(700);
const SITES: [&str; 3] = ["dc01", "dc02", "dc03"];

/// A lab of a test's own, taken down at its end.
struct Lab {
    prefix: String,
    family: &'static str,
}

impl Lab {
    /// `None`, with the reason on stderr, where labs cannot be raised.
    fn up(name: &str, family: &'static str) -> Option<Self> {
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
        let up = lab.xtask("up", &["--no-director", "--ip", family]);
        assert!(up.status.success(), "{}", shown(&up));
        Some(lab)
    }

    fn xtask(&self, action: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lab", action, "--prefix", &self.prefix])
            .args(args)
            .output()
            .unwrap()
    }

    fn must(&self, action: &str, args: &[&str]) {
        let output = self.xtask(action, args);
        assert!(
            output.status.success(),
            "{action} {args:?}: {}",
            shown(&output)
        );
    }

    fn endpoint(&self, site: &str, server: char) -> SocketAddr {
        let number = &site[3..];
        let host = if server == 'a' { 11 } else { 12 };
        let address = match self.family {
            "4" => format!("198.18.{number}.{host}:80"),
            _ => format!("[2001:db8:d:{number}::{host}]:80"),
        };
        address.parse().unwrap()
    }

    /// Asks a server for its name, from a host of the lab.
    fn ask(&self, from: &str, server: SocketAddr) -> std::io::Result<String> {
        let netns = Path::new("/run/netns").join(format!("{}-{from}", self.prefix));
        std::thread::spawn(move || {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
            let mut stream = TcpStream::connect_timeout(&server, SILENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            Ok(body.to_owned())
        })
        .join()
        .unwrap()
    }

    /// Asks until the server of that name answers.
    fn answers(&self, from: &str, name: &str) {
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
    fn remains(&self) -> Vec<PathBuf> {
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

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn every_server_answers(family: &'static str) {
    let Some(lab) = Lab::up("net", family) else {
        return;
    };
    for site in SITES {
        for server in ["a", "b"] {
            for from in ["client", "edge", site] {
                lab.answers(from, &format!("{site}-{server}"));
            }
        }
    }
    lab.must("down", &[]);
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}

#[test]
fn every_server_answers_over_ipv4() {
    every_server_answers("4");
}

#[test]
fn every_server_answers_over_ipv6() {
    every_server_answers("6");
}

/// Each fault at `dc01`, how a connection to it fails then, and that the other
/// sites notice nothing.
fn faults(family: &'static str) {
    let Some(lab) = Lab::up("faults", family) else {
        return;
    };
    let dc01 = lab.endpoint("dc01", 'a');
    for (fault, kinds) in [
        ("kill", &[ErrorKind::ConnectionRefused][..]),
        ("blackhole", &[ErrorKind::TimedOut]),
        (
            "link-down",
            &[ErrorKind::TimedOut, ErrorKind::HostUnreachable],
        ),
    ] {
        lab.must("fault", &[fault, "dc01"]);
        let error = lab.ask("edge", dc01).unwrap_err();
        assert!(kinds.contains(&error.kind()), "{fault}: {error}");
        for other in ["dc02-a", "dc03-b"] {
            lab.answers("edge", other);
            lab.answers("client", other);
        }
        lab.must("recover", &[fault, "dc01"]);
        for from in ["edge", "client"] {
            lab.answers(from, "dc01-a");
            lab.answers(from, "dc01-b");
        }
    }
}

#[test]
fn faults_hit_one_site_and_are_undone_over_ipv4() {
    faults("4");
}

#[test]
fn faults_hit_one_site_and_are_undone_over_ipv6() {
    faults("6");
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_stays() {
    let Some(lab) = Lab::up("twice", "4") else {
        return;
    };
    let again = lab.xtask("up", &["--no-director"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(shown(&again).contains("is up already"), "{}", shown(&again));
    lab.answers("client", "dc02-b");
}

#[test]
fn commands_run_on_a_host_with_their_own_exit_code() {
    let Some(lab) = Lab::up("exec", "4") else {
        return;
    };
    let output = lab.xtask("exec", &["edge", "sh", "-c", "ip -br link; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(shown(&output).contains("to-dc03"), "{}", shown(&output));
    let unknown = lab.xtask("exec", &["dc09", "true"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        shown(&unknown).contains("there is no host dc09"),
        "{}",
        shown(&unknown)
    );
}

/// As after a SIGKILL: the lab's owner is no more.
#[test]
fn what_a_killed_run_left_is_named_and_removed() {
    let Some(lab) = Lab::up("left", "4") else {
        return;
    };
    let file = Path::new("/run").join(&lab.prefix).join("lab.json");
    let mut state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["owner"] = serde_json::json!({"pid": std::process::id(), "started": 1});
    std::fs::write(&file, state.to_string()).unwrap();
    let again = lab.xtask("up", &["--no-director"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        shown(&again).contains("interrupted run"),
        "{}",
        shown(&again)
    );
    lab.must("down", &[]);
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}

#[test]
fn a_running_owner_keeps_its_lab() {
    let Some(lab) = Lab::up("owned", "4") else {
        return;
    };
    let file = Path::new("/run").join(&lab.prefix).join("lab.json");
    let standing = std::fs::read(&file).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&standing).unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let started: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
    state["owner"] = serde_json::json!({"pid": std::process::id(), "started": started});
    std::fs::write(&file, state.to_string()).unwrap();
    let down = lab.xtask("down", &[]);
    assert_eq!(down.status.code(), Some(1));
    assert!(
        shown(&down).contains("is in use by process"),
        "{}",
        shown(&down)
    );
    std::fs::write(&file, standing).unwrap();
}

#[test]
fn another_namespace_of_that_name_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let lab = Lab {
        prefix: format!("director-test-taken-{}", std::process::id()),
        family: "4",
    };
    let name = format!("{}-edge", lab.prefix);
    let netns = |action: &str| {
        let status = Command::new("ip").args(["netns", action, &name]).status();
        assert!(status.unwrap().success());
    };
    netns("add");
    let up = lab.xtask("up", &["--no-director"]);
    assert_eq!(up.status.code(), Some(1));
    assert!(
        shown(&up).contains("no lab it belongs to"),
        "{}",
        shown(&up)
    );
    netns("delete");
    assert_eq!(lab.remains(), Vec::<PathBuf>::new());
}
