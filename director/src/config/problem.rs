//! What is wrong with a configuration, and where.

use std::{error, fmt};

/// One thing that is wrong with a configuration, or looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, where it is one that the configuration names.
    pub file: Option<String>,
    /// Line of the file, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key as a path into the file, items of lists by their index from 0:
    /// `service[0].endpoint[2].address`. Empty when the TOML itself is broken.
    pub key: String,
    /// The same place in the operator's names:
    /// `service "web": endpoint "dc01-a": address`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What mends it.
    pub help: String,
}

impl Problem {
    /// The problem as an operator reads it: two lines, the first of which
    /// begins with `file:line:column`, which editors jump to. `file` is the
    /// configuration.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile {
            problem: self,
            file,
        }
    }
}

struct InFile<'a> {
    problem: &'a Problem,
    file: &'a str,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            file,
            line,
            column,
            place,
            message,
            help,
            ..
        } = self.problem;
        let file = file.as_deref().unwrap_or(self.file);
        write!(f, "{file}:{line}:{column}: ")?;
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        write!(f, "{message}\n  help: {help}")
    }
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigErrors {
    /// The file could not be read at all.
    Unreadable {
        /// The file, as it was named.
        file: String,
        /// What is wrong.
        message: String,
        /// What mends it.
        help: String,
    },
    /// The file was read, and its contents are wrong.
    Invalid {
        /// The file, as it was named.
        file: String,
        /// Every problem, in the order of the file; at least one.
        problems: Vec<Problem>,
    },
}

impl ConfigErrors {
    /// The problems within the file; none when it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable {
                file,
                message,
                help,
            } => write!(f, "{file}: {message}\n  help: {help}"),
            Self::Invalid { file, problems } => {
                for problem in problems {
                    writeln!(f, "{}", problem.in_file(file))?;
                }
                match problems.len() {
                    1 => write!(f, "1 problem in {file}"),
                    count => write!(f, "{count} problems in {file}"),
                }
            }
        }
    }
}

impl error::Error for ConfigErrors {}

/// Finds line and column of a byte offset.
#[derive(Debug)]
pub(super) struct Lines<'t> {
    text: &'t str,
    /// Byte offset of each line's first character.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        // A byte order mark is no character of the first line to an editor.
        let first = if text.starts_with('\u{feff}') { 3 } else { 0 };
        let newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self {
            text,
            starts: std::iter::once(first).chain(newlines).collect(),
        }
    }

    /// Line and column, both from 1, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ab\r\nöx\n";
        let lines = Lines::new(text);
        for (offset, position) in [
            (0, (1, 1)),
            (1, (1, 2)),
            (4, (2, 1)),
            // Within the two bytes of the umlaut.
            (5, (2, 1)),
            (6, (2, 2)),
            (7, (2, 3)),
            (8, (3, 1)),
            (100, (3, 1)),
        ] {
            assert_eq!(lines.position(offset), position, "offset {offset}");
        }
        assert_eq!(Lines::new("").position(0), (1, 1));
    }

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        let lines = Lines::new("\u{feff}ab");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(3), (1, 1));
        assert_eq!(lines.position(4), (1, 2));
    }
}
