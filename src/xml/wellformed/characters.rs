//! Knows which characters XML allows, and which characters a name may have.

use super::refuse;
use crate::xml::XmlError;

pub(in crate::xml) const XML_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

pub(in crate::xml) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

pub(super) fn is_char(c: char) -> bool {
    !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

pub(super) fn is_name_start(c: char) -> bool {
    matches!(c,
        ':' | '_' | 'A'..='Z' | 'a'..='z'
        | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}' | '\u{370}'..='\u{37d}'
        | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}'
        | '\u{fdf0}'..='\u{fffd}' | '\u{10000}'..='\u{effff}')
}

pub(super) fn is_name(c: char) -> bool {
    is_name_start(c)
        || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Checks that XML allows all characters of a text.
pub(super) fn characters(text: &str) -> Result<(), XmlError> {
    let bytes = text.as_bytes();
    // The first byte of U+FFFE and U+FFFF is 0xef.
    let bad = |(at, byte): (usize, &u8)| match byte {
        b'\t' | b'\n' | b'\r' => false,
        0..0x20 => true,
        0xef => matches!(bytes[at + 1..], [0xbf, 0xbe | 0xbf, ..]),
        _ => false,
    };
    match bytes.iter().enumerate().position(bad) {
        None => Ok(()),
        Some(at) => {
            let c = text[at..].chars().next().unwrap_or_default() as u32;
            let problem = format!("the character U+{c:04X}: expected one that XML allows");
            refuse(text, at, problem)
        }
    }
}
