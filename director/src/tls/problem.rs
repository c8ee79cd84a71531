//! What is wrong with files of certificates, and what mends it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A file that TLS cannot be done with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: {fault}; {}", .file.display(), .fault.help())]
pub struct TlsProblem {
    pub file: PathBuf,
    pub fault: Fault,
}

impl TlsProblem {
    pub(super) fn new(file: &Path, fault: Fault) -> Self {
        Self {
            file: file.to_owned(),
            fault,
        }
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is not a regular file")]
    NotAFile,
    #[error("has more than {} KiB", .limit / 1024)]
    TooLarge {
        /// Bytes that a file may have.
        limit: u64,
    },
    #[error("is not PEM: it has no line that begins with \"-----BEGIN\"")]
    NotPem,
    #[error("is broken PEM: {0}")]
    BrokenPem(String),
    #[error("has no certificate")]
    NoCertificate,
    #[error("has no private key")]
    NoKey,
    #[error("has a private key that is encrypted")]
    EncryptedKey,
    #[error("has a private key that cannot be used: {0}")]
    UnusableKey(String),
    #[error("certificate {position} of it cannot be read: {reason}")]
    BadCertificate {
        /// Place in the file, from 1.
        position: usize,
        reason: String,
    },
    #[error("is not the key of the first certificate in {}", .certificate.display())]
    Mismatch { certificate: PathBuf },
    #[error("is the key of certificate {position} in {}, not of the first", .certificate.display())]
    Order {
        certificate: PathBuf,
        /// Place in the file, from 1.
        position: usize,
    },
    #[error("certificate {position} of it cannot be an authority: {reason}")]
    BadAuthority {
        /// Place in the file, from 1.
        position: usize,
        reason: String,
    },
    #[error("cannot verify clients: {0}")]
    Verifier(String),
}

impl Fault {
    /// What mends it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => {
                "check that the path is right and that the user of the daemon may read it"
            }
            Self::NotAFile => "name a file",
            Self::TooLarge { .. } => "name a file of certificates or a key, in PEM",
            Self::NotPem => {
                "convert it: `openssl x509 -inform der` for a certificate, \
                 `openssl pkey -inform der` for a key"
            }
            Self::BrokenPem(_) => "copy or create the file again, it may be cut off",
            Self::NoCertificate => {
                "name the file with the certificate and its intermediates, \
                 often called fullchain.pem"
            }
            Self::NoKey => "name the file with the key, often called privkey.pem",
            Self::EncryptedKey => "decrypt it: `openssl pkey -in old.pem -out new.pem`",
            Self::UnusableKey(_) => {
                "use a key of ECDSA (P-256, P-384, P-521), Ed25519, or RSA with 2048 bits or more"
            }
            Self::BadCertificate { .. } => "create the certificate again as X.509 version 3",
            Self::Mismatch { .. } => "name the key that the certificate was made for",
            Self::Order { .. } => "put the certificate of this key first, its intermediates after",
            Self::BadAuthority { .. } | Self::Verifier(_) => {
                "name a file with certificates of authorities, in PEM"
            }
        }
    }
}

/// What works now, and likely not as it is meant, or not for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsWarning {
    pub file: PathBuf,
    pub concern: Concern,
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let help = self.concern.help();
        write!(f, "{}: {}; {help}", self.file.display(), self.concern)
    }
}

/// What is of concern about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Days since then.
    Expired { days: i64 },
    /// Days until then.
    ExpiresSoon { days: i64 },
    /// Days until it is.
    NotYetValid { days: i64 },
    /// Others than its owner and group may read or write the key.
    OpenKey { mode: u32 },
    /// It names neither hosts nor addresses.
    NoNames,
    /// Another certificate before it has this name and the same kind of key.
    NamedTwice { name: Box<str>, other: PathBuf },
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { days: 0 } => write!(f, "has expired today"),
            Self::Expired { days } => write!(f, "has expired {days} days ago"),
            Self::ExpiresSoon { days: 0 } => write!(f, "expires within a day"),
            Self::ExpiresSoon { days } => write!(f, "expires in {days} days"),
            Self::NotYetValid { days: 0 } => write!(f, "is not valid before tomorrow"),
            Self::NotYetValid { days } => write!(f, "is not valid for another {days} days"),
            Self::OpenKey { mode } => {
                write!(f, "is a private key that others may open (mode {mode:03o})")
            }
            Self::NoNames => write!(f, "is a certificate that names no host"),
            Self::NamedTwice { name, other } => {
                let other = other.display();
                write!(f, "is for {name} as {other} is, which is always taken")
            }
        }
    }
}

impl Concern {
    /// What mends it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Expired { .. } | Self::ExpiresSoon { .. } => {
                "renew it; the new file is taken without a restart"
            }
            Self::NotYetValid { .. } => "check the clock of this host, or use it later",
            Self::OpenKey { .. } => "take that right away: `chmod o= FILE`",
            Self::NoNames => "create it with subjectAltName; clients ignore the common name",
            Self::NamedTwice { .. } => "leave one of them out",
        }
    }
}
