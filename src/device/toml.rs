//! Reads TOML that people write: settings and rules. A mistake is told with its place, what stands
//! there, and what may stand there, in words of TOML.

use std::fmt;
use std::ops::Range;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

/// A mistake in a file of rules or settings, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct BadToml {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The mistake, in one line.
    pub message: String,
}

impl BadToml {
    fn new(text: &str, at: usize, message: String) -> Self {
        // A byte order mark takes no column.
        let before = &text[..text.floor_char_boundary(at)];
        let before = before.strip_prefix('\u{feff}').unwrap_or(before);
        let line = before.rsplit('\n').next().unwrap_or_default();
        BadToml {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            message,
        }
    }
}

/// A step on the way to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'s> {
    /// The value of this key.
    Key(&'s str),
    /// The element of a list, counted from 0.
    At(usize),
}

/// A text of TOML that was parsed.
#[derive(Debug)]
pub(crate) struct Toml<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Toml<'t> {
    /// Parses a text.
    ///
    /// # Errors
    /// [`BadToml`] if the text is no TOML.
    pub(crate) fn parse(text: &'t str) -> Result<Self, BadToml> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().trim_end().replace('\n', "; ");
            BadToml::new(text, at, message)
        })?;
        Ok(Toml { text, table })
    }

    /// Reads the text as a value.
    ///
    /// # Errors
    /// [`BadToml`] for an unknown key, a key that is missing, and a value that the key does not
    /// take.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, BadToml> {
        let span = self.table.span();
        let value = DeValue::Table(self.table.get_ref().clone());
        T::deserialize(Value {
            value: &value,
            span: span.clone(),
        })
        .map_err(|wrong| {
            let at = wrong.at.clone().unwrap_or(span).start;
            BadToml::new(self.text, at, wrong.to_string())
        })
    }

    /// Makes the error for the value at a place; if there is none, for what is on the way to it.
    pub(crate) fn mistake(&self, way: &[Step<'_>], message: String) -> BadToml {
        let mut at = self.table.span().start;
        let mut inner: Option<&DeValue<'_>> = None;
        for step in way {
            let found = match (step, inner) {
                (Step::Key(key), None) => self.table.get_ref().get(*key),
                (Step::Key(key), Some(DeValue::Table(table))) => table.get(*key),
                (Step::At(place), Some(DeValue::Array(list))) => list.get(*place),
                _ => None,
            };
            let Some(found) = found else {
                break;
            };
            at = found.span().start;
            inner = Some(found.get_ref());
        }
        BadToml::new(self.text, at, message)
    }
}

/// A mistake that is not yet told.
#[derive(Debug)]
struct Wrong {
    /// The key at which the mistake is.
    key: Option<String>,
    /// True if the value is an element of the key's list.
    is_element: bool,
    what: What,
    at: Option<Range<usize>>,
}

#[derive(Debug)]
enum What {
    /// A value that is not one of those that were expected.
    Value { found: String, expected: String },
    /// Any other mistake, in words.
    Words(String),
}

impl Wrong {
    fn new(what: What) -> Self {
        Wrong {
            key: None,
            is_element: false,
            what,
            at: None,
        }
    }

    /// Adds the place, unless the mistake has one from further inside.
    fn at(mut self, span: &Range<usize>) -> Self {
        self.at.get_or_insert_with(|| span.clone());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.what) {
            (Some(key), What::Value { found, expected }) => {
                let verb = if self.is_element { "has" } else { "is" };
                write!(f, "`{key}` {verb} {found}: expected {expected}")
            }
            (None, What::Value { found, expected }) => write!(f, "{found}: expected {expected}"),
            (Some(key), What::Words(words)) => write!(f, "`{key}`: {words}"),
            (None, What::Words(words)) => f.write_str(words),
        }
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(words: T) -> Self {
        Wrong::new(What::Words(words.to_string()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let expected = all(expected, '`');
        Wrong::custom(format!(
            "there is no key `{field}` here: expected {expected}"
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Wrong::custom(format!(
            "the key `{field}` is missing: expected {field} = …"
        ))
    }

    fn invalid_type(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Wrong::invalid_value(found, expected)
    }

    fn invalid_value(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Wrong::new(What::Value {
            found: found.to_string(),
            expected: expected.to_string(),
        })
    }
}

/// Returns words as a list in English, each between these marks.
fn all(words: &[&str], mark: char) -> String {
    let marked: Vec<String> = words.iter().map(|w| format!("{mark}{w}{mark}")).collect();
    match &marked[..] {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A value, with its place in the text.
struct Value<'v, 't> {
    value: &'v DeValue<'t>,
    span: Range<usize>,
}

impl<'v, 't> Value<'v, 't> {
    fn of(value: &'v Spanned<DeValue<'t>>) -> Self {
        Value {
            value: value.get_ref(),
            span: value.span(),
        }
    }

    /// Makes the error for a value of another kind.
    fn wrong(&self, expected: impl Into<String>) -> Wrong {
        /// The number of characters that are shown of a text.
        const SHOWN: usize = 40;
        let found = match self.value {
            DeValue::String(text) if text.chars().count() > SHOWN => {
                let start: String = text.chars().take(SHOWN).collect();
                format!("\"{}…\"", start.escape_debug())
            }
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(word) => word.to_string(),
            DeValue::Datetime(_) => "a date".into(),
            DeValue::Array(_) => "a list".into(),
            DeValue::Table(_) => "a table".into(),
        };
        let expected = expected.into();
        Wrong::new(What::Value { found, expected }).at(&self.span)
    }

    fn whole<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        least: i128,
        most: i128,
    ) -> Result<V::Value, Wrong> {
        let number = match self.value {
            DeValue::Integer(number) => integer(number),
            _ => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) => visitor.visit_i64(number),
                _ => Err(self.wrong("a whole number")),
            },
            None => Err(self.wrong(format!("a whole number from {least} to {most}"))),
        }
    }
}

fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

macro_rules! whole {
    ($($method:ident $type:ty),+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.whole(visitor, <$type>::MIN.into(), <$type>::MAX.into())
        })+
    };
}

impl<'de> Deserializer<'de> for Value<'_, '_> {
    type Error = Wrong;

