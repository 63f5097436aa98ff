//! The plan: what is changed in a domain so that it starts and its screens are seen, why, and what
//! is not changed and why not.
//!
//! A pure function of the domain, what is known of its devices, what the host's QEMU and libvirt
//! can do, and the policy. Whether a change helps is not decided here but asked of
//! [`crate::predict`]: of all ways to rearrange the domain's graphics, [`frontends`] takes the one
//! that certainly starts, shows every screen that was asked for, and costs the user least.

pub mod edits;
pub mod frontends;
mod settings;

use serde::Serialize;

use crate::abilities::Abilities;
use crate::domain::{Domain, GraphicsType, Hostdev};
use crate::facts::{Display, Reason};
use crate::names::DeviceId;
use crate::policy::{BootDisplay, Consent, Displays, EmulatedVideo, Policy, Unknown};
use crate::predict::{About, Danger, HeadOf, Outcome, Prediction, Program, predict};
use crate::screens::{Found, Screens, Vgpu};
use crate::version::Version;
use frontends::{Arrangement, Wanted};

/// The first QEMU that hands on the OpRegion unasked (see [`crate::predict::versions`]).
const OPREGION_BY_DEFAULT: &[u32] = &[10, 1];

/// QEMU's name for handing it on.
const OPREGION: &str = "x-igd-opregion";

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
        /// Its value.
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
        /// The path.
        file: String,
    },
    /// A `-set` is taken out of `qemu:commandline`.
    RemoveSetting {
        /// What follows `-set`.
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
    /// What happens if it is started as it is.
    pub before: Prediction,
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
}

/// Makes the plan for a domain with these screens.
#[must_use]
pub fn plan(
    domain: &Domain<'_, '_>,
    screens: &Screens,
    abilities: &Abilities,
    policy: &Policy,
) -> Plan {
    let before = predict(screens, abilities);
    let mut planner = Planner {
        domain,
        abilities,
        policy,
        screens: screens.clone(),
        changes: Vec::new(),
        notes: Vec::new(),
    };
    // Which of two is meant only their owner knows, and libvirt takes neither.
    let is_clear = !screens.vgpus.is_empty() && !screens.is_ambiguous();
    if is_clear && policy.display != Displays::Off {
        planner.carry_settings_over();
        // What is left of them is for the user; the rest is planned as if they were gone.
        let left = std::mem::take(&mut planner.screens.dead_settings);
        planner.switch_off_what_cannot_work();
        planner.opregion_that_is_not_there();
        planner.ramfb_that_cannot_work();
        planner.take_out_emulated_video();
        planner.arrange_frontends();
        planner.switch_on_what_is_there();
        planner.ramfb_for_boot();
        planner.opregion_for_windows();
        planner.render_nodes();
        planner.screens.dead_settings = left;
    }
    let mut after = predict(&planner.screens, abilities);
    // Nothing that works is taken away.
    if before.starts() && !after.starts() {
        planner.screens = screens.clone();
        planner.changes.clear();
        planner.notes.clear();
        after = before.clone();
    }
    planner.remarks(&after);
    Plan {
        before,
        changes: settled(planner.changes, screens),
        notes: planner.notes,
        after,
        screens: planner.screens,
    }
}

