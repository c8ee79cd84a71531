//! Affinity of MCP sessions (Model Context Protocol, streamable HTTP, revisions
//! 2025-03-26 to 2025-11-25).
//!
//! A server gives out `Mcp-Session-Id`; the edge gives the client that id sealed with
//! the endpoint's name, so any edge can route it. A session that is unknown, or whose
//! endpoint is lost, is answered with 404: that tells the client to initialise anew,
//! without the id, and then any endpoint may take it. A server's own 404 passes.
//!
//! Newer clients (revision 2026-07-28) have no sessions; their `Mcp-Method` and
//! `Mcp-Name` are headers like others, which routes match.

use std::sync::Arc;

use director_core::l7::model::Answer;
use http::HeaderValue;
use pingora_http::{RequestHeader, ResponseHeader};

use super::seal::{Seal, SealError};

/// The header with a session's id.
pub const SESSION_ID: &str = "mcp-session-id";

/// Where a request is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steer {
    /// To any endpoint: it begins a session, or needs none.
    Any,
    /// To the endpoint of its session. Where that is gone or down, [`lost`] is the
    /// answer; one that is drained keeps its sessions.
    To(Session),
    /// Nowhere: no edge gave this id out. [`lost`] is the answer.
    Unknown,
}

/// The session that a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of the endpoint.
    pub endpoint: String,
    /// The server's own id.
    id: HeaderValue,
    /// What the client knows it by.
    sealed: HeaderValue,
}

/// Where a request to a pool is to go by its session.
#[must_use]
pub fn steer(seal: &Seal, pool: &str, request: &RequestHeader) -> Steer {
    let mut ids = request.headers.get_all(SESSION_ID).iter();
    let Some(sealed) = ids.next() else {
        return Steer::Any;
    };
    if ids.next().is_some() {
        return Steer::Unknown;
    }
    let session = || {
        let opened = seal.open(&context(pool), sealed.to_str().ok()?).ok()?;
        Some(Session {
            endpoint: opened.endpoint,
            id: HeaderValue::from_bytes(&opened.inner).ok()?,
            sealed: sealed.clone(),
        })
    };
    session().map_or(Steer::Unknown, Steer::To)
}

impl Session {
    /// Gives a request to the server the server's own id.
    ///
    /// # Errors
    /// None that can come: the name is a valid one.
    pub fn put_into(&self, request: &mut RequestHeader) -> pingora_core::Result<()> {
        request.insert_header(SESSION_ID, self.id.clone())
    }
}

/// Seals the id in a response of an endpoint, if it has one. `asked` is the session
/// that the request was of; its client keeps the id that it knows.
///
/// # Errors
/// Where the server's id is too long to be sealed; the client must not get such a
/// response, since it could not go on.
pub fn seal_response(
    seal: &Seal,
    pool: &str,
    endpoint: &str,
    asked: Option<&Session>,
    response: &mut ResponseHeader,
) -> Result<(), SealError> {
    let Some(id) = response.headers.get(SESSION_ID) else {
        return Ok(());
    };
    let sealed = match asked {
        Some(asked) if asked.id == id && asked.endpoint == endpoint => asked.sealed.clone(),
        _ => {
            let text = seal.seal(&context(pool), endpoint, id.as_bytes())?;
            HeaderValue::try_from(text).map_err(|_| SealError::Malformed)?
        }
    };
    response
        .insert_header(SESSION_ID, sealed)
        .map_err(|_| SealError::Malformed)
}

/// What a client of an unknown or lost session is told: 404, by which it knows to
/// initialise anew. The body is what servers made with the TypeScript SDK say; the
/// Python SDK (2.3) hands its error to whoever uses it, and leaves it to them to open
/// a new client.
#[must_use]
pub fn lost() -> Answer {
    const BODY: &str =
        r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
    Answer {
        status: 404,
        content_type: "application/json".into(),
        body: Arc::from(BODY.as_bytes()),
    }
}

