//! Rebuilds libvirt's node-device XML from sysfs.
//!
//! The form and order of elements follow libvirt src/conf/node_device_conf.c,
//! `virNodeDeviceDefFormat`. Some elements (names from pci.ids, NUMA, PCI Express links) only
//! libvirt can know. They are left out, as libvirt's schema allows.

use std::path::Path;

use crate::device::id::{DeviceId, PciAddress};
use crate::host::sysfs::{Parent, Pci};
use crate::publish::inventory::DeviceEntry;
use crate::xml::escape;

/// Returns libvirt's name of the node device (`udevGenerateDeviceName`): each byte that is not a
/// letter or digit becomes `_`. For an mdev without `parent`, returns the beginning of the name.
pub(crate) fn name_of(id: DeviceId, parent: Option<&str>) -> String {
    match (id, parent) {
        (DeviceId::Mdev(_), Some(parent)) => plain(&format!("mdev_{id}_{parent}")),
        (_, _) => plain(&format!("{}_{id}", id.bus())),
    }
}

/// Returns libvirt's name of a parent's node device.
pub(crate) fn name_of_parent(parent: &Parent) -> String {
    plain(&format!(
        "{}_{}",
        parent.subsystem.as_deref().unwrap_or("device"),
        parent.name
    ))
}

/// Returns the XML of an mdev. `path` is its place in sysfs if it is active, and `parent_node` the node
/// device that libvirt names as its parent.
pub(crate) fn mdev(entry: &DeviceEntry, path: Option<&Path>, parent_node: &str) -> String {
    let mut capability = format!(
        "    <type id='{}'/>\n    <uuid>{}</uuid>\n",
        escape(entry.type_id.as_deref().unwrap_or_default()),
        entry.id
    );
    if let Some(parent) = &entry.parent {
        capability += &format!("    <parent_addr>{}</parent_addr>\n", escape(parent));
    }
    if let Some(group) = entry.iommu_group {
        capability += &format!("    <iommuGroup number='{group}'/>\n");
    }
    device(
        &entry.nodedev,
        path,
        parent_node,
        entry.driver.as_deref(),
        &format!("  <capability type='mdev'>\n{capability}  </capability>\n"),
    )
}

/// Returns the XML of a PCI device. With `parent`, it includes the mdev types that the device
/// offers.
pub(crate) fn pci(pci: &Pci, path: &Path, driver: Option<&str>, parent: Option<&Parent>) -> String {
    let PciAddress {
        domain,
        bus,
        device: slot,
        function,
    } = pci.address;
    let mut capability = format!(
        "    <class>0x{:06x}</class>\n    <domain>{domain}</domain>\n    <bus>{bus}</bus>\n    \
         <slot>{slot}</slot>\n    <function>{function}</function>\n    \
         <product id='0x{:04x}'/>\n    <vendor id='0x{:04x}'/>\n",
        pci.class & 0xff_ffff,
        pci.device,
        pci.vendor
    );
    if let Some(physfn) = pci.physfn {
        let address = address(physfn);
        capability +=
            &format!("    <capability type='phys_function'>\n      {address}\n    </capability>\n");
    }
    if !pci.virtfns.is_empty() || pci.total_vfs.is_some_and(|total| total > 0) {
        let count = pci.total_vfs.map(|total| format!(" maxCount='{total}'"));
        capability += &format!(
            "    <capability type='virt_functions'{}",
            count.unwrap_or_default()
        );
        capability += &match addresses(&pci.virtfns) {
            none if none.is_empty() => "/>\n".to_owned(),
            functions => format!(">\n{functions}    </capability>\n"),
        };
    }
    if let Some(parent) = parent {
        capability.push_str(&mdev_types(parent));
    }
    if let Some((group, members)) = pci
        .iommu_group
        .as_ref()
        .filter(|(_, members)| !members.is_empty())
    {
        capability += &format!(
            "    <iommuGroup number='{group}'>\n{}    </iommuGroup>\n",
            addresses(members)
        );
    }
    let above = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let above = match above.map(str::parse::<PciAddress>) {
        Some(Ok(bridge)) => name_of(DeviceId::Pci(bridge), None),
        _ => "computer".into(),
    };
    let name = name_of(DeviceId::Pci(pci.address), None);
    device(
        &name,
        Some(path),
        &above,
        driver,
        &format!("  <capability type='pci'>\n{capability}  </capability>\n"),
    )
}

/// Returns the XML of a parent that is not a PCI device.
///
/// libvirt has such nodes only for the channel subsystem, the AP matrix and a class named mtty.
/// libvirt gives mtty an `mdev_types` capability that libvirt's own schema does not allow; this XML
/// leaves it out.
pub(crate) fn other_parent(parent: &Parent) -> String {
    device(
        &name_of_parent(parent),
        Some(&parent.path),
        "computer",
        parent.bound_driver.as_deref(),
        "",
    )
}

/// The device APIs that libvirt's schema knows. A type with any other would make the whole
/// document invalid.
const DEVICE_APIS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

fn mdev_types(parent: &Parent) -> String {
    let types = parent.types.iter().filter(|t| {
        let api = t.device_api.as_deref();
        api.is_some_and(|api| DEVICE_APIS.contains(&api)) && t.available_instances.is_some()
    });
    let mut text = String::new();
    for of_type in types {
        text += &format!("      <type id='{}'>\n", escape(&of_type.id));
        if let Some(name) = &of_type.name {
            text += &format!("        <name>{}</name>\n", escape(name));
        }
        text += &format!(
            "        <deviceAPI>{}</deviceAPI>\n        <availableInstances>{}</availableInstances>\n      </type>\n",
            escape(of_type.device_api.as_deref().unwrap_or_default()),
            of_type.available_instances.unwrap_or_default()
        );
    }
    if text.is_empty() {
        return text;
    }
    format!("    <capability type='mdev_types'>\n{text}    </capability>\n")
}

fn device(
    name: &str,
    path: Option<&Path>,
    parent: &str,
    driver: Option<&str>,
    capability: &str,
) -> String {
    let mut text = format!("<device>\n  <name>{}</name>\n", escape(name));
    if let Some(path) = path {
        text += &format!("  <path>{}</path>\n", escape(&path.to_string_lossy()));
    }
    text += &format!("  <parent>{}</parent>\n", escape(parent));
    if let Some(driver) = driver {
        let driver = escape(driver);
        text += &format!("  <driver>\n    <name>{driver}</name>\n  </driver>\n");
    }
    text + capability + "</device>\n"
}

/// Returns addresses as lines.
fn addresses(all: &[PciAddress]) -> String {
    let lines = all.iter().map(|one| format!("      {}\n", address(*one)));
    lines.collect()
}

fn address(address: PciAddress) -> String {
    let PciAddress {
        domain,
        bus,
        device,
        function,
    } = address;
    format!(
        "<address domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{device:02x}' function='0x{function:x}'/>"
    )
}

fn plain(name: &str) -> String {
    name.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                byte as char
            } else {
                '_'
            }
        })
        .collect()
}
