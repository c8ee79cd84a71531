//! Rules about `Cargo.toml` files.

use super::imports::LEAVES;
use super::{Finding, Source};

/// Our packages, as manifests name them.
const OURS: [&str; 7] = [
    "director",
    "director-core",
    "director-ebpf",
    "health-probes",
    "director-bench",
    "director-fuzz",
    "xtask",
];

/// Applies every rule.
pub fn check(source: &Source<'_>) -> Vec<Finding> {
    let manifest: toml::Table = match source.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![source.finding(1, format!("not TOML: {error}"))],
    };
    if !manifest.contains_key("package") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let lints = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"));
    if lints.and_then(toml::Value::as_bool) != Some(true) {
        findings.push(source.finding(
            1,
            "the workspace's lints are not in force: add [lints] workspace = true",
        ));
    }
    let folder = source.path.parent();
    if LEAVES
        .iter()
        .any(|(leaf, _)| folder.is_some_and(|folder| folder.ends_with(leaf)))
    {
        for name in dependencies(&manifest) {
            if OURS.contains(&name.as_str()) {
                let line = line_of(source.text, &name);
                findings.push(source.finding(
                    line,
                    format!("depends on {name}: it is a leaf and uses no crate of ours"),
                ));
            }
        }
    }
    findings
}

/// Names of all dependencies, of whatever kind.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut names = Vec::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = std::iter::once(manifest).chain(
        targets
            .into_iter()
            .flat_map(|targets| targets.values().filter_map(toml::Value::as_table)),
    );
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            if let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) {
                names.extend(dependencies.keys().cloned());
            }
        }
    }
    names
}

/// The line on which a dependency is declared.
fn line_of(text: &str, name: &str) -> usize {
    let declares = |line: &str| {
        let rest = line.trim_start().strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    text.lines().position(declares).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::super::found;

    #[test]
    fn every_package_takes_the_lints_of_the_workspace() {
        let with = "[package]\nname = \"a\"\n[lints]\nworkspace = true\n";
        assert_eq!(found("a/Cargo.toml", with), Vec::<String>::new());
        assert_eq!(found("a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
        assert_eq!(found("Cargo.toml", "[workspace]\n"), Vec::<String>::new());
    }

    #[test]
    fn leaves_depend_on_none_of_ours() {
        let text = "[package]\nname = \"health-probes\"\n[lints]\nworkspace = true\n\
                    [dev-dependencies]\ntokio = \"1\"\ndirector-core.workspace = true\n";
        let found = found("health-probes/Cargo.toml", text);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("7: depends on director-core"),
            "{found:?}"
        );
        assert_eq!(
            super::super::found("bench/Cargo.toml", text),
            Vec::<String>::new()
        );
    }
}
