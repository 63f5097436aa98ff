//! Undoes a change of a domain's XML, element by element: each device, and each other child of
//! the root. An element that somebody has changed since gfxplane's change stays as it is.
//!
//! The change is recorded from two definitions as libvirt prints them, before and after it. So
//! the parts that libvirt itself adds to a change are undone, too.
//!
//! gfxplane never stores values that may be passwords, nor QEMU's arguments. Undoing brings such a
//! value back only if the present element still has it in the same place.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::xml::{Document, Element, XmlError};

/// The character in the place of a value that is not stored. XML can't contain this character.
const WITHHELD: char = '\u{fffe}';

/// The record of a change of one element, from which the change can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inverse {
    /// True for an element in `<devices>`, false for a child of the root and the root's own tag.
    pub is_device: bool,
    /// The element before the change; empty if the change added it.
    pub old: String,
    /// The element after the change; empty if the change removed it.
    pub new: String,
    /// The hashes of the whole element before and after the change; 0 if there was no element.
    pub hashes: [u32; 2],
    /// The hashes of the element's two neighbours after the change; `None` at an end.
    pub around: [Option<u32>; 2],
}

/// The result of undoing changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undone {
    /// The domain's XML after undoing.
    pub text: String,
    /// The changes that were undone, in words.
    pub put_back: Vec<String>,
    /// The changes that could not be undone, each with the reason.
    pub passed_over: Vec<String>,
}

/// The error for a definition that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definition {which}: {error}")]
pub struct Unreadable {
    /// The definition: `before the change`, `after the change` or `as it is`.
    pub which: &'static str,
    /// The problem.
    pub error: XmlError,
}

/// Returns the records from which [`undo`] makes `before` from `after`; empty if both are alike.
///
/// # Errors
/// [`Unreadable`], with the place.
pub fn inverse(before: &str, after: &str) -> Result<Vec<Inverse>, Unreadable> {
    let before = parse(before, "before the change")?;
    let after = parse(after, "after the change")?;
    let mut inverses = Vec::new();
    for is_device in [false, true] {
        let (old, new) = (parts(&before, is_device), parts(&after, is_device));
        let hash = |at: usize| new.get(at).map(|part| part.hash);
        let mut change = |removed: Option<&Part>, added: Option<&Part>, at: usize| {
            let text = |part: Option<&Part>| part.map_or("", |part| &part.text).to_owned();
            let hash_of = |part: Option<&Part>| part.map_or(0, |part| part.hash);
            let (old, new) = without_what_stays(&text(removed), &text(added));
            inverses.push(Inverse {
                is_device,
                old,
                new,
                hashes: [hash_of(removed), hash_of(added)],
                around: [at.checked_sub(1).and_then(hash), hash(at)],
            });
        };
        for difference in differences(&old, &new, |part| part.hash) {
            let (olds, news) = (difference.old_range(), difference.new_range());
            if matches!(difference, DiffOp::Equal { .. }) {
                continue;
            }
            // Elements with the same name are paired.
            let (old, new) = (&old[olds], &new[news.clone()]);
            for pair in differences(old, new, |part| part.name.clone()) {
                let at = news.start + pair.new_range().start;
                let (old, new) = (&old[pair.old_range()], &new[pair.new_range()]);
                if matches!(pair, DiffOp::Equal { .. }) {
                    let pairs = old.iter().zip(new).filter(|(a, b)| a.hash != b.hash);
                    pairs.for_each(|(old, new)| change(Some(old), Some(new), at));
                } else {
                    new.iter().for_each(|new| change(None, Some(new), at));
                    old.iter()
                        .for_each(|old| change(Some(old), None, at + new.len()));
                }
            }
        }
    }
    inverses.retain(|inverse| inverse.hashes[0] != inverse.hashes[1]);
    Ok(inverses)
}

fn differences<K: Ord + std::hash::Hash + Eq>(
    old: &[Part],
    new: &[Part],
    key: impl Fn(&Part) -> K,
) -> Vec<DiffOp> {
    let keys = |parts: &[Part]| parts.iter().map(&key).collect::<Vec<K>>();
    capture_diff_slices(Algorithm::Myers, &keys(old), &keys(new))
}

