//! Switches the displays of hostdevs: off if a display can't work, on if graphics can show it.
//!
//! `place` is the index of a device in [`Screens::vgpus`].

use crate::device::facts::Display;
use crate::device::id::DeviceId;
use crate::domain::policy::{Displays, Unknown};
use crate::plan::arrangements;
use crate::plan::planner::{Planner, display_words, how_known};
use crate::plan::{Fix, Level, Note, Topic};
use crate::predict::screens::{Found, Screens};
use crate::predict::versions::PCI_DISPLAY;
use crate::predict::{About, Danger, Prediction, predict, qemu_messages};

impl Planner<'_, '_, '_> {
    /// Switches off each display of a device that has none and, with the policy `unknown = "off"`,
    /// each unknown display. Also removes xres and yres if QEMU would refuse them.
    pub(super) fn switch_off_what_cannot_work(&mut self) {
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.is_pci {
                continue;
            }
            let reason = match (&vgpu.known.finding.facts.display, self.policy.unknown) {
                _ if !vgpu.display => None,
                (Display::Known(interfaces), _) if interfaces.is_empty() => Some(format!(
                    "{} has no display{}: QEMU would refuse it with \"{}\"",
                    vgpu.id,
                    how_known(vgpu),
                    qemu_messages::NO_DISPLAY
                )),
                (Display::Unknown(why), Unknown::Off) => Some(format!(
                    "the display of {} is not known ({why}), and the policy says to switch such displays off",
                    vgpu.id
                )),
                _ => None,
            };
            if let Some(reason) = reason {
                self.set_display(place, false, reason);
            }
            self.drop_modes(place);
        }
    }

    /// Removes the device's properties xres and yres if QEMU would refuse them.
    pub(super) fn drop_modes(&mut self, place: usize) {
        for name in ["xres", "yres"] {
            let vgpu = &self.screens.vgpus[place];
            let reason = if vgpu.own(name).is_none() {
                continue;
            } else if !vgpu.display {
                "needs display='on'"
            } else if vgpu.found() == [Found::Region] || vgpu.has_edid() == Some(false) {
                "needs a display with an EDID region, and this device has none"
            } else {
                continue;
            };
            self.remove_property(place, name, format!("QEMU's {name} {reason}"));
        }
    }

    /// Switches off the display and the ramfb of every device.
    pub(super) fn switch_off_all(&mut self) {
        let reason = "--no-display asks for no display";
        for place in 0..self.screens.vgpus.len() {
            if self.screens.vgpus[place].ramfb {
                self.set_ramfb(place, false, reason);
            }
            if self.screens.vgpus[place].display {
                self.set_display(place, false, reason);
            }
        }
    }

    /// Switches on each display that exists and that the graphics can show. A display that was not
    /// measured stays off, with a note, unless the policy trusts rules. Does nothing with the
    /// policies `off` and `asked`, nor for a device whose display the user has set by `-set`.
    pub(super) fn switch_on_what_is_there(&mut self) {
        if self.policy.display < Displays::Auto {
            return;
        }
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let has_display = vgpu.known.finding.facts.display.preferred().is_some();
            // libvirt writes no -set of its own, so an off there is the user's wish.
            let is_wish = vgpu.set.contains_key("display");
            if vgpu.display || !vgpu.is_pci || !has_display || is_wish {
                continue;
            }
            let is_known = vgpu.known.is_measured() || self.policy.trust_rules;
            match (self.can_be_switched_on(place), is_known) {
                (false, _) => {}
                (true, true) => self.switch_on(place),
                (true, false) => self.leave_to_the_user(place),
            }
        }
    }

    /// Returns whether this libvirt has the attribute that switches a display on. If not, adds a
    /// note, unless the domain already has the attribute: [`super::remarks`] adds notes about the
    /// attributes that libvirt drops.
    fn can_be_switched_on(&mut self, place: usize) -> bool {
        let vgpu = &self.screens.vgpus[place];
        let id = vgpu.id;
        if self.has_attributes(id) {
            return true;
        }
        let hostdev = self.hostdev(vgpu);
        // For an attribute that libvirt drops, `remarks` adds a note.
        if hostdev.display.is_none() && hostdev.ramfb.is_none() {
            let text = format!(
                "it has a display ({}), which this libvirt can't switch on",
                display_words(vgpu)
            );
            let fix = format!("libvirt {} or later", PCI_DISPLAY.since());
            self.off(id, text, vec![Fix::Words(fix)]);
        }
        false
    }

    /// Adds a note that the device's display stays off because it was not measured.
    fn leave_to_the_user(&mut self, place: usize) {
        let vgpu = &self.screens.vgpus[place];
        let id = vgpu.id;
        let text = format!(
            "its display ({}) is off: {}",
            display_words(vgpu),
            self.without_it()
        );
        let (_, then) = self.with_display(place);
        let fix = if then.starts() && then.shows(id) {
            Fix::fixup("--trust-rules", "")
        } else {
            full(true)
        };
        self.off(id, text, vec![fix]);
    }

    /// Returns, in words, what a viewer sees of the guest while the display of its vGPU is off.
    fn without_it(&self) -> &'static str {
        let has_others = self.screens.vgpus.iter().any(|vgpu| vgpu.display);
        if self.screens.frontends.is_empty() {
            "the guest has no graphics, so nobody sees its screen on this host"
        } else if has_others {
            "a viewer sees the guest's other screens alone"
        } else if self.screens.cards.is_empty() {
            "the guest has no other screen, so a viewer sees nothing"
        } else {
            "a viewer sees the emulated card alone, which goes dark when the guest's driver takes the vGPU for its screen"
        }
    }

    fn off(&mut self, id: DeviceId, text: String, fixes: Vec<Fix>) -> &mut Note {
        self.note_on(Topic::Off, Level::Info, About::Device(id), text, fixes)
    }

    /// Returns the screens with the display at `place` switched on, and their prediction.
    pub(super) fn with_display(&self, place: usize) -> (Screens, Prediction) {
        let mut with = self.screens.clone();
        with.vgpus[place].set_display(true);
        let then = predict(&with, self.abilities);
        (with, then)
    }

    /// Switches a display on if the domain's graphics can show it, or can do so after changes that
    /// the policy allows. Otherwise, adds a note, but with a policy below `full` only if the domain
    /// starts.
    fn switch_on(&mut self, place: usize) {
        let id = self.screens.vgpus[place].id;
        let words = display_words(&self.screens.vgpus[place]);
        let (with, then) = self.with_display(place);
        let now = predict(&self.screens, self.abilities);
        let worse = |danger: &&Danger| !now.dangers.contains(*danger);
        let shown = then.shows(id);
        if then.starts() && shown && !then.dangers.iter().any(|danger| worse(&danger)) {
            let reason =
                format!("{id} has a display ({words}), and the domain's graphics can show it");
            self.set_display(place, true, reason);
            return;
        }
        if self.policy.display < Displays::Full {
            if !now.starts() {
                return;
            }
            let fault = then.dangers.iter().filter(worse).find_map(Danger::fault);
            let (why, fix) = if let Some((why, fix)) = fault.filter(|_| shown) {
                (why, Fix::Words(fix))
            } else {
                (
                    "the domain's graphics can't show it as they are".to_owned(),
                    full(self.policy.trust_rules),
                )
            };
            let text = format!("its display ({words}) is off: {why}");
            self.off(id, text, vec![fix]);
            return;
        }
        let mut wanted = self.wanted();
        wanted.push(id);
        match arrangements::best(&with, self.abilities, &wanted, true) {
            Some(arrangement) if arrangement.is_allowed(&self.policy.consent) => {
                let reason =
                    format!("{id} has a display ({words}), and the policy \"full\" asks for it");
                self.set_display(place, true, reason);
                self.make(arrangement);
            }
            Some(arrangement) => {
                let text = format!(
                    "it has a display ({words}); to show it, a way to see the screen would be lost"
                );
                let loss = arrangement.loss();
                let fix = loss.map(|loss| Fix::consent(&loss.to_string()));
                self.off(id, text, Vec::from_iter(fix)).consent = loss;
            }
            None => {
                let text = format!(
                    "it has a display ({words}), which no graphics of this host are known to show"
                );
                self.off(id, text, Vec::new());
            }
        }
    }

    /// Returns the devices whose screens must be shown: devices that are known to have a display,
    /// and whose display is on.
    pub(super) fn wanted(&self) -> Vec<DeviceId> {
        let vgpus = self.screens.vgpus.iter();
        vgpus
            .filter(|vgpu| vgpu.is_pci && vgpu.display)
            .filter(|vgpu| vgpu.known.finding.facts.display.preferred().is_some())
            .map(|vgpu| vgpu.id)
            .collect()
    }
}

/// Returns the `gfxplane fixup` command with the policy `full`, which may change the graphics.
fn full(trust_rules: bool) -> Fix {
    let trust = if trust_rules { " --trust-rules" } else { "" };
    Fix::fixup(
        format!("--policy full{trust}"),
        "it asks for --consent remote if remote viewers would lose the screen",
    )
}