/// The changes without those that later ones undo: a setting that is carried over and then found
/// not to work was never made.
fn settled(changes: Vec<Change>, screens: &Screens) -> Vec<Change> {
    let same = |one: &Action, other: &Action| match (one, other) {
        (Action::Display { device: a, .. }, Action::Display { device: b, .. })
        | (Action::Ramfb { device: a, .. }, Action::Ramfb { device: b, .. }) => a == b,
        (
            Action::SetProperty {
                device: a, name: x, ..
            }
            | Action::RemoveProperty { device: a, name: x },
            Action::SetProperty {
                device: b, name: y, ..
            }
            | Action::RemoveProperty { device: b, name: y },
        ) => a == b && x == y,
        _ => false,
    };
    let as_it_was = |action: &Action| {
        let vgpu = |id: &DeviceId| screens.vgpus.iter().find(|vgpu| vgpu.id == *id);
        match action {
            Action::Display { device, on } => vgpu(device).is_some_and(|v| v.display == *on),
            Action::Ramfb { device, on } => vgpu(device).is_some_and(|v| v.ramfb == *on),
            Action::RemoveProperty { device, name } => {
                vgpu(device).is_some_and(|v| !v.properties.contains_key(name))
            }
            _ => false,
        }
    };
    let mut kept: Vec<Change> = Vec::new();
    for change in changes {
        kept.retain(|earlier| !same(&earlier.action, &change.action));
        if !as_it_was(&change.action) {
            kept.push(change);
        }
    }
    kept
}

struct Planner<'p, 'd, 'a> {
    domain: &'p Domain<'d, 'a>,
    abilities: &'p Abilities,
    policy: &'p Policy,
    screens: Screens,
    changes: Vec<Change>,
    notes: Vec<Note>,
}

