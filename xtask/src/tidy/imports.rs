//! Who may use what. ARCHITECTURE.md says why; here is that it holds.

use std::path::Path;

use super::paths::{Named, named};
use super::{Finding, Source};

/// A foreign crate, and the folders it may appear in.
struct Confined {
    is: fn(&str) -> bool,
    to: &'static [&'static str],
    why: &'static str,
}

const CONFINED: [Confined; 3] = [
    Confined {
        is: |name| name == "aya" || name == "aya_obj",
        to: &["director/src/datapath", "director/tests/packets", "bench"],
        why: "the kernel is reached through director's datapath only",
    },
    Confined {
        is: |name| name == "aya_ebpf",
        to: &["director-ebpf/src/bpf"],
        why: "everything else of director-ebpf builds and is tested on the host",
    },
    Confined {
        is: |name| name == "pingora" || name.starts_with("pingora_"),
        to: &["director/src/l7"],
        why: "the proxy is reached through director's l7 only",
    },
];

/// Our crates, as code names them.
const OURS: [&str; 7] = [
    "director",
    "director_core",
    "director_ebpf",
    "health_probes",
    "director_bench",
    "director_fuzz",
    "xtask",
];

/// Crates that use none of ours: folder and own name.
pub const LEAVES: [(&str, &str); 3] = [
    ("director/core", "director_core"),
    ("director-ebpf", "director_ebpf"),
    ("health-probes", "health_probes"),
];

/// Where the adapters are, and which they are. Each knows one part of the world;
/// the daemon and the CLI join them.
const ADAPTERS_IN: &str = "director/src";
const ADAPTERS: [&str; 7] = [
    "datapath", "probes", "net", "control", "metrics", "l7", "store",
];

/// Applies every rule.
pub fn check(source: &Source<'_>) -> Vec<Finding> {
    let paths = match named(source.text) {
        Ok(paths) => paths,
        Err(error) => return vec![source.finding(1, error.to_string())],
    };
    let adapter = adapter_of(source.path);
    let leaf = LEAVES
        .iter()
        .find(|(folder, _)| source.path.starts_with(folder));
    let mut findings = Vec::new();
    for path in &paths {
        findings.extend(confined(source.path, path));
        if let Some((_, own)) = leaf {
            findings.extend(foreign_in_leaf(path, own));
        }
        if let Some(adapter) = adapter {
            findings.extend(between_adapters(source.path, path, adapter));
        }
    }
    let mut findings: Vec<Finding> = findings
        .into_iter()
        .map(|(line, message)| source.finding(line, message))
        .collect();
    findings.dedup();
    findings
}

type Found = Option<(usize, String)>;

fn confined(file: &Path, path: &Named) -> Found {
    let first = &path.segments[0];
    // A lone identifier may be a variable of that name.
    if path.segments.len() < 2 {
        return None;
    }
    let rule = CONFINED.iter().find(|rule| (rule.is)(first))?;
    if rule.to.iter().any(|folder| file.starts_with(folder)) {
        return None;
    }
    let folders = rule.to.join(", ");
    Some((
        path.line,
        format!("{first} outside of {folders}: {}", rule.why),
    ))
}

fn foreign_in_leaf(path: &Named, own: &str) -> Found {
    let first = path.segments[0].as_str();
    // A lone identifier may be a variable of that name.
    if path.segments.len() < 2 || first == own || !OURS.contains(&first) {
        return None;
    }
    Some((
        path.line,
        format!("{own} uses {first}: it is a leaf and uses no crate of ours"),
    ))
}

/// `datapath` for `director/src/datapath.rs` and `director/src/datapath/maps.rs`.
fn adapter_of(file: &Path) -> Option<&'static str> {
    let inside = file.strip_prefix(ADAPTERS_IN).ok()?;
    let first = inside.components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?;
    ADAPTERS.into_iter().find(|adapter| name == *adapter)
}

