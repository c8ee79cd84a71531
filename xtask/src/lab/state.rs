//! What a lab writes down about itself (`/run/<prefix>/lab.json`), so that a later
//! command finds it, and ends and removes what is the lab's and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use super::spec::LabSpec;

/// Where every lab has its folder.
const RUN: &str = "/run";

/// The state of a lab.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The choices it was raised with.
    pub spec: LabSpec,
    /// The process it goes down with; none for one that is left standing.
    pub owner: Option<ProcessId>,
    /// The director, when it runs.
    pub director: Option<ProcessId>,
    /// Endpoint name to its server, while it runs.
    pub servers: BTreeMap<String, ProcessId>,
}

/// `/run/<prefix>`.
pub fn run_dir(prefix: &str) -> PathBuf {
    Path::new(RUN).join(prefix)
}

fn file(prefix: &str) -> PathBuf {
    run_dir(prefix).join("lab.json")
}

impl State {
    /// Claims the prefix for a new lab by making its folder.
    ///
    /// # Errors
    /// When the folder is there already, or cannot be made.
    pub fn claim(spec: &LabSpec) -> Result<Self> {
        let state = Self {
            spec: spec.clone(),
            owner: Some(ProcessId::own()?),
            director: None,
            servers: BTreeMap::new(),
        };
        let dir = run_dir(&spec.prefix);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        state.save()?;
        Ok(state)
    }

    /// Reads a lab's state; `None` when there is no lab of that prefix.
    ///
    /// # Errors
    /// When the folder is there and its state cannot be read.
    pub fn read(prefix: &str) -> Result<Option<Self>> {
        let file = file(prefix);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && !run_dir(prefix).exists() =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    let dir = run_dir(prefix);
                    format!(
                        "{} is there and no lab's state can be read in it",
                        dir.display()
                    )
                });
            }
        };
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a lab's state", file.display()))?;
        Ok(Some(state))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<()> {
        let file = file(&self.spec.prefix);
        let new = file.with_extension("new");
        let text = serde_json::to_string_pretty(self).context("cannot format the lab's state")?;
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Whether the process that raised it died without taking it down.
    pub fn is_abandoned(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }
}

/// Refuses a prefix that is taken.
///
/// # Errors
/// When there is a lab of that prefix, or remains of one; the message says how
/// to remove it.
pub fn check_free(prefix: &str) -> Result<()> {
    let down = format!("take it down with: cargo xtask lab down --prefix {prefix}");
    let Some(state) = State::read(prefix)? else {
        return Ok(());
    };
    match state.owner {
        Some(owner) if owner.is_alive() => {
            bail!("the lab {prefix} is in use by process {}", owner.pid())
        }
        Some(_) => bail!("an interrupted run left parts of the lab {prefix} behind; {down}"),
        None => bail!("the lab {prefix} is up already; {down}"),
    }
}

/// Prefixes starting with `beginning` whose labs were abandoned.
pub fn abandoned(beginning: &str) -> Vec<String> {
    let entries = std::fs::read_dir(RUN).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|prefix| prefix.starts_with(beginning))
        .filter(|prefix| matches!(State::read(prefix), Ok(Some(state)) if state.is_abandoned()))
        .collect()
}
