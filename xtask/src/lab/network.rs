//! Makes the topology on this machine, and removes it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::netns::within;
use super::topology::{End, Host, LAN, Link, Role, Topology};
use crate::{cancel, run};

/// Where iproute2 keeps named network namespaces.
const NETNS_DIR: &str = "/run/netns";

/// The file of a lab's namespace.
pub fn netns_path(prefix: &str, host: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(format!("{prefix}-{host}"))
}

/// Makes all of it.
///
/// # Errors
/// When a step fails; what was made until then stays, for [`remove`].
pub fn make(prefix: &str, topology: &Topology) -> Result<()> {
    let names: String = topology
        .hosts
        .iter()
        .map(|host| format!("netns add {prefix}-{}\n", host.name))
        .collect();
    batch("ip", None, &names).context("cannot make the lab's network namespaces")?;
    for host in &topology.hosts {
        cancel::check()?;
        within(&netns_path(prefix, &host.name), || settings(host.role))
            .with_context(|| format!("cannot set up the kernel for host {}", host.name))?;
    }
    let links: String = topology
        .links
        .iter()
        .map(|link| link_line(prefix, link))
        .collect();
    batch("ip", None, &links).context("cannot make the lab's links")?;
    for end in topology.links.iter().flat_map(|link| &link.ends) {
        offloads(prefix, end)?;
    }
    for switch in &topology.switches {
        // The network has no loops, and neighbours are found by multicast.
        let line = format!("link add {LAN} type bridge stp_state 0 mcast_snooping 0\n");
        ip_batch(prefix, switch, &line)?;
    }
    for host in &topology.hosts {
        cancel::check()?;
        set_up(prefix, host)?;
    }
    wait_usable(prefix, topology)
}

/// Configures a host's addresses and routes, for the first time or again.
///
/// # Errors
/// When `ip` refuses a line.
pub fn set_up(prefix: &str, host: &Host) -> Result<()> {
    ip_batch(prefix, &host.name, &host.setup)
}

/// Runs lines of `ip -batch` in a host's namespace.
///
/// # Errors
/// When `ip` refuses one; those before it have taken effect.
pub fn ip_batch(prefix: &str, host: &str, lines: &str) -> Result<()> {
    batch("ip", Some(&netns_path(prefix, host)), lines).with_context(|| format!("on host {host}"))
}

/// Runs `ip` in a host's namespace, and returns what it prints.
///
/// # Errors
/// When it fails.
pub fn ip(prefix: &str, host: &str, args: &[&str]) -> Result<String> {
    let mut command = run::tool("ip");
    command.args(args).process_group(0);
    within(&netns_path(prefix, host), || run::capture(&mut command))
        .with_context(|| format!("on host {host}"))
}

/// Waits until every address can be used and every link has carrier.
///
/// # Errors
/// When that does not come about.
pub fn wait_usable(prefix: &str, topology: &Topology) -> Result<()> {
    for host in &topology.hosts {
        let what = format!(
            "host {} has links with carrier and usable addresses",
            host.name
        );
        cancel::wait_until(&what, Duration::from_secs(10), || {
            let tentative = ip(
                prefix,
                &host.name,
                &["-6", "-o", "address", "show", "tentative"],
            )?;
            let links = ip(prefix, &host.name, &["-o", "link", "show", "up"])?;
            let up = links
                .lines()
                .filter(|line| line.contains("LOWER_UP"))
                .count();
            // The interfaces, the loopback and a bridge.
            let all = topology.interfaces(&host.name).len()
                + 1
                + usize::from(topology.switches.contains(&host.name));
            Ok(tentative.is_empty() && up == all)
        })?;
    }
    Ok(())
}

/// Removes every namespace of the lab that is there, and with them links,
/// addresses and routes. Returns what went wrong.
pub fn remove(prefix: &str, topology: &Topology) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    for host in &topology.hosts {
        let path = netns_path(prefix, &host.name);
        if !path.exists() {
            continue;
        }
        let mut command = run::tool("ip");
        command
            .args(["netns", "delete", &format!("{prefix}-{}", host.name)])
            .process_group(0);
        if let Err(error) = run::capture(&mut command) {
            errors.push(error);
        }
    }
    errors
}

/// Feeds `-batch` of iproute2's `program`, in the namespace at `netns` or in our own.
fn batch(program: &str, netns: Option<&Path>, lines: &str) -> Result<()> {
    let feed = || -> Result<()> {
        // A group of its own, so that Ctrl-C does not stop it half way: cleaning
        // up runs this too.
        let mut child = run::tool(program)
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))?;
        let mut stdin = child.stdin.take().context("a pipe that was asked for")?;
        // It stops reading at the first line that fails; its exit code tells.
        let _ = stdin.write_all(lines.as_bytes());
        drop(stdin);
        let output = child
            .wait_with_output()
            .with_context(|| format!("cannot wait for `{program}`"))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Err(failed_line(program, lines, &message))
    };
    match netns {
        Some(path) => within(path, feed),
        None => feed(),
    }
}

