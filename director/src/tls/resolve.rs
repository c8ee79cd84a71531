//! Which certificate a client gets.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::load::{Certificate, Loaded};

/// Picks by the name that a client asks for (RFC 6066, section 3): exactly, else by
/// a wildcard for its first label, else the first certificate. Among certificates
/// of one name the client's signature schemes decide, those of elliptic curves first.
#[derive(Debug)]
pub struct Resolver {
    exact: HashMap<Box<str>, Group>,
    /// By what follows the asterisk and its dot.
    wildcard: HashMap<Box<str>, Group>,
    first: Group,
}

/// Certificates for the same name, the cheapest to sign with first.
type Group = Vec<Arc<CertifiedKey>>;

impl Resolver {
    #[must_use]
    pub fn new(loaded: &Loaded) -> Self {
        let mut sorted: Vec<&Certificate> = loaded.certificates.iter().collect();
        // Signing by RSA costs a server about twenty times what ECDSA does.
        sorted.sort_by_key(|certificate| match certificate.algorithm() {
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::RSA => 2,
            _ => 1,
        });
        let mut exact: HashMap<Box<str>, Group> = HashMap::new();
        let mut wildcard: HashMap<Box<str>, Group> = HashMap::new();
        for certificate in &sorted {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, &**name),
                };
                let group = map.entry(name.into()).or_default();
                group.push(certificate.certified.clone());
            }
        }
        let first = loaded.certificates.first();
        let like_first = |other: &&&Certificate| first.is_some_and(|own| own.names == other.names);
        let first = sorted.iter().filter(like_first);
        Self {
            exact,
            wildcard,
            first: first.map(|other| other.certified.clone()).collect(),
        }
    }

    /// The certificate for a name in lower case; `None` where there is none at all.
    fn pick(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let exact = name.and_then(|name| self.exact.get(name));
        let parent = name.and_then(|name| name.split_once('.'));
        let wildcard = parent.and_then(|(_, parent)| self.wildcard.get(parent));
        let groups = [exact, wildcard, Some(&self.first)];
        let mut keys = groups.into_iter().flatten().flatten();
        let suits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let suited = keys.clone().find(suits);
        // Where none suits, the handshake says so with the certificate named best.
        suited.or_else(|| keys.next()).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // In lower case, as rustls makes it.
        self.pick(client_hello.server_name(), client_hello.signature_schemes())
    }
}
