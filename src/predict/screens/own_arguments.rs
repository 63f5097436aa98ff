//! Applies the user's own arguments for QEMU to the screens.

use std::collections::{HashMap, HashSet};

use super::{Card, Found, Frontend, Screens, Vgpu};
use crate::device::id::DeviceId;
use crate::domain::{Domain, Property, QEMU_NAMESPACE, Switch, in_qemu, number_in};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::{Device, Local, is_emulated, is_vfio};
use crate::predict::versions::{Libvirt, devices_are_json};
use crate::xml::Element;

/// The last slot of a PCI bus.
const LAST_SLOT: u32 = 31;

impl Screens {
    /// Applies the user's own arguments to the cards and devices. Records in `arguments.unread`
    /// those whose effect is not known.
    pub(super) fn apply_arguments(&mut self, domain: &Domain<'_, '_>, abilities: &Abilities) {
        let json = devices_are_json(abilities, |capability| is_deleted(domain, capability));
        let card = |driver: &str| Card {
            model: Some(driver.to_owned()),
            gl: driver.contains("-gl"),
            ..Card::default()
        };
        let lacks_qxl =
            |driver: &str| driver.starts_with("qxl") && abilities.has("spice") != Some(true);
        let mut taken = 0;
        if let Some(driver) = self.arguments.vga {
            if !self.take_slot(domain, &mut taken) || lacks_qxl(driver) {
                self.doubt("-vga");
            }
            self.cards_before.push(card(driver));
        }
        for driver in self
            .arguments
            .on_pci
            .clone()
            .iter()
            .filter(|_| json == Some(true))
        {
            if !self.take_slot(domain, &mut taken) && is_emulated(driver) {
                self.doubt(&format!("-device {driver}"));
            }
        }
        for device in self.arguments.devices.clone() {
            let what = format!("-device {}", device.driver);
            let before = !device.json && json == Some(true);
            match json {
                _ if device.is_vfio() => {}
                None => self.doubt(&what),
                _ if lacks_qxl(&device.driver) => self.doubt(&what),
                Some(_) if before => self.cards_before.push(card(&device.driver)),
                Some(_) => self.cards_after.push(card(&device.driver)),
            }
        }
        for property in &domain.properties {
            if exchanges_the_device(property) {
                self.doubt(&format!("{} in qemu:override", property.name));
            }
        }
        self.apply_settings(domain, json);
        let all = Libvirt::possible(abilities);
        for vgpu in &mut self.vgpus {
            let hostdev = &domain.hostdevs[vgpu.place];
            let takes = all.iter().any(|libvirt| libvirt.takes_display(vgpu.id));
            vgpu.globals = self.arguments.globals(vgpu.driver(takes));
            // Properties in option syntax have no types.
            if json == Some(false) {
                vgpu.mistyped.clear();
            }
            // libvirt always passes on the display of a mediated device.
            let is_said = match vgpu.id {
                DeviceId::Mdev(_) => true,
                DeviceId::Pci(_) => takes && hostdev.display.is_some(),
            };
            if is_said {
                vgpu.globals.remove("display");
            }
            if takes && hostdev.ramfb == Some(Switch::On) {
                vgpu.globals.remove("ramfb");
            }
            if let Some(value) = vgpu.said("display").map(str::to_owned) {
                // With auto, QEMU shows the display if there is one, and starts if there is none.
                let auto = value == "auto" && vgpu.found() != [Found::Nothing];
                vgpu.display = auto || vgpu.switch("display") == Some(true);
            }
            vgpu.ramfb = vgpu.switch("ramfb").unwrap_or(vgpu.ramfb);
        }
        self.doubt_what_depends_on_more();
    }

    /// Counts the user's next device without an address in `taken`. Before libvirt's devices, QEMU
    /// puts such devices into the slots that the machine itself leaves free, one after the other.
    /// If a device of libvirt's needs the slot of this one, sets `slot_taken` to QEMU's refusal.
    /// Returns false if the machine's slots are not known.
    fn take_slot(&mut self, domain: &Domain<'_, '_>, taken: &mut u32) -> bool {
        let machine = domain.machine.as_deref().unwrap_or_default();
        let first = match machine {
            _ if machine.contains("q35") => 1,
            _ if machine.starts_with("pc") => 2,
            _ => return false,
        };
        let slot = first + *taken;
        *taken += 1;
        // Only the first slot that is not free counts, and a bus has few slots, so the time stays
        // linear.
        if self.slot_taken.is_some() || slot > LAST_SLOT {
            return true;
        }
        let mut devices = domain.devices.into_iter().flat_map(Element::children);
        let is_taken = devices.any(|device| {
            let address = device.children().find(|child| child.name() == "address");
            address.is_some_and(|address| is_at(address, slot))
        });
        // libvirt gives the first free slot to the first of its devices that has no address.
        if is_taken || slot == first && !has_addresses(domain) {
            // The message continues with the device that needs the slot and the one that has it.
            self.slot_taken
                .get_or_insert_with(|| format!("PCI: slot {slot} function 0 not available"));
        }
        true
    }

    fn apply_settings(&mut self, domain: &Domain<'_, '_>, json: Option<bool>) {
        let settings = self.arguments.settings.clone();
        self.dead_settings.clone_from(&self.arguments.malformed);
        if json == Some(true) {
            let texts = settings.into_iter().map(|setting| setting.text);
            self.dead_settings.extend(texts);
            return;
        }
        let alias = |vgpu: &Vgpu| domain.hostdevs[vgpu.place].alias.as_str();
        // If an alias occurs several times, the first device counts.
        let places = self.vgpus.iter().enumerate().rev();
        let places: HashMap<&str, usize> = places.map(|(at, vgpu)| (alias(vgpu), at)).collect();
        for setting in settings {
            let Some(place) = places.get(setting.id.as_str()) else {
                continue;
            };
            let vgpu = &mut self.vgpus[*place];
            match json {
                None => self.doubt(&format!("-set {}", setting.property)),
                _ => {
                    let (property, value) = (setting.property.clone(), setting.value.clone());
                    vgpu.set.insert(property.clone(), value);
                    let key = (setting.id.clone(), property);
                    self.live_settings.entry(key).or_default().push(setting);
                }
            }
        }
    }