/// Names the line that iproute2 says it failed at ("Command failed -:7").
fn failed_line(program: &str, lines: &str, message: &str) -> anyhow::Error {
    let line = message
        .rsplit_once("-:")
        .and_then(|(_, number)| number.trim().parse::<usize>().ok())
        .and_then(|number| lines.lines().nth(number.checked_sub(1)?));
    match line {
        Some(line) => anyhow!("`{program} {line}` failed: {}", message.trim()),
        None => anyhow!("`{program} -batch` failed: {}", message.trim()),
    }
}

/// Queues of each veth. A ring of one holds 256 packets and drops what comes
/// beyond; many rings take the burst when a server's thousands of connections
/// close at once. (A qdisc would let packets wait instead. But then a full ring
/// stops the transmit queue, and on Linux 6.18 such a queue was seen to stay
/// stopped for seconds, with half of a link's flows behind it.)
const QUEUES: usize = 16;

fn link_line(prefix: &str, link: &Link) -> String {
    let end = |end: &End| {
        format!(
            "name {} netns {prefix}-{} mtu {} numtxqueues {QUEUES} numrxqueues {QUEUES}",
            end.interface, end.host, link.mtu
        )
    };
    let [one, other] = &link.ends;
    format!("link add {} type veth peer {}\n", end(one), end(other))
}

/// Checksums and segments are made in software before a packet leaves: an XDP
/// program and the host behind it see frames as they would be on a wire. GRO is
/// on because it makes veth receive by NAPI, without which it takes no frames
/// that an XDP program on the other end redirects to it.
fn offloads(prefix: &str, end: &End) -> Result<()> {
    let mut command = run::tool("ethtool");
    command
        .args(["-K", &end.interface, "tx", "off", "sg", "off", "tso", "off"])
        .args(["gso", "off", "gro", "on"])
        .process_group(0);
    within(&netns_path(prefix, &end.host), || {
        run::capture(&mut command)
    })
    .map(drop)
    .with_context(|| {
        format!(
            "cannot set offloads of {} on host {}",
            end.interface, end.host
        )
    })
}

/// Kernel settings of every host.
const EVERYWHERE: &[(&str, &str)] = &[
    // Replies come another way than requests went.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // Addresses are unique by construction, and usable at once.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/keep_addr_on_down", "1"),
    ("net/ipv6/conf/default/keep_addr_on_down", "1"),
];

/// Kernel settings of hosts that forward.
const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// Kernel settings of hosts that hold or open tens of thousands of connections.
const CONNECTIONS: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_max_tw_buckets", "1048576"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "65535"),
    ("net/core/somaxconn", "65535"),
];

/// Kernel settings of hosts that hold the VIP, as others do: they must neither
/// answer for it nor ask in its name (direct return).
const SILENT_VIP: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
];

/// Applies a role's settings to the namespace of the calling thread. They come
/// before the links, which inherit `default`.
fn settings(role: Role) -> Result<()> {
    let groups: &[&[(&str, &str)]] = match role {
        Role::Client => &[EVERYWHERE, CONNECTIONS],
        Role::Edge => &[FORWARDING, EVERYWHERE, CONNECTIONS],
        Role::Router => &[FORWARDING, EVERYWHERE],
        Role::Server => &[EVERYWHERE, CONNECTIONS, SILENT_VIP],
    };
    for (name, value) in groups.iter().copied().flatten() {
        let file = Path::new("/proc/sys").join(name);
        std::fs::write(&file, value)
            .with_context(|| format!("cannot write {value} to {}", file.display()))?;
    }
    Ok(())
}

/// Processes still inside the lab's namespaces, as "PID (NAME) on HOST".
pub fn processes_inside(prefix: &str, topology: &Topology) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let hosts: Vec<_> = topology
        .hosts
        .iter()
        .filter_map(|host| Some((identity(&netns_path(prefix, &host.name))?, &host.name)))
        .collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(inside) = identity(&entry.path().join("ns/net")) else {
            continue;
        };
        if let Some((_, host)) = hosts.iter().find(|(identity, _)| *identity == inside) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let pid = entry.file_name();
            found.push(format!("{} ({}) on {host}", pid.display(), name.trim()));
        }
    }
    found
}

/// Refuses a prefix that cannot name namespaces and folders.
///
/// # Errors
/// As said.
pub fn check_prefix(prefix: &str) -> Result<()> {
    let fits = !prefix.is_empty() && prefix.len() <= 40 && !prefix.starts_with('-');
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !fits || !prefix.chars().all(plain) {
        bail!(run::Usage(format!(
            "a lab's prefix is 1 to 40 of a-z, 0-9 and -, not starting with -: {prefix:?} is not"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    #[test]
    fn the_failed_line_is_named() {
        let error = failed_line("ip", "link a\nlink b\n", "Error: no.\nCommand failed -:2\n");
        assert!(
            error.to_string().starts_with("`ip link b` failed"),
            "{error}"
        );
        let error = failed_line("ip", "link a\n", "Object unknown");
        assert!(error.to_string().contains("Object unknown"), "{error}");
    }

    #[test]
    fn prefixes_that_could_leave_the_folder_are_refused() {
        check_prefix("director-drill-123").unwrap();
        for bad in ["", "../etc", "a b", "Über", "-rf", &"x".repeat(41)] {
            let error = check_prefix(bad).unwrap_err();
            assert!(error.downcast_ref::<run::Usage>().is_some(), "{bad}");
        }
    }
}
