//! The certificates of a listener, read and proved to be usable.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use director_core::l7::{CertificateFiles, ClientAuth, Tls};
use rustls::{
    RootCertStore, SignatureAlgorithm,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};

use super::{
    problem::{Concern, Fault, TlsProblem, TlsWarning},
    read::{self, Facts, provider},
};

const DAY: i64 = 24 * 3600;

/// A certificate that ends within so many days is warned of.
const SOON: i64 = 14;

/// What a listener needs for TLS, in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// In configured order; the first is for clients that ask for no known host.
    pub certificates: Vec<Certificate>,
    pub(super) tls12: bool,
    pub(super) client_auth: Option<Verifying>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file of the certificate.
    pub file: PathBuf,
    /// The file of its key.
    pub key_file: PathBuf,
    /// DNS names of its subjectAltName, in lower case; `*.example.org` stands for
    /// one label (RFC 9525, section 6.3).
    pub names: Vec<Box<str>>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    pub(super) certified: Arc<CertifiedKey>,
    addresses: bool,
    mode: u32,
}

impl Certificate {
    pub(super) fn algorithm(&self) -> SignatureAlgorithm {
        self.certified.key.algorithm()
    }
}

/// How clients prove who they are.
#[derive(Clone, Debug)]
pub(super) struct Verifying {
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// A hash of all that a client was verified by.
    pub digest: [u8; 32],
}

/// Reads all files of a listener.
///
/// # Errors
/// Every file that TLS cannot be done with.
pub fn load(tls: &Tls) -> Result<Loaded, Vec<TlsProblem>> {
    let mut problems = Vec::new();
    let mut keep = |result| match result {
        Ok(loaded) => Some(loaded),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let certificates = tls.certificates.iter().filter_map(|files| keep(one(files)));
    let certificates: Vec<Certificate> = certificates.collect();
    let client_auth = match tls.client_auth.as_ref().map(verifying) {
        None => None,
        Some(Ok(verifying)) => Some(verifying),
        Some(Err(problem)) => {
            problems.push(problem);
            None
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Loaded {
        certificates,
        tls12: tls.tls12,
        client_auth,
    })
}

fn one(files: &CertificateFiles) -> Result<Certificate, TlsProblem> {
    let CertificateFiles { certificate, key } = files;
    let chain = read::certificates(certificate)?;
    let mut leaf: Option<Facts> = None;
    for (position, link) in chain.iter().enumerate() {
        let facts = read::facts(link, position);
        let facts = facts.map_err(|fault| TlsProblem::new(certificate, fault))?;
        leaf.get_or_insert(facts);
    }
    let leaf = leaf.ok_or_else(|| TlsProblem::new(certificate, Fault::NoCertificate))?;
    let (private, mode) = read::key(key)?;
    let certified = read::certified((certificate, chain), (key, private))?;
    Ok(Certificate {
        file: certificate.clone(),
        key_file: key.clone(),
        names: leaf.names,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        certified: Arc::new(certified),
        addresses: leaf.addresses,
        mode,
    })
}

fn verifying(auth: &ClientAuth) -> Result<Verifying, TlsProblem> {
    let mut roots = RootCertStore::empty();
    let mut hash = Sha256::new();
    hash.update([u8::from(auth.required)]);
    for (position, authority) in read::certificates(&auth.ca)?.into_iter().enumerate() {
        hash.update((authority.len() as u64).to_be_bytes());
        hash.update(&authority);
        let added = roots.add(authority);
        added.map_err(|error| {
            let fault = Fault::BadAuthority {
                position: position + 1,
                reason: error.to_string(),
            };
            TlsProblem::new(&auth.ca, fault)
        })?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if !auth.required {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder
        .build()
        .map_err(|error| TlsProblem::new(&auth.ca, Fault::Verifier(error.to_string())))?;
    Ok(Verifying {
        verifier,
        digest: hash.finalize().into(),
    })
}

impl Loaded {
    /// What is of concern at `now`, in Unix seconds.
    #[must_use]
    pub fn warnings(&self, now: i64) -> Vec<TlsWarning> {
        let mut warnings = Vec::new();
        let mut named: HashMap<(&str, u8), &Certificate> = HashMap::new();
        for certificate in &self.certificates {
            let mut warn = |file: &PathBuf, concern| {
                let file = file.clone();
                warnings.push(TlsWarning { file, concern });
            };
            if let Some(concern) = certificate.age(now) {
                warn(&certificate.file, concern);
            }
            if certificate.mode & 0o006 != 0 {
                let mode = certificate.mode;
                warn(&certificate.key_file, Concern::OpenKey { mode });
            }
            if certificate.names.is_empty() && !certificate.addresses {
                warn(&certificate.file, Concern::NoNames);
            }
            for name in &certificate.names {
                let kind = (&**name, certificate.algorithm().into());
                let first = named.entry(kind).or_insert(certificate);
                // One certificate may have a name twice.
                if !std::ptr::eq(*first, certificate) {
                    let (name, other) = (name.clone(), first.file.clone());
                    warn(&certificate.file, Concern::NamedTwice { name, other });
                }
            }
        }
        warnings
    }
}

impl Certificate {
    fn age(&self, now: i64) -> Option<Concern> {
        let days = |from: i64, to: i64| to.saturating_sub(from) / DAY;
        if now < self.not_before {
            let days = days(now, self.not_before);
            return Some(Concern::NotYetValid { days });
        }
        if now > self.not_after {
            let days = days(self.not_after, now);
            return Some(Concern::Expired { days });
        }
        let days = days(now, self.not_after);
        (days < SOON).then_some(Concern::ExpiresSoon { days })
    }
}
