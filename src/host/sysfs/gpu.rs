//! Reads the graphics cards of a host, whether or not they offer a vGPU.

use super::{Pci, Reader, as_the_kernel_spells};
use crate::device::id::{DeviceId, PciAddress};
use crate::host::{exists, read_text};
use crate::predict::screens::GpuPart;

/// A graphics card: a PCI device of a display class that is no virtual function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The card as a PCI device.
    pub pci: Pci,
    /// The driver that is bound to the card.
    pub driver: Option<String>,
    /// The card's render node, as a path in `/dev/dri`.
    pub render_node: Option<String>,
    /// The card's existing virtual functions.
    pub functions: Vec<Function>,
}

/// A virtual function of a graphics card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The function's PCI address.
    pub address: PciAddress,
    /// The driver that is bound to the function.
    pub driver: Option<String>,
    /// NVIDIA's `current_vgpu_type`: the number of the function's vGPU type, 0 if it has none.
    /// `None` if the driver has no such attribute.
    pub vgpu_type: Option<u32>,
    /// The types in NVIDIA's `creatable_vgpu_types`, each with its number and its name.
    pub creatable: Vec<(u32, String)>,
}

/// The modules and parameters on which vGPUs depend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modules {
    /// True if kvmgt is loaded, which makes mdevs on Intel's GPUs.
    pub kvmgt: bool,
    /// i915's parameter `enable_gvt`. `None` if i915 was built without GVT-g or is not loaded.
    pub enable_gvt: Option<bool>,
    /// True if nvidia_vgpu_vfio is loaded, which comes only with NVIDIA's driver for vGPU hosts.
    pub nvidia_vgpu: bool,
}

impl Reader<'_> {
    /// Reads a graphics card by its name in sysfs; `None` if the PCI device is no graphics card, or
    /// can't be read.
    pub(super) fn gpu(&mut self, name: &str) -> Option<Gpu> {
        let link = self.root.join("sys/bus/pci/devices").join(name);
        // Devices of other classes get no warning: they are not ours.
        let class = read_text(&link.join("class"), &mut Vec::new())?;
        let class = u32::from_str_radix(class.strip_prefix("0x")?, 16).ok()?;
        if GpuPart::of(class, exists(&link.join("physfn"))) != Some(GpuPart::Whole) {
            return None;
        }
        let Some(DeviceId::Pci(address)) = as_the_kernel_spells(name) else {
            return None;
        };
        let path = self.resolve(&link)?;
        let pci = self.pci(&path, address)?;
        let functions = pci.virtfns.iter();
        Some(Gpu {
            driver: self.link_name(&path.join("driver")),
            render_node: self.render_node(&path),
            functions: functions.map(|address| self.function(*address)).collect(),
            pci,
        })
    }

    fn function(&mut self, address: PciAddress) -> Function {
        let link = self.root.device(DeviceId::Pci(address));
        // Warnings then name the same path as those about the list of devices, and come once.
        let path = self.resolve(&link).unwrap_or(link);
        let creatable = self.text(&path.join("nvidia/creatable_vgpu_types"));
        Function {
            address,
            driver: self.link_name(&path.join("driver")),
            vgpu_type: self.decimal(&path.join("nvidia/current_vgpu_type")),
            creatable: creatable_types(&creatable.unwrap_or_default()),
        }
    }

    /// Finds out which modules for vGPUs are loaded, and with which parameters.
    pub(super) fn modules(&mut self) -> Modules {
        let module = self.root.join("sys/module");
        let enable_gvt = self.text(&module.join("i915/parameters/enable_gvt"));
        Modules {
            kvmgt: exists(&module.join("kvmgt")),
            enable_gvt: enable_gvt.map(|text| text.starts_with(['Y', '1'])),
            nvidia_vgpu: exists(&module.join("nvidia_vgpu_vfio")),
        }
    }
}

/// Reads NVIDIA's table `ID    : vGPU Name`. Lines of another form are ignored.
fn creatable_types(text: &str) -> Vec<(u32, String)> {
    let row = |line: &str| {
        let (number, name) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, name.trim().to_owned()))
    };
    text.lines().filter_map(row).collect()
}
