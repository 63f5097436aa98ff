//! Makes every mistake in every key that a file may have. The keys come from the types that the
//! file is read into.

use std::cell::RefCell;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::BadToml;

/// A value that a key takes.
#[derive(Debug, Clone)]
enum Kind {
    Bool,
    Number,
    Whole(i128, i128),
    Text,
    Word,
    List,
    Table(&'static [&'static str]),
}

/// The step from a list to its elements.
const ELEMENT: &str = "[]";

/// Literals of all kinds that TOML has.
const LITERALS: [(&str, Kind); 11] = [
    ("\"no-word\"", Kind::Text),
    ("\"[\"", Kind::Text),
    ("7", Kind::Whole(7, 7)),
    ("-7", Kind::Whole(-7, -7)),
    (
        "99999999999999999999",
        Kind::Whole(99_999_999_999_999_999_999, 0),
    ),
    ("7.5", Kind::Number),
    ("true", Kind::Bool),
    ("[]", Kind::List),
    ("[\"no-word\"]", Kind::List),
    ("{}", Kind::Table(&[])),
    // A date, which no key takes
    ("1979-05-27", Kind::Word),
];

impl Kind {
    fn takes(&self, literal: &Kind) -> bool {
        match (self, literal) {
            (Kind::Whole(least, most), Kind::Whole(number, _)) => (least..=most).contains(&number),
            (Kind::Number, Kind::Whole(..) | Kind::Number)
            | (Kind::Bool, Kind::Bool)
            | (Kind::Text, Kind::Text)
            | (Kind::List, Kind::List)
            | (Kind::Table(_), Kind::Table(_)) => true,
            _ => false,
        }
    }
}

/// Finds out what a type takes at the end of a way.
struct Trace<'k> {
    way: &'k [&'static str],
    found: &'k RefCell<Option<Kind>>,
}

impl Trace<'_> {
    fn end<T>(self, kind: Kind) -> Result<T, Error> {
        assert!(self.way.is_empty(), "{:?} is beyond a value", self.way);
        *self.found.borrow_mut() = Some(kind);
        Err(Error::custom("found"))
    }
}

macro_rules! end {
    ($($method:ident $kind:expr),+) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.end($kind)
        })+
    };
}

impl<'de> Deserializer<'de> for Trace<'_> {
    type Error = Error;

    end!(
        deserialize_bool Kind::Bool,
        deserialize_f64 Kind::Number,
        deserialize_str Kind::Text,
        deserialize_string Kind::Text,
        deserialize_u16 Kind::Whole(0, u16::MAX.into()),
        deserialize_u32 Kind::Whole(0, u32::MAX.into()),
        deserialize_u64 Kind::Whole(0, u64::MAX.into())
    );

    forward_to_deserialize_any! {
        bytes byte_buf char f32 i8 i16 i32 i64 i128 identifier ignored_any map newtype_struct tuple tuple_struct
        u8 u128 unit unit_struct
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        panic!(
            "{:?}: a kind of value that this test does not know",
            self.way
        );
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.way {
            [] => self.end(Kind::List),
            [_, ..] => visitor.visit_seq(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.way {
            [] => self.end(Kind::Table(fields)),
            [_, ..] => visitor.visit_map(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.end(Kind::Word)
    }
}

impl<'de> SeqAccess<'de> for Trace<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let (way, found) = (&self.way[1..], self.found);
        seed.deserialize(Trace { way, found }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Trace<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let key: StrDeserializer<'_, Error> = self.way[0].into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (way, found) = (&self.way[1..], self.found);
        seed.deserialize(Trace { way, found })
    }
}

/// Returns all keys below a way, with the kinds of their values.
fn keys<T: DeserializeOwned>(way: &[&'static str]) -> Vec<(Vec<&'static str>, Kind)> {
    let found = RefCell::new(None);
    let end = T::deserialize(Trace { way, found: &found });
    let kind = found.into_inner();
    let kind = kind.unwrap_or_else(|| panic!("{way:?}: {:?}", end.err()));
    let mut all = vec![(way.to_vec(), kind.clone())];
    let below: Vec<&'static str> = match kind {
        Kind::Table(fields) => fields.to_vec(),
        Kind::List => vec![ELEMENT],
        _ => Vec::new(),
    };
    for step in below {
        let way: Vec<&'static str> = way.iter().copied().chain([step]).collect();
        all.extend(keys::<T>(&way));
    }
    all
}

/// Returns a file with a value at the end of a way, and the columns of the table or list around it
/// and of the value. `beside`: what else the tables need, by their way.
fn file(way: &[&str], literal: &str, beside: &[(&[&str], &str)]) -> (String, usize, usize) {
    let (mut text, mut after) = (String::new(), String::new());
    let mut around = 0;
    for (depth, step) in way.iter().enumerate() {
        around = text.len();
        if *step == ELEMENT {
            text.push('[');
            after.insert(0, ']');
            continue;
        }
        if depth > 0 {
            text.push_str("{ ");
            let is_here = |(at, entry): &&(&[&str], &str)| {
                *at == &way[..depth] && entry.split(' ').next() != Some(step)
            };
            let others = beside.iter().filter(is_here);
            let others: String = others.map(|(_, entry)| format!(", {entry}")).collect();
            after.insert_str(0, &format!("{others} }}"));
        }
        text.push_str(&format!("{step} = "));
    }
    let value = text.len();
    (format!("{text}{literal}{after}\n"), around + 1, value + 1)
}

/// Rust's words, and serde's.
const FOREIGN: [&str; 16] = [
    "variant",
    "struct",
    "field",
    "f64",
    "u16",
    "u32",
    "u64",
    "i64",
    "sequence",
    "invalid type",
    "invalid value",
    "Option",
    "newtype",
    "enum",
    "NaN",
    "string \"",
];

/// Checks that each key that `T` has, with each kind of value, is taken or told with its place, with
/// what is expected, and in words of TOML; also each key with a letter too many.
pub(crate) fn told<T: DeserializeOwned>(
    beside: &[(&[&str], &str)],
    read: &dyn Fn(&str) -> Result<(), BadToml>,
) {
    let keys = keys::<T>(&[]);
    assert!(keys.len() > 10, "{keys:?}");
    for (way, kind) in keys.iter().skip(1) {
        for (literal, of) in &LITERALS {
            let (text, around, value) = file(way, literal, beside);
            let takes = kind.takes(of);
            let Err(error) = read(&text) else {
                assert!(takes, "it is taken: {text}");
                continue;
            };
            let said = error.to_string();
            let is_there = match takes {
                true => error.column >= around,
                false => error.column == value,
            };
            assert!(error.line == 1 && is_there, "{text}{said}");
            assert!(said.contains("expected "), "{text}{said}");
            assert!(
                !FOREIGN.iter().any(|word| said.contains(word)),
                "{text}{said}"
            );
        }
        if way.last() == Some(&ELEMENT) {
            continue;
        }
        let misspelt = format!("{}x", way[way.len() - 1]);
        let mut way: Vec<&str> = way.clone();
        *way.last_mut().unwrap() = &misspelt;
        let (text, _, _) = file(&way, "true", beside);
        let error = read(&text).unwrap_err();
        let column = text.find(&misspelt).unwrap() + 1;
        let said = error.to_string();
        assert!(
            said.contains(&format!("there is no key `{misspelt}` here: expected ")),
            "{said}"
        );
        assert_eq!((error.line, error.column), (1, column), "{text}{said}");
    }
}
