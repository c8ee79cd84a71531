//! The control socket and the metrics port: HTTP in, requests to the daemon out.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::{mpsc, oneshot};

use crate::api::{
    ConnReport, ConnsRequest, DrainReport, DrainRequest, ErrorReport, ExplainReport,
    ExplainRequest, StatusReport, TraceLine, TraceRequest,
};

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a request's body.
const BODY_LIMIT: usize = 4096;
/// Most parts of a long answer that are written at once.
const PARTS: usize = 64;

/// Where an answer goes, or why there is none.
pub type Answer<T> = oneshot::Sender<Result<T, String>>;

/// Something that the daemon is asked for, and where the answer goes.
pub enum Request {
    Status(oneshot::Sender<StatusReport>),
    Explain(ExplainRequest, Answer<ExplainReport>),
    Drain {
        target: String,
        on: bool,
        answer: Answer<DrainReport>,
    },
    /// The flows come in batches; the asker's end closes where it has enough.
    Conns(ConnsRequest, Answer<mpsc::Receiver<Vec<ConnReport>>>),
    /// As `Conns`, and without an end of its own.
    Trace(TraceRequest, Answer<mpsc::Receiver<TraceLine>>),
    /// Metrics in the OpenMetrics text format.
    Metrics(oneshot::Sender<String>),
}

type Requests = mpsc::Sender<Request>;

/// Serves the control socket at `path` until the process ends. Only the user
/// that this process runs as may use it.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve_socket(path: &Path, requests: Requests) -> Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("removing {}", path.display()));
    }
    // Made without rights for others from the start, not for a moment with.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = tokio::net::UnixListener::bind(path);
    nix::sys::stat::umask(mask);
    let listener = listener.with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/explain", get(explain))
        .route("/v1/conns", get(conns))
        .route("/v1/trace", get(trace))
        .route("/v1/drain", post(drain))
        .route("/v1/undrain", post(undrain))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(requests);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the control socket ended: {error}");
        }
    });
    Ok(())
}

/// Serves `/metrics` at a loopback address until the process ends.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_metrics(
    address: std::net::SocketAddr,
    inherited: Option<std::net::TcpListener>,
    requests: Requests,
) -> Result<MetricsPort> {
    let inherited = inherited.filter(|socket| socket.local_addr().is_ok_and(|own| own == address));
    let bound = inherited.map_or_else(|| std::net::TcpListener::bind(address), Ok);
    let socket = bound.with_context(|| {
        format!("listening on {address} for metrics\n  help: edge.metrics names another address")
    })?;
    socket.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(requests);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("the metrics port ended: {error}");
        }
    });
    Ok(MetricsPort { socket, task })
}

/// Where metrics are served.
pub struct MetricsPort {
    socket: std::net::TcpListener,
    task: tokio::task::JoinHandle<()>,
}

impl MetricsPort {
    /// Its socket, for the program after this one.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn socket(&self) -> io::Result<std::os::fd::OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Serves no more.
    pub fn stop(&self) {
        self.task.abort();
    }
}

/// Asks the daemon and waits for its answer.
async fn ask<T>(
    requests: &Requests,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Response> {
    let (answer, receiver) = oneshot::channel();
    let asked = async {
        requests.send(request(answer)).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the daemon is stopping",
        )),
        Err(_) => Err(problem(
            StatusCode::GATEWAY_TIMEOUT,
            "the daemon did not answer in time",
        )),
    }
}

fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    (
        status,
        Json(ErrorReport {
            error: error.into(),
        }),
    )
        .into_response()
}

fn outcome<T: serde::Serialize>(answer: Result<Result<T, String>, Response>) -> Response {
    match answer {
        Ok(Ok(report)) => Json(report).into_response(),
        Ok(Err(error)) => problem(StatusCode::UNPROCESSABLE_ENTITY, error),
        Err(response) => response,
    }
}

async fn status(State(requests): State<Requests>) -> Response {
    match ask(&requests, Request::Status).await {
        Ok(report) => Json(report).into_response(),
        Err(response) => response,
    }
}

async fn explain(
    State(requests): State<Requests>,
    Query(query): Query<ExplainRequest>,
) -> Response {
    outcome(ask(&requests, |answer| Request::Explain(query, answer)).await)
}

async fn drain(State(requests): State<Requests>, Json(body): Json<DrainRequest>) -> Response {
    set_drain(&requests, body.target, true).await
}

async fn undrain(State(requests): State<Requests>, Json(body): Json<DrainRequest>) -> Response {
    set_drain(&requests, body.target, false).await
}

async fn set_drain(requests: &Requests, target: String, on: bool) -> Response {
    outcome(ask(requests, |answer| Request::Drain { target, on, answer }).await)
}

async fn conns(State(requests): State<Requests>, Query(query): Query<ConnsRequest>) -> Response {
    match ask(&requests, |answer| Request::Conns(query, answer)).await {
        Ok(Ok(batches)) => lines(batches, |batch, out| {
            batch.iter().try_for_each(|conn| line(conn, out))
        }),
        Ok(Err(error)) => problem(StatusCode::UNPROCESSABLE_ENTITY, error),
        Err(response) => response,
    }
}

async fn trace(State(requests): State<Requests>, Query(query): Query<TraceRequest>) -> Response {
    match ask(&requests, |answer| Request::Trace(query, answer)).await {
        Ok(Ok(events)) => lines(events, line),
        Ok(Err(error)) => problem(StatusCode::UNPROCESSABLE_ENTITY, error),
        Err(response) => response,
    }
}

/// An answer of JSON lines, written as its parts come and no faster than they
/// are read.
fn lines<T: Send + 'static>(
    parts: mpsc::Receiver<T>,
    write: impl Fn(&T, &mut Vec<u8>) -> serde_json::Result<()> + Send + 'static,
) -> Response {
    let body = futures::stream::unfold((parts, write), |(mut parts, write)| async move {
        let mut some = Vec::new();
        if parts.recv_many(&mut some, PARTS).await == 0 {
            return None;
        }
        let mut out = Vec::new();
        let written = some.iter().try_for_each(|part| write(part, &mut out));
        Some((written.map(|()| out), (parts, write)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(body)).into_response()
}

fn line<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

async fn metrics(State(requests): State<Requests>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match ask(&requests, Request::Metrics).await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(response) => response,
    }
}
