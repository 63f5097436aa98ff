//! Switches the displays of hostdevs: off where a display can't work, on where one can be shown.

use crate::device::facts::Display;
use crate::domain::policy::{Displays, Unknown};
use crate::plan::frontends::{self, Wanted};
use crate::plan::planner::{Planner, how_known};
use crate::plan::{Fix, Level, Note, Topic};
use crate::predict::screens::Found;
use crate::predict::versions::{Libvirt, PCI_DISPLAY};
use crate::predict::{About, Danger, predict, words};

impl Planner<'_, '_, '_> {
    /// Switches off each display that can't work, and removes the properties that depend on it.
    pub(super) fn switch_off_what_cannot_work(&mut self) {
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
                            "{} has no display{}: QEMU would refuse it with \"{}\"",
                            vgpu.id,
                            how_known(vgpu),
                            words::NO_DISPLAY
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

    /// Removes xres and yres where QEMU refuses them.
    pub(super) fn drop_modes(&mut self, place: usize) {
        for name in ["xres", "yres"] {
            let vgpu = &self.screens.vgpus[place];
            let is_said = vgpu.set.contains_key(name) || vgpu.properties.contains_key(name);
            if !is_said {
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

    /// Switches on each display that was measured and that something can show.
    pub(super) fn switch_on_what_is_there(&mut self) {
        if self.policy.display < Displays::Auto {
            return;
        }
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let has_display = vgpu.known.finding.facts.display.preferred().is_some();
            // libvirt writes no -set of its own, so an off there is the user's wish.
            let is_wish = vgpu.set.contains_key("display");
            if vgpu.display || !vgpu.is_pci || !vgpu.known.is_measured() || !has_display || is_wish
            {
                continue;
            }
            let mut with = self.screens.clone();
            with.vgpus[place].set_display(true);
            let id = vgpu.id;
            let words = vgpu.known.finding.facts.display.words().join(" and ");
            let takes = |libvirt: &Libvirt| libvirt.takes_display(id);
            if !Libvirt::possible(self.abilities).iter().any(takes) {
                let hostdev = self.hostdev(vgpu);
                // The remarks at the end name the attributes that libvirt drops.
                if hostdev.display.is_none() && hostdev.ramfb.is_none() {
                    self.note(
                        Level::Info,
                        About::Device(id),
                        format!(
                            "it has a display ({words}, measured), which this libvirt can't switch on"
                        ),
                        &[&format!("libvirt {} or later", PCI_DISPLAY.since())],
                    );
                }
                continue;
            }
            let now = predict(&self.screens, self.abilities);
            let then = predict(&with, self.abilities);
            let mut wanted = self.wanted();
            wanted.devices.push(id);
            let worse = |danger: &&Danger| !now.dangers.contains(*danger);
            let shown = then.head(id).is_some_and(|head| !head.shown_by.is_empty());
            if then.starts() && shown && !then.dangers.iter().any(|danger| worse(&danger)) {
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
                let fault = then.dangers.iter().filter(worse).find_map(Danger::fault);
                let (why, fix) = if let Some(fault) = fault.filter(|_| shown) {
                    fault
                } else {
                    (
                        "the domain's graphics can't show it as they are".to_owned(),
                        "gfxplane fixup --policy full, with --consent remote where a way to see the screen is lost".to_owned(),
                    )
                };
                self.note(
                    Level::Info,
                    About::Device(id),
                    format!("it has a display ({words}, measured), which is off: {why}"),
                    &[&fix],
                );
                continue;
            }
            let best = frontends::best(&with, self.abilities, &wanted, true);
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
                        fixes: vec![Fix::consent(&lost.join(","))],
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

    /// Returns the screens that must be shown: those of devices that are switched on and are known
    /// to have a display.
    pub(super) fn wanted(&self) -> Wanted {
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
}
