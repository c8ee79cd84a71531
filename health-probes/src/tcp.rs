//! The TCP probe: an endpoint is well when it accepts a connection.

use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use crate::Failure;

/// Connects and hangs up.
pub(crate) async fn probe(address: SocketAddr) -> Result<(), Failure> {
    connect(address).await.map(drop)
}

/// Opens a connection that ends with a RST when it is dropped.
///
/// Thousands of probes a second would otherwise leave as many sockets in
/// TIME_WAIT for a minute each, on this host or on the endpoint's. It also frees
/// the endpoint at once of a request whose answer came too late.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
    .and_then(|socket| socket.set_zero_linger().map(|()| socket))
    .map_err(|error| Failure::from_io(&error))?;
    let stream = socket
        .connect(address)
        .await
        .map_err(|error| Failure::from_io(&error))?;
    accepted(stream, address)
}

/// Tells an endpoint's acceptance from our own echo.
///
/// A connect to a port of this host that nobody listens on meets itself when the
/// kernel happens to pick that very port as its source (RFC 9293, section 3.5,
/// simultaneous open).
fn accepted(stream: TcpStream, address: SocketAddr) -> Result<TcpStream, Failure> {
    match stream.local_addr() {
        Ok(local) if local == address => Err(Failure::Refused),
        Ok(_) => Ok(stream),
        Err(error) => Err(Failure::from_io(&error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_listener_is_well_and_sees_a_reset() {
        for address in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        ] {
            let listener = TcpListener::bind(address).await.unwrap();
            assert_eq!(probe(listener.local_addr().unwrap()).await, Ok(()));
            let (mut stream, _) = listener.accept().await.unwrap();
            // A RST and not a FIN: so neither side is left in TIME_WAIT.
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses() {
        // Bound but not listening, so that nothing else can take the port.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(probe(address).await, Err(Failure::Refused));
    }

    #[tokio::test]
    async fn a_connection_with_itself_counts_as_refused() {
        // Binding the source to the destination forces what chance does rarely.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        assert_eq!(accepted(stream, address).map(drop), Err(Failure::Refused));
    }

    #[tokio::test]
    async fn a_full_backlog_answers_nothing() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // A backlog of 0 holds one connection; Linux drops SYNs beyond it.
        let _held = TcpStream::connect(address).await.unwrap();
        let outcome = timeout(Duration::from_millis(50), probe(address)).await;
        assert!(outcome.is_err(), "{outcome:?}");
    }
}
