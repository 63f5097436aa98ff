//! Lays out text for people: the verdict first, each UUID in full once, words wrapped at the
//! terminal's width, commands whole, colours on a terminal.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use uuid::Uuid;

use crate::domain::shell::{plain, plain_up_to, wrapping};
use crate::explain::doctor::Verdict;
use crate::libvirt::columns;

/// The width of the column with the verdict.
const GUTTER: usize = 6;

/// The number of columns for each step into the tree.
const STEP: usize = 2;

/// The length of a UUID in characters.
const UUID: usize = 36;

/// A text for people, as paragraphs and commands that are not laid out yet.
#[derive(Debug)]
pub struct Page {
    items: Vec<Item>,
    /// The number of columns to the left of each paragraph.
    gutter: usize,
}

impl Default for Page {
    /// Makes an empty page of paragraphs that may have a verdict.
    fn default() -> Self {
        Page {
            items: Vec::new(),
            gutter: GUTTER,
        }
    }
}

#[derive(Debug)]
enum Item {
    Blank,
    Words {
        verdict: Option<Verdict>,
        depth: usize,
        name: String,
        rest: String,
    },
    Command {
        depth: usize,
        word: &'static str,
        text: String,
    },
    Line {
        depth: usize,
        text: String,
    },
}

impl Page {
    /// Makes an empty page of paragraphs without a verdict.
    #[must_use]
    pub fn without_verdicts() -> Self {
        Page {
            gutter: 0,
            ..Page::default()
        }
    }

    /// Adds an empty line.
    pub(crate) fn blank(&mut self) {
        self.items.push(Item::Blank);
    }

    /// Adds a paragraph: a verdict, a name, and the text `rest` after it. Name and text may be
    /// empty. `depth` is the depth in the tree.
    pub fn words(&mut self, verdict: Option<Verdict>, depth: usize, name: &str, rest: &str) {
        self.items.push(Item::Words {
            verdict,
            depth,
            name: one_line(name),
            rest: one_line(rest),
        });
    }

    /// Adds commands, which are not wrapped, so that the user can paste them. `word` is their
    /// purpose, such as `fix`.
    pub fn commands(&mut self, depth: usize, word: &'static str, commands: &[String]) {
        self.items.extend(commands.iter().map(|text| Item::Command {
            depth,
            word,
            text: whole_command(text),
        }));
    }

    /// Adds a line without wrapping it.
    pub fn line(&mut self, depth: usize, text: &str) {
        self.items.push(Item::Line {
            depth,
            text: whole_command(text),
        });
    }

    /// Returns the page as text with colours, wrapped to `width` columns.
    #[must_use]
    pub fn text(&self, width: usize) -> String {
        let mut names = Names::of(&self.items);
        let mut out = String::new();
        for item in &self.items {
            match item {
                Item::Blank => out.push('\n'),
                Item::Line { depth, text } => {
                    let blank = " ".repeat(self.gutter + depth * STEP);
                    out.push_str(&format!("{blank}{text}\n"));
                }
                Item::Command { depth, word, text } => {
                    let at = self.gutter + depth * STEP;
                    command(&mut out, at, word, text, width);
                }
                Item::Words {
                    verdict,
                    depth,
                    name,
                    rest,
                } => {
                    let (name, rest) = (names.shorten(name), names.shorten(rest));
                    let at = self.gutter + depth * STEP;
                    wrap(&mut out, *verdict, at, &name, &rest, width);
                }
            }
        }
        out
    }

    /// Prints the page, with colours if the output shows them, and wrapped to the output's width.
    ///
    /// # Errors
    /// The output can't be written.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let text = self.text(columns(io::stdout()));
        // `--color` has set the choice of all streams.
        match anstream::AutoStream::choice(&io::stdout()) {
            anstream::ColorChoice::Never => {
                write!(out, "{}", anstream::adapter::strip_str(&text))
            }
            _ => out.write_all(text.as_bytes()),
        }
    }
}

