//! Reads the files from which the inventory is made, for a whole host or for one device at a time.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;

use uuid::Uuid;

use super::{active, defined};
use crate::device::evidence::resolve;
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::device::record::Record;
use crate::device::rules::Rules;
use crate::host::mdevctl::Definition;
use crate::host::sysfs::{Device, Host};
use crate::host::{Root, Warning, mdevctl, run, settings, sysfs};
use crate::predict::screens::{Here, Known};

/// The results of earlier probes and starts.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The records of devices that were probed.
    pub devices: HashMap<DeviceId, Record>,
    /// The records of displays that were learned from QEMU. They are no evidence about types.
    pub qemu: HashMap<DeviceId, Record>,
    /// The records of types, by type id. Each comes from a device of the type that answered.
    pub types: HashMap<String, Record>,
}

/// Everything that is read from a host to make its inventory.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The devices, parents and graphics cards in the host's sysfs, and the warnings of the
    /// reading.
    pub host: Host,
    /// mdevctl's definitions of devices.
    pub definitions: Vec<Definition>,
    /// The results of earlier probes and starts.
    pub memory: Memory,
    /// The rules of the package and the administrator.
    pub rules: Rules,
}

impl Sources {
    /// Reads a whole host. Puts the warnings into `host.warnings`.
    pub fn read(root: &Root) -> Self {
        let mut warnings = Vec::new();
        let rules = settings::rules(root, &mut warnings);
        let host = sysfs::read(root, &rules.attribute_paths());
        let definitions = mdevctl::read(root, &mut warnings);
        let ids = host.devices.iter().map(|device| device.id);
        let on_devices = host
            .devices
            .iter()
            .filter_map(|device| device.type_id.clone());
        let on_parents = host
            .parents
            .iter()
            .flat_map(|parent| parent.types.iter().map(|t| t.id.clone()));
        let defined = definitions
            .iter()
            .map(|definition| definition.type_id.clone());
        let types = on_devices.chain(on_parents).chain(defined);
        let memory = remember(root, ids, types, &mut warnings);
        let mut sources = Sources {
            host,
            definitions,
            memory,
            rules,
        };
        sources.host.warnings.append(&mut warnings);
        sources
    }
}

fn remember(
    root: &Root,
    ids: impl Iterator<Item = DeviceId>,
    types: impl Iterator<Item = String>,
    warnings: &mut Vec<Warning>,
) -> Memory {
    let mut memory = Memory::default();
    for id in ids {
        memory
            .devices
            .extend(run::read_record(root, id, warnings).map(|record| (id, record)));
        memory
            .qemu
            .extend(run::read_qemu(root, id, warnings).map(|said| (id, said)));
    }
    let mut seen = std::collections::HashSet::new();
    for type_id in types.filter(|type_id| seen.insert(type_id.clone())) {
        if let Some(record) = run::read_type(root, &type_id, warnings) {
            memory.types.insert(type_id, record);
        }
    }
    memory
}

/// A reader of single devices of one host.
///
/// The files that concern all devices (rules, mdevctl's definitions) are read once, when they are
/// first needed: a domain may name thousands of devices.
#[derive(Debug)]
pub struct Reading {
    root: Root,
    /// The rules, which are read once, and the sources about the device that was read last.
    sources: OnceCell<RefCell<Sources>>,
    definitions: OnceCell<HashMap<Uuid, Definition>>,
    whole: OnceCell<Sources>,
}

impl Reading {
    /// Makes a reader of this host. Nothing is read yet.
    pub fn new(root: &Root) -> Self {
        Reading {
            root: root.clone(),
            sources: OnceCell::new(),
            definitions: OnceCell::new(),
            whole: OnceCell::new(),
        }
    }