/// Undoes each change whose element is still as gfxplane left it. No other byte changes. If an
/// element is again as it was before a change, the change is in neither list of [`Undone`]. If the
/// result would not be well-formed, nothing is undone.
///
/// # Errors
/// [`Unreadable`], with the place.
pub fn undo(current: &str, inverses: &[Inverse]) -> Result<Undone, Unreadable> {
    let document = parse(current, "as it is")?;
    let levels = [false, true].map(|is_device| parts(&document, is_device));
    let mut undone = Undone::default();
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for inverse in inverses {
        let Inverse { old, new, .. } = inverse;
        let there = &levels[usize::from(inverse.is_device)];
        let is_free = |part: &&Part| !edits.iter().any(|(range, _)| *range == part.range);
        let same = |hash: u32| there.iter().filter(is_free).find(|part| part.hash == hash);
        let (put_back, out) = (only_in(old, new), only_in(new, old));
        let found = match new.as_str() {
            "" => between(there, inverse.around).map(|at| at..at),
            _ => same(inverse.hashes[1]).map(|part| part.range.clone()),
        };
        let Some(range) = found else {
            // Somebody may have undone the change already.
            if old.is_empty() || same(inverse.hashes[0]).is_none() {
                let what = if new.is_empty() { &put_back } else { &out };
                let why = format!("{what} was changed since, and stays");
                undone.passed_over.push(why);
            }
            continue;
        };
        let Some(text) = whole(old, new, &current[range.clone()]) else {
            undone.passed_over.push(format!(
                "{put_back} can't be put back: it has a password or another secret, which gfxplane does not store"
            ));
            continue;
        };
        edits.push((range, text));
        undone
            .put_back
            .push(match (put_back.as_str(), out.as_str()) {
                ("", out) => format!("{out} removed"),
                (put_back, "") => format!("{put_back} put back"),
                _ => format!("{put_back} again, instead of {out}"),
            });
    }
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = 0;
    for (range, text) in edits {
        undone.text += &current[end..range.start];
        undone.text += &text;
        end = range.end;
    }
    undone.text += &current[end..];
    // The elements come from a file that somebody, or a disk, may have damaged.
    if let Err(error) = Document::parse(&undone.text) {
        return Ok(Undone {
            text: current.to_owned(),
            put_back: Vec::new(),
            passed_over: vec![format!(
                "with the recorded elements, the definition is not well-formed XML: {error}"
            )],
        });
    }
    Ok(undone)
}

/// Undoes several changes, the newest first. In `rounds`, the oldest change is the first.
pub(crate) fn undo_all<'r>(
    current: &str,
    rounds: impl DoubleEndedIterator<Item = &'r [Inverse]>,
) -> Result<Undone, Unreadable> {
    let mut all = Undone {
        text: current.to_owned(),
        ..Undone::default()
    };
    for round in rounds.rev() {
        let undone = undo(&all.text, round)?;
        all.text = undone.text;
        all.put_back.extend(undone.put_back);
        all.passed_over.extend(undone.passed_over);
    }
    Ok(all)
}

fn parse<'a>(text: &'a str, which: &'static str) -> Result<Document<'a>, Unreadable> {
    Document::parse(text).map_err(|error| Unreadable { which, error })
}

/// An element, or the root's start tag.
struct Part {
    name: String,
    /// The range in the document, with the white space before it.
    range: Range<usize>,
    /// The text with [`WITHHELD`] in the place of each secret.
    text: String,
    hash: u32,
}

