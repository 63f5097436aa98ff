//! Reads the vfio devices of a host from sysfs.
//!
//! The layout follows Documentation/ABI/testing/sysfs-bus-vfio-mdev (mediated devices),
//! Documentation/ABI/testing/sysfs-bus-pci (PCI), and drivers/vfio/vfio_main.c (`vfio-dev`). A file
//! that can't be understood gives one warning; the other devices are still read.

mod gpu;
mod mdev;
mod pci;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::device::facts::Facts;
use crate::device::id::{DeviceId, PciAddress};
use crate::device::record::Circumstances;
use crate::host::{
    Root, Warning, canonicalize, exists, is_absent, read_link, read_names, read_names_that,
    read_text,
};
use crate::predict::screens::{GpuPart, Here};

pub use gpu::{Function, Gpu, Modules};
pub use mdev::{MdevType, Parent};
pub use pci::Pci;

/// Reads a device id from a name in sysfs; `None` if the kernel would spell the id differently. The
/// kernel finds a device only by one name (drivers/vfio/mdev/mdev_core.c, `%pUl`;
/// drivers/pci/probe.c, `%04x:%02x:%02x.%d`).
fn as_the_kernel_spells(name: &str) -> Option<DeviceId> {
    let id: DeviceId = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}

/// A host as sysfs describes it.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The kernel's release; empty if it can't be read.
    pub kernel: String,
    /// The id of this boot; empty if it can't be read.
    pub boot_id: String,
    /// The mediated devices, the PCI devices bound to vfio drivers, and the virtual functions to
    /// which NVIDIA's driver can give a vGPU type, sorted by id.
    pub devices: Vec<Device>,
    /// The devices that offer mdev types, sorted by name.
    pub parents: Vec<Parent>,
    /// The graphics cards, sorted by address.
    pub gpus: Vec<Gpu>,
    /// The loaded modules for vGPUs, and their parameters.
    pub modules: Modules,
    /// The loaded drivers of mdevs, with their versions; `None` for a driver without one.
    pub mdev_drivers: BTreeMap<String, Option<String>>,
    /// The problems found while reading.
    pub warnings: Vec<Warning>,
}

/// A device that vfio can hand to a guest.
#[derive(Debug, Clone)]
pub struct Device {
    /// The device's UUID or PCI address.
    pub id: DeviceId,
    /// The device's directory on the host: `/sys/devices/…`.
    pub path: PathBuf,
    /// For an mdev: the sysfs name of its parent.
    pub parent: Option<String>,
    /// For an mdev: the id of its type. For a virtual function of an NVIDIA GPU: its vGPU type, if
    /// one is set.
    pub type_id: Option<String>,
    /// For an mdev: the type's `device_api`. For a PCI device: always `vfio-pci`.
    pub device_api: Option<String>,
    /// The driver that is bound to the device, if there is one.
    pub driver: Option<String>,
    /// The version of the driver's module or, if the module has none, its srcversion.
    pub driver_version: Option<String>,
    /// The number of the device's IOMMU group; each mdev has a group of its own.
    pub iommu_group: Option<u32>,
    /// The name of the device's node in `/dev/vfio/devices` (kernel 6.6 and later with
    /// VFIO_DEVICE_CDEV).
    pub cdev: Option<String>,
    /// The PCI device itself, or the parent of an mdev if that is a PCI device.
    pub pci: Option<Pci>,
    /// For an mdev: the parent's driver or, without one, the parent's bus or class, as in the
    /// kernel's `dev_driver_string`. It is the first part of the type id.
    pub parent_driver: Option<String>,
    /// The render node of the GPU behind the device, as a path in `/dev/dri`.
    pub render_node: Option<String>,
    /// The attributes for which the caller asked: values by paths below the device's directory.
    pub attributes: BTreeMap<String, String>,
    /// The type's display as the kernel itself reports it. No released kernel does so yet.
    pub kernel_facts: Option<Facts>,
}

impl Device {
    /// Makes a device of which only the id and the path are known.
    pub(crate) fn named(id: DeviceId, path: impl Into<PathBuf>) -> Self {
        Device {
            id,
            path: path.into(),
            parent: None,
            type_id: None,
            device_api: None,
            driver: None,
            driver_version: None,
            iommu_group: None,
            cdev: None,
            pci: None,
            parent_driver: None,
            render_node: None,
            attributes: BTreeMap::new(),
            kernel_facts: None,
        }
    }

