//! Heads by which programs were made to disagree, and those that must pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

mod bodies;
mod fields;
mod properties;
mod request_line;

const LIMITS: GuardLimits = GuardLimits {
    head_bytes: 4096,
    fields: 20,
    body_bytes: Some(1_000_000),
};

/// What a case is called, what it is, and what becomes of it.
type Case<T> = (&'static str, &'static str, Result<T, Refusal>);

/// Checks heads that `whole` makes of what a table has.
#[track_caller]
fn table<T: Copy + PartialEq + std::fmt::Debug>(
    cases: &[Case<T>],
    whole: fn(&str) -> String,
    view: fn(&Head<'_>) -> T,
) {
    for (name, part, expected) in cases {
        let head = whole(part);
        let found = check(head.as_bytes(), &LIMITS);
        if let Ok(found) = &found {
            assert_eq!(found.length, head.len(), "{name}");
        }
        assert_eq!(found.map(|head| view(&head)), *expected, "{name}: {head:?}");
    }
}

fn posted(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n\r\n")
}

#[test]
fn a_head_says_what_it_is() {
    let head = b"\r\nPUT http://Example.org:80/a?b HTTP/1.1\r\nhost: example.org:80\r\n\
        Expect: 100-continue\r\nContent-Length: 12\r\n\r\n";
    let expected = Head {
        length: head.len(),
        method: b"PUT",
        target: b"http://Example.org:80/a?b",
        authority: Some(b"Example.org:80"),
        http11: true,
        framing: Framing::Length(12),
        upgrade: None,
        expects_continue: true,
    };
    assert_eq!(check(head, &LIMITS), Ok(expected));
}

#[test]
fn limits_are_held() {
    let head = |bytes: usize, fields: usize| {
        let fields = "A: b\r\n".repeat(fields - 2);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}X: ");
        let rest = "x".repeat(bytes - head.len() - 4);
        format!("{head}{rest}\r\n\r\n")
    };
    let refused = |head: String| check(head.as_bytes(), &LIMITS).err();
    assert_eq!(refused(head(4096, 20)), None);
    assert_eq!(refused(head(4097, 20)), Some(Refusal::LongHead));
    assert_eq!(refused(head(4096, 21)), Some(Refusal::ManyFields));
    // Also before all of it has come.
    assert_eq!(refused("x".repeat(4097)), Some(Refusal::LongLine));
    let mut without = LIMITS;
    without.body_bytes = None;
    let large = posted("Content-Length: 9223372036854775807");
    let found = check(large.as_bytes(), &without).unwrap();
    assert_eq!(found.framing, Framing::Length(i64::MAX as u64));
    assert_eq!(check(b"", &LIMITS), Err(Refusal::Unfinished));
    let cut = b"GET / HTTP/1.1\r\nHost: a\r\n";
    assert_eq!(check(cut, &LIMITS), Err(Refusal::Unfinished));
}

#[test]
fn statuses_tell_what_to_mend() {
    let statuses = [
        (Refusal::BareLineFeed, 400),
        (Refusal::LargeBody, 413),
        (Refusal::LongLine, 414),
        (Refusal::Expectation, 417),
        (Refusal::ManyFields, 431),
        (Refusal::OtherCoding, 501),
        (Refusal::Version, 505),
    ];
    for (refusal, status) in statuses {
        assert_eq!(refusal.status(), status, "{refusal}");
    }
}