/// With `is_device`, returns the devices. Otherwise, returns the root's start tag and the root's
/// children, of which `<devices>` has no text.
fn parts(document: &Document<'_>, is_device: bool) -> Vec<Part> {
    let root = document.root();
    let devices = root.child("devices");
    let whole = |element: Element<'_, '_>| part(document, element, element.span());
    if is_device {
        let devices = devices.into_iter().flat_map(Element::children);
        return devices.map(whole).collect();
    }
    let start = root.span().start;
    let tag = part(document, root, start..root.content().start);
    let below = root.children().map(|element| match whole(element) {
        devices_part if Some(element) == devices => Part {
            text: String::new(),
            hash: 0,
            ..devices_part
        },
        other => other,
    });
    std::iter::once(tag).chain(below).collect()
}

fn part(document: &Document<'_>, element: Element<'_, '_>, range: Range<usize>) -> Part {
    let whole = document.text();
    let start = whole[..range.start].trim_end().len();
    let (mut text, mut end) = (String::new(), start);
    let places = secret_places(element).into_iter();
    for place in places.filter(|place| place.end <= range.end) {
        text += &whole[end..place.start];
        text.push(WITHHELD);
        end = place.end;
    }
    text += &whole[end..range.end];
    Part {
        name: element.name().to_owned(),
        range: start..range.end,
        hash: hash(&text),
        text,
    }
}

/// Returns the FNV-1a hash of a text, which is the same in all versions of gfxplane. White space
/// counts as one blank. Secrets do not count, because libvirt does not always show them.
fn hash(text: &str) -> u32 {
    let text = filled_in(text, |_| None);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Returns the byte offset between the two neighbouring parts with the hashes `around`, in which
/// `None` is an end of `parts`. Returns `None` if the two parts are no longer neighbours.
fn between(parts: &[Part], around: [Option<u32>; 2]) -> Option<usize> {
    let hash = |part: Option<&Part>| part.map(|part| part.hash);
    let is_between = |at: &usize| {
        let above = at.checked_sub(1).and_then(|above| parts.get(above));
        [hash(above), hash(parts.get(*at))] == around
    };
    let at = (0..=parts.len()).find(is_between)?;
    match at.checked_sub(1) {
        Some(above) => Some(parts[above].range.end),
        None => parts.first().map(|below| below.range.start),
    }
}

/// Names the place of the value after `before`, for example `graphics passwd='` or `name >`.
fn place_name(before: &str) -> String {
    let tag = before.rsplit('<').next().unwrap_or_default();
    let element = tag.split([' ', '\n', '\t', '\r', '>']).next();
    let word = match before.ends_with('>') {
        true => ">",
        false => tag.split_whitespace().next_back().unwrap_or_default(),
    };
    format!("{} {word}", element.unwrap_or_default())
}

/// Returns the values of the attributes and the texts in an element, each with the name of its
/// place.
fn values(text: &str) -> Vec<(String, &str)> {
    let mut values = Vec::new();
    let mut at = text.find('<').unwrap_or(text.len());
    while let Some(next) = text[at..].find(['\'', '"', '>']) {
        let start = at + next + 1;
        let end = match text.as_bytes()[start - 1] {
            b'>' => '<',
            quote => char::from(quote),
        };
        let length = text[start..].find(end).unwrap_or(text.len() - start);
        let value = &text[start..start + length];
        if end != '<' || !value.trim().is_empty() {
            values.push((place_name(&text[..start]), value));
        }
        at = (start + length + usize::from(end != '<')).min(text.len());
    }
    values
}

/// Replaces the values that two texts have in common by [`WITHHELD`]. They need not be stored,
/// because the domain still has them.
fn without_what_stays(old: &str, new: &str) -> (String, String) {
    let (olds, news) = (values(old), values(new));
    let of = |all: &[(String, &str)], place: &str| -> String {
        let its = all.iter().filter(|(other, _)| other == place);
        its.map(|(_, value)| format!("{value}\n")).collect()
    };
    let masked = |text: &str, all: &[(String, &str)]| {
        let (mut masked, mut end) = (String::new(), 0);
        for (place, value) in all {
            let (old, new) = (of(&olds, place), of(&news, place));
            if old == new {
                let start = value.as_ptr().addr() - text.as_ptr().addr();
                masked += &text[end..start];
                masked.push(WITHHELD);
                end = start + value.len();
            }
        }
        masked + &text[end..]
    };
    (masked(old, &olds), masked(new, &news))
}

/// Returns a text with values in place of each [`WITHHELD`]. `value` returns the value for the name
/// of a place; if it returns `None`, the attribute is left out.
fn filled_in(text: &str, mut value: impl FnMut(String) -> Option<String>) -> String {
    let mut parts = text.split(WITHHELD);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut whole, part| match value(place_name(&whole)) {
        Some(value) => whole + &value + part,
        None if whole.ends_with(['\'', '"']) => {
            whole.truncate(whole.rfind(char::is_whitespace).unwrap_or(0));
            whole + part.get(1..).unwrap_or_default()
        }
        None => whole + part,
    })
}

