//! Values of a TOML file that remember where they stand.
//!
//! A serde structure stops at the first value of a wrong type. To report every
//! problem at once, each value here is a [`Field`]: reading one succeeds
//! whatever the file holds, and a wrong type becomes part of the result.

use std::{fmt, marker::PhantomData, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
        Visitor, value::StringDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_spanned::Spanned;

use super::words::quoted;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Field<T> {
    /// Bytes of the text. A table's are those of its header.
    pub(super) span: Range<usize>,
    /// The value, or a description of what stands there instead.
    pub(super) value: Result<T, String>,
}

/// A table, with the keys of it that mean nothing.
pub(super) type Table<T> = Field<Keys<T>>;

/// What a [`Keys`] found in a table.
#[derive(Debug)]
pub(super) struct Keys<T> {
    pub(super) known: T,
    pub(super) unknown: Vec<UnknownKey>,
}

#[derive(Debug)]
pub(super) struct UnknownKey {
    pub(super) name: String,
    /// Byte offset of the key.
    pub(super) at: usize,
    /// The keys that the table may have.
    pub(super) candidates: &'static [&'static str],
}

/// A type of value: what it makes of each kind of TOML value. The default for
/// each is to refuse it, with words for what it was.
pub(super) trait Shape: Sized {
    /// What is wanted, for the message.
    const EXPECTED: &'static str;

    fn text(text: String) -> Result<Self, String> {
        Err(format!("the string {}", quoted(&text)))
    }

    fn integer(number: i64) -> Result<Self, String> {
        Err(format!("the number {number}"))
    }

    fn truth(truth: bool) -> Result<Self, String> {
        Err(format!("{truth}"))
    }

    fn list<'de, A: SeqAccess<'de>>(_list: A) -> Result<Result<Self, String>, A::Error> {
        Ok(Err("a list".to_owned()))
    }

    /// Takes a table, whose first key has been read.
    fn table<'de, A: MapAccess<'de>>(
        _first: Option<Spanned<String>>,
        _rest: A,
    ) -> Result<Result<Self, String>, A::Error> {
        Ok(Err("a table".to_owned()))
    }
}

impl Shape for String {
    const EXPECTED: &'static str = "a string";

    fn text(text: String) -> Result<Self, String> {
        Ok(text)
    }
}

impl Shape for i64 {
    const EXPECTED: &'static str = "a whole number";

    fn integer(number: i64) -> Result<Self, String> {
        Ok(number)
    }
}

impl Shape for bool {
    const EXPECTED: &'static str = "true or false";

    fn truth(truth: bool) -> Result<Self, String> {
        Ok(truth)
    }
}

impl<T: Shape> Shape for Vec<Field<T>> {
    const EXPECTED: &'static str = "a list";

    fn list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Result<Self, String>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Ok(items))
    }
}

/// A size: a number of bytes, or a text with a unit.
#[derive(Debug)]
pub(super) enum Amount {
    Bytes(i64),
    Text(String),
}

impl Shape for Amount {
    const EXPECTED: &'static str = "a size such as \"32KiB\", or a number of bytes";

    fn text(text: String) -> Result<Self, String> {
        Ok(Self::Text(text))
    }

    fn integer(number: i64) -> Result<Self, String> {
        Ok(Self::Bytes(number))
    }
}

/// A table whose keys are the operator's.
#[derive(Debug)]
pub(super) struct Entries(pub(super) Vec<Entry>);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Byte offset of the key.
    pub(super) at: usize,
    pub(super) value: Field<String>,
}

impl Shape for Entries {
    const EXPECTED: &'static str = "a table";

    fn table<'de, A: MapAccess<'de>>(
        mut first: Option<Spanned<String>>,
        mut rest: A,
    ) -> Result<Result<Self, String>, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = first.take() {
            entries.push(Entry {
                at: key.span().start,
                name: key.into_inner(),
                value: rest.next_value()?,
            });
            first = rest.next_key()?;
        }
        Ok(Ok(Self(entries)))
    }
}

impl<T: DeserializeOwned> Shape for Keys<T> {
    const EXPECTED: &'static str = "a table";

    fn table<'de, A: MapAccess<'de>>(
        first: Option<Spanned<String>>,
        rest: A,
    ) -> Result<Result<Self, String>, A::Error> {
        let mut unknown = Vec::new();
        let known = T::deserialize(TableDeserializer {
            first,
            rest,
            unknown: &mut unknown,
        })?;
        Ok(Ok(Self { known, unknown }))
    }
}

impl<'de, T: Shape> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Capture<T>>::deserialize(deserializer)?;
        Ok(Self {
            span: spanned.span(),
            value: spanned.into_inner().0,
        })
    }
}

struct Capture<T>(Result<T, String>);

impl<'de, T: Shape> Deserialize<'de> for Capture<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(CaptureVisitor(PhantomData))
            .map(Self)
    }
}

struct CaptureVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for CaptureVisitor<T> {
    type Value = Result<T, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(T::integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Err(format!("{number}, which needs more than 64 bits")))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Self::Value, E> {
        Ok(Err(format!("{number}, which needs more than 64 bits")))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Self::Value, E> {
        Ok(Err(format!("{number}, which needs more than 64 bits")))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Err(format!("the fraction {number:?}")))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(T::truth(truth))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Self::Value, A::Error> {
        // A date arrives as a map, too: one whose key stands nowhere in the file.
        match table.next_key::<Spanned<String>>() {
            Ok(first) => T::table(first, table),
            Err(_) => Ok(Err("a date or time".to_owned())),
        }
    }
}

/// Gives a structure the keys that it knows, and notes the others.
struct TableDeserializer<'u, A> {
    first: Option<Spanned<String>>,
    rest: A,
    unknown: &'u mut Vec<UnknownKey>,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for TableDeserializer<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        candidates: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(KnownKeys {
            table: self,
            candidates,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

struct KnownKeys<'u, A> {
    table: TableDeserializer<'u, A>,
    candidates: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for KnownKeys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let table = &mut self.table;
        loop {
            let key = match table.first.take() {
                Some(key) => key,
                None => match table.rest.next_key::<Spanned<String>>()? {
                    Some(key) => key,
                    None => return Ok(None),
                },
            };
            let at = key.span().start;
            let name = key.into_inner();
            if self.candidates.contains(&name.as_str()) {
                let name: StringDeserializer<A::Error> = name.into_deserializer();
                return seed.deserialize(name).map(Some);
            }
            table.rest.next_value::<IgnoredAny>()?;
            table.unknown.push(UnknownKey {
                name,
                at,
                candidates: self.candidates,
            });
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.table.rest.next_value_seed(seed)
    }
}
