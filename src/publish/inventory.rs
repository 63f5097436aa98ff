//! Joins all knowledge about a host's devices and types to an inventory.

mod sources;

use std::collections::HashMap;

use serde::Serialize;

use crate::device::evidence::{Evidence, Finding, Method, resolve};
use crate::device::facts::{Facts, Reason};
use crate::device::id::{DeviceId, display_as_serde};
use crate::device::record::{Circumstances, Record};
use crate::device::rules::{Bus, Open, Rule, Rules, Subject};
use crate::host::Warning;
use crate::host::mdevctl::Definition;
use crate::host::sysfs::{Device, Host, MdevType, Parent, Pci};
use crate::predict::hints::{Hint, hints};
use crate::predict::screens::{GpuPart, Here, Known};
use crate::publish::gpus::{self, GpuEntry};

pub use sources::{Reading, Sources, recorded};

/// The state of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The device exists.
    Active,
    /// mdevctl has a definition of the device, but the device does not exist.
    Defined,
}

display_as_serde!(State);

/// A device and the knowledge about it. Its JSON is an entry of `gfxplane list --json`.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceEntry {
    /// The device's UUID or PCI address.
    pub id: DeviceId,
    /// The device's bus: `mdev` or `pci`.
    pub bus: &'static str,
    /// libvirt's name of the device as a node device.
    pub nodedev: String,
    /// The device's state: active, or only defined.
    pub state: State,
    /// True if mdevctl has a definition of the device, active or not.
    pub defined: bool,
    /// The sysfs name of an mdev's parent; `None` for a PCI device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The id of the mdev's type, or of the vGPU's type on a virtual function, if there is one.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_id: Option<String>,
    /// The `device_api` of the mdev's type, such as `vfio-pci`; `None` for a PCI device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_api: Option<String>,
    /// The vfio driver that is bound to the device; `None` if no driver is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The version of the driver's module or, if the module has no version, its srcversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The number of the device's IOMMU group, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu_group: Option<u32>,
    /// The name of the device's node in `/dev/vfio/devices`, if the device has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdev: Option<String>,
    /// The vendor ID of a PCI device; `None` for an mdev.
    #[serde(skip)]
    pub vendor: Option<u16>,
    /// A whole graphics card or a virtual function of one; `None` if the device is neither.
    #[serde(skip)]
    pub gpu: Option<GpuPart>,
    /// The render node of the GPU behind the device, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub render_node: Option<String>,
    /// The facts about the device, and their evidence.
    #[serde(flatten)]
    pub finding: Finding,
    /// The options that the display needs or allows, as they follow from the facts.
    pub require: Vec<Hint>,
    /// The name of the rule that applies to the device, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The permission by the rules to open the device.
    pub open: Open,
}

