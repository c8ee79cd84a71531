//! Values, where they stand, and what a table holds of them.

use super::words::{quoted, shown};

/// Where a value stands: in the file, in the structure, and in the operator's
/// names.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Byte offset.
    pub(super) at: usize,
    pub(super) key: String,
    pub(super) label: String,
    /// Whether the label ends in an item's name, not a key.
    named: bool,
}

impl Place {
    pub(super) fn root() -> Self {
        Self {
            at: 0,
            key: String::new(),
            label: String::new(),
            named: false,
        }
    }

    /// The place of a key in the table at this one.
    pub(super) fn key(&self, key: &str, at: usize) -> Self {
        let key = shown(key);
        Self {
            at,
            key: joined(&self.key, ".", &key),
            label: joined(&self.label, if self.named { ": " } else { "." }, &key),
            named: false,
        }
    }

    /// The place of an item of the list of tables `key` in the table at this one.
    pub(super) fn item(&self, key: &str, index: usize, name: Option<&str>, at: usize) -> Self {
        let indexed = format!("{key}[{index}]");
        let label = match name {
            Some(name) => format!("{key} {}", quoted(name)),
            None => indexed.clone(),
        };
        Self {
            at,
            key: joined(&self.key, ".", &indexed),
            label: joined(&self.label, ": ", &label),
            named: true,
        }
    }

    /// The place of an item of the list at this one.
    pub(super) fn index(&self, index: usize, at: usize) -> Self {
        Self {
            at,
            key: format!("{}[{index}]", self.key),
            label: format!("{}[{index}]", self.label),
            named: false,
        }
    }

    /// The place as a header names it: `service.health` for `service[0].health`.
    pub(super) fn header(&self) -> String {
        let without_index = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
        let parts: Vec<_> = self.key.split('.').map(without_index).collect();
        parts.join(".")
    }
}

fn joined(before: &str, separator: &str, after: &str) -> String {
    if before.is_empty() {
        after.to_owned()
    } else {
        format!("{before}{separator}{after}")
    }
}

/// A value that holds, and where it stands. For a default, that is the table
/// which lacks it.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A key of the file, and an example of a value for it, in TOML.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

pub(super) const fn key(name: &'static str, example: &'static str) -> Key {
    Key { name, example }
}

/// What a key was found to hold.
#[derive(Debug)]
pub(super) enum Given<T> {
    /// The key is not there.
    Absent,
    /// What it holds is wrong, which has been reported.
    Refused,
    Value(Located<T>),
}

impl<T> Given<T> {
    /// The value, or this one where the key is absent. `None` where it was
    /// refused.
    pub(super) fn or(self, place: &Place, default: T) -> Option<Located<T>> {
        match self {
            Self::Absent => Some(Located {
                value: default,
                place: place.clone(),
            }),
            Self::Refused => None,
            Self::Value(located) => Some(located),
        }
    }

    /// The value alone, in the same manner.
    pub(super) fn value_or(self, default: T) -> Option<T> {
        self.into_option().map(|value| value.unwrap_or(default))
    }

    /// The value if the key is there. `None` where it was refused.
    pub(super) fn into_option(self) -> Option<Option<T>> {
        match self {
            Self::Absent => Some(None),
            Self::Refused => None,
            Self::Value(located) => Some(Some(located.value)),
        }
    }

    /// The value and where it stands, where the key is there and right.
    pub(super) fn located(&self) -> Option<&Located<T>> {
        match self {
            Self::Value(located) => Some(located),
            Self::Absent | Self::Refused => None,
        }
    }

    /// The value, or what another table says where the key is absent.
    pub(super) fn or_inherited(self, inherited: Option<&Located<T>>) -> Option<Located<T>>
    where
        T: Clone,
    {
        match self {
            Self::Absent => inherited.cloned(),
            Self::Refused => None,
            Self::Value(located) => Some(located),
        }
    }

    /// The value, or an empty list where the key is absent. `None` where it was
    /// refused.
    pub(super) fn into_list(self) -> Option<Vec<Located<T>>> {
        match self {
            Self::Absent => Some(Vec::new()),
            Self::Refused => None,
            Self::Value(located) => Some(vec![located]),
        }
    }
}

/// Why a value was refused.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    /// What mends it; an example of the key when there is nothing better to say.
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