    whole!(deserialize_u8 u8, deserialize_u16 u16, deserialize_u32 u32, deserialize_u64 u64);
    whole!(deserialize_i8 i8, deserialize_i16 i16, deserialize_i32 i32, deserialize_i64 i64);

    forward_to_deserialize_any! {
        bytes byte_buf char f32 i128 identifier ignored_any tuple tuple_struct u128 unit unit_struct
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            DeValue::String(_) => self.deserialize_string(visitor),
            DeValue::Integer(_) => self.deserialize_i64(visitor),
            DeValue::Float(_) => self.deserialize_f64(visitor),
            DeValue::Boolean(_) => self.deserialize_bool(visitor),
            DeValue::Array(_) => self.deserialize_seq(visitor),
            DeValue::Table(_) => self.deserialize_map(visitor),
            DeValue::Datetime(_) => Err(self.wrong("no date")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            DeValue::Boolean(word) => visitor.visit_bool(*word),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let number = match self.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.wrong("a number")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            DeValue::String(text) => visitor.visit_str(text).map_err(|wrong: Wrong| {
                // A word that is not taken
                wrong.at(&self.span)
            }),
            _ => Err(self.wrong("a text in quotes")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let DeValue::Array(list) = self.value else {
            return Err(self.wrong("a list in [ ]"));
        };
        visitor
            .visit_seq(Elements(list.iter()))
            .map_err(|wrong| wrong.at(&self.span))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let DeValue::Table(table) = self.value else {
            return Err(self.wrong("a table"));
        };
        let entries = Entries {
            rest: table.iter(),
            next: None,
        };
        visitor
            .visit_map(entries)
            .map_err(|wrong| wrong.at(&self.span))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.value {
            DeValue::Table(_) => self.deserialize_map(visitor),
            _ => Err(self.wrong(format!("a table with {}", all(fields, '`')))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.value {
            DeValue::String(text) if words.contains(&&**text) => {
                let word: StrDeserializer<'_, Wrong> = (**text).into_deserializer();
                visitor.visit_enum(word)
            }
            _ => Err(self.wrong(all(words, '"'))),
        }
    }
}

/// The elements of a list.
struct Elements<'v, 't>(std::slice::Iter<'v, Spanned<DeValue<'t>>>);

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        let next = self.0.next().map(|value| {
            let element = Value::of(value);
            let span = value.span();
            seed.deserialize(element).map_err(|mut wrong| {
                wrong.is_element |= wrong.key.is_none();
                wrong.at(&span)
            })
        });
        next.transpose()
    }
}

/// The entries of a table.
struct Entries<'v, 't> {
    rest: toml::map::Iter<'v, Spanned<toml::de::DeString<'t>>, Spanned<DeValue<'t>>>,
    next: Option<(&'v str, &'v Spanned<DeValue<'t>>)>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.next = Some((key.get_ref(), value));
        let name: StrDeserializer<'_, Wrong> = (**key.get_ref()).into_deserializer();
        let found = seed.deserialize(name);
        found.map(Some).map_err(|wrong| wrong.at(&key.span()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (key, value) = self
            .next
            .take()
            .ok_or_else(|| Wrong::custom("a value without a key"))?;
        seed.deserialize(Value::of(value)).map_err(|mut wrong| {
            wrong.key.get_or_insert_with(|| key.to_owned());
            wrong.at(&value.span())
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
