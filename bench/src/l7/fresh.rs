//! Requests over new connections, each with a full TLS handshake.
//!
//! Neither tool does this: wrk resumes its sessions, and h2load opens no second
//! connection for a client. Times are from connecting on.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::load::{Figures, Plan, times};

/// Runs `plan.connections` clients at once on this thread.
///
/// # Errors
/// When anything but the expected is answered.
pub fn run(plan: &Plan<'_>) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client {
        address: SocketAddr::from(([127, 0, 0, 1], plan.port)),
        connector: TlsConnector::from(Arc::new(config()?)),
        request: Arc::from(format!(
            "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            plan.path
        )),
        length: plan.length,
    };
    let start = Instant::now();
    let end = start + plan.time;
    let all = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..plan.connections {
            let client = client.clone();
            clients.spawn(async move { client.until(end).await });
        }
        let mut all = Vec::new();
        while let Some(client) = clients.join_next().await {
            all.extend(client??);
        }
        anyhow::Ok(all)
    })?;
    let took = start.elapsed();
    let mut histogram = Histogram::<u64>::new(3)?;
    for time in &all {
        histogram.record(u64::try_from(time.as_micros())?)?;
    }
    Ok(times(all.len() as f64 / took.as_secs_f64(), &histogram))
}

#[derive(Clone)]
struct Client {
    address: SocketAddr,
    connector: TlsConnector,
    request: Arc<str>,
    length: usize,
}

impl Client {
    async fn until(self, end: Instant) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        while Instant::now() < end {
            let start = Instant::now();
            let limit = Duration::from_secs(10);
            let done = tokio::time::timeout(limit, self.request()).await;
            done.context("no answer within 10 s")??;
            times.push(start.elapsed());
        }
        Ok(times)
    }

    async fn request(&self) -> Result<()> {
        let stream = TcpStream::connect(self.address)
            .await
            .context("connecting")?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let mut stream = self
            .connector
            .connect(name, stream)
            .await
            .context("TLS handshake")?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(4096);
        let head = loop {
            ensure!(
                stream.read_buf(&mut answer).await? > 0,
                "the answer has no end"
            );
            if let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let line = answer
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        ensure!(
            line.starts_with(b"HTTP/1.1 200"),
            "answered {:?}",
            String::from_utf8_lossy(line)
        );
        while answer.len() < head + self.length {
            ensure!(
                stream.read_buf(&mut answer).await? > 0,
                "the body is too short"
            );
        }
        ensure!(answer.len() == head + self.length, "the body is too long");
        let kind = stream.get_ref().1.handshake_kind();
        ensure!(
            kind == Some(HandshakeKind::Full),
            "the handshake was not a full one: {kind:?}"
        );
        Ok(())
    }
}

fn config() -> Result<ClientConfig> {
    let provider = Arc::new(CryptoProvider {
        // What OpenSSL's clients, wrk and h2load, offer.
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes everyone, as wrk and h2load do: what clients check is not measured.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
