//! The exchange over an in-memory pipe in virtual time, and the whole probe
//! against listeners on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod exchange;
mod loopback;

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A probe that any good answer satisfies; its address matters only to [`super::probe`].
fn plain() -> HttpProbe {
    HttpProbe {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        host: "web".into(),
        path: "/health".into(),
        status: 200..=399,
        body: None,
    }
}

fn wants(body: &str) -> HttpProbe {
    HttpProbe {
        body: Some(body.into()),
        ..plain()
    }
}

/// Reads a request up to its empty line. Gives what came when the peer hangs up first.
async fn read_request<T: AsyncRead + Unpin>(io: &mut T) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(request).unwrap()
}

/// Writes one piece over and over until the peer hangs up, as it must.
async fn write_for_ever<T: AsyncWrite + Unpin>(io: &mut T, piece: &str) {
    while io.write_all(piece.as_bytes()).await.is_ok() {}
}

fn is_protocol(result: &Result<(), Failure>) -> bool {
    matches!(result, Err(Failure::Protocol(_)))
}
