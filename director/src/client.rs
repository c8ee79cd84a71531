//! The commands' side of the control socket.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};

use crate::api::ErrorReport;

/// Longest that a whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer: a status of 10,000 endpoints is about 4 MB.
const ANSWER_LIMIT: usize = 64 << 20;

/// Gets `path`.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    exchange(socket, Method::GET, path, Bytes::new()).await
}

/// Posts `body` to `path`.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T> {
    exchange(socket, Method::POST, path, serde_json::to_vec(body)?.into()).await
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T> {
    tokio::time::timeout(PATIENCE, talk(socket, method, path, body))
        .await
        .map_err(|_| anyhow!("the daemon at {} did not answer in time", socket.display()))?
}

async fn talk<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T> {
    let stream = tokio::net::UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no daemon answers at {}\n  help: start `director run`, or name its socket with --socket",
            socket.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "director")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|error| anyhow!("the answer could not be read: {error}"))?
        .to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&bytes)
            .context("the daemon's answer is not of this version");
    }
    match serde_json::from_slice::<ErrorReport>(&bytes) {
        Ok(report) => bail!("{}", report.error),
        Err(_) => bail!("{status}: {}", String::from_utf8_lossy(&bytes)),
    }
}
