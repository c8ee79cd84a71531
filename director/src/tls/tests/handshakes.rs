//! What clients get, by whole handshakes.

use rustls::{
    SignatureScheme,
    client::Resumption,
    version::{TLS12, TLS13},
};

use super::*;
use crate::tls::{Shared, install_provider, load, server_config};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A listener's configuration with all of its own.
fn server(tls: &Tls) -> Arc<ServerConfig> {
    server_config(&load(tls).unwrap(), true, &Shared::new())
}

async fn names_for(server: &Arc<ServerConfig>, client: ClientConfig, name: &str) -> Vec<String> {
    let outcome = shake(server, &Arc::new(client), name).await;
    match outcome {
        Ok(outcome) => outcome.names,
        // Where the certificate is for others, the client says whom it is for.
        Err(error) => vec![error],
    }
}

#[test]
fn the_provider_may_be_installed_twice() {
    assert!(install_provider());
    assert!(install_provider());
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_keys_of_1_3_are_post_quantum() {
    let authority = Authority::new();
    let mut listener = tls(vec![authority.issue("a", &["example.org"])]);
    let both = server(&listener);
    let client = |versions: &[_]| Arc::new(authority.client(versions));
    let outcome = shake(&both, &client(BOTH), "example.org").await.unwrap();
    assert_eq!(outcome.version, ProtocolVersion::TLSv1_3);
    assert_eq!(outcome.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(outcome.kind, HandshakeKind::Full);
    let old = client(&[&TLS12]);
    let outcome = shake(&both, &old, "example.org").await.unwrap();
    assert_eq!(outcome.version, ProtocolVersion::TLSv1_2);
    listener.tls12 = false;
    let new = server(&listener);
    assert!(shake(&new, &old, "example.org").await.is_err());
    assert!(shake(&new, &client(BOTH), "example.org").await.is_ok());
}

#[tokio::test]
async fn a_client_without_post_quantum_keys_is_served() {
    let authority = Authority::new();
    let server = server(&tls(vec![authority.issue("a", &["example.org"])]));
    let mut old = (*provider()).clone();
    old.kx_groups
        .retain(|group| group.name() == NamedGroup::secp256r1);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes());
    roots.add(root.unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(old))
        .with_protocol_versions(BOTH)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let outcome = shake(&server, &Arc::new(client), "example.org").await;
    assert_eq!(outcome.unwrap().group, Some(NamedGroup::secp256r1));
}

#[tokio::test]
async fn http2_is_offered_where_it_is_spoken() {
    let authority = Authority::new();
    let loaded = load(&tls(vec![authority.issue("a", &["example.org"])])).unwrap();
    let mut client = authority.client(BOTH);
    client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let client = Arc::new(client);
    for (http2, expected) in [(true, "h2"), (false, "http/1.1")] {
        let server = server_config(&loaded, http2, &Shared::new());
        let outcome = shake(&server, &client, "example.org").await.unwrap();
        assert_eq!(outcome.protocol.unwrap(), expected.as_bytes());
        assert_eq!(server.max_early_data_size, 0);
    }
}

#[tokio::test]
async fn the_name_asked_for_decides() {
    let authority = Authority::new();
    let server = server(&tls(vec![
        authority.issue("first", &["first.example.net"]),
        authority.issue("wild", &["*.example.org"]),
        authority.issue("exact", &["www.example.org"]),
    ]));
    let served = |name| names_for(&server, authority.client(BOTH), name);
    assert_eq!(served("www.example.org").await, ["www.example.org"]);
    assert_eq!(served("api.example.org").await, ["*.example.org"]);
    assert_eq!(served("API.example.org").await, ["*.example.org"]);
    assert_eq!(served("first.example.net").await, ["first.example.net"]);
    // A wildcard is for one label, and not for its parent.
    for name in ["a.b.example.org", "example.org", "other.example.com"] {
        let [error] = &*served(name).await else {
            panic!("one error");
        };
        assert!(error.contains("first.example.net"), "{error}");
    }
    // A client that names no host gets the first.
    let mut nameless = authority.client(BOTH);
    nameless.enable_sni = false;
    let served = names_for(&server, nameless, "first.example.net").await;
    assert_eq!(served, ["first.example.net"]);
}

#[tokio::test]
async fn the_clients_signature_schemes_decide_between_two_kinds() {
    let authority = Authority::new();
    let rsa = authority.issue_as(("rsa", &["example.org"]), &rsa(), |_| ());
    let elliptic = authority.issue("elliptic", &["example.org"]);
    let server = server(&tls(vec![rsa, elliptic]));
    let only = |schemes: &'static [SignatureScheme]| {
        let mut client = authority.client(BOTH);
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(Trusting { schemes }));
        Arc::new(client)
    };
    let old = only(&[SignatureScheme::RSA_PSS_SHA256]);
    let outcome = shake(&server, &old, "example.org").await.unwrap();
    assert_eq!(outcome.algorithm, SignatureAlgorithm::RSA);
    let new = only(&[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ]);
    for name in ["example.org", "unknown.example.org"] {
        let outcome = shake(&server, &new, name).await.unwrap();
        assert_eq!(outcome.algorithm, SignatureAlgorithm::ECDSA);
    }
}

