//! TLS as clients meet it.

use std::sync::Arc;

use director_core::l7::{ClientAuth, Tls, UpstreamTls};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::{
    certs::{Authority, Issued, handshake},
    edge::{Edge, soon, until},
    peers::{self, Client, said, serve, text},
};

async fn edge(tls: Tls) -> Edge {
    Edge::to(serve(|_| async { said("hello") }).await).listener(|listener| listener.tls = Some(tls)).start()
}

/// A request by HTTP/1.1; an error where TLS is refused.
async fn get(edge: &Edge, config: &Arc<ClientConfig>, name: &str) -> Result<String, String> {
    let mut stream = handshake(edge.address, config, name).await.map_err(|error| error.to_string())?;
    let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    // An alert of TLS 1.3 comes behind the handshake.
    soon("an answer", stream.read_to_end(&mut all)).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

#[tokio::test]
async fn both_versions_are_served_with_keys_that_outlast_quantum_computers() {
    let authority = Authority::new();
    let mut tls = authority.tls(&["shop.example"]);
    let both = edge(tls.clone()).await;
    let old = Arc::new(authority.client_of(&[&TLS12], &["http/1.1"], None));
    let new = Arc::new(authority.client_of(&[&TLS13], &["http/1.1"], None));
    for (config, version) in [(&old, ProtocolVersion::TLSv1_2), (&new, ProtocolVersion::TLSv1_3)] {
        let stream = handshake(both.address, config, "shop.example").await.expect("TLS");
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(version));
        if version == ProtocolVersion::TLSv1_3 {
            let group = session.negotiated_key_exchange_group().map(|group| group.name());
            assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        }
        assert!(get(&both, config, "shop.example").await.expect("an answer").ends_with("hello"));
    }
    tls.tls12 = false;
    let only = edge(tls).await;
    assert!(get(&only, &old, "shop.example").await.is_err());
    assert!(get(&only, &new, "shop.example").await.is_ok());
    until("it is counted", || only.metrics().contains(r#"reason="tls"} 1"#)).await;
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let first = authority.issue("first", &["first.example"]);
    let second = authority.issue("second", &["second.example", "*.wild.example"]);
    let tls = Tls { certificates: vec![first.files, second.files], tls12: true, client_auth: None };
    let edge = edge(tls).await;
    let config = Arc::new(authority.client(&[]));
    for (name, expected) in [
        ("first.example", &first.certificate),
        ("second.example", &second.certificate),
        ("a.wild.example", &second.certificate),
    ] {
        let stream = handshake(edge.address, &config, name).await.expect("TLS");
        assert_eq!(&stream.get_ref().1.peer_certificates().expect("certificates")[0], expected, "{name}");
    }
    // An unknown name gets the first, which is for others.
    assert!(handshake(edge.address, &config, "third.example").await.is_err());
}

#[tokio::test]
async fn clients_show_certificates_where_they_must() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = |by: &Authority| by.issue("client", &["client.example"]);
    let config = |own: Option<Issued>| Arc::new(authority.client_of(&[&TLS12, &TLS13], &["http/1.1"], own));
    for required in [true, false] {
        let mut tls = authority.tls(&["shop.example"]);
        tls.client_auth = Some(ClientAuth { ca: authority.ca(), required });
        let edge = edge(tls).await;
        let known = get(&edge, &config(Some(own(&authority))), "shop.example").await;
        assert!(known.expect("an answer").ends_with("hello"));
        let none = get(&edge, &config(None), "shop.example").await;
        assert_eq!(none.is_ok_and(|answer| answer.ends_with("hello")), !required);
        let other = get(&edge, &config(Some(own(&stranger))), "shop.example").await;
        assert!(!other.is_ok_and(|answer| answer.ends_with("hello")), "required: {required}");
    }
}

#[tokio::test]
async fn certificates_are_renewed_while_connections_stay() {
    let authority = Authority::new();
    let mut edge = edge(authority.tls(&["shop.example"])).await;
    let config = Arc::new(authority.client(&["http/1.1"]));
    let stream = handshake(edge.address, &config, "shop.example").await.expect("TLS");
    let before = stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned();
    let mut kept = Client::one_over(stream).await;
    assert_eq!(text(kept.get("/").await).await, "hello");
    let new = authority.issue("edge", &["shop.example"]).certificate;
    // Files have a time, which may be coarse.
    let mut now = before.clone();
    for _ in 0..200 {
        edge.proxy().renew();
        // Without a ticket, which would spare the certificate.
        let fresh = Arc::new(authority.client(&["http/1.1"]));
        let stream = handshake(edge.address, &fresh, "shop.example").await.expect("TLS");
        now = stream.get_ref().1.peer_certificates().expect("certificates")[0].clone().into_owned();
        if now == new {
            break;
        }
    }
    assert_eq!(now, new);
    assert_eq!(text(kept.get("/").await).await, "hello", "the old connection goes on");
    // One that is broken changes nothing.
    std::fs::write(authority.folder.path().join("edge.pem"), "no certificate").expect("a file");
    edge.proxy().renew();
    let fresh = Arc::new(authority.client(&["http/1.1"]));
    let stream = handshake(edge.address, &fresh, "shop.example").await.expect("TLS");
    assert_eq!(stream.get_ref().1.peer_certificates().expect("certificates")[0], new);
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    let edge = edge(authority.tls(&["shop.example"])).await;
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(authority.client_of(&[version], &["http/1.1"], None));
        // Tickets of TLS 1.3 come behind the handshake, so a request is made. Threads
        // share what tickets are sealed by.
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let stream = handshake(edge.address, &config, "shop.example").await.expect("TLS");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected), "{version:?}");
            let mut client = Client::one_over(stream).await;
            assert_eq!(text(client.get("/").await).await, "hello");
        }
    }
}

#[tokio::test]
async fn plain_text_on_a_port_of_tls_is_not_served() {
    let authority = Authority::new();
    let edge = edge(authority.tls(&["shop.example"])).await;
    let answer = crate::raw::exchange(edge.address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!answer.contains("hello"), "{answer}");
}

/// A server of TLS that asks for a certificate, and says who came.
async fn secure_server(authority: &Authority, clients: &Authority) -> std::net::SocketAddr {
    let own = authority.issue("server", &["server.example"]);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&clients.ca()) {
        roots.add(certificate).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![own.certificate], own.key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    peers::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            let mut head = Vec::new();
            while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
                if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    return;
                }
            }
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn certificates(path: &std::path::Path) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    let read = rustls::pki_types::CertificateDer::pem_file_iter(path).expect("a file");
    read.map(|certificate| certificate.expect("a certificate")).collect()
}

#[tokio::test]
async fn servers_are_verified_and_shown_a_certificate() {
    let (servers, edges, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let server = secure_server(&servers, &edges).await;
    let own = edges.issue("edge", &["edge.example"]).files;
    let tls = |name: &str, ca: &Authority| UpstreamTls {
        server_name: Some(name.into()),
        ca: Some(ca.ca()),
        client: Some(own.clone()),
    };
    for (tls, expected) in [
        (tls("server.example", &servers), Some("server.example")),
        (tls("other.example", &servers), None),
        (tls("server.example", &stranger), None),
        (UpstreamTls { client: None, ..tls("server.example", &servers) }, None),
    ] {
        let edge = Edge::to(server).upstream(|upstream| upstream.tls = Some(tls.clone())).start();
        let answer = Client::one(edge.address).await.get("/").await;
        match expected {
            Some(name) => assert_eq!(text(answer).await, name),
            None => assert!(matches!(answer.status().as_u16(), 502 | 503), "{tls:?}: {}", answer.status()),
        }
    }
}
