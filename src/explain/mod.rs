//! Recognizes messages of libvirt, QEMU and other programs about screens in a text, and explains
//! them.
//!
//! [`messages`] has the known messages. [`find`] looks for them in a pasted text, and [`in_log`] in
//! a domain's log. [`causes`] finds the cause and the fixes for a domain and its host.
//!
//! A pasted text may have other line breaks, indentation and quotation marks than the original, or
//! be quoted in JSON. Case is ignored.

pub mod causes;
mod conditions;
pub mod doctor;
pub mod learn;
pub mod messages;
pub mod situation;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::explain::learn::Start;
use crate::host::log::rfc3339;
use crate::plan::trial::said::words_of;
use crate::predict::arguments::without_values;
use messages::{SYMPTOMS, Tell, Wording, wordings};

/// A message that was recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name of the symptom ([`messages::SYMPTOMS`]).
    pub symptom: &'static str,
    /// The wording that matched.
    pub wording: &'static Wording,
    /// The text that matched each `*` of the wording.
    pub filled_in: Vec<String>,
    /// The last device that the text names before the message's end and after the same message's
    /// previous occurrence, or else the first after the message. `None` if the text names none, or
    /// if the address in the message is an address in the guest.
    pub device: Option<DeviceId>,
}

/// Returns the known messages in a text, in order of appearance: for each symptom, one for each
/// device or, if no message of the symptom has a device, one. Returns messages that only follow
/// from other problems ([`Wording::follows`]) only if the text has no others.
#[must_use]
pub fn find(text: &str) -> Vec<Found> {
    without_consequences(all_in(text))
}

/// Returns all known messages in a text, even if they only follow from other problems. Of two
/// messages that overlap in the text, only the longer one counts. Looks for at most [`MOST`]
/// occurrences of each message.
fn all_in(text: &str) -> Vec<Found> {
    let text = plain(text);
    let squeezed = Squeezed::of(&text);
    let mut all: Vec<(Range<usize>, Found)> = Vec::new();
    for (symptom, wording, parts) in &*PARTS {
        // Each occurrence of a message has its own device.
        let mut from = 0;
        for _ in 0..MOST {
            let Some((place, filled_in)) = squeezed.matches(from, parts) else {
                break;
            };
            let (start, end) = (place.start, place.end);
            let before = || names(squeezed.whole(from, end)).next_back();
            let after = || names(squeezed.whole(end, squeezed.text.len())).next();
            let is_guests = SYMPTOMS[*symptom].tell.contains(&Tell::GuestAddress);
            if !all
                .iter()
                .any(|(taken, _)| taken.start < end && start < taken.end)
            {
                let found = Found {
                    symptom,
                    wording,
                    filled_in,
                    device: (!is_guests).then(|| before().or_else(after)).flatten(),
                };
                all.push((place, found));
            }
            from = end;
        }
    }
    all.sort_by_key(|(place, _)| place.start);
    all.into_iter().map(|(_, found)| found).collect()
}

fn without_consequences(mut all: Vec<Found>) -> Vec<Found> {
    if all.iter().any(|found| !found.wording.follows) {
        all.retain(|found| !found.wording.follows);
    }
    // A message may occur twice: with a device and without one.
    let of_devices: BTreeSet<&str> = all
        .iter()
        .filter(|found| found.device.is_some())
        .map(|found| found.symptom)
        .collect();
    let mut said = BTreeSet::new();
    all.retain(|found| {
        let again = found.device.is_none() && of_devices.contains(&found.symptom);
        !again && said.insert((found.symptom, found.device))
    });
    all
}

