//! Any file loads or is refused with reasons, and every valid one loads.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    super::ConfigErrors, BASE, FULL, HTTP, generate::config, loaded, parse, within::within,
    written::written,
};

/// One change to a text, at places given as shares of its length.
#[derive(Clone, Debug)]
enum Mutation {
    Delete(Index, usize),
    Duplicate(Index, usize),
    Flip(Index, u8),
    /// Copies a piece to another place.
    Splice(Index, usize, Index),
    DeleteLine(Index),
    SwapLines(Index, Index),
    /// Puts another value behind a key.
    Value(Index, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let values = prop::sample::select(vec![
        "0",
        "1",
        "-1",
        "3.5",
        "nan",
        "true",
        "[]",
        "{}",
        "[[]]",
        "\"\"",
        "\"::1\"",
        "1979-05-27",
        "99999999999999999999",
        "\"\\u0000\"",
        "\"5s\"",
        "\"l2\"",
        "\"quic\"",
        "\"192.0.2.1/24\"",
        "[\"0.0.0.0/0\"]",
        "[\"a\", 1]",
        "{ name = \"a\" }",
        "{ x-a = \"1\" }",
        "\"64MiB\"",
        "\"/a\"",
        "\"(\"",
    ]);
    prop_oneof![
        (at(), 1..20usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (at(), 1..60usize).prop_map(|(at, length)| Mutation::Duplicate(at, length)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        (at(), 1..200usize, at()).prop_map(|(at, length, to)| Mutation::Splice(at, length, to)),
        at().prop_map(Mutation::DeleteLine),
        (at(), at()).prop_map(|(a, b)| Mutation::SwapLines(a, b)),
        (at(), values).prop_map(|(at, value)| Mutation::Value(at, value)),
    ]
}

fn mutated(text: &str, mutation: &Mutation) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    if bytes.is_empty() || lines.is_empty() {
        return text.to_owned();
    }
    let piece = |at: &Index, length: usize| {
        let start = at.index(bytes.len());
        start..(start + length).min(bytes.len())
    };
    match mutation {
        Mutation::Delete(at, length) => drop(bytes.drain(piece(at, *length))),
        Mutation::Duplicate(at, length) => {
            let range = piece(at, *length);
            let copy = bytes[range.clone()].to_vec();
            bytes.splice(range.end..range.end, copy);
        }
        Mutation::Flip(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        Mutation::Splice(at, length, to) => {
            let copy = bytes[piece(at, *length)].to_vec();
            let to = to.index(bytes.len());
            bytes.splice(to..to, copy);
        }
        Mutation::DeleteLine(at) => drop(lines.remove(at.index(lines.len()))),
        Mutation::SwapLines(a, b) => {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        Mutation::Value(at, value) => {
            let line = &mut lines[at.index(text.lines().count())];
            if let Some((key, _)) = line.split_once('=') {
                *line = format!("{key}= {value}");
            }
        }
    }
    match mutation {
        Mutation::DeleteLine(_) | Mutation::SwapLines(..) | Mutation::Value(..) => lines.join("\n"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Asserts what holds for any text.
fn loads_or_says_why(text: &str) {
    match parse(text, "director.toml") {
        Ok(loaded) => within(text, &loaded.warnings),
        Err(ConfigErrors::Unreadable { .. }) => panic!("no file was read"),
        Err(ConfigErrors::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a reason:\n{text}");
            within(text, &problems);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_mutated_file_loads_or_says_why(
        base in prop::sample::select(vec![BASE, FULL, HTTP]),
        mutations in vec(mutation(), 1..6),
    ) {
        let text = mutations.iter().fold(base.to_owned(), |text, it| mutated(&text, it));
        loads_or_says_why(&text);
    }

    #[test]
    fn any_text_loads_or_says_why(text in "(\\PC|[\\[\\]{}=\"',.#\\n\\r\\t]){0,200}") {
        loads_or_says_why(&text);
    }

    #[test]
    fn what_is_written_is_what_is_loaded(config in config()) {
        let text = written(&config);
        prop_assert_eq!(loaded(&text).config, config);
    }
}
