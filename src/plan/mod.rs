//! Makes the plan: the changes that a domain needs so that it starts and its screens are visible,
//! and notes about the problems that stay, each with its reason.
//!
//! A plan is a pure function of the domain, its devices, the abilities of the host's QEMU and
//! libvirt, and the policy. [`crate::predict`] decides whether a change helps. Of all ways to
//! rearrange the domain's graphics with which the domain certainly starts and every wanted screen
//! is visible, [`arrangements`] picks the one that costs the user least.

pub mod arrangements;
pub mod commands;
mod dash_set;
mod displays;
pub mod edits;
pub mod fixup;
mod graphics_and_video;
mod managed;
pub mod managers;
mod options;
mod planner;
mod remarks;
pub mod trial;
pub mod undo;

pub use managed::plan_managed;
pub use planner::plan;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::device::id::{DeviceId, serialize_as_text};
use crate::domain::GraphicsType;
use crate::domain::policy::Consent;
use crate::predict::arguments::{told, told_setting};
use crate::predict::screens::Screens;
use crate::predict::{About, Outcome, Prediction, Refusal, Stage};

/// One change to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Set `display` on a hostdev.
    Display {
        /// The device of the hostdev.
        device: DeviceId,
        /// True for `on`.
        on: bool,
    },
    /// Set `ramfb` on a hostdev.
    Ramfb {
        /// The device of the hostdev.
        device: DeviceId,
        /// True for `on`.
        on: bool,
    },
    /// Set `<gl enable=…>` on graphics.
    Gl {
        /// The type of the graphics.
        graphics: GraphicsType,
        /// True for `yes`.
        on: bool,
    },
    /// Make graphics listen nowhere; viewers on this host get a file descriptor.
    ListenNone {
        /// The type of the graphics.
        graphics: GraphicsType,
    },
    /// Set `p2p='yes'` on the dbus graphics: viewers on this host get a file descriptor, and there
    /// is no bus.
    PeerToPeer,
    /// Set `<gl rendernode=…>` on graphics.
    RenderNode {
        /// The type of the graphics.
        graphics: GraphicsType,
        /// The path of the render node.
        rendernode: String,
    },
    /// Add graphics that listen nowhere on the network.
    AddGraphics {
        /// The type of the new graphics.
        graphics: GraphicsType,
        /// True for graphics with OpenGL.
        gl: bool,
    },
    /// Remove the `<graphics>` of a type.
    RemoveGraphics {
        /// The type of the graphics.
        graphics: GraphicsType,
    },
    /// Put `<video><model type='none'/></video>` in place of all video cards.
    VideoNone,
    /// Turn the video card of model `none` into a VGA card, which every guest can use.
    VideoVga,
    /// Set a property of a device in `qemu:override`.
    SetProperty {
        /// The device of the hostdev.
        device: DeviceId,
        /// The property's name.
        name: String,
        /// The property's value. It may be a secret from the user's arguments, so it is shown only
        /// as [`told`] returns it.
        #[serde(serialize_with = "only_told")]
        value: String,
    },
    /// Remove a property of a device from `qemu:override`.
    RemoveProperty {
        /// The device of the hostdev.
        device: DeviceId,
        /// The property's name.
        name: String,
    },
    /// Set `<rom file=…>` on a hostdev.
    Rom {
        /// The device of the hostdev.
        device: DeviceId,
        /// The file's path, which is shown only as [`told`] returns it.
        #[serde(serialize_with = "only_told")]
        file: String,
    },
    /// Remove a `-set` and its argument from `qemu:commandline`.
    RemoveSetting {
        /// The argument after `-set`. Its value is shown only as [`told`] returns it.
        #[serde(serialize_with = "only_told_setting")]
        setting: String,
    },
}

/// An action with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The action.
    #[serde(flatten, serialize_with = "with_words")]
    pub action: Action,
    /// The reason, as text for the user.
    pub reason: String,
    /// The loss that the action causes, to which the user has agreed; `None` if nothing is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// The severity of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong; the note is for information.
    Info,
    /// The domain starts, but something is wrong; or it is unknown whether the domain starts.
    Warn,
    /// The domain does not start.
    Fail,
}

