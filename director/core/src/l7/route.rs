//! Which route a request takes.
//!
//! Routes are tried in the order of the configuration, and the first that matches
//! serves. For every host name that a route names there is a list of the routes
//! that may match it, in that order, so that a thousand routes of as many hosts
//! cost no more than one.

mod rewrite;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use regex::{Regex, bytes};

use super::model::{Action, HeaderMatch, Matches, PathMatch, Rewrite, Route, ValueMatch};

pub use self::rewrite::{CompiledRewrite, RewriteError};

/// What a route may ask of a request.
pub trait RequestView {
    /// The host asked for, without port, in any case.
    fn host(&self) -> &str;
    /// Without the query.
    fn path(&self) -> &str;
    fn method(&self) -> &str;
    /// The value of a header, the first where there are several.
    fn header(&self, lower_case_name: &str) -> Option<&[u8]>;
}

/// A route that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("route {route}: the pattern {pattern:?} of {of} is not valid: {reason}")]
    Pattern {
        route: Arc<str>,
        /// What the pattern is for.
        of: String,
        pattern: Box<str>,
        reason: String,
    },
    #[error("route {route}: {error}")]
    Rewrite {
        route: Arc<str>,
        error: RewriteError,
    },
}

/// The routes of a listener, ready to be matched.
#[derive(Clone, Debug)]
pub struct Router {
    routes: Vec<Compiled>,
    /// Routes that may match a host, in order; by the host itself, ...
    exact: HashMap<Box<str>, Box<[u32]>>,
    /// ... by what follows `*.`, the longest that fits, ...
    below: HashMap<Box<str>, Box<[u32]>>,
    /// ... and for any other host.
    any: Box<[u32]>,
}

/// A route without its hosts.
#[derive(Clone, Debug)]
struct Compiled {
    path: Option<Path>,
    methods: Vec<Box<str>>,
    headers: Vec<(Box<str>, Value)>,
    rewrite: Option<CompiledRewrite>,
}

#[derive(Clone, Debug)]
enum Path {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Regex),
}

#[derive(Clone, Debug)]
enum Value {
    Present,
    Absent,
    Exact(Box<str>),
    Regex(bytes::Regex),
}

impl Router {
    /// Compiles routes.
    ///
    /// # Errors
    /// When a pattern or a rewrite is not valid: the first of them.
    pub fn new(routes: &[Route]) -> Result<Self, RouteError> {
        let hosts: Vec<&[Box<str>]> = routes.iter().map(|r| &*r.matches.hosts).collect();
        let mut exact = HashMap::new();
        let mut below = HashMap::new();
        for host in hosts.iter().copied().flatten() {
            match host.strip_prefix("*.") {
                Some(parent) => below.insert(
                    parent.into(),
                    candidates(&hosts, |pattern| {
                        pattern
                            .strip_prefix("*.")
                            .is_some_and(|p| p == parent || is_below(parent, p))
                    }),
                ),
                None => exact.insert(
                    host.clone(),
                    candidates(&hosts, |pattern| match pattern.strip_prefix("*.") {
                        Some(parent) => is_below(host, parent),
                        None => pattern == &**host,
                    }),
                ),
            };
        }
        Ok(Self {
            routes: routes.iter().map(Compiled::new).collect::<Result<_, _>>()?,
            exact,
            below,
            any: candidates(&hosts, |_| false),
        })
    }

    /// The index of the route that a request takes.
    #[must_use]
    pub fn find(&self, request: &impl RequestView) -> Option<usize> {
        let candidates = self.of_host(request.host()).iter();
        candidates
            .map(|&index| index as usize)
            .find(|&index| self.routes[index].matches(request))
    }

    /// How a route changes the path, of what it forwards or redirects to.
    #[must_use]
    pub fn rewrite(&self, route: usize) -> Option<&CompiledRewrite> {
        self.routes.get(route)?.rewrite.as_ref()
    }

    /// Routes that may match a host.
    fn of_host(&self, host: &str) -> &[u32] {
        if self.exact.is_empty() && self.below.is_empty() {
            return &self.any;
        }
        // `example.org.` is `example.org`, said in full.
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if let Some(list) = self.exact.get(&*host) {
            return list;
        }
        if self.below.is_empty() {
            return &self.any;
        }
        parents(&host)
            .find_map(|parent| self.below.get(parent))
            .unwrap_or(&self.any)
    }
}

