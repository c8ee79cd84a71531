//! The whole probe over real sockets.

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::http;

/// Far beyond what loopback takes: reached only by a probe that hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Probes a listener whose one connection `server` handles.
async fn against<S, R>(probe: HttpProbe, server: S) -> Result<(), Failure>
where
    S: FnOnce(TcpStream) -> R,
    R: Future<Output = ()>,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let probe = HttpProbe {
        address: listener.local_addr().unwrap(),
        ..probe
    };
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        server(stream).await;
    };
    let both = async { tokio::join!(http::probe(&probe), serve) };
    timeout(HANGS, both).await.unwrap().0
}

#[tokio::test]
async fn a_good_answer_is_well() {
    let result = against(wants("ok"), |mut stream| async move {
        let request = read_request(&mut stream).await;
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        // The probe hangs up without waiting for this side to.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    })
    .await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_bad_status_and_a_wrong_body_are_told_apart() {
    let unavailable = against(plain(), |mut stream| async move {
        read_request(&mut stream).await;
        let answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    assert_eq!(unavailable.await, Err(Failure::Status(503)));
    let wrong = against(wants("ok"), |mut stream| async move {
        read_request(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nstandby";
        stream.write_all(answer).await.unwrap();
    });
    assert_eq!(wrong.await, Err(Failure::BodyMismatch));
}

#[tokio::test]
async fn closing_early_breaks_the_protocol() {
    let result = against(plain(), |mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert!(is_protocol(&result), "{result:?}");
}

#[tokio::test]
async fn a_reset_is_a_reset_at_any_point() {
    // With nothing and with part of a head sent before it, the answer fails; with
    // part of a body, the reading of it does.
    for sent in [
        "",
        "HTTP/1.1 200 OK\r\nx-part",
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nok",
    ] {
        let result = against(plain(), |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        assert_eq!(result, Err(Failure::Reset), "{sent:?}");
    }
}

#[tokio::test]
async fn a_reset_before_the_request_is_a_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let probe = plain();
    // Often, because the two halves of an exchange must not race.
    for _ in 0..32 {
        let near = TcpStream::connect(address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        far.set_zero_linger().unwrap();
        drop(far);
        near.readable().await.unwrap();
        let result = exchange(near, probe.request().unwrap(), &probe).await;
        assert_eq!(result, Err(Failure::Reset));
    }
}

#[tokio::test]
async fn a_server_that_never_stops_is_left() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\n", "x-filler: 0123456789\r\n"),
        ("HTTP/1.1 200 OK\r\n\r\n", "0123456789"),
        ("", "garbage without a line's end "),
    ] {
        let result = against(wants("ok"), |mut stream| async move {
            read_request(&mut stream).await;
            let _ = stream.write_all(head.as_bytes()).await;
            write_for_ever(&mut stream, piece).await;
        })
        .await;
        assert!(
            is_protocol(&result) || result == Err(Failure::BodyMismatch),
            "{head:?}: {result:?}"
        );
    }
}

#[tokio::test]
async fn a_closed_port_refuses() {
    // Bound but not listening, so that nothing else can take the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let closed = HttpProbe {
        address: socket.local_addr().unwrap(),
        ..plain()
    };
    assert_eq!(http::probe(&closed).await, Err(Failure::Refused));
}
