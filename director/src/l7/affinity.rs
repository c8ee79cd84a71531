//! Which requests go to the same endpoint.

use std::net::IpAddr;

use director_core::{EndpointState, Now, l7::Affinity};
use http::header;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    headers, mcp,
    pool::{Endpoints, hash},
    seal::Seal,
    slot::ForwardView,
};

/// Where a request wants to go.
#[derive(Debug, Default)]
pub enum Wanted {
    #[default]
    Anywhere,
    /// To where a hash leads.
    Hash(u64),
    /// To the endpoint of this name, if it is there; and the cookie is to be set
    /// where another one answers.
    Cookie {
        name: Box<str>,
        endpoint: Option<Box<str>>,
        max_age: Option<std::time::Duration>,
    },
    /// To the endpoint that has the session of MCP, and to no other.
    Session(mcp::Session),
    /// A session of MCP may begin.
    NewSession,
}

/// A session that cannot go on: no edge gave it out, or its server is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Where a request wants to go, by its route's affinity.
///
/// # Errors
/// When it is of a session that is lost.
pub fn wanted(
    affinity: &Affinity,
    request: &RequestHeader,
    client: IpAddr,
    seal: Option<&Seal>,
    forward: &ForwardView,
) -> std::result::Result<Wanted, Lost> {
    Ok(match affinity {
        Affinity::None => Wanted::Anywhere,
        Affinity::Source => Wanted::Hash(hash(&client)),
        Affinity::Header { name } => match request.headers.get(&**name) {
            Some(value) => Wanted::Hash(hash(&value.as_bytes())),
            None => Wanted::Anywhere,
        },
        Affinity::Cookie { name, max_age } => {
            let value = headers::cookie(request, name).zip(seal);
            let opened = value.and_then(|(value, seal)| seal.open(&context(name), value).ok());
            Wanted::Cookie {
                name: name.clone(),
                endpoint: opened.map(|opened| opened.endpoint.into()),
                max_age: *max_age,
            }
        }
        Affinity::Mcp => {
            // A configuration with this affinity has a key.
            let seal = seal.ok_or(Lost)?;
            match mcp::steer(seal, &forward.pool.service, request) {
                mcp::Steer::Any => Wanted::NewSession,
                mcp::Steer::Unknown => return Err(Lost),
                mcp::Steer::To(session) => {
                    let endpoints = forward.pool.endpoints();
                    let index = endpoints.picks.by_name(&session.endpoint).ok_or(Lost)?;
                    if endpoints.endpoint(index).state == EndpointState::Dead {
                        return Err(Lost);
                    }
                    Wanted::Session(session)
                }
            }
        }
    })
}

/// What a cookie is sealed for.
fn context(name: &str) -> String {
    format!("cookie {name}")
}

impl Wanted {
    /// An endpoint that is usable, the wanted one if it can be.
    pub fn pick(
        &self,
        endpoints: &Endpoints,
        mut usable: impl FnMut(usize) -> bool,
        now: Now,
    ) -> Option<usize> {
        let picks = &endpoints.picks;
        match self {
            Self::Anywhere | Self::NewSession => {}
            Self::Hash(hash) => return picks.by_hash(*hash, usable, now),
            Self::Cookie { endpoint, .. } => {
                let own = endpoint.as_ref().and_then(|name| picks.by_name(name));
                // Flows that an endpoint has stay while it drains.
                let is_there =
                    |index: &usize| endpoints.endpoint(*index).state != EndpointState::Dead;
                if let Some(index) = own.filter(is_there).filter(|index| usable(*index)) {
                    return Some(index);
                }
            }
            Self::Session(session) => {
                return picks
                    .by_name(&session.endpoint)
                    .filter(|index| usable(*index));
            }
        }
        picks.pick(usable, fastrand::u64(..), now)
    }

    /// What the server is to see instead of what the client was given.
    ///
    /// # Errors
    /// None that can be caused.
    pub fn to_server(&self, upstream: &mut RequestHeader) -> Result<()> {
        match self {
            Self::Session(session) => session.put_into(upstream),
            _ => Ok(()),
        }
    }

    /// What the client is given, to come back by.
    ///
    /// # Errors
    /// When a server's session has an ID that is too long to be sealed.
    pub fn to_client(
        &self,
        response: &mut ResponseHeader,
        pool: &str,
        answered: &str,
        seal: Option<&Seal>,
        is_tls: bool,
    ) -> Result<()> {
        let Some(seal) = seal else { return Ok(()) };
        match self {
            Self::Cookie {
                name,
                endpoint,
                max_age,
            } if endpoint.as_deref() != Some(answered) => {
                let Ok(value) = seal.seal(&context(name), answered, b"") else {
                    return Ok(());
                };
                let age =
                    max_age.map_or_else(String::new, |age| format!("; Max-Age={}", age.as_secs()));
                let secure = if is_tls { "; Secure" } else { "" };
                let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}");
                response.append_header(header::SET_COOKIE, cookie).map(drop)
            }
            Self::NewSession | Self::Session(_) => {
                let asked = match self {
                    Self::Session(session) => Some(session),
                    _ => None,
                };
                mcp::seal_response(seal, pool, answered, asked, response).map_err(|error| {
                    Error::because(ErrorType::InternalError, "sealing a session's ID", error)
                })
            }
            _ => Ok(()),
        }
    }
}