/// Indices of the routes without hosts, and of those with one that is wanted.
fn candidates(hosts: &[&[Box<str>]], is_wanted: impl Fn(&str) -> bool) -> Box<[u32]> {
    (0..)
        .zip(hosts)
        .filter(|(_, of)| of.is_empty() || of.iter().any(|host| is_wanted(host)))
        .map(|(index, _)| index)
        .collect()
}

/// What is above a name, the nearest first: `b.c`, `c` of `a.b.c`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.')
        .filter(|(at, _)| *at > 0)
        .map(|(at, _)| &name[at + 1..])
}

fn is_below(name: &str, parent: &str) -> bool {
    parents(name).any(|p| p == parent)
}

impl Compiled {
    fn new(route: &Route) -> Result<Self, RouteError> {
        let Matches {
            path,
            methods,
            headers,
            ..
        } = &route.matches;
        let prefix = match path {
            Some(PathMatch::Prefix(prefix)) => Some(&**prefix),
            _ => None,
        };
        let rewrite = match &route.action {
            Action::Forward(forward) => forward.rewrite.as_ref(),
            Action::Redirect(redirect) => redirect.path.as_ref(),
            Action::Answer(_) => None,
        };
        let compile = |rewrite: &Rewrite| {
            CompiledRewrite::new(rewrite, prefix).map_err(|error| RouteError::Rewrite {
                route: route.name.clone(),
                error,
            })
        };
        Ok(Self {
            path: path
                .as_ref()
                .map(|path| Path::new(path, &route.name))
                .transpose()?,
            methods: methods.clone(),
            headers: headers
                .iter()
                .map(|header| Ok((header.name.clone(), Value::new(header, &route.name)?)))
                .collect::<Result<_, _>>()?,
            rewrite: rewrite.map(compile).transpose()?,
        })
    }

    fn matches(&self, request: &impl RequestView) -> bool {
        let is_method = self.methods.is_empty() || {
            let method = request.method();
            self.methods.iter().any(|one| **one == *method)
        };
        is_method
            && self
                .path
                .as_ref()
                .is_none_or(|path| path.matches(request.path()))
            && self
                .headers
                .iter()
                .all(|(name, value)| value.matches(request.header(name)))
    }
}

impl Path {
    fn new(path: &PathMatch, route: &Arc<str>) -> Result<Self, RouteError> {
        Ok(match path {
            PathMatch::Exact(path) => Self::Exact(path.clone()),
            PathMatch::Prefix(prefix) => Self::Prefix(prefix.clone()),
            PathMatch::Regex(pattern) => {
                let compiled = whole(pattern).and_then(|whole| Regex::new(&whole));
                Self::Regex(compiled.map_err(|error| RouteError::Pattern {
                    route: route.clone(),
                    of: "the path".into(),
                    pattern: pattern.clone(),
                    reason: error.to_string(),
                })?)
            }
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => after_prefix(prefix, path).is_some(),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl Value {
    fn new(header: &HeaderMatch, route: &Arc<str>) -> Result<Self, RouteError> {
        Ok(match &header.value {
            ValueMatch::Present => Self::Present,
            ValueMatch::Absent => Self::Absent,
            ValueMatch::Exact(value) => Self::Exact(value.clone()),
            ValueMatch::Regex(pattern) => {
                let compiled = whole(pattern).and_then(|whole| bytes::Regex::new(&whole));
                Self::Regex(compiled.map_err(|error| RouteError::Pattern {
                    route: route.clone(),
                    of: format!("the header {}", header.name),
                    pattern: pattern.clone(),
                    reason: error.to_string(),
                })?)
            }
        })
    }

    fn matches(&self, value: Option<&[u8]>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Exact(exact) => value == Some(exact.as_bytes()),
            Self::Regex(regex) => value.is_some_and(|value| regex.is_match(value)),
        }
    }
}

/// The same pattern for the whole of a text. It must be valid by itself, or
/// `a)|(b` would break out of the anchors.
fn whole(pattern: &str) -> Result<String, regex::Error> {
    Regex::new(pattern)?;
    // The end of a line, for a pattern in verbose mode that ends in a comment.
    Ok(match Regex::new(&format!("(?:{pattern})")) {
        Ok(_) => format!(r"\A(?:{pattern})\z"),
        Err(_) => format!("\\A(?:{pattern}\n)\\z"),
    })
}

/// What follows a prefix in a path, where the prefix ends with a segment: `/api`
/// and `/api/` have `/api/x`, neither has `/apix`, and only `/api` has `/api`.
fn after_prefix<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    let is_boundary = rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/');
    is_boundary.then_some(rest)
}
