//! Reads TOML that people write: settings and rules. An error names the place, what was found there
//! and what was expected, in TOML's words.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake in a file of rules or settings, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct BadToml {
    /// The line of the mistake, counted from 1.
    pub line: usize,
    /// The column of the mistake in characters, counted from 1.
    pub column: usize,
    /// The mistake, in one line.
    pub message: String,
}

impl BadToml {
    fn new(text: &str, at: usize, message: String) -> Self {
        // A byte order mark does not count as a column.
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
        let table = DeTable::parse(text).map_err(|error| told(text, &error))?;
        Ok(Toml { text, table })
    }

    /// Converts the text to a `T`.
    ///
    /// # Errors
    /// [`BadToml`] for an unknown key, a key that is missing, and a value that the key does not
    /// accept.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, BadToml> {
        toml::from_str(self.text).map_err(|error| told(self.text, &error))
    }

    /// Makes an error at the value to which the steps of `way` lead or, if that is missing, at the
    /// last value on the way.
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

fn told(text: &str, error: &toml::de::Error) -> BadToml {
    let at = error.span().map_or(0, |span| span.start);
    let message = error.message().trim_end().replace('\n', "; ");
    BadToml::new(text, at, plain(&message))
}

/// serde's words for the values that it found, each with our words.
const FOUND: [(&str, &str); 6] = [
    ("string ", ""),
    ("integer ", ""),
    ("floating point ", ""),
    ("boolean ", ""),
    ("sequence", "a list"),
    ("map", "a table"),
];

/// serde's words for the types that it expected, each with our words.
const EXPECTED: [(&str, &str); 8] = [
    ("a boolean", "true or false"),
    ("a sequence", "a list in [ ]"),
    ("a string", "a text in quotes"),
    ("f64", "a number"),
    ("struct ", "a table"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number, 0 or more"),
];

/// Rewords an error message of serde for people who know only TOML.
fn plain(message: &str) -> String {
    let Some((wrong, expected)) = message.rsplit_once(", expected ") else {
        return match message.strip_prefix("missing field ") {
            Some(key) => format!("the key {key} is missing"),
            None => message.replace("wanted string or table", "expected a text in quotes"),
        };
    };
    let expected = EXPECTED
        .iter()
        .find(|(name, _)| expected.starts_with(name))
        .map_or(expected, |(_, plain)| plain);
    let wrong = match wrong.split_once(": ") {
        Some(("invalid type" | "invalid value", found)) => FOUND
            .iter()
            .find_map(|(name, plain)| {
                Some(format!(
                    "{plain}{}",
                    found.strip_prefix(name)?.trim_matches('`')
                ))
            })
            .unwrap_or_else(|| found.to_owned()),
        _ => wrong
            .replace("unknown field", "there is no key")
            .replace("unknown variant ", ""),
    };
    format!("{wrong}: expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        size: u16,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[allow(dead_code)]
    struct File {
        word: Option<Word>,
        number: Option<f64>,
        flag: Option<bool>,
        text: Option<String>,
        list: Option<Vec<Word>>,
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Word {
        Here,
        There,
    }

    #[test]
    fn mistakes_are_told_in_words_of_toml() {
        for row in [
            "word = 'x' | 1, column 8: `x`: expected `here` or `there`",
            "word = 'x, expected y' | 1, column 8: `x, expected y`: expected `here` or `there`",
            "word = 7 | 1, column 8: expected a text in quotes",
            "\nnumber = 'x' | 2, column 10: \"x\": expected a number",
            "flag = 7.5 | 1, column 8: 7.5: expected true or false",
            "text = true | 1, column 8: true: expected a text in quotes",
            "text = [] | 1, column 8: a list: expected a text in quotes",
            "list = ['here', 'x'] | 1, column 17: `x`: expected `here` or",
            "list = {} | 1, column 8: a table: expected a list in [ ]",
            "inner = 7 | 1, column 9: 7: expected a table",
            "inner = {} | 1, column 9: the key `size` is missing",
            "inner = { size = -7 } | 1, column 18: -7: expected a whole number from 0 to 65535",
            "inner = { sizes = 7 } | 1, column 11: there is no key `sizes`: expected `size`",
            "\u{feff}words = 7 | 1, column 1: there is no key `words`: expected one of `word`, ",
            "word | 1, column 5: ",
        ] {
            let (text, said) = row.split_once(" | ").unwrap();
            let error = Toml::parse(text).and_then(|toml| toml.read::<File>());
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("line {said}")),
                "{text}: {error}"
            );
        }
    }
}
