//! What libvirt and QEMU will make of a domain's screens: whether it starts, with which message
//! it is refused, and which screen is shown by what.
//!
//! A start has stages ([`Stage`]), and each has its part here, in the order of the real checks:
//! libvirt's rules for a definition and a start, and what it does to the host's devices
//! ([`libvirt`]); then QEMU ([`qemu`]). What differs between versions is in one table
//! ([`versions`]). Measured against both in a virtual machine (`tests/vm/matrix.py`).
//!
//! Where something is not known (a version, the display of a device), every possibility is tried.
//! If all end alike, that is the answer; if not, the answer is a doubt, never a guess. A doubt at
//! one stage does not soften a certain refusal of an earlier one: a start never gets that far. What
//! holds of versions newer than those that were read is in [`versions`].

pub mod abilities;
pub mod arguments;
mod frontends;
pub mod hints;
pub mod libvirt;
pub mod properties;
pub mod qemu;
pub mod screens;
pub mod shape;
pub mod versions;
pub mod words;

use std::collections::HashSet;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::device::id::DeviceId;
use crate::domain::GraphicsType;
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Found, Screens};
use versions::{Libvirt, Qemu, not_reviewed};

/// Who refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// libvirt, when the domain is defined or started.
    Libvirt,
    /// QEMU, when it starts.
    Qemu,
}

impl Program {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Program::Libvirt => "libvirt",
            Program::Qemu => "QEMU",
        }
    }
}

/// The stages of a start, in their order. Each refuses, passes, or is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// libvirt's rules for a definition. It applies them when it defines the domain, and again at
    /// each start (libvirt src/conf/domain_validate.c, src/qemu/qemu_validate.c).
    Define,
    /// libvirt's rules for a start: what needs the host's settings (src/qemu/qemu_process.c).
    Start,
    /// What libvirt does to the host's devices before QEMU runs: it looks mediated devices up, and
    /// binds PCI devices with managed='yes' to a vfio driver (src/hypervisor/virhostdev.c).
    Devices,
    /// What libvirt does once the devices are ready: it starts helpers (src/qemu/qemu_extdevice.c), builds QEMU's
    /// arguments (src/qemu/qemu_command.c), and makes QEMU's process.
    Arguments,
    /// QEMU.
    Qemu,
}

impl Stage {
    /// The program that refuses at this stage.
    #[must_use]
    pub fn program(self) -> Program {
        match self {
            Stage::Qemu => Program::Qemu,
            _ => Program::Libvirt,
        }
    }

    /// Its word, as JSON has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Stage::Define => "define",
            Stage::Start => "start",
            Stage::Devices => "devices",
            Stage::Arguments => "arguments",
            Stage::Qemu => "qemu",
        }
    }

    /// Who refuses, and when, in the words of a report.
    #[must_use]
    pub fn who(self) -> &'static str {
        match self {
            Stage::Define => "libvirt at define",
            Stage::Start => "libvirt at start",
            Stage::Devices => "libvirt preparing devices",
            Stage::Arguments => "libvirt preparing QEMU",
            Stage::Qemu => "QEMU",
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A vfio device of the domain.
    Device(DeviceId),
    /// A `<graphics>`.
    Graphics(GraphicsType),
    /// Something else.
    Domain,
}

impl Serialize for About {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            About::Device(id) => write!(f, "{id}"),
            About::Graphics(kind) => write!(f, "graphics {kind}"),
            About::Domain => f.write_str("domain"),
        }
    }
}

/// Why a domain does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When it is refused, and so by whom.
    pub stage: Stage,
    /// What it is about.
    pub about: About,
    /// In the words of libvirt or QEMU.
    pub message: String,
    /// Whether this depends on no version of QEMU or libvirt: all that were read refuse it. What the
    /// host's own QEMU lacks is as certain.
    pub always: bool,
}

impl Refusal {
    /// Who says so.
    #[must_use]
    pub fn by(&self) -> Program {
        self.stage.program()
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Refusal", 5)?;
        fields.serialize_field("by", &self.by())?;
        fields.serialize_field("stage", &self.stage)?;
        fields.serialize_field("about", &self.about)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("always", &self.always)?;
        fields.end()
    }
}

/// Whether a domain starts, as far as its screens decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "starts", rename_all = "lowercase")]
pub enum Outcome {
    /// It does.
    Yes,
    /// It does not.
    No(Refusal),
    /// It depends on something that is not known.
    Doubt {
        /// What would be said if it did not start.
        refusal: Refusal,
        /// What is not known.
        because: String,
    },
}

/// How a screen is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// At once.
    AtOnce,
    /// After the viewer has chosen it (Ctrl-Alt-2 in VNC).
    AfterSwitch,
}

/// A screen and what shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// What makes the picture.
    pub of: HeadOf,
    /// What shows it; nobody if this is empty.
    pub shown_by: Vec<(GraphicsType, Shown)>,
}

/// What makes a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeadOf {
    /// An emulated card of this model.
    Card(String),
    /// A vfio device.
    Device(DeviceId),
}

