//! Finds a host's vfio devices and their parents as node devices, without asking libvirt.

use std::collections::HashSet;

use crate::device::id::{DeviceId, last_name};
use crate::host::mdevctl::Definition;
use crate::host::sysfs::{Device, Parent};
use crate::publish::inventory::{
    DeviceEntry, Sources, State, TypeEntry, active, defined, type_entry,
};
use crate::publish::{capability, node_device};

/// A vfio device or the parent of mdevs, as a node device.
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// A vfio device that exists.
    Active(&'a Device),
    /// An mdev that mdevctl has defined, and that is not active.
    Defined(&'a Definition),
    /// A device on which mdevs can be created.
    Parent(&'a Parent),
}

/// Returns all node devices of a host that [`Node`] has, with libvirt's names, sorted by name.
pub fn nodes(sources: &Sources) -> Vec<(String, Node<'_>)> {
    let host = &sources.host;
    let there: HashSet<DeviceId> = host.devices.iter().map(|device| device.id).collect();
    let active = host.devices.iter().map(|d| {
        (
            node_device::name_of(d.id, d.parent.as_deref()),
            Node::Active(d),
        )
    });
    let defined = sources
        .definitions
        .iter()
        .filter(|definition| !there.contains(&DeviceId::Mdev(definition.uuid)))
        .map(|definition| {
            let id = DeviceId::Mdev(definition.uuid);
            (
                node_device::name_of(id, Some(&definition.parent)),
                Node::Defined(definition),
            )
        });
    let parents = host
        .parents
        .iter()
        .filter(|parent| !parent.types.is_empty())
        .map(|parent| (node_device::name_of_parent(parent), Node::Parent(parent)));
    let mut nodes: Vec<_> = active.chain(defined).chain(parents).collect();
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
                Node::Active(device) => wanted == Some(device.id),
                Node::Defined(definition) => wanted == Some(DeviceId::Mdev(definition.uuid)),
                Node::Parent(parent) => {
                    parent.name == text
                        || parent
                            .pci
                            .as_ref()
                            .is_some_and(|pci| wanted == Some(DeviceId::Pci(pci.address)))
                }
            }
    };
    nodes(sources).into_iter().find(means)
}

impl Node<'_> {
    /// Returns libvirt's XML of the node device, rebuilt from sysfs ([`node_device`]).
    pub fn xml(&self, sources: &Sources) -> String {
        match self {
            Node::Active(active) => match (active.id, &active.pci) {
                (DeviceId::Pci(_), Some(pci)) => {
                    node_device::pci(pci, &active.path, active.driver.as_deref(), None)
                }
                _ => node_device::mdev(&node_device::Mdev {
                    id: active.id,
                    parent: active.parent.as_deref(),
                    parent_node: &parent_node(sources, active.parent.as_deref()),
                    type_id: active.type_id.as_deref().unwrap_or_default(),
                    active: Some(active),
                }),
            },
            Node::Defined(definition) => node_device::mdev(&node_device::Mdev {
                id: DeviceId::Mdev(definition.uuid),
                parent: Some(&definition.parent),
                parent_node: &parent_node(sources, Some(&definition.parent)),
                type_id: &definition.type_id,
                active: None,
            }),
            Node::Parent(parent) => match &parent.pci {
                Some(pci) => node_device::pci(
                    pci,
                    &parent.path,
                    parent.bound_driver.as_deref(),
                    Some(parent),
                ),
                None => node_device::other_parent(parent),
            },
        }
    }

    /// Returns the `vfio_display` capability of the node device.
    pub fn capability(&self, sources: &Sources) -> String {
        let of_device = |entry: &DeviceEntry| capability::of_device(&entry.finding, &entry.require);
        match self {
            Node::Active(device) => of_device(&active(sources, device)),
            Node::Defined(definition) => of_device(&defined(sources, definition)),
            Node::Parent(parent) => {
                let types: Vec<TypeEntry> = parent
                    .types
                    .iter()
                    .map(|of_type| type_entry(sources, parent, of_type))
                    .collect();
                let types = types.iter();
                let types = types.map(|t| (t.type_id.as_str(), &t.finding, t.require.as_slice()));
                capability::of_parent(types)
            }
        }
    }

    /// Returns whether the node device is active or exists only as a definition.
    pub fn state(&self) -> State {
        match self {
            Node::Defined(_) => State::Defined,
            Node::Active(_) | Node::Parent(_) => State::Active,
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
