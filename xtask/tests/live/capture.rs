//! `tcpdump` on a host of the lab.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::IpNumber;
use pcap_parser::{LegacyPcapBlock, Linktype, parse_pcap_frame, parse_pcap_header};

use crate::support::{Lab, PATIENCE, file};
use crate::wire::{self, Outer, Packet};

/// A process that ends with this value.
pub struct Running(Child);

impl Running {
    /// A command on a host of the lab.
    pub fn on(lab: &Lab, host: &str, command: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["lab", "exec", "--prefix", &lab.prefix, host])
            .args(command)
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes kept of a frame, more than any has. In immediate mode each frame takes
/// this much of the kernel's buffer, and few would fit with tcpdump's default.
const LONGEST: &str = "2048";
/// The kernel's buffer in KiB, for bursts while tcpdump gets no CPU.
const BUFFER: &str = "16384";

/// A capture under way.
pub struct Capture {
    place: String,
    file: PathBuf,
    _tcpdump: Running,
}

/// A packet that a capture must hold. A port 0 is any.
#[derive(Debug)]
pub struct Wanted {
    pub outer: Option<Outer>,
    pub protocol: IpNumber,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Wanted {
    fn is(&self, packet: &Packet) -> bool {
        let same = |wanted: SocketAddr, seen: SocketAddr| {
            wanted.ip() == seen.ip() && [0, seen.port()].contains(&wanted.port())
        };
        (self.outer, self.protocol) == (packet.outer, packet.protocol)
            && same(self.source, packet.source)
            && same(self.destination, packet.destination)
    }
}

impl Capture {
    /// Starts one; returns once it captures.
    pub fn start(lab: &Lab, host: &str, interface: &str) -> Self {
        let file = file(lab, &format!("{host}-{interface}.pcap"));
        let command = [
            "tcpdump",
            "-Z",
            "root",
            "--immediate-mode",
            "-U",
            "-s",
            LONGEST,
            "-B",
            BUFFER,
            "-w",
            &file,
            "-i",
            interface,
            "ip or ip6",
        ];
        let mut tcpdump = Running::on(lab, host, &command);
        let mut said = BufReader::new(tcpdump.0.stderr.take().unwrap());
        let mut lines = String::new();
        while !lines.contains("listening on") {
            let length = said.read_line(&mut lines).unwrap();
            assert!(length > 0, "tcpdump ended: {lines}");
        }
        // It says little more, which fits the pipe.
        tcpdump.0.stderr = Some(said.into_inner());
        Self {
            place: format!("{interface} of {host}"),
            file: file.into(),
            _tcpdump: tcpdump,
        }
    }

    /// Waits until it holds all that is wanted, and returns for each the first
    /// such frame. All that it holds must have right checksums.
    pub fn holds(&self, wanted: &[Wanted]) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bytes = std::fs::read(&self.file).unwrap();
            let frames = frames(&bytes);
            let packets: Vec<Packet> = frames.iter().map(|frame| self.right(frame)).collect();
            let found = |one: &Wanted| packets.iter().position(|packet| one.is(packet));
            match wanted.iter().find(|one| found(one).is_none()) {
                None => {
                    let found = wanted.iter().filter_map(found);
                    return found.map(|index| frames[index].to_vec()).collect();
                }
                Some(missing) => assert!(
                    Instant::now() < deadline,
                    "not seen at {}, among {} packets: {missing:?}",
                    self.place,
                    packets.len()
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing of the kind has come so far.
    pub fn lacks(&self, unwanted: &Wanted) {
        let bytes = std::fs::read(&self.file).unwrap();
        let seen = frames(&bytes).into_iter().map(|frame| self.right(frame));
        for packet in seen {
            assert!(!unwanted.is(&packet), "at {}: {packet:?}", self.place);
        }
    }

    fn right(&self, frame: &[u8]) -> Packet {
        match wire::read(frame) {
            Ok(packet) => packet,
            Err(wrong) => panic!("at {}: {wrong}: {frame:02x?}", self.place),
        }
    }
}

/// The frames that a capture holds in full so far.
fn frames(bytes: &[u8]) -> Vec<&[u8]> {
    let Ok((mut rest, header)) = parse_pcap_header(bytes) else {
        return Vec::new();
    };
    assert_eq!(header.network, Linktype::ETHERNET);
    let mut frames = Vec::new();
    while let Ok((after, LegacyPcapBlock { data, origlen, .. })) = parse_pcap_frame(rest) {
        assert_eq!(data.len(), origlen as usize, "a frame is cut: {data:02x?}");
        frames.push(data);
        rest = after;
    }
    frames
}
