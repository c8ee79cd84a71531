//! The commands' side of the control socket.

use std::{ops::ControlFlow, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};

use crate::api::ErrorReport;

/// Longest that a whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer: a status of 10,000 endpoints is about 4 MB.
const ANSWER_LIMIT: usize = 64 << 20;
/// Most bytes of a line, where an answer comes line by line.
const LINE_LIMIT: usize = 64 << 10;

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
        .map_err(|_| late(socket))?
}

async fn talk<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T> {
    let response = send(socket, method, path, body).await?;
    let status = response.status();
    let bytes = whole(response.into_body()).await?;
    if status.is_success() {
        return serde_json::from_slice(&bytes)
            .context("the daemon's answer is not of this version");
    }
    Err(refusal(status, &bytes))
}

/// Gets `path`, and gives each line of the answer to `each` as it comes, until
/// that breaks off or the answer ends.
///
/// # Errors
/// When no daemon answers, it refuses or goes away, or `each` fails.
pub async fn lines<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    mut each: impl FnMut(T) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let answered = send(socket, Method::GET, path, Bytes::new());
    let response = tokio::time::timeout(PATIENCE, answered)
        .await
        .map_err(|_| late(socket))??;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        return Err(refusal(status, &whole(body).await?));
    }
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the daemon broke off its answer")?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        let mut begins = 0;
        while let Some(length) = rest[begins..].iter().position(|byte| *byte == b'\n') {
            let line = serde_json::from_slice(&rest[begins..begins + length])
                .context("the daemon's answer is not of this version")?;
            if each(line)?.is_break() {
                return Ok(());
            }
            begins += length + 1;
        }
        rest.drain(..begins);
        if rest.len() > LINE_LIMIT {
            bail!("the daemon's answer is not of this version: a line is too long");
        }
    }
    Ok(())
}

/// A query of a path: what is there of `fields`, escaped.
#[must_use]
pub fn query(fields: &[(&str, Option<String>)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        let Some(value) = value else { continue };
        out.push(if out.is_empty() { '?' } else { '&' });
        out += name;
        out.push('=');
        for byte in value.bytes() {
            // Unreserved by RFC 3986.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out += &format!("%{byte:02X}");
            }
        }
    }
    out
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Response<Incoming>> {
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
    Ok(sender.send_request(request).await?)
}

async fn whole(body: Incoming) -> Result<Bytes> {
    let collected = Limited::new(body, ANSWER_LIMIT).collect().await;
    let collected = collected.map_err(|error| anyhow!("the answer could not be read: {error}"))?;
    Ok(collected.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<ErrorReport>(body) {
        Ok(report) => anyhow!("{}", report.error),
        Err(_) => anyhow!("{status}: {}", String::from_utf8_lossy(body)),
    }
}

fn late(socket: &Path) -> anyhow::Error {
    anyhow!("the daemon at {} did not answer in time", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped_and_say_only_what_is_there() {
        let some = |text: &str| Some(text.to_owned());
        let fields = [
            ("service", None),
            ("source", some("2001:db8::/32")),
            ("endpoint", some("web/dc 1&a=b")),
        ];
        assert_eq!(
            query(&fields),
            "?source=2001%3Adb8%3A%3A%2F32&endpoint=web%2Fdc%201%26a%3Db"
        );
        assert_eq!(query(&fields[..1]), "");
    }
}