/// Replaces white space by single blanks, and quotation marks by straight ones, and removes JSON's
/// backslashes.
fn plain(text: &str) -> String {
    let text = text
        .replace(['\u{2018}', '\u{2019}', '`'], "'")
        .replace(['\u{201c}', '\u{201d}'], "\"")
        .replace("\\n", " ")
        .replace('\\', "");
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// The longest text that may match a `*`, in bytes.
const LONGEST: usize = 200;

/// The largest number of occurrences of one message that are found: a log may have thousands.
const MOST: usize = 32;

/// A known message: the name of its symptom, its words, and the parts of the words between the `*`,
/// in the form of [`Squeezed::text`].
type Parts = (&'static str, &'static Wording, Vec<String>);

/// All known messages, the longest first.
static PARTS: LazyLock<Vec<Parts>> = LazyLock::new(|| {
    let parts = |words: &str| {
        words
            .split('*')
            .map(|part| Squeezed::of(part).text)
            .collect()
    };
    let mut all: Vec<Parts> = wordings()
        .map(|(symptom, wording)| (symptom, wording, parts(&wording.words)))
        .collect();
    all.sort_by_key(|(_, _, parts)| Reverse(parts.iter().map(String::len).sum::<usize>()));
    all
});

/// A text in lower case and without white space: a terminal may have broken its lines anywhere.
struct Squeezed<'t> {
    original: &'t str,
    text: String,
    /// The offset in `original` for each byte of `text`, and at the end the length of `original`.
    places: Vec<usize>,
}

impl<'t> Squeezed<'t> {
    fn of(original: &'t str) -> Self {
        let mut text = String::with_capacity(original.len());
        let mut places = Vec::with_capacity(original.len() + 1);
        for (place, character) in original.char_indices() {
            if !character.is_whitespace() {
                text.push(character.to_ascii_lowercase());
                places.extend(std::iter::repeat_n(place, character.len_utf8()));
            }
        }
        places.push(original.len());
        Squeezed {
            original,
            text,
            places,
        }
    }

    /// Returns the part of `original` for a range of `text`, without white space at its end.
    fn whole(&self, from: usize, to: usize) -> &'t str {
        self.original[self.places[from]..self.places[to]].trim_end()
    }

    /// Returns the first range of `text` from `from` on that matches a message, and the original
    /// text for each `*`. `parts` are the message's words between the `*`. `None` if none matches.
    fn matches(&self, from: usize, parts: &[String]) -> Option<(Range<usize>, Vec<String>)> {
        let (first, rest) = parts.split_first()?;
        self.text[from..]
            .match_indices(first)
            .find_map(|(start, _)| {
                let mut start = from + start;
                let mut end = start + first.len();
                let mut filled_in = Vec::new();
                for (place, part) in rest.iter().enumerate() {
                    // Without this limit, a guest's long line that repeats the first part would
                    // take very long.
                    let limit = self.text.floor_char_boundary(end + LONGEST + part.len());
                    let until = end + self.text[end..limit].find(part.as_str())?;
                    // If the first part occurs again in the filled-in text, its last occurrence
                    // counts.
                    if place == 0 {
                        start += self.text[start..until].rfind(first).unwrap_or(0);
                        end = start + first.len();
                    }
                    filled_in.push(self.whole(end, until).to_owned());
                    end = until + part.len();
                }
                Some((start..end, filled_in))
            })
    }
}

/// Returns the devices that a text names, in order.
fn names(text: &str) -> impl DoubleEndedIterator<Item = DeviceId> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-:._".contains(c);
    let name = |word: &str| DeviceId::from_user(word.trim_end_matches([':', '.'])).ok();
    // The kernel writes `UUID:region0`.
    text.split(move |c| !is_of_name(c))
        .filter_map(move |word| name(word).or_else(|| name(word.rsplit_once(':')?.0)))
}

/// The words that follow the domain's name in the hook's message about a veto.
const HOOK_SAYS: &str = " is not started";

