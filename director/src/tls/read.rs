//! From files to certificates and keys.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    Error, InconsistentKeys,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::problem::{Fault, TlsProblem};

/// A file of the system's authorities has a quarter of it.
const FILE_BYTES: u64 = 1024 * 1024;

/// The cryptography of every connection.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let own = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    PROVIDER.get_or_init(own).clone()
}

/// What a certificate says of itself.
pub(super) struct Facts {
    /// In lower case.
    pub names: Vec<Box<str>>,
    /// Whether it names addresses.
    pub addresses: bool,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

/// The bytes of a file, and its permissions.
fn contents(path: &Path) -> Result<(Vec<u8>, u32), TlsProblem> {
    let problem = |fault| TlsProblem::new(path, fault);
    let unreadable = |error: std::io::Error| problem(Fault::Unreadable(error.to_string()));
    // Before it is opened: to open a pipe would wait for its other end.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(problem(Fault::NotAFile));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    let mut bytes = Vec::new();
    let mut limited = file.take(FILE_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(problem(Fault::TooLarge { limit: FILE_BYTES }));
    }
    Ok((bytes, mode))
}

/// What to say of PEM that yields no item of the kind looked for.
fn broken(bytes: &[u8], error: &pem::Error, none: Fault) -> Fault {
    let line = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match error {
        _ if !has(bytes, b"-----BEGIN") => Fault::NotPem,
        pem::Error::NoItemsFound => none,
        pem::Error::MissingSectionEnd { end_marker } => {
            Fault::BrokenPem(format!("\"{}\" is missing", line(end_marker)))
        }
        pem::Error::IllegalSectionStart { .. } => {
            Fault::BrokenPem("a line that begins with \"-----BEGIN\" does not end well".into())
        }
        other => Fault::BrokenPem(other.to_string()),
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

/// All certificates of a file, at least one.
///
/// # Errors
/// Where the file cannot be read, is not PEM, or has none.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let (bytes, _) = contents(path)?;
    certificates_of(&bytes).map_err(|fault| TlsProblem::new(path, fault))
}

pub(super) fn certificates_of(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| broken(bytes, &error, Fault::NoCertificate))?;
    if found.is_empty() {
        return Err(broken(
            bytes,
            &pem::Error::NoItemsFound,
            Fault::NoCertificate,
        ));
    }
    Ok(found)
}

/// The first private key of a file, and the file's permissions.
///
/// # Errors
/// Where the file cannot be read, is not PEM, or has none that is in the clear.
pub(super) fn key(path: &Path) -> Result<(PrivateKeyDer<'static>, u32), TlsProblem> {
    let (bytes, mode) = contents(path)?;
    match key_of(&bytes) {
        Ok(key) => Ok((key, mode)),
        Err(fault) => Err(TlsProblem::new(path, fault)),
    }
}

pub(super) fn key_of(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        // PKCS#8 (RFC 5958) and the older way of OpenSSL (RFC 1421).
        let encrypted = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
        if encrypted.iter().any(|mark| has(bytes, mark.as_bytes())) {
            return Fault::EncryptedKey;
        }
        broken(bytes, &error, Fault::NoKey)
    })
}

/// Reads a certificate.
///
/// # Errors
/// Where it is not X.509; `position` is its place in the file, from 0.
pub(super) fn facts(certificate: &CertificateDer<'_>, position: usize) -> Result<Facts, Fault> {
    let bad = |reason: String| Fault::BadCertificate {
        position: position + 1,
        reason,
    };
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| bad(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow it".into()));
    }
    let alternative = parsed
        .subject_alternative_name()
        .map_err(|error| bad(format!("subjectAltName: {error}")))?;
    let mut facts = Facts {
        names: Vec::new(),
        addresses: false,
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    };
    for name in alternative.iter().flat_map(|san| &san.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                facts.names.push(name.to_ascii_lowercase().into());
            }
            GeneralName::IPAddress(_) => facts.addresses = true,
            _ => {}
        }
    }
    Ok(facts)
}

/// A chain with the key of its first certificate, proved to be so.
///
/// # Errors
/// Where the key cannot be used, or is not that of the first certificate.
pub(super) fn certified(
    (certificate, chain): (&Path, Vec<CertificateDer<'static>>),
    (file, key): (&Path, PrivateKeyDer<'static>),
) -> Result<CertifiedKey, TlsProblem> {
    let signing = provider().key_provider.load_private_key(key);
    let signing =
        signing.map_err(|error| TlsProblem::new(file, Fault::UnusableKey(error.to_string())))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        // Unknown: a kind of key that does not tell its public part.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(Error::InconsistentKeys(_)) => {
            let certificate = certificate.to_owned();
            let fault = match position_of_own(&certified) {
                Some(position) => Fault::Order {
                    certificate,
                    position,
                },
                None => Fault::Mismatch { certificate },
            };
            Err(TlsProblem::new(file, fault))
        }
        Err(error) => {
            let fault = Fault::BadCertificate {
                position: 1,
                reason: error.to_string(),
            };
            Err(TlsProblem::new(certificate, fault))
        }
    }
}

/// The place, from 1, of the certificate in the chain that the key does belong to.
fn position_of_own(certified: &CertifiedKey) -> Option<usize> {
    let is_own = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![certificate.clone()], certified.key.clone());
        alone.keys_match().is_ok()
    };
    Some(1 + certified.cert.iter().position(is_own)?)
}