fn between_adapters(file: &Path, path: &Named, own: &str) -> Found {
    let module = in_crate(file, &path.segments)?;
    let other = ADAPTERS.iter().find(|adapter| *module == **adapter)?;
    if *other == own {
        return None;
    }
    Some((
        path.line,
        format!("adapter {own} uses adapter {other}: the daemon joins them"),
    ))
}

/// The top-level module a path leads to, when it is written from the crate's
/// root or with enough `super`s to be there.
fn in_crate<'a>(file: &Path, segments: &'a [String]) -> Option<&'a String> {
    let supers = segments
        .iter()
        .take_while(|segment| *segment == "super")
        .count();
    if supers > 0 {
        return (supers >= depth(file))
            .then(|| segments.get(supers))
            .flatten();
    }
    (segments[0] == "crate").then(|| segments.get(1)).flatten()
}

/// How many modules deep a file of director is; `director/src/net.rs` is one.
fn depth(file: &Path) -> usize {
    let below = file.strip_prefix(ADAPTERS_IN).unwrap_or(file);
    let folders = below.components().count();
    let is_mod = below.file_name().is_some_and(|name| name == "mod.rs");
    folders - usize::from(is_mod)
}

#[cfg(test)]
mod tests {
    use super::super::found;

    fn none(file: &str, text: &str) {
        assert_eq!(found(file, text), Vec::<String>::new(), "{file}: {text}");
    }

    fn one(file: &str, text: &str, part: &str) {
        let found = found(file, text);
        assert_eq!(found.len(), 1, "{file}: {text}: {found:?}");
        assert!(found[0].contains(part), "{found:?}");
    }

    #[test]
    fn aya_stays_in_the_datapath() {
        let text = "use aya::maps::HashMap;\n";
        none("director/src/datapath/maps.rs", text);
        none("bench/src/xdp.rs", text);
        one("director/src/daemon/mod.rs", text, "1: aya outside of");
        one(
            "director/src/net.rs",
            "fn f() { aya::x(); }",
            "aya outside of",
        );
        none("director/src/net.rs", "fn f() { say(\"aya\"); }");
    }

    #[test]
    fn the_kernel_library_stays_in_the_programs() {
        none(
            "director-ebpf/src/bpf/main.rs",
            "use aya_ebpf::macros::xdp;",
        );
        one(
            "director-ebpf/src/parse.rs",
            "use aya_ebpf::macros::xdp;",
            "aya_ebpf outside of",
        );
    }

    #[test]
    fn pingora_stays_in_l7() {
        none("director/src/l7/mod.rs", "use pingora::prelude::*;");
        one(
            "director/src/cli.rs",
            "use pingora_core::x;",
            "pingora_core outside of",
        );
    }

    #[test]
    fn leaves_use_none_of_ours() {
        one(
            "director/core/src/lib.rs",
            "use director_ebpf::abi;",
            "is a leaf",
        );
        one("health-probes/src/http.rs", "use director::x;", "is a leaf");
        none("health-probes/tests/http.rs", "use health_probes::Http;");
        none("director/core/src/lib.rs", "let director = 1;");
        none("director/src/lib.rs", "use director_core::x;");
    }

    #[test]
    fn adapters_do_not_use_each_other() {
        one(
            "director/src/probes.rs",
            "use crate::net::links;",
            "adapter probes uses adapter net",
        );
        one(
            "director/src/probes.rs",
            "use crate::{api, net::links};",
            "uses adapter net",
        );
        one(
            "director/src/probes.rs",
            "use super::net;",
            "uses adapter net",
        );
        one(
            "director/src/datapath/maps.rs",
            "use super::super::net;",
            "uses adapter net",
        );
        one(
            "director/src/datapath/mod.rs",
            "fn f() { crate::metrics::add(); }",
            "uses adapter metrics",
        );
    }

    #[test]
    fn configuration_and_own_parts_may_be_used() {
        none("director/src/probes.rs", "use crate::config::Config;");
        none(
            "director/src/datapath/maps.rs",
            "use crate::datapath::pins;",
        );
        none("director/src/datapath/apply.rs", "use super::net;");
        none(
            "director/src/daemon/mod.rs",
            "use crate::{net, probes, datapath};",
        );
    }
}
