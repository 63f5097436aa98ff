//! Rebuilds libvirt's node-device XML from sysfs.
//!
//! The form and order of elements follow libvirt src/conf/node_device_conf.c,
//! `virNodeDeviceDefFormat`. Elements that only libvirt can know (names from pci.ids, NUMA, PCI
//! Express links) are left out, as libvirt's schema allows.

use std::path::Path;

use crate::device::id::{DeviceId, PciAddress};
use crate::host::sysfs::{MdevType, Parent, Pci};
use crate::publish::capability::wrap;
use crate::publish::inventory::DeviceEntry;
use crate::xml::escape;

/// Returns libvirt's name of the node device (`udevGenerateDeviceName`): each byte that is not a
/// letter or digit becomes `_`. Without `parent`, an mdev's name lacks its end, the parent's name.
pub(crate) fn name_of(id: DeviceId, parent: Option<&str>) -> String {
    match (id, parent) {
        (DeviceId::Mdev(_), Some(parent)) => plain(&format!("mdev_{id}_{parent}")),
        (_, _) => plain(&format!("{}_{id}", id.bus())),
    }
}

/// Returns libvirt's name of the node device of a parent.
pub(crate) fn name_of_parent(parent: &Parent) -> String {
    plain(&format!(
        "{}_{}",
        parent.subsystem.as_deref().unwrap_or("device"),
        parent.name
    ))
}

/// Returns the XML of an mdev. `path` is its place in sysfs if it is active, and `parent_node` the
/// node device that libvirt names as its parent.
pub(crate) fn mdev(entry: &DeviceEntry, path: Option<&Path>, parent_node: &str) -> String {
    let type_id = entry.type_id.as_deref().unwrap_or_default();
    let parent = entry.parent.as_deref();
    let parts = [
        Some(format!("<type id='{}'/>", escape(type_id))),
        Some(format!("<uuid>{}</uuid>", entry.id)),
        parent.map(|parent| format!("<parent_addr>{}</parent_addr>", escape(parent))),
        entry
            .iommu_group
            .map(|group| format!("<iommuGroup number='{group}'/>")),
    ];
    let capability = wrap("capability type='mdev'", parts.into_iter().flatten());
    let driver = entry.driver.as_deref();
    device(&entry.nodedev, path, parent_node, driver, Some(capability))
}

/// Returns the XML of a PCI device. `path`: its directory in sysfs. `driver`: the bound driver.
/// `parent`: the PCI device as a parent, if it offers mdev types.
pub(crate) fn pci(pci: &Pci, path: &Path, driver: Option<&str>, parent: Option<&Parent>) -> String {
    let PciAddress {
        domain,
        bus,
        device: slot,
        function,
    } = pci.address;
    let mut parts = vec![
        format!("<class>0x{:06x}</class>", pci.class & 0xff_ffff),
        format!("<domain>{domain}</domain>"),
        format!("<bus>{bus}</bus>"),
        format!("<slot>{slot}</slot>"),
        format!("<function>{function}</function>"),
        format!("<product id='0x{:04x}'/>", pci.device),
        format!("<vendor id='0x{:04x}'/>", pci.vendor),
    ];
    let addresses = |all: &[PciAddress]| all.iter().map(|one| address(*one)).collect::<Vec<_>>();
    if let Some(physfn) = pci.physfn {
        parts.push(wrap("capability type='phys_function'", [address(physfn)]));
    }
    if !pci.virtfns.is_empty() || pci.total_vfs.is_some_and(|total| total > 0) {
        let count = pci.total_vfs.map(|total| format!(" maxCount='{total}'"));
        let start = format!(
            "capability type='virt_functions'{}",
            count.unwrap_or_default()
        );
        parts.push(wrap(&start, addresses(&pci.virtfns)));
    }
    parts.extend(parent.and_then(mdev_types));
    let group = pci.iommu_group.as_ref();
    if let Some((group, members)) = group.filter(|(_, members)| !members.is_empty()) {
        parts.push(wrap(
            &format!("iommuGroup number='{group}'"),
            addresses(members),
        ));
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
    let capability = wrap("capability type='pci'", parts);
    device(&name, Some(path), &above, driver, Some(capability))
}

/// Returns the XML of a parent that is not a PCI device.
///
/// libvirt has such nodes only for the channel subsystem, the AP matrix and a class named mtty.
/// libvirt gives mtty an `mdev_types` capability that libvirt's own schema does not allow; this XML
/// leaves it out.
pub(crate) fn other_parent(parent: &Parent) -> String {
    let (name, driver) = (name_of_parent(parent), parent.bound_driver.as_deref());
    device(&name, Some(&parent.path), "computer", driver, None)
}

/// The device APIs that libvirt's schema allows. A type with any other device API would make the
/// whole document invalid.
const DEVICE_APIS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

/// Returns the capability with the types that a parent offers; `None` if libvirt can show none.
fn mdev_types(parent: &Parent) -> Option<String> {
    let of_type = |one: &MdevType| {
        let api = one.device_api.as_deref()?;
        let left = one.available_instances?;
        let name = one.name.as_deref();
        let parts = [
            name.map(|name| format!("<name>{}</name>", escape(name))),
            Some(format!("<deviceAPI>{}</deviceAPI>", escape(api))),
            Some(format!("<availableInstances>{left}</availableInstances>")),
        ];
        let start = format!("type id='{}'", escape(&one.id));
        let is_known = DEVICE_APIS.contains(&api);
        is_known.then(|| wrap(&start, parts.into_iter().flatten()))
    };
    let types: Vec<String> = parent.types.iter().filter_map(of_type).collect();
    (!types.is_empty()).then(|| wrap("capability type='mdev_types'", types))
}

fn device(
    name: &str,
    path: Option<&Path>,
    parent: &str,
    driver: Option<&str>,
    capability: Option<String>,
) -> String {
    let path = path.map(Path::to_string_lossy);
    let name_of = |name: &str| format!("<name>{}</name>", escape(name));
    let parts = [
        Some(name_of(name)),
        path.map(|path| format!("<path>{}</path>", escape(&path))),
        Some(format!("<parent>{}</parent>", escape(parent))),
        driver.map(|driver| wrap("driver", [name_of(driver)])),
        capability,
    ];
    wrap("device", parts.into_iter().flatten()) + "\n"
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
