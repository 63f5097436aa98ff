//! Writes traits for OpenStack Nova: a file for its directory provider_config.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::device::id::DeviceId;
use crate::publish::inventory::{Inventory, Sources};
use crate::publish::node_device::name_of;

/// The greatest length of a provider's name that Nova and Placement accept, in characters
/// (nova/compute/provider_config.py, placement/schemas/resource_provider.py).
const LONGEST: usize = 200;

/// Returns a provider.yaml that gives traits to the children of the compute node `node`:
/// `CUSTOM_GFXPLANE_REGION`, `…_DMABUF`, `…_DMABUF_REGION` or `…_NONE`. Also returns a reason for
/// each child that is left out: a trait must be true of everything that a provider offers.
///
/// A GPU with mediated devices is the child `NODE_pci_0000_41_00_0` (nova/virt/libvirt/driver.py,
/// `_update_provider_tree_for_vgpu`). A PCI device is `NODE_0000:41:00.0`, and virtual functions
/// are inventory of their physical function's provider (nova/compute/pci_placement_translator.py).
/// Nova ignores providers that it does not know. But nova-compute does not start if it can't read a
/// file, or if two files name one provider. So this file names each child once, and never the node
/// itself, which another file may name.
pub(crate) fn nova(sources: &Sources, inventory: &Inventory, node: &str) -> (String, Vec<String>) {
    let mut children: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut add = |name: String, words: Vec<&str>| {
        let of_child = children.entry(format!("{node}_{name}")).or_default();
        of_child.insert(words.join("-"));
    };
    for entry in &inventory.types {
        if let Ok(parent @ DeviceId::Pci(_)) = entry.parent.parse() {
            add(name_of(parent, None), entry.finding.facts.display.words());
        }
    }
    let gpus = inventory.devices.iter().filter(|entry| entry.gpu.is_some());
    for entry in gpus {
        let mut devices = sources.host.devices.iter();
        let device = devices.find(|device| device.id == entry.id);
        let pci = device.and_then(|device| device.pci.as_ref());
        if let Some(pci) = pci.filter(|_| matches!(entry.id, DeviceId::Pci(_))) {
            let address = pci.physfn.unwrap_or(pci.address);
            let name = address.to_string().to_uppercase();
            add(name, entry.finding.facts.display.words());
        }
    }
    let mut text = String::from(
        "# The displays of this node's devices (gfxplane export nova), for Nova's provider_config.\n\
         meta:\n  schema_version: '1.0'\nproviders:",
    );
    let mut left_out = Vec::new();
    let mut is_empty = true;
    for (name, words) in children {
        let words: Vec<String> = words.into_iter().collect();
        match &words[..] {
            _ if name.chars().count() > LONGEST => left_out.push(format!(
                "{name}: Placement accepts names of at most {LONGEST} characters"
            )),
            [word] if word != "unknown" => {
                let word = word.to_uppercase().replace('-', "_");
                let name = name.replace('\'', "''");
                let _ = write!(
                    text,
                    "\n- identification:\n    name: '{name}'\n  traits:\n    additional:\n    - CUSTOM_GFXPLANE_{word}"
                );
                is_empty = false;
            }
            _ => left_out.push(format!("{name}: its displays are {}", words.join(", "))),
        }
    }
    text.push_str(if is_empty { " []\n" } else { "\n" });
    (text, left_out)
}