/// Returns the domain that a text names in libvirt's `Failed to start domain 'guest'` (older
/// versions have no quotation marks) or in the hook's message; `None` if it has neither.
#[must_use]
pub(crate) fn domain_of(text: &str) -> Option<String> {
    let text = plain(text);
    let after = |words: &str| text.split_once(words).map(|(_, rest)| rest);
    // Names may contain blanks and quotation marks. The hook's line does not quote the name.
    let is_end = |rest: &str| !rest.starts_with(char::is_alphanumeric);
    let libvirts = |rest: &'_ str| match rest.strip_prefix('\'') {
        Some(rest) => rest
            .match_indices('\'')
            .find(|(at, _)| is_end(&rest[at + 1..]))
            .map(|(at, _)| rest[..at].to_owned()),
        None => rest.split(' ').next().map(str::to_owned),
    };
    // With `hook = "warn"`, the hook prints a colon and the refusal after the name.
    let hooks = |rest: &'_ str| {
        let head = rest.split_once(": ").map_or(rest, |(head, _)| head);
        let name = head.split_once(HOOK_SAYS).map(|(name, _)| name);
        name.or_else(|| (head != rest).then_some(head))
            .map(str::to_owned)
    };
    let name = after("Failed to start domain ")
        .and_then(libvirts)
        .or_else(|| after("gfxplane: domain ").and_then(hooks));
    name.filter(|name| !name.is_empty())
}

/// The facts about a domain's last start that its log has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// The time when the start began, since 1970. In JSON, it has the form of RFC 3339, in UTC.
    #[serde(serialize_with = "as_rfc3339")]
    pub began: Duration,
    /// QEMU's version, as libvirt reports it; `None` if it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// True if the domain started; `None` if the log does not say.
    pub started: Option<bool>,
    /// The number of starts after this one that failed before QEMU ran, by a hook's veto or because
    /// libvirt refused the definition.
    pub failed_since: usize,
    /// The known messages in the log.
    #[serde(skip)]
    pub found: Vec<Found>,
    /// QEMU's last lines, without values that may be secrets; empty if a message is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
}

fn as_rfc3339<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(time.as_secs()))
}

/// The number of QEMU's last lines that are shown.
const LAST_LINES: usize = 5;

/// Looks in a log for messages of the last start. Returns `None` if the log has no complete start,
/// or if `domain` is given and the last start is another domain's. After a start that succeeded, a
/// guest may have written the messages, so gfxplane only shows them.
#[must_use]
pub fn in_log(log: &str, domain: Option<Uuid>) -> Option<Logged> {
    let start = Start::last(log)?;
    if domain.is_some() && start.domain() != domain {
        return None;
    }
    // Each line is a message of its own.
    let all = start.printed.lines().flat_map(all_in).collect();
    let found = without_consequences(all);
    let words = if found.is_empty() {
        let said = words_of(&qemus(start.printed));
        let lines: Vec<String> = said.lines().map(without_values).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
    } else {
        Vec::new()
    };
    Some(Logged {
        started: start.has_started(),
        failed_since: start.failed_since(),
        began: start.began,
        qemu: start.qemu,
        found,
        words,
    })
}

