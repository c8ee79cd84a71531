//! The program, and a folder of its own for every run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::files::{self, Packet};

/// Two sites, and the services `web`, `web6` (tunnel), `nat` and `nat6`, each
/// with the endpoint `a` at `dc01` and `b` at `dc02`.
pub const CONFIG: &str = include_str!("director.toml");

pub struct Lab {
    folder: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What a run that went well told and wrote.
#[derive(Debug, PartialEq)]
pub struct Told {
    pub lines: Vec<Value>,
    pub out: Vec<Packet>,
}

impl Lab {
    /// A folder with a configuration; `None`, said aloud, where nothing can run.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "simulation needs root");
            eprintln!("skipped: simulation needs root, to load BPF programs");
            return None;
        }
        let lab = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(lab.path("director.toml"), CONFIG).unwrap();
        Some(lab)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs `director simulate` with a capture `in` and an output `out` of
    /// these paths.
    pub fn start(&self, input: &Path, out: &Path, more: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_director"))
            .arg("simulate")
            .arg("--config")
            .arg(self.path("director.toml"))
            .arg("--pcap")
            .arg(input)
            .arg("--out")
            .arg(out)
            .args(more)
            .output()
            .unwrap();
        Ended {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs this capture, which must go well.
    pub fn run(&self, capture: &[u8], more: &[&str]) -> Told {
        let input = self.write("in.pcap", capture);
        let out = self.path("out.pcap");
        let ended = self.start(&input, &out, &[&["--json"], more].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stderr, "");
        Told {
            lines: ended.lines(),
            out: files::read(&fs::read(out).unwrap()),
        }
    }

    /// Runs frames, which must go well.
    pub fn frames(&self, frames: &[Vec<u8>], more: &[&str]) -> Told {
        let packets: Vec<Packet> = (0..).zip(frames).map(|(i, f)| Packet::at(i, f)).collect();
        self.run(&files::pcap(&packets), more)
    }

    /// Files in the folder.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Ended {
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asserts that it failed so, and said this much of why.
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in {self:?}");
        }
    }
}

impl Told {
    /// Verdict and cause of each packet.
    pub fn verdicts(&self) -> Vec<(String, Option<String>)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let verdict = |line: &Value| (text(&line["verdict"]).unwrap(), text(&line["cause"]));
        self.lines.iter().map(verdict).collect()
    }

    /// Endpoint of each packet.
    pub fn endpoints(&self) -> Vec<Option<&str>> {
        self.lines
            .iter()
            .map(|line| line["endpoint"].as_str())
            .collect()
    }
}
