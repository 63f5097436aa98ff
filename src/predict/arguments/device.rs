//! Reads `-device`, and lists QEMU's drivers that make screens.

use std::collections::BTreeMap;

use super::Setting;
use super::syntax::{json_pairs, pairs};
use crate::device::id::DeviceId;
use crate::predict::qemu_messages::is_in;

/// A `-device`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The property `driver`.
    pub driver: String,
    /// The property `id`.
    pub id: Option<String>,
    /// True for JSON syntax: QEMU makes devices in JSON after all others.
    pub json: bool,
    /// The other properties. Values in JSON become texts in option syntax: `true` is `on`.
    pub properties: BTreeMap<String, String>,
}

impl Device {
    /// Reads the value of `-device`; `None` if it begins like JSON but is not a JSON object. The
    /// driver is empty if the value names none.
    pub fn read(text: &str) -> Option<Self> {
        let json = text.starts_with('{');
        let pairs = if json {
            json_pairs(text)?
        } else {
            pairs(text, "driver")
        };
        let mut device = Device {
            json,
            ..Device::default()
        };
        for (key, value) in pairs {
            match key.as_str() {
                "driver" => device.driver = value,
                "id" => device.id = Some(value),
                _ => {
                    device.properties.insert(key, value);
                }
            }
        }
        Some(device)
    }

    /// Sets the property of this device that a `-set` names.
    pub(super) fn set(&mut self, setting: Setting) {
        match setting.property.as_str() {
            "driver" => self.driver = setting.value,
            _ => {
                self.properties.insert(setting.property, setting.value);
            }
        }
    }

    /// Returns true for a vfio device that may have a display.
    pub(crate) fn is_vfio(&self) -> bool {
        is_vfio(&self.driver)
    }

    /// Returns the host's device behind a vfio device, from `sysfsdev` or `host`; `None` if neither
    /// names one.
    pub(crate) fn vfio_id(&self) -> Option<DeviceId> {
        let property = |name: &str| self.properties.get(name);
        let text = match (property("sysfsdev"), property("host")) {
            (Some(path), _) => path.trim_end_matches('/').rsplit('/').next()?.to_owned(),
            // As in lspci, the PCI domain may be missing.
            (None, Some(host)) if host.matches(':').count() < 2 => format!("0000:{host}"),
            (None, Some(host)) => host.clone(),
            (None, None) => return None,
        };
        text.parse().ok()
    }

    /// Returns true if a vfio device wants a display. QEMU gives it none unless the user asks for
    /// one (hw/vfio/pci.c).
    pub(crate) fn wants_display(&self) -> bool {
        let value = self.properties.get("display");
        self.is_vfio() && value.is_some_and(|value| value != "off")
    }

    /// Returns true if QEMU chooses a slot of its first PCI bus for the device, before it makes
    /// libvirt's devices.
    pub(super) fn finds_a_slot(&self) -> bool {
        let driver = self.driver.as_str();
        let is_pci = driver.ends_with("-pci")
            || driver.contains("-pci-")
            || is_in(ON_PCI, driver)
            || is_emulated(driver) && driver != "ramfb" && !driver.starts_with("isa-");
        let bus = self.properties.get("bus").map(String::as_str);
        let is_first = matches!(bus, None | Some("pci.0" | "pcie.0"));
        is_pci && is_first && !self.json && !self.properties.contains_key("addr")
    }

    /// Returns true if QEMU itself draws exactly one screen for the device, and the property `bus`
    /// does not put the device on another bus than the first PCI bus.
    pub(super) fn is_one_card(&self) -> bool {
        let property = |name: &str| self.properties.get(name).map(String::as_str);
        is_emulated(&self.driver)
            // The rutabaga library draws for it.
            && !self.driver.contains("rutabaga")
            && matches!(property("bus"), None | Some("pci.0" | "pcie.0"))
            && matches!(property("max_outputs"), None | Some("1"))
    }
}

/// The drivers of PCI devices, bridges included, that have no `-pci` in their names and make no
/// screen; also aliases (`qemu-system-x86_64 -device help` of 11.1.3).
const ON_PCI: &str = "\
    AC97 ES1370 ac97 acpi-erst ahci am53c974 ctucan_pci cxl-type3 dc390 e1000 e1000-82540em \
    e1000-82544gc e1000-82545em e1000e edu es1370 i6300esb i82550 i82551 i82557b i82559er \
    i82801 i82801b11-bridge ich9-ahci ich9-intel-hda ich9-usb-ehci1 ich9-usb-ehci2 \
    ich9-usb-uhci1 ich9-usb-uhci2 ich9-usb-uhci3 igb intel-hda ioh3420 ivshmem-doorbell \
    ivshmem-plain lsi lsi53c810 lsi53c895a megasas megasas-gen2 mptsas1068 ne2k_pci \
    nec-usb-xhci nvme pci-bridge pci-ohci pci-serial pci-testdev pcie-root-port pcnet \
    piix3-usb-uhci piix4-usb-uhci pvscsi pxb pxb-pcie qemu-xhci rocker rtl8139 tulip ufs \
    usb-ehci virtio-9p virtio-balloon virtio-blk virtio-net virtio-rng virtio-scsi \
    virtio-serial virtio-sound vmxnet3";

/// The prefixes of the drivers with which QEMU makes a screen by itself.
const EMULATED: &str = "\
    VGA secondary-vga ati-vga isa-vga isa-cirrus-vga bochs-display cirrus-vga qxl ramfb virtio-gpu \
    virtio-vga vmware-svga";

/// The prefixes of the drivers whose screens need something outside of QEMU: a device of the
/// host's, or a process that draws.
const SERVED: [&str; 3] = ["vfio-pci", "vhost-user-gpu", "vhost-user-vga"];

/// Returns whether a driver of QEMU's is for a vfio device that may have a display.
pub(crate) fn is_vfio(driver: &str) -> bool {
    matches!(driver, "vfio-pci" | "vfio-pci-nohotplug")
}

/// Returns whether QEMU's driver of this name makes a screen without anything outside of
/// QEMU.
pub(crate) fn is_emulated(driver: &str) -> bool {
    EMULATED.split(' ').any(|screen| driver.starts_with(screen))
}

/// Returns whether QEMU's driver of this name makes a screen.
pub(crate) fn is_screen(driver: &str) -> bool {
    is_emulated(driver) || SERVED.iter().any(|screen| driver.starts_with(screen))
}
