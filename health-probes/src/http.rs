//! The HTTP/1.1 probe: an endpoint is well when a GET over a new connection is
//! answered with an expected status and, if asked for, an expected text.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Failure, tcp};

/// What is read of a body, in bytes. An answer that goes on is cut off here, and
/// the text asked for must lie within it.
const BODY_LIMIT: usize = 64 * 1024;

/// What a status line and its headers may take together, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

const USER_AGENT: &str = concat!("director-health/", env!("CARGO_PKG_VERSION"));

/// One request, and what counts as a good answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Where to connect.
    pub address: SocketAddr,
    /// The `Host` header, sent as it is: an IPv6 address needs its brackets, and
    /// a port other than 80 belongs in it (RFC 9110, section 7.2).
    pub host: String,
    /// The path to get, with its leading slash, and the query if there is one.
    pub path: String,
    /// The statuses of a good answer. A redirect is not followed: it is a status
    /// like any other.
    pub status: RangeInclusive<u16>,
    /// A text that must occur in the first 64 KiB of a good answer's body.
    pub body: Option<String>,
}

impl HttpProbe {
    fn request(&self) -> Result<Request<Empty<Bytes>>, Failure> {
        // Anything else would be taken as an authority or an absolute URI.
        if !self.path.starts_with('/') {
            return Err(Failure::Local(format!(
                "the path {:?} does not begin with a slash",
                self.path
            )));
        }
        Request::get(&self.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| {
                Failure::Local(format!(
                    "no request can be made of host {:?} and path {:?}: {error}",
                    self.host, self.path
                ))
            })
    }

    /// Judges the first bytes of a body.
    fn judge_body(&self, body: &[u8]) -> Result<(), Failure> {
        let matches = self.body.as_ref().is_none_or(|text| {
            text.is_empty()
                || body
                    .windows(text.len())
                    .any(|window| window == text.as_bytes())
        });
        matches.then_some(()).ok_or(Failure::BodyMismatch)
    }
}

/// Connects, asks once and hangs up.
pub(crate) async fn probe(probe: &HttpProbe) -> Result<(), Failure> {
    let request = probe.request()?;
    let stream = tcp::connect(probe.address).await?;
    exchange(stream, request, probe).await
}

/// Sends the request over `io` and judges the answer.
async fn exchange<T>(
    io: T,
    request: Request<Empty<Bytes>>,
    probe: &HttpProbe,
) -> Result<(), Failure>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| sort(&error))?;
    let mut answer = pin!(answer(sender, request, probe));
    // Both halves run in this one future, so that a timeout, which drops it,
    // takes the connection along. The answer comes first: its request must be
    // queued before the connection looks at what the endpoint sent.
    tokio::select! {
        biased;
        result = &mut answer => result,
        // The connection is over, and has handed on all it had and why it broke.
        _ = connection => answer.await,
    }
}

async fn answer(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    probe: &HttpProbe,
) -> Result<(), Failure> {
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| sort(&error))?;
    let status = response.status().as_u16();
    if !probe.status.contains(&status) {
        return Err(Failure::Status(status));
    }
    // Read even when no text is asked for: an endpoint that cannot finish its
    // answer is not well.
    probe.judge_body(&first_bytes(response.into_body()).await?)
}

/// Reads a body up to its end or the limit.
async fn first_bytes(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut first = Vec::new();
    while first.len() < BODY_LIMIT
        && let Some(frame) = body.frame().await
    {
        if let Some(data) = frame.map_err(|error| sort(&error))?.data_ref() {
            let room = BODY_LIMIT - first.len();
            first.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(first)
}

/// Sorts an error of the HTTP library: its cause, where the kernel gave one, else
/// what it says of the answer.
fn sort(error: &hyper::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    let mut cut_off = error.is_incomplete_message();
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            if inner.raw_os_error().is_some() {
                return Failure::from_io(inner);
            }
            cut_off |= inner.kind() == io::ErrorKind::UnexpectedEof;
        }
        text = inner.to_string();
        cause = inner.source();
    }
    if cut_off {
        text = "closed before the answer was whole".into();
    }
    Failure::protocol(text)
}

#[cfg(test)]
mod tests;