/// Returns the lines that QEMU printed, without libvirt's lines, and without the time and program
/// name at the beginning of a line.
fn qemus(printed: &str) -> String {
    let lines = printed
        .lines()
        .filter(|line| !line.contains(": shutting down, reason="));
    let words = lines.map(|line| match line.split_once(" qemu-") {
        Some((time, rest)) if time.ends_with('Z') => {
            rest.split_once(": ").map_or(rest, |(_, words)| words)
        }
        _ => line,
    });
    words.fold(String::new(), |all, line| all + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symptoms(text: &str) -> Vec<&'static str> {
        find(text).iter().map(|found| found.symptom).collect()
    }

    /// The messages that predictions use are in code. Each must be a known message.
    #[test]
    fn what_is_predicted_is_known() {
        let source = include_str!("../predict/qemu_messages.rs");
        let mut count = 0;
        for constant in source.split("pub(crate) const ").skip(1) {
            let words = constant
                .split_once('"')
                .and_then(|(_, rest)| rest.split_once("\";"));
            let words = words.unwrap().0.replace('*', "vfio-pci.x");
            assert_eq!(find(&words).len(), 1, "{words}");
            count += 1;
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn as_it_was_pasted() {
        let expected = ["opengl-missing"];
        for text in [
            "vfio-display-dmabuf: opengl not available",
            "  vfio-display-dmabuf:\n   OpenGL not\tavailable ",
            "vfio-display-dmabuf: opengl not avai\n    lable",
            r#"{"error": "-device {\\\"driver\\\":\\\"vfio-pci\\\"}: vfio-display-dmabuf:\nopengl not available"}"#,
            "internal error: QEMU unexpectedly closed the monitor (vm='g'): 2026-11-22T18:34:30.123456Z qemu-system-x86_64: -device {}: vfio c1a2: vfio-display-dmabuf: opengl not available",
        ] {
            assert_eq!(symptoms(text), expected, "{text}");
        }
        let quoted = "Element domain has extra content: qemu:commandline";
        assert_eq!(symptoms(quoted), ["namespace-missing"]);
        assert_eq!(
            symptoms("there is no device \u{201c}hostdev0\u{201d} defined"),
            ["dead-setting"]
        );
        assert_eq!(
            symptoms(r#"there is no device \"hostdev0\" defined"#),
            ["dead-setting"]
        );
        assert!(symptoms("").is_empty());
        let other = "error: Failed to start domain 'guest'\nerror: no space left on device";
        assert!(symptoms(other).is_empty());
    }

    #[test]
    fn which_device() {
        // The device, or nothing, and the text.
        for row in [
            r#"ID|-device {"sysfsdev":"/sys/bus/mdev/devices/ID"}: vfio ID: vfio-display-dmabuf: opengl not available"#,
            "ID|device not found: mediated device 'ID' not found",
            "0000:27:00.4|vfio 0000:27:00.4: device doesn't support any (known) display method",
            "ID|ramfb=on requires display=on (ID)",
            "|ramfb=on requires display=on",
        ] {
            let row = row.replace("ID", "c1a20000-0000-4000-8000-000000000002");
            let (device, text) = row.split_once('|').unwrap();
            let found = find(text)[0].device.map(|id| id.to_string());
            assert_eq!(found.unwrap_or_default(), device, "{text}");
        }
        let two = "vfio 0000:27:00.4: ramfb=on requires display=on";
        assert_eq!(find(&format!("{two}\n{two}")).len(), 1);
        let of = |text: &str| -> Vec<String> {
            let all = find(text);
            all.iter()
                .filter_map(|found| Some(found.device?.to_string()))
                .collect()
        };
        let other = "vfio 0000:27:00.5: ramfb=on requires display=on";
        assert_eq!(
            of(&format!("{two}\n{other}")),
            ["0000:27:00.4", "0000:27:00.5"]
        );
        // The message without a device is between two messages with one.
        let without = "ramfb=on requires display=on";
        assert_eq!(
            of(&format!("{two}; {without}; {other}")),
            ["0000:27:00.4", "0000:27:00.5"]
        );
    }

    #[test]
    fn which_domain() {
        // The name, or nothing, and the text.
        for row in [
            "my guest|error: Failed to start domain 'my guest'\nerror: x",
            "guest|error: Failed to start domain guest\nerror: x",
            "my friend's guest|error: Failed to start domain 'my friend's guest'\nerror: x (vm='y')",
            "guest|gfxplane: domain guest is not started: x",
            "my guest|gfxplane: domain my guest is not started: x",
            "my guest|gfxplane: domain my guest: QEMU may refuse c1: x is not started",
            "my guest|gfxplane: domain my guest is not started",
            "|gfxplane: domain of a text",
            "|vfio-display-dmabuf: opengl not available",
            "|Failed to start domain ''",
        ] {
            let (name, text) = row.split_once('|').unwrap();
            assert_eq!(domain_of(text).unwrap_or_default(), name, "{text}");
        }
    }
}
