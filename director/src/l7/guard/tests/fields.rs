//! Lines, names and values; `Host` and `Connection`.

use super::*;

#[test]
fn lines_end_and_fields_begin_in_one_place() {
    use Refusal::{
        BareCarriageReturn, BareLineFeed, Control, FieldName, Folded, NoColon, Nul, SpaceInName,
    };

    // RFC 9112, sections 2.2, 5.1 and 5.2; RFC 9110, section 5.5.
    let cases: &[Case<()>] = &[
        ("plain", "A: b", Ok(())),
        ("no value", "A:", Ok(())),
        ("a colon in the value", "A: b: c", Ok(())),
        (
            "all characters of names",
            "!#$%&'*+-.^_`|~09azAZ: b",
            Ok(()),
        ),
        ("tab", "A: b\tc", Ok(())),
        ("beyond ASCII", "A: \u{fc}", Ok(())),
        ("an unknown length", "Content-Lengthy: +5", Ok(())),
        (
            "space before colon",
            "Transfer-Encoding : chunked",
            Err(SpaceInName),
        ),
        (
            "tab before colon",
            "Transfer-Encoding\t: chunked",
            Err(SpaceInName),
        ),
        (
            "space in a name",
            "Transfer Encoding: chunked",
            Err(SpaceInName),
        ),
        (
            "vertical tab before colon",
            "Transfer-Encoding\u{b}: chunked",
            Err(FieldName),
        ),
        (
            "vertical tab",
            "Transfer-Encoding:\u{b}chunked",
            Err(Control),
        ),
        ("form feed", "Transfer-Encoding:\u{c}chunked", Err(Control)),
        (
            "vertical tab after",
            "Transfer-Encoding: chunked\u{b}",
            Err(Control),
        ),
        ("backspace", "Content-Length: 5\u{8}", Err(Control)),
        ("delete", "A: b\u{7f}", Err(Control)),
        ("escape", "A: \u{1b}[2J", Err(Control)),
        ("NUL in a value", "A: b\0c", Err(Nul)),
        ("NUL in a name", "A\0: b", Err(Nul)),
        ("folded", "A: b\r\n c", Err(Folded)),
        ("folded by a tab", "A: b\r\n\tc", Err(Folded)),
        (
            "folded coding",
            "Transfer-Encoding:\r\n chunked",
            Err(Refusal::InvalidCoding),
        ),
        (
            "line of a space",
            "A: b\r\n \r\nContent-Length: 5",
            Err(Folded),
        ),
        (
            "bare line feed",
            "A: b\nTransfer-Encoding: chunked",
            Err(BareLineFeed),
        ),
        ("bare line feed at the end", "A: b\n", Err(BareLineFeed)),
        (
            "bare carriage return",
            "A: b\rTransfer-Encoding: chunked",
            Err(BareCarriageReturn),
        ),
        (
            "carriage return before the end",
            "A: b\r",
            Err(BareCarriageReturn),
        ),
        (
            "carriage return in a name",
            "A\rB: c",
            Err(BareCarriageReturn),
        ),
        (
            "line of a carriage return",
            "A: b\r\n\r\r\nC: d",
            Err(BareCarriageReturn),
        ),
        ("no colon", "Content-Length", Err(NoColon)),
        ("no name", ": b", Err(FieldName)),
        ("pseudo-header", ":path: /", Err(FieldName)),
        ("quotes", "\"Content-Length\": 5", Err(FieldName)),
        ("slash", "A/B: c", Err(FieldName)),
        ("brackets", "A[]: c", Err(FieldName)),
        ("name beyond ASCII", "\u{fc}: b", Err(FieldName)),
        ("semicolon for colon", "A; b", Err(FieldName)),
    ];
    table(cases, posted, |_| ());
}

