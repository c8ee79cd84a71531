//! Prefixes that a file of their own lists.

use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::{
    super::{ConfigErrors, Loaded, Prefix, Problem, load},
    FULL,
};

/// A directory with a configuration and a file of prefixes beside it.
struct Beside {
    directory: tempfile::TempDir,
}

impl Beside {
    /// `deny_file` is put into the place of the configuration's `hold`.
    fn new(deny_file: &str, prefixes: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = format!("deny_file = {}", toml::Value::from(deny_file));
        let text = FULL.replace("hold = \"30m\"", &key);
        fs::write(directory.path().join("director.toml"), text).unwrap();
        fs::write(directory.path().join("deny.txt"), prefixes).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self) -> Result<Loaded, ConfigErrors> {
        load(&self.path("director.toml"))
    }

    fn refused(&self) -> Vec<Problem> {
        self.load().unwrap_err().problems().to_vec()
    }

    /// The file's line and column, key and message of each problem.
    fn told(&self, problems: &[Problem]) -> Vec<String> {
        let file = self.path("deny.txt").display().to_string();
        let told = problems.iter().map(|problem| {
            assert_eq!(problem.file.as_ref(), Some(&file), "{problem:?}");
            let Problem {
                line,
                column,
                key,
                message,
                help,
                ..
            } = problem;
            format!("{line}:{column} {key}: {message}; {help}")
        });
        told.collect()
    }
}

fn denied(loaded: &Loaded) -> Vec<String> {
    let deny = loaded.config.edge.deny.iter();
    deny.map(Prefix::to_string).collect()
}

const LISTED: [&str; 3] = ["192.0.2.0/24", "2001:db8:bad::/48", "203.0.113.200/32"];

#[test]
fn a_file_adds_to_the_list_whatever_its_layout() {
    let text = "\u{feff}# blocks\r\n\n  10.0.0.0/8\r\n2001:db8::1 # one\n\t\n\t192.0.2.0/25";
    let beside = Beside::new("deny.txt", text);
    let loaded = beside.load().unwrap();
    let added = ["10.0.0.0/8", "2001:db8::1/128", "192.0.2.0/25"];
    assert_eq!(denied(&loaded), [&LISTED[..], &added].concat());
    assert_eq!(loaded.warnings, []);

    let absolute = beside.path("deny.txt");
    let elsewhere = Beside::new(absolute.to_str().unwrap(), "not this one");
    assert_eq!(denied(&elsewhere.load().unwrap()), denied(&loaded));

    let empty = Beside::new("deny.txt", "");
    assert_eq!(denied(&empty.load().unwrap()), LISTED);
}

#[test]
fn a_wrong_line_is_told_with_the_file_and_its_number() {
    let text = "10.0.0.0/8\n \u{2003}10.0.0.1/8 # é\nexample.org\n";
    let beside = Beside::new("deny.txt", text);
    let errors = beside.load().unwrap_err();
    let expected = [
        "2:3 edge.deny_file: 10.0.0.1/8 has bits set after the first 8; \
         write 10.0.0.0/8 for all of it, or 10.0.0.1 for one address",
        "3:1 edge.deny_file: example.org is not an IP address; \
         write an address such as \"203.0.113.10\"",
    ];
    assert_eq!(beside.told(errors.problems()), expected);
    let shown = errors.to_string();
    let first = format!(
        "{}:2:3: edge.deny_file: 10.0.0.1/8 has",
        beside.path("deny.txt").display()
    );
    assert!(shown.starts_with(&first), "{shown}");
}

#[test]
fn problems_of_the_configuration_come_first() {
    let beside = Beside::new("deny.txt", "nonsense");
    let path = beside.path("director.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\nrate = 100", "\nrate = 0")).unwrap();
    let problems = beside.refused();
    let keys = problems
        .iter()
        .map(|problem| (&*problem.key, problem.file.is_some()));
    let expected = [("edge.icmp.rate", false), ("edge.deny_file", true)];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
}

