//! Makes text safe to show in a terminal, and words safe to type in a shell.

use std::io::{self, Write};

use uuid::Uuid;

/// The URI of a machine's own libvirt.
pub(crate) const SYSTEM: &str = "qemu:///system";

/// The length in bytes at which [`plain`] cuts a line.
const LONGEST_LINE: usize = 2048;

/// Returns false for a character on which a terminal acts, or that is invisible. These are control
/// characters (C0, DEL, C1); characters that change the direction of writing, have no width, or end
/// a line; and the fillers and tags of Unicode (Unicode Standard, chapters 23.1 to 23.9).
pub fn is_harmless(c: char) -> bool {
    let is_unseen = matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !c.is_control() && !is_unseen
}

/// Returns a text from another source as one line that harms no terminal. Each character that is
/// not [`is_harmless`] becomes U+FFFD. After [`LONGEST_LINE`] bytes, only the number of bytes that
/// are cut off follows. Names of domains and files, and the output of QEMU, which a guest can
/// influence, may contain anything.
pub fn plain(text: &str) -> String {
    plain_up_to(LONGEST_LINE, text)
}

/// Returns a text as [`plain`] does, but cuts it at `limit` bytes.
pub(crate) fn plain_up_to(limit: usize, text: &str) -> String {
    let is_whole = text.len() <= limit;
    let end = text.floor_char_boundary(limit);
    let mut line = text[..end].replace(|c| !is_harmless(c), "\u{fffd}");
    if !is_whole {
        line += &format!("… ({} more bytes)", text.len() - end);
    }
    line
}

/// Returns a text as [`plain`] does, but keeps its line ends and tabs. The limit applies to each
/// part between line ends and tabs.
pub fn plain_lines(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            let parts: Vec<String> = line.split('\t').map(plain).collect();
            parts.join("\t")
        })
        .collect();
    lines.join("\n")
}

/// Returns an error's text for people to read: what [`plain_lines`] returns, but without the `(os
/// error N)` that Rust's library adds to the kernel's words.
#[must_use]
pub fn in_words(text: &str) -> String {
    let mut rest = text;
    let mut made = String::new();
    while let Some((before, after)) = rest.split_once(" (os error ") {
        made.push_str(before);
        let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = digits.strip_prefix(')').unwrap_or(digits);
    }
    plain_lines(&(made + rest))
}

/// Returns the options with which text for people is wrapped: only at blanks, so that a path or a
/// UUID stays whole.
pub(crate) fn wrapping<'a>(width: usize) -> textwrap::Options<'a> {
    textwrap::Options::new(width)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
}

/// A writer that passes on harmless characters, line ends and tabs. Any other becomes U+FFFD.
#[derive(Debug)]
pub(crate) struct Harmless<W> {
    inner: W,
    /// The first bytes of a character whose last bytes were not written yet. A flush writes U+FFFD
    /// for them.
    rest: Vec<u8>,
}

impl<W: Write> Harmless<W> {
    /// Makes a writer that writes to `inner`.
    pub(crate) fn new(inner: W) -> Self {
        Harmless {
            inner,
            rest: Vec::new(),
        }
    }
}

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.rest);
        let mut text = String::with_capacity(all.len());
        for chunk in all.utf8_chunks() {
            let is_kept = |c: char| is_harmless(c) || matches!(c, '\n' | '\t');
            let shown = chunk.valid().chars();
            text.extend(shown.map(|c| if is_kept(c) { c } else { '\u{fffd}' }));
            let invalid = chunk.invalid();
            let at = invalid.as_ptr().addr() - all.as_ptr().addr();
            let is_cut_off = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if is_cut_off && at + invalid.len() == all.len() {
                self.rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push('\u{fffd}');
            }
        }
        self.inner.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.rest).is_empty() {
            self.inner.write_all("\u{fffd}".as_bytes())?;
        }
        self.inner.flush()
    }
}

