//! What a request of HTTP/1 must be before it is parsed and sent on. Two programs that
//! read a head differently can be made to see different requests in it (request
//! smuggling), so what can be read in two ways is refused, also where RFC 9112 allows
//! to mend it.

mod chunks;
mod refusal;
mod target;
#[cfg(test)]
mod tests;

pub use chunks::Chunks;
pub use refusal::Refusal;

use target::{Authority, is_authority};

/// What is asked of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// Bytes of the whole head.
    pub head_bytes: usize,
    /// Fields of the head.
    pub fields: usize,
    /// Bytes of a body that is announced; `None`: any number.
    pub body_bytes: Option<u64>,
}

/// A head that can be read in one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Bytes of the head, with the empty line after it and the one that may be before.
    pub length: usize,
    pub method: &'a [u8],
    /// As sent.
    pub target: &'a [u8],
    /// The host asked for, with its port where one was sent: from the target, else from
    /// `Host`, which says the same where both are there. `None` and empty: no host.
    pub authority: Option<&'a [u8]>,
    /// Whether it is of HTTP/1.1, else of 1.0.
    pub http11: bool,
    pub framing: Framing,
    /// What `Upgrade` names, where `Connection` names it (RFC 9110, section 7.8). Beware
    /// of `h2c`: a server that takes it speaks a protocol that nothing here reads.
    pub upgrade: Option<&'a [u8]>,
    /// Whether the client waits for a 100 (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// Where a request's body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    /// Bytes.
    Length(u64),
    Chunked,
}

/// Where a head ends in `bytes`: behind its first empty line, whatever lines end in,
/// so that a head with bare line feeds is refused rather than waited for. What is
/// before `from` was looked at before.
#[must_use]
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    // The end of a line, and of the empty one, may be in what was looked at.
    let start = from.saturating_sub(3).min(bytes.len());
    memchr::memchr_iter(b'\n', &bytes[start..]).find_map(|at| {
        let next = start + at + 1;
        match bytes[next..] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// Checks a head as it came. `head` ends with the empty line, as [`head_end`] finds it.
///
/// # Errors
/// Why it is refused. The connection must be closed then: where the next request
/// begins is unknown.
pub fn check<'a>(head: &'a [u8], limits: &GuardLimits) -> Result<Head<'a>, Refusal> {
    if head.len() > limits.head_bytes {
        let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
        return Err(if line > limits.head_bytes {
            Refusal::LongLine
        } else {
            Refusal::LongHead
        });
    }
    // One empty line may be before a request (RFC 9112, section 2.2).
    let before = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let mut lines = Lines {
        head,
        position: before,
    };
    let request = target::request_line(lines.next()?)?;
    let mut fields = Fields::default();
    let mut count = 0;
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > limits.fields {
            return Err(Refusal::ManyFields);
        }
        let (name, value) = field(line)?;
        fields.note(name, value)?;
    }
    fields.conclude(&request, lines.position, limits)
}

/// Lines that end in CRLF.
struct Lines<'a> {
    head: &'a [u8],
    /// Where the next line begins.
    position: usize,
}

impl<'a> Lines<'a> {
    /// The next line, without its end.
    fn next(&mut self) -> Result<&'a [u8], Refusal> {
        let rest = &self.head[self.position..];
        let end = memchr::memchr(b'\n', rest).ok_or(Refusal::Unfinished)?;
        self.position += end + 1;
        rest[..end].strip_suffix(b"\r").ok_or(Refusal::BareLineFeed)
    }
}

/// Name and value of a field, the latter without white space around it (RFC 9112,
/// section 5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let end = line.iter().position(|&byte| !is_token(byte));
    let end = end.ok_or(Refusal::NoColon)?;
    let (name, rest) = line.split_at(end);
    let value = match rest {
        [b' ' | b'\t', ..] if name.is_empty() => return Err(Refusal::Folded),
        [b' ' | b'\t', ..] => return Err(Refusal::SpaceInName),
        [b':', value @ ..] if !name.is_empty() => value,
        _ => return Err(odd_byte(line).unwrap_or(Refusal::FieldName)),
    };
    // Without an early end, so that many bytes are looked at at once.
    let is_bad = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    if value.iter().fold(false, |bad, &byte| bad | is_bad(byte)) {
        return Err(odd_byte(value).unwrap_or(Refusal::Control));
    }
    Ok((name, trimmed(value)))
}

/// What is said of bytes that are nowhere allowed.
fn odd_byte(bytes: &[u8]) -> Option<Refusal> {
    bytes.iter().find_map(|byte| match byte {
        b'\r' => Some(Refusal::BareCarriageReturn),
        0 => Some(Refusal::Nul),
        _ => None,
    })
}

/// Without the white space of RFC 9110, section 5.6.3: a vertical tab is none.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Elements of a list, of which empty ones do not count (RFC 9110, section 5.6.1).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|&byte| byte == b',').map(trimmed);
    elements.filter(|element| !element.is_empty())
}

