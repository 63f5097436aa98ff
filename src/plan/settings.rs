//! `-set device.hostdev0.x=y`: what most how-tos of GVT-g teach, and what QEMU no longer takes,
//! because libvirt hands devices over as JSON (`there is no device "hostdev0" defined`). Carried
//! over to libvirt's own attributes where there are some, else to `qemu:override`.

use crate::names::DeviceId;
use crate::plan::planner::Planner;
use crate::plan::{Action, Level};
use crate::predict::{About, words};

/// Properties whose `on` and `off` are words to QEMU, as there is an `auto` beside them (hw/vfio/pci.c,
/// `ON_OFF_AUTO`); all others are switches.
const WORDS: [&str; 4] = [
    "enable-migration",
    "x-pre-copy-dirty-page-tracking",
    "x-migration-multifd-transfer",
    "x-msix-relocation",
];

/// Measured with AppArmor on Debian 13: "failed to find romfile" for a file in /opt.
const ROM_FILE: &str = "-set said so, and QEMU does not take that any more; a file that AppArmor or SELinux hides from QEMU is refused with \"failed to find romfile\"";

impl Planner<'_, '_, '_> {
    /// Carries over the settings of the domain's vfio devices; others stay.
    pub(super) fn carry_settings_over(&mut self) {
        for setting in self.screens.dead_settings.clone() {
            let Some((id, property, value)) = parts(&setting) else {
                continue;
            };
            let place = self
                .screens
                .vgpus
                .iter()
                .position(|vgpu| self.hostdev(vgpu).alias == id);
            let Some(place) = place else { continue };
            if self.carry_over(place, property, value) {
                self.screens.dead_settings.retain(|other| *other != setting);
                let action = Action::RemoveSetting {
                    setting: setting.clone(),
                };
                self.change(
                    action,
                    format!(
                        "QEMU refuses it with \"{}\", as libvirt describes devices in JSON",
                        words::filled(words::NO_SUCH_DEVICE, id)
                    ),
                );
            }
        }
    }

    /// Carries over one; `false` if it has to stay.
    fn carry_over(&mut self, place: usize, property: &str, value: &str) -> bool {
        let vgpu = &self.screens.vgpus[place];
        let device = vgpu.id;
        let why = "-set said so, and QEMU does not take that any more";
        match property {
            // What QEMU makes of it is what the attribute is for.
            "display" if value == "auto" => {}
            "display" => {
                let on = value == "on";
                if vgpu.display != on {
                    self.set_display(place, on, why);
                }
            }
            "ramfb" => {
                let on = is_on(value);
                if vgpu.ramfb != on {
                    self.set_ramfb(place, on, why);
                }
            }
            // libvirt chooses it where there is ramfb.
            "driver" if value == "vfio-pci-nohotplug" || value == "vfio-pci" => {}
            "driver" => {
                self.note(
                    Level::Warn,
                    About::Device(device),
                    format!("-set asks for the device to be a {value}, which libvirt can't say"),
                    &["take the -set out"],
                );
                return false;
            }
            "romfile" if matches!(device, DeviceId::Pci(_)) => self.rom(place, device, value, why),
            _ => {
                let hexadecimal = value
                    .strip_prefix("0x")
                    .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                    .map(|number| number.to_string());
                let value = match value {
                    _ if WORDS.contains(&property) => value,
                    "on" | "yes" | "true" => "true",
                    "off" | "no" | "false" => "false",
                    other => hexadecimal.as_deref().unwrap_or(other),
                };
                // libvirt drops the <rom> of a mediated device.
                let why = match property {
                    "romfile" => ROM_FILE,
                    _ => why,
                };
                // What qemu:override says already, libvirt tells QEMU.
                if !vgpu.properties.contains_key(property) {
                    self.screens.vgpus[place]
                        .properties
                        .insert(property.into(), value.into());
                    let action = Action::SetProperty {
                        device,
                        name: property.into(),
                        value: value.into(),
                    };
                    self.change(action, why);
                }
            }
        }
        true
    }

    fn rom(&mut self, place: usize, device: DeviceId, file: &str, why: &str) {
        let hostdev = self.hostdev(&self.screens.vgpus[place]);
        let has_one = hostdev
            .element
            .child("rom")
            .is_some_and(|rom| rom.attribute("file").is_some());
        if !has_one && !file.is_empty() {
            let file = file.to_owned();
            self.change(Action::Rom { device, file }, why);
        }
    }
}

/// `device.ID.PROPERTY=VALUE`
pub(super) fn parts(setting: &str) -> Option<(&str, &str, &str)> {
    let (id, rest) = setting.strip_prefix("device.")?.split_once('.')?;
    let (property, value) = rest.split_once('=')?;
    Some((id, property, value))
}

fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "true")
}