/// An mdev type of one parent. Its JSON is an entry of `gfxplane list --json`.
#[derive(Debug, Clone, Serialize)]
pub struct TypeEntry {
    /// The sysfs name of the parent that offers the type.
    pub parent: String,
    /// The type's id, such as `nvidia-222`.
    #[serde(rename = "type")]
    pub type_id: String,
    /// The type's name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The driver's description of the type, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The type's `device_api`: `vfio-pci`, `vfio-ccw`, `vfio-ap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_api: Option<String>,
    /// The number of devices of the type that can still be created; `None` if it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_instances: Option<u32>,
    /// The facts about devices of this type, and their evidence.
    #[serde(flatten)]
    pub finding: Finding,
    /// The options that the display needs or allows, as they follow from the facts.
    pub require: Vec<Hint>,
    /// The name of the rule that applies to the type, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A host and all knowledge about its devices and types.
#[derive(Debug, Clone, Serialize)]
pub struct Inventory {
    /// The kernel's release.
    pub kernel: String,
    /// The active and defined devices, sorted by id.
    pub devices: Vec<DeviceEntry>,
    /// The types, sorted by parent and id.
    pub types: Vec<TypeEntry>,
    /// The graphics cards, sorted by address, whether or not they offer a vGPU.
    pub gpus: Vec<GpuEntry>,
    /// Warnings about files that could not be read.
    pub warnings: Vec<Warning>,
}

impl From<DeviceEntry> for Known {
    fn from(entry: DeviceEntry) -> Self {
        Known {
            finding: entry.finding,
            render_node: entry.render_node,
            here: Some(match entry.state {
                State::Active => Here::Present {
                    driver: entry.driver,
                    vendor: entry.vendor,
                    gpu: entry.gpu,
                },
                State::Defined => Here::Absent,
            }),
        }
    }
}

/// Makes the inventory of a host from the sources that were read. If several parents have a
/// definition of one inactive device, the first definition counts.
pub fn inventory(sources: &Sources) -> Inventory {
    let host = &sources.host;
    let mut devices: Vec<DeviceEntry> = host
        .devices
        .iter()
        .map(|device| active(sources, device))
        .collect();
    let mut places: HashMap<DeviceId, usize> = devices
        .iter()
        .enumerate()
        .map(|(place, entry)| (entry.id, place))
        .collect();
    for definition in &sources.definitions {
        let id = DeviceId::Mdev(definition.uuid);
        match places.get(&id) {
            // Several parents may have a definition of one UUID. If the device is active, it counts
            // as defined; otherwise the first definition counts.
            Some(place) => devices[*place].defined = true,
            None => {
                places.insert(id, devices.len());
                devices.push(defined(sources, definition));
            }
        }
    }
    devices.sort_by_key(|entry| entry.id);
    let types = host
        .parents
        .iter()
        .flat_map(|parent| parent.types.iter().map(move |t| (parent, t)));
    Inventory {
        kernel: host.kernel.clone(),
        devices,
        types: types
            .map(|(parent, of_type)| type_entry(sources, parent, of_type))
            .collect(),
        gpus: host.gpus.iter().map(|gpu| gpus::entry(host, gpu)).collect(),
        warnings: host.warnings.clone(),
    }
}

/// Returns the rule that applies to an active device, if one does.
pub(crate) fn rule_for<'a>(rules: &'a Rules, host: &Host, device: &Device) -> Option<&'a Rule> {
    rules.find(&Subject {
        bus: Some(match device.id {
            DeviceId::Mdev(_) => Bus::Mdev,
            DeviceId::Pci(_) => Bus::Pci,
        }),
        driver: device.driver.as_deref(),
        parent_driver: device.parent_driver.as_deref(),
        type_id: device.type_id.as_deref(),
        device_api: device.device_api.as_deref(),
        attributes: Some(&device.attributes),
        ..subject(device.pci.as_ref(), host)
    })
}

/// Returns the part of a rule's [`Subject`] that a PCI device or an mdev's PCI parent has.
fn subject<'s>(pci: Option<&Pci>, host: &'s Host) -> Subject<'s> {
    Subject {
        address: pci.map(|pci| pci.address),
        vendor: pci.map(|pci| pci.vendor),
        class: pci.map(|pci| pci.class),
        kernel: &host.kernel,
        ..Subject::default()
    }
}

/// Returns the entry of one active device. Its field `defined` is always false; [`inventory`] sets
/// it.
pub fn active(sources: &Sources, device: &Device) -> DeviceEntry {
    let (host, memory) = (&sources.host, &sources.memory);
    let circumstances = device.circumstances(host);
    let holds = |record: &&Record| record.circumstances == circumstances;
    let record = memory.devices.get(&device.id).filter(holds);
    let qemu = memory.qemu.get(&device.id).filter(holds);
    let type_id = device.type_id.as_ref();
    let sibling = type_id.and_then(|type_id| memory.types.get(type_id));
    let sibling = sibling.filter(holds);
    let sibling = sibling.filter(|record| record.facts.display.is_answer());
    let rule = rule_for(&sources.rules, host, device);
    let nothing = if device.driver.is_none() {
        Reason::NoDriver
    } else {
        Reason::NotProbed
    };
    let finding = finding(
        device.kernel_facts.as_ref(),
        host,
        record.into_iter().chain(qemu),
        sibling,
        rule,
        nothing,
    );
    DeviceEntry {
        id: device.id,
        bus: device.id.bus(),
        nodedev: crate::publish::node_device::name_of(device.id, device.parent.as_deref()),
        state: State::Active,
        defined: false,
        parent: device.parent.clone(),
        type_id: device.type_id.clone(),
        device_api: device.device_api.clone(),
        driver: device.driver.clone(),
        driver_version: device.driver_version.clone(),
        iommu_group: device.iommu_group,
        cdev: device.cdev.clone(),
        require: hints(&finding.facts, device.render_node.as_deref()),
        vendor: device.pci.as_ref().map(|pci| pci.vendor),
        gpu: device
            .pci
            .as_ref()
            .and_then(|pci| GpuPart::of(pci.class, pci.physfn.is_some())),
        render_node: device.render_node.clone(),
        finding,
        rule: rule.map(|rule| rule.name.clone()),
        open: rule.map_or(Open::Named, |rule| rule.open),
    }
}