/// The subject of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// The start of the domain: [`Prediction::outcome`].
    Start,
    /// The visibility of a screen: [`Prediction::heads`].
    Seen,
    /// A display that the device has and the domain does not switch on.
    Off,
    /// Any other subject.
    Other,
}

/// Something that the user can do about a problem.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fix {
    /// A gfxplane command for the domain.
    Command {
        /// The verb: `fixup`, `policy`.
        verb: &'static str,
        /// The options after the domain on the command line; may be empty.
        options: String,
        /// The effect and the cost of the command; empty if the command already makes both clear.
        reason: String,
    },
    /// Anything else, in words.
    Words(String),
}

impl Fix {
    /// Returns the command `gfxplane fixup` with the user's consent to these losses: `remote`,
    /// `video`, `remote,video` or `all`.
    pub fn consent(losses: &str) -> Self {
        Fix::fixup(format!("--consent {losses}"), "")
    }

    /// Returns the command `gfxplane fixup` with these options. `reason`: see [`Fix::Command`].
    pub fn fixup(options: impl Into<String>, reason: impl Into<String>) -> Self {
        Fix::Command {
            verb: "fixup",
            options: options.into(),
            reason: reason.into(),
        }
    }

    /// Returns the fix as a command that changes libvirt's definition (`--define`), or in words.
    /// `domain` is the domain as a command's argument.
    pub fn of_domain(&self, domain: &str) -> String {
        self.about(domain, "--define", "")
    }

    /// Returns the fix as a command that the user can type, or in words, for a domain in a file,
    /// which stays as it is. `file` is the file as a command's argument.
    pub(crate) fn of_file(&self, file: &str) -> String {
        self.about(file, "", "> NEW.xml")
    }

    /// Returns a [`Fix::Words`] as a line for a shell; `None` for a [`Fix::Command`]. Words that
    /// are a command stay as they are. Words about a needed version become a comment after
    /// `gfxplane qemu`, all others a comment after `edit`, which opens the domain's XML.
    pub fn by_hand(&self, edit: &str) -> Option<String> {
        match self {
            Fix::Command { .. } => None,
            Fix::Words(text) if text.starts_with("printf ") || text.starts_with("sudo ") => {
                Some(text.clone())
            }
            Fix::Words(text) if text.ends_with(" or later") => Some(format!(
                "gfxplane qemu # shows the installed versions; needed: {text}"
            )),
            Fix::Words(text) => Some(format!("{edit} # {text}").trim_start().to_owned()),
        }
    }

    /// Returns the fix as a command or in words. A fixup has `option` after its subject, and
    /// `output` at its end.
    fn about(&self, subject: &str, option: &str, output: &str) -> String {
        let (verb, options, reason) = match self {
            Fix::Words(text) => return text.clone(),
            Fix::Command {
                verb,
                options,
                reason,
            } => (*verb, options, reason),
        };
        let (option, output) = match verb {
            "fixup" => (option, output),
            _ => ("", ""),
        };
        let reason = match reason.as_str() {
            "" => String::new(),
            reason => format!("# {reason}"),
        };
        let all = ["gfxplane", verb, subject, option, options, output, &reason];
        let words: Vec<&str> = all.into_iter().filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.of_domain("DOMAIN"))
    }
}

serialize_as_text!(Fix);

impl From<&str> for Fix {
    fn from(text: &str) -> Self {
        Fix::Words(text.into())
    }
}

/// A problem that the plan does not solve, or a hint, with what the user can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Hash)]
pub struct Note {
    /// The severity.
    pub level: Level,
    /// The subject.
    pub topic: Topic,
    /// The device or the graphics that the note is about, or the domain.
    pub about: About,
    /// The problem or hint, as text for the user.
    pub text: String,
    /// The fixes, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<Fix>,
    /// The consent that the first fix needs; `None` if the fix needs no consent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

impl Note {
    /// Makes a note without fixes, on [`Topic::Other`].
    pub(crate) fn new(level: Level, about: About, text: impl Into<String>) -> Self {
        Note {
            level,
            topic: Topic::Other,
            about,
            text: text.into(),
            fixes: Vec::new(),
            consent: None,
        }
    }

