//! Which requests go to the same endpoint.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher as _},
    net::IpAddr,
};

use director_core::{Now, l7::Affinity};
use http::header;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::{headers, pool::Endpoints, seal::Seal, slot::ForwardView};

/// The header of sessions of MCP over streamable HTTP.
const SESSION: &str = "mcp-session-id";

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
    /// To the endpoint that has the session, and to no other.
    Session {
        endpoint: Box<str>,
        /// The server's own ID.
        id: Box<str>,
    },
    /// A session may begin.
    NewSession,
}

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No edge of this fleet gave it out.
    Unknown,
    /// Its server is gone.
    Gone,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown session",
            Self::Gone => "the server of this session is gone",
        })
    }
}

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
        Affinity::Mcp => match request.headers.get(SESSION) {
            None => Wanted::NewSession,
            Some(id) => {
                let opened = id
                    .to_str()
                    .ok()
                    .zip(seal)
                    .and_then(|(id, seal)| seal.open(SESSION, id).ok());
                let opened = opened.ok_or(Lost::Unknown)?;
                let id = String::from_utf8(opened.inner).map_err(|_| Lost::Unknown)?;
                let endpoints = forward.pool.endpoints();
                let index = endpoints
                    .picks
                    .by_name(&opened.endpoint)
                    .ok_or(Lost::Gone)?;
                if endpoints.endpoint(index).state == director_core::EndpointState::Dead {
                    return Err(Lost::Gone);
                }
                Wanted::Session {
                    endpoint: opened.endpoint.into(),
                    id: id.into(),
                }
            }
        },
    })
}

/// What a cookie is sealed for.
fn context(name: &str) -> String {
    format!("cookie {name}")
}

/// The same on every edge of one build: fixed keys, as `DefaultHasher` has.
fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Wanted {
    /// An endpoint that is usable, the wanted one if it can be. `is_last` where
    /// another one is better than none.
    pub fn pick(
        &self,
        endpoints: &Endpoints,
        mut usable: impl FnMut(usize) -> bool,
        is_last: bool,
        now: Now,
    ) -> Option<usize> {
        let picks = &endpoints.picks;
        match self {
            Self::Anywhere | Self::NewSession => {}
            Self::Hash(hash) => return picks.by_hash(*hash, usable, now),
            Self::Cookie { endpoint, .. } => {
                let own = endpoint.as_ref().and_then(|name| picks.by_name(name));
                // Flows that an endpoint has stay while it drains.
                let is_there = |index: &usize| {
                    endpoints.endpoint(*index).state != director_core::EndpointState::Dead
                };
                if let Some(index) = own.filter(is_there).filter(|index| usable(*index)) {
                    return Some(index);
                }
            }
            Self::Session { endpoint, .. } => {
                let _ = is_last;
                return picks.by_name(endpoint).filter(|index| usable(*index));
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
            Self::Session { id, .. } => upstream.insert_header(SESSION, &**id),
            _ => Ok(()),
        }
    }

    /// What the client is given, to come back by.
    ///
    /// # Errors
    /// None that can be caused.
    pub fn to_client(
        &self,
        response: &mut ResponseHeader,
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
            Self::NewSession | Self::Session { .. } => {
                let Some(id) = response
                    .headers
                    .get(SESSION)
                    .map(|id| id.as_bytes().to_vec())
                else {
                    return Ok(());
                };
                // One that is too long to seal stays with its server alone.
                match seal.seal(SESSION, answered, &id) {
                    Ok(sealed) => response.insert_header(SESSION, sealed),
                    Err(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
