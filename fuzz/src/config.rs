//! Any text is a configuration that survives being written and read, or is
//! refused with reasons that lie within it.

pub use director::config::{Config, Edge, Prefix, TunnelSources};
use director::config::{ConfigErrors, Loaded, Problem, parse};

use self::written::written;

#[path = "../../director/src/config/tests/written.rs"]
mod written;

pub fn check(bytes: &[u8]) {
    // What is no UTF-8 is refused before.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // It leads to other files, of which there are none that stay the same.
    if text.contains("deny_file") {
        return;
    }
    match parse(text, "director.toml") {
        Ok(loaded) => survives(text, &loaded),
        Err(ConfigErrors::Unreadable { .. }) => panic!("no file was read"),
        Err(ConfigErrors::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a reason");
            within(text, &problems);
        }
    }
}

fn survives(text: &str, loaded: &Loaded) {
    within(text, &loaded.warnings);
    let text = written(&loaded.config);
    match parse(&text, "director.toml") {
        Ok(again) => {
            assert_eq!(again.config, loaded.config, "{text}");
            assert_eq!(written(&again.config), text);
        }
        Err(errors) => panic!("what was written is refused:\n{errors}\n{text}"),
    }
}

fn within(text: &str, problems: &[Problem]) {
    for problem in problems {
        let line = text.split('\n').nth(problem.line - 1);
        let columns = line.map(|line| line.chars().count() + 1);
        assert!(
            columns.is_some_and(|columns| (1..=columns).contains(&problem.column)),
            "outside of the text: {problem:?}"
        );
        assert!(!problem.message.is_empty() && !problem.help.is_empty());
        let shown = [
            &problem.key,
            &problem.place,
            &problem.message,
            &problem.help,
        ];
        let has_controls = |text: &&String| text.contains(|c: char| c.is_control());
        assert!(!shown.iter().any(has_controls), "{problem:?}");
    }
    assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
}
