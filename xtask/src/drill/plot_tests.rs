#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::super::samples;
use super::*;

#[test]
fn the_picture_says_what_happened_and_when() {
    let (topology, run) = samples::killed();
    let plan = samples::plan("").unwrap();
    let svg = svg(&plan, &topology, &run).unwrap();
    for text in [
        "Failover drill: kill of dc01 (IPv4, mode tunnel)",
        "seconds from the fault",
        "new connections per second",
        "dc01",
        "dc02",
        "dc03",
        "failed",
        "fault",
        "detected, 5.64 s later",
        "recovery",
        "weight back, 6.",
    ] {
        assert!(svg.contains(text), "{text} is missing");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.png");
    png(&svg, &path).unwrap();
    let header = std::fs::read(&path).unwrap();
    assert!(header.starts_with(b"\x89PNG"));
    // Width and height stand in the IHDR chunk, which is the first.
    let size = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((size(16), size(20)), (2560, 1280));
}

#[test]
fn the_picture_of_a_drill_of_the_proxy_has_requests_and_their_latency() {
    let (topology, run, _) = samples::proxied();
    let plan = samples::plan("--layer l7").unwrap();
    let svg = svg(&plan, &topology, &run).unwrap();
    for text in [
        "mode proxy",
        "requests per second",
        "RTO 0.00 s, 0 of ",
        " requests failed, 700 retries, 5 changes of breakers",
        "p99, ms",
    ] {
        assert!(svg.contains(text), "{text} is missing");
    }
}

#[test]
fn a_low_rate_is_drawn_in_wider_steps_that_keep_the_total() {
    assert_eq!(
        [10, 100, 150, 400, 2000].map(buckets_per_step),
        [5, 4, 3, 1, 1]
    );
    let (_, run) = samples::killed();
    for merged in [1, 4] {
        let top = stacks(&run, merged)
            .concat()
            .into_iter()
            .fold(0.0, f64::max);
        assert!((top - 2000.0).abs() < 1e-6, "{top}");
    }
}

#[test]
fn an_empty_timeline_is_an_error_and_no_picture() {
    let (topology, mut run) = samples::killed();
    run.timeline.clear();
    let plan = samples::plan("").unwrap();
    assert!(svg(&plan, &topology, &run).is_err());
}