/// Returns the entry of one device that mdevctl has defined, and that is not active.
pub(crate) fn defined(sources: &Sources, definition: &Definition) -> DeviceEntry {
    let host = &sources.host;
    let parent = host
        .parents
        .iter()
        .find(|parent| parent.name == definition.parent);
    let of_type =
        parent.and_then(|parent| parent.types.iter().find(|t| t.id == definition.type_id));
    let rule = rule_for_type(sources, parent, &definition.type_id, of_type);
    let finding = finding(
        of_type.and_then(|t| t.kernel_facts.as_ref()),
        host,
        [],
        sibling_of_type(sources, &definition.type_id),
        rule,
        Reason::NotActive,
    );
    let render_node = parent.and_then(|parent| parent.render_node.clone());
    let id = DeviceId::Mdev(definition.uuid);
    DeviceEntry {
        id,
        bus: "mdev",
        nodedev: crate::publish::node_device::name_of(id, Some(&definition.parent)),
        state: State::Defined,
        defined: true,
        parent: Some(definition.parent.clone()),
        type_id: Some(definition.type_id.clone()),
        device_api: of_type.and_then(|t| t.device_api.clone()),
        driver: None,
        driver_version: None,
        iommu_group: None,
        cdev: None,
        require: hints(&finding.facts, render_node.as_deref()),
        vendor: None,
        gpu: None,
        render_node,
        finding,
        rule: rule.map(|rule| rule.name.clone()),
        open: rule.map_or(Open::Named, |rule| rule.open),
    }
}

/// Returns the entry of one type of a parent.
pub(crate) fn type_entry(sources: &Sources, parent: &Parent, of_type: &MdevType) -> TypeEntry {
    let rule = rule_for_type(sources, Some(parent), &of_type.id, Some(of_type));
    let finding = finding(
        of_type.kernel_facts.as_ref(),
        &sources.host,
        [],
        sibling_of_type(sources, &of_type.id),
        rule,
        Reason::NotProbed,
    );
    TypeEntry {
        parent: parent.name.clone(),
        type_id: of_type.id.clone(),
        name: of_type.name.clone(),
        description: of_type.description.clone(),
        device_api: of_type.device_api.clone(),
        available_instances: of_type.available_instances,
        require: hints(&finding.facts, parent.render_node.as_deref()),
        finding,
        rule: rule.map(|rule| rule.name.clone()),
    }
}

/// Returns the rule that applies to an mdev type, if one does, even if the host lacks the type.
pub(crate) fn rule_for_type<'a>(
    sources: &'a Sources,
    parent: Option<&Parent>,
    type_id: &str,
    of_type: Option<&MdevType>,
) -> Option<&'a Rule> {
    sources.rules.find(&Subject {
        bus: Some(Bus::Mdev),
        parent_driver: parent.and_then(|parent| parent.driver.as_deref()),
        type_id: Some(type_id),
        device_api: of_type.and_then(|t| t.device_api.as_deref()),
        ..subject(parent.and_then(|parent| parent.pci.as_ref()), &sources.host)
    })
}

/// Returns the record of a device of this type. `None` unless there is a record that has an answer,
/// and that was made under this kernel and with the driver that is loaded now.
pub(crate) fn sibling_of_type<'a>(sources: &'a Sources, type_id: &str) -> Option<&'a Record> {
    let record = sources.memory.types.get(type_id)?;
    // No `..`: whoever adds a circumstance decides here whether it counts for siblings.
    let Circumstances {
        boot_id: _,
        kernel,
        driver,
        driver_version,
        type_id: _,
    } = &record.circumstances;
    let loaded = sources.host.mdev_drivers.get(driver.as_deref()?)?;
    let holds = *kernel == sources.host.kernel && loaded == driver_version;
    (holds && record.facts.display.is_answer()).then_some(record)
}

