//! Certificates made for a test, in files, and handshakes with them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
};
use director_core::l7::{CertificateFiles, ClientAuth, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore, ServerConfig,
    SignatureAlgorithm, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::read::provider;

mod handshakes;
mod reading;
mod watching;

/// Unix seconds: eight o'clock on 15 January 2027, UTC.
const NOW: i64 = 1_800_000_000;

/// An authority, and files of its certificates in a folder of their own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: TempDir,
}

fn elliptic() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn rsa() -> KeyPair {
    let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    KeyPair::try_from(der.as_ref()).unwrap()
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        let key = elliptic();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A certificate of these names, changed by `edit`, in files that begin with `stem`.
    fn issue_as(
        &self,
        (stem, names): (&str, &[&str]),
        key: &KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        edit(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap().pem();
        CertificateFiles {
            certificate: self.write(&format!("{stem}.crt"), certificate),
            key: self.write(&format!("{stem}.key"), key.serialize_pem()),
        }
    }

    fn issue(&self, stem: &str, names: &[&str]) -> CertificateFiles {
        self.issue_as((stem, names), &elliptic(), |_| ())
    }

    /// How clients that trust this authority speak TLS.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_as(versions, None)
    }

    fn client_as(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&CertificateFiles>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own_root = CertificateDer::from_pem_slice(self.pem.as_bytes());
        roots.add(own_root.unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = super::read::certificates(&files.certificate).unwrap();
                let (key, _) = super::read::key(&files.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

fn tls(certificates: Vec<CertificateFiles>) -> Tls {
    Tls {
        certificates,
        tls12: true,
        client_auth: None,
    }
}

fn client_auth(ca: &Path, required: bool) -> Option<ClientAuth> {
    let ca = ca.to_owned();
    Some(ClientAuth { ca, required })
}

/// What a handshake came to, as the server sees it.
#[derive(Debug, PartialEq)]
struct Outcome {
    version: ProtocolVersion,
    group: Option<NamedGroup>,
    kind: HandshakeKind,
    protocol: Option<Vec<u8>>,
    client_certificates: usize,
    /// The certificate that the client got, as it is told.
    names: Vec<String>,
    algorithm: SignatureAlgorithm,
}

/// A handshake, and a byte each way so that tickets arrive.
async fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Outcome, String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let serve = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.shutdown().await?;
        std::io::Result::Ok(stream)
    };
    let ask = async {
        let connector = TlsConnector::from(client.clone());
        let mut stream = connector.connect(name, near).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        assert_eq!(stream.read_u8().await?, 7);
        std::io::Result::Ok(stream)
    };
    let (served, asked) = tokio::join!(serve, ask);
    // The client knows more of why than the alert that the server gets.
    let asked = asked.map_err(|error| error.to_string())?;
    let served = served.map_err(|error| error.to_string())?;
    let (_, own) = served.get_ref();
    let (_, other) = asked.get_ref();
    let leaf = &other.peer_certificates().unwrap()[0];
    let facts = super::read::facts(leaf, 0).unwrap();
    let group = own.negotiated_key_exchange_group();
    Ok(Outcome {
        version: own.protocol_version().unwrap(),
        group: group.map(|group| group.name()),
        kind: own.handshake_kind().unwrap(),
        protocol: own.alpn_protocol().map(<[u8]>::to_vec),
        client_certificates: own.peer_certificates().map_or(0, <[_]>::len),
        names: facts.names.iter().map(|name| name.to_string()).collect(),
        algorithm: algorithm_of(leaf),
    })
}

fn algorithm_of(certificate: &CertificateDer<'_>) -> SignatureAlgorithm {
    use x509_parser::{prelude::*, public_key::PublicKey};

    let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
    match parsed.public_key().parsed().unwrap() {
        PublicKey::RSA(_) => SignatureAlgorithm::RSA,
        PublicKey::EC(_) => SignatureAlgorithm::ECDSA,
        other => panic!("{other:?}"),
    }
}
