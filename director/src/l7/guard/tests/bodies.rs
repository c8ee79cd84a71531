//! Where bodies end, and where they may be.

use super::*;

#[test]
fn lengths_are_digits_and_there_is_one() {
    use Framing::Length;
    use Refusal::{HugeLength, InvalidLength, LargeBody, SeveralLengths, Underscores};

    // RFC 9110, section 8.6; RFC 9112, section 6.3.
    let cases: &[Case<Framing>] = &[
        ("length", "Content-Length: 5", Ok(Length(5))),
        ("no body", "Content-Length: 0", Ok(Length(0))),
        ("spaces around", "Content-Length: \t 5 \t", Ok(Length(5))),
        ("no space", "Content-Length:5", Ok(Length(5))),
        ("zeros before", "Content-Length: 005", Ok(Length(5))),
        ("largest", "Content-Length: 1000000", Ok(Length(1_000_000))),
        ("too large", "Content-Length: 1000001", Err(LargeBody)),
        (
            "2^63",
            "Content-Length: 9223372036854775808",
            Err(HugeLength),
        ),
        (
            "2^64 + 5",
            "Content-Length: 18446744073709551621",
            Err(HugeLength),
        ),
        (
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6",
            Err(SeveralLengths),
        ),
        (
            "the same twice",
            "Content-Length: 5\r\nContent-Length: 5",
            Err(SeveralLengths),
        ),
        ("a list of two", "Content-Length: 5, 6", Err(InvalidLength)),
        (
            "a list of the same",
            "Content-Length: 5, 5",
            Err(InvalidLength),
        ),
        ("plus", "Content-Length: +5", Err(InvalidLength)),
        ("minus", "Content-Length: -5", Err(InvalidLength)),
        ("minus zero", "Content-Length: -0", Err(InvalidLength)),
        ("hexadecimal", "Content-Length: 0x5", Err(InvalidLength)),
        ("letters", "Content-Length: 5a", Err(InvalidLength)),
        ("point", "Content-Length: 5.0", Err(InvalidLength)),
        ("exponent", "Content-Length: 5e1", Err(InvalidLength)),
        ("underscore", "Content-Length: 1_0", Err(InvalidLength)),
        ("two numbers", "Content-Length: 5 6", Err(InvalidLength)),
        ("no number", "Content-Length:", Err(InvalidLength)),
        (
            "other digits",
            "Content-Length: \u{0665}",
            Err(InvalidLength),
        ),
        (
            "non-breaking space",
            "Content-Length: \u{a0}5",
            Err(InvalidLength),
        ),
        ("length for CGI", "Content_Length: 5", Err(Underscores)),
    ];
    table(cases, posted, |head| head.framing);
}

#[test]
fn the_one_coding_is_chunked() {
    use Framing::Chunked;
    use Refusal::{InvalidCoding, OtherCoding, Underscores};

    // RFC 9112, sections 6.1 to 6.3.
    let cases: &[Case<Framing>] = &[
        (
            "name in capitals",
            "TRANSFER-ENCODING: chunked",
            Ok(Chunked),
        ),
        ("chunked", "Transfer-Encoding: chunked", Ok(Chunked)),
        (
            "coding in capitals",
            "Transfer-Encoding: CHUNKED",
            Ok(Chunked),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked, chunked",
            Err(InvalidCoding),
        ),
        (
            "unknown coding",
            "Transfer-Encoding: xchunked",
            Err(InvalidCoding),
        ),
        (
            "coding with a tail",
            "Transfer-Encoding: chunkedx",
            Err(InvalidCoding),
        ),
        (
            "coding in quotes",
            "Transfer-Encoding: \"chunked\"",
            Err(InvalidCoding),
        ),
        (
            "coding after a comma",
            "Transfer-Encoding: ,chunked",
            Err(InvalidCoding),
        ),
        (
            "coding before a comma",
            "Transfer-Encoding: chunked,",
            Err(InvalidCoding),
        ),
        (
            "coding with a parameter",
            "Transfer-Encoding: chunked;q=1",
            Err(InvalidCoding),
        ),
        (
            "two words",
            "Transfer-Encoding: chunked x",
            Err(InvalidCoding),
        ),
        ("no coding", "Transfer-Encoding:", Err(InvalidCoding)),
        (
            "not chunked at last",
            "Transfer-Encoding: chunked, gzip",
            Err(OtherCoding),
        ),
        ("gzip", "Transfer-Encoding: gzip, chunked", Err(OtherCoding)),
        ("gzip alone", "Transfer-Encoding: X-GZIP", Err(OtherCoding)),
        ("identity", "Transfer-Encoding: identity", Err(OtherCoding)),
        (
            "dotless i",
            "Transfer-Encoding: \u{212a}chunked",
            Err(InvalidCoding),
        ),
        (
            "coding for CGI",
            "transfer_encoding: chunked",
            Err(Underscores),
        ),
    ];
    table(cases, posted, |head| head.framing);
}

#[test]
fn no_two_fields_say_where_a_body_ends() {
    use Refusal::{InvalidCoding, LengthAndCoding, SeveralCodings};

    // RFC 9112, sections 6.1 and 6.3.
    let cases: &[Case<Framing>] = &[
        (
            "CL.TE",
            "Content-Length: 6\r\nTransfer-Encoding: chunked",
            Err(LengthAndCoding),
        ),
        (
            "TE.CL",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            Err(LengthAndCoding),
        ),
        (
            "TE.CL of nothing",
            "Transfer-Encoding: chunked\r\nContent-Length: 0",
            Err(LengthAndCoding),
        ),
        (
            "TE.TE",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            Err(SeveralCodings),
        ),
        (
            "TE.TE, other order",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            Err(InvalidCoding),
        ),
        (
            "TE.TE, identity",
            "Transfer-Encoding: chunked\r\nTransfer-encoding: identity",
            Err(SeveralCodings),
        ),
        (
            "TE twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Err(SeveralCodings),
        ),
    ];
    table(cases, posted, |head| head.framing);
}

/// Heads whose method or version matters.
#[test]
fn bodies_are_where_they_may_be() {
    use Framing::{Chunked, Length};
    use Refusal::{BodyOfTunnel, CodingInOldVersion, Expectation};

    let whole = |head: &str| format!("{head}\r\n\r\n");
    let cases: &[Case<Framing>] = &[
        // What a server does with it is its own matter; where it ends is not.
        (
            "CL.0",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5",
            Ok(Length(5)),
        ),
        (
            "GET, chunked",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            Ok(Chunked),
        ),
        ("1.0", "POST / HTTP/1.0\r\nContent-Length: 5", Ok(Length(5))),
        (
            "1.0, chunked",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
            Err(CodingInOldVersion),
        ),
        ("nothing", "POST / HTTP/1.1\r\nHost: a", Ok(Framing::None)),
        (
            "TRACE",
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 5",
            Err(BodyOfTunnel),
        ),
        (
            "CONNECT",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked",
            Err(BodyOfTunnel),
        ),
        (
            "CONNECT, empty",
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 0",
            Ok(Length(0)),
        ),
        (
            "WebSocket",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nContent-Length: 5",
            Err(BodyOfTunnel),
        ),
        (
            "Expect",
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5",
            Ok(Length(5)),
        ),
        (
            "other expectation",
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok",
            Err(Expectation),
        ),
        (
            "two expectations",
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x",
            Err(Expectation),
        ),
        (
            "obfuscated expectation",
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue",
            Err(Expectation),
        ),
    ];
    table(cases, whole, |head| head.framing);
}
