//! Where clients come in, and what they may ask.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::Route;

/// A VIP and port that the proxy listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name of its service.
    pub service: Arc<str>,
    pub address: IpAddr,
    pub port: u16,
    /// Without it, plain text.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 is spoken: by ALPN, or in plain text by prior knowledge.
    pub http2: bool,
    /// Sources that begin with a PROXY protocol header, and must.
    pub proxy_protocol_from: Vec<Network>,
    /// Sources whose `X-Forwarded-*` and `Forwarded` are believed and added to;
    /// those of others are replaced.
    pub trusted: Vec<Network>,
    pub forwarded: Forwarded,
    /// Name of the header for request IDs, in lower case; `None`: none is sent.
    pub request_id: Option<Box<str>>,
    /// Whether a W3C `traceparent` is kept or made.
    pub traceparent: bool,
    pub limits: HttpLimits,
    /// Tried in order; the first that matches serves.
    pub routes: Vec<Route>,
}

/// A prefix of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

impl Network {
    /// Whether an address is in any of these.
    #[must_use]
    pub fn any_contains(networks: &[Self], address: IpAddr) -> bool {
        networks.iter().any(|network| network.contains(address))
    }

    /// Whether an address is in it. IPv4 addresses within IPv6 are not looked into.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// How a listener does TLS. Files are read when it starts and again when they
/// change; at check, they must be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// At least one. The first is for clients that name no host or an unknown one.
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS 1.2 is spoken besides 1.3.
    pub tls12: bool,
    pub client_auth: Option<ClientAuth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM: the authorities of clients' certificates.
    pub ca: PathBuf,
    /// Whether a client without certificate is refused.
    pub required: bool,
}

/// Which headers tell servers of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    None,
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    #[default]
    XForwarded,
    /// RFC 7239.
    Forwarded,
    Both,
}

/// What a client may ask of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Open connections of the listener; beyond, the oldest idle one is closed, or
    /// the new one.
    pub connections: u32,
    /// Of one client address.
    pub connections_per_client: Option<u32>,
    /// Bytes of a request's head.
    pub header_bytes: u32,
    /// Fields of a request's head.
    pub headers: u16,
    /// Bytes of a request's body.
    pub body_bytes: Option<u64>,
    /// TLS handshake, and a request's head, from their first byte.
    pub header_timeout: Duration,
    /// Silence while a body is read from or a response written to a client.
    pub body_timeout: Duration,
    /// Silence between requests.
    pub idle_timeout: Duration,
    /// Requests at once on a connection of HTTP/2.
    pub streams: u32,
    /// Streams that a client may reset within ten seconds (CVE-2023-44487).
    pub resets: u32,
    /// Requests of one client address.
    pub rate: Option<Rate>,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_client: None,
            header_bytes: 32 * 1024,
            headers: 100,
            body_bytes: None,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            streams: 128,
            resets: 200,
            rate: None,
        }
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: u32,
    /// Tokens that are kept at most.
    pub burst: u32,
}
