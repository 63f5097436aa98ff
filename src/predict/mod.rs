//! Predicts what libvirt and QEMU will do with a domain's screens: whether the domain starts, with
//! which message it is refused, and which graphics show which screen.
//!
//! A start has stages ([`Stage`]). Each has its part here, in the order of the real checks:
//! libvirt's checks of a definition and a start, and its handling of the host's devices
//! ([`libvirt_checks`]); then QEMU ([`qemu_checks`]). One table has the differences between
//! versions ([`versions`]). The predictions were checked in a virtual machine
//! (`tests/vm/matrix.py`).
//!
//! If a fact is not known (a version, the display of a device), every possibility is tried. If all
//! have the same outcome, this is the answer. If not, the answer is a doubt, never a guess. A doubt
//! at one stage does not soften a certain refusal at an earlier one, because no start gets beyond
//! it. [`versions`] explains what is predicted for versions newer than those that were read.

pub mod abilities;
mod about;
pub mod arguments;
mod frontends;
pub mod hints;
pub mod libvirt_checks;
pub mod properties;
pub mod qemu_checks;
pub mod qemu_messages;
pub mod screens;
pub mod shape;
pub(crate) mod versions;

use std::collections::HashSet;

use serde::{Serialize, Serializer};

use crate::device::id::{DeviceId, serialize_as_text};
use crate::device::version::Version;
use crate::domain::GraphicsType;
use crate::predict::abilities::Abilities;
use crate::predict::qemu_checks::X;
use crate::predict::screens::{Found, Screens};
pub use about::About;
use versions::{Libvirt, Qemu, not_reviewed};

/// The program that refuses a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// libvirt, when it defines or starts the domain.
    Libvirt,
    /// QEMU, when it starts.
    Qemu,
}

impl Program {
    /// Returns the program's name.
    pub fn word(self) -> &'static str {
        match self {
            Program::Libvirt => "libvirt",
            Program::Qemu => "QEMU",
        }
    }
}

/// A stage of a start, in the order of a start. Each stage refuses, passes, or is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// libvirt's checks of a definition. libvirt makes them when it defines the domain, and again
    /// at each start (libvirt src/conf/domain_validate.c, src/qemu/qemu_validate.c).
    Define,
    /// libvirt's checks of a start, which need the host's settings (src/qemu/qemu_process.c).
    Start,
    /// libvirt's handling of the host's devices before QEMU runs: libvirt looks up mediated
    /// devices, and binds PCI devices with managed='yes' to a vfio driver
    /// (src/hypervisor/virhostdev.c).
    Devices,
    /// libvirt's work once the devices are ready: it starts helpers (src/qemu/qemu_extdevice.c),
    /// builds QEMU's arguments (src/qemu/qemu_command.c), and makes QEMU's process.
    Arguments,
    /// QEMU.
    Qemu,
}

impl Stage {
    /// Returns the program that refuses at this stage.
    pub fn program(self) -> Program {
        match self {
            Stage::Qemu => Program::Qemu,
            _ => Program::Libvirt,
        }
    }

    /// Returns the program that refuses, and when it does, as words for a report.
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

serialize_as_text!(HeadOf);

/// The reason why a domain does not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The stage at which the domain is refused, and thus the program that refuses.
    #[serde(flatten, serialize_with = "with_program")]
    pub stage: Stage,
    /// The subject of the refusal.
    pub about: About,
    /// The error, in the words of libvirt or QEMU.
    pub message: String,
    /// True if the refusal depends on no version of QEMU or libvirt: all versions that were read
    /// refuse. Also true if the host's own QEMU lacks an ability, which is as certain.
    pub always: bool,
    /// Other errors that may be shown in place of `message`. Which one is shown depends on
    /// something unknown; the domain does not start in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<String>,
}

impl Refusal {
    pub(crate) fn new(
        stage: Stage,
        about: About,
        message: impl Into<String>,
        always: bool,
    ) -> Self {
        Refusal {
            stage,
            about,
            message: message.into(),
            always,
            or: Vec::new(),
        }
    }

    /// Returns the end of the sentence "libvirt will refuse …".
    fn of(&self) -> &'static str {
        match self.stage {
            Stage::Define => "the definition",
            _ => "to start the domain",
        }
    }

    /// Returns the sentence "… will refuse …", with the error.
    pub(crate) fn will(&self) -> String {
        let (by, of) = (self.by().word(), self.of());
        format!("{by} will refuse {of}: \"{}\"", self.message)
    }

    /// Returns the sentence "… may refuse …", with the error, or says that gfxplane can't tell if
    /// the error is not known either. `because` is the unknown fact on which the refusal depends.
    pub(crate) fn may(&self, because: &str) -> String {
        let (by, message) = (self.by().word(), self.message.as_str());
        match message {
            NOT_KNOWN => format!("gfxplane can't tell whether {by} starts the domain: {because}"),
            _ => format!("{by} may refuse to start the domain (\"{message}\"): {because}"),
        }
    }

    /// Returns the error, with the errors that may be shown in its place.
    pub fn words(&self) -> String {
        let others = self.or.iter().map(|other| format!(", or: {other}"));
        std::iter::once(self.message.clone())
            .chain(others)
            .collect()
    }

    /// Returns [`Refusal::words`], with the subject before them unless they name it.
    #[must_use]
    pub fn told(&self) -> String {
        self.about.before(&self.words())
    }

    /// Returns the program that refuses.
    pub fn by(&self) -> Program {
        self.stage.program()
    }
}

