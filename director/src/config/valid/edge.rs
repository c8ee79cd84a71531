//! The edge host itself: `[edge]` and its tables.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    deny, http,
    limits::{self, LimitsDraft},
    sources::{self, NatDraft, TunnelDraft},
    value,
};
use crate::config::{
    Attach, Edge, IcmpPolicy, Prefix,
    place::{Fault, Given, Located, Place, key},
    raw,
    report::Report,
    words::{quoted, shown},
};

/// Longest path of a Unix socket, in bytes: `sun_path` without its final NUL
/// (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// Longest interface name, in bytes: `IFNAMSIZ` without its final NUL.
const INTERFACE_LIMIT: usize = 15;

const HOLD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// What could be read of `[edge]`; `None` stands for what is wrong there.
#[derive(Debug, Default)]
pub(super) struct EdgeDraft {
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) interfaces: Option<Vec<String>>,
    pub(super) attach: Option<Located<Attach>>,
    pub(super) pin_dir: Option<Located<PathBuf>>,
    pub(super) socket: Option<Located<PathBuf>>,
    pub(super) metrics: Option<Located<SocketAddr>>,
    hold: Option<Located<Duration>>,
    deny: Option<Vec<Prefix>>,
    pub(super) tunnel: TunnelDraft,
    pub(super) nat: NatDraft,
    icmp: Option<IcmpPolicy>,
    pub(super) limits: Option<LimitsDraft>,
    pub(super) http: Option<http::EdgeHttpDraft>,
}

impl EdgeDraft {
    pub(super) fn finish(self) -> Option<Edge> {
        Some(Edge {
            name: self.name?.value.to_string(),
            interfaces: self.interfaces?,
            attach: self.attach?.value,
            pin_dir: self.pin_dir?.value,
            socket: self.socket?.value,
            metrics: self.metrics?.value,
            hold: self.hold?.value,
            deny: self.deny?,
            tunnel: self.tunnel.finish()?,
            nat: self.nat.finish()?,
            icmp: self.icmp?,
            limits: self.limits?.finish()?,
        })
    }
}

