//! Edits of a valid file, and exactly what is said of each: `cases/*.txt`.
//!
//! A case is a paragraph. `12: text` puts the text in the place of line 12 of
//! the file, `base.toml`, `full.toml` or `http.toml`; a second `12:` adds a line
//! after it. Then follows each error
//! behind `>`, or each warning behind `?`, or `ok`. Lines behind `#` are titles.

use std::collections::BTreeMap;

use super::{super::parse, BASE, FULL, HTTP};

#[test]
fn edge() {
    check(BASE, include_str!("cases/edge.txt"));
}

#[test]
fn health() {
    check(BASE, include_str!("cases/health.txt"));
}

#[test]
fn services() {
    check(BASE, include_str!("cases/services.txt"));
}

#[test]
fn relations() {
    check(BASE, include_str!("cases/relations.txt"));
}

#[test]
fn path() {
    check(FULL, include_str!("cases/path.txt"));
}

#[test]
fn steering() {
    check(FULL, include_str!("cases/steering.txt"));
}

#[test]
fn http() {
    check(HTTP, include_str!("cases/http.txt"));
}

/// Runs every case, and fails with all that differ.
#[track_caller]
fn check(base: &str, cases: &str) {
    let paragraphs = cases.split("\n\n").map(str::trim);
    let cases = paragraphs.filter(|case| !case.is_empty() && !case.starts_with('#'));
    let mut count = 0;
    let mut failures = String::new();
    for case in cases {
        count += 1;
        let is_edit = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
        let edits: Vec<_> = case.lines().take_while(is_edit).collect();
        let expected: Vec<_> = case.lines().skip(edits.len()).collect();
        let said = said_of(&edited(base, &edits));
        if said != expected {
            failures += &format!("{case}\nbut was:\n{}\n\n", said.join("\n"));
        }
    }
    assert!(count > 0, "there are no cases");
    assert!(failures.is_empty(), "\n{failures}");
}

fn edited(base: &str, edits: &[&str]) -> String {
    let mut replaced: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for edit in edits {
        let (number, text) = edit.split_once(':').unwrap();
        let line = replaced.entry(number.parse().unwrap()).or_default();
        line.push(text.strip_prefix(' ').unwrap_or(text));
    }
    let lines = base.lines().enumerate();
    let lines = lines.map(|(index, line)| match replaced.remove(&(index + 1)) {
        Some(new) => new.join("\n"),
        None => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(replaced.is_empty(), "no such lines: {replaced:?}");
    text
}

fn said_of(text: &str) -> Vec<String> {
    let (mark, problems) = match parse(text, "director.toml") {
        Ok(loaded) if loaded.warnings.is_empty() => return vec!["ok".to_owned()],
        Ok(loaded) => ('?', loaded.warnings),
        Err(errors) => ('>', errors.problems().to_vec()),
    };
    let lines = problems.iter().flat_map(|problem| {
        [
            format!(
                "{mark} {}:{} {}: {}",
                problem.line, problem.column, problem.key, problem.message
            ),
            format!("{mark}   help: {}", problem.help),
        ]
    });
    lines.collect()
}