    /// Returns the circumstances on which a record about this device depends.
    pub fn circumstances(&self, host: &Host) -> Circumstances {
        Circumstances {
            boot_id: host.boot_id.clone(),
            kernel: host.kernel.clone(),
            driver: self.driver.clone(),
            driver_version: self.driver_version.clone(),
            type_id: self.type_id.clone(),
        }
    }
}

/// Reads the host. `attributes` are paths below each device's directory that are also read.
pub fn read(root: &Root, attributes: &[&str]) -> Host {
    Reader::new(root, attributes).read_all()
}

/// Returns the circumstances on which a record about an mdev depends, and the render node of the
/// GPU behind the mdev; `None` if the mdev does not exist.
///
/// The values are the same as [`read_device`]'s, but need as few system calls as possible: whenever
/// a device appears, libvirt runs mdevctl, which asks about every device again.
pub fn read_circumstances(root: &Root, id: DeviceId) -> Option<(Circumstances, Option<String>)> {
    let mut reader = Reader::new_at(root, root.path().to_owned(), &[]);
    let link = root.device(id);
    // The kernel follows the link, so `..` is the directory of the parent.
    let target = read_link(&link).ok()?;
    let parent = link.with_file_name(target.parent()?);
    let (driver, driver_version) = reader.driver(id.bus(), &link);
    let type_id = reader.link_name(&link.join("mdev_type"));
    let render_node = reader.render_node(&parent);
    let host = reader.into_host();
    let circumstances = Circumstances {
        boot_id: host.boot_id,
        kernel: host.kernel,
        driver,
        driver_version,
        type_id,
    };
    Some((circumstances, render_node))
}

/// Returns the name of a device's own node in `/dev/vfio/devices`. `device` is the device's
/// directory. The node's number is in `vfio-dev/NAME/dev`. Before 6.6, and without
/// VFIO_DEVICE_CDEV, that file is missing, and there is no node: `None`.
pub(crate) fn own_node(device: &Path, warnings: &mut Vec<Warning>) -> Option<String> {
    let directory = device.join("vfio-dev");
    let is_own = |name: &str| {
        let number = name.strip_prefix("vfio").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    read_names_that(is_own, &directory, warnings)
        .into_iter()
        .find(|name| exists(&directory.join(name).join("dev")))
}

/// Returns the sysfs name of an mdev's parent; `None` if the mdev does not exist.
pub fn parent_of(root: &Root, id: DeviceId) -> Option<String> {
    let target = read_link(&root.device(id)).ok()?;
    let parent = target.parent()?.file_name()?;
    Some(parent.to_str()?.to_owned())
}

/// Reads one device as [`read`] would; `None` if the device does not exist or is no vfio device.
/// The [`Host`] has only the kernel, the boot id and the warnings.
pub fn read_device(root: &Root, id: DeviceId, attributes: &[&str]) -> (Host, Option<Device>) {
    let mut reader = Reader {
        only: true,
        ..Reader::new(root, attributes)
    };
    let device = match id {
        DeviceId::Mdev(_) => reader.mdev(&id.to_string()),
        DeviceId::Pci(_) => reader.pci_device(&id.to_string()),
    };
    reader.parents.clear();
    (reader.into_host(), device)
}

/// Returns the driver that is bound to a device and, for a PCI device, its vendor and the part of a
/// graphics card that it is. Returns [`Here::Absent`] if the device does not exist, `None` if sysfs
/// has no buses.
pub fn here(root: &Root, id: DeviceId) -> Option<Here> {
    let link = root.device(id);
    if !exists(&link) {
        return exists(&root.join("sys/bus")).then_some(Here::Absent);
    }
    let driver = read_link(&link.join("driver")).ok();
    let name = driver.as_deref().and_then(Path::file_name);
    let number = |file: &str| {
        let text = std::fs::read_to_string(link.join(file)).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    Some(Here::Present {
        driver: name.map(|name| name.to_string_lossy().into_owned()),
        vendor: number("vendor").and_then(|vendor| vendor.try_into().ok()),
        gpu: number("class").and_then(|class| GpuPart::of(class, exists(&link.join("physfn")))),
    })
}

struct Reader<'a> {
    root: &'a Root,
    /// The root with its links resolved, to detect links that lead out of it.
    base: PathBuf,
    attributes: &'a [&'a str],
    /// True if only one device is read. Then the types of its parent are not read.
    only: bool,
    warnings: Vec<Warning>,
    parents: HashMap<PathBuf, Option<Parent>>,
    versions: HashMap<String, Option<String>>,
}

