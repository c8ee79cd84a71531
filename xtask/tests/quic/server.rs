//! QUIC servers whose connection IDs name them, as docs/quic.md has it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    TokioRuntime,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::support::Lab;

/// The name in the servers' certificate.
pub const HOST: &str = "h3.example.org";
const LENGTH: usize = 8;

/// Connection IDs that name this server.
struct Named {
    server: u32,
}

impl ConnectionIdGenerator for Named {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = fastrand::u64(..).to_be_bytes();
        // Codepoint 0, and the length less one.
        id[0] = LENGTH as u8 - 1;
        id[1..4].copy_from_slice(&self.server.to_be_bytes()[1..]);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// All servers have the same key for stateless resets, so that a packet which
/// reaches the wrong one is answered by a reset that its client believes: that
/// tells a packet led astray from one that was lost.
struct ResetKey;

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let digest = Sha256::new().chain_update(b"reset").chain_update(data);
        signature.copy_from_slice(&digest.finalize());
    }

    fn signature_len(&self) -> usize {
        Sha256::output_size()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut own = vec![0; self.signature_len()];
        self.sign(data, &mut own);
        if own == signature {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// Connections accepted, by port of the service.
type Accepted = Arc<Mutex<BTreeMap<u16, usize>>>;

/// All servers of a lab; they end with this value.
pub struct Servers {
    certificate: CertificateDer<'static>,
    accepted: Accepted,
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts a server on each of the hosts, which listens on all `addresses`
    /// when this returns.
    pub fn start(
        lab: &Lab,
        hosts: impl Iterator<Item = (String, u32)>,
        addresses: &[SocketAddr],
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::with_single_cert(vec![certificate.clone()], key.into()).unwrap();
        let accepted = Accepted::default();
        let (stop, stopping) = watch::channel(());
        let start = |(host, id): (String, u32)| {
            let addresses = addresses.to_vec();
            let sockets = lab.within(&host, move || {
                let bind = |address: &SocketAddr| UdpSocket::bind(address).unwrap();
                addresses.iter().map(bind).collect::<Vec<_>>()
            });
            let server = Server {
                host,
                id,
                accepted: Arc::clone(&accepted),
            };
            let (config, stopping) = (config.clone(), stopping.clone());
            std::thread::spawn(move || server.run(sockets, &config, stopping))
        };
        Self {
            threads: hosts.map(start).collect(),
            certificate,
            accepted: Arc::clone(&accepted),
            stop: Some(stop),
        }
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// How many connections all of them have accepted on a port.
    pub fn accepted(&self, port: u16) -> usize {
        let accepted = self.accepted.lock().unwrap();
        accepted.get(&port).copied().unwrap_or_default()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// One server.
struct Server {
    host: String,
    id: u32,
    accepted: Accepted,
}

impl Server {
    /// Serves on `sockets` until told to stop. Their network is where they were
    /// made, wherever this runs.
    fn run(&self, sockets: Vec<UdpSocket>, config: &ServerConfig, mut stop: watch::Receiver<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for socket in sockets {
                let port = socket.local_addr().unwrap().port();
                let mut own = EndpointConfig::new(Arc::new(ResetKey));
                let server = self.id;
                own.cid_generator(move || Box::new(Named { server }));
                let config = Some(config.clone());
                let runtime = Arc::new(TokioRuntime);
                let endpoint = Endpoint::new(own, config, socket, runtime).unwrap();
                tokio::spawn(accept(
                    endpoint,
                    port,
                    self.host.clone(),
                    Arc::clone(&self.accepted),
                ));
            }
            // Only the end of the sender is waited for.
            let _ = stop.changed().await;
        });
    }
}

async fn accept(endpoint: Endpoint, port: u16, host: String, accepted: Accepted) {
    while let Some(incoming) = endpoint.accept().await {
        *accepted.lock().unwrap().entry(port).or_default() += 1;
        let host = host.clone();
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                answer(&connection, &host).await;
            }
        });
    }
}

/// Answers every stream with the name of this server and where it sees its
/// client, until the connection ends.
async fn answer(connection: &Connection, host: &str) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let Ok(asked) = receive.read_to_end(super::client::REQUEST).await else {
            return;
        };
        let seen = connection.remote_address();
        let text = format!("{host} {seen} {}", asked.len());
        // A client that is gone needs no answer.
        if send.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        let _ = send.finish();
    }
}
