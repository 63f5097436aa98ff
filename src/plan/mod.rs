//! The plan: what is changed in a domain so that it starts and its screens are seen, why, and what
//! is not changed and why not.
//!
//! A pure function of the domain, what is known of its devices, what the host's QEMU and libvirt
//! can do, and the policy. Whether a change helps is not decided here but asked of
//! [`crate::predict`]: of all ways to rearrange the domain's graphics, [`frontends`] takes the one
//! that certainly starts, shows every screen that was asked for, and costs the user least.

mod displays;
pub mod edits;
pub mod frontends;
mod graphics;
mod managed;
mod options;
mod planner;
mod remarks;
mod settings;

pub use managed::{Wish, plan_managed};
pub use planner::plan;

use serde::{Serialize, Serializer};

use crate::arguments::{told, told_setting};
use crate::domain::GraphicsType;
use crate::names::DeviceId;
use crate::policy::Consent;
use crate::predict::{About, Outcome, Prediction, Refusal, Stage};
use crate::screens::Screens;

/// One thing that is done to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// `display` of a hostdev.
    Display {
        /// Which.
        device: DeviceId,
        /// `on` or `off`.
        on: bool,
    },
    /// `ramfb` of a hostdev.
    Ramfb {
        /// Which.
        device: DeviceId,
        /// `on` or `off`.
        on: bool,
    },
    /// `<gl enable=…>` of graphics.
    Gl {
        /// Which.
        graphics: GraphicsType,
        /// `yes` or `no`.
        on: bool,
    },
    /// Graphics listen nowhere: viewers on this host get a file descriptor.
    ListenNone {
        /// Which.
        graphics: GraphicsType,
    },
    /// `p2p='yes'` of the graphics of type dbus: viewers on this host get a file descriptor, and there is no bus.
    PeerToPeer,
    /// `<gl rendernode=…>` of graphics.
    RenderNode {
        /// Which.
        graphics: GraphicsType,
        /// The path.
        rendernode: String,
    },
    /// Graphics are added; they listen nowhere.
    AddGraphics {
        /// Which.
        graphics: GraphicsType,
        /// With OpenGL.
        gl: bool,
    },
    /// Graphics are taken out.
    RemoveGraphics {
        /// Which.
        graphics: GraphicsType,
    },
    /// `<video><model type='none'/></video>`, instead of all that is there.
    VideoNone,
    /// A property of QEMU's device, by `qemu:override`.
    SetProperty {
        /// Of which device.
        device: DeviceId,
        /// Its name.
        name: String,
        /// Its value. It may be a secret of the user's arguments: told as [`told`] has it.
        #[serde(serialize_with = "only_told")]
        value: String,
    },
    /// A property is taken out of `qemu:override`.
    RemoveProperty {
        /// Of which device.
        device: DeviceId,
        /// Its name.
        name: String,
    },
    /// `<rom file=…>` of a hostdev.
    Rom {
        /// Which.
        device: DeviceId,
        /// The path; told as [`told`] has it.
        #[serde(serialize_with = "only_told")]
        file: String,
    },
    /// A `-set` is taken out of `qemu:commandline`.
    RemoveSetting {
        /// What follows `-set`; its value as it is told.
        #[serde(serialize_with = "only_told_setting")]
        setting: String,
    },
}

/// An action with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
    /// Why, for the user.
    pub reason: String,
    /// What the user may lose by it, and has agreed to lose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// How serious a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Info,
    /// It starts, but not all is well; or it is not known whether it starts.
    Warn,
    /// It does not start.
    Fail,
}

/// What a note adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Whether the domain starts: [`Prediction::outcome`].
    Start,
    /// Who sees a screen: [`Prediction::heads`].
    Seen,
    /// Nothing else that is said.
    Other,
}

/// Something that is not done, why, and what the user can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How serious.
    pub level: Level,
    /// What it adds to.
    pub topic: Topic,
    /// What it is about.
    pub about: About,
    /// What is the matter.
    pub text: String,
    /// What helps, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cures: Vec<String>,
    /// What must be agreed to for the first cure to be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// What is to be done to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What happens if it is started as it is, once the host has its devices and gives them away.
    pub before: Prediction,
    /// What libvirt says of the host's devices as they are now, where that is a refusal. No change
    /// of the plan's mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Refusal>,
    /// What is done, in this order.
    pub changes: Vec<Change>,
    /// What isn't.
    pub notes: Vec<Note>,
    /// What happens if it is started afterwards.
    pub after: Prediction,
    /// The screens afterwards.
    #[serde(skip)]
    pub screens: Screens,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What happens if the domain is started as it is, on the host as it is: what libvirt refuses
    /// of the definition comes first, then the devices, then QEMU.
    #[must_use]
    pub fn now(&self) -> Prediction {
        let earlier =
            matches!(&self.before.outcome, Outcome::No(refusal) if refusal.stage < Stage::Devices);
        match &self.devices {
            Some(refusal) if !earlier => Prediction {
                outcome: Outcome::No(refusal.clone()),
                heads: Vec::new(),
                dangers: Vec::new(),
            },
            _ => self.before.clone(),
        }
    }
}

fn only_told<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(told(value))
}

fn only_told_setting<S: Serializer>(setting: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&told_setting(setting))
}

/// An action in a few words.
#[must_use]
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
        Action::SetProperty {
            device,
            name,
            value,
        } => format!("{name}={} for {device}", told(value)),
        Action::RemoveProperty { device, name } => format!("{name} removed from {device}"),
        // Values of arguments are told nowhere, as they may be secrets.
        Action::Rom { device, .. } => format!("a rom file for {device}"),
        Action::RemoveSetting { setting } => format!("-set {} removed", told_setting(setting)),
    }
}
