//! What servers are verified by, and what the edge shows of itself to them.

use director_core::l7::UpstreamTls;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::{
    problem::{Fault, TlsProblem},
    read,
};

/// The files of an upstream, read and proved to be usable.
#[derive(Debug)]
pub struct UpstreamMaterial {
    /// Authorities, at least one; `None`: the system's.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    pub client: Option<ClientCertificate>,
}

/// A certificate that servers may ask for.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The certificate, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Reads all files of an upstream.
///
/// # Errors
/// Every file that TLS cannot be done with.
pub fn upstream_material(tls: &UpstreamTls) -> Result<UpstreamMaterial, Vec<TlsProblem>> {
    let ca = tls.ca.as_ref().map(|path| authorities(path)).transpose();
    let client = tls.client.as_ref().map(client).transpose();
    match (ca, client) {
        (Ok(ca), Ok(client)) => Ok(UpstreamMaterial { ca, client }),
        (ca, client) => Err([ca.err(), client.err()].into_iter().flatten().collect()),
    }
}

fn authorities(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let found = read::certificates(path)?;
    let mut roots = RootCertStore::empty();
    for (position, authority) in found.iter().enumerate() {
        // What reads them later takes it that they can be read.
        let facts = read::facts(authority, position);
        facts.map_err(|fault| TlsProblem::new(path, fault))?;
        let added = roots.add(authority.clone());
        added.map_err(|error| {
            let fault = Fault::BadAuthority {
                position: position + 1,
                reason: error.to_string(),
            };
            TlsProblem::new(path, fault)
        })?;
    }
    Ok(found)
}

fn client(files: &director_core::l7::CertificateFiles) -> Result<ClientCertificate, TlsProblem> {
    let chain = read::certificates(&files.certificate)?;
    for (position, link) in chain.iter().enumerate() {
        let facts = read::facts(link, position);
        facts.map_err(|fault| TlsProblem::new(&files.certificate, fault))?;
    }
    let (key, _) = read::key(&files.key)?;
    let (chain_file, key_file) = (&*files.certificate, &*files.key);
    read::certified((chain_file, chain.clone()), (key_file, key.clone_key()))?;
    Ok(ClientCertificate { chain, key })
}