/// Joins what the sources say. `nothing` is the reason if no source says anything.
fn finding<'r>(
    kernel: Option<&Facts>,
    host: &Host,
    records: impl IntoIterator<Item = &'r Record>,
    sibling: Option<&Record>,
    rule: Option<&Rule>,
    nothing: Reason,
) -> Finding {
    let mut sources = Vec::new();
    if let Some(facts) = kernel {
        let evidence = Evidence {
            kernel: Some(host.kernel.clone()),
            ..Evidence::by(Method::Kernel)
        };
        sources.push((facts.clone(), evidence));
    }
    for record in records {
        sources.push((record.facts.clone(), record.evidence()));
    }
    if let Some(record) = sibling {
        // The offsets and interrupts are those of the sibling, not of this device.
        let facts = Facts {
            device: None,
            ..record.facts.clone()
        };
        sources.push((facts, record.evidence_by(Method::Sibling)));
    }
    if let Some((rule, facts)) = rule.and_then(|rule| rule.facts.clone().map(|facts| (rule, facts)))
    {
        sources.push((facts, rule.evidence()));
    }
    resolve(sources, nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::facts::Display;
    use crate::device::record::ByQemu;
    use crate::host::{Root, run};
    use crate::publish::export;

    /// Makes a copy of the recorded lab. Device 8 was in use during its probe, and no device of its
    /// type has answered.
    fn lab() -> (tempfile::TempDir, Root) {
        let keep = crate::host::lab();
        let root = Root::recorded(keep.path());
        (keep, root)
    }

    fn id(number: u32) -> DeviceId {
        format!("c1a20000-0000-4000-8000-{number:012}")
            .parse()
            .unwrap()
    }

    /// A domain may name thousands of devices that are not here. Rules and definitions used to be
    /// read again for each.
    #[test]
    fn what_all_devices_share_is_read_once() {
        let (_keep, root) = lab();
        let reading = Reading::new(&root);
        let known = |reading: &Reading| {
            let known = reading.known(id(4711), &mut Vec::new());
            known.finding.evidence.is_some()
        };
        assert!(!known(&reading), "nobody knows it");
        let text = r#"{"mdev_type":"mdpy-vga","start":"manual","attrs":[]}"#;
        root.put(&format!("etc/mdevctl.d/mdpy/{}", id(4711)), text);
        assert!(!known(&reading), "it was not read again");
        assert!(known(&Reading::new(&root)), "by its type");
    }

    /// Stores a statement of QEMU about a device in its present circumstances.
    fn qemu_says(root: &Root, id: DeviceId, display: Display) -> Record {
        let (sources, device) = Sources::read_device(root, id);
        let circumstances = device.unwrap().circumstances(&sources.host);
        let qemu = ByQemu {
            version: "10.0.13".parse().ok(),
            learned_from: None,
        };
        let said = Record::of_qemu(id, circumstances, display, qemu);
        run::write_record(root, &said, None).unwrap();
        said
    }

    #[test]
    fn what_qemu_said_is_of_one_device_and_no_measurement() {
        let (_keep, root) = lab();
        let before = Inventory {
            devices: Vec::new(),
            ..inventory(&Sources::read(&root))
        };
        let rules = export::export(&Sources::read(&root));
        let said = qemu_says(&root, id(8), Display::from_answers(true, false));
        let known = Reading::new(&root).known(id(8), &mut Vec::new());
        assert_eq!(known.finding.facts.display, said.facts.display);
        let evidence = known.finding.evidence.as_ref().unwrap();
        assert_eq!(evidence.method, Method::Qemu);
        assert_eq!(evidence.qemu, said.qemu.unwrap().version);
        assert!(!known.is_measured());
        assert_eq!(
            known.finding.attempt.unwrap().display,
            Display::Unknown(Reason::InUse)
        );
        // QEMU's statement changes no type, in any list or rule.
        let after = Inventory {
            devices: Vec::new(),
            ..inventory(&Sources::read(&root))
        };
        let json = |inventory: &Inventory| serde_json::to_value(inventory).unwrap();
        assert_eq!(json(&before), json(&after));
        assert_eq!(
            format!("{rules:?}"),
            format!("{:?}", export::export(&Sources::read(&root)))
        );
    }

    #[test]
    fn what_qemu_said_holds_as_long_as_a_record_does() {
        let (_keep, root) = lab();
        let mut said = qemu_says(&root, id(8), Display::NONE);
        let method = |root: &Root| {
            let known = Reading::new(root).known(id(8), &mut Vec::new());
            known.finding.evidence.map(|evidence| evidence.method)
        };
        assert_eq!(method(&root), Some(Method::Qemu));
        said.circumstances.boot_id = "another".into();
        run::write_record(&root, &said, None).unwrap();
        assert_eq!(method(&root), Some(Method::Probe), "in-use");
    }
}
