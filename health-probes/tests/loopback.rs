//! The public interface against real listeners on loopback: an endpoint that
//! is well, is lost and comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use health_probes::{Failure, HttpProbe, Pace, Probe, Prober, Report, Schedule, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Far beyond what loopback takes: reached only when nothing more happens.
const HANGS: Duration = Duration::from_secs(60);

/// A timeout that nothing on loopback meets by being slow.
const SCHEDULE: Schedule = Schedule {
    interval: Duration::from_millis(20),
    fast_interval: Duration::from_millis(10),
    timeout: HANGS,
    jitter_percent: 10,
};

fn tcp(key: &'static str, address: SocketAddr) -> Target<&'static str> {
    Target {
        key,
        probe: Probe::Tcp { address },
        schedule: SCHEDULE,
    }
}

/// Waits for a report of `key` with this result.
async fn until(
    reports: &mut mpsc::Receiver<Report<&'static str>>,
    key: &str,
    result: Result<(), Failure>,
) {
    let found = async {
        loop {
            let report = reports.recv().await.unwrap();
            if report.key == key && report.result == result {
                return;
            }
        }
    };
    let found = timeout(HANGS, found).await;
    assert!(found.is_ok(), "{key} never came to {result:?}");
}

#[tokio::test]
async fn an_endpoint_is_lost_and_comes_back() {
    // The address stays bound throughout, so that no other test can listen on it.
    let bind = |address| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        socket
    };
    let reserved = bind((Ipv4Addr::LOCALHOST, 0).into());
    let address = reserved.local_addr().unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let prober = Prober::spawn(4, sender);
    prober.set_targets(vec![tcp("a", address)]);
    for _ in 0..3 {
        until(&mut reports, "a", Err(Failure::Refused)).await;
        prober.set_pace(&"a", Pace::Fast);
        let listener = bind(address).listen(1024).unwrap();
        until(&mut reports, "a", Ok(())).await;
        prober.set_pace(&"a", Pace::Normal);
        drop(listener);
        prober.probe_now(&"a");
    }
    drop(prober);
    while reports.recv().await.is_some() {}
}

#[tokio::test]
async fn protocols_are_told_apart_on_one_endpoint() {
    // It accepts, so TCP finds it well; it answers 503, so HTTP does not.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(unavailable(stream));
        }
    };
    let server = tokio::spawn(serve);
    let http = Target {
        key: "http",
        probe: Probe::Http(HttpProbe {
            address,
            host: "web".into(),
            path: "/".into(),
            status: 200..=399,
            body: None,
        }),
        schedule: SCHEDULE,
    };
    let (sender, mut reports) = mpsc::channel(16);
    let prober = Prober::spawn(1, sender);
    prober.set_targets(vec![tcp("tcp", address), http]);
    until(&mut reports, "tcp", Ok(())).await;
    until(&mut reports, "http", Err(Failure::Status(503))).await;
    server.abort();
}

async fn unavailable(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    // The TCP probe hangs up instead of asking.
    if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        let _ = stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
}

#[tokio::test]
async fn a_black_hole_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // A backlog of 0 holds one connection; Linux drops SYNs beyond it.
    let _held = TcpStream::connect(address).await.unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let prober = Prober::spawn(1, sender);
    let schedule = Schedule {
        timeout: Duration::from_millis(50),
        ..SCHEDULE
    };
    prober.set_targets(vec![Target {
        schedule,
        ..tcp("hole", address)
    }]);
    for _ in 0..3 {
        let report = timeout(HANGS, reports.recv()).await.unwrap().unwrap();
        assert_eq!(report.result, Err(Failure::Timeout));
        assert!(report.latency >= schedule.timeout, "{report:?}");
    }
}
