//! The vfio devices of a domain, with the settings that QEMU gets for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Here, Known};
use crate::device::evidence::{Evidence, Method, resolve};
use crate::device::facts::{Display, DisplayInterface, Facts, Reason};
use crate::device::id::DeviceId;
use crate::domain::{Domain, HostdevSettings, Property, Switch};
use crate::predict::abilities::Abilities;
use crate::predict::properties::mistake;
use crate::predict::versions::reads_override;

/// The display that QEMU finds when it asks a device with `display=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// A dmabuf.
    Dmabuf,
    /// A region.
    Region,
    /// No display.
    Nothing,
}

/// A vfio device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// The device's place among the domain's hostdevs.
    pub place: usize,
    /// The device.
    pub id: DeviceId,
    /// The attribute `model` of a mediated device, empty if it is missing; `vfio-pci` for a PCI
    /// device.
    pub model: String,
    /// True if QEMU can have a display for the device, that is for the model `vfio-pci`.
    pub is_pci: bool,
    /// The settings that libvirt's checks and its handling of the device depend on.
    pub settings: HostdevSettings,
    /// True if the hostdev has the attribute `display`, whatever its value.
    pub says_display: bool,
    /// True if QEMU gets `display=on`, from the attribute or from what overrules it
    /// ([`Vgpu::said`]).
    pub display: bool,
    /// True if the hostdev has the attribute `display='on'`.
    pub asked: bool,
    /// True if QEMU gets `ramfb=on`, from the attribute or from what overrules it ([`Vgpu::said`]).
    pub ramfb: bool,
    /// True if the hostdev has the attribute `ramfb='on'`.
    pub ramfb_asked: bool,
    /// The properties of which QEMU does not accept the type or value in `qemu:override`, with
    /// QEMU's message.
    pub mistyped: BTreeMap<String, String>,
    /// The properties that `qemu:override` sets. A `display` or `ramfb` that it removes is `off`.
    pub properties: BTreeMap<String, String>,
    /// The properties that `-set` sets on a device that QEMU finds. They overrule `qemu:override`.
    pub set: BTreeMap<String, String>,
    /// The properties that `-global` arguments set. Everything else overrules them.
    pub globals: BTreeMap<String, Arc<str>>,
    /// The facts that are known about the device, in the state in which QEMU will find it.
    pub known: Known,
    /// The vendor's driver, if libvirt takes the device away from it because of managed='yes', so
    /// that the vGPU is lost. `None` if no vGPU is lost.
    pub lost: Option<String>,
    /// True if libvirt binds the device to vfio-pci before QEMU runs.
    pub rebound: bool,
}

/// Intel's PCI vendor ID.
const INTEL: u16 = 0x8086;

/// NVIDIA's driver, which is a vfio driver for virtual functions with a vGPU.
const NVIDIA: &str = "nvidia";

impl Vgpu {
    /// Returns whether libvirt binds the device to vfio-pci (or to the device's variant of
    /// vfio-pci) before QEMU runs.
    ///
    /// libvirt does so with managed='yes' if the device has no driver, or a host driver other than
    /// the one that `<driver model=…>` names (libvirt src/util/virpci.c,
    /// `virPCIDeviceDetach`, `virPCIDeviceFindBestVFIOVariant`). NVIDIA's own driver loses its
    /// virtual functions, too: libvirt looks for variants in the kernel's modules.alias, which does
    /// not list NVIDIA's driver. modules.alias may list another vendor's driver.
    fn is_rebound(&self) -> bool {
        let Some(Here::Present { driver, .. }) = &self.known.here else {
            return false;
        };
        let stays = driver.as_ref().is_some_and(|driver| {
            let is_vfio = self.known.finding.facts.display != Display::Unknown(Reason::NoDriver);
            self.settings.driver.as_ref() == Some(driver) || is_vfio && driver != NVIDIA
        });
        matches!(self.id, DeviceId::Pci(_)) && self.settings.managed && !stays
    }