/// An id of one pool means nothing to another, whose endpoints may have the same names.
fn context(pool: &str) -> String {
    format!("mcp {pool}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::new([1; 32])
    }

    fn request(ids: &[&str]) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/mcp", None).unwrap();
        for id in ids {
            request.append_header("Mcp-Session-Id", *id).unwrap();
        }
        request
    }

    fn response(id: &str) -> ResponseHeader {
        let mut response = ResponseHeader::build(200, None).unwrap();
        response.insert_header("Mcp-Session-Id", id).unwrap();
        response
    }

    fn id(response: &ResponseHeader) -> String {
        let id = &response.headers[SESSION_ID];
        id.to_str().unwrap().to_owned()
    }

    /// The session that an endpoint begins with a client.
    fn begun(endpoint: &str, own: &str) -> String {
        let mut begun = response(own);
        seal_response(&seal(), "tools", endpoint, None, &mut begun).unwrap();
        id(&begun)
    }

    fn session(sealed: &str) -> Session {
        match steer(&seal(), "tools", &request(&[sealed])) {
            Steer::To(session) => session,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_session_goes_anywhere() {
        assert_eq!(steer(&seal(), "tools", &request(&[])), Steer::Any);
        let mut modern = request(&[]);
        modern.insert_header("Mcp-Method", "tools/call").unwrap();
        assert_eq!(steer(&seal(), "tools", &modern), Steer::Any);
    }

    #[test]
    fn a_session_stays_at_its_endpoint_under_the_servers_own_id() {
        let sealed = begun("dc01-a", "own-1");
        assert!(!sealed.contains("own-1"));
        let session = session(&sealed);
        assert_eq!(session.endpoint, "dc01-a");
        let mut sent = request(&[&sealed]);
        session.put_into(&mut sent).unwrap();
        let ids: Vec<_> = sent.headers.get_all(SESSION_ID).iter().collect();
        assert_eq!(ids, ["own-1"]);
    }

    #[test]
    fn a_client_keeps_the_id_that_it_knows() {
        let sealed = begun("dc01-a", "own-1");
        let session = session(&sealed);
        let mut same = response("own-1");
        seal_response(&seal(), "tools", "dc01-a", Some(&session), &mut same).unwrap();
        assert_eq!(id(&same), sealed);
        let mut other = response("own-2");
        seal_response(&seal(), "tools", "dc01-a", Some(&session), &mut other).unwrap();
        assert_ne!(id(&other), sealed);
    }

    #[test]
    fn what_no_edge_gave_out_is_unknown() {
        let sealed = begun("dc01-a", "own-1");
        let with_other_key = Seal::new([2; 32]);
        let unknown = [
            steer(&seal(), "tools", &request(&["own-1"])),
            steer(&seal(), "tools", &request(&[""])),
            steer(&seal(), "tools", &request(&[&sealed, &sealed])),
            steer(&seal(), "other pool", &request(&[&sealed])),
            steer(&with_other_key, "tools", &request(&[&sealed])),
            steer(&seal(), "tools", &request(&[&"A".repeat(10_000)])),
        ];
        assert!(
            unknown.iter().all(|steer| *steer == Steer::Unknown),
            "{unknown:?}"
        );
        let cookie = seal().seal("cookie", "dc01-a", b"own-1").unwrap();
        assert_eq!(
            steer(&seal(), "tools", &request(&[&cookie])),
            Steer::Unknown
        );
    }

    #[test]
    fn a_response_without_id_stays_as_it_is() {
        let mut gone = ResponseHeader::build(404, None).unwrap();
        seal_response(&seal(), "tools", "dc01-a", None, &mut gone).unwrap();
        assert_eq!(gone.status, 404);
        assert!(gone.headers.is_empty());
    }

    #[test]
    fn an_id_that_is_too_long_is_told_of() {
        let mut long = response(&"x".repeat(2000));
        let refused = seal_response(&seal(), "tools", "dc01-a", None, &mut long);
        assert_eq!(refused, Err(SealError::TooLong));
    }

    #[test]
    fn a_lost_session_is_told_in_json() {
        let lost = lost();
        let body: serde_json::Value = serde_json::from_slice(&lost.body).unwrap();
        assert_eq!((lost.status, &body["jsonrpc"]), (404, &"2.0".into()));
        assert!(body["error"]["code"].is_i64() && body["id"].is_null());
    }
}
