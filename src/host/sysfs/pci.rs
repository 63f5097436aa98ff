//! Reads PCI devices.

use std::path::Path;

use super::{Device, Reader, as_the_kernel_spells};
use crate::device::id::{DeviceId, PciAddress};
use crate::host::{exists, read_link, read_names};

/// A PCI device, as sysfs describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pci {
    /// The device's PCI address.
    pub address: PciAddress,
    /// The PCI vendor id.
    pub vendor: u16,
    /// The PCI device id.
    pub device: u16,
    /// The PCI class code, 24 bits; 0 if it can't be read.
    pub class: u32,
    /// For a virtual function: its physical function.
    pub physfn: Option<PciAddress>,
    /// For a physical function: its virtual functions.
    pub virtfns: Vec<PciAddress>,
    /// For a physical function: `sriov_totalvfs`.
    pub total_vfs: Option<u32>,
    /// The number of the device's IOMMU group, and all devices in the group.
    pub iommu_group: Option<(u32, Vec<PciAddress>)>,
}

impl Reader<'_> {
    pub(super) fn pci_device(&mut self, name: &str) -> Option<Device> {
        let link = self.root.join("sys/bus/pci/devices").join(name);
        let has = |below: &str| exists(&link.join(below));
        let driver = read_link(&link.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::to_str);
        let by_name = driver.is_some_and(|d| d.ends_with("vfio-pci") || d.ends_with("vfio_pci"));
        if !by_name && !has("vfio-dev") && !has("nvidia/current_vgpu_type") {
            if !exists(&link) {
                // This adds a warning if it is a link that leads nowhere.
                self.resolve(&link);
            }
            return None;
        }
        let Some(id @ DeviceId::Pci(address)) = as_the_kernel_spells(name) else {
            self.warn(&link, "has a name that is no PCI address: ignored");
            return None;
        };
        let path = self.resolve(&link)?;
        let warned = self.warnings.len();
        let Some(pci) = self.pci(&path, address) else {
            if self.warnings.len() == warned {
                self.warn(&path, "has no vendor and device id: ignored");
            }
            return None;
        };
        let mut device = self.device(id, &path);
        device.device_api = Some("vfio-pci".into());
        let vgpu_type = self.decimal(&path.join("nvidia/current_vgpu_type"));
        device.type_id = vgpu_type.filter(|t| *t != 0).map(|t| format!("nvidia-{t}"));
        let gpu = match pci.physfn {
            Some(physfn) => self.resolve(&self.root.device(DeviceId::Pci(physfn))),
            None => Some(path),
        };
        device.render_node = gpu.and_then(|gpu| self.render_node(&gpu));
        device.pci = Some(pci);
        Some(device)
    }

    fn address(&mut self, link: &Path) -> Option<PciAddress> {
        let address = self.link_name(link)?.parse().ok();
        if address.is_none() {
            self.warn(link, "leads to no PCI device: ignored");
        }
        address
    }

    pub(super) fn pci(&mut self, path: &Path, address: PciAddress) -> Option<Pci> {
        let vendor = self.hex(&path.join("vendor"), 0xffff)?;
        let device = self.hex(&path.join("device"), 0xffff)?;
        let class = self.hex(&path.join("class"), 0xff_ffff).unwrap_or(0);
        let physfn = self.address(&path.join("physfn"));
        let mut virtfns = Vec::new();
        while let Some(address) = self.address(&path.join(format!("virtfn{}", virtfns.len()))) {
            virtfns.push(address);
        }
        let iommu_group = self.group(path).map(|group| {
            let directory = self
                .root
                .join(format!("sys/kernel/iommu_groups/{group}/devices"));
            let mut members = Vec::new();
            for name in read_names(&directory, &mut self.warnings) {
                let problem = "has a name that is no PCI address: ignored";
                match name.parse() {
                    Ok(address) => members.push(address),
                    Err(_) => self.warn(&directory.join(name), problem),
                }
            }
            (group, members)
        });
        Some(Pci {
            address,
            vendor: vendor.try_into().ok()?,
            device: device.try_into().ok()?,
            class,
            physfn,
            virtfns,
            total_vfs: self.decimal(&path.join("sriov_totalvfs")),
            iommu_group,
        })
    }
}
