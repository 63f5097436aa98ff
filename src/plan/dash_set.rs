//! Replaces `-set device.hostdev0.x=y`. Most how-tos for GVT-g teach it, but QEMU no longer accepts
//! it, because libvirt describes devices in JSON (`there is no device "hostdev0" defined`). Each
//! setting moves to libvirt's own attribute if libvirt has one, or else to `qemu:override`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::device::id::DeviceId;
use crate::plan::planner::Planner;
use crate::plan::{Action, Level};
use crate::predict::arguments::Setting;
use crate::predict::properties;
use crate::predict::screens::Vgpu;
use crate::predict::versions::{DEVICE_JSON_HOTPLUG, Libvirt, OVERRIDE, reads_override};
use crate::predict::{About, qemu_messages};

/// The reason for moving a setting, as text for the user.
const WHY: &str = "the domain asked for it by -set, which this QEMU no longer accepts";

/// The reason for moving the setting of a ROM file. Measured with AppArmor on Debian 13: "failed to
/// find romfile" for a file in /opt.
const ROM_FILE: &str = "the domain asked for it by -set, which this QEMU no longer accepts; a file that AppArmor or SELinux hides from QEMU is refused with \"failed to find romfile\"";

impl Planner<'_, '_, '_> {
    /// Moves the `-set` settings of vfio devices, and leaves those of other devices alone.
    pub(super) fn carry_settings_over(&mut self) {
        let dead: Vec<Setting> = self
            .screens
            .dead_settings
            .iter()
            .filter_map(|text| Setting::read(text))
            .collect();
        let mut same: BTreeMap<(&str, &str), Vec<&Setting>> = BTreeMap::new();
        for setting in &dead {
            let key = (setting.id.as_str(), setting.property.as_str());
            same.entry(key).or_default().push(setting);
        }
        let alias = |vgpu: &Vgpu| self.hostdev(vgpu).alias.as_str();
        let places = self.screens.vgpus.iter().enumerate().rev();
        let places: HashMap<&str, usize> = places.map(|(at, vgpu)| (alias(vgpu), at)).collect();
        let mut gone = BTreeSet::new();
        for setting in &dead {
            let place = places.get(setting.id.as_str()).copied();
            let same = &same[&(setting.id.as_str(), setting.property.as_str())];
            // If a property is set several times, QEMU uses the last setting.
            let is_last = same.last().is_some_and(|last| std::ptr::eq(*last, setting));
            let Some(place) = place.filter(|_| is_last) else {
                continue;
            };
            if !self.carry_over(place, setting) {
                continue;
            }
            let reason = format!(
                "QEMU refuses it with \"{}\", because libvirt describes devices in JSON",
                qemu_messages::filled(qemu_messages::NO_SUCH_DEVICE, &setting.id)
            );
            for Setting { text, .. } in same {
                if gone.insert(text.clone()) {
                    let setting = text.clone();
                    self.change(Action::RemoveSetting { setting }, reason.clone());
                }
            }
        }
        self.screens
            .dead_settings
            .retain(|text| !gone.contains(text));
    }

    /// Moves one setting, but leaves the removal of its `-set` to the caller. If the setting has to
    /// stay, adds a note and returns `false`.
    fn carry_over(&mut self, place: usize, setting: &Setting) -> bool {
        let vgpu = &self.screens.vgpus[place];
        let device = vgpu.id;
        let Setting {
            property, value, ..
        } = setting;
        let value = value.as_str();
        match property.as_str() {
            // With `auto`, the attribute decides.
            "display" if value == "auto" => true,
            "display" => {
                let on = value == "on";
                if vgpu.display == on {
                    return true;
                }
                // libvirt accepts the attribute only with graphics, and does not check overrides.
                let is_overridden = vgpu.properties.contains_key("display");
                let is_alone = on && self.screens.frontends.is_empty();
                if is_overridden || self.has_attributes(device) && !is_alone {
                    self.set_display(place, on, WHY);
                    return true;
                }
                let done = self.override_property(place, property, value);
                if done {
                    self.screens.vgpus[place].display = on;
                }
                done
            }
            "ramfb" => {
                let on = properties::overriding(property, value) == "true";
                if vgpu.ramfb == on {
                    return true;
                }
                if vgpu.properties.contains_key("ramfb") || self.has_attributes(device) {
                    self.set_ramfb(place, on, WHY);
                    return true;
                }
                let done = self.override_property(place, property, value)
                    && self.override_property(place, "driver", "vfio-pci-nohotplug");
                if done {
                    self.screens.vgpus[place].ramfb = on;
                }
                done
            }
            // libvirt chooses one of these two drivers itself, by the attribute ramfb.
            "driver" if value == "vfio-pci" => true,
            "driver" if value == "vfio-pci-nohotplug" => {
                self.has_attributes(device) || self.override_property(place, property, value)
            }
            "driver" => {
                self.note(
                    Level::Warn,
                    About::Device(device),
                    "-set chooses another driver for the device, and libvirt has no setting for that",
                    &["remove the -set"],
                );
                false
            }
            "romfile" if matches!(device, DeviceId::Pci(_)) => {
                self.rom(place, device, value);
                true
            }
            _ => self.override_property(place, property, value),
        }
    }

    /// Returns whether the host's libvirt passes the attributes `display` and `ramfb` of a device
    /// to QEMU. True if libvirt's version is not known.
    pub(super) fn has_attributes(&self, device: DeviceId) -> bool {
        let all = Libvirt::possible(self.abilities);
        all.iter().any(|libvirt| libvirt.takes_display(device))
    }

    /// Sets a property in `qemu:override`, unless `qemu:override` already sets it. If libvirt does
    /// not read `qemu:override`, adds a note and returns `false`.
    fn override_property(&mut self, place: usize, name: &str, value: &str) -> bool {
        let vgpu = &self.screens.vgpus[place];
        let device = vgpu.id;
        if reads_override(self.abilities) == Some(false) {
            let libvirt = self.abilities.libvirt.as_ref();
            let now = libvirt.is_some_and(|version| *version >= DEVICE_JSON_HOTPLUG.since());
            let capability = if now {
                "device.json+hotplug"
            } else {
                "device.json"
            };
            let fix = format!(
                "<qemu:capabilities><qemu:del capability='{capability}'/></qemu:capabilities> in the domain: QEMU then finds the device for -set"
            );
            self.note(
                Level::Warn,
                About::Device(device),
                format!(
                    "-set {name} can't be moved: libvirt before {} does not read qemu:override",
                    OVERRIDE.since()
                ),
                &[&fix],
            );
            return false;
        }
        if vgpu.properties.contains_key(name) {
            return true;
        }
        let value = properties::overriding(name, value);
        // libvirt drops the <rom> of a mediated device.
        let why = if name == "romfile" { ROM_FILE } else { WHY };
        self.set_property(place, name, value, why);
        true
    }

    fn rom(&mut self, place: usize, device: DeviceId, file: &str) {
        let hostdev = self.hostdev(&self.screens.vgpus[place]);
        let has_one = hostdev
            .element
            .child("rom")
            .is_some_and(|rom| rom.attribute("file").is_some());
        if !has_one && !file.is_empty() {
            let file = file.to_owned();
            self.change(Action::Rom { device, file }, WHY);
        }
    }

    /// Removes each `-set` of `property` that QEMU would still apply to the device at `place`.
    pub(super) fn take_settings_out(&mut self, place: usize, property: &str, reason: &str) {
        let vgpu = &mut self.screens.vgpus[place];
        if vgpu.set.remove(property).is_none() {
            return;
        }
        let id = self.domain.hostdevs[vgpu.place].alias.clone();
        let gone = self
            .screens
            .live_settings
            .remove(&(id, property.to_owned()));
        let mut gone: Vec<Setting> = gone.unwrap_or_default();
        gone.dedup_by(|one, other| one.text == other.text);
        for set in gone {
            let setting = set.text;
            self.change(Action::RemoveSetting { setting }, reason);
        }
    }
}