#[test]
fn a_prefix_that_was_there_is_warned_of_and_left_out() {
    let beside = Beside::new("deny.txt", "10.0.0.0/8\n192.0.2.0/24\n10.0.0.0/8\n");
    let loaded = beside.load().unwrap();
    assert_eq!(denied(&loaded), [&LISTED[..], &["10.0.0.0/8"]].concat());
    let expected = [
        "2:1 edge.deny_file: 192.0.2.0/24 is in deny already; remove it here",
        "3:1 edge.deny_file: 10.0.0.0/8 is on line 1 already; remove it here",
    ];
    assert_eq!(beside.told(&loaded.warnings), expected);
}

#[test]
fn a_file_of_another_kind_is_answered_in_few_words() {
    let beside = Beside::new("deny.txt", "[edge]\n".repeat(1000));
    let problems = beside.refused();
    assert_eq!(problems.len(), 21);
    assert_eq!((&problems[0].file, problems[0].line), (&None, 4));
    assert!(
        problems[0].message.starts_with("1000 lines of "),
        "{problems:?}"
    );

    let beside = Beside::new("deny.txt", "10.0.0.0/8\n".repeat(1001));
    let loaded = beside.load().unwrap();
    assert_eq!(
        (loaded.warnings.len(), loaded.config.edge.deny.len()),
        (21, 4)
    );
    let message = &loaded.warnings[0].message;
    assert!(message.starts_with("1000 lines of "), "{message}");

    let beside = Beside::new("deny.txt", b"\xff\xfe\n".repeat(2));
    assert_eq!(beside.refused().len(), 2);
}

#[test]
fn a_million_prefixes_are_the_most() {
    // Three are in the list.
    let addresses = (0..999_997u32).map(|i| std::net::Ipv4Addr::from(0x0a00_0000 + i));
    let mut text: String = addresses.map(|address| format!("{address}\n")).collect();
    let loaded = Beside::new("deny.txt", &text).load().unwrap();
    assert_eq!(loaded.config.edge.deny.len(), 1_000_000);

    text += "192.0.2.0/24\n2001:db8::/32\n";
    let beside = Beside::new("deny.txt", &text);
    let expected = [
        "999999:1 edge.deny_file: is one too many: 1000000 prefixes can be denied in \
         all; join those that are neighbours",
    ];
    assert_eq!(beside.told(&beside.refused()), expected);
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_the_key() {
    let told = |beside: &Beside| {
        let problems = beside.refused();
        let [problem] = &problems[..] else {
            panic!("{problems:?}");
        };
        assert_eq!(
            (problem.line, problem.column, &problem.file),
            (4, 13, &None)
        );
        assert_eq!(problem.key, "edge.deny_file");
        format!("{}; {}", problem.message, problem.help)
    };
    let beside = Beside::new("none.txt", "");
    let path = beside.path("none.txt");
    let expected = format!(
        "{} cannot be read: No such file or directory (os error 2); \
         name a regular file that director may read, or remove deny_file",
        path.display()
    );
    assert_eq!(told(&beside), expected);

    let directory = told(&Beside::new(".", ""));
    assert!(
        directory.contains("it is not a regular file"),
        "{directory}"
    );
    let device = told(&Beside::new("/dev/zero", ""));
    assert!(device.contains("it is not a regular file"), "{device}");
    for nothing in ["", "a\0b"] {
        let nothing = told(&Beside::new(nothing, ""));
        assert!(nothing.contains("names no file"), "{nothing}");
    }

    let limit = 64 * 1024 * 1024;
    let beside = Beside::new("deny.txt", "");
    let file = fs::File::create(beside.path("deny.txt")).unwrap();
    file.set_len(limit + 1).unwrap();
    let large = told(&beside);
    assert!(large.contains("it is larger than 64 MiB"), "{large}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_file_loads_or_says_why(bytes in "([0-9a-f.:/# \\n\\r]|\\PC){0,200}") {
        let beside = Beside::new("deny.txt", &bytes);
        let (problems, is_refused) = match beside.load() {
            Ok(loaded) => (loaded.warnings, false),
            Err(errors) => (errors.problems().to_vec(), true),
        };
        prop_assert!(!is_refused || !problems.is_empty());
        for problem in &problems {
            let line = bytes.split('\n').nth(problem.line - 1);
            let length = line.map(|line| line.chars().count());
            prop_assert!(length.is_some_and(|length| problem.column <= length), "{problem:?}");
            prop_assert!(!problem.message.contains(|c: char| c.is_control()), "{problem:?}");
        }
    }
}
