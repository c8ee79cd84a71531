//! The few bytes a drill's client speaks: one fixed request, and an answer
//! read with suspicion.
//!
//! Fifty thousand connections through a general HTTP client would measure that
//! client; the answers come from the drill's own servers, so a parser for
//! exactly their form does. Whatever else arrives is an error, never a guess.

use std::fmt;

/// The request of every exchange; keep-alive is HTTP/1.1's default (RFC 9112 § 9.3).
pub const REQUEST: &[u8] = b"GET /drill HTTP/1.1\r\nHost: drill\r\n\r\n";

/// Most bytes of an answer, head and body together.
pub const LARGEST_ANSWER: usize = 1024;

/// Every answer begins so; a drill server gives no other status.
const STATUS: &[u8] = b"HTTP/1.1 200";

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The name of the endpoint that answered: the body.
    pub name: &'a str,
    /// Bytes of head and body together.
    pub len: usize,
}

/// Why bytes are no answer of a drill server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The first line is not that of a 200 answer.
    Status,
    /// A header line is not `name: value`, or the head is not text.
    Head,
    /// There is no `Content-Length`, or more than one, or it is no number.
    Length,
    /// Longer than [`LARGEST_ANSWER`].
    TooLong,
    /// The body is not UTF-8.
    Body,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "not a 200 answer",
            Self::Head => "a header that is not `name: value`",
            Self::Length => "no single Content-Length",
            Self::TooLong => "longer than a drill server's answer can be",
            Self::Body => "a body that is not UTF-8",
        })
    }
}

/// Reads an answer from the start of `bytes`; `None` while it is not whole.
///
/// # Errors
/// As soon as the bytes cannot become an answer of a drill server.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer<'_>>, Malformed> {
    let known = bytes.len().min(STATUS.len());
    if bytes[..known] != STATUS[..known] {
        return Err(Malformed::Status);
    }
    let Some(head_len) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() >= LARGEST_ANSWER {
            Err(Malformed::TooLong)
        } else {
            Ok(None)
        };
    };
    let body_len = content_length(&bytes[..head_len])?;
    let body_start = head_len + 4;
    let len = body_start.saturating_add(body_len);
    if len > LARGEST_ANSWER {
        return Err(Malformed::TooLong);
    }
    let Some(body) = bytes.get(body_start..len) else {
        return Ok(None);
    };
    let name = std::str::from_utf8(body).map_err(|_| Malformed::Body)?;
    Ok(Some(Answer { name, len }))
}

fn content_length(head: &[u8]) -> Result<usize, Malformed> {
    let head = std::str::from_utf8(head).map_err(|_| Malformed::Head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !matches!(status.as_bytes().get(STATUS.len()), None | Some(b' ')) {
        return Err(Malformed::Status);
    }
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Malformed::Head)?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(Malformed::Head);
        }
        // A chunked body has no length known ahead; ours never is.
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Malformed::Length);
        }
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim_matches([' ', '\t']);
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            if length.is_some() || !digits {
                return Err(Malformed::Length);
            }
            // All digits, so the only failure left is a number too large.
            length = Some(value.parse().map_err(|_| Malformed::TooLong)?);
        }
    }
    length.ok_or(Malformed::Length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nx-endpoint: dc01-a\r\ncontent-length: 6\r\n\r\ndc01-a";

    #[test]
    fn a_whole_answer_names_the_endpoint_and_its_length() {
        let answer = parse(GOOD).unwrap().unwrap();
        assert_eq!((answer.name, answer.len), ("dc01-a", GOOD.len()));
        let longer = [GOOD, b"HTTP"].concat();
        assert_eq!(parse(&longer).unwrap().unwrap().len, GOOD.len());
    }

    #[test]
    fn every_prefix_is_incomplete_and_nothing_else() {
        for end in 0..GOOD.len() {
            assert_eq!(parse(&GOOD[..end]), Ok(None), "of {end} bytes");
        }
    }

    #[test]
    fn what_a_drill_server_never_sends_is_refused() {
        let cases: [(&[u8], Malformed); 12] = [
            (b"HTTP/1.0 200 OK\r\n\r\n", Malformed::Status),
            (b"HTTP/1.1 503 No\r\n\r\n", Malformed::Status),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Malformed::Status),
            (b"SSH-2.0-x\r\n", Malformed::Status),
            (b"HTTP/1.1 200 OK\r\n\r\n", Malformed::Length),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Malformed::Head),
            (b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n", Malformed::Head),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: +6\r\n\r\ndc01-a",
                Malformed::Length,
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\ncontent-length: 6\r\n\r\ndc01-a",
                Malformed::Length,
            ),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n",
                Malformed::Length,
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
                Malformed::TooLong,
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff",
                Malformed::Body,
            ),
        ];
        for (bytes, expected) in cases {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(parse(bytes), Err(expected), "{shown}");
        }
        let endless = [STATUS, &[b'a'; LARGEST_ANSWER][..]].concat();
        assert_eq!(parse(&endless), Err(Malformed::TooLong));
    }

    /// Any answer it gives lies inside the bytes it was given and names what
    /// stands there, whatever the bytes are.
    #[test]
    fn random_and_damaged_bytes_never_mislead() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut whole = 0_u32;
        for _ in 0..50_000 {
            let mut bytes = if random.bool() {
                GOOD.to_vec()
            } else {
                (0..random.usize(..200)).map(|_| random.u8(..)).collect()
            };
            for _ in 0..random.usize(..3) {
                if !bytes.is_empty() {
                    let at = random.usize(..bytes.len());
                    bytes[at] = random.u8(..);
                }
            }
            bytes.truncate(random.usize(..=bytes.len()));
            if let Ok(Some(answer)) = parse(&bytes) {
                whole += 1;
                assert!(answer.len <= bytes.len());
                assert!(bytes[..answer.len].ends_with(answer.name.as_bytes()));
                assert!(bytes.starts_with(STATUS));
            }
        }
        assert!(whole > 100, "the undamaged ones must have been read");
    }
}
