//! A PROXY protocol header is taken, awaited or refused for good: what follows it
//! changes nothing, and without its last byte it is awaited. What was read of it is
//! read again from what we write of it.

use director::proxy_protocol::{Parse, V2_BYTES, parse, write};
use director_core::l7::ProxyProtocol;

pub fn check(bytes: &[u8]) {
    let found = parse(bytes);
    let Parse::Done { header, length } = found else {
        // More than the longest header is never awaited.
        assert!(found != Parse::Incomplete || bytes.len() < V2_BYTES);
        return;
    };
    assert!(length <= bytes.len() && length <= V2_BYTES);
    assert_eq!(parse(&bytes[..length]), found);
    assert_eq!(parse(&bytes[..length - 1]), Parse::Incomplete);
    if let (Some(source), Some(destination)) = (header.source, header.destination) {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let again = write(version, source, destination);
            let length = again.len();
            assert_eq!(parse(&again), Parse::Done { header, length });
        }
    }
}
