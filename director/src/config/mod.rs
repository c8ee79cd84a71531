//! The configuration file, `director.toml`: from TOML to a valid [`Config`].
//!
//! Everything wrong with a file is reported at once, each problem with line,
//! column, key, and what mends it. The steps: the parser of TOML; the file as
//! serde structures in which a value of a wrong type is a finding, not the end
//! (`raw`, `field`); values, then relations between them (`valid`), reported
//! gathered in one report (`report`).

mod field;
mod place;
mod prefix;
mod problem;
mod raw;
mod report;
mod valid;
mod words;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use director_core::{l7::L7, model::Model};
use serde::Deserialize as _;

use self::{field::Table, place::Place, report::Report};

pub use self::{
    prefix::Prefix,
    problem::{ConfigErrors, Problem},
};

/// The largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 4 * 1024 * 1024;

/// A valid configuration: references resolve, families agree, every number is
/// in its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The host that steers.
    pub edge: Edge,
    /// What is steered. In an HTTP probe, an empty `host` stands for the
    /// endpoint's own address.
    pub model: Model,
    /// What the edge proxy serves.
    pub l7: L7,
    /// Probes that may be under way at once.
    pub probe_concurrency: usize,
}

/// The host that steers: where packets come in, and where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// This edge among others.
    pub name: String,
    /// Interfaces to attach to: at least one, each named once. They may be
    /// missing on this host.
    pub interfaces: Vec<String>,
    /// Where in the receive path the program runs.
    pub attach: Attach,
    /// Directory for pins, directly under a BPF file system.
    pub pin_dir: PathBuf,
    /// Path of the control socket, absolute, at most 107 bytes.
    pub socket: PathBuf,
    /// Where metrics are served; a loopback address.
    pub metrics: SocketAddr,
    /// How long after a change of a table a flow that is not recorded stays
    /// where the table had it before.
    pub hold: Duration,
    /// Sources whose packets to a VIP are dropped: at most a million, no two the
    /// same.
    pub deny: Vec<Prefix>,
    /// Outer source addresses of tunnelled packets. Present for the family of
    /// every endpoint of a service in tunnel mode.
    pub tunnel: TunnelSources,
    /// Source addresses of NAT mode. At least one for the family of every
    /// service in NAT mode.
    pub nat: NatSources,
    /// What is said by ICMP and ICMPv6.
    pub icmp: IcmpPolicy,
    /// Sizes of tables.
    pub limits: Limits,
}

/// Where in the receive path the XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// In the driver where it can, else in the generic path.
    Auto,
    /// In the driver, or not at all.
    Driver,
    /// In the generic path, which works on any interface and is slower.
    Generic,
}

/// Outer source addresses by family. Where there is a prefix, its further bits
/// vary by flow, so that networks and servers spread flows by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSources {
    /// Of packets to IPv4 endpoints: the address, or the first of its prefix.
    pub v4: Option<Ipv4Addr>,
    /// Of packets to IPv6 endpoints, in the same manner.
    pub v6: Option<Ipv6Addr>,
    /// Bits of `v4` that are the same for every flow: 32 for a single address.
    pub prefix4: u8,
    /// Bits of `v6` that are the same for every flow: 128 for a single address.
    pub prefix6: u8,
    /// UDP port that servers take GUE packets on.
    pub gue_port: u16,
}

/// No source, and the port that IANA gave to GUE.
impl Default for TunnelSources {
    fn default() -> Self {
        Self {
            v4: None,
            v6: None,
            prefix4: 32,
            prefix6: 128,
            gue_port: 6080,
        }
    }
}

/// What is said by ICMP and ICMPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpPolicy {
    /// Whether echo requests to VIPs are answered.
    pub echo: bool,
    /// ICMP packets that are made a second and CPU.
    pub rate: u32,
}

impl Default for IcmpPolicy {
    fn default() -> Self {
        Self {
            echo: true,
            rate: 1000,
        }
    }
}

/// Source addresses of NAT mode by family: up to four each, no two the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSources {
    /// Of IPv4 packets.
    pub v4: Vec<Ipv4Addr>,
    /// Of IPv6 packets.
    pub v6: Vec<Ipv6Addr>,
}

/// How much the maps in the kernel hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Recorded flows per address family.
    pub flows: u32,
    /// Flows in NAT mode per address family.
    pub nat_flows: u32,
    /// Services.
    pub services: u32,
    /// Endpoints of all services together.
    pub endpoints: u32,
    /// Slots of each service's Maglev table; prime.
    pub table_size: u32,
}

/// A configuration, and what looks wrong in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is allowed and probably not meant, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Reads a configuration file.
///
/// # Errors
/// When the file cannot be read, is larger than 4 MiB or is not UTF-8; else as
/// [`parse`].
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    let file = path.display().to_string();
    let bytes = read(path).map_err(|error| ConfigErrors::Unreadable {
        file: file.clone(),
        message: format!("cannot be read: {error}"),
        help: match error.kind() {
            io::ErrorKind::NotFound => "name the file with --config",
            io::ErrorKind::PermissionDenied => "let the user who runs director read it",
            io::ErrorKind::FileTooLarge => "a configuration has at most 4 MiB",
            _ => "name a regular file that can be read",
        }
        .to_owned(),
    })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse_in(directory_of(path), text, &file),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let mut report = Report::new(&valid);
            let mut place = Place::root();
            place.at = valid.len();
            report.error(
                &place,
                "from here on, the file is not UTF-8",
                "save it as UTF-8, the only encoding of TOML",
            );
            Err(invalid(&file, report))
        }
    }
}

/// At most the limit, whatever kind of file it is.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 4 MiB",
        ));
    }
    Ok(bytes)
}

/// Reads a configuration from its text. `file` is the name to report it by, and
/// what a `deny_file` is looked for beside.
///
/// # Errors
/// With every problem of the text and of the file that it names. When it is not
/// TOML at all, only with where it is not: what the keys then mean is a guess.
pub fn parse(text: &str, file: &str) -> Result<Loaded, ConfigErrors> {
    parse_in(directory_of(Path::new(file)), text, file)
}

fn directory_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

fn parse_in(directory: &Path, text: &str, file: &str) -> Result<Loaded, ConfigErrors> {
    let mut report = Report::new(text);
    let Some(root) = toml(&mut report, text) else {
        return Err(invalid(file, report));
    };
    let config = valid::config(&mut report, &root, directory);
    let (errors, warnings) = report.finish();
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(ConfigErrors::Invalid {
            file: file.to_owned(),
            problems: errors,
        }),
    }
}

fn toml(report: &mut Report<'_>, text: &str) -> Option<Table<raw::Root>> {
    let (document, mut errors) = toml::de::DeTable::parse_recoverable(text);
    let root = if errors.is_empty() {
        // Only a number too large for any type stops the structures.
        Table::deserialize(toml::de::Deserializer::from(document))
            .map_err(|error| errors.push(error))
            .ok()
    } else {
        None
    };
    for error in errors {
        let mut place = Place::root();
        place.at = error.span().map_or(text.len(), |span| span.start);
        let message = format!("this is not TOML: {}", error.message());
        report.error(
            &place,
            message,
            "see https://toml.io for how TOML is written",
        );
    }
    root
}

fn invalid(file: &str, report: Report<'_>) -> ConfigErrors {
    ConfigErrors::Invalid {
        file: file.to_owned(),
        problems: report.finish().0,
    }
}
