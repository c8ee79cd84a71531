//! How a path changes on its way.

use std::borrow::Cow;

use regex::Regex;

use super::after_prefix;
use crate::l7::model::Rewrite;

/// A rewrite that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    #[error("the pattern {pattern:?} of the rewrite is not valid: {reason}")]
    Pattern { pattern: Box<str>, reason: String },
    #[error(
        "the rewrite replaces a prefix, but the route matches none; \
         match the path by a prefix, or rewrite by a pattern"
    )]
    NoPrefix,
    #[error(
        "the rewrite to {to:?} names the group {group:?}, which the pattern {pattern:?} has not; \
         where letters, digits or _ follow a group, write ${{1}} instead of $1, \
         and $$ for a dollar sign"
    )]
    NoGroup {
        to: Box<str>,
        group: Box<str>,
        pattern: Box<str>,
    },
}

/// A [`Rewrite`], ready to be applied.
#[derive(Clone, Debug)]
pub struct CompiledRewrite(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Path(Box<str>),
    Prefix { from: Box<str>, to: Box<str> },
    Regex { regex: Regex, to: Box<str> },
}

impl CompiledRewrite {
    /// Compiles a rewrite, of a route that matches `prefix` if it matches one.
    ///
    /// # Errors
    /// When its pattern is not valid, when it names a group that its pattern has
    /// not, and when it replaces a prefix where there is none.
    pub fn new(rewrite: &Rewrite, prefix: Option<&str>) -> Result<Self, RewriteError> {
        Ok(Self(match rewrite {
            Rewrite::Path(path) => Kind::Path(path.clone()),
            Rewrite::Prefix(to) => Kind::Prefix {
                from: prefix.ok_or(RewriteError::NoPrefix)?.into(),
                to: to.clone(),
            },
            Rewrite::Regex { pattern, to } => {
                let regex = Regex::new(pattern).map_err(|error| RewriteError::Pattern {
                    pattern: pattern.clone(),
                    reason: error.to_string(),
                })?;
                if let Some(group) = groups(to).find(|group| !has_group(&regex, group)) {
                    return Err(RewriteError::NoGroup {
                        to: to.clone(),
                        group: group.into(),
                        pattern: pattern.clone(),
                    });
                }
                Kind::Regex {
                    regex,
                    to: to.clone(),
                }
            }
        }))
    }

    /// The new path, with the query that there was. Begins with `/` if the old
    /// one did; borrowed where nothing changes.
    #[must_use]
    pub fn apply<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let at = path_and_query.find('?').unwrap_or(path_and_query.len());
        let (path, query) = path_and_query.split_at(at);
        if !path.starts_with('/') {
            // The `*` of OPTIONS: no path at all.
            return Cow::Borrowed(path_and_query);
        }
        match &self.0 {
            Kind::Path(to) => Cow::Owned(joined(&["", to, query])),
            Kind::Prefix { from, to } => match after_prefix(from, path) {
                Some(rest) => Cow::Owned(replaced(to, rest, query)),
                None => Cow::Borrowed(path_and_query),
            },
            Kind::Regex { regex, to } => match regex.replace_all(path, &**to) {
                Cow::Borrowed(_) => Cow::Borrowed(path_and_query),
                Cow::Owned(path) => Cow::Owned(joined(&[&path, query])),
            },
        }
    }
}

/// `to` and then what followed the prefix, with one `/` between them.
fn replaced(to: &str, rest: &str, query: &str) -> String {
    match (to.ends_with('/'), rest.starts_with('/')) {
        (true, true) => joined(&[to, &rest[1..], query]),
        (false, false) if !rest.is_empty() => joined(&[to, "/", rest, query]),
        _ => joined(&[to, rest, query]),
    }
}

/// The parts in a row, with a `/` before them where they begin with none.
fn joined(parts: &[&str]) -> String {
    let first = parts.iter().find_map(|part| part.chars().next());
    let mut path = String::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    if first != Some('/') {
        path.push('/');
    }
    for part in parts {
        path.push_str(part);
    }
    path
}

fn has_group(regex: &Regex, group: &str) -> bool {
    match group.parse::<usize>() {
        Ok(number) => number < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|name| name == group),
    }
}

/// The groups that a replacement names, as [`regex::Captures::expand`] reads it.
fn groups(mut to: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        loop {
            to = &to[to.find('$')? + 1..];
            if let Some(rest) = to.strip_prefix('$') {
                to = rest;
                continue;
            }
            let (group, rest) = match to.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or(("", to)),
                None => {
                    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    to.split_at(to.find(|c| !is_name(c)).unwrap_or(to.len()))
                }
            };
            to = rest;
            if !group.is_empty() {
                return Some(group);
            }
        }
    })
}