#[test]
fn there_is_one_host() {
    use Refusal::{InvalidHost, NoHost, SeveralHosts};

    // RFC 9112, section 3.2; RFC 3986, section 3.2.2.
    let whole = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
    let cases: &[Case<usize>] = &[
        ("name", "Host: example.org", Ok(11)),
        ("name and port", "Host: example.org:8080", Ok(16)),
        ("empty port", "Host: example.org:", Ok(12)),
        ("empty", "Host:", Ok(0)),
        ("IPv4", "Host: 192.0.2.1", Ok(9)),
        ("IPv6", "Host: [2001:db8::1]:80", Ok(16)),
        ("underscore", "Host: a_b.example.org", Ok(15)),
        ("none", "A: b", Err(NoHost)),
        (
            "two",
            "Host: example.org\r\nHost: example.net",
            Err(SeveralHosts),
        ),
        (
            "the same twice",
            "Host: example.org\r\nhost: example.org",
            Err(SeveralHosts),
        ),
        ("list", "Host: example.org, example.net", Err(InvalidHost)),
        ("space", "Host: example.org example.net", Err(InvalidHost)),
        ("path", "Host: example.org/a", Err(InvalidHost)),
        ("URL", "Host: http://example.org", Err(InvalidHost)),
        ("user", "Host: user@example.org", Err(InvalidHost)),
        ("fragment", "Host: example.org#a", Err(InvalidHost)),
        ("query", "Host: example.org?a", Err(InvalidHost)),
        (
            "letters for a port",
            "Host: example.org:http",
            Err(InvalidHost),
        ),
        ("two ports", "Host: example.org:80:81", Err(InvalidHost)),
        ("no such port", "Host: example.org:65536", Err(InvalidHost)),
        ("port alone", "Host: :80", Err(InvalidHost)),
        (
            "IPv6 without brackets",
            "Host: 2001:db8::1",
            Err(InvalidHost),
        ),
        ("IPv6 without end", "Host: [2001:db8::1", Err(InvalidHost)),
        ("empty brackets", "Host: []", Err(InvalidHost)),
        ("zone", "Host: [fe80::1%25eth0]", Err(InvalidHost)),
        ("after brackets", "Host: [::1]x", Err(InvalidHost)),
        ("percent", "Host: example%2eorg", Err(InvalidHost)),
        ("beyond ASCII", "Host: ex\u{e4}mple.org", Err(InvalidHost)),
    ];
    table(cases, whole, |head| head.authority.unwrap().len());
    let long = whole(&format!("Host: {}", "a".repeat(262)));
    assert_eq!(check(long.as_bytes(), &LIMITS), Err(InvalidHost));
}

#[test]
fn connection_takes_nothing_away_that_must_stay() {
    use Refusal::{Nominated, SeveralUpgrades};

    // RFC 9110, sections 7.6.1 and 7.8.
    let cases: &[Case<bool>] = &[
        ("keep-alive", "Connection: keep-alive, close", Ok(false)),
        ("te", "Connection: TE\r\nTE: trailers", Ok(false)),
        (
            "upgrade",
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket",
            Ok(true),
        ),
        (
            "upgrade first",
            "Upgrade: h2c\r\nConnection: upgrade",
            Ok(true),
        ),
        ("upgrade without its name", "Upgrade: websocket", Ok(false)),
        ("name without upgrade", "Connection: upgrade", Ok(false)),
        (
            "two upgrades",
            "Upgrade: websocket\r\nUpgrade: h2c",
            Err(SeveralUpgrades),
        ),
        ("host", "Connection: close, Host", Err(Nominated)),
        (
            "length",
            "Connection: content-length\r\nContent-Length: 5",
            Err(Nominated),
        ),
        ("coding", "Connection: Transfer-Encoding", Err(Nominated)),
        ("cookie", "Connection: ,, cookie", Err(Nominated)),
        ("authorization", "Connection: Authorization", Err(Nominated)),
        ("forwarded", "Connection: X-Forwarded-For", Err(Nominated)),
        ("own", "Connection: x-api-key", Err(Nominated)),
        (
            "in a second field",
            "Connection: close\r\nConnection: cookie",
            Err(Nominated),
        ),
    ];
    table(cases, posted, |head| head.upgrade.is_some());
}
