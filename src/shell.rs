//! Makes text safe to show in a terminal, and words safe to type in a shell.

use uuid::Uuid;

/// Returns a text as one line on which no terminal acts: each control character becomes U+FFFD.
/// Names of domains and files, and QEMU output that a guest caused, may hold any.
#[must_use]
pub fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Returns a text that may have several lines and tabs. Every other control character becomes
/// U+FFFD.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() && !matches!(c, '\n' | '\t'),
        "\u{fffd}",
    )
}

/// Returns a word as a POSIX shell reads it, with quotes if needed.
#[must_use]
pub fn quoted(word: &str) -> String {
    let needs_none = |c: char| c.is_ascii_alphanumeric() || "_.@%+=:,/-".contains(c);
    if !word.is_empty() && word.chars().all(needs_none) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The longest domain name, in bytes, that is used in a line.
pub const LONGEST_NAME: usize = 200;

/// Returns the name by which to type a domain as an argument of gfxplane in a shell. It is the UUID
/// if the name would be taken for an option or a file, or could not be typed. It is `DOMAIN` if the
/// domain has neither.
#[must_use]
pub fn operand(name: Option<&str>, uuid: Option<Uuid>) -> String {
    let is_name = |name: &&str| {
        let is_xml = name
            .rsplit_once('.')
            .is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("xml"));
        !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('-')
            && !name.contains('/')
            && !is_xml
            && !name.chars().any(char::is_control)
    };
    match (name.filter(is_name), uuid) {
        (Some(name), _) => quoted(name),
        (None, Some(uuid)) => uuid.to_string(),
        (None, None) => "DOMAIN".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_they_are_typed() {
        const UUID: &str = "0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01";
        let uuid: Uuid = UUID.parse().unwrap();
        for (name, expected) in [
            ("guest", "guest"),
            ("win-10.2_a", "win-10.2_a"),
            ("my guest", "'my guest'"),
            ("it's", "'it'\\''s'"),
            ("$(rm)", "'$(rm)'"),
            ("Gäste", "'Gäste'"),
            ("-", UUID),
            ("--help", UUID),
            ("", UUID),
            ("a/b", UUID),
            ("guest.XML", UUID),
            ("a\nb", UUID),
            (&"x".repeat(300), UUID),
        ] {
            assert_eq!(operand(Some(name), Some(uuid)), expected, "{name}");
        }
        assert_eq!(operand(Some("-x"), None), "DOMAIN");
    }

    #[test]
    fn terminals_act_on_nothing() {
        assert_eq!(
            plain("a\x1b[2J\u{9b}\tb\nc"),
            "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c"
        );
        assert_eq!(plain_lines("a\x1b\tb\nc\u{9d}"), "a\u{fffd}\tb\nc\u{fffd}");
    }
}