impl<'a> Reader<'a> {
    fn new(root: &'a Root, attributes: &'a [&'a str]) -> Self {
        let base = root.path().canonicalize();
        let base = base.unwrap_or_else(|_| root.path().to_owned());
        Self::new_at(root, base, attributes)
    }

    fn new_at(root: &'a Root, base: PathBuf, attributes: &'a [&'a str]) -> Self {
        Reader {
            root,
            base,
            attributes,
            only: false,
            warnings: Vec::new(),
            parents: HashMap::new(),
            versions: HashMap::new(),
        }
    }

    fn read_all(mut self) -> Host {
        let mut devices = Vec::new();
        let directory = self.root.join("sys/bus/mdev/devices");
        for name in read_names(&directory, &mut self.warnings) {
            devices.extend(self.mdev(&name));
        }
        let directory = self.root.join("sys/bus/pci/devices");
        let mut gpus = Vec::new();
        for name in read_names(&directory, &mut self.warnings) {
            devices.extend(self.pci_device(&name));
            gpus.extend(self.gpu(&name));
        }
        gpus.sort_by_key(|gpu| gpu.pci.address);
        devices.sort_by_key(|device| device.id);
        let directory = self.root.join("sys/class/mdev_bus");
        for name in read_names(&directory, &mut self.warnings) {
            if let Some(path) = self.resolve(&directory.join(name)) {
                self.parent(&path);
            }
        }
        let mut mdev_drivers = BTreeMap::new();
        for driver in read_names(&self.root.join("sys/bus/mdev/drivers"), &mut self.warnings) {
            let version = self.driver_version("mdev", &driver);
            mdev_drivers.insert(driver, version);
        }
        Host {
            devices,
            gpus,
            modules: self.modules(),
            mdev_drivers,
            ..self.into_host()
        }
    }

    fn into_host(mut self) -> Host {
        let kernel = self.text(&self.root.join("proc/sys/kernel/osrelease"));
        let boot_id = self.text(&self.root.join("proc/sys/kernel/random/boot_id"));
        let mut parents: Vec<Parent> = self.parents.into_values().flatten().collect();
        parents.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
        // Devices may share a file, and a device's file may be read twice.
        let mut said = HashSet::new();
        self.warnings
            .retain(|warning| said.insert((warning.path.clone(), warning.problem.clone())));
        Host {
            kernel: kernel.unwrap_or_default(),
            boot_id: boot_id.unwrap_or_default(),
            parents,
            warnings: self.warnings,
            ..Host::default()
        }
    }

    fn text(&mut self, path: &Path) -> Option<String> {
        read_text(path, &mut self.warnings)
    }

    fn warn(&mut self, path: &Path, problem: impl Into<String>) {
        self.warnings.push(Warning::new(path, problem));
    }

    /// Warns about an error, unless it means that the file does not exist. Always returns `None`.
    fn missed<T>(&mut self, path: &Path, problem: &str, error: &io::Error) -> Option<T> {
        if !is_absent(error) {
            self.warn(path, format!("{problem}: {error}"));
        }
        None
    }

    /// Returns the target of a link, with all links followed. Returns `None` if there is no link
    /// or, with a warning, if its target does not exist or lies outside of sysfs.
    fn resolve(&mut self, link: &Path) -> Option<PathBuf> {
        let sysfs = self.base.join("sys");
        let is_inside = |path: &PathBuf| *path != sysfs && path.starts_with(&sysfs);
        match canonicalize(link) {
            Ok(path) if is_inside(&path) => Some(path),
            Ok(_) => {
                self.warn(link, "leads out of sysfs: ignored");
                None
            }
            Err(error) if link.is_symlink() => {
                self.warn(link, format!("leads nowhere: {error}"));
                None
            }
            Err(error) => self.missed(link, "can't be followed", &error),
        }
    }

    /// Returns the last component of a link's target, which is how sysfs names drivers and types.
    /// Does not look at the target itself. Returns `None` if there is no link.
    fn link_name(&mut self, link: &Path) -> Option<String> {
        let target = match read_link(link) {
            Ok(target) => target,
            Err(error) => return self.missed(link, "is no link", &error),
        };
        let name = target.file_name().and_then(|name| name.to_str());
        if name.is_none() {
            self.warn(link, "has a target without a name: ignored");
        }
        name.map(str::to_owned)
    }

    /// Returns the path on the host, `/sys/…`, of a path below the root.
    fn host_path(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.base).unwrap_or(path))
    }