fn with_program<S: Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct By {
        by: Program,
        stage: Stage,
    }
    let (by, stage) = (stage.program(), *stage);
    By { by, stage }.serialize(serializer)
}

/// The predicted outcome of a start, as far as the screens decide it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "starts", rename_all = "lowercase")]
pub enum Outcome {
    /// The domain starts.
    Yes,
    /// The domain does not start.
    No(Refusal),
    /// The start depends on something unknown.
    Doubt {
        /// The refusal that is possible.
        refusal: Refusal,
        /// The unknown fact on which the start depends.
        because: String,
    },
}

/// The way to see a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// The screen is visible at once.
    AtOnce,
    /// The screen is visible after the viewer has chosen it by its number (Ctrl-Alt-2 in VNC).
    AfterSwitch(#[serde(skip)] usize),
}

/// Returns the graphics that show a screen as texts for people, for example `vnc after Ctrl-Alt-2`.
pub(crate) fn viewers(shown_by: &[(GraphicsType, Shown)]) -> Vec<String> {
    let word = |(kind, how): &(GraphicsType, Shown)| match how {
        Shown::AtOnce => kind.to_string(),
        Shown::AfterSwitch(number) => format!("{kind} after Ctrl-Alt-{number}"),
    };
    shown_by.iter().map(word).collect()
}

/// A screen and the graphics that show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// The source of the picture.
    pub of: HeadOf,
    /// The graphics that show the screen; empty if none does.
    pub shown_by: Vec<(GraphicsType, Shown)>,
}

/// The source of a picture.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeadOf {
    /// An emulated card of this model.
    Card(String),
    /// A vfio device.
    Device(DeviceId),
}

impl HeadOf {
    /// Returns the device; `None` for an emulated card.
    pub(crate) fn device(&self) -> Option<DeviceId> {
        match self {
            HeadOf::Device(id) => Some(*id),
            HeadOf::Card(_) => None,
        }
    }

    /// Returns the picture as the subject of a refusal or a note: a card stands for the domain.
    pub(crate) fn about(&self) -> About {
        self.device().map_or(About::Domain, About::Device)
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

/// A danger that begins once the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Danger {
    /// The kind of danger.
    #[serde(rename = "danger")]
    pub kind: DangerKind,
    /// The screen that the danger is about.
    pub screen: HeadOf,
}

/// The kind of a danger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DangerKind {
    /// A VNC viewer that chooses a screen (Ctrl-Alt-2) ends the guest: QEMU exits with "The console
    /// requires display DMABUF support." (measured with QEMU 10.0.13).
    ViewerEndsGuest,
    /// QEMU crashes when it first draws the screen, because it was told not to map the region
    /// (`x-no-mmap=on`; measured with QEMU 10.0.13).
    NoMmap,
    /// QEMU may crash when it first draws the screen ([`versions::REGION_FAULT`]).
    RegionFault,
    /// The screen may stay black, above all after ramfb ([`versions::DMABUF_WITHOUT_SIZE`]).
    StaysBlack,
    /// A reset of the guest may end QEMU ([`versions::RESET_ENDS_GUEST`]).
    ResetEndsGuest,
}

impl Danger {
    /// Returns descriptions of QEMU's fault behind the danger, and of the fix. `None` for a danger
    /// without a fault of QEMU's.
    pub(crate) fn fault(&self) -> Option<(String, String)> {
        let (fault, what) = match self.kind {
            DangerKind::ViewerEndsGuest => return None,
            DangerKind::NoMmap => {
                return Some((
                    "QEMU crashes when it first draws this device's screen, because x-no-mmap=on keeps QEMU from mapping the screen's memory".into(),
                    "remove x-no-mmap=on from the domain's -set, -global or qemu:override".into(),
                ));
            }
            DangerKind::RegionFault => (
                versions::REGION_FAULT,
                "may crash when it draws this device's screen",
            ),
            DangerKind::StaysBlack => (
                versions::DMABUF_WITHOUT_SIZE,
                "may leave this device's screen black, above all after ramfb",
            ),
            DangerKind::ResetEndsGuest => (
                versions::RESET_ENDS_GUEST,
                "ends when the guest is reset, if spice has OpenGL and was built before spice-server 0.15.3",
            ),
        };
        let [since, fixed] = [fault.since, fault.until].map(Version::of);
        Some((
            format!("QEMU {since} before {fixed} {what}"),
            format!("QEMU {fixed} or later"),
        ))
    }
}