/// A client that looks at no certificate, and takes some kinds of signatures alone.
#[derive(Debug)]
struct Trusting {
    schemes: &'static [SignatureScheme],
}

mod trusting {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    use super::Trusting;

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.schemes.to_vec()
        }
    }
}

#[tokio::test]
async fn clients_prove_who_they_are_where_they_must() {
    let (authority, strangers) = (Authority::new(), Authority::new());
    let ca = authority.write("ca.pem", &authority.pem);
    let own = authority.issue("client", &["client.example.org"]);
    let strange = strangers.issue("client", &["client.example.org"]);
    let mut listener = tls(vec![authority.issue("a", &["example.org"])]);
    for versions in [BOTH, &[&TLS12]] {
        let client = |own| Arc::new(authority.client_as(versions, own));
        for required in [true, false] {
            listener.client_auth = client_auth(&ca, required);
            let server = server(&listener);
            let proved = shake(&server, &client(Some(&own)), "example.org").await;
            assert_eq!(proved.unwrap().client_certificates, 1);
            let stranger = shake(&server, &client(Some(&strange)), "example.org").await;
            assert!(stranger.is_err());
            let nobody = shake(&server, &client(None), "example.org").await;
            assert_eq!(nobody.is_ok(), !required, "{nobody:?}");
        }
    }
}

/// A client that resumes by tickets, or in TLS 1.2 by a session's number.
fn resuming(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    tickets: bool,
    own: Option<&CertificateFiles>,
) -> Arc<ClientConfig> {
    let mut client = authority.client_as(versions, own);
    client.resumption = Resumption::in_memory_sessions(8);
    if !tickets {
        client.resumption = client
            .resumption
            .tls12_resumption(rustls::client::Tls12Resumption::SessionIdOnly);
    }
    Arc::new(client)
}

#[tokio::test]
async fn sessions_are_resumed_after_a_reload() {
    let authority = Authority::new();
    let shared = Shared::new();
    let ways: [(&[&SupportedProtocolVersion], bool); 3] =
        [(&[&TLS13], true), (&[&TLS12], true), (&[&TLS12], false)];
    for (versions, tickets) in ways {
        let client = resuming(&authority, versions, tickets, None);
        let mut kinds = Vec::new();
        for stem in ["a", "a", "renewed"] {
            let listener = tls(vec![authority.issue(stem, &["example.org"])]);
            let server = server_config(&load(&listener).unwrap(), true, &shared);
            let outcome = shake(&server, &client, "example.org").await.unwrap();
            kinds.push(outcome.kind);
        }
        let resumed = HandshakeKind::Resumed;
        assert_eq!(
            kinds,
            [HandshakeKind::Full, resumed, resumed],
            "{versions:?}"
        );
    }
}

#[tokio::test]
async fn a_session_without_proof_is_not_resumed_where_proof_is_required() {
    let authority = Authority::new();
    let ca = authority.write("ca.pem", &authority.pem);
    let own = authority.issue("client", &["client.example.org"]);
    let open = tls(vec![authority.issue("a", &["example.org"])]);
    let mut closed = open.clone();
    closed.client_auth = client_auth(&ca, true);
    let shared = Shared::new();
    let server = |tls: &Tls| server_config(&load(tls).unwrap(), true, &shared);
    let ways: [(&[&SupportedProtocolVersion], bool); 3] =
        [(&[&TLS13], true), (&[&TLS12], true), (&[&TLS12], false)];
    for (versions, tickets) in ways {
        let nobody = resuming(&authority, versions, tickets, None);
        for _ in 0..2 {
            shake(&server(&open), &nobody, "example.org").await.unwrap();
        }
        let refused = shake(&server(&closed), &nobody, "example.org").await;
        assert!(refused.is_err(), "{refused:?}");
        // One that was proved goes on with its proof, until authorities change.
        let client = resuming(&authority, versions, tickets, Some(&own));
        let closed = server(&closed);
        let first = shake(&closed, &client, "example.org").await.unwrap();
        assert_eq!(first.kind, HandshakeKind::Full);
        let second = shake(&closed, &client, "example.org").await.unwrap();
        assert_eq!(second.kind, HandshakeKind::Resumed);
        assert_eq!(second.client_certificates, 1);
    }
    let client = resuming(&authority, &[&TLS13], true, Some(&own));
    shake(&server(&closed), &client, "example.org")
        .await
        .unwrap();
    let others = Authority::new();
    let both = authority.pem.clone() + &others.pem;
    closed.client_auth = client_auth(&authority.write("both.pem", both), true);
    let outcome = shake(&server(&closed), &client, "example.org")
        .await
        .unwrap();
    assert_eq!(outcome.kind, HandshakeKind::Full);
}