/// The UUIDs of a page.
struct Names<'p> {
    all: BTreeSet<&'p str>,
    /// The UUIDs that were already written in full.
    named: BTreeSet<String>,
}

impl<'p> Names<'p> {
    fn of(items: &'p [Item]) -> Self {
        let texts = items.iter().flat_map(|item| match item {
            Item::Words { name, rest, .. } => [name.as_str(), rest.as_str()],
            _ => ["", ""],
        });
        Names {
            all: texts.flat_map(uuids).map(|(_, uuid)| uuid).collect(),
            named: BTreeSet::new(),
        }
    }

    /// Shortens the UUIDs in a text that were already written in full. Keeps a UUID that is the
    /// whole text or follows a quotation mark.
    fn shorten(&mut self, text: &str) -> String {
        if text.len() == UUID && uuids(text).next().is_some() {
            self.named.insert(text.to_owned());
            return text.to_owned();
        }
        let (mut made, mut end) = (String::new(), 0);
        for (at, uuid) in uuids(text) {
            made.push_str(&text[end..at]);
            // A quoted text stays as it is: people search for it.
            let is_quoted = text[..at].ends_with(['\'', '"']);
            if self.named.insert(uuid.to_owned()) || is_quoted {
                made.push_str(uuid);
            } else {
                made.push_str(&self.short(uuid));
            }
            end = at + UUID;
        }
        made + &text[end..]
    }

    /// Returns the first 8 characters of a UUID with `…`; its last 12 if another UUID on the page
    /// has the same beginning; or all of it if that does not help.
    fn short(&self, uuid: &str) -> String {
        let (first, last) = (&uuid[..8], &uuid[24..]);
        let count = |has: &dyn Fn(&str) -> bool| self.all.iter().filter(|one| has(one)).count();
        if count(&|one| one.starts_with(first)) == 1 {
            format!("{first}…")
        } else if count(&|one| one.ends_with(last)) == 1 {
            format!("…{last}")
        } else {
            uuid.to_owned()
        }
    }
}

/// Returns the UUIDs in a text, each with its byte offset.
fn uuids(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + UUID <= text.len() {
            let here = at;
            at += 1;
            let found = text.get(here..here + UUID);
            if let Some(uuid) = found.filter(|uuid| Uuid::try_parse(uuid).is_ok()) {
                at = here + UUID;
                return Some((here, uuid));
            }
        }
        None
    })
}

/// Adds the command `text` to `out`, on a line of its own that begins with `word` at the column
/// `at`. If its comment does not fit on that line, the comment comes below, as lines of shell
/// comments.
fn command(out: &mut String, at: usize, word: &str, text: &str, width: usize) {
    let style = AnsiColor::Cyan.on_default();
    let blank = " ".repeat(at);
    let (command, comment) = text.split_at(comment_at(text));
    out.push_str(&format!("{blank}{word}: {style}{command}{style:#}"));
    let indent = at + word.len() + 2;
    let is_wide = indent + text.chars().count() > width;
    if comment.is_empty() || !is_wide {
        out.push_str(comment);
        out.push('\n');
        return;
    }
    out.push('\n');
    let first = format!("{}# ", " ".repeat(indent));
    let options = wrapping(width)
        .initial_indent(&first)
        .subsequent_indent(&first);
    for line in textwrap::wrap(comment.trim_start_matches(" # "), options) {
        out.push_str(&line);
        out.push('\n');
    }
}

/// Returns the byte offset of a command's comment, or the command's length if it has none. Ignores
/// a `#` in quotes.
fn comment_at(command: &str) -> usize {
    let mut quote = None;
    let mut chars = command.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => {
                chars.next();
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, ' ') if command[at..].starts_with(" # ") => return at,
            _ => {}
        }
    }
    command.len()
}