/// The prediction for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// The outcome of a start.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The screens in QEMU's order, as far as they are known; empty if the outcome is
    /// [`Outcome::No`]. For a doubt, these are the screens if the domain starts.
    pub heads: Vec<Head>,
    /// The dangers once the guest runs; empty if the outcome is [`Outcome::No`].
    pub dangers: Vec<Danger>,
}

impl Outcome {
    /// Returns the refusal, certain or not, and for a doubt the unknown fact on which the start
    /// depends. Returns `None` if the domain certainly starts.
    pub(crate) fn refused(&self) -> Option<(&Refusal, Option<&str>)> {
        match self {
            Outcome::Yes => None,
            Outcome::No(refusal) => Some((refusal, None)),
            Outcome::Doubt { refusal, because } => Some((refusal, Some(because))),
        }
    }
}

impl Prediction {
    /// Makes a prediction with this outcome, and without screens and dangers.
    pub(crate) fn of(outcome: Outcome) -> Self {
        Prediction {
            outcome,
            heads: Vec::new(),
            dangers: Vec::new(),
        }
    }

    /// Returns whether the domain certainly starts.
    pub fn starts(&self) -> bool {
        self.outcome == Outcome::Yes
    }

    /// Returns the refusal, if it is certain.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match &self.outcome {
            Outcome::No(refusal) => Some(refusal),
            Outcome::Yes | Outcome::Doubt { .. } => None,
        }
    }

    /// Returns the devices whose screens some graphics show.
    pub(crate) fn shown(&self) -> HashSet<DeviceId> {
        let shown = self.heads.iter().filter(|head| !head.shown_by.is_empty());
        shown.filter_map(|head| head.of.device()).collect()
    }

    /// Returns whether some graphics show the screen of a device.
    pub(crate) fn shows(&self, id: DeviceId) -> bool {
        self.head(id).is_some_and(|head| !head.shown_by.is_empty())
    }

    /// Returns the screen of a device; `None` if the prediction has none.
    pub fn head(&self, id: DeviceId) -> Option<&Head> {
        self.heads.iter().find(|head| head.of == HeadOf::Device(id))
    }

    /// Joins the prediction for another possible world into this one, except for the outcome. A
    /// screen that both have keeps only the graphics that show it in both. A screen that only
    /// `other` has is left out. A danger counts if either has it.
    fn join(&mut self, other: Prediction) {
        let known: HashSet<Danger> = self.dangers.iter().cloned().collect();
        let new = other.dangers.into_iter();
        self.dangers
            .extend(new.filter(|danger| !known.contains(danger)));
        for (place, head) in self.heads.iter_mut().enumerate() {
            // The screen usually has the same place in both predictions.
            let same = other.heads.get(place).filter(|same| same.of == head.of);
            let same = same.or_else(|| other.heads.iter().find(|same| same.of == head.of));
            if let Some(same) = same {
                head.shown_by.retain(|shown| same.shown_by.contains(shown));
            }
        }
    }
}