/// Returns `old` with its missing values filled in from `now`, the present element. Returns `None`
/// if a place has different numbers of missing values in `old` and `new`, or if `now` lacks a text
/// that is missing in `old`.
fn whole(old: &str, new: &str, now: &str) -> Option<String> {
    let lacks = |(_, value): &(String, &str)| value.contains(WITHHELD);
    let count = |text: &str, place: &str| {
        let values = values(text).into_iter().filter(lacks);
        values.filter(|(other, _)| other == place).count()
    };
    let mut wanted = values(old).into_iter().filter(lacks);
    if wanted.any(|(place, _)| count(old, &place) != count(new, &place)) {
        return None;
    }
    let mut news = values(new);
    let is_lacking = |(place, _): &(String, &str)| {
        let at = news.iter().position(|(other, _)| other == place);
        at.is_some_and(|at| lacks(&news.remove(at)))
    };
    let mut left: Vec<(String, &str)> = values(now).into_iter().filter(is_lacking).collect();
    let mut is_lost = false;
    let text = filled_in(old, |place| {
        let at = left.iter().position(|(other, _)| *other == place);
        // libvirt leaves out secret attributes on a read-only connection.
        is_lost |= at.is_none() && place.ends_with('>');
        at.map(|at| left.remove(at).1.to_owned())
    });
    (!is_lost).then_some(text)
}

/// Returns the tags of `text` that `other` lacks, in one line, without valueless attributes.
fn only_in(text: &str, other: &str) -> String {
    let tags = |text: &str| -> Vec<String> {
        let text = filled_in(text, |_| None);
        let tags = text.split('<').map(|tag| {
            let words: Vec<&str> = tag.split_whitespace().collect();
            words.join(" ")
        });
        tags.filter(|tag| !tag.is_empty()).collect()
    };
    let others: BTreeSet<String> = tags(other).into_iter().collect();
    let own = tags(text).into_iter().filter(|tag| !others.contains(tag));
    let own: Vec<String> = own.map(|tag| format!("<{tag}")).collect();
    own.join(" ")
}

/// Returns the byte ranges of the values and texts that may be secrets, in document order. All of
/// QEMU's arguments and environment count as secrets, except `-set` with a device's setting.
fn secret_places(element: Element<'_, '_>) -> Vec<Range<usize>> {
    let is_its = is_secret(element.name()) || element.local_name() == "env";
    let is_argument = element.local_name() == "arg";
    let is_told = |value: &str| value == "-set" || value.starts_with("device.");
    let attributes = element.attributes().zip(element.places());
    let secret = attributes.filter(|((name, value), _)| {
        is_its || is_secret(name) || is_secret(value) || is_argument && !is_told(value)
    });
    let mut places: Vec<Range<usize>> = secret.map(|(_, place)| place).collect();
    if is_its || element.text().is_some_and(|text| is_secret(&text)) {
        places.extend(Some(element.content()).filter(|content| !content.is_empty()));
    } else {
        places.extend(element.children().flat_map(secret_places));
    }
    places
}

/// Returns whether a name or a value contains a word that suggests a secret, such as `passw`.
fn is_secret(text: &str) -> bool {
    const WORDS: [&str; 4] = ["passw", "passphrase", "secret", "cookie"];
    let text = text.to_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests;