fn wrap(
    out: &mut String,
    verdict: Option<Verdict>,
    at: usize,
    name: &str,
    rest: &str,
    width: usize,
) {
    let bold = Style::new().bold();
    let first = " ".repeat(at);
    let next = " ".repeat(at + if name.is_empty() { 0 } else { STEP });
    let options = wrapping(width)
        .initial_indent(&first)
        .subsequent_indent(&next);
    let whole = match (name.is_empty(), rest.is_empty()) {
        (true, _) => rest.to_owned(),
        (_, true) => name.to_owned(),
        // A label is followed by one blank, a name by two.
        _ if name.ends_with(':') => format!("{name} {rest}"),
        _ => format!("{name}  {rest}"),
    };
    for (number, wrapped) in textwrap::wrap(&whole, options).iter().enumerate() {
        let body = wrapped.trim_start();
        let blank = &wrapped[..wrapped.len() - body.len()];
        let blank = match verdict.filter(|_| number == 0) {
            Some(verdict) => {
                let style = match verdict {
                    Verdict::Skip => Style::new(),
                    Verdict::Pass => AnsiColor::Green.on_default().bold(),
                    Verdict::Warn => AnsiColor::Yellow.on_default().bold(),
                    Verdict::Fail => AnsiColor::Red.on_default().bold(),
                };
                let word = verdict.to_string();
                format!("{style}{word}{style:#}{}", &blank[word.len()..])
            }
            None => blank.to_owned(),
        };
        let body = match body.strip_prefix(name).filter(|_| number == 0) {
            Some(rest) if !name.is_empty() => format!("{bold}{name}{bold:#}{rest}"),
            _ if whole == name => format!("{bold}{body}{bold:#}"),
            _ => body.to_owned(),
        };
        out.push_str(&blank);
        out.push_str(&body);
        out.push('\n');
    }
}

/// Makes a text a single line that can't do harm to a terminal.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    plain(&words.join(" "))
}

/// Makes a command harmless for a terminal. Keeps its blanks and does not shorten it, so that the
/// user can paste it.
pub(super) fn whole_command(command: &str) -> String {
    plain_up_to(usize::MAX, command)
}

/// Returns a number with its noun: `one` or `many`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a page about devices with these UUIDs, without colours.
    fn page(uuids: &[&str], width: usize) -> String {
        let mut page = Page::default();
        for uuid in uuids {
            page.words(Some(Verdict::Pass), 0, &format!("display of {uuid}"), "");
        }
        page.words(
            None,
            1,
            "",
            &format!("no graphics show the screen of {}", uuids[0]),
        );
        page.commands(1, "fix", &[format!("gfxplane probe {}", uuids[0])]);
        anstream::adapter::strip_str(&page.text(width)).to_string()
    }

    #[test]
    fn a_device_is_named_in_full_once() {
        let (a, b) = (
            "c1a20000-0000-4000-8000-000000000001",
            "c1a20000-0000-4000-8000-000000000002",
        );
        let alone = page(&[a], 80);
        assert_eq!(
            alone,
            format!(
                "PASS  display of {a}\n        no graphics show the screen of c1a20000…\n        fix: gfxplane probe {a}\n"
            )
        );
        assert!(page(&[a, b], 80).contains("screen of …000000000001\n"));
    }

    #[test]
    fn a_comment_that_does_not_fit_comes_below() {
        let mut page = Page::default();
        let command = "virsh edit 'a # b'\\''c' # one two three four five six seven";
        page.commands(0, "fix", &[command.into()]);
        let text = |width| anstream::adapter::strip_str(&page.text(width)).to_string();
        assert_eq!(text(80), format!("      fix: {command}\n"));
        assert_eq!(
            text(40),
            "      fix: virsh edit 'a # b'\\''c'\n           # one two three four five six\n           # seven\n"
        );
    }

    #[test]
    fn what_a_terminal_would_act_on_does_not_get_through() {
        let mut page = Page::default();
        page.words(None, 0, "a\u{1b}[2J", "b\nc");
        assert!(!page.text(80).contains("\u{1b}[2J"));
    }
}