/// Predicts whether the domain starts, which graphics show its screens, and the dangers. Assumes
/// that the host has KVM and the devices; [`libvirt_checks::host`] predicts the refusals of a host
/// without them.
pub fn predict(screens: &Screens, abilities: &Abilities) -> Prediction {
    let libvirts = Libvirt::possible(abilities);
    let qemus = Qemu::possible(abilities);
    let unsure: Vec<usize> = (0..screens.vgpus.len())
        .filter(|place| screens.vgpus[*place].found().len() > 1)
        .collect();
    // All devices with an unknown display are assumed to have the same display.
    let alike: &[Found] = match unsure.is_empty() {
        true => &[Found::Nothing],
        false => &[Found::Dmabuf, Found::Region, Found::Nothing],
    };
    let x = qemu_checks::possible_x(screens, abilities);
    let mut first: Option<Prediction> = None;
    let mut refusals: Vec<Option<Refusal>> = Vec::new();
    for world in alike {
        let found: Vec<Found> = screens
            .vgpus
            .iter()
            .map(|vgpu| match vgpu.found()[..] {
                [only] => only,
                _ => *world,
            })
            .collect();
        for libvirt in &libvirts {
            for qemu in &qemus {
                let by_qemu = |x: &X| {
                    qemu_checks::refusal(screens, &found, abilities, (libvirt, qemu), *x)
                        .filter(|_| !screens.is_none_of_ours())
                };
                let by_qemu: Vec<_> = x.iter().map(by_qemu).collect();
                let by_libvirt = libvirt_checks::refusals(screens, abilities, libvirt);
                let both = by_libvirt
                    .iter()
                    .flat_map(|by| by_qemu.iter().map(move |q| (by, q)));
                for (by_libvirt, by_qemu) in both {
                    let refused = by_libvirt.clone().or_else(|| by_qemu.clone());
                    if refused.is_none() || first.is_none() {
                        let consoles = qemu_checks::consoles(screens, &found, libvirt);
                        let seen = frontends::seen(screens, &consoles, libvirt, qemu);
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
    prediction.outcome = outcome(screens, abilities, refusals, alike.len(), &unsure);
    if let Outcome::No(_) = prediction.outcome {
        prediction.heads.clear();
        prediction.dangers.clear();
    }
    prediction
}

/// Joins the refusals by all possible libvirts and QEMUs (`None` for a start), world by world, into
/// one outcome. In each of the `worlds`, all devices with an unknown display have the same display
/// (a dmabuf, a region, or none). `unsure` has the indices of these devices among the vfio devices.
fn outcome(
    screens: &Screens,
    abilities: &Abilities,
    refusals: Vec<Option<Refusal>>,
    worlds: usize,
    unsure: &[usize],
) -> Outcome {
    let refusal = refusals.iter().flatten().next().cloned();
    let all = refusals.iter().all(Option::is_some);
    // QEMU reads the user's arguments, so they can't change a refusal of an earlier stage.
    let before_qemu =
        |refused: &Option<Refusal>| refused.as_ref().is_some_and(|r| r.stage < Stage::Qemu);
    let unread = screens.unread();
    // QEMU finds no device for a dead -set before it looks at anything else.
    let is_certain =
        unread.is_empty() || refusals.iter().all(before_qemu) || !screens.dead_settings.is_empty();
    // If every version has one of a world's refusals, a version that has dropped another check
    // still refuses for this reason.
    let not_reviewed = refusals
        .chunks(refusals.len() / worlds)
        .filter(|world| !world.iter().flatten().any(|refusal| refusal.always))
        .flatten()
        .flatten()
        .find_map(|refusal| not_reviewed(refusal, abilities));
    match refusal {
        None if unread.is_empty() => Outcome::Yes,
        Some(mut refusal) if all && is_certain && not_reviewed.is_none() => {
            for Refusal { message, .. } in refusals.into_iter().flatten() {
                if message != refusal.message && !refusal.or.contains(&message) {
                    refusal.or.push(message);
                }
            }
            Outcome::No(refusal)
        }
        None => Outcome::Doubt {
            refusal: Refusal::new(Stage::Qemu, About::Domain, NOT_KNOWN, false),
            because: arguments(screens),
        },
        Some(refusal) => Outcome::Doubt {
            because: if let Some(why) = not_reviewed.filter(|_| all && is_certain) {
                why
            } else if unread.is_empty() {
                because(screens, abilities, unsure)
            } else {
                arguments(screens)
            },
            refusal,
        },
    }
}

/// The message of a refusal that is possible, but for an unknown reason.
const NOT_KNOWN: &str = "not known";

/// The reason for a doubt that depends only on QEMU's version.
pub(crate) const UNKNOWN_QEMU: &str = "QEMU's version is not known";

/// The reason for a doubt that depends only on libvirt's version.
pub(crate) const UNKNOWN_LIBVIRT: &str = "libvirt's version is not known";

fn arguments(screens: &Screens) -> String {
    format!(
        "the domain has arguments for QEMU about displays that gfxplane does not read ({})",
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
    if libvirt_checks::tls(abilities, screens).len() > 1 {
        reasons.push("spice_tls of qemu.conf is not known".into());
    }
    if libvirt_checks::daemon_denied(abilities, screens).len() > 1 {
        reasons.push(
            "AppArmor may keep libvirt from the dbus-daemon of a guest without a profile".into(),
        );
    }
    let x = qemu_checks::possible_x(screens, abilities);
    if x.contains(&X::EndsQemu) {
        reasons
            .push("SDL and spice both use OpenGL, and with Mesa's GLX Xlib then ends QEMU".into());
    }
    if x.contains(&X::Closed) {
        reasons.push("SDL may find no X server that it can open, and only some versions of SDL draw without one".into());
    }
    match &abilities.qemu {
        None => reasons.push(UNKNOWN_QEMU.into()),
        Some(version) if reasons.is_empty() => {
            reasons.push(format!("it is not known how QEMU {version} decides here"));
        }
        Some(_) => {}
    }
    if abilities.libvirt.is_none() {
        reasons.push(UNKNOWN_LIBVIRT.into());
    }
    reasons.join("; ")
}
