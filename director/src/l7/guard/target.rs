//! The request line (RFC 9112, section 3).

use super::{Refusal, is_token, odd_byte};

pub(super) struct RequestLine<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    /// What the target says of it.
    pub authority: Option<&'a [u8]>,
    pub http11: bool,
}

/// Method, target and version, one space between each.
pub(super) fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
    else {
        return Err(odd_byte(line).unwrap_or(Refusal::RequestLine));
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(odd_byte(line).unwrap_or(Refusal::Method));
    }
    // A fragment is never sent; some servers cut it off, others do not.
    let is_fine = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    if !target.iter().all(is_fine) {
        return Err(odd_byte(line).unwrap_or(Refusal::Target));
    }
    let http11 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(Refusal::Version);
        }
        _ => return Err(odd_byte(line).unwrap_or(Refusal::RequestLine)),
    };
    Ok(RequestLine {
        method,
        target,
        authority: authority(method, target)?,
        http11,
    })
}

/// What a target says of the host; its form is that of its method (section 3.2).
fn authority<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    if method == b"CONNECT" {
        return if is_authority(target, Authority::WithPort) {
            Ok(Some(target))
        } else {
            Err(Refusal::Target)
        };
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        return Ok(None);
    }
    let rest = without_scheme(target).ok_or(Refusal::Target)?;
    let end = rest.iter().position(|byte| b"/?".contains(byte));
    let authority = &rest[..end.unwrap_or(rest.len())];
    if authority.is_empty() || !is_authority(authority, Authority::Host) {
        return Err(Refusal::Target);
    }
    Ok(Some(authority))
}

fn without_scheme(target: &[u8]) -> Option<&[u8]> {
    ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme.as_bytes())
            .then_some(rest)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// With or without port; may be empty (RFC 9112, section 3.2).
    Host,
    /// As CONNECT needs it.
    WithPort,
}

/// The longest name of DNS, and a port.
const AUTHORITY_BYTES: usize = 255 + 6;

/// Whether it is a host, and a port perhaps. Of the characters that RFC 3986 allows in
/// names, those that no host has (`%`, `,`, `;` and the like) are refused; and
/// who asks (`user@`) has no place here.
pub(super) fn is_authority(bytes: &[u8], form: Authority) -> bool {
    if bytes.is_empty() {
        return form == Authority::Host;
    }
    let is_ip = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let port = match bytes {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| !is_ip(byte)).unwrap_or(0);
            if end == 0 || rest[end] != b']' {
                return false;
            }
            &rest[end + 1..]
        }
        _ => {
            let end = bytes.iter().position(|byte| !is_name(byte));
            let end = end.unwrap_or(bytes.len());
            if end == 0 {
                return false;
            }
            &bytes[end..]
        }
    };
    let is_port = match port {
        [] => form == Authority::Host,
        [b':'] => form == Authority::Host,
        [b':', digits @ ..] => is_port(digits),
        _ => false,
    };
    is_port && bytes.len() <= AUTHORITY_BYTES
}

fn is_port(digits: &[u8]) -> bool {
    let is_plain = digits.iter().all(u8::is_ascii_digit);
    let number = || {
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
    };
    is_plain && digits.len() <= 5 && number() <= 65_535
}
