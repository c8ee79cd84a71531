//! A host without file descriptors to spare. It is a test program of its own
//! because the limit holds for the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::time::Duration;

use health_probes::{Failure, Probe, Prober, Schedule, Target};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

const HANGS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn no_descriptors_left_is_not_the_endpoints_fault() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let prober = Prober::spawn(1, sender);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // What is open stays open; nothing more can be opened.
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    prober.set_targets(vec![Target {
        key: (),
        probe: Probe::Tcp {
            address: listener.local_addr().unwrap(),
        },
        schedule: Schedule {
            interval: Duration::from_millis(20),
            fast_interval: Duration::from_millis(10),
            timeout: HANGS,
            jitter_percent: 0,
        },
    }]);
    let report = timeout(HANGS, reports.recv()).await.unwrap().unwrap();
    let expected = Failure::Local("too many open files".into());
    assert_eq!(report.result, Err(expected));
    // And it is well as soon as there are descriptors again.
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let well = async { while reports.recv().await.unwrap().result.is_err() {} };
    timeout(HANGS, well).await.unwrap();
}
