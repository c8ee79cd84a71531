//! The edge host itself: `[edge]` and its tables.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::value::{self, Family, Role};
use crate::config::{
    Attach, Edge, Limits, NatSources, TunnelSources,
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

/// NAT source addresses per family.
const NAT_SOURCES: usize = 4;

/// What could be read of `[edge]`; `None` stands for what is wrong there.
#[derive(Debug, Default)]
pub(super) struct EdgeDraft {
    pub(super) name: Option<Located<Arc<str>>>,
    pub(super) interfaces: Option<Vec<String>>,
    pub(super) attach: Option<Located<Attach>>,
    pub(super) pin_dir: Option<Located<PathBuf>>,
    pub(super) socket: Option<Located<PathBuf>>,
    pub(super) metrics: Option<Located<SocketAddr>>,
    pub(super) tunnel: SourcesDraft,
    pub(super) nat: SourcesDraft,
    pub(super) limits: Option<LimitsDraft>,
}

/// Source addresses of one mode. An empty list: none is configured.
#[derive(Debug, Default)]
pub(super) struct SourcesDraft {
    pub(super) v4: Option<Vec<Located<Ipv4Addr>>>,
    pub(super) v6: Option<Vec<Located<Ipv6Addr>>>,
}

impl SourcesDraft {
    fn none() -> Self {
        Self {
            v4: Some(Vec::new()),
            v6: Some(Vec::new()),
        }
    }

    /// Every address that could be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, &Place)> {
        let v4 = self.v4.iter().flatten();
        let v6 = self.v6.iter().flatten();
        v4.map(|source| (source.value.into(), &source.place))
            .chain(v6.map(|source| (source.value.into(), &source.place)))
    }

    /// Whether the family of this address is known to have no source.
    pub(super) fn lacks(&self, family: IpAddr) -> bool {
        match family {
            IpAddr::V4(_) => self.v4.as_ref().is_some_and(Vec::is_empty),
            IpAddr::V6(_) => self.v6.as_ref().is_some_and(Vec::is_empty),
        }
    }
}

#[derive(Debug)]
pub(super) struct LimitsDraft {
    pub(super) flows: Option<Located<u32>>,
    pub(super) services: Option<Located<u32>>,
    pub(super) endpoints: Option<Located<u32>>,
    pub(super) table_size: Option<Located<u32>>,
}

impl EdgeDraft {
    pub(super) fn finish(self) -> Option<Edge> {
        let limits = self.limits?;
        Some(Edge {
            name: self.name?.value.to_string(),
            interfaces: self.interfaces?,
            attach: self.attach?.value,
            pin_dir: self.pin_dir?.value,
            socket: self.socket?.value,
            metrics: self.metrics?.value,
            tunnel: TunnelSources {
                v4: values(self.tunnel.v4?).first().copied(),
                v6: values(self.tunnel.v6?).first().copied(),
            },
            nat: NatSources {
                v4: values(self.nat.v4?),
                v6: values(self.nat.v6?),
            },
            limits: Limits {
                flows: limits.flows?.value,
                services: limits.services?.value,
                endpoints: limits.endpoints?.value,
                table_size: limits.table_size?.value,
            },
        })
    }
}

fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|it| it.value).collect()
}

pub(super) fn edge(report: &mut Report<'_>, root: &Place, raw: &raw::Root) -> EdgeDraft {
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
        tunnel: tunnel(report, &place, raw),
        nat: nat(report, &place, raw),
        limits: limits(report, &place, raw),
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
    unique(report, &located, |name| quoted(name));
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

fn tunnel(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> SourcesDraft {
    let Located { value: raw, place } = match report.table(edge, "tunnel", &raw.tunnel) {
        Given::Value(located) => located,
        Given::Refused => return SourcesDraft::default(),
        Given::Absent => return SourcesDraft::none(),
    };
    let v4 = value::address::<Ipv4Addr>(Role::Source);
    let v6 = value::address::<Ipv6Addr>(Role::Source);
    let key4 = key("source4", Ipv4Addr::EXAMPLE);
    let key6 = key("source6", Ipv6Addr::EXAMPLE);
    SourcesDraft {
        v4: report
            .read(&place, key4, &raw.source4, |text| v4(text))
            .into_list(),
        v6: report
            .read(&place, key6, &raw.source6, |text| v6(text))
            .into_list(),
    }
}

fn nat(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> SourcesDraft {
    match report.table(edge, "nat", &raw.nat) {
        Given::Refused => SourcesDraft::default(),
        Given::Absent => SourcesDraft::none(),
        Given::Value(Located { value: raw, place }) => SourcesDraft {
            v4: nat_sources(report, &place, "source4", &raw.source4),
            v6: nat_sources(report, &place, "source6", &raw.source6),
        },
    }
}

fn nat_sources<A>(
    report: &mut Report<'_>,
    nat: &Place,
    name: &'static str,
    raw: &raw::Texts,
) -> Option<Vec<Located<A>>>
where
    A: Copy + Eq + std::hash::Hash + std::str::FromStr + std::fmt::Display + Into<IpAddr> + Family,
{
    let key = key(name, A::LIST_EXAMPLE);
    let list = match report.read(nat, key, raw, Ok) {
        Given::Value(list) => list,
        Given::Refused => return None,
        Given::Absent => return Some(Vec::new()),
    };
    let located = report.items(&list, key, value::address::<A>(Role::Source));
    unique(report, &located, A::to_string);
    if let Some(extra) = list.value.get(NAT_SOURCES) {
        report.error(
            &list.place.index(NAT_SOURCES, extra.span.start),
            format!("is one too many: there can be {NAT_SOURCES} source addresses per family"),
            "remove it, and those after it",
        );
    }
    (located.len() == list.value.len()).then_some(located)
}

/// Reports every value of a list that was there before.
fn unique<T: Eq + std::hash::Hash>(
    report: &mut Report<'_>,
    list: &[Located<T>],
    shown: impl Fn(&T) -> String,
) {
    let mut seen = HashSet::new();
    for Located { value, place } in list {
        if !seen.insert(value) {
            let message = format!("{} is in the list already", shown(value));
            report.error(place, message, "remove it here");
        }
    }
}

fn limits(report: &mut Report<'_>, edge: &Place, raw: &raw::Edge) -> Option<LimitsDraft> {
    let raw = match report.table(edge, "limits", &raw.limits) {
        Given::Value(located) => located,
        Given::Refused => return None,
        Given::Absent => Located {
            value: &raw::Limits::NONE,
            place: edge.clone(),
        },
    };
    let Located { value: raw, place } = raw;
    let flows = value::number(1024..=67_108_864);
    let services = value::number(1..=1000);
    let endpoints = value::number(1..=10_000);
    Some(LimitsDraft {
        flows: report
            .read(&place, key("flows", "1048576"), &raw.flows, flows)
            .or(&place, 1_048_576),
        services: report
            .read(&place, key("services", "64"), &raw.services, services)
            .or(&place, 64),
        endpoints: report
            .read(&place, key("endpoints", "1024"), &raw.endpoints, endpoints)
            .or(&place, 1024),
        table_size: report
            .read(
                &place,
                key("table_size", "16381"),
                &raw.table_size,
                value::table_size,
            )
            .or(&place, 16_381),
    })
}
