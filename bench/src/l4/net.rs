//! Three hosts in a row: one that sends, the edge, and one that receives.
//!
//! Their network namespaces have no names, so they end with this process,
//! however that ends.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    process::{Command, Stdio, id},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::Pid,
};

/// A network namespace.
pub struct Host(File);

impl Host {
    fn new() -> Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("making a network namespace\n  help: run it as root")?;
            let path = "/proc/thread-self/ns/net";
            File::open(path).with_context(|| format!("opening {path}"))
        });
        Ok(Self(joined(made.join())?))
    }

    /// Moves the calling thread here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<()> {
        setns(&self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }

    /// Runs `work` here, on a thread of its own.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            joined(thread.join())
        })
    }

    /// Writes a setting of an interface. `/sys` shows the namespace that it was
    /// mounted in, so the thread gets one of its own.
    fn set(&self, interface: &str, setting: &str, value: &str) -> Result<()> {
        self.within(|| {
            let none: Option<&str> = None;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, private, none)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
            let path = format!("/sys/class/net/{interface}/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
        })
    }

    /// What `ip netns` takes for a name.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", id(), self.0.as_raw_fd())
    }
}

fn joined<T>(thread: std::thread::Result<Result<T>>) -> Result<T> {
    thread.unwrap_or_else(|_| bail!("a thread panicked"))
}

/// Ethernet addresses: of the edge where packets come in, as in the frames, and
/// where they leave; and of the receiver.
const EDGE_IN: &str = "02:00:00:00:00:02";
pub const EDGE_OUT: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const SINK: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Room for an outer header of IPv6.
pub const MTU: u16 = 1600;
/// The sender's and the edge's interface towards the other side.
pub const TO_EDGE: &str = "to-edge";
pub const TO_SINK: &str = "to-sink";

/// The network.
pub struct Net {
    pub source: Host,
    pub edge: Host,
    pub sink: Host,
    /// Interfaces that receive, by names of their own, since kernel threads are
    /// called after them.
    pub edge_in: String,
    pub sink_in: String,
}

impl Net {
    /// Makes it. Interfaces are down yet.
    ///
    /// # Errors
    /// Without the privilege, or `ip` and `ethtool`.
    pub fn new() -> Result<Self> {
        let net = Self {
            source: Host::new()?,
            edge: Host::new()?,
            sink: Host::new()?,
            edge_in: format!("l4e{:x}", id()),
            sink_in: format!("l4s{:x}", id()),
        };
        net.edge.within(|| net.links())?;
        // No sender is asked whether it may come that way.
        for at in ["all", "default"] {
            net.edge
                .within(|| sysctl(&format!("ipv4/conf/{at}/rp_filter"), "0"))?;
        }
        Ok(net)
    }

    /// Has the edge's kernel forward what a program passes, or drop it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forward(&self, does: bool) -> Result<()> {
        let value = if does { "1" } else { "0" };
        self.edge.within(|| {
            sysctl("ipv4/ip_forward", value)?;
            sysctl("ipv6/conf/all/forwarding", value)
        })
    }

    fn links(&self) -> Result<()> {
        let Self {
            edge_in,
            sink_in,
            source,
            sink,
            ..
        } = self;
        let (source, sink) = (source.path(), sink.path());
        let [edge_out, sink_mac] = [EDGE_OUT, SINK].map(written);
        ip(&format!(
            "link add {edge_in} address {EDGE_IN} mtu {MTU} type veth peer {TO_EDGE} mtu {MTU} netns {source}\n\
             link add {TO_SINK} address {edge_out} mtu {MTU} type veth peer {sink_in} address {sink_mac} mtu {MTU} netns {sink}\n"
        ))
    }

    /// Brings all up, with a thread of the kernel's for what each end receives,
    /// and routes for the edge's own forwarding.
    ///
    /// # Errors
    /// When the kernel or a tool refuses.
    pub fn up(&self) -> Result<()> {
        let (edge_in, sink_in) = (&self.edge_in, &self.sink_in);
        self.edge.within(|| {
            // veth receives by NAPI, and so takes redirected frames, with GRO
            // or an XDP program; the kernel forwards without the latter.
            run("ethtool", &["-K", edge_in, "gro", "on"], "")?;
            let sink_mac = written(SINK);
            ip(&format!(
                "link set {edge_in} up\nlink set {TO_SINK} up\n\
                 address add 198.51.100.1/24 dev {TO_SINK}\n\
                 neighbour replace 198.51.100.9 lladdr {sink_mac} dev {TO_SINK} nud permanent\n\
                 route add 203.0.113.0/24 via 198.51.100.9\n\
                 address add 2001:db8:1::1/64 dev {TO_SINK} nodad\n\
                 neighbour replace 2001:db8:1::9 lladdr {sink_mac} dev {TO_SINK} nud permanent\n\
                 route add 2001:db8:53::/48 via 2001:db8:1::9\n"
            ))
        })?;
        self.source
            .within(|| ip(&format!("link set {TO_EDGE} up\n")))?;
        self.sink
            .within(|| ip(&format!("link set {sink_in} up\n")))?;
        self.edge.set(edge_in, "threaded", "1")?;
        self.sink.set(sink_in, "threaded", "1")?;
        // The receiver looks by the clock, as a card with interrupt moderation
        // has its host do: waking it is no work of the edge's.
        self.sink.set(sink_in, "napi_defer_hard_irqs", "1000000")?;
        self.sink.set(sink_in, "gro_flush_timeout", "20000")
    }
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Runs lines of `ip` in the calling thread's network namespace.
fn ip(lines: &str) -> Result<()> {
    run("ip", &["-batch", "-"], lines)
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{program}`"))?;
    // It stops reading where it fails; its exit code tells.
    let _ = child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            told.trim()
        );
    }
    Ok(())
}

/// The kernel's thread that receives for an interface.
///
/// # Errors
/// When there is none.
pub fn receiver(interface: &str) -> Result<Pid> {
    let beginning = format!("napi/{interface}-");
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.starts_with(&beginning) {
                let pid = entry.file_name().to_string_lossy().parse()?;
                return Ok(Pid::from_raw(pid));
            }
        }
    }
    bail!("no thread of the kernel receives for {interface}: process names in /proc show none")
}

/// Counts what an interface received.
pub struct Received {
    interface: String,
    /// Of the interface's namespace, wherever it is read.
    counters: File,
}

impl Received {
    /// # Errors
    /// When the kernel shows no counters.
    pub fn new(host: &Host, interface: &str) -> Result<Self> {
        let path = "/proc/thread-self/net/dev";
        let open = || File::open(path).with_context(|| format!("opening {path}"));
        Ok(Self {
            interface: format!("{interface}:"),
            counters: host.within(open)?,
        })
    }

    /// Packets so far.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn packets(&self) -> Result<u64> {
        let mut bytes = [0; 4096];
        let length = self.counters.read_at(&mut bytes, 0)?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let find = |line: &str| {
            let mut words = line.split_whitespace();
            (words.next()? == self.interface).then(|| words.nth(1)?.parse().ok())?
        };
        text.lines()
            .find_map(find)
            .with_context(|| format!("there is no interface {}", self.interface))
    }
}
