//! The paths (`a::b::c`) that a Rust file names, in `use` and elsewhere.

use std::iter::Peekable;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream::IntoIter};

/// A path as written, with the groups of a `use` expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `["crate", "net", "links"]`.
    pub segments: Vec<String>,
    /// Where it begins, from 1.
    pub line: usize,
}

/// All paths of a file. A single identifier is a path too. Comments and strings
/// hold none.
///
/// # Errors
/// When the text is not Rust; the message has the line.
pub fn named(text: &str) -> Result<Vec<Named>> {
    let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
        anyhow!(
            "not Rust from line {} on: {error}",
            error.span().start().line
        )
    })?;
    let mut found = Vec::new();
    walk(tokens, &[], &mut found);
    Ok(found)
}

type Tokens = Peekable<IntoIter>;

/// Collects the paths in `stream`, each of which continues `prefix`.
fn walk(stream: TokenStream, prefix: &[String], found: &mut Vec<Named>) {
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut segments = prefix.to_vec();
                segments.push(ident.to_string());
                path(segments, line, &mut tokens, found);
            }
            TokenTree::Group(group) => walk(group.stream(), prefix, found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Reads on behind the first segments of a path.
fn path(mut segments: Vec<String>, line: usize, tokens: &mut Tokens, found: &mut Vec<Named>) {
    while double_colon(tokens) {
        match tokens.peek() {
            Some(TokenTree::Ident(ident)) => {
                segments.push(ident.to_string());
                tokens.next();
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                walk(group.stream(), &segments, found);
                tokens.next();
                return;
            }
            // `::*`, `::<T>`
            _ => break,
        }
    }
    found.push(Named { segments, line });
}

fn double_colon(tokens: &mut Tokens) -> bool {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    // `a: B` has one colon, so look two ahead before taking any.
    let mut ahead = tokens.clone();
    if !(is_colon(ahead.next().as_ref()) && is_colon(ahead.next().as_ref())) {
        return false;
    }
    *tokens = ahead;
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let named = named(text).unwrap();
        named.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn groups_of_a_use_are_expanded() {
        // A rename is read as further paths, which does no harm.
        let expanded = [
            "use",
            "crate::a",
            "crate::b::self",
            "crate::b::c",
            "crate::b::as",
            "crate::b::d",
            "crate::e",
        ];
        assert_eq!(paths("use crate::{a, b::{self, c as d}, e::*};"), expanded);
    }

    #[test]
    fn paths_in_bodies_and_macros_are_found_with_their_lines() {
        let named = named("fn f() {\n    vec![super::x::y(1)];\n}").unwrap();
        let path = named
            .iter()
            .find(|path| path.segments[0] == "super")
            .unwrap();
        assert_eq!(
            (path.segments.join("::"), path.line),
            ("super::x::y".to_owned(), 2)
        );
    }

    #[test]
    fn comments_strings_and_types_are_not_taken_for_paths() {
        let text = "/* crate::a */ let b: c = \"crate::d\"; // crate::e";
        assert_eq!(paths(text), ["let", "b", "c"]);
    }

    #[test]
    fn what_is_not_rust_is_an_error() {
        assert!(named("fn f( {").is_err());
    }
}
