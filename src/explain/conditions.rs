//! Decides which devices a message is about, and which conditions of `messages.toml` hold.

use crate::device::evidence::Method;
use crate::device::id::DeviceId;
use crate::explain::Found;
use crate::explain::doctor::Host;
use crate::explain::messages::{Condition, Symptom, Tell};
use crate::explain::situation::Situation;
use crate::plan::commands::Names;
use crate::predict::screens::Vgpu;
use crate::publish::gpus::{GpuEntry, INTEL, NVIDIA};
use crate::publish::inventory::DeviceEntry;

/// A message that was found and its symptom, with the host and the domain, on which conditions
/// depend.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub found: &'a Found,
    pub symptom: &'static Symptom,
    pub host: &'a Host,
    pub names: &'a Names,
    pub domain: Option<&'a Situation>,
}

impl<'a> About<'a> {
    pub(super) fn tells(&self, fact: Tell) -> bool {
        self.symptom.tell.contains(&fact)
    }

    fn vgpus(&self) -> impl Iterator<Item = &'a Vgpu> + use<'a> {
        let plan = self.domain.and_then(|domain| domain.plan.as_ref());
        plan.into_iter().flat_map(|plan| &plan.screens.vgpus)
    }

    /// Returns the device that the message names. If the message names none, returns the domain's
    /// devices with `display='on'`, but none unless the symptom has [`Tell::Displays`].
    pub(super) fn devices(&self) -> Vec<DeviceId> {
        if let Some(id) = self.found.device {
            return vec![id];
        }
        let about_displays = self.tells(Tell::Displays);
        let asked = self.vgpus().filter(|vgpu| about_displays && vgpu.display);
        asked.map(|vgpu| vgpu.id).collect()
    }

    /// Returns a device's entry in the host's inventory; `None` if the inventory has none.
    pub(super) fn entry(&self, id: DeviceId) -> Option<&'a DeviceEntry> {
        let mut devices = self.host.inventory.devices.iter();
        devices.find(|entry| entry.id == id)
    }

    /// Returns the graphics card with this PCI address; `None` if the device is no graphics card.
    fn card(&self, id: DeviceId) -> Option<&'a GpuEntry> {
        let mut gpus = self.host.inventory.gpus.iter();
        gpus.find(|gpu| gpu.address == id.to_string())
    }

    /// Returns whether a condition is true; false if the host or domain is not known well enough.
    pub(super) fn holds(&self, condition: Condition) -> bool {
        let devices = self.devices();
        match condition {
            Condition::Ramfb => {
                let mut vgpus = self.vgpus();
                vgpus.any(|vgpu| vgpu.display && vgpu.ramfb)
            }
            Condition::Whole if self.found.device.is_some() => {
                devices.iter().any(|id| self.is_whole(*id))
            }
            Condition::Whole => {
                let shows = self.vgpus().any(|vgpu| vgpu.display);
                !shows && self.vgpus().any(|vgpu| self.is_whole(vgpu.id))
            }
            Condition::Pci | Condition::Mdev => {
                let is_pci = |id: &DeviceId| matches!(id, DeviceId::Pci(_));
                let pci = condition == Condition::Pci;
                !devices.is_empty() && devices.iter().all(|id| is_pci(id) == pci)
            }
            Condition::Nvidia => devices.iter().any(|id| self.is_of(*id, NVIDIA, "nvidia")),
            Condition::Intel => devices.iter().any(|id| self.is_of(*id, INTEL, "i915")),
            Condition::Ruled => devices.iter().any(|id| self.is_ruled(*id)),
            Condition::NvidiaRenders => {
                let nodes = &self.host.render_nodes;
                let is_nvidias = |driver: &Option<String>| driver.as_deref() == Some("nvidia");
                !nodes.is_empty() && nodes.iter().all(|node| is_nvidias(&node.driver))
            }
        }
    }

    /// Returns whether a device is a whole graphics card of the host.
    fn is_whole(&self, id: DeviceId) -> bool {
        self.card(id).is_some()
    }

    fn is_ruled(&self, id: DeviceId) -> bool {
        let in_domain = self.vgpus().find(|vgpu| vgpu.id == id);
        let finding = in_domain
            .map(|vgpu| &vgpu.known.finding)
            .or_else(|| self.entry(id).map(|entry| &entry.finding));
        finding.is_some_and(|finding| {
            let by = finding.evidence.as_ref().map(|evidence| evidence.method);
            finding.facts.display.preferred().is_some()
                && matches!(by, Some(Method::Rule | Method::Sibling))
        })
    }

    /// Returns whether a device is a vendor's, by its own vendor ID, its type or its parent card.
    /// `types` is the prefix of the vendor's type names.
    fn is_of(&self, id: DeviceId, vendor: u16, types: &str) -> bool {
        let card = |id: DeviceId| self.card(id).is_some_and(|card| is_vendors(card, vendor));
        let Some(entry) = self.entry(id) else {
            return card(id);
        };
        let parent = entry.parent.as_deref().and_then(|name| name.parse().ok());
        let type_id = entry.type_id.as_deref();
        entry.vendor == Some(vendor)
            || type_id.is_some_and(|type_id| type_id.starts_with(types))
            || parent.is_some_and(card)
    }
}

fn is_vendors(card: &GpuEntry, vendor: u16) -> bool {
    let ids = card.ids.as_deref().unwrap_or_default();
    ids.starts_with(&format!("{vendor:04x}:"))
}
