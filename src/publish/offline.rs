//! Finds a host's vfio devices and their parents as node devices, without asking libvirt.

use std::collections::HashSet;

use crate::device::id::{DeviceId, last_name};
use crate::host::sysfs::{Device, Parent};
use crate::publish::inventory::{
    DeviceEntry, Sources, State, TypeEntry, active, defined, type_entry,
};
use crate::publish::{capability, node_device};

/// A vfio device or the parent of mdevs, as a node device.
#[derive(Debug, Clone)]
pub enum Node<'a> {
    /// A vfio device, and what sysfs has of it if it is active.
    Device(Box<DeviceEntry>, Option<&'a Device>),
    /// A device on which mdevs can be created.
    Parent(&'a Parent),
}

/// Returns all node devices of a host that [`Node`] has, with libvirt's names, sorted by name.
pub fn nodes(sources: &Sources) -> Vec<(String, Node<'_>)> {
    let host = &sources.host;
    let there: HashSet<DeviceId> = host.devices.iter().map(|device| device.id).collect();
    let devices = host.devices.iter();
    let devices = devices.map(|device| (active(sources, device), Some(device)));
    let definitions = sources.definitions.iter();
    let definitions = definitions.filter(|one| !there.contains(&DeviceId::Mdev(one.uuid)));
    let definitions = definitions.map(|one| (defined(sources, one), None));
    let devices = devices.chain(definitions).map(|(entry, device)| {
        let name = entry.nodedev.clone();
        (name, Node::Device(Box::new(entry), device))
    });
    let parents = host.parents.iter();
    let parents = parents.filter(|parent| !parent.types.is_empty());
    let parents = parents.map(|one| (node_device::name_of_parent(one), Node::Parent(one)));
    let mut nodes: Vec<_> = devices.chain(parents).collect();
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    // A PCI device may be bound to a vfio driver and also offer types. The entry for the device
    // itself counts.
    nodes.dedup_by(|later, first| later.0 == first.0);
    nodes
}

/// Finds the node device that a user names by libvirt's name, a UUID, a PCI address, or a parent's
/// name or directory in sysfs. Returns it with libvirt's name; `None` if the host has none.
pub fn find<'a>(sources: &'a Sources, text: &str) -> Option<(String, Node<'a>)> {
    let wanted = DeviceId::from_user(text).ok();
    let text = last_name(text);
    let means = |(name, node): &(String, Node<'_>)| {
        name == text
            || match node {
                Node::Device(entry, _) => wanted == Some(entry.id),
                Node::Parent(parent) => {
                    let id = parent.pci.as_ref().map(|pci| DeviceId::Pci(pci.address));
                    parent.name == text || id.is_some_and(|id| wanted == Some(id))
                }
            }
    };
    nodes(sources).into_iter().find(means)
}

impl Node<'_> {
    /// Returns libvirt's XML of the node device, rebuilt from sysfs ([`node_device`]).
    pub fn xml(&self, sources: &Sources) -> String {
        match self {
            Node::Device(entry, device) => {
                let path = device.map(|device| device.path.as_path());
                let pci = device.and_then(|device| device.pci.as_ref());
                match (entry.id, path.zip(pci)) {
                    (DeviceId::Pci(_), Some((path, pci))) => {
                        node_device::pci(pci, path, entry.driver.as_deref(), None)
                    }
                    _ => {
                        let parent = parent_node(sources, entry.parent.as_deref());
                        node_device::mdev(entry, path, &parent)
                    }
                }
            }
            Node::Parent(parent) => match &parent.pci {
                Some(pci) => {
                    let driver = parent.bound_driver.as_deref();
                    node_device::pci(pci, &parent.path, driver, Some(parent))
                }
                None => node_device::other_parent(parent),
            },
        }
    }

    /// Returns the `vfio_display` capability of the node device.
    pub fn capability(&self, sources: &Sources) -> String {
        match self {
            Node::Device(entry, _) => capability::of_device(&entry.finding, &entry.require),
            Node::Parent(parent) => {
                let types = parent.types.iter();
                let types: Vec<TypeEntry> = types
                    .map(|of_type| type_entry(sources, parent, of_type))
                    .collect();
                capability::of_parent(&types)
            }
        }
    }

    /// Returns whether the node device is active or exists only as a definition.
    pub fn state(&self) -> State {
        match self {
            Node::Device(entry, _) => entry.state,
            Node::Parent(_) => State::Active,
        }
    }
}

/// Returns the name of the node device that libvirt has as an mdev's parent: `computer` if libvirt
/// has no node device for `parent`.
fn parent_node(sources: &Sources, parent: Option<&str>) -> String {
    let found = sources
        .host
        .parents
        .iter()
        .find(|known| Some(known.name.as_str()) == parent);
    match found {
        Some(parent) if parent.pci.is_some() || parent.subsystem.as_deref() == Some("mtty") => {
            node_device::name_of_parent(parent)
        }
        _ => "computer".into(),
    }
}