    fn number<T>(&mut self, path: &Path, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(path)?;
        let value = parse(&text);
        if value.is_none() {
            let start: String = text.chars().take(40).collect();
            let problem = format!("ignored: expected a number, found {start:?}");
            self.warn(path, problem);
        }
        value
    }

    /// Reads a hexadecimal number up to `max`; `None` without a file or, with a warning, for other
    /// text.
    fn hex(&mut self, path: &Path, max: u32) -> Option<u32> {
        self.number(path, |text| {
            let value = u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
            (value <= max).then_some(value)
        })
    }

    fn decimal(&mut self, path: &Path) -> Option<u32> {
        self.number(path, |text| text.parse().ok())
    }

    /// Reads the attributes that mdevs and PCI devices have in common.
    fn device(&mut self, id: DeviceId, path: &Path) -> Device {
        let (driver, driver_version) = self.driver(id.bus(), path);
        let iommu_group = self.group(path);
        let cdev = own_node(path, &mut self.warnings);
        let attributes = self.attributes.iter();
        let attributes = attributes
            .filter_map(|name| Some(((*name).to_owned(), self.text(&path.join(name))?)))
            .collect();
        Device {
            driver,
            driver_version,
            iommu_group,
            cdev,
            attributes,
            ..Device::named(id, self.host_path(path))
        }
    }

    fn group(&mut self, path: &Path) -> Option<u32> {
        let link = path.join("iommu_group");
        let number = self.link_name(&link)?.parse().ok();
        if number.is_none() {
            self.warn(&link, "names a group that is no number: ignored");
        }
        number
    }

    /// Returns the driver that is bound to a device, and its version.
    fn driver(&mut self, bus: &str, device: &Path) -> (Option<String>, Option<String>) {
        let driver = self.link_name(&device.join("driver"));
        let version = driver
            .as_ref()
            .and_then(|driver| self.driver_version(bus, driver));
        (driver, version)
    }

    fn driver_version(&mut self, bus: &str, driver: &str) -> Option<String> {
        let key = format!("{bus}/drivers/{driver}");
        if let Some(version) = self.versions.get(&key) {
            return version.clone();
        }
        let module = self.link_name(&self.root.join("sys/bus").join(&key).join("module"));
        let version = module.and_then(|module| {
            let directory = self.root.join("sys/module").join(module);
            self.text(&directory.join("version"))
                .or_else(|| self.text(&directory.join("srcversion")))
        });
        self.versions.insert(key, version.clone());
        version
    }

    /// Returns the path of a GPU's render node: for a PCI device udev's link in `/dev/dri/by-path`
    /// (60-drm.rules), because the number in `renderD128` depends on the order in which drivers
    /// load. A virtio GPU has its node one directory below. Some versions of udev make no link for
    /// it; the path then has the number.
    fn render_node(&mut self, gpu: &Path) -> Option<String> {
        let is_render = |name: &str| name.starts_with("renderD");
        let render = |directory: &Path, warnings: &mut Vec<Warning>| {
            read_names_that(is_render, directory, warnings)
                .into_iter()
                .next()
        };
        let name = gpu.file_name().and_then(|name| name.to_str())?;
        let address = name.parse::<PciAddress>().ok();
        let by_path = address.map(|address| format!("/dev/dri/by-path/pci-{address}-render"));
        if let Some(node) = render(&gpu.join("drm"), &mut self.warnings) {
            return Some(by_path.unwrap_or_else(|| format!("/dev/dri/{node}")));
        }
        // Only PCI devices have virtio devices below them.
        let by_path = by_path?;
        let is_virtio = |name: &str| name.starts_with("virtio");
        let below = read_names_that(is_virtio, gpu, &mut self.warnings);
        let mut below = below.iter().map(|name| gpu.join(name).join("drm"));
        let node = below.find_map(|directory| render(&directory, &mut self.warnings))?;
        Some(if exists(&self.root.join(&by_path)) {
            by_path
        } else {
            format!("/dev/dri/{node}")
        })
    }
}
