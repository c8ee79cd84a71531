//! Method, target and version.

use super::*;

fn asked(line: &str) -> String {
    format!("{line}\r\nHost: example.org\r\n\r\n")
}

// RFC 9112, section 3.
#[test]
fn request_lines_have_three_parts() {
    use Refusal::{BareCarriageReturn, BareLineFeed, Method, Nul, RequestLine, Version};

    let cases: &[Case<bool>] = &[
        ("1.1", "GET / HTTP/1.1", Ok(true)),
        ("1.0", "GET / HTTP/1.0", Ok(false)),
        ("own method", "M-SEARCH / HTTP/1.1", Ok(true)),
        ("an empty line before", "\r\nGET / HTTP/1.1", Ok(true)),
        (
            "two empty lines before",
            "\r\n\r\nGET / HTTP/1.1",
            Err(RequestLine),
        ),
        (
            "a bare empty line before",
            "\nGET / HTTP/1.1",
            Err(BareLineFeed),
        ),
        ("a space before", " GET / HTTP/1.1", Err(RequestLine)),
        ("two spaces", "GET  / HTTP/1.1", Err(RequestLine)),
        (
            "two spaces before the version",
            "GET /  HTTP/1.1",
            Err(RequestLine),
        ),
        ("a space at the end", "GET / HTTP/1.1 ", Err(RequestLine)),
        (
            "a space in the target",
            "GET /a b HTTP/1.1",
            Err(RequestLine),
        ),
        ("tab", "GET\t/\tHTTP/1.1", Err(RequestLine)),
        ("0.9", "GET /", Err(RequestLine)),
        ("no target", "GET HTTP/1.1", Err(RequestLine)),
        ("no method", "/ HTTP/1.1", Err(RequestLine)),
        ("empty method", " / HTTP/1.1", Err(Method)),
        ("quoted method", "\"GET\" / HTTP/1.1", Err(Method)),
        ("method beyond ASCII", "G\u{cb}T / HTTP/1.1", Err(Method)),
        ("0.9 with version", "GET / HTTP/0.9", Err(Version)),
        ("1.2", "GET / HTTP/1.2", Err(Version)),
        ("2.0", "PRI / HTTP/2.0", Err(Version)),
        ("two digits", "GET / HTTP/1.10", Err(RequestLine)),
        ("no minor version", "GET / HTTP/1", Err(RequestLine)),
        ("comma", "GET / HTTP/1,1", Err(RequestLine)),
        ("lower case", "GET / http/1.1", Err(RequestLine)),
        ("other protocol", "GET / ICY/1.1", Err(RequestLine)),
        ("NUL", "GET /\0 HTTP/1.1", Err(Nul)),
        (
            "bare carriage return",
            "GET /\r HTTP/1.1",
            Err(BareCarriageReturn),
        ),
        (
            "carriage return at the end",
            "GET / HTTP/1.1\r",
            Err(BareCarriageReturn),
        ),
        ("bare line feed", "GET / HTTP/1.1\nA: b", Err(BareLineFeed)),
    ];
    table(cases, asked, |head| head.http11);
}

// RFC 9112, section 3.2.
#[test]
fn targets_are_of_a_form_that_the_method_has() {
    use Refusal::{HostDiffers, Target};

    let cases: &[Case<bool>] = &[
        ("query", "GET /a?b=c&d=%20|{} HTTP/1.1", Ok(true)),
        ("two slashes", "GET //a HTTP/1.1", Ok(true)),
        ("absolute", "GET http://example.org/a HTTP/1.1", Ok(true)),
        (
            "absolute without path",
            "GET HTTPS://EXAMPLE.org?b HTTP/1.1",
            Ok(true),
        ),
        ("asterisk", "OPTIONS * HTTP/1.1", Ok(true)),
        ("tab in the target", "GET /a\tb HTTP/1.1", Err(Target)),
        ("fragment", "GET /a#b HTTP/1.1", Err(Target)),
        ("target beyond ASCII", "GET /\u{fc} HTTP/1.1", Err(Target)),
        ("relative", "GET a HTTP/1.1", Err(Target)),
        ("asterisk of another", "GET * HTTP/1.1", Err(Target)),
        ("two asterisks", "OPTIONS ** HTTP/1.1", Err(Target)),
        (
            "authority without CONNECT",
            "GET example.org:443 HTTP/1.1",
            Err(Target),
        ),
        (
            "other scheme",
            "GET ftp://example.org/ HTTP/1.1",
            Err(Target),
        ),
        ("file", "GET file:///etc/passwd HTTP/1.1", Err(Target)),
        ("no host", "GET http:///a HTTP/1.1", Err(Target)),
        ("one slash", "GET http:/example.org/ HTTP/1.1", Err(Target)),
        (
            "user",
            "GET http://example.org@example.net/ HTTP/1.1",
            Err(Target),
        ),
        (
            "backslash",
            "GET http://example.org\\@example.net/ HTTP/1.1",
            Err(Target),
        ),
        (
            "another host",
            "GET http://example.net/ HTTP/1.1",
            Err(HostDiffers),
        ),
        (
            "another port",
            "GET http://example.org:81/ HTTP/1.1",
            Err(HostDiffers),
        ),
    ];
    table(cases, asked, |head| head.http11);
}

#[test]
fn connect_names_host_and_port() {
    let whole =
        |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: example.org:443\r\n\r\n");
    let cases: &[Case<()>] = &[
        ("host and port", "example.org:443", Ok(())),
        ("no port", "example.org", Err(Refusal::Target)),
        ("empty port", "example.org:", Err(Refusal::Target)),
        ("path", "/", Err(Refusal::Target)),
        ("absolute", "http://example.org:443/", Err(Refusal::Target)),
        ("another", "example.net:443", Err(Refusal::HostDiffers)),
    ];
    table(cases, whole, |_| ());
}
