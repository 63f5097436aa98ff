//! Reads mediated devices, their parents and their types.

use std::path::{Path, PathBuf};

use super::{Device, Pci, Reader, as_the_kernel_spells};
use crate::device::facts::{Display, Facts};
use crate::device::id::DeviceId;
use crate::host::{is_absent, read_names, tree};

/// A device on which mdevs can be created.
#[derive(Debug, Clone)]
pub struct Parent {
    /// The parent's name in sysfs, which mdevctl uses, too.
    pub name: String,
    /// The parent's directory on the host: `/sys/devices/…`.
    pub path: PathBuf,
    /// The parent's bus or class.
    pub subsystem: Option<String>,
    /// The parent's driver; without one its bus or class, as in the kernel's `dev_driver_string`.
    pub driver: Option<String>,
    /// The driver that is bound to the parent, if there is one.
    pub bound_driver: Option<String>,
    /// The parent as a PCI device, if it is one.
    pub pci: Option<Pci>,
    /// The parent's render node, as a path in `/dev/dri`.
    pub render_node: Option<String>,
    /// The types that can be created on the parent, sorted by id.
    pub types: Vec<MdevType>,
}

/// An mdev type of one parent.
#[derive(Debug, Clone)]
pub struct MdevType {
    /// The type's id, which is the name of its directory.
    pub id: String,
    /// The type's name in words, such as `GRID T4-1B`, if the driver gives one.
    pub name: Option<String>,
    /// The type's description in words; some drivers write several lines.
    pub description: Option<String>,
    /// The type's `device_api`: `vfio-pci`, `vfio-ccw`, `vfio-ap`.
    pub device_api: Option<String>,
    /// The number of devices of the type that can still be created; `None` if it was not read.
    pub available_instances: Option<u32>,
    /// The type's display as the kernel itself reports it; `None` if it does not.
    pub kernel_facts: Option<Facts>,
}

impl Reader<'_> {
    pub(super) fn mdev(&mut self, name: &str) -> Option<Device> {
        let link = self.root.join("sys/bus/mdev/devices").join(name);
        let Some(id @ DeviceId::Mdev(_)) = as_the_kernel_spells(name) else {
            self.warn(&link, "has a name that is no UUID: ignored");
            return None;
        };
        let path = self.resolve(&link)?;
        let type_id = self.link_name(&path.join("mdev_type"));
        let parent = path.parent().and_then(|path| self.parent(path).cloned());
        let of_type = parent.as_ref().zip(type_id.as_ref());
        let of_type = of_type.and_then(|(parent, id)| {
            if self.only {
                self.mdev_type(&path.parent()?.join("mdev_supported_types"), id)
            } else {
                parent.types.iter().find(|t| t.id == *id).cloned()
            }
        });
        if of_type.is_none() {
            self.warn(&path, "has a type that its parent does not offer");
        }
        let mut device = self.device(id, &path);
        device.type_id = type_id;
        if let Some(of_type) = of_type {
            device.device_api = of_type.device_api;
            device.kernel_facts = of_type.kernel_facts;
        }
        if let Some(parent) = parent {
            device.parent = Some(parent.name);
            device.parent_driver = parent.driver;
            device.pci = parent.pci;
            device.render_node = parent.render_node;
        }
        Some(device)
    }

    pub(super) fn parent(&mut self, path: &Path) -> Option<&Parent> {
        if !self.parents.contains_key(path) {
            let parent = self.read_parent(path);
            self.parents.insert(path.to_owned(), parent);
        }
        self.parents[path].as_ref()
    }

    fn read_parent(&mut self, path: &Path) -> Option<Parent> {
        let name = path.file_name().and_then(|name| name.to_str())?.to_owned();
        let subsystem = self.link_name(&path.join("subsystem"));
        let bound_driver = self.link_name(&path.join("driver"));
        let driver = bound_driver.clone().or_else(|| subsystem.clone());
        let pci = match name.parse() {
            Ok(address) if subsystem.as_deref() == Some("pci") => self.pci(path, address),
            _ => None,
        };
        let mut types = Vec::new();
        if !self.only {
            let directory = path.join("mdev_supported_types");
            for id in read_names(&directory, &mut self.warnings) {
                types.extend(self.mdev_type(&directory, &id));
            }
        }
        Some(Parent {
            name,
            path: self.host_path(path),
            subsystem,
            driver,
            bound_driver,
            render_node: self.render_node(path),
            pci,
            types,
        })
    }

    /// Reads the type `id` in `directory`, a parent's `mdev_supported_types`; `None` if it is
    /// missing there. If only one device is read, leaves out the type's name, description and
    /// number of instances.
    fn mdev_type(&mut self, directory: &Path, id: &str) -> Option<MdevType> {
        let path = directory.join(id);
        // Links are not followed: a target outside does not belong to this host.
        match path.symlink_metadata() {
            Ok(data) if data.is_dir() => {}
            Err(error) if self.only && is_absent(&error) => return None,
            _ => {
                self.warn(&path, "is no directory: ignored");
                return None;
            }
        }
        let whole = !self.only;
        let text = |reader: &mut Self, name: &str| reader.text(&path.join(name));
        Some(MdevType {
            name: whole.then(|| text(self, "name")).flatten(),
            description: whole.then(|| text(self, "description")).flatten(),
            device_api: text(self, "device_api"),
            available_instances: whole
                .then(|| self.decimal(&path.join("available_instances")))
                .flatten(),
            kernel_facts: self.kernel_facts(&path),
            id: id.to_owned(),
        })
    }

    fn kernel_facts(&mut self, type_directory: &Path) -> Option<Facts> {
        let display =
            tree::read_gfx_plane(&type_directory.join("vfio-pci/device"), &mut self.warnings)?;
        Some(Facts::of(display)).filter(|facts| matches!(facts.display, Display::Known(_)))
    }
}
