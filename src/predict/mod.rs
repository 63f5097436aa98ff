//! What libvirt and QEMU will make of a domain's screens: whether it starts, with which message
//! it is refused, and which screen is shown by what.
//!
//! QEMU's part is a model of what QEMU itself does at start, in its order ([`qemu`]), with what
//! differs between versions in one table ([`versions`]); libvirt's part is its validation
//! ([`libvirt`]). Measured against both in a virtual machine (`tests/vm/matrix.py`).
//!
//! Where something is not known (a version, the display of a device), every possibility is tried.
//! If all end alike, that is the answer; if not, the answer is a doubt, never a guess. What holds of
//! versions newer than those that were read is in [`versions`].

mod frontends;
pub mod libvirt;
pub mod qemu;
pub mod versions;
pub mod words;

use serde::{Serialize, Serializer};

use crate::abilities::Abilities;
use crate::domain::GraphicsType;
use crate::names::DeviceId;
use crate::screens::{Found, Screens};
use crate::version::Version;
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Who says so.
    pub by: Program,
    /// What it is about.
    pub about: About,
    /// In the words of libvirt or QEMU.
    pub message: String,
    /// Whether this depends on no version of QEMU or libvirt: all that were read refuse it. What the
    /// host's own QEMU lacks is as certain.
    pub always: bool,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "danger")]
pub enum Danger {
    /// Somebody who looks at VNC and chooses a screen (Ctrl-Alt-2) ends the guest: QEMU exits with
    /// "The console requires display DMABUF support." (measured with QEMU 10.0.13).
    ViewerEndsGuest {
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
            | Danger::RegionFault { screen }
            | Danger::StaysBlack { screen }
            | Danger::ResetEndsGuest { screen } => screen,
        }
    }

    /// A fault of some versions of QEMU in words, and the first version without it; `None`: it is no fault.
    #[must_use]
    pub fn fault(&self) -> Option<(String, Version)> {
        let (from, mended, what) = match self {
            Danger::ViewerEndsGuest { .. } => return None,
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
            mended,
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
        for danger in other.dangers {
            if !self.dangers.contains(&danger) {
                self.dangers.push(danger);
            }
        }
        for head in &mut self.heads {
            if let Some(same) = other.heads.iter().find(|same| same.of == head.of) {
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
                let refused = libvirt::refusal(screens, abilities, libvirt)
                    .or_else(|| qemu::refusal(screens, &found, abilities, (libvirt, qemu)));
                if refused.is_none() || first.is_none() {
                    let heads = qemu::heads(screens, &found, libvirt, qemu);
                    let dangers = qemu::dangers(screens, &found, libvirt, qemu);
                    let seen = Prediction {
                        outcome: Outcome::Yes,
                        heads,
                        dangers,
                    };
                    match &mut first {
                        Some(first) if !refusals.iter().all(Option::is_some) => first.join(seen),
                        _ => first = Some(seen),
                    }
                }
                refusals.push(refused);
            }
        }
    }
    let mut prediction = first.expect("there is at least one possibility");
    let refusal = refusals.iter().flatten().next().cloned();
    let all = refusals.iter().all(Option::is_some);
    // libvirt looks at the domain before it starts QEMU, whose arguments then make no difference.
    let by_libvirt = |refused: &Option<Refusal>| {
        refused
            .as_ref()
            .is_some_and(|refusal| refusal.by == Program::Libvirt)
    };
    let is_certain = screens.arguments.is_empty() || refusals.iter().all(by_libvirt);
    // A version that has dropped what not every version refuses would come to what all refuse.
    let not_reviewed = refusals
        .chunks(libvirts.len() * qemus.len())
        .filter(|world| !world.iter().flatten().any(|refusal| refusal.always))
        .flatten()
        .flatten()
        .find_map(|refusal| not_reviewed(refusal, abilities));
    prediction.outcome = match refusal {
        None if screens.arguments.is_empty() => Outcome::Yes,
        Some(refusal) if all && is_certain && not_reviewed.is_none() => {
            prediction.heads.clear();
            prediction.dangers.clear();
            Outcome::No(refusal)
        }
        None => Outcome::Doubt {
            refusal: Refusal {
                by: Program::Qemu,
                about: About::Domain,
                message: "what QEMU will say is not known".into(),
                always: false,
            },
            because: arguments(screens),
        },
        Some(refusal) => Outcome::Doubt {
            because: if let Some(why) = not_reviewed.filter(|_| all && is_certain) {
                why
            } else if screens.arguments.is_empty() {
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
        "the domain has QEMU arguments of its own that are about displays ({})",
        screens.arguments.join("; ")
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
