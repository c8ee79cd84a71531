//! Certificates of the edge proxy: read from files, proved to be usable, chosen for
//! each client, and read again when they change.

use std::time::{SystemTime, UNIX_EPOCH};

use director_core::l7::Tls;

mod load;
mod problem;
mod read;
mod resolve;
mod server;
#[cfg(test)]
mod tests;
mod upstream;
mod watch;

pub use load::{Certificate, Loaded, load};
pub use problem::{Concern, Fault, TlsProblem, TlsWarning};
pub use resolve::Resolver;
pub use server::{Shared, server_config};
pub use upstream::{ClientCertificate, UpstreamMaterial, upstream_material};
pub use watch::{Watch, files, upstream_files};

/// Makes aws-lc-rs the cryptography of the process, with X25519MLKEM768 preferred;
/// may be called again. To be called before anything else that uses TLS.
///
/// Returns whether it is so: `false` where another was chosen before.
#[must_use]
pub fn install_provider() -> bool {
    use rustls::{NamedGroup, crypto::CryptoProvider};

    // Fails where there is one, which is looked at next.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let groups = CryptoProvider::get_default().map(|provider| &provider.kx_groups);
    let preferred = groups.and_then(|groups| groups.first());
    preferred.is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768)
}

/// What is wrong with the files of a listener, and what is of concern about them
/// today. Warnings are given only where nothing is wrong.
#[must_use]
pub fn check(tls: &Tls) -> (Vec<TlsProblem>, Vec<TlsWarning>) {
    match load(tls) {
        Ok(loaded) => (Vec::new(), loaded.warnings(unix_now())),
        Err(problems) => (problems, Vec::new()),
    }
}

/// Seconds since 1970.
/// Seconds since 1970, as certificates count.
pub(crate) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}