impl<'p, 'd, 'a> Planner<'p, 'd, 'a> {
    fn hostdev(&self, vgpu: &Vgpu) -> &'p Hostdev<'d, 'a> {
        &self.domain.hostdevs[vgpu.place]
    }

    fn change(&mut self, action: Action, reason: impl Into<String>) {
        self.consented(action, reason, None);
    }

    fn consented(&mut self, action: Action, reason: impl Into<String>, consent: Option<Consent>) {
        self.changes.push(Change {
            action,
            reason: reason.into(),
            consent,
        });
    }

    fn note(&mut self, level: Level, about: About, text: impl Into<String>, cures: &[&str]) {
        self.note_on(Topic::Other, level, about, text, cures);
    }

    fn note_on(
        &mut self,
        topic: Topic,
        level: Level,
        about: About,
        text: impl Into<String>,
        cures: &[&str],
    ) {
        self.notes.push(Note {
            level,
            topic,
            about,
            text: text.into(),
            cures: cures.iter().map(|cure| (*cure).to_owned()).collect(),
            consent: None,
        });
    }

    fn set_display(&mut self, place: usize, on: bool, reason: impl Into<String>) {
        let vgpu = &mut self.screens.vgpus[place];
        vgpu.set_display(on);
        let device = vgpu.id;
        self.change(Action::Display { device, on }, reason);
    }

    fn set_ramfb(&mut self, place: usize, on: bool, reason: impl Into<String>) {
        let vgpu = &mut self.screens.vgpus[place];
        vgpu.ramfb = on;
        if let Some(value) = vgpu.properties.get_mut("ramfb") {
            *value = if on { "true" } else { "false" }.into();
        }
        let device = vgpu.id;
        self.change(Action::Ramfb { device, on }, reason);
    }

    fn remove_property(&mut self, place: usize, name: &str, reason: impl Into<String>) {
        let vgpu = &mut self.screens.vgpus[place];
        vgpu.properties.remove(name);
        let action = Action::RemoveProperty {
            device: vgpu.id,
            name: name.into(),
        };
        self.change(action, reason);
    }

    /// `display='on'` where there is no display, and what hangs on it.
    fn switch_off_what_cannot_work(&mut self) {
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.is_pci {
                continue;
            }
            if vgpu.display {
                let display = &vgpu.known.finding.facts.display;
                match (display, self.policy.unknown) {
                    (Display::Known(interfaces), _) if interfaces.is_empty() => {
                        let reason = format!(
                            "{} has no display{}: QEMU would refuse it with \"device doesn't support any (known) display method\"",
                            vgpu.id,
                            how_known(vgpu)
                        );
                        self.set_display(place, false, reason);
                    }
                    (Display::Unknown(why), Unknown::Off) => {
                        let reason = format!(
                            "the display of {} is not known ({why}), and the policy says to switch such displays off",
                            vgpu.id
                        );
                        self.set_display(place, false, reason);
                    }
                    _ => {}
                }
            }
            self.drop_modes(place);
        }
    }

    /// xres and yres where QEMU refuses them.
    fn drop_modes(&mut self, place: usize) {
        for name in ["xres", "yres"] {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.properties.contains_key(name) {
                continue;
            }
            let reason = if !vgpu.display {
                "needs display='on'"
            } else if vgpu.found() == [Found::Region] || vgpu.has_edid() == Some(false) {
                "needs a display with an EDID region, and this device has none"
            } else {
                continue;
            };
            self.remove_property(place, name, format!("QEMU's {name} {reason}"));
        }
    }

    /// What the policy `video = "none"` asks for.
    fn take_out_emulated_video(&mut self) {
        if self.policy.video != EmulatedVideo::None || self.screens.cards.is_empty() {
            return;
        }
        let shows = |vgpu: &Vgpu| vgpu.display && !vgpu.found().contains(&Found::Nothing);
        let Some(vgpu) = self.screens.vgpus.iter().find(|vgpu| shows(vgpu)) else {
            return;
        };
        let about = About::Device(vgpu.id);
        if !self.policy.consent.contains(&Consent::Video) {
            self.notes.push(Note {
                level: Level::Info,
                topic: Topic::Other,
                about,
                text: "the policy asks for the vGPU to be the only screen; the guest would lose its emulated video card".into(),
                cures: vec!["gfxplane fixup --consent video".into()],
                consent: Some(Consent::Video),
            });
            return;
        }
        let mut without = self.screens.clone();
        without.cards.clear();
        without.video_said = true;
        let wanted = self.wanted();
        let consent = &self.policy.consent;
        let helps = frontends::is_good(&predict(&without, self.abilities), &wanted)
            || frontends::best(&without, self.abilities, &wanted, consent, true)
                .is_some_and(|arrangement| arrangement.is_allowed(consent));
        if !helps {
            self.note(
                Level::Warn,
                about,
                "the policy asks for the vGPU to be the only screen; without the emulated card the domain would not start, or nobody would see that screen",
                &["gfxplane fixup --consent all"],
            );
            return;
        }
        let reason = format!(
            "the policy asks for {} to be the guest's only screen",
            vgpu.id
        );
        self.screens = without;
        self.consented(Action::VideoNone, reason, Some(Consent::Video));
    }

    /// Which screens have to be shown: those of devices that are switched on and known to have one.
    fn wanted(&self) -> Wanted {
        let devices = self
            .screens
            .vgpus
            .iter()
            .filter(|vgpu| vgpu.is_pci && vgpu.display)
            .filter(|vgpu| vgpu.known.finding.facts.display.preferred().is_some())
            .map(|vgpu| vgpu.id)
            .collect();
        Wanted { devices }
    }

    /// Graphics that can show what is switched on.
    fn arrange_frontends(&mut self) {
        let wanted = self.wanted();
        if !self.screens.vgpus.iter().any(|vgpu| vgpu.display) {
            return;
        }
        let now = predict(&self.screens, self.abilities);
        // What starts and shows everything without danger is left alone.
        if frontends::is_good(&now, &wanted) {
            return;
        }
        // For a device of which nothing is known, nothing is changed.
        if wanted.devices.is_empty() {
            self.refused(&now, None);
            return;
        }
        let best = |may_add| {
            let consent = &self.policy.consent;
            frontends::best(&self.screens, self.abilities, &wanted, consent, may_add)
        };
        // A domain that starts gets more graphics only if somebody said so.
        let may_add = !now.starts()
            || self.policy.display == Displays::Full
            || self.policy.consent.contains(&Consent::Remote);
        match best(may_add) {
            Some(arrangement) if arrangement.is_allowed(&self.policy.consent) => {
                self.make(arrangement);
            }
            found => {
                let found = found.or_else(|| best(true));
                self.refused(&now, found.as_ref());
            }
        }
    }

    fn make(&mut self, arrangement: Arrangement) {
        self.screens = arrangement.screens;
        self.changes.extend(arrangement.changes);
    }

    /// Says what would help but needs consent, or that nothing is known to help.
    fn refused(&mut self, now: &Prediction, found: Option<&Arrangement>) {
        let mut cures = Vec::new();
        let mut consent = None;
        if let Some(arrangement) = found {
            consent = arrangement.loses().into_iter().next();
            let what: Vec<String> = arrangement
                .changes
                .iter()
                .map(|change| words(&change.action))
                .collect();
            let words: Vec<String> = arrangement
                .loses()
                .iter()
                .map(ToString::to_string)
                .collect();
            let option = if words.is_empty() {
                "--policy full".to_owned()
            } else {
                format!("--consent {}", words.join(","))
            };
            cures.push(format!(
                "gfxplane fixup {option}: {}; the screen is then seen on this host only",
                what.join(", ")
            ));
        }
        let (level, about, text) = match &now.outcome {
            Outcome::No(refusal) => {
                let text = format!(
                    "{} will refuse to start the domain: \"{}\"{}",
                    refusal.by.word(),
                    refusal.message,
                    self.explained(refusal.about)
                );
                (Level::Fail, refusal.about, text)
            }
            Outcome::Doubt { refusal, because } => {
                let text = format!(
                    "{} may refuse to start the domain (\"{}\"): {because}",
                    refusal.by.word(),
                    refusal.message
                );
                (Level::Warn, refusal.about, text)
            }
            // It starts, and what is wrong with it is said at the end.
            Outcome::Yes if found.is_none() => return,
            Outcome::Yes => {
                let about = self.wanted().devices.first().copied();
                let about = about.map_or(About::Domain, About::Device);
                (
                    Level::Warn,
                    about,
                    "the domain starts, but not every screen can be seen safely".into(),
                )
            }
        };
        if !matches!(now.outcome, Outcome::Yes) {
            cures.push("display='off' on the hostdev: no screen from the device".into());
        }
        let topic = match now.outcome {
            Outcome::Yes => Topic::Seen,
            _ => Topic::Start,
        };
        self.notes.push(Note {
            level,
            topic,
            about,
            text,
            cures,
            consent,
        });
    }

    /// Why QEMU's words are so, for a device.
    fn explained(&self, about: About) -> String {
        let About::Device(id) = about else {
            return String::new();
        };
        let Some(vgpu) = self.screens.vgpus.iter().find(|vgpu| vgpu.id == id) else {
            return String::new();
        };
        if vgpu.known.finding.facts.display == Display::Unknown(Reason::Untrusted) {
            format!(
                "; the driver of {id} says yes to every question, so QEMU takes its screen for a dmabuf, and what it really is nobody knows"
            )
        } else if vgpu.found() == [Found::Dmabuf] {
            format!(
                "; it hands over its screen as a dmabuf{}, for which the graphics must have OpenGL",
                how_known(vgpu)
            )
        } else {
            String::new()
        }
    }

    /// Displays that were measured and are off.
    fn switch_on_what_is_there(&mut self) {
        if self.policy.display < Displays::Auto {
            return;
        }
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let has_display = vgpu.known.finding.facts.display.preferred().is_some();
            if vgpu.display || !vgpu.is_pci || !vgpu.known.is_measured() || !has_display {
                continue;
            }
            let mut with = self.screens.clone();
            with.vgpus[place].set_display(true);
            let id = vgpu.id;
            let words = vgpu.known.finding.facts.display.words().join(" and ");
            let now = predict(&self.screens, self.abilities);
            let then = predict(&with, self.abilities);
            let mut wanted = self.wanted();
            wanted.devices.push(id);
            let worse = |d: &&Danger| !now.dangers.contains(*d);
            let shown = then.head(id).is_some_and(|head| !head.shown_by.is_empty());
            if then.starts() && shown && !then.dangers.iter().any(|d| worse(&d)) {
                let reason = format!(
                    "{id} has a display ({words}, measured), and the domain's graphics can show it"
                );
                self.set_display(place, true, reason);
                continue;
            }
            if self.policy.display < Displays::Full {
                if !now.starts() {
                    continue;
                }
                self.note(
                    Level::Info,
                    About::Device(id),
                    format!(
                        "it has a display ({words}, measured), which is off: the domain's graphics can't show it as they are"
                    ),
                    &["gfxplane fixup --policy full, with --consent remote where a way to see the screen is lost"],
                );
                continue;
            }
            let best = frontends::best(&with, self.abilities, &wanted, &self.policy.consent, true);
            match best {
                Some(arrangement) if arrangement.is_allowed(&self.policy.consent) => {
                    let reason =
                        format!("{id} has a display ({words}, measured), and the policy is full");
                    self.set_display(place, true, reason);
                    self.make(arrangement);
                }
                Some(arrangement) => {
                    let lost: Vec<String> =
                        arrangement.loses().iter().map(ToString::to_string).collect();
                    self.notes.push(Note {
                        level: Level::Info,
                        topic: Topic::Other,
                        about: About::Device(id),
                        text: format!("it has a display ({words}, measured); to show it, a way to see the screen would be lost"),
                        cures: vec![format!("gfxplane fixup --consent {}", lost.join(","))],
                        consent: arrangement.loses().into_iter().next(),
                    });
                }
                None => self.note(
                    Level::Info,
                    About::Device(id),
                    format!("it has a display ({words}, measured), which no graphics of this host are known to show"),
                    &[],
                ),
            }
        }
    }

    /// At most one ramfb, with a display that is on, not beside a ramfb video.
    fn ramfb_that_cannot_work(&mut self) {
        let mut taken = self.has_ramfb_video();
        let video = taken;
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.ramfb || !vgpu.is_pci {
                continue;
            }
            if !vgpu.display {
                self.set_ramfb(
                    place,
                    false,
                    "ramfb needs display='on': QEMU refuses \"ramfb=on requires display=on\"",
                );
            } else if taken {
                let reason = if video {
                    "the domain has a video card of model ramfb, and a guest can have one ramfb only"
                } else {
                    "another device has ramfb, and a guest can have one only"
                };
                self.set_ramfb(place, false, reason);
            } else {
                taken = true;
            }
        }
    }

    fn has_ramfb_video(&self) -> bool {
        let is_ramfb = |card: &crate::screens::Card| card.model.as_deref() == Some("ramfb");
        self.screens.cards.iter().any(is_ramfb)
    }

    /// What the policy `boot_display = "ramfb"` asks for.
    fn ramfb_for_boot(&mut self) {
        let only = self.screens.cards.is_empty();
        let taken = self.screens.vgpus.iter().any(|vgpu| vgpu.ramfb);
        if self.policy.boot_display == BootDisplay::Ramfb && only && !taken {
            let shows = |vgpu: &Vgpu| vgpu.display && vgpu.is_pci;
            if let Some(place) = self.screens.vgpus.iter().position(shows) {
                self.set_ramfb(place, true, "the vGPU is the guest's only screen: ramfb shows firmware and boot until the guest's driver takes over");
            }
        }
    }

    /// Whether QEMU hands on the OpRegion unasked; `None` if its version is not known.
    fn opregion_by_default(&self) -> Option<bool> {
        let qemu = self.abilities.qemu.as_ref()?;
        Some(*qemu >= Version::of(OPREGION_BY_DEFAULT))
    }

    fn opregion_that_is_not_there(&mut self) {
        if self.opregion_by_default() == Some(true) {
            return;
        }
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if vgpu.has_opregion() == Some(false) && vgpu.switch(OPREGION) == Some(true) {
                let reason = format!(
                    "{} has no OpRegion: QEMU before 10.1 refuses it with \"Device does not supports IGD OpRegion feature\"",
                    vgpu.id
                );
                self.remove_property(place, OPREGION, reason);
            }
        }
    }

    fn opregion_for_windows(&mut self) {
        if !self.policy.is_windows(self.domain) {
            return;
        }
        let by_default = self.opregion_by_default();
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &mut self.screens.vgpus[place];
            let is_set = vgpu.properties.contains_key(OPREGION);
            if vgpu.has_opregion() != Some(true) || is_set || !vgpu.is_pci {
                continue;
            }
            let device = vgpu.id;
            match by_default {
                Some(true) => {}
                Some(false) => {
                    let (name, value) = (OPREGION.to_owned(), "true".to_owned());
                    vgpu.properties.insert(name.clone(), value.clone());
                    let action = Action::SetProperty {
                        device,
                        name,
                        value,
                    };
                    self.change(action, "the guest is Windows, whose driver wants the OpRegion, and QEMU before 10.1 hands it on only when told");
                }
                None => self.note(
                    Level::Warn,
                    About::Device(device),
                    "the guest is Windows, whose driver wants the OpRegion; whether QEMU must be told is not known, as its version is not",
                    &["name the version with --qemu"],
                ),
            }
        }
    }

    /// The render node of the device's own GPU, where none is chosen: libvirt would take the
    /// first it finds (src/qemu/qemu_process.c, `qemuProcessGraphicsSetupRenderNode`).
    fn render_nodes(&mut self) {
        let dmabuf: Vec<(DeviceId, String)> = self
            .screens
            .vgpus
            .iter()
            .filter(|vgpu| vgpu.display && vgpu.is_pci && vgpu.found() == [Found::Dmabuf])
            .filter_map(|vgpu| Some((vgpu.id, vgpu.known.render_node.clone()?)))
            .collect();
        let Some((id, node)) = dmabuf.first() else {
            return;
        };
        for (other, elsewhere) in &dmabuf[1..] {
            if elsewhere != node {
                self.note(
                    Level::Warn,
                    About::Device(*other),
                    format!("its GPU renders at {elsewhere}, that of {id} at {node}; graphics have one render node, and whether it can take the other's buffers is the driver's affair"),
                    &["put the two devices on one GPU"],
                );
            }
        }
        for place in 0..self.screens.frontends.len() {
            let frontend = &mut self.screens.frontends[place];
            let can = matches!(
                frontend.kind,
                GraphicsType::Spice | GraphicsType::Dbus | GraphicsType::EglHeadless
            );
            if !can || !frontend.gl || frontend.rendernode.is_some() {
                continue;
            }
            frontend.rendernode = Some(node.clone());
            let action = Action::RenderNode {
                graphics: frontend.kind,
                rendernode: node.clone(),
            };
            self.change(action, format!("it is the render node of the GPU behind {id}: without one, libvirt takes the first it finds"));
        }
    }

    /// What is left to say of the result.
    fn remarks(&mut self, after: &Prediction) {
        if self.screens.vgpus.is_empty() {
            return;
        }
        let said = |notes: &[Note]| notes.iter().any(|note| note.level == Level::Fail);
        match &after.outcome {
            Outcome::No(refusal)
                if !said(&self.notes) || !self.screens.dead_settings.is_empty() =>
            {
                let mut cures = Vec::new();
                if refusal.by == Program::Qemu && !self.screens.dead_settings.is_empty() {
                    cures.push("take the -set out of qemu:commandline: QEMU does not find devices that libvirt describes as JSON; qemu:override can set properties of theirs");
                }
                let text = format!(
                    "{} will refuse to start the domain: \"{}\"",
                    refusal.by.word(),
                    refusal.message
                );
                self.note_on(Topic::Start, Level::Fail, refusal.about, text, &cures);
            }
            Outcome::Doubt { refusal, because }
                if !self.notes.iter().any(|n| n.level >= Level::Warn) =>
            {
                let text = format!(
                    "{} may refuse to start the domain (\"{}\"): {because}",
                    refusal.by.word(),
                    refusal.message
                );
                self.note_on(Topic::Start, Level::Warn, refusal.about, text, &[]);
            }
            _ => {}
        }
        let pci_is_old = self
            .abilities
            .libvirt
            .as_ref()
            .is_some_and(|libvirt| *libvirt < Version::of(&[10, 3]));
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let hostdev = self.hostdev(vgpu);
            let asks = hostdev.display.is_some() || hostdev.ramfb.is_some();
            if matches!(vgpu.id, DeviceId::Pci(_)) && asks && pci_is_old {
                self.note(
                    Level::Warn,
                    About::Device(vgpu.id),
                    "this libvirt drops display and ramfb of PCI hostdevs without a word",
                    &["libvirt 10.3 or later"],
                );
            }
        }
        if !after.starts() {
            return;
        }
        let ends: Vec<&HeadOf> = after
            .dangers
            .iter()
            .filter_map(|danger| match danger {
                Danger::ViewerEndsGuest { screen } => Some(screen),
                Danger::RegionFault { .. } => None,
            })
            .collect();
        if let Some(last) = ends.last() {
            let screens: Vec<String> = ends.iter().map(ToString::to_string).collect();
            let text = format!(
                "whoever chooses the screen of {} in a VNC viewer (Ctrl-Alt-1, Ctrl-Alt-2) ends the guest: QEMU exits with \"The console requires display DMABUF support.\" or the like",
                screens.join(" or ")
            );
            let cure = "spice with gl that listens on a socket or nowhere, and no VNC";
            self.note(Level::Warn, about(last), text, &[cure]);
        }
        for danger in &after.dangers {
            if let Danger::RegionFault { screen } = danger {
                self.note(
                    Level::Warn,
                    about(screen),
                    "QEMU 10.1.0 to 10.1.2 may crash when it draws this device's screen",
                    &["QEMU 10.1.3 or later"],
                );
            }
        }
        for head in &after.heads {
            if head.shown_by.is_empty() && matches!(head.of, HeadOf::Device(_)) {
                self.note_on(
                    Topic::Seen,
                    Level::Warn,
                    about(&head.of),
                    "nothing shows its screen: the domain starts, but nobody sees it",
                    &["spice with gl that listens on a socket or nowhere"],
                );
            }
        }
        let ramfb = self.screens.vgpus.iter().any(|vgpu| vgpu.ramfb);
        if self.screens.cards.is_empty()
            && !ramfb
            && let Some(Some(head)) = after.heads.first().map(|head| match head.of {
                HeadOf::Device(id) => Some(id),
                HeadOf::Card(_) => None,
            })
        {
            self.note(
                Level::Info,
                About::Device(head),
                "it is the guest's only screen and stays dark until the guest's driver sets a mode",
                &["ramfb='on' shows firmware and boot (boot_display = \"ramfb\" in the policy)"],
            );
        }
    }
}

fn about(head: &HeadOf) -> About {
    match head {
        HeadOf::Device(id) => About::Device(*id),
        HeadOf::Card(_) => About::Domain,
    }
}

/// ` (by a rule, not measured)`, or nothing for a measurement.
fn how_known(vgpu: &Vgpu) -> String {
    match &vgpu.known.finding.evidence {
        Some(evidence) if !evidence.method.is_measured() => {
            format!(" (known by {}, not measured)", evidence.method.word())
        }
        _ => String::new(),
    }
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
        } => format!("{name}={value} for {device}"),
        Action::RemoveProperty { device, name } => format!("{name} removed from {device}"),
        Action::Rom { device, file } => format!("rom file {file} for {device}"),
        Action::RemoveSetting { setting } => format!("-set {setting} removed"),
    }
}