/// Returns a word in the form that a POSIX shell reads, with quotes if needed.
pub fn quoted(word: &str) -> String {
    let needs_none = |c: char| c.is_ascii_alphanumeric() || "_.@%+=:,/-".contains(c);
    if !word.is_empty() && word.chars().all(needs_none) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A command names a domain by a name of up to this many bytes, and otherwise by the UUID.
pub(crate) const LONGEST_NAME: usize = 200;

/// Returns the word that names a domain on a gfxplane command line ([`named`]), quoted for a shell
/// if needed. Returns the placeholder `DOMAIN` if the domain has no such word.
pub fn operand(name: Option<&str>, uuid: Option<Uuid>) -> String {
    named(name, uuid).map_or_else(|| "DOMAIN".into(), |word| quoted(&word))
}

/// Returns the word that names a domain to gfxplane: its name, or its UUID if the name is missing,
/// too long, looks like an option or a file, or can't be typed. `None` if the UUID is missing, too.
#[must_use]
pub(crate) fn named(name: Option<&str>, uuid: Option<Uuid>) -> Option<String> {
    let is_name = |name: &&str| {
        let is_xml = name
            .rsplit_once('.')
            .is_some_and(|(_, ending)| ending.eq_ignore_ascii_case("xml"));
        !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('-')
            && !name.contains('/')
            && !is_xml
            && name.chars().all(is_harmless)
    };
    let name = name.filter(is_name).map(str::to_owned);
    name.or_else(|| uuid.map(|uuid| uuid.to_string()))
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
            ("a\u{202e}b", UUID),
            ("a\u{9b}b", UUID),
            (&"x".repeat(300), UUID),
        ] {
            assert_eq!(operand(Some(name), Some(uuid)), expected, "{name}");
        }
        assert_eq!(operand(Some("-x"), None), "DOMAIN");
    }

    /// One character of each kind that [`is_harmless`] rejects.
    const HARMFUL: &str = "\x1b\x7f\u{9b}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2060}\u{2066}\u{feff}\u{e0041}";

    #[test]
    fn terminals_act_on_nothing() {
        assert_eq!(
            plain("a\x1b[2J\u{9b}\tb\nc"),
            "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c"
        );
        assert_eq!(plain_lines("a\x1b\tb\nc\u{9d}"), "a\u{fffd}\tb\nc\u{fffd}");
        for c in HARMFUL.chars() {
            assert_eq!(plain(&format!("a{c}b")), "a\u{fffd}b", "{c:?}");
        }
        let sound = "Gäste 日本語 🖥 a-b_c \u{301}";
        assert_eq!(plain(sound), sound);
    }

    #[test]
    fn lines_are_bounded() {
        let long = format!("{}é", "x".repeat(LONGEST_LINE - 1));
        let shown = plain(&long);
        assert!(shown.ends_with("x… (2 more bytes)") && shown.len() < LONGEST_LINE + 30);
        assert_eq!(
            plain_lines(&format!("{long}\n{long}")),
            format!("{shown}\n{shown}")
        );
    }

    #[test]
    fn what_is_written_is_harmless_however_it_is_cut() {
        let text = format!("é\t{HARMFUL}日\n\u{fffd}");
        let expected = format!(
            "é\t{}日\n\u{fffd}",
            "\u{fffd}".repeat(HARMFUL.chars().count())
        );
        let mut with_bad_bytes = text.clone().into_bytes();
        with_bad_bytes.extend(b"\xff\xc3");
        let bad = format!("{expected}\u{fffd}\u{fffd}");
        for (bytes, expected) in [(text.as_bytes(), &expected), (&with_bad_bytes, &bad)] {
            for size in 1..bytes.len() {
                let mut out = Harmless::new(Vec::new());
                for part in bytes.chunks(size) {
                    out.write_all(part).unwrap();
                }
                out.flush().unwrap();
                assert_eq!(String::from_utf8(out.inner).unwrap(), *expected, "{size}");
            }
        }
    }
}