/// `[edge]` and its tables. Files are looked for in `directory`.
pub(super) fn edge(
    report: &mut Report<'_>,
    root: &Place,
    raw: &raw::Root,
    directory: &Path,
) -> EdgeDraft {
    let Located { value: raw, place } = match report.table(root, "edge", &raw.edge) {
        Given::Value(located) => located,
        Given::Refused => return EdgeDraft::default(),
        Given::Absent => {
            let place = root.key("edge", root.at);
            let help = "add a table [edge] with the keys name and interfaces";
            report.error(&place, "is missing", help);
            return EdgeDraft::default();
        }
    };
    let attach = value::choice(&[
        ("auto", Attach::Auto),
        ("driver", Attach::Driver),
        ("generic", Attach::Generic),
    ]);
    let attach = report.read(&place, key("attach", r#""auto""#), &raw.attach, attach);
    let pin_dir = key("pin_dir", r#""/sys/fs/bpf/director""#);
    let socket = key("socket", r#""/run/director/director.sock""#);
    let metrics = key("metrics", r#""127.0.0.1:9600""#);
    let hold = value::duration(HOLD);
    let default_metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, 9600));
    EdgeDraft {
        name: report.require(&place, key("name", r#""edge1""#), &raw.name, |text| {
            value::name(text)
        }),
        interfaces: interfaces(report, &place, raw),
        attach: attach.or(&place, Attach::Auto),
        pin_dir: report
            .read(&place, pin_dir, &raw.pin_dir, |text| pin_dir_of(text))
            .or(&place, PathBuf::from("/sys/fs/bpf/director")),
        socket: report
            .read(&place, socket, &raw.socket, |text| socket_of(text))
            .or(&place, PathBuf::from("/run/director/director.sock")),
        metrics: report
            .read(&place, metrics, &raw.metrics, |text| metrics_of(text))
            .or(&place, default_metrics),
        hold: report
            .read(&place, key("hold", r#""1h""#), &raw.hold, hold)
            .or(&place, Duration::from_hours(1)),
        deny: deny::deny(report, &place, raw, directory),
        tunnel: sources::tunnel(report, &place, raw),
        nat: sources::nat(report, &place, raw),
        icmp: icmp(report, &place, raw),
        limits: limits::limits(report, &place, raw),
        http: http::edge(report, &place, &raw.http, directory),
    }
}

fn interfaces(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> Option<Vec<String>> {
    let key = key("interfaces", r#"["eth0"]"#);
    let list = report.require(edge, key, &raw.interfaces, |list| {
        if list.is_empty() {
            return Err(Fault::new("names no interface"));
        }
        Ok(list)
    })?;
    let located = report.items(&list, key, interface);
    report.unique(&located, |name| quoted(name));
    (located.len() == list.value.len())
        .then(|| located.into_iter().map(|name| name.value).collect())
}

/// What the kernel takes as a name (`dev_valid_name` in net/core/dev.c).
fn interface(name: &str) -> Result<String, Fault> {
    let refused = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':';
    let why = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > INTERFACE_LIMIT {
        format!("has more than {INTERFACE_LIMIT} bytes")
    } else if name == "." || name == ".." || name.contains(refused) {
        "is not a name that an interface can have".to_owned()
    } else {
        return Ok(name.to_owned());
    };
    Err(Fault::new(format!("{} {why}", quoted(name)))
        .help("use a name that `ip link` shows, such as eth0"))
}

fn absolute(text: &str) -> Result<PathBuf, Fault> {
    let path = Path::new(text);
    if text.contains('\0') {
        return Err(Fault::new(format!("{} has a NUL in it", quoted(text))));
    }
    if !path.is_absolute() {
        return Err(Fault::new(format!(
            "{} is not an absolute path",
            quoted(text)
        )));
    }
    if path.file_name().is_none() {
        return Err(Fault::new(format!(
            "{} names nothing of its own",
            quoted(text)
        )));
    }
    Ok(path.to_owned())
}

fn pin_dir_of(text: &str) -> Result<PathBuf, Fault> {
    let path = absolute(text)?;
    // The BPF file system keeps names with dots for itself (kernel/bpf/inode.c).
    let dots = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains('.'));
    if dots {
        return Err(Fault::new(format!(
            "{} has a dot in its last part, which the BPF file system refuses",
            quoted(text)
        )));
    }
    Ok(path)
}

fn socket_of(text: &str) -> Result<PathBuf, Fault> {
    if text.len() > SOCKET_PATH_LIMIT {
        return Err(Fault::new(format!(
            "has {} bytes, and a socket's path has at most {SOCKET_PATH_LIMIT}",
            text.len()
        )));
    }
    absolute(text)
}

fn metrics_of(text: &str) -> Result<SocketAddr, Fault> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Fault::new(format!("{} is not an IP address with a port", shown(text))))?;
    if !address.ip().is_loopback() {
        return Err(Fault::new(format!(
            "{} is not a loopback address, and metrics are served without a password",
            shown(text)
        ))
        .help("use 127.0.0.1 or [::1], with a proxy in front for other hosts"));
    }
    if address.port() == 0 {
        return Err(Fault::new("has port 0: nothing could find the metrics"));
    }
    Ok(address)
}

fn icmp(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> Option<IcmpPolicy> {
    let default = IcmpPolicy::default();
    match report.table(edge, "icmp", &raw.icmp) {
        Given::Absent => Some(default),
        Given::Refused => None,
        Given::Value(Located { value: raw, place }) => {
            let echo = report.read(&place, key("echo", "true"), &raw.echo, |echo| Ok(*echo));
            let rate = report.read(
                &place,
                key("rate", "1000"),
                &raw.rate,
                value::number(1..=1_000_000),
            );
            Some(IcmpPolicy {
                echo: echo.value_or(default.echo)?,
                rate: rate.value_or(default.rate)?,
            })
        }
    }
}
