//! The module as its callers see it: text in, configuration or problems out.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and says where"
)]

mod cases;
mod deny;
mod fuzz;
mod generate;
mod http;
mod load;
mod relations;
mod within;
mod written;

use super::{ConfigErrors, Loaded, Problem, parse};

/// A valid file without warnings, which tests change.
const BASE: &str = include_str!("cases/base.toml");

/// The same with what the packet path can be told.
const FULL: &str = include_str!("cases/full.toml");

/// One whose services the edge proxy serves.
const HTTP: &str = include_str!("cases/http.toml");

#[track_caller]
fn loaded(text: &str) -> Loaded {
    match parse(text, "director.toml") {
        Ok(loaded) => loaded,
        Err(errors) => panic!("refused:\n{errors}\n{text}"),
    }
}

#[track_caller]
fn refused(text: &str) -> Vec<Problem> {
    match parse(text, "director.toml") {
        Ok(loaded) => panic!("loaded: {loaded:?}\n{text}"),
        Err(errors @ ConfigErrors::Unreadable { .. }) => panic!("not read: {errors}"),
        Err(ConfigErrors::Invalid { problems, .. }) => problems,
    }
}
