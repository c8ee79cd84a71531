//! What servers are told of a client, and edits of headers.

use std::net::IpAddr;

use director_core::l7::{Forwarded, HeaderEdits, Listener, Network};
use http::HeaderValue;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::conn::Peer;

/// Tells servers of a client's certificate, in the form of Envoy.
const CERTIFICATE: &str = "x-forwarded-client-cert";
/// Hops of `X-Forwarded-For` that are looked through.
const HOPS: usize = 32;
/// Length of a request ID that is kept.
const ID_LIMIT: usize = 128;

/// The client's address: the connection's, or, from a trusted hop, the last in
/// `X-Forwarded-For` that is not itself trusted.
pub fn client(request: &RequestHeader, listener: &Listener, peer: &Peer) -> IpAddr {
    let trusted = |address| Network::any_contains(&listener.trusted, address);
    let mut client = peer.client.ip();
    if !trusted(client) {
        return client;
    }
    let values = request.headers.get_all("x-forwarded-for");
    let values: Vec<&str> = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let hops = values.iter().rev().flat_map(|value| value.rsplit(','));
    for hop in hops.take(HOPS) {
        let Ok(address) = hop.trim().parse() else {
            break;
        };
        client = address;
        if !trusted(client) {
            break;
        }
    }
    client
}

/// Tells the server of the client, in the manner that the listener is set to.
///
/// # Errors
/// None that a valid peer and host can cause.
pub fn forward(request: &mut RequestHeader, listener: &Listener, peer: &Peer) -> Result<()> {
    let is_trusted = Network::any_contains(&listener.trusted, peer.client.ip());
    let proto = peer.scheme();
    let host = host(request).to_owned();
    let (x, rfc) = match listener.forwarded {
        Forwarded::None => (false, false),
        Forwarded::XForwarded => (true, false),
        Forwarded::Forwarded => (false, true),
        Forwarded::Both => (true, true),
    };
    let client = peer.client.ip();
    if x {
        append(request, "x-forwarded-for", &client.to_string(), is_trusted)?;
        let port = peer.server.port().to_string();
        for (name, value) in [
            ("x-forwarded-proto", proto),
            ("x-forwarded-host", &host),
            ("x-forwarded-port", &port),
        ] {
            // The hop in front knows what the client asked for.
            if !(is_trusted && request.headers.contains_key(name)) {
                request.insert_header(name, value)?;
            }
        }
    } else if !is_trusted {
        for name in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
        ] {
            request.remove_header(name);
        }
    }
    // Only the edge has seen the certificate.
    request.remove_header(CERTIFICATE);
    let certificate = peer.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    if let Some(certificate) = certificate {
        request.insert_header(CERTIFICATE, format!("Hash={certificate}"))?;
    }
    if rfc {
        let node = match client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let element = format!("for={node};host=\"{host}\";proto={proto}");
        append(request, "forwarded", &element, is_trusted)?;
    } else if !is_trusted {
        request.remove_header("forwarded");
    }
    Ok(())
}

/// Adds to a list that hops keep, or begins it.
fn append(request: &mut RequestHeader, name: &'static str, value: &str, keep: bool) -> Result<()> {
    let before: Vec<&str> = request
        .headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let list = if keep && !before.is_empty() {
        format!("{}, {value}", before.join(", "))
    } else {
        value.to_owned()
    };
    request.insert_header(name, list)
}

/// The host that is asked for, with its port if there is one.
pub fn host(request: &RequestHeader) -> &str {
    let header = request.headers.get(http::header::HOST);
    let authority = || request.uri.authority().map(http::uri::Authority::as_str);
    header
        .and_then(|value| value.to_str().ok())
        .or_else(authority)
        .unwrap_or("")
}

/// Without its port.
pub fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

/// The request's ID: a trusted hop's, or a new one of 128 random bits.
pub fn request_id(request: &RequestHeader, listener: &Listener, peer: &Peer) -> String {
    let is_trusted = Network::any_contains(&listener.trusted, peer.client.ip());
    let name = listener.request_id.as_deref().unwrap_or("x-request-id");
    let given = request
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok());
    let is_plain = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte);
        !id.is_empty() && id.len() <= ID_LIMIT && id.bytes().all(plain)
    };
    match given.filter(is_plain) {
        Some(id) if is_trusted => id.to_owned(),
        _ => format!("{:032x}", fastrand::u128(..)),
    }
}

/// Keeps a valid `traceparent`, or makes one (W3C Trace Context, section 3.2).
///
/// # Errors
/// None that can be caused.
pub fn traceparent(request: &mut RequestHeader) -> Result<()> {
    let given = request.headers.get("traceparent");
    if given.is_some_and(|value| is_traceparent(value.as_bytes())) {
        return Ok(());
    }
    // State without its parent means nothing.
    request.remove_header("tracestate");
    let trace = fastrand::u128(1..);
    let span = fastrand::u64(1..);
    request.insert_header("traceparent", format!("00-{trace:032x}-{span:016x}-00"))
}

fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8], length: usize| {
        part.len() == length && part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    let mut parts = value.split(|byte| *byte == b'-');
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(version), Some(trace), Some(span), Some(flags)) = (version, trace, span, flags)
    else {
        return false;
    };
    let is_known = version != b"00" || parts.next().is_none();
    hex(version, 2)
        && version != b"ff"
        && is_known
        && hex(trace, 32)
        && set(trace)
        && hex(span, 16)
        && set(span)
        && hex(flags, 2)
}

