//! Responses of the edge's own.

use std::time::Duration;

use bytes::Bytes;
use director_core::l7::{Answer, CompiledRewrite, HeaderEdits, Redirect};
use http::{HeaderMap, StatusCode, header, uri::PathAndQuery};
use pingora_core::{Error, ErrorSource, ErrorType, OkOrErr as _, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::{conn::Peer, headers, metrics::RequestEvent, slot::RouteView};

/// The length that a message says its body has.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

async fn write(session: &mut Session, mut response: ResponseHeader, body: Bytes) -> Result<bool> {
    response.insert_header(header::CONTENT_LENGTH, body.len())?;
    let is_head = session.req_header().method == http::Method::HEAD;
    let is_over = is_head || body.is_empty();
    session
        .write_response_header(Box::new(response), is_over)
        .await?;
    if !is_over {
        session.write_response_body(Some(body), true).await?;
    }
    // A body that is still to come is not read, so the connection ends here.
    if !session.as_mut().is_body_done() {
        session.set_keepalive(None);
    }
    Ok(true)
}

/// A status and its reason as text. Returns that it is said.
///
/// # Errors
/// When the client is gone.
pub async fn plain(
    session: &mut Session,
    status: StatusCode,
    retry: Option<Duration>,
) -> Result<bool> {
    let mut response = ResponseHeader::build(status, Some(4))?;
    response.insert_header(header::CONTENT_TYPE, "text/plain")?;
    response.insert_header(header::CACHE_CONTROL, "no-store")?;
    if let Some(retry) = retry {
        response.insert_header(header::RETRY_AFTER, seconds(retry))?;
    }
    let body = format!("{}\n", status.canonical_reason().unwrap_or("error"));
    write(session, response, body.into()).await
}

/// Whole seconds, and never none: a client that asks at once is no help.
fn seconds(wait: Duration) -> u64 {
    wait.as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

/// A configured answer. Returns that it is said.
///
/// # Errors
/// When the client is gone.
pub async fn own(
    session: &mut Session,
    answer: &Answer,
    edits: &HeaderEdits,
    retry: Option<Duration>,
) -> Result<bool> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = ResponseHeader::build(status, Some(4))?;
    if !answer.content_type.is_empty() {
        response.insert_header(header::CONTENT_TYPE, &*answer.content_type)?;
    }
    if let Some(retry) = retry {
        response.insert_header(header::RETRY_AFTER, seconds(retry))?;
    }
    headers::edit_response(&mut response, edits)?;
    write(session, response, Bytes::copy_from_slice(&answer.body)).await
}

/// Sends a client elsewhere. Returns that it is said.
///
/// # Errors
/// When the client is gone.
pub async fn redirect(
    session: &mut Session,
    redirect: &Redirect,
    rewrite: Option<&CompiledRewrite>,
    peer: Option<&Peer>,
) -> Result<bool> {
    let request = session.req_header();
    let scheme = redirect
        .scheme
        .as_deref()
        .unwrap_or_else(|| peer.map_or("http", Peer::scheme));
    let asked = headers::host(request);
    let host = redirect
        .host
        .as_deref()
        .unwrap_or_else(|| headers::without_port(asked));
    let port = match (
        redirect.port,
        redirect.scheme.is_some() || redirect.host.is_some(),
    ) {
        (Some(port), _) => format!(":{port}"),
        // The port that was asked for is of another scheme or host.
        (None, true) => String::new(),
        (None, false) => asked[headers::without_port(asked).len()..].to_owned(),
    };
    let port = match (scheme, &*port) {
        ("http", ":80") | ("https", ":443") => "",
        (_, port) => port,
    };
    let target = request
        .uri
        .path_and_query()
        .map_or("/", PathAndQuery::as_str);
    let target = rewrite.map_or(target.into(), |rewrite| rewrite.apply(target));
    let location = format!("{scheme}://{host}{port}{target}");
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    let mut response = ResponseHeader::build(status, Some(2))?;
    response.insert_header(header::LOCATION, location)?;
    write(session, response, Bytes::new()).await
}

/// Changes the path of a request on its way.
///
/// # Errors
/// When what comes out is no path.
pub fn rewrite(
    upstream: &mut RequestHeader,
    asked: &RequestHeader,
    rewrite: &CompiledRewrite,
) -> Result<()> {
    let target = asked.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = rewrite.apply(target);
    let mut parts = upstream.uri.clone().into_parts();
    let uri = target.parse().ok().and_then(|target: PathAndQuery| {
        parts.path_and_query = Some(target);
        http::Uri::from_parts(parts).ok()
    });
    let uri = uri.or_err(
        ErrorType::HTTPStatus(400),
        "the rewritten path is not a path",
    )?;
    upstream.set_uri(uri);
    Ok(())
}

/// Whether what the client sent was refused on its way in.
fn is_malformed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::InvalidData)
}

/// What is said of a request that failed: the route's fallback, else a status with
/// its reason. Returns the status; 0 where nothing can be said any more.
pub async fn failed(
    session: &mut Session,
    error: &Error,
    why: Option<&'static str>,
    route: Option<&RouteView>,
) -> u16 {
    let forward = route.and_then(RouteView::forward).map(|(config, _)| config);
    let status = match error.etype() {
        ErrorType::HTTPStatus(status) => *status,
        _ => match error.esource() {
            ErrorSource::Upstream => match why {
                Some("timeout") => 504,
                Some("connect") => 503,
                _ => 502,
            },
            ErrorSource::Downstream => match error.etype() {
                _ if is_malformed(error) => 400,
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed => 0,
                ErrorType::ReadTimedout => 408,
                _ => 400,
            },
            ErrorSource::Internal | ErrorSource::Unset => 500,
        },
    };
    if status == 0 || session.response_written().is_some() {
        return 0;
    }
    session.set_keepalive(None);
    let retry = (status == 503).then(|| forward.map_or(Duration::from_secs(5), |f| f.retry_after));
    let is_of_servers = matches!(status, 502..=504);
    let fallback = forward
        .and_then(|forward| forward.fallback.as_ref())
        .filter(|_| is_of_servers);
    let said = match (fallback, route) {
        (Some(fallback), Some(route)) => {
            route.metrics.count(RequestEvent::Fallback);
            own(session, fallback, &route.config.response_headers, retry).await
        }
        _ => {
            let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            plain(session, code, retry).await
        }
    };
    if let Err(error) = said {
        tracing::debug!("the answer to a failed request was not taken: {error}");
    }
    status
}
