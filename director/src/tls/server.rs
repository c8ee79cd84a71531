//! How TLS is spoken with clients.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions},
    version::{TLS12, TLS13},
};

use super::{load::Loaded, read::provider, resolve::Resolver};

/// Sessions of TLS 1.2 that are kept for clients without tickets.
const SESSIONS: usize = 16 * 1024;

/// What sessions are resumed by. Made once for a process, so that sessions outlive
/// a reload; keys of tickets change every six hours and are never written.
#[derive(Debug)]
pub struct Shared {
    tickets: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Shared {
    #[must_use]
    pub fn new() -> Self {
        Self {
            // Fails only where the system gives no random numbers: then every
            // handshake is a full one.
            tickets: rustls::crypto::aws_lc_rs::Ticketer::new().ok(),
            sessions: ServerSessionMemoryCache::new(SESSIONS),
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// A configuration for connections that begin from now on. `http2`: whether it is
/// offered by ALPN (RFC 7301) before HTTP/1.1.
///
/// # Panics
/// Never: aws-lc-rs has what TLS 1.2 and 1.3 need.
#[must_use]
pub fn server_config(loaded: &Loaded, http2: bool, shared: &Shared) -> Arc<ServerConfig> {
    let versions: &[_] = if loaded.tls12 {
        &[&TLS13, &TLS12]
    } else {
        &[&TLS13]
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("suites for TLS 1.2 and 1.3");
    let builder = match &loaded.client_auth {
        Some(auth) => builder.with_client_cert_verifier(auth.verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(loaded)));
    let protocols: &[&[u8]] = if http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Early data can be played again by whoever saw it (RFC 8470).
    config.max_early_data_size = 0;
    let scope = loaded
        .client_auth
        .as_ref()
        .map_or([0; 32], |auth| auth.digest);
    config.session_storage = Arc::new(Scoped {
        scope,
        inner: shared.sessions.clone(),
    });
    if let Some(tickets) = &shared.tickets {
        config.ticketer = Arc::new(Scoped {
            scope,
            inner: tickets.clone(),
        });
    }
    Arc::new(config)
}

/// Sessions of one kind of client authentication. A resumed session is not verified
/// again, so one that began where no certificate was asked for, or by other
/// authorities, must not be taken up where one is (as in CVE-2025-23419).
#[derive(Debug)]
struct Scoped<T: ?Sized> {
    scope: [u8; 32],
    inner: Arc<T>,
}

impl<T: ?Sized> Scoped<T> {
    fn within(&self, bytes: &[u8]) -> Vec<u8> {
        [self.scope.as_slice(), bytes].concat()
    }
}

impl ProducesTickets for Scoped<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&self.within(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.inner.decrypt(cipher)?;
        plain.strip_prefix(&self.scope).map(<[u8]>::to_vec)
    }
}

impl StoresServerSessions for Scoped<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.inner.put(self.within(&key), value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.get(&self.within(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.take(&self.within(key))
    }

    fn can_cache(&self) -> bool {
        self.inner.can_cache()
    }
}
