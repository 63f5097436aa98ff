//! What was done to domains, and what was decided not to be done: the lines of the log.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::names::{DeviceId, display_as_serde};
use crate::plan::{Action, Change, words};
use crate::record::FORMAT;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`FORMAT`].
    pub format: u32,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The domain's name.
    pub domain: String,
    /// Its UUID, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What happened.
    pub what: What,
    /// By whom.
    pub by: By,
    /// The single changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Said>,
    /// Why, or what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One change in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What was changed.
    pub change: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The device that it is about, by its name in sysfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What happened to a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Its definition was changed.
    Fixed,
    /// What was changed was put back.
    Undone,
    /// Its own policy was set.
    Policy,
    /// It was left as it is, because of the policy, a missing consent, or what is not known.
    LeftAlone,
    /// libvirt refused the new definition.
    Refused,
    /// Somebody else changed it at the same time.
    Conflict,
    /// Somebody undoes what we do: it is left alone from now on.
    GaveUp,
    /// It was started after a veto.
    Started,
    /// It was to be started, and that failed.
    NotStarted,
    /// Its log told of a device's display.
    Learned,
}

/// Who did it.
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
    /// What has happened. `time`: in seconds since 1970.
    #[must_use]
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

    /// The same with the changes of a plan.
    #[must_use]
    pub fn changes(mut self, changes: &[Change]) -> Self {
        self.changes = changes.iter().map(Said::of).collect();
        self
    }

    /// The same with changes in words.
    #[must_use]
    pub fn said(mut self, changes: &[String]) -> Self {
        let said = |change: &String| Said {
            change: change.clone(),
            reason: None,
            device: None,
        };
        self.changes = changes.iter().map(said).collect();
        self
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl Said {
    fn of(change: &Change) -> Self {
        Said {
            change: words(&change.action),
            reason: Some(change.reason.clone()),
            device: device(&change.action).map(|id| id.to_string()),
        }
    }
}

fn device(action: &Action) -> Option<DeviceId> {
    match action {
        Action::Display { device, .. }
        | Action::Ramfb { device, .. }
        | Action::SetProperty { device, .. }
        | Action::RemoveProperty { device, .. }
        | Action::Rom { device, .. } => Some(*device),
        Action::Gl { .. }
        | Action::ListenNone { .. }
        | Action::PeerToPeer
        | Action::RenderNode { .. }
        | Action::AddGraphics { .. }
        | Action::RemoveGraphics { .. }
        | Action::VideoNone
        | Action::RemoveSetting { .. } => None,
    }
}

/// A time as RFC 3339 has it, in UTC: `2026-11-22T15:24:44Z`. `seconds`: since 1970; those after the
/// year 9999 are its last.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        // As date -u -d @SECONDS says them.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_361_084, "2026-11-22T15:24:44Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }
}