/// Characters of names and methods (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let marks = b"!#$%&'*+-.^_`|~";
        let mut byte = 0;
        while byte < marks.len() {
            table[marks[byte] as usize] = true;
            byte += 1;
        }
        let mut byte = 0;
        while byte < 128 {
            table[byte] |= (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// The fields that decide.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<&'a [u8]>,
    /// Whether `Connection` names `upgrade`.
    upgrades: bool,
    expects_continue: bool,
}

impl<'a> Fields<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            4 if is("host") => {
                if !is_authority(value, Authority::Host) {
                    return Err(Refusal::InvalidHost);
                }
                once(&mut self.host, value, Refusal::SeveralHosts)?;
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects_continue = true;
            }
            7 if is("upgrade") => {
                once(&mut self.upgrade, value, Refusal::SeveralUpgrades)?;
            }
            10 if is("connection") => self.connection(value)?,
            14 if is("content-length") => {
                let length = content_length(value)?;
                once(&mut self.length, length, Refusal::SeveralLengths)?;
            }
            17 if is("transfer-encoding") => {
                if self.chunked {
                    return Err(Refusal::SeveralCodings);
                }
                transfer_encoding(value)?;
                self.chunked = true;
            }
            // Servers that make variables of fields (RFC 3875) take one for the other.
            14 if is_but_for_underscores(name, b"content-length") => {
                return Err(Refusal::Underscores);
            }
            17 if is_but_for_underscores(name, b"transfer-encoding") => {
                return Err(Refusal::Underscores);
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrades = true;
            } else if must_stay(option) {
                return Err(Refusal::Nominated);
            }
        }
        Ok(())
    }

    /// What the fields say together.
    fn conclude<'b>(
        &self,
        request: &target::RequestLine<'b>,
        length: usize,
        limits: &GuardLimits,
    ) -> Result<Head<'b>, Refusal>
    where
        'a: 'b,
    {
        if self.host.is_none() && request.http11 {
            return Err(Refusal::NoHost);
        }
        if let (Some(host), Some(target)) = (self.host, request.authority)
            && !host.eq_ignore_ascii_case(target)
        {
            return Err(Refusal::HostDiffers);
        }
        let framing = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Refusal::LengthAndCoding),
            (None, true) if !request.http11 => return Err(Refusal::CodingInOldVersion),
            (None, true) => Framing::Chunked,
            (Some(bytes), false) if limits.body_bytes.is_some_and(|most| bytes > most) => {
                return Err(Refusal::LargeBody);
            }
            (Some(bytes), false) => Framing::Length(bytes),
            (None, false) => Framing::None,
        };
        // HTTP/1.0 has none (RFC 9110, section 7.8).
        let upgrade = self.upgrade.filter(|_| self.upgrades && request.http11);
        let is_bare = matches!(framing, Framing::None | Framing::Length(0));
        let tunnels = request.method == b"CONNECT"
            || upgrade.is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"));
        if !is_bare && (tunnels || request.method == b"TRACE") {
            return Err(Refusal::BodyOfTunnel);
        }
        Ok(Head {
            length,
            method: request.method,
            target: request.target,
            authority: request.authority.or(self.host),
            http11: request.http11,
            framing,
            upgrade,
            expects_continue: self.expects_continue,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T, refusal: Refusal) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(refusal),
    }
}

/// Digits alone (RFC 9110, section 8.6), and not more than others can count.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::InvalidLength);
    }
    let mut length: u64 = 0;
    for digit in value {
        let tens = length.checked_mul(10);
        let next = tens.and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        let next = next.filter(|&next| next <= i64::MAX as u64);
        length = next.ok_or(Refusal::HugeLength)?;
    }
    Ok(length)
}

/// Chunked alone: that is what every server knows (RFC 9112, section 7).
fn transfer_encoding(value: &[u8]) -> Result<(), Refusal> {
    const OTHERS: [&[u8]; 6] = [
        b"compress",
        b"deflate",
        b"gzip",
        b"identity",
        b"x-compress",
        b"x-gzip",
    ];
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_other = |coding: &[u8]| {
        let mut others = OTHERS.iter();
        others.any(|other| other.eq_ignore_ascii_case(coding))
    };
    Err(if elements(value).any(is_other) {
        Refusal::OtherCoding
    } else {
        Refusal::InvalidCoding
    })
}

fn is_but_for_underscores(name: &[u8], other: &[u8]) -> bool {
    let plain = name.iter().map(|&byte| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    });
    plain.eq(other.iter().copied())
}

/// Whether a field is not a client's to have removed on the way by naming it in
/// `Connection`: what says who asks, for whom, or what the body is.
fn must_stay(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 16] = [
        b"accept",
        b"authorization",
        b"cache-control",
        b"cookie",
        b"date",
        b"expect",
        b"forwarded",
        b"host",
        b"max-forwards",
        b"mcp-session-id",
        b"origin",
        b"proxy-authorization",
        b"range",
        b"traceparent",
        b"transfer-encoding",
        b"via",
    ];
    const BEGINNINGS: [&[u8]; 4] = [b"content-", b"if-", b"sec-", b"x-"];
    let begins = |part: &&[u8]| {
        let start = name.get(..part.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(part))
    };
    BEGINNINGS.iter().any(begins) || NAMES.iter().any(|other| name.eq_ignore_ascii_case(other))
}
