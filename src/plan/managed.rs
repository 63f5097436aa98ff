//! Makes the plan for a guest whose graphics belong to another manager: KubeVirt's console is VNC
//! on a socket, and oVirt's engine and its clients agree on the graphics. The plan leaves the
//! graphics alone. It makes each device's display work with them, or switches the display off.

use std::collections::HashSet;

use crate::device::facts::{Display, DisplayInterface, Reason};
use crate::device::id::DeviceId;
use crate::domain::policy::{Policy, Unknown};
use crate::domain::{Domain, Hostdev, Video};
use crate::plan::planner::{Planner, how_known};
use crate::plan::{Action, Change, Level, Plan};
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Card, Screens, Vgpu};
use crate::predict::versions::PCI_DISPLAY;
use crate::predict::{About, Danger, Outcome, Prediction, Refusal, predict};

/// The name of oVirt, whose engine sets ramfb only on the first display, and gives a guest with a
/// display no video card (ovirt-engine LibvirtVmXmlBuilder, `writeVGpu` and `writeVideo`).
const OVIRT: &str = "oVirt";

/// Makes the plan for a domain whose graphics stay as they are. `policy` is the policy for this
/// domain ([`Policy::for_domain`]). `is_wanted` returns whether the manager wants a device's
/// display to be on if it works.
///
/// The plan switches a display off if QEMU or libvirt would refuse it, or if nothing in the domain
/// shows it, but none if the domain would be refused even without displays. It switches a wanted
/// display on if the display is known and the graphics can show it; evidence by a rule is enough,
/// because the manager has decided. An unknown display stays as it is, unless the policy has
/// `unknown = "off"`.
pub fn plan_managed(
    domain: &Domain<'_, '_>,
    screens: &Screens,
    abilities: &Abilities,
    policy: &Policy,
    is_wanted: &dyn Fn(&Hostdev<'_, '_>) -> bool,
) -> Plan {
    let planner = Planner::new(domain, screens, abilities, policy);
    let steps = |planner: &mut Planner<'_, '_, '_>| {
        // We fix only displays and ramfb, so the plan is made as if the dead settings were gone.
        let left = std::mem::take(&mut planner.screens.dead_settings);
        planner.switch_off_what_is_not_shown();
        planner.ramfb_that_cannot_work();
        planner.switch_on_what_is_wanted(is_wanted);
        if domain.manager == Some(OVIRT) {
            planner.ramfb_of_another_head();
            planner.card_of_a_dark_guest();
        }
        planner.screens.dead_settings = left;
    };
    planner.finish(steps, Planner::remarks_to_a_manager)
}