    /// Returns the note's text and its fixes in one line. `domain` is the domain as a command's
    /// argument.
    pub(crate) fn words(&self, domain: &str) -> String {
        let mut text = self.text.clone();
        for fix in &self.fixes {
            text.push_str("; fix: ");
            text.push_str(&fix.of_domain(domain));
        }
        text
    }
}

/// The changes that make a domain match its devices, and the predictions without and with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The prediction for the domain without the changes, as if its devices were free.
    pub before: Prediction,
    /// libvirt's refusal because of the host's present state: the host has no KVM, or a device is
    /// not ready. No change of the domain fixes that. `None` if the host's state is no reason.
    #[serde(rename = "devices", skip_serializing_if = "Option::is_none")]
    pub host: Option<Refusal>,
    /// The changes, in the order in which they are made.
    pub changes: Vec<Change>,
    /// Notes about problems that the plan does not solve.
    pub notes: Vec<Note>,
    /// The prediction for the domain with the changes.
    pub after: Prediction,
    /// The domain's screens after the changes.
    #[serde(skip)]
    pub screens: Screens,
}

impl Plan {
    /// Returns whether the plan has no changes; it may have notes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the prediction for a start now: without the changes, in the host's present state.
    /// libvirt checks the definition first and the host's state second; QEMU refuses last.
    pub fn now(&self) -> Prediction {
        let earlier =
            matches!(&self.before.outcome, Outcome::No(refusal) if refusal.stage < Stage::Devices);
        match &self.host {
            Some(refusal) if !earlier => Prediction::of(Outcome::No(refusal.clone())),
            _ => self.before.clone(),
        }
    }
}

fn with_words<S: Serializer>(action: &Action, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Told<'a> {
        #[serde(flatten)]
        action: &'a Action,
        change: String,
    }
    let change = words(action);
    Told { action, change }.serialize(serializer)
}

fn only_told<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(told(value))
}

fn only_told_setting<S: Serializer>(setting: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&told_setting(setting))
}

/// Describes an action in a few words, without values that may be secrets.
pub fn words(action: &Action) -> String {
    let switch = |on: &bool| if *on { "on" } else { "off" };
    match action {
        Action::Display { device, on } => format!("display='{}' for {device}", switch(on)),
        Action::Ramfb { device, on } => format!("ramfb='{}' for {device}", switch(on)),
        Action::Gl { graphics, on } => {
            format!(
                "gl {} for {graphics}",
                if *on { "enabled" } else { "disabled" }
            )
        }
        Action::ListenNone { graphics } => format!("{graphics} listens nowhere"),
        Action::PeerToPeer => "dbus is p2p, without a bus".into(),
        Action::RenderNode {
            graphics,
            rendernode,
        } => format!("render node {rendernode} for {graphics}"),
        Action::AddGraphics { graphics, gl } => {
            let gl = if *gl && *graphics != GraphicsType::EglHeadless {
                " with gl"
            } else {
                ""
            };
            format!("{graphics}{gl} added")
        }
        Action::RemoveGraphics { graphics } => format!("{graphics} removed"),
        Action::VideoNone => "no emulated video".into(),
        Action::VideoVga => "a VGA card instead of none".into(),
        Action::SetProperty {
            device,
            name,
            value,
        } => format!("{name}={} for {device}", told(value)),
        Action::RemoveProperty { device, name } => format!("{name} removed from {device}"),
        // Values of arguments are never shown, as they may be secrets.
        Action::Rom { device, .. } => format!("a rom file for {device}"),
        Action::RemoveSetting { setting } => format!("-set {} removed", told_setting(setting)),
    }
}
