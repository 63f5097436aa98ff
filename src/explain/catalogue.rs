//! Reads the catalogues of GNU gettext (`.mo`), which have libvirt's messages in other languages.
//!
//! The format is that of gettext's manual, "The Format of GNU MO Files": a magic number in the byte
//! order of the file, a version, the number of texts, and where the tables of the originals and of
//! the translations are. An entry of a table is a length and a place.

use super::{Place, Squeezed};

/// The number at the beginning of a catalogue.
const MAGIC: u32 = 0x9504_12de;

/// The shortest translation that is looked for, in bytes without white space and without the
/// filled-in parts. A shorter one may occur in any text.
const SHORTEST: usize = 10;

/// Returns each original with its translation; empty for a damaged file. For a text with a plural,
/// returns the first form.
#[must_use]
pub(crate) fn pairs(bytes: &[u8]) -> Vec<(&str, &str)> {
    read(bytes).unwrap_or_default()
}

fn read(bytes: &[u8]) -> Option<Vec<(&str, &str)>> {
    let word =
        |at: usize| -> Option<[u8; 4]> { bytes.get(at..at.checked_add(4)?)?.try_into().ok() };
    let is_little = match word(0)? {
        magic if u32::from_le_bytes(magic) == MAGIC => true,
        magic if u32::from_be_bytes(magic) == MAGIC => false,
        _ => return None,
    };
    let number = |at: usize| -> Option<usize> {
        let word = word(at)?;
        let number = if is_little {
            u32::from_le_bytes(word)
        } else {
            u32::from_be_bytes(word)
        };
        number.try_into().ok()
    };
    let text = |table: usize, entry: usize| -> Option<&str> {
        let at = table.checked_add(entry.checked_mul(8)?)?;
        let (length, place) = (number(at)?, number(at.checked_add(4)?)?);
        let text = std::str::from_utf8(bytes.get(place..place.checked_add(length)?)?).ok()?;
        text.split('\0').next()
    };
    let (count, originals, translations) = (number(8)?, number(12)?, number(16)?);
    // Each entry has eight bytes, so a damaged number ends the loop at the end of the file.
    (0..count)
        .map(|entry| Some((text(originals, entry)?, text(translations, entry)?)))
        .collect()
}

/// Returns the text with `*` in place of each format of printf's.
pub(super) fn as_words(format: &str) -> String {
    parts(format).0.join("*")
}

/// Returns the parts of a text between printf's formats (`%s`, `%1$s`, `%2$04x`), and the number of
/// the argument of each format.
fn parts(format: &str) -> (Vec<String>, Vec<usize>) {
    let (mut parts, mut arguments) = (vec![String::new()], Vec::new());
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        let part = parts.last_mut().expect("there is always one");
        part.push_str(before);
        let end = after.find(|c: char| "%sdiuxXcpfeg".contains(c));
        let Some(end) = end else {
            rest = "";
            break;
        };
        if after[end..].starts_with('%') {
            part.push('%');
        } else {
            let number = after
                .split_once('$')
                .and_then(|(number, _)| number.parse().ok());
            arguments.push(number.unwrap_or(arguments.len() + 1));
            parts.push(String::new());
        }
        rest = &after[end + 1..];
    }
    parts
        .last_mut()
        .expect("there is always one")
        .push_str(rest);
    (parts, arguments)
}

/// Returns the place of a translation in a text, with the filled-in parts in the order of the
/// original; `None` if the text does not contain it.
pub(super) fn place(translated: &str, text: &Squeezed<'_>) -> Option<Place> {
    let (parts, arguments) = parts(translated);
    // One word rules most translations out.
    let is_end =
        |c: char| c.is_whitespace() || "'`\\\"\u{2018}\u{2019}\u{201c}\u{201d}".contains(c);
    let words = parts.iter().flat_map(|part| part.split(is_end));
    let word = words.max_by_key(|word| word.len())?;
    if !text.text.contains(&word.to_ascii_lowercase()) {
        return None;
    }
    let squeezed = |part: &String| Squeezed::of(&super::plain(part)).text;
    let squeezed: Vec<String> = parts.iter().map(squeezed).collect();
    // A text that is filled in at an end has no limit there.
    let first = squeezed.iter().position(|part| !part.is_empty())?;
    let last = squeezed.iter().rposition(|part| !part.is_empty())?;
    let wanted = &squeezed[first..=last];
    if wanted.iter().map(String::len).sum::<usize>() < SHORTEST {
        return None;
    }
    let mut place = text.matches(0, wanted)?;
    let arguments = arguments[first..last].iter().copied();
    let mut filled: Vec<(usize, String)> = arguments.zip(place.filled_in).collect();
    filled.sort();
    place.filled_in = filled.into_iter().map(|(_, text)| text).collect();
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, words) in [
            (
                "mediated device '%1$s' not found",
                "mediated device '*' not found",
            ),
            ("device %04x:%02x", "device *:*"),
            ("100 %% of %s", "100 % of *"),
            ("ends with %", "ends with "),
            ("%1$s graphics", "* graphics"),
        ] {
            assert_eq!(as_words(format), words);
        }
    }

    #[test]
    fn filled_in_the_order_of_the_original() {
        let text = Squeezed::of("x: Treiber QEMU, Domäne gast, hat das Gerät 0000:01:00.0 schon");
        let translated = "Treiber %2$s, Domäne %3$s, hat das Gerät %1$s schon";
        let found = place(translated, &text).unwrap();
        assert_eq!(found.filled_in, ["0000:01:00.0", "QEMU", "gast"]);
        assert!(place("%1$s", &text).is_none());
        assert!(place("hat das Gerät %1$s nicht", &text).is_none());
    }

    #[test]
    fn damaged_files() {
        assert!(pairs(b"").is_empty());
        assert!(pairs(b"\xde\x12\x04\x95").is_empty());
        let mut file = Vec::new();
        for number in [MAGIC, 0, u32::MAX, 28, 36, 0, 0, 1, 44, 2, 46] {
            file.extend(number.to_le_bytes());
        }
        file.extend(b"abcd");
        assert!(pairs(&file).is_empty());
        file[8..12].copy_from_slice(&1_u32.to_le_bytes());
        assert_eq!(pairs(&file), [("a", "cd")]);
    }
}