impl Serialize for HeadOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for HeadOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeadOf::Card(model) => write!(f, "video {model}"),
            HeadOf::Device(id) => write!(f, "{id}"),
        }
    }
}

/// What may happen once the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "danger")]
pub enum Danger {
    /// Somebody who looks at VNC and chooses a screen (Ctrl-Alt-2) ends the guest: QEMU exits with
    /// "The console requires display DMABUF support." (measured with QEMU 10.0.13).
    ViewerEndsGuest {
        /// Whose screen.
        screen: HeadOf,
    },
    /// QEMU crashes when the screen is first drawn, as it was told not to map the region that it is drawn
    /// from (`x-no-mmap=on`; measured with QEMU 10.0.13).
    NoMmap {
        /// Whose screen.
        screen: HeadOf,
    },
    /// QEMU may crash when the screen is first drawn ([`versions::REGION_FAULT`]).
    RegionFault {
        /// Whose screen.
        screen: HeadOf,
    },
    /// The screen may stay black, above all after ramfb ([`versions::DMABUF_WITHOUT_SIZE`]).
    StaysBlack {
        /// Whose screen.
        screen: HeadOf,
    },
    /// A reset of the guest may end QEMU ([`versions::RESET_ENDS_GUEST`]).
    ResetEndsGuest {
        /// Whose screen.
        screen: HeadOf,
    },
}

impl Danger {
    /// Whose screen.
    #[must_use]
    pub fn screen(&self) -> &HeadOf {
        match self {
            Danger::ViewerEndsGuest { screen }
            | Danger::NoMmap { screen }
            | Danger::RegionFault { screen }
            | Danger::StaysBlack { screen }
            | Danger::ResetEndsGuest { screen } => screen,
        }
    }

    /// A fault of QEMU's in words, and what helps; `None`: it is no fault.
    #[must_use]
    pub fn fault(&self) -> Option<(String, String)> {
        let (from, mended, what) = match self {
            Danger::ViewerEndsGuest { .. } => return None,
            Danger::NoMmap { .. } => {
                return Some((
                    "QEMU crashes when it first draws this device's screen, as x-no-mmap=on keeps it from mapping the screen's memory".into(),
                    "take x-no-mmap=on out of the domain's -set, -global or qemu:override".into(),
                ));
            }
            Danger::RegionFault { .. } => (
                versions::REGION_FAULT,
                versions::REGION_FAULT_MENDED,
                "may crash when it draws this device's screen",
            ),
            Danger::StaysBlack { .. } => (
                versions::DMABUF_WITHOUT_SIZE,
                versions::DMABUF_WITHOUT_SIZE_MENDED,
                "may leave this device's screen black, above all after ramfb",
            ),
            Danger::ResetEndsGuest { .. } => (
                versions::RESET_ENDS_GUEST,
                versions::RESET_ENDS_GUEST_MENDED,
                "ends when the guest is reset, if spice has OpenGL and was built before spice-server 0.15.3",
            ),
        };
        let mended = mended.since();
        Some((
            format!("QEMU {} before {mended} {what}", from.since()),
            format!("QEMU {mended} or later"),
        ))
    }
}

/// A prediction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// Whether it starts.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The screens, in QEMU's order; as far as they are known, and none if it is refused.
    pub heads: Vec<Head>,
    /// What may happen.
    pub dangers: Vec<Danger>,
}

impl Prediction {
    /// Whether it certainly starts.
    #[must_use]
    pub fn starts(&self) -> bool {
        self.outcome == Outcome::Yes
    }

    /// The refusal, if it is certain.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome {
            Outcome::No(refusal) => Some(refusal),
            Outcome::Yes | Outcome::Doubt { .. } => None,
        }
    }

    /// The head of a device.
    #[must_use]
    pub fn head(&self, id: DeviceId) -> Option<&Head> {
        self.heads.iter().find(|head| head.of == HeadOf::Device(id))
    }
}

impl Prediction {
    /// What holds in both of two possible worlds: what is seen is seen in both, and what may happen
    /// may happen in either.
    fn join(&mut self, other: Prediction) {
        let known: HashSet<Danger> = self.dangers.iter().cloned().collect();
        let new = other.dangers.into_iter();
        self.dangers
            .extend(new.filter(|danger| !known.contains(danger)));
        for (place, head) in self.heads.iter_mut().enumerate() {
            // As a rule it has the same place there.
            let same = other.heads.get(place).filter(|same| same.of == head.of);
            let same = same.or_else(|| other.heads.iter().find(|same| same.of == head.of));
            if let Some(same) = same {
                head.shown_by.retain(|shown| same.shown_by.contains(shown));
            }
        }
    }
}