    /// Returns whether gtk has an X or Wayland display to try: from the domain's `<qemu:env>`, or
    /// the X server of an SDL display, which libvirt puts into QEMU's environment
    /// (src/qemu/qemu_command.c, `qemuBuildGraphicsSDLCommandLine`).
    pub(crate) fn gtk_may_open(&self) -> bool {
        let names_a_server = |frontend: &Frontend| frontend.settings.x_display.is_some();
        self.has_a_screen || self.frontends.iter().any(names_a_server)
    }

    /// Records as unread the arguments whose effect depends on facts that this module does not
    /// know.
    fn doubt_what_depends_on_more(&mut self) {
        if let Some(display) = self.arguments.display.clone() {
            match display.kind {
                // The outcome depends on whether QEMU may open the display.
                Local::Gtk if self.gtk_may_open() => self.doubt("-display gtk"),
                Local::Sdl => self.doubt("-display sdl"),
                Local::EglHeadless if self.has_render_node().is_none() => {
                    self.doubt("-display egl-headless");
                }
                Local::Dbus if display.gl == Some(true) && self.has_render_node().is_none() => {
                    self.doubt("-display dbus");
                }
                _ => {}
            }
            if let Some(node) = &display.rendernode {
                let is_it = |f: &Frontend| f.rendernode.as_ref() == Some(node);
                if !self.frontends.iter().any(is_it) {
                    self.doubt("-display with a rendernode");
                }
            }
        }
        let lacks = self.lacks_its_node();
        let uncertain: Vec<String> = self
            .own_vfio()
            .filter(|device| lacks(device).is_none())
            .map(|device| format!("-device {}", device.driver))
            .collect();
        for what in uncertain {
            self.doubt(&what);
        }
        if self
            .vgpus
            .iter()
            .any(|vgpu| vgpu.globals.contains_key("x-vga"))
        {
            self.doubt("-global vfio-pci.x-vga");
        }
    }

    /// Returns a function for devices of the user's own arguments: `Some(true)` if the guest's
    /// `/dev` lacks the device's vfio node, and `None` if that is not known.
    pub(crate) fn lacks_its_node(&self) -> impl Fn(&Device) -> Option<bool> + use<> {
        let hostdevs: HashSet<DeviceId> = self.vgpus.iter().map(|vgpu| vgpu.id).collect();
        let is_pci = |id: DeviceId| matches!(id, DeviceId::Pci(_));
        let has_pci = hostdevs.iter().any(|id| is_pci(*id));
        let has_own_dev = self.own_dev == Some(true);
        move |device| {
            let with_iommufd = device.properties.contains_key("iommufd");
            let id = device.vfio_id();
            // Functions of a card may share a group, and with it a node.
            let may_share = id.is_none_or(is_pci) && has_pci;
            // A device that is also a hostdev has its node. How QEMU treats it twice is not known.
            let is_twice = id.is_some_and(|id| hostdevs.contains(&id));
            (has_own_dev && !with_iommufd && !may_share && !is_twice).then_some(true)
        }
    }

    fn doubt(&mut self, what: &str) {
        self.arguments.not_read(what);
    }
}

/// Returns whether a property of `qemu:override` puts another device in the place of libvirt's.
fn exchanges_the_device(property: &Property<'_, '_>) -> bool {
    match property.name.as_str() {
        "driver" => !property.value.as_deref().is_some_and(is_vfio),
        name => matches!(name, "host" | "sysfsdev"),
    }
}

/// Returns whether an address is the given slot on the first PCI bus.
fn is_at(address: Element<'_, '_>, slot: u32) -> bool {
    let number = |name| number_in(address, name);
    address.attribute("type").as_deref() == Some("pci")
        && number("domain") == Some(0)
        && number("bus") == Some(0)
        && number("slot") == Some(slot)
}

/// Returns whether libvirt has given the domain's PCI devices their addresses, as it does when it
/// defines a domain. libvirt then also adds a memballoon if the domain has none.
fn has_addresses(domain: &Domain<'_, '_>) -> bool {
    let devices = || domain.devices.into_iter().flat_map(Element::children);
    let is_none = |device: Element<'_, '_>| {
        let model = device.attribute("model");
        let model = model.or_else(|| device.child("model").and_then(|m| m.attribute("type")));
        model.as_deref() == Some("none")
    };
    let on_pci = [
        "filesystem",
        "hostdev",
        "interface",
        "memballoon",
        "rng",
        "sound",
        "video",
    ];
    devices().any(|device| device.name() == "memballoon")
        && devices()
            .filter(|device| on_pci.contains(&device.name()) && !is_none(*device))
            .all(|device| device.child("address").is_some())
}

/// Returns whether `<qemu:capabilities>` removes a capability. Adding the capability there does not
/// help, because libvirt adds first (src/qemu/qemu_process.c, `qemuProcessStartUpdateCustomCaps`).
fn is_deleted(domain: &Domain<'_, '_>, capability: &str) -> bool {
    in_qemu(domain.element, "capabilities").any(|deleted| {
        deleted.is(Some(QEMU_NAMESPACE), "del")
            && deleted.attribute("capability").as_deref() == Some(capability)
    })
}