    /// Returns what is known about one device, whether it is active, defined or neither.
    ///
    /// Reads the whole host only for a device that is defined, but not active: other devices may be
    /// evidence about its type. The warnings of that reading are not added to `warnings`.
    pub fn known(&self, id: DeviceId, warnings: &mut Vec<Warning>) -> Known {
        let root = &self.root;
        let sources = self
            .sources
            .get_or_init(|| RefCell::new(Sources::with_rules(root, warnings)));
        let mut sources = sources.borrow_mut();
        if let Some(device) = sources.turn_to(root, id, warnings) {
            return active(&sources, &device).into();
        }
        let definition = match id {
            DeviceId::Pci(_) => None,
            DeviceId::Mdev(uuid) => {
                let definitions = self.definitions.get_or_init(|| {
                    let all = mdevctl::read(root, warnings).into_iter();
                    // If a UUID has several definitions, the first counts.
                    all.rev().map(|one| (one.uuid, one)).collect()
                });
                definitions.get(&uuid)
            }
        };
        let known = match (definition, id) {
            (Some(definition), _) => {
                let whole = self.whole.get_or_init(|| Sources::read(root));
                defined(whole, definition).into()
            }
            (None, DeviceId::Mdev(_)) => Known::nothing(Reason::NotActive),
            (None, DeviceId::Pci(_)) => Known::nothing(Reason::NoDriver),
        };
        Known {
            here: sysfs::here(root, id),
            ..known
        }
    }

    /// Returns whether mdevctl has a definition of the device. Call [`Reading::known`] first,
    /// because it reads the definitions, but only for an inactive mdev: before that, the answer is
    /// always false.
    pub(crate) fn is_defined(&self, id: DeviceId) -> bool {
        let DeviceId::Mdev(uuid) = id else {
            return false;
        };
        let all = self.definitions.get();
        all.is_some_and(|all| all.contains_key(&uuid))
    }
}

impl Sources {
    /// Reads the rules, and makes sources that have nothing else.
    fn with_rules(root: &Root, warnings: &mut Vec<Warning>) -> Self {
        Sources {
            host: Host::default(),
            definitions: Vec::new(),
            memory: Memory::default(),
            rules: settings::rules(root, warnings),
        }
    }

    /// Reads the rules and the sources about one device. The device is `None` if it is not active.
    pub fn read_device(root: &Root, id: DeviceId) -> (Self, Option<Device>) {
        let mut warnings = Vec::new();
        let mut sources = Self::with_rules(root, &mut warnings);
        let device = sources.turn_to(root, id, &mut warnings);
        sources.host.warnings.append(&mut warnings);
        (sources, device)
    }

    /// Reads the sources about the device `id` in place of the sources about the last device.
    /// Returns `None` if the device is not active.
    fn turn_to(
        &mut self,
        root: &Root,
        id: DeviceId,
        warnings: &mut Vec<Warning>,
    ) -> Option<Device> {
        let (mut host, device) = sysfs::read_device(root, id, &self.rules.attribute_paths());
        warnings.append(&mut host.warnings);
        let type_id = device.as_ref().and_then(|device| device.type_id.clone());
        self.host = host;
        self.memory = remember(root, [id].into_iter(), type_id.into_iter(), warnings);
        device
    }
}

/// Returns what is known from the record of a mediated device, with as few system calls as
/// possible. `None` for a PCI device or an inactive device, and without a valid record.
///
/// [`Reading::known`] returns the same knowledge if the record has an answer and the kernel has no
/// attributes about displays. Displays that were learned from QEMU are not read, because a record
/// with an answer outranks them.
pub fn recorded(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Known> {
    let DeviceId::Mdev(_) = id else {
        return None;
    };
    let record = run::read_record(root, id, warnings)?;
    let (circumstances, render_node) = sysfs::read_circumstances(root, id)?;
    if circumstances != record.circumstances {
        return None;
    }
    let evidence = record.evidence();
    Some(Known {
        finding: resolve(vec![(record.facts, evidence)], Reason::NotProbed),
        render_node,
        here: Some(Here::Present {
            driver: circumstances.driver,
            vendor: None,
            gpu: None,
        }),
    })
}
