//! One connection's steps: open it from a given address, ask, read the answer.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::records::{BreakKind, EndpointId, Outcome};
use super::wire::{LARGEST_ANSWER, REQUEST, parse};

/// Why a connection could not be opened, or an exchange on it not completed.
#[derive(Debug)]
pub enum Failure {
    /// This machine's own doing: out of ports, descriptors or memory.
    Local(io::Error),
    /// The network or the other side reported an error.
    Network(io::Error),
    /// The other side closed before its answer was whole.
    Closed,
    /// Bytes that are no answer of a drill server, or of one unknown.
    Malformed,
}

impl Failure {
    fn from_io(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        // EMFILE, ENFILE and ENOBUFS have no stable ErrorKind.
        let exhausted = matches!(error.raw_os_error(), Some(23 | 24 | 105));
        match error.kind() {
            Kind::AddrInUse
            | Kind::AddrNotAvailable
            | Kind::OutOfMemory
            | Kind::PermissionDenied => Self::Local(error),
            _ if exhausted => Self::Local(error),
            _ => Self::Network(error),
        }
    }

    /// As the outcome of a new connection; `None` for a local failure.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        use io::ErrorKind as Kind;
        match self {
            Self::Local(_) => None,
            Self::Closed => Some(Outcome::Reset),
            Self::Malformed => Some(Outcome::Malformed),
            Self::Network(error) => Some(match error.kind() {
                Kind::ConnectionRefused => Outcome::Refused,
                Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
                    Outcome::Reset
                }
                Kind::TimedOut => Outcome::TimedOut,
                _ => Outcome::Unreachable,
            }),
        }
    }

    /// As the break of a live connection.
    #[must_use]
    pub fn break_kind(&self) -> BreakKind {
        use io::ErrorKind as Kind;
        match self {
            Self::Closed => BreakKind::Closed,
            Self::Malformed => BreakKind::Malformed,
            Self::Local(error) | Self::Network(error) => match error.kind() {
                Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::ConnectionRefused
                | Kind::BrokenPipe => BreakKind::Reset,
                _ => BreakKind::Unreachable,
            },
        }
    }
}

/// Opens a connection from `source` (from any port when its port is 0) to `target`.
///
/// # Errors
/// See [`Failure`].
pub async fn open(source: SocketAddr, target: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = prepare(source, target).map_err(Failure::from_io)?;
    let stream = socket.connect(target).await.map_err(Failure::from_io)?;
    stream.set_nodelay(true).map_err(Failure::from_io)?;
    Ok(stream)
}

fn prepare(source: SocketAddr, target: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // A port left open is chosen at connect, where the whole four-tuple is
    // known; otherwise one port of a source serves one connection only.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&source.into())?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Sends the request and reads its answer: which endpoint gave it.
///
/// # Errors
/// See [`Failure`].
pub async fn exchange(stream: &TcpStream, endpoints: &[String]) -> Result<EndpointId, Failure> {
    ask(stream).await?;
    let mut bytes = Vec::with_capacity(256);
    loop {
        stream.readable().await.map_err(Failure::from_io)?;
        match stream.try_read_buf(&mut bytes) {
            Ok(0) => return Err(Failure::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Failure::from_io(error)),
        }
        // One request is under way, so a byte past its answer is a fault.
        match parse(&bytes) {
            Ok(Some(answer)) if answer.len == bytes.len() => {
                return identify(answer.name, endpoints);
            }
            Ok(None) if bytes.len() < LARGEST_ANSWER => {}
            _ => return Err(Failure::Malformed),
        }
    }
}

async fn ask(stream: &TcpStream) -> Result<(), Failure> {
    let mut rest = REQUEST;
    while !rest.is_empty() {
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.writable().await.map_err(Failure::from_io)?;
            }
            Err(error) => return Err(Failure::from_io(error)),
        }
    }
    Ok(())
}

/// The endpoint of that name.
///
/// # Errors
/// [`Failure::Malformed`] when there is none.
pub fn identify(name: &str, endpoints: &[String]) -> Result<EndpointId, Failure> {
    endpoints
        .iter()
        .position(|known| known == name)
        .and_then(|index| EndpointId::try_from(index).ok())
        .ok_or(Failure::Malformed)
}

/// Waits, on a connection with nothing asked, until the other side does
/// something; it has nothing to say, so whatever it does is a failure.
pub async fn disturbed(stream: &TcpStream) -> Failure {
    let mut byte = [0_u8; 1];
    loop {
        if let Err(error) = stream.readable().await {
            return Failure::from_io(error);
        }
        match stream.try_read(&mut byte) {
            Ok(0) => return Failure::Closed,
            Ok(_) => return Failure::Malformed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Failure::from_io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;
    use std::io::{Read as _, Write as _};

    /// Answers the first request on a loopback listener with `script`, closes
    /// (or not), and returns what the client made of it.
    fn against(script: &'static [u8]) -> Result<EndpointId, Failure> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, REQUEST);
            stream.write_all(script).unwrap();
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            let stream = open("127.0.0.1:0".parse().unwrap(), target).await?;
            exchange(&stream, &["a".into(), "b".into()]).await
        });
        server.join().unwrap();
        result
    }

    #[test]
    fn the_answer_names_its_endpoint() {
        let answer = against(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb");
        assert_eq!(answer.unwrap(), 1);
    }

    #[test]
    fn anything_else_is_a_failure_of_its_own_kind() {
        let unknown = against(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nz").unwrap_err();
        assert_eq!(unknown.outcome(), Some(Outcome::Malformed));
        let extra = against(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab").unwrap_err();
        assert_eq!(extra.break_kind(), BreakKind::Malformed);
        let short = against(b"HTTP/1.1 200 OK\r\n").unwrap_err();
        assert_eq!(short.outcome(), Some(Outcome::Reset));
        assert_eq!(short.break_kind(), BreakKind::Closed);
    }

    #[test]
    fn exhaustion_here_is_told_from_a_fault_there() {
        for code in [24, 23, 105, 98, 99, 12] {
            let failure = Failure::from_io(io::Error::from_raw_os_error(code));
            assert_eq!(failure.outcome(), None, "errno {code}");
        }
        let refused = Failure::from_io(io::Error::from_raw_os_error(111));
        assert_eq!(refused.outcome(), Some(Outcome::Refused));
        let unreachable = Failure::from_io(io::Error::from_raw_os_error(113));
        assert_eq!(unreachable.outcome(), Some(Outcome::Unreachable));
    }
}
