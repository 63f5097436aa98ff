//! The entries of the log: the changes to domains, and the decisions not to change a domain.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::device::id::{DeviceId, display_as_serde};
use crate::device::record::FORMAT;
use crate::domain::shell::plain_up_to;
use crate::plan::{Action, Change, words};

/// One entry, which is a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The format's version, [`FORMAT`].
    pub format: u32,
    /// The time of the event, in seconds since 1970.
    pub time: u64,
    /// The domain's name.
    pub domain: String,
    /// The domain's UUID, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The event.
    pub what: What,
    /// The part of gfxplane that acted.
    pub by: By,
    /// The changes to the domain's definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Said>,
    /// The reason for the event, or its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change to a domain's definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The change, in words.
    pub change: String,
    /// The reason for the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sysfs name of the device that the change is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// An event in the life of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// gfxplane changed the domain's definition.
    Fixed,
    /// The user undid changes.
    Undone,
    /// The user set the domain's own policy.
    Policy,
    /// gfxplane left the domain as it is, because of the policy, a missing consent, or something
    /// that gfxplane does not know.
    LeftAlone,
    /// libvirt refused the new definition.
    Refused,
    /// Somebody else changed the domain's definition at the same time, and that change may be lost.
    Conflict,
    /// Somebody else changed the domain's definition at the same time, and that change was kept.
    Kept,
    /// Somebody keeps undoing our changes. gfxplane leaves the domain alone from now on.
    GaveUp,
    /// The daemon started the domain after a veto.
    Started,
    /// The daemon tried to start the domain, and that failed.
    NotStarted,
    /// gfxplane learned a device's display from QEMU's log of the domain.
    Learned,
}

/// The part of gfxplane that acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// `gfxplane watch`
    Daemon,
    /// `gfxplane fixup`
    Fixup,
    /// `gfxplane undo`
    Undo,
    /// `gfxplane policy`
    Policy,
    /// `gfxplane learn`
    Learn,
}

display_as_serde!(What, By);

impl Entry {
    /// Makes an entry without changes or a reason. `time` is in seconds since 1970.
    pub fn new(time: u64, what: What, by: By, domain: &str, uuid: Option<Uuid>) -> Self {
        Entry {
            format: FORMAT,
            time,
            domain: domain.into(),
            uuid,
            what,
            by,
            changes: Vec::new(),
            reason: None,
        }
    }

    /// Sets the entry's changes to those of a plan, of which at most [`MOST`] fit.
    #[must_use]
    pub fn changes(mut self, changes: &[Change]) -> Self {
        self.changes = bounded(changes, Said::of);
        self
    }

    /// Sets the entry's changes to these texts, of which at most [`MOST`] fit.
    #[must_use]
    pub fn said(mut self, changes: &[String]) -> Self {
        self.changes = bounded(changes, |change| Said::words(change));
        self
    }

    /// Sets the entry's reason, cut to [`LONGEST`].
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(plain_up_to(LONGEST, &reason.into()));
        self
    }
}

impl Said {
    fn of(change: &Change) -> Self {
        Said {
            reason: Some(plain_up_to(LONGEST, &change.reason)),
            device: device(&change.action).map(|id| id.to_string()),
            ..Said::words(&words(&change.action))
        }
    }

    fn words(change: &str) -> Self {
        Said {
            change: plain_up_to(LONGEST, change),
            reason: None,
            device: None,
        }
    }
}

/// The longest text in an entry, in bytes. Without this limit, a few entries that quote long XML
/// would push older entries out of the log.
const LONGEST: usize = 500;

/// The greatest number of changes in an entry.
const MOST: usize = 32;

/// Describes the first [`MOST`] changes by `said`. If there are more, adds a text with the number
/// of the others.
fn bounded<T>(changes: &[T], said: impl FnMut(&T) -> Said) -> Vec<Said> {
    let mut all: Vec<Said> = changes.iter().take(MOST).map(said).collect();
    if changes.len() > MOST {
        all.push(Said::words(&format!("and {} more", changes.len() - MOST)));
    }
    all
}

fn device(action: &Action) -> Option<DeviceId> {
    match action {
        Action::Display { device, .. }
        | Action::Ramfb { device, .. }
        | Action::SetProperty { device, .. }
        | Action::RemoveProperty { device, .. }
        | Action::Rom { device, .. } => Some(*device),
        _ => None,
    }
}

/// Formats a time as RFC 3339 does, in UTC: `2026-11-22T15:24:44Z`. `seconds` counts from 1970; a
/// time after the year 9999 becomes the last second of that year.
pub fn rfc3339(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        // The expected values are from `date -u -d @SECONDS`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    /// Without the limit, four definitions with an argument of 700 kB fill the log of 1 MiB.
    #[test]
    fn an_entry_is_bounded_and_harmless() {
        let device: DeviceId = "0000:00:02.0".parse().unwrap();
        let change = |number: usize| Change {
            action: Action::Rom {
                device,
                file: format!("{number}\u{202e}{}", "x".repeat(700_000)),
            },
            reason: "y\u{9b}".repeat(700_000),
            consent: None,
        };
        let changes: Vec<Change> = (0..100).map(change).collect();
        let entry = Entry::new(0, What::Fixed, By::Daemon, "g", None);
        let entry = entry.changes(&changes).because("z\n".repeat(700_000));
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.len() < 64 * 1024, "{} bytes", text.len());
        assert!(text.chars().all(crate::domain::shell::is_harmless));
        assert!(text.contains("and 68 more"));
    }
}
