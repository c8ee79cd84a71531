//! One table of the file, key by key.

use std::{hash::Hash, ops::RangeInclusive, time::Duration};

use super::value;
use crate::config::{
    field::{Field, Shape},
    place::{Fault, Given, Key, Located, Place},
    raw,
    report::Report,
    valid::value::{choice, duration, number},
};

/// Reads keys of the table at a place. `key` has an example of what a key may
/// hold, in TOML.
pub(super) struct Reader<'a, 't> {
    pub(super) report: &'a mut Report<'t>,
    pub(super) place: &'a Place,
}

impl Reader<'_, '_> {
    pub(super) fn number<T>(
        &mut self,
        key: Key,
        raw: &raw::Integer,
        range: RangeInclusive<T>,
    ) -> Given<T>
    where
        T: TryFrom<i64> + PartialOrd + std::fmt::Display,
    {
        self.report.read(self.place, key, raw, number(range))
    }

    pub(super) fn truth(&mut self, key: Key, raw: &raw::Truth) -> Given<bool> {
        self.report.read(self.place, key, raw, |truth| Ok(*truth))
    }

    pub(super) fn duration(
        &mut self,
        key: Key,
        raw: &raw::Text,
        range: RangeInclusive<Duration>,
    ) -> Given<Duration> {
        self.report.read(self.place, key, raw, duration(range))
    }

    pub(super) fn size(
        &mut self,
        key: Key,
        raw: &raw::Size,
        range: RangeInclusive<u64>,
    ) -> Given<u64> {
        self.report.read(self.place, key, raw, value::size(range))
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: Key,
        raw: &raw::Text,
        words: &'static [(&'static str, T)],
    ) -> Given<T> {
        self.report.read(self.place, key, raw, choice(words))
    }

    pub(super) fn text<U>(
        &mut self,
        key: Key,
        raw: &raw::Text,
        parse: impl FnOnce(&str) -> Result<U, Fault>,
    ) -> Given<U> {
        self.report.read(self.place, key, raw, |text| parse(text))
    }

    /// A list of texts, none of which may be there twice.
    pub(super) fn texts<U: Eq + Hash + ToString>(
        &mut self,
        key: Key,
        raw: &raw::Texts,
        parse: impl Fn(&str) -> Result<U, Fault>,
    ) -> Given<Vec<U>> {
        self.list(key, raw, |text: &String| parse(text))
    }

    /// A list of values, none of which may be there twice.
    pub(super) fn list<T: Shape, U: Eq + Hash + ToString>(
        &mut self,
        key: Key,
        raw: &Option<Field<Vec<Field<T>>>>,
        parse: impl Fn(&T) -> Result<U, Fault>,
    ) -> Given<Vec<U>> {
        let list = match self.report.read(self.place, key, raw, Ok) {
            Given::Absent => return Given::Absent,
            Given::Refused => return Given::Refused,
            Given::Value(list) => list,
        };
        let items = self.report.items_of(&list, key, parse);
        self.report.unique(&items, U::to_string);
        if items.len() < list.value.len() {
            return Given::Refused;
        }
        Given::Value(Located {
            value: items.into_iter().map(|item| item.value).collect(),
            place: list.place,
        })
    }

    /// Refuses a key that goes with another one, which is not there.
    pub(super) fn without<T>(&mut self, given: &Given<T>, name: &str, other: &str) {
        if let Some(Located { place, .. }) = given.located() {
            self.report.error(
                place,
                format!("means nothing without {other}"),
                format!("add {other}, or remove {name}"),
            );
        }
    }
}

/// Where a key stands that is there, right or wrong.
pub(super) fn at<T>(raw: &Option<Field<T>>) -> Option<usize> {
    raw.as_ref().map(|field| field.span.start)
}
