//! Reading raw values, and gathering what is wrong with them.

use std::{collections::HashSet, hash::Hash};

use super::{
    field::{Field, Keys, Shape, Table, UnknownKey},
    place::{Fault, Given, Key, Located, Place},
    problem::{Lines, Problem},
    words::closest,
};

/// Everything found wrong so far.
#[derive(Debug)]
pub(super) struct Report<'t> {
    lines: Lines<'t>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A line of a file that the configuration names; line and column from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'f> {
    pub(super) file: &'f str,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            lines: Lines::new(text),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Errors and warnings, each in the order of the file. Those of other files
    /// come last.
    pub(super) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        fn position(problem: &Problem) -> (Option<&str>, usize, usize) {
            (problem.file.as_deref(), problem.line, problem.column)
        }
        for problems in [&mut self.errors, &mut self.warnings] {
            problems.sort_by(|a, b| position(a).cmp(&position(b)));
        }
        (self.errors, self.warnings)
    }

    pub(super) fn error(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.problem(place, message.into(), help.into());
        self.errors.push(problem);
    }

    pub(super) fn warning(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.problem(place, message.into(), help.into());
        self.warnings.push(problem);
    }

    /// Reports what is wrong in a file that the key at `place` names.
    pub(super) fn error_on(
        &mut self,
        line: &Line<'_>,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.problem(place, message.into(), help.into());
        self.errors.push(problem.on(line));
    }

    pub(super) fn warning_on(
        &mut self,
        line: &Line<'_>,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.problem(place, message.into(), help.into());
        self.warnings.push(problem.on(line));
    }

    fn problem(&self, place: &Place, message: String, help: String) -> Problem {
        let (line, column) = self.lines.position(place.at);
        Problem {
            file: None,
            line,
            column,
            key: place.key.clone(),
            place: place.label.clone(),
            message,
            help,
        }
    }

    pub(super) fn line(&self, place: &Place) -> usize {
        self.lines.position(place.at).0
    }

    /// Reports that a key is missing from the table at `place`.
    pub(super) fn missing(&mut self, place: &Place, key: Key) {
        self.error(
            &place.key(key.name, place.at),
            "is missing",
            format!("add {} = {}", key.name, key.example),
        );
    }

    /// Reads one key: its type, then its value.
    pub(super) fn read<'f, T: Shape, U>(
        &mut self,
        table: &Place,
        key: Key,
        field: &'f Option<Field<T>>,
        parse: impl FnOnce(&'f T) -> Result<U, Fault>,
    ) -> Given<U> {
        let Some(field) = field else {
            return Given::Absent;
        };
        let place = table.key(key.name, field.span.start);
        match self.value(place, key, field, parse) {
            Some(located) => Given::Value(located),
            None => Given::Refused,
        }
    }

    /// The same for a key that must be there.
    pub(super) fn require<'f, T: Shape, U>(
        &mut self,
        table: &Place,
        key: Key,
        field: &'f Option<Field<T>>,
        parse: impl FnOnce(&'f T) -> Result<U, Fault>,
    ) -> Option<Located<U>> {
        match self.read(table, key, field, parse) {
            Given::Absent => {
                self.missing(table, key);
                None
            }
            Given::Refused => None,
            Given::Value(located) => Some(located),
        }
    }

    /// Reads every item of a list, of which the wrong ones are left out.
    pub(super) fn items<U>(
        &mut self,
        list: &Located<&Vec<Field<String>>>,
        key: Key,
        parse: impl Fn(&str) -> Result<U, Fault>,
    ) -> Vec<Located<U>> {
        self.items_of(list, key, |text| parse(text))
    }

    /// The same of items that are no texts.
    pub(super) fn items_of<T: Shape, U>(
        &mut self,
        list: &Located<&Vec<Field<T>>>,
        key: Key,
        parse: impl Fn(&T) -> Result<U, Fault>,
    ) -> Vec<Located<U>> {
        let items = list.value.iter().enumerate();
        items
            .filter_map(|(index, field)| {
                let place = list.place.index(index, field.span.start);
                self.value(place, key, field, &parse)
            })
            .collect()
    }

    /// Reports every value of a list that was there before.
    pub(super) fn unique<T: Eq + Hash>(
        &mut self,
        list: &[Located<T>],
        shown: impl Fn(&T) -> String,
    ) {
        let mut seen = HashSet::new();
        for Located { value, place } in list {
            if !seen.insert(value) {
                let message = format!("{} is in the list already", shown(value));
                self.error(place, message, "remove it here");
            }
        }
    }

    /// Reads the value at a place: its type, then what it says.
    pub(super) fn value<'f, T: Shape, U>(
        &mut self,
        place: Place,
        key: Key,
        field: &'f Field<T>,
        parse: impl FnOnce(&'f T) -> Result<U, Fault>,
    ) -> Option<Located<U>> {
        let parsed = match &field.value {
            Ok(value) => parse(value),
            Err(found) => Err(Fault::new(format!("must be {}, not {found}", T::EXPECTED))),
        };
        match parsed {
            Ok(value) => Some(Located { value, place }),
            Err(Fault { message, help }) => {
                let help =
                    help.unwrap_or_else(|| format!("for example: {} = {}", key.name, key.example));
                self.error(&place, message, help);
                None
            }
        }
    }

    /// Reads a table, and reports its unknown keys.
    pub(super) fn table<'f, T>(
        &mut self,
        parent: &Place,
        name: &'static str,
        field: &'f Option<Table<T>>,
    ) -> Given<&'f T>
    where
        Keys<T>: Shape,
    {
        let Some(field) = field else {
            return Given::Absent;
        };
        let place = parent.key(name, field.span.start);
        match self.keys(&place, field, || {
            format!(
                "write its keys under a header of their own, [{}]",
                place.header()
            )
        }) {
            Some(value) => Given::Value(Located { value, place }),
            None => Given::Refused,
        }
    }

    /// Reads a list of tables; `None` when it is not one. The items that are no
    /// tables are left out.
    pub(super) fn tables<'f, T>(
        &mut self,
        parent: &Place,
        name: &'static str,
        field: &'f Option<Field<Vec<Table<T>>>>,
        name_of: impl Fn(&T) -> Option<&Field<String>>,
    ) -> Option<Vec<Located<&'f T>>>
    where
        Keys<T>: Shape,
    {
        let Some(field) = field else {
            return Some(Vec::new());
        };
        let place = parent.key(name, field.span.start);
        let help = || {
            let header = place.header();
            format!("begin each one with a header in double brackets, [[{header}]]")
        };
        let tables = match &field.value {
            Ok(tables) => tables,
            Err(found) => {
                let message = format!("must be a list of tables, not {found}");
                self.error(&place, message, help());
                return None;
            }
        };
        let located = tables.iter().enumerate().filter_map(|(index, table)| {
            let keys = table.value.as_ref().ok();
            let name_of = keys.and_then(|keys| name_of(&keys.known)?.value.as_deref().ok());
            let item = parent.item(name, index, name_of, table.span.start);
            let value = self.keys(&item, table, help)?;
            Some(Located { value, place: item })
        });
        Some(located.collect())
    }

    fn keys<'f, T>(
        &mut self,
        place: &Place,
        table: &'f Table<T>,
        help: impl FnOnce() -> String,
    ) -> Option<&'f T>
    where
        Keys<T>: Shape,
    {
        match &table.value {
            Ok(keys) => {
                self.unknown_keys(place, &keys.unknown);
                Some(&keys.known)
            }
            Err(found) => {
                let expected = Keys::<T>::EXPECTED;
                self.error(place, format!("must be {expected}, not {found}"), help());
                None
            }
        }
    }

    pub(super) fn unknown_keys(&mut self, place: &Place, keys: &[UnknownKey]) {
        for unknown in keys {
            let help = match closest(&unknown.name, unknown.candidates.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("the keys here are {}", unknown.candidates.join(", ")),
            };
            let place = place.key(&unknown.name, unknown.at);
            self.error(&place, "is an unknown key", help);
        }
    }
}

impl Problem {
    /// The same on a line of another file.
    fn on(self, line: &Line<'_>) -> Self {
        Self {
            file: Some(line.file.to_owned()),
            line: line.line,
            column: line.column,
            ..self
        }
    }
}
