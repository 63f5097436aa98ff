//! Escapes texts for XML.

/// Escapes a text for an attribute in single quotes or for the content of an element. Characters
/// that XML 1.0 does not allow become U+FFFD, so that any text from sysfs stays well-formed.
pub fn escape(text: &str) -> String {
    escaped(text, |c| match c {
        '>' => Some("&gt;"),
        '\'' => Some("&apos;"),
        '"' => Some("&quot;"),
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        _ => None,
    })
}

pub(super) fn escape_value(value: &str, quote: char) -> String {
    escaped(value, |c| match c {
        '\'' if quote == c => Some("&apos;"),
        '"' if quote == c => Some("&quot;"),
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        _ => None,
    })
}

pub(super) fn escape_text(text: &str) -> String {
    escaped(text, |c| match c {
        // Only ]]> needs this, but libvirt escapes every >.
        '>' => Some("&gt;"),
        '\r' => Some("&#13;"),
        _ => None,
    })
}

/// Escapes `<`, `&` and the characters for which `special` returns an escape. Characters that XML
/// does not allow become U+FFFD.
fn escaped(text: &str, special: impl Fn(char) -> Option<&'static str>) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match (c, special(c)) {
            (_, Some(escaped)) => result.push_str(escaped),
            ('<', _) => result.push_str("&lt;"),
            ('&', _) => result.push_str("&amp;"),
            ('\t' | '\n', _) => result.push(c),
            ('\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}', _) => result.push('\u{fffd}'),
            _ => result.push(c),
        }
    }
    result
}

pub(super) fn only_ascii(xml: &str) -> String {
    let mut result = String::new();
    for c in xml.chars() {
        if c.is_ascii() {
            result.push(c);
        } else {
            result.push_str(&format!("&#{};", c as u32));
        }
    }
    result
}
