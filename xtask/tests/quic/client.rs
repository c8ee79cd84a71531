//! A QUIC client that moves.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::server::HOST;
use super::support::{Lab, PATIENCE};

/// Bytes of a request: several packets.
pub const REQUEST: usize = 5000;
/// Exchanges on a connection after each move.
const EXCHANGES: usize = 3;

/// A client in the lab, whose sockets are on its host.
pub struct Client {
    runtime: Runtime,
    config: ClientConfig,
}

/// A connection that is kept, and the server that answered on it first. Each has
/// a socket of its own, so it moves alone.
pub struct Kept {
    pub server: String,
    endpoint: Endpoint,
    connection: Connection,
}

/// What became of a connection that moved.
#[derive(Debug, PartialEq, Eq)]
pub enum Moved {
    /// It went on with the server that it had, which saw the new address.
    Stayed,
    /// Another server got its packets, and reset it.
    Reset,
    /// Another server answered, or saw another address.
    Wrong(String),
    /// It ended otherwise, or nothing answered.
    Ended(String),
}

/// What a server answers.
struct Answer {
    server: String,
    seen: SocketAddr,
}

impl Client {
    pub fn new(lab: &Lab, certificate: CertificateDer<'static>) -> Self {
        let netns = Path::new("/run/netns").join(format!("{}-client", lab.prefix));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                setns(File::open(&netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            })
            .enable_all()
            .build()
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        Self { runtime, config }
    }

    /// Runs a task on a thread of the client's host.
    fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(task)).unwrap()
    }

    /// Opens a connection, and has it answered.
    pub fn open(&self, from: IpAddr, to: SocketAddr) -> Result<Kept, String> {
        let config = self.config.clone();
        self.run(async move {
            let endpoint = Endpoint::client((from, 0).into()).unwrap();
            let connecting = endpoint.connect_with(config, to, HOST).unwrap();
            let connection = timeout(PATIENCE, connecting).await;
            let connection = connection.map_err(|_| format!("{to} does not answer"))?;
            let connection = connection.map_err(|error| error.to_string())?;
            let answer = exchange(&connection).await;
            let Answer { server, .. } = answer.map_err(|moved| format!("{moved:?}"))?;
            Ok(Kept {
                server,
                endpoint,
                connection,
            })
        })
    }

    /// Moves a connection to another port of `to`, and exchanges data.
    pub fn move_to(&self, kept: &mut Kept, to: IpAddr) -> Moved {
        let endpoint = kept.endpoint.clone();
        let connection = kept.connection.clone();
        let server = kept.server.clone();
        self.run(async move {
            let before = endpoint.local_addr().unwrap();
            endpoint.rebind(UdpSocket::bind((to, 0)).unwrap()).unwrap();
            let now = endpoint.local_addr().unwrap();
            assert_ne!(now, before);
            for _ in 0..EXCHANGES {
                match exchange(&connection).await {
                    Ok(answer) if answer.server == server && answer.seen == now => {}
                    Ok(answer) => {
                        let Answer { server, seen } = answer;
                        return Moved::Wrong(format!("{server} saw {seen}, not {now}"));
                    }
                    Err(moved) => return moved,
                }
            }
            Moved::Stayed
        })
    }
}

/// Sends a request on a stream of its own and reads the answer.
async fn exchange(connection: &Connection) -> Result<Answer, Moved> {
    let exchanged = async {
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&[b'?'; REQUEST]).await?;
        send.finish()?;
        anyhow::Ok(receive.read_to_end(1000).await?)
    };
    let ended = |what: String| match connection.close_reason() {
        Some(ConnectionError::Reset) => Moved::Reset,
        _ => Moved::Ended(what),
    };
    let bytes = match timeout(PATIENCE, exchanged).await {
        Err(_) => return Err(ended("no answer".to_owned())),
        Ok(Err(error)) => return Err(ended(format!("{error:#}"))),
        Ok(Ok(bytes)) => bytes,
    };
    let text = String::from_utf8(bytes).unwrap();
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap();
    let answer = Answer {
        server: word().to_owned(),
        seen: word().parse().unwrap(),
    };
    assert_eq!(word().parse(), Ok(REQUEST));
    Ok(answer)
}