    /// Returns the displays that QEMU may find: exactly one if the display is known.
    pub fn found(&self) -> Vec<Found> {
        if !self.is_pci {
            return vec![Found::Nothing];
        }
        match &self.known.finding.facts.display {
            Display::Known(interfaces) => vec![match interfaces.first() {
                Some(DisplayInterface::Dmabuf) => Found::Dmabuf,
                Some(DisplayInterface::Region) => Found::Region,
                None => Found::Nothing,
            }],
            // QEMU asks for a dmabuf first and trusts the answer.
            Display::Unknown(Reason::Untrusted) => vec![Found::Dmabuf],
            Display::Unknown(_) => vec![Found::Dmabuf, Found::Region, Found::Nothing],
        }
    }

    /// Returns whether the device has an OpRegion; `None` if that is not known.
    ///
    /// Rules and kernel attributes don't say whether the OpRegion is missing. But a device without
    /// a display has none, unless it is a passed-through GPU of Intel's. Only Intel's devices have
    /// one (vfio's vfio_pci_igd.c).
    pub(crate) fn has_opregion(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        let vendor = match self.known.here {
            Some(Here::Present { vendor, .. }) => vendor,
            _ => None,
        };
        match (&facts.opregion, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) if vendor.is_some_and(|vendor| vendor != INTEL) => Some(false),
            (None, None) if vendor.is_none() && facts.display == Display::NONE => Some(false),
            (None, None) => None,
        }
    }

    /// Returns whether the device has an EDID region; `None` if that is not known.
    pub(crate) fn has_edid(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        match (&facts.edid, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    /// Switches the display on or off in the place that sets it: `qemu:override` or the attribute.
    /// Removes the display from `-set`.
    pub(crate) fn set_display(&mut self, on: bool) {
        self.display = on;
        self.set.remove("display");
        self.mistyped.remove("display");
        match self.properties.get_mut("display") {
            Some(value) => *value = if on { "on" } else { "off" }.into(),
            None => self.asked = on,
        }
    }

    /// Switches ramfb on or off by the attribute, by which libvirt chooses QEMU's driver with
    /// ramfb. Removes ramfb from `-set` and `qemu:override`.
    pub(crate) fn set_ramfb(&mut self, on: bool) {
        self.set.remove("ramfb");
        self.properties.remove("ramfb");
        self.mistyped.remove("ramfb");
        self.ramfb = on;
        self.ramfb_asked = on;
    }

    /// Returns the value that `-set`, `qemu:override` or `-global`, in this order, gives to a
    /// property; `None` if none of them does.
    #[must_use]
    pub fn said(&self, property: &str) -> Option<&str> {
        let own = self.own(property);
        own.or_else(|| self.globals.get(property).map(AsRef::as_ref))
    }

    /// Returns the value that `-set` or `qemu:override` gives to a property of this device alone.
    pub(crate) fn own(&self, property: &str) -> Option<&str> {
        let value = self.set.get(property);
        let value = value.or_else(|| self.properties.get(property));
        value.map(String::as_str)
    }

    /// Returns QEMU's driver for the device: the one that `-set` or `qemu:override` names, or else
    /// libvirt's. The attribute `ramfb`, if libvirt passes it on (`takes_ramfb`), makes libvirt
    /// choose `vfio-pci-nohotplug`, which has ramfb (libvirt src/qemu/qemu_command.c,
    /// `qemuBuildHostdevMdevModelTypeString`).
    pub fn driver(&self, takes_ramfb: bool) -> &str {
        match self.own("driver") {
            Some(driver) => driver,
            None if self.ramfb_asked && takes_ramfb => "vfio-pci-nohotplug",
            None => "vfio-pci",
        }
    }

    /// Returns whether QEMU gets a value for ramfb, on or off. `takes_ramfb` is true if libvirt
    /// passes the attribute on.
    pub(crate) fn says_ramfb(&self, takes_ramfb: bool) -> bool {
        self.said("ramfb").is_some() || self.ramfb_asked && takes_ramfb
    }

    /// Returns whether QEMU gets a value for ramfb although the device's driver, the one for
    /// hot-pluggable devices, has no ramfb. `takes_ramfb` is true if libvirt passes the attribute
    /// on.
    pub(crate) fn lacks_ramfb(&self, takes_ramfb: bool) -> bool {
        self.driver(takes_ramfb) == "vfio-pci" && self.says_ramfb(takes_ramfb)
    }

    /// Returns whether [`said`](Self::said) switches a property on; `None` if it has no value.
    pub(crate) fn switch(&self, property: &str) -> Option<bool> {
        Some(matches!(self.said(property)?, "on" | "true" | "yes"))
    }
}

pub(super) fn vgpus(
    domain: &Domain<'_, '_>,
    known: &dyn Fn(DeviceId) -> Known,
    abilities: &Abilities,
) -> Vec<Vgpu> {
    let mut all = Vec::new();
    let is_overridden = reads_override(abilities) != Some(false);
    let mut overridden: HashMap<&str, Vec<&Property<'_, '_>>> = HashMap::new();
    for property in &domain.properties {
        let own = overridden.entry(property.alias.as_str()).or_default();
        own.push(property);
    }
    for (place, hostdev) in domain.hostdevs.iter().enumerate() {
        // libvirt refuses an alias that two hostdevs have. Here the first gets the properties.
        let own = overridden.remove(hostdev.alias.as_str());
        let own = || own.iter().flatten().filter(|_| is_overridden);
        let properties: BTreeMap<String, String> = own()
            // A removed property has QEMU's default, which is off for display and ramfb. Without
            // the attribute, there is no ramfb to remove.
            .filter(|p| match p.name.as_str() {
                "display" => true,
                "ramfb" => p.kind != "remove" || hostdev.ramfb == Some(Switch::On),
                _ => p.kind != "remove",
            })
            .map(|p| match p.kind.as_str() {
                "remove" => (p.name.clone(), "off".to_owned()),
                _ => (p.name.clone(), p.value.clone().unwrap_or_default()),
            })
            .collect();
        let on = |switch| switch == Some(Switch::On);
        let mut vgpu = Vgpu {
            place,
            id: hostdev.id,
            model: hostdev.model.clone(),
            is_pci: hostdev.model == "vfio-pci",
            settings: hostdev.settings.clone(),
            says_display: hostdev.display.is_some(),
            display: on(hostdev.display),
            asked: on(hostdev.display),
            ramfb: on(hostdev.ramfb),
            ramfb_asked: on(hostdev.ramfb),
            mistyped: BTreeMap::new(),
            properties,
            set: BTreeMap::new(),
            globals: BTreeMap::new(),
            known: known(hostdev.id),
            lost: None,
            rebound: false,
        };
        // If a property occurs several times, the last one counts, as for libvirt.
        for property in own() {
            let value = property.value.as_deref().unwrap_or_default();
            match mistake(&property.name, &property.kind, value) {
                Some(words) => vgpu.mistyped.insert(property.name.clone(), words),
                None => vgpu.mistyped.remove(&property.name),
            };
        }
        if vgpu.is_rebound() {
            vgpu.rebound = true;
            let display = &vgpu.known.finding.facts.display;
            let is_vfio = *display != Display::Unknown(Reason::NoDriver);
            if is_vfio && *display != Display::NONE {
                vgpu.lost = vgpu.known.driver().map(str::to_owned);
            }
            let evidence = Evidence {
                source: Some("managed='yes': libvirt binds it to vfio-pci before QEMU runs".into()),
                ..Evidence::by(Method::Rule)
            };
            let facts = Facts::of(Display::NONE);
            vgpu.known.finding = resolve(vec![(facts, evidence)], Reason::NoDriver);
        }
        all.push(vgpu);
    }
    all
}