/// Predicts what happens when the domain is started.
#[must_use]
pub fn predict(screens: &Screens, abilities: &Abilities) -> Prediction {
    let libvirts = Libvirt::possible(abilities);
    let qemus = Qemu::possible(abilities);
    let unsure: Vec<usize> = (0..screens.vgpus.len())
        .filter(|place| screens.vgpus[*place].found().len() > 1)
        .collect();
    // Devices of which nothing is known are taken to be alike: what one of them may do, any may.
    let alike: &[Option<Found>] = if unsure.is_empty() {
        &[None]
    } else {
        &[
            Some(Found::Dmabuf),
            Some(Found::Region),
            Some(Found::Nothing),
        ]
    };
    let x = qemu::possible_x(screens, abilities);
    let mut first: Option<Prediction> = None;
    let mut refusals: Vec<Option<Refusal>> = Vec::new();
    for world in alike {
        let found: Vec<Found> = screens
            .vgpus
            .iter()
            .map(|vgpu| match vgpu.found()[..] {
                [only] => only,
                _ => world.unwrap_or(Found::Nothing),
            })
            .collect();
        for libvirt in &libvirts {
            for qemu in &qemus {
                let by_qemu = |has_x: &bool| {
                    qemu::refusal(screens, &found, abilities, (libvirt, qemu), *has_x)
                        .filter(|_| !screens.is_none_of_ours())
                };
                let by_qemu: Vec<_> = x.iter().map(by_qemu).collect();
                let by_libvirt = libvirt::refusals(screens, abilities, libvirt);
                let both = by_libvirt
                    .iter()
                    .flat_map(|by| by_qemu.iter().map(move |q| (by, q)));
                for (by_libvirt, by_qemu) in both {
                    let refused = by_libvirt.clone().or_else(|| by_qemu.clone());
                    if refused.is_none() || first.is_none() {
                        let heads = qemu::heads(screens, &found, libvirt, qemu);
                        let dangers = qemu::dangers(screens, &found, libvirt, qemu);
                        let seen = Prediction {
                            outcome: Outcome::Yes,
                            heads,
                            dangers,
                        };
                        match &mut first {
                            Some(first) if !refusals.iter().all(Option::is_some) => {
                                first.join(seen);
                            }
                            _ => first = Some(seen),
                        }
                    }
                    refusals.push(refused);
                }
            }
        }
    }
    let mut prediction = first.expect("there is at least one possibility");
    let refusal = refusals.iter().flatten().next().cloned();
    let all = refusals.iter().all(Option::is_some);
    // The user's arguments are QEMU's: what a stage before it refuses, they can't change.
    let before_qemu =
        |refused: &Option<Refusal>| refused.as_ref().is_some_and(|r| r.stage < Stage::Qemu);
    let unread = screens.unread();
    // QEMU finds no device for a dead -set before it looks at anything else.
    let is_certain =
        unread.is_empty() || refusals.iter().all(before_qemu) || !screens.dead_settings.is_empty();
    // A version that has dropped what not every version refuses would come to what all refuse.
    let not_reviewed = refusals
        .chunks(refusals.len() / alike.len())
        .filter(|world| !world.iter().flatten().any(|refusal| refusal.always))
        .flatten()
        .flatten()
        .find_map(|refusal| not_reviewed(refusal, abilities));
    prediction.outcome = match refusal {
        None if unread.is_empty() => Outcome::Yes,
        Some(refusal) if all && is_certain && not_reviewed.is_none() => {
            prediction.heads.clear();
            prediction.dangers.clear();
            Outcome::No(refusal)
        }
        None => Outcome::Doubt {
            refusal: Refusal {
                stage: Stage::Qemu,
                about: About::Domain,
                message: "what QEMU will say is not known".into(),
                always: false,
            },
            because: arguments(screens),
        },
        Some(refusal) => Outcome::Doubt {
            because: if let Some(why) = not_reviewed.filter(|_| all && is_certain) {
                why
            } else if unread.is_empty() {
                because(screens, abilities, &unsure)
            } else {
                arguments(screens)
            },
            refusal,
        },
    };
    prediction
}

fn arguments(screens: &Screens) -> String {
    format!(
        "the domain has QEMU arguments of its own that are about displays and are not looked at ({})",
        screens.unread().join("; ")
    )
}

fn because(screens: &Screens, abilities: &Abilities, unsure: &[usize]) -> String {
    let mut reasons: Vec<String> = unsure
        .iter()
        .filter_map(|place| screens.vgpus.get(*place))
        .filter(|vgpu| vgpu.display)
        .map(|vgpu| {
            let reason = vgpu.known.finding.facts.display.reason();
            let reason = reason.map(ToString::to_string).unwrap_or_default();
            format!("the display of {} is not known ({reason})", vgpu.id)
        })
        .collect();
    if libvirt::tls(abilities, screens).len() > 1 {
        reasons.push("spice_tls of qemu.conf is not known".into());
    }
    if qemu::possible_x(screens, abilities).len() > 1 {
        reasons.push("whether QEMU may open the X server that SDL is to use is not known".into());
    }
    for (name, version) in [("QEMU", &abilities.qemu), ("libvirt", &abilities.libvirt)] {
        match version {
            None => reasons.push(format!("{name}'s version is not known")),
            Some(version) if reasons.is_empty() && name == "QEMU" => {
                reasons.push(format!("it is not known how {name} {version} decides here"));
            }
            Some(_) => {}
        }
    }
    reasons.join("; ")
}
