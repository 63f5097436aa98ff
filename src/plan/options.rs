//! Plans the options that go with a display: ramfb for firmware and boot, and the OpRegion for a
//! guest's driver.

use crate::device::id::DeviceId;
use crate::domain::policy::BootDisplay;
use crate::plan::Level;
use crate::plan::planner::{Planner, how_known};
use crate::predict::properties;
use crate::predict::screens::{Card, Vgpu};
use crate::predict::versions::{OPREGION_BY_DEFAULT, OVERRIDE, Qemu, reads_override};
use crate::predict::{About, qemu_messages};

/// QEMU's property that passes the OpRegion to the guest.
const OPREGION: &str = "x-igd-opregion";

impl Planner<'_, '_, '_> {
    /// Corrects each ramfb that the user has set by a QEMU property and that QEMU refuses, because
    /// libvirt has chosen QEMU's driver without ramfb, or because the property has a wrong type.
    /// Sets libvirt's attribute `ramfb` or, if libvirt has none for the device, chooses QEMU's
    /// driver with ramfb. Ignores a ramfb for all devices at once (`-global`).
    pub(super) fn ramfb_of_another_driver(&mut self) {
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let takes_ramfb = self.has_attributes(vgpu.id);
            let reason = if vgpu.lacks_ramfb(takes_ramfb) {
                format!(
                    "QEMU refuses the property with \"{}\", because libvirt chooses the driver with ramfb only by the attribute ramfb",
                    qemu_messages::RAMFB_NOT_FOUND
                )
            } else if let Some(words) = vgpu.mistyped.get("ramfb") {
                format!(
                    "QEMU refuses the property with \"{words}\", and the attribute says the same"
                )
            } else {
                continue;
            };
            let is_global = !vgpu.ramfb_asked && vgpu.own("ramfb").is_none();
            if !vgpu.is_pci || is_global {
                continue;
            }
            let on = vgpu.ramfb;
            if on && !takes_ramfb {
                // This libvirt has no such attribute for the device.
                self.set_property(place, "driver", "vfio-pci-nohotplug", reason);
                continue;
            }
            if on {
                self.remove_property(place, "driver", reason.clone());
            }
            self.set_ramfb(place, on, reason);
        }
    }

    /// Corrects the types of properties in `qemu:override`, except ramfb, that QEMU refuses only
    /// for their type.
    pub(super) fn properties_of_wrong_types(&mut self) {
        for place in 0..self.screens.vgpus.len() {
            for (name, words) in self.screens.vgpus[place].mistyped.clone() {
                let vgpu = &mut self.screens.vgpus[place];
                let said = vgpu.properties.get(&name).cloned().unwrap_or_default();
                let reason = format!("QEMU refuses the property's type with \"{words}\"");
                let value = match name.as_str() {
                    "display" if vgpu.display => "on".to_owned(),
                    "display" => "off".to_owned(),
                    _ => properties::overriding(&name, &said),
                };
                let is_good =
                    properties::mistake(&name, properties::kind(&name, &value), &value).is_none();
                // ramfb is set by libvirt's attribute.
                if is_good && vgpu.is_pci && name != "ramfb" {
                    vgpu.mistyped.remove(&name);
                    self.set_property(place, &name, value, reason);
                }
            }
        }
    }

    /// Switches off each ramfb that QEMU would refuse: ramfb needs a display that is on, and a
    /// fw_cfg with DMA. A guest can have only one ramfb, of a device or of a video card.
    pub(super) fn ramfb_that_cannot_work(&mut self) {
        let video = self.has_ramfb_video();
        let mut taken = false;
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if !vgpu.ramfb || !vgpu.is_pci {
                continue;
            }
            let reason = if !vgpu.display {
                let words = qemu_messages::RAMFB_NEEDS_DISPLAY;
                format!("ramfb needs display='on': QEMU refuses \"{words}\"")
            } else if !self.screens.has_fw_cfg_dma {
                let words = qemu_messages::RAMFB_NEEDS_FW_CFG;
                format!("the guest's machine can't have ramfb: QEMU refuses it with \"{words}\"")
            } else if video {
                "the domain has a video card of model ramfb, and a guest can have one ramfb only"
                    .into()
            } else if std::mem::replace(&mut taken, true) {
                "another device has ramfb, and a guest can have one only".into()
            } else {
                continue;
            };
            self.set_ramfb(place, false, reason);
        }
    }

    pub(super) fn has_ramfb_video(&self) -> bool {
        let is_ramfb = |card: &Card| card.model.as_deref() == Some("ramfb");
        self.screens.cards.iter().any(is_ramfb)
    }

    /// Switches ramfb on for the first display if the policy has `boot_display = "ramfb"`, and the
    /// guest has neither a video card nor ramfb, but can have ramfb.
    pub(super) fn ramfb_for_boot(&mut self) {
        let only = self.screens.cards.is_empty();
        let taken = self.screens.vgpus.iter().any(|vgpu| vgpu.ramfb);
        let can = self.screens.has_fw_cfg_dma && !taken;
        if self.policy.boot_display == BootDisplay::Ramfb && only && can {
            let takes = |vgpu: &Vgpu| self.has_attributes(vgpu.id);
            let shows = |vgpu: &Vgpu| vgpu.display && vgpu.is_pci && takes(vgpu);
            if let Some(place) = self.screens.vgpus.iter().position(shows) {
                self.set_ramfb(place, true, "the vGPU is the guest's only screen: ramfb shows firmware and boot until the guest's driver takes over");
            }
        }
    }

    /// Returns whether QEMU passes the OpRegion to the guest by default; `None` if that differs
    /// between the versions that QEMU may have.
    pub(super) fn opregion_by_default(&self) -> Option<bool> {
        let possible = Qemu::possible(self.abilities);
        let mut has = possible.iter().map(|qemu| qemu.has(OPREGION_BY_DEFAULT));
        let first = has.next()?;
        has.all(|other| other == first).then_some(first)
    }

    pub(super) fn opregion_that_is_not_there(&mut self) {
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let is_own = vgpu.own(OPREGION).is_some();
            let is_asked = vgpu.is_pci && is_own && vgpu.switch(OPREGION) == Some(true);
            if !is_asked || vgpu.has_opregion() != Some(false) {
                continue;
            }
            let possible = Qemu::possible(self.abilities);
            let words = possible
                .iter()
                .find_map(|qemu| qemu.refuses_opregion(vgpu.id));
            if let Some(words) = words {
                let reason = format!(
                    "{} has no OpRegion{}: QEMU before {} refuses it with \"{words}\"",
                    vgpu.id,
                    how_known(vgpu),
                    OPREGION_BY_DEFAULT.since()
                );
                self.remove_property(place, OPREGION, reason);
            }
        }
    }

    /// Switches off all OpRegions but the first. QEMU passes an OpRegion on as a firmware file, and
    /// a guest can have only one such file.
    pub(super) fn opregion_twice(&mut self) {
        let by_default = self.opregion_by_default();
        let mut taken = false;
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let is_on = vgpu.switch(OPREGION).or(by_default) == Some(true);
            if !vgpu.is_pci || !is_on || vgpu.has_opregion() != Some(true) {
                continue;
            }
            if !std::mem::replace(&mut taken, true) {
                continue;
            }
            let reason = format!(
                "another device passes on its OpRegion, and QEMU refuses a second one with \"{}\"",
                qemu_messages::OPREGION_TWICE
            );
            self.set_property(place, OPREGION, "false", reason);
        }
    }

    pub(super) fn opregion_for_windows(&mut self) {
        if !self.policy.is_windows(self.domain) {
            return;
        }
        let by_default = self.opregion_by_default();
        // QEMU passes on only one OpRegion, as a firmware file that can exist once.
        let has_one = |vgpu: &Vgpu| vgpu.switch(OPREGION) == Some(true);
        let mut taken = self.screens.vgpus.iter().any(has_one);
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            let is_set = vgpu.said(OPREGION).is_some();
            if taken || vgpu.has_opregion() != Some(true) || is_set || !vgpu.is_pci {
                continue;
            }
            taken = true;
            let device = vgpu.id;
            let known = how_known(vgpu);
            match by_default {
                Some(true) => {}
                // The GPU's screen goes to its own connector or nowhere; only the owner knows.
                _ if matches!(device, DeviceId::Pci(_)) => self.note(
                    Level::Info,
                    About::Device(device),
                    format!("the guest is Windows, and the GPU has an OpRegion{known}, which QEMU before {} passes on only with x-igd-opregion. A monitor on the GPU's own connector needs the OpRegion; without a monitor the guest is better off without it", OPREGION_BY_DEFAULT.since()),
                    &["set x-igd-opregion=true in qemu:override if a monitor hangs on the GPU"],
                ),
                Some(false) if self.notes.iter().any(|note| note.text.contains(OPREGION)) => {}
                Some(false) if reads_override(self.abilities) == Some(false) => self.note(
                    Level::Warn,
                    About::Device(device),
                    format!("the guest is Windows, whose driver needs the OpRegion{known}, and libvirt before {} has no qemu:override that could ask QEMU for it", OVERRIDE.since()),
                    &["set it by -set device.hostdevN.x-igd-opregion=on in qemu:commandline, if this QEMU finds the device"],
                ),
                Some(false) => {
                    let reason = format!("the guest is Windows, whose driver needs the OpRegion{known}, and QEMU before {} passes it on only with this property", OPREGION_BY_DEFAULT.since());
                    self.set_property(place, OPREGION, "true", reason);
                }
                None => self.note(
                    Level::Warn,
                    About::Device(device),
                    "the guest is Windows, whose driver needs the OpRegion; gfxplane doesn't know whether this QEMU passes it on by itself, because it doesn't know its version",
                    &["name the version with --qemu"],
                ),
            }
        }
    }
}
