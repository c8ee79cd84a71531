//! Rules about any text: size, loose ends, machines' own paths, blanks at line ends.

use super::{Finding, Source};

/// Most lines of a Rust file. The aim is 400.
const MOST_LINES: usize = 450;
/// Folders of particular machines. No file may depend on one, or tell of it.
/// Split, so that this file does not break the rule.
const MACHINE_FOLDERS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];
const LOOSE_ENDS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// Applies every rule.
pub fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.is_rust() {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            findings.push(source.finding(
                MOST_LINES + 1,
                format!("{lines} lines, at most {MOST_LINES}: split the file by what it does"),
            ));
        }
    }
    // Not ours to write.
    let generated = source.path.ends_with("Cargo.lock");
    for (index, line) in source.text.lines().enumerate() {
        if generated {
            break;
        }
        findings.extend(
            line_findings(line)
                .into_iter()
                .map(|message| source.finding(index + 1, message)),
        );
    }
    findings
}

fn line_findings(line: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if line.ends_with([' ', '\t', '\r']) {
        messages.push("blanks at the end of the line".to_owned());
    }
    for word in LOOSE_ENDS {
        if has_bare_word(line, word) {
            messages.push(format!(
                "{word} without a reason: write `{word}: why not now`, or do it"
            ));
        }
    }
    for folder in MACHINE_FOLDERS {
        if has_absolute(line, folder) {
            messages.push(format!("{folder} is a folder of one machine"));
        }
    }
    messages
}

/// Whether `word` stands in the line without a colon and words after it.
fn has_bare_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let part_of_another = before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            || after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let reason = after.strip_prefix(':').unwrap_or_default();
        !part_of_another && reason.split_whitespace().count() < 2
    })
}

/// Whether a path that begins with `folder` stands in the line, rather than one
/// that has it further down.
fn has_absolute(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let part_of_another = |c: char| c.is_alphanumeric() || "_-.~}*".contains(c);
        !line[..at].ends_with(part_of_another)
    })
}

#[cfg(test)]
mod tests {
    use super::super::found;
    use super::*;

    #[test]
    fn long_rust_files_are_found_and_long_texts_are_not() {
        let long = "//\n".repeat(MOST_LINES + 1);
        assert_eq!(found("a.rs", &long).len(), 1);
        assert_eq!(found("a.md", &long), Vec::<String>::new());
        assert_eq!(
            found("a.rs", &"//\n".repeat(MOST_LINES)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn blanks_at_line_ends_are_found() {
        let found = found("README.md", "one\ntwo \nthree\t\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("2: blanks"));
    }

    #[test]
    fn loose_ends_need_a_reason() {
        let [todo, fixme] = LOOSE_ENDS;
        for bare in [
            format!("// {todo}"),
            format!("// {fixme} later"),
            format!("//! {todo}:"),
        ] {
            assert_eq!(found("a.rs", &bare).len(), 1, "{bare}");
        }
        for fine in [
            format!("// {todo}: needs kernel 7.1"),
            format!("let {todo}S = 1;"),
        ] {
            assert_eq!(found("a.rs", &fine), Vec::<String>::new(), "{fine}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let [_, folder, _] = MACHINE_FOLDERS;
        assert_eq!(found("a.toml", &format!("dir = \"{folder}x\"")).len(), 1);
        assert_eq!(
            found("a.toml", &format!("dir = \"srv{folder}x\"")),
            Vec::<String>::new()
        );
        assert_eq!(
            found("Cargo.lock", &format!("\"{folder}x\"")),
            Vec::<String>::new()
        );
    }
}