impl Planner<'_, '_, '_> {
    fn switch_off_what_is_not_shown(&mut self) {
        // If the domain is refused even without displays, the refusal says nothing about them.
        let mut dark = self.screens.clone();
        dark.vgpus.iter_mut().for_each(darken);
        let without = predict(&dark, self.abilities);
        // An old libvirt drops these attributes of PCI devices. If libvirt's version is not known,
        // PCI devices are judged as under the first version that keeps them.
        let mut reading = self.abilities.clone();
        reading.libvirt.get_or_insert_with(|| PCI_DISPLAY.since());
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.is_pci {
                continue;
            }
            if vgpu.display && without.refusal().is_none() {
                let mut lit = dark.clone();
                lit.vgpus[place].set_display(true);
                let abilities = match vgpu.id {
                    DeviceId::Mdev(_) => self.abilities,
                    DeviceId::Pci(_) => &reading,
                };
                let with = predict(&lit, abilities);
                if let Some(reason) = self.why_off(vgpu, &with) {
                    self.set_display(place, false, reason);
                }
            }
            self.drop_modes(place);
        }
    }

    /// Returns the reason for switching a device's display off; `None` if the display may stay on.
    /// `with` is the prediction in which only this display is on.
    fn why_off(&self, vgpu: &Vgpu, with: &Prediction) -> Option<String> {
        let id = vgpu.id;
        let display = &vgpu.known.finding.facts.display;
        match &with.outcome {
            Outcome::No(refusal) => Some(self.why_refused(vgpu, refusal)),
            Outcome::Yes if display.preferred().is_some() => {
                let is_shown = with.head(id).is_none_or(|head| !head.shown_by.is_empty());
                let kind = display.words().join(" and ");
                let how = how_known(vgpu);
                (!is_shown).then(|| {
                    format!(
                        "its display is a {kind}{how}, and {} can't show it",
                        self.graphics_words()
                    )
                })
            }
            _ => match (display, self.policy.unknown) {
                (Display::Unknown(why), Unknown::Off) => Some(format!(
                    "its display is not known ({why}), and the policy says to switch such displays off"
                )),
                _ => None,
            },
        }
    }

    fn why_refused(&self, vgpu: &Vgpu, refusal: &Refusal) -> String {
        let how = how_known(vgpu);
        let graphics = self.graphics_words();
        let what = match &vgpu.known.finding.facts.display {
            Display::Known(interfaces) => match interfaces.first() {
                None => format!("it has no display{how}"),
                Some(DisplayInterface::Dmabuf) => format!(
                    "its display is a dmabuf{how}, which needs OpenGL, and {graphics} can't show it"
                ),
                Some(DisplayInterface::Region) => {
                    format!("its display is a region{how}, and {graphics} can't show it")
                }
            },
            Display::Unknown(Reason::Untrusted) => format!(
                "its driver says yes to every question, so that QEMU takes its display for a dmabuf, and {graphics} can't show that"
            ),
            Display::Unknown(why) => format!(
                "its display is not known ({why}), and {graphics} can't show any that it may have"
            ),
        };
        format!(
            "{what}: {} would refuse to start with \"{}\"",
            refusal.by().word(),
            refusal.message
        )
    }

    /// Returns the domain's graphics in words.
    fn graphics_words(&self) -> String {
        let words: Vec<String> = self
            .screens
            .frontends
            .iter()
            .map(|frontend| {
                let gl = if frontend.gl { " with gl" } else { "" };
                format!("{}{gl}", frontend.kind)
            })
            .collect();
        if words.is_empty() {
            "a guest without graphics".into()
        } else {
            format!("the guest's graphics ({})", words.join(", "))
        }
    }

    fn switch_on_what_is_wanted(&mut self, is_wanted: &dyn Fn(&Hostdev<'_, '_>) -> bool) {
        // If a change of this plan switches a display off, it already gives the reason.
        let changes = self.changes.iter();
        let said: HashSet<DeviceId> = changes
            .filter_map(|change| match change.action {
                Action::Display { device, .. } => Some(device),
                _ => None,
            })
            .collect();
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if vgpu.display || !vgpu.is_pci || !is_wanted(self.hostdev(vgpu)) {
                continue;
            }
            let id = vgpu.id;
            if said.contains(&id) {
                continue;
            }
            let how = how_known(vgpu);
            let display = &vgpu.known.finding.facts.display;
            let words = format!("{}{how}", display.words().join(" and "));
            let why_not = match display {
                Display::Unknown(why) => {
                    format!("its display is wanted, but not known ({why}): it stays off")
                }
                Display::Known(interfaces) if interfaces.is_empty() => {
                    format!("a display of it is wanted, but it has none{how}")
                }
                Display::Known(_) => String::new(),
            };
            if !why_not.is_empty() {
                self.note(Level::Info, About::Device(id), why_not, &[]);
                continue;
            }
            let (_, then) = self.with_display(place);
            let now = predict(&self.screens, self.abilities);
            let is_worse = |danger: &Danger| !now.dangers.contains(danger);
            if then.starts() && then.shows(id) && !then.dangers.iter().any(is_worse) {
                let reason = format!(
                    "it has a display ({words}) that is wanted, and {} can show it",
                    self.graphics_words()
                );
                self.set_display(place, true, reason);
            } else {
                let text = format!(
                    "its display ({words}) is wanted, and {} can't show it: it stays off",
                    self.graphics_words()
                );
                self.note(Level::Info, About::Device(id), text, &[]);
            }
        }
    }

    /// Gives ramfb to the first device whose display stays on, if this plan takes ramfb from a
    /// device. Does nothing if a device or a video card still has ramfb, or if the machine's fw_cfg
    /// has no DMA, which ramfb needs.
    fn ramfb_of_another_head(&mut self) {
        let off = |change: &Change| matches!(change.action, Action::Ramfb { on: false, .. });
        let vgpus = &self.screens.vgpus;
        let has_one = self.has_ramfb_video() || vgpus.iter().any(|vgpu| vgpu.ramfb);
        if has_one || !self.changes.iter().any(off) || !self.screens.has_fw_cfg_dma {
            return;
        }
        if let Some(place) = vgpus.iter().position(|vgpu| vgpu.display && vgpu.is_pci) {
            let reason = "it is the first display that stays: ramfb shows firmware and boot";
            self.set_ramfb(place, true, reason);
        }
    }

    /// Gives the guest an emulated card in place of `<model type='none'/>`, if the guest has no
    /// other screen left because this plan has switched displays off.
    fn card_of_a_dark_guest(&mut self) {
        let off = |change: &Change| matches!(change.action, Action::Display { on: false, .. });
        let none = |video: &Video<'_, '_>| video.model.as_deref() == Some("none");
        let Some(place) = self.domain.videos.iter().position(none) else {
            return;
        };
        let is_dark = self.is_dark(&predict(&self.screens, self.abilities));
        if !is_dark || !self.changes.iter().any(off) {
            return;
        }
        self.screens.none_cards -= 1;
        self.screens.cards.push(Card {
            place: Some(place),
            model: Some("vga".into()),
            settings: self.domain.videos[place].settings.clone(),
            ..Card::default()
        });
        self.change(
            Action::VideoVga,
            "the guest would have no screen at all without its vGPU's display",
        );
    }

    /// Adds the notes about the result that the manager's log needs.
    fn remarks_to_a_manager(&mut self, after: &Prediction) {
        self.note_each(&|_, vgpu| {
            let why = vgpu.known.finding.facts.display.reason()?;
            let text = format!("its display is not known ({why}): it stays on");
            let fix = "a rule for its type, as gfxplane rules --export writes them where such a device was asked";
            (vgpu.display && vgpu.is_pci).then(|| (Level::Warn, text, fix.into()))
        });
        self.no_screen(after);
        self.how_it_ends(after);
    }
}

/// Switches off a device's display and ramfb, and removes xres and yres.
fn darken(vgpu: &mut Vgpu) {
    vgpu.set_display(false);
    vgpu.set_ramfb(false);
    for name in ["xres", "yres"] {
        vgpu.set.remove(name);
        vgpu.properties.remove(name);
    }
}