/// Edits of a request's header.
///
/// # Errors
/// None that a valid configuration can cause.
pub fn edit_request(request: &mut RequestHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        request.remove_header(&**name);
    }
    for (name, value) in &edits.set {
        request.insert_header(name.to_string(), &**value)?;
    }
    for (name, value) in &edits.add {
        request.append_header(name.to_string(), &**value)?;
    }
    Ok(())
}

/// Edits of a response's header.
///
/// # Errors
/// None that a valid configuration can cause.
pub fn edit_response(response: &mut ResponseHeader, edits: &HeaderEdits) -> Result<()> {
    for name in &edits.remove {
        response.remove_header(&**name);
    }
    for (name, value) in &edits.set {
        response.insert_header(name.to_string(), &**value)?;
    }
    for (name, value) in &edits.add {
        response.append_header(name.to_string(), &**value)?;
    }
    Ok(())
}

/// The value of a cookie of the request.
pub fn cookie<'r>(request: &'r RequestHeader, name: &str) -> Option<&'r str> {
    let values = request.headers.get_all(http::header::COOKIE).iter();
    let texts = values.filter_map(|value: &HeaderValue| value.to_str().ok());
    texts
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use director_core::l7::HttpLimits;

    use super::*;

    fn listener() -> Listener {
        Listener {
            service: "shop".into(),
            address: "203.0.113.20".parse().expect("an address"),
            port: 80,
            tls: None,
            http2: true,
            proxy_protocol_from: Vec::new(),
            trusted: vec![Network {
                address: "198.51.100.0".parse().expect("an address"),
                bits: 24,
            }],
            forwarded: Forwarded::Both,
            request_id: Some("x-request-id".into()),
            traceparent: true,
            limits: HttpLimits::default(),
            routes: Vec::new(),
        }
    }

    fn peer(client: &str) -> Peer {
        Peer {
            client: SocketAddr::new(client.parse().expect("an address"), 40_000),
            server: "203.0.113.20:80".parse().expect("an address"),
            tls: None,
            resets: crate::l7::conn::Resets::default(),
            doomed: false.into(),
        }
    }

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        for (name, value) in headers {
            request.append_header(*name, *value).expect("a header");
        }
        request
    }

    #[test]
    fn what_an_untrusted_client_says_of_itself_is_replaced() {
        let mut it = request(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
        ]);
        assert_eq!(
            client(&it, &listener(), &peer("192.0.2.7")).to_string(),
            "192.0.2.7"
        );
        forward(&mut it, &listener(), &peer("192.0.2.7")).expect("headers");
        assert_eq!(it.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(it.headers["x-forwarded-proto"], "http");
        assert_eq!(
            it.headers["forwarded"],
            "for=192.0.2.7;host=\"shop.example\";proto=http"
        );
    }

    #[test]
    fn a_trusted_hop_is_believed_and_added_to() {
        let mut it = request(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "10.0.0.1, 192.0.2.7"),
            ("x-forwarded-for", "198.51.100.9"),
            ("x-forwarded-proto", "https"),
        ]);
        let hop = peer("198.51.100.2");
        assert_eq!(client(&it, &listener(), &hop).to_string(), "192.0.2.7");
        forward(&mut it, &listener(), &hop).expect("headers");
        assert_eq!(
            it.headers["x-forwarded-for"],
            "10.0.0.1, 192.0.2.7, 198.51.100.9, 198.51.100.2"
        );
        assert_eq!(it.headers["x-forwarded-proto"], "https");
    }

    #[test]
    fn ids_are_kept_from_trusted_hops_alone() {
        let it = request(&[("x-request-id", "abc-1")]);
        assert_eq!(request_id(&it, &listener(), &peer("198.51.100.2")), "abc-1");
        assert_eq!(request_id(&it, &listener(), &peer("192.0.2.7")).len(), 32);
        let strange = request(&[("x-request-id", "a b\"")]);
        assert_eq!(
            request_id(&strange, &listener(), &peer("198.51.100.2")).len(),
            32
        );
    }

    #[test]
    fn a_valid_traceparent_is_kept_and_others_are_made() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut it = request(&[("traceparent", valid), ("tracestate", "a=1")]);
        traceparent(&mut it).expect("headers");
        assert_eq!(it.headers["traceparent"], valid);
        for wrong in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-02",
        ] {
            let mut it = request(&[("traceparent", wrong), ("tracestate", "a=1")]);
            traceparent(&mut it).expect("headers");
            assert_ne!(it.headers["traceparent"], wrong);
            assert!(is_traceparent(it.headers["traceparent"].as_bytes()));
            assert!(!it.headers.contains_key("tracestate"));
        }
    }

    #[test]
    fn hosts_lose_their_port_alone() {
        for (host, expected) in [
            ("a.example:80", "a.example"),
            ("a", "a"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
        ] {
            assert_eq!(without_port(host), expected);
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let it = request(&[("cookie", "a=1; director=xyz; b=2"), ("cookie", "c=3")]);
        assert_eq!(cookie(&it, "director"), Some("xyz"));
        assert_eq!(cookie(&it, "c"), Some("3"));
        assert_eq!(cookie(&it, "d"), None);
    }
}
