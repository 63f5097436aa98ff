//! Finds out why a graphics card offers no vGPU.

use serde::Serialize;

use crate::device::id::{DeviceId, PciAddress};
use crate::domain::shell::quoted;
use crate::host::sysfs::{Function, Gpu, Host, Parent, Pci};
use crate::publish::node_device::name_of;

/// The reason why a graphics card offers no vGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    /// The card has SR-IOV, and its virtual functions are switched off.
    FunctionsOff,
    /// The card's virtual functions exist, and vGPUs can be made on them, but none was made.
    NoType,
    /// The card's virtual functions exist, but their driver allows no type of vGPU on them now.
    NothingCreatable,
    /// The card's virtual functions are bound to a driver of the host's, or to no driver.
    FunctionsAtHost,
    /// The card has a driver that makes no vGPUs, or no driver.
    Driver,
    /// A kernel module that makes vGPUs is not loaded.
    Module,
    /// A parameter of the driver switches vGPUs off, or this kernel's driver lacks them.
    Parameter,
    /// The card's driver makes vGPUs, but offers no types of vGPUs.
    NoTypes,
    /// The card offers types of vGPUs, but all their instances are in use.
    UsedUp,
    /// The card offers types of vGPUs, but no vGPU was made.
    NoDevice,
}

/// The reason why a graphics card offers no vGPU, and the fixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The reason, for programs that read the JSON.
    pub reason: Lack,
    /// True if the reason is certainly a problem. False if the card may be unable to offer vGPUs,
    /// or if the user may not want any.
    pub certain: bool,
    /// The reason, as text for the user that can follow the card's name.
    pub text: String,
    /// The commands that may make the card offer a vGPU, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
}

impl Missing {
    fn new(reason: Lack, text: impl Into<String>, fixes: &[&str]) -> Option<Self> {
        Some(Missing {
            reason,
            certain: true,
            text: text.into(),
            fixes: fixes.iter().map(|fix| (*fix).to_owned()).collect(),
        })
    }

    fn perhaps(reason: Lack, text: impl Into<String>, fixes: &[&str]) -> Option<Self> {
        Self::new(reason, text, fixes).map(|missing| Missing {
            certain: false,
            ..missing
        })
    }
}

/// A graphics card, or another device that makes mediated devices. Its JSON is an entry of `gpus`
/// of `gfxplane list --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GpuEntry {
    /// The PCI address; for a device that is not a graphics card, the name in sysfs.
    pub address: String,
    /// The PCI vendor and device IDs, such as `8086:5917`; `None` if this is not a PCI device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// The driver that is bound to the card, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The card's render node, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub render_node: Option<String>,
    /// The number of virtual functions that the card can have; `None` without SR-IOV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_vfs: Option<u32>,
    /// The number of the card's virtual functions that exist.
    pub vfs: usize,
    /// The reason why the card offers no vGPU; `None` if it offers one or the reason is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

/// Returns the entry of a graphics card.
pub(crate) fn entry(host: &Host, gpu: &Gpu) -> GpuEntry {
    GpuEntry {
        address: gpu.pci.address.to_string(),
        ids: Some(ids(&gpu.pci)),
        driver: gpu.driver.clone(),
        render_node: gpu.render_node.clone(),
        total_vfs: gpu.pci.total_vfs.filter(|total| *total > 0),
        vfs: gpu.functions.len(),
        missing: missing(host, gpu),
    }
}

/// Returns the PCI vendor and device IDs, such as `8086:5917`.
pub(crate) fn ids(pci: &Pci) -> String {
    format!("{:04x}:{:04x}", pci.vendor, pci.device)
}

/// NVIDIA's PCI vendor id.
pub(crate) const NVIDIA: u16 = 0x10de;

/// Intel's PCI vendor id.
pub(crate) const INTEL: u16 = 0x8086;

/// Returns why a graphics card offers no vGPU. `None` if the card offers one, if the card is a vfio
/// device itself, or if the reason is not known.
fn missing(host: &Host, gpu: &Gpu) -> Option<Missing> {
    let address = gpu.pci.address;
    let is_whole = |device: &crate::host::sysfs::Device| device.id == DeviceId::Pci(address);
    if host.devices.iter().any(is_whole) {
        return None;
    }
    let parents: Vec<&Parent> = host
        .parents
        .iter()
        .filter(|parent| is_of(parent, gpu) && !parent.types.is_empty())
        .collect();
    if !parents.is_empty() {
        return of_types(host, &parents);
    }
    match gpu.pci.total_vfs {
        Some(total) if total > 0 && gpu.functions.is_empty() => functions_off(host, gpu, total),
        _ if !gpu.functions.is_empty() => of_functions(host, gpu),
        _ => of_driver(host, gpu),
    }
}

/// Returns whether a parent of mdevs belongs to a card: the parent is the card itself, or one of
/// its virtual functions.
pub(crate) fn is_of(parent: &Parent, gpu: &Gpu) -> bool {
    let address = parent.pci.as_ref().map(|pci| pci.address);
    let is_its = |address: PciAddress| {
        address == gpu.pci.address || gpu.functions.iter().any(|one| one.address == address)
    };
    address.is_some_and(is_its)
}

/// Returns why a card that offers mdev types has no mdev; `None` if the card has an mdev.
fn of_types(host: &Host, parents: &[&Parent]) -> Option<Missing> {
    let has_device = |parent: &&Parent| {
        let mut devices = host.devices.iter();
        devices.any(|device| device.parent.as_ref() == Some(&parent.name))
    };
    if parents.iter().any(has_device) {
        return None;
    }
    let types: usize = parents.iter().map(|parent| parent.types.len()).sum();
    let free = parents.iter().find_map(|parent| {
        let mut types = parent.types.iter();
        let free = types.find(|one| one.available_instances.is_some_and(|left| left > 0))?;
        Some((parent, free))
    });
    match free {
        Some((parent, of_type)) => Missing::perhaps(
            Lack::NoDevice,
            format!("vGPU types are offered ({types}), but no device was created"),
            &[&format!(
                "sudo mdevctl start --uuid $(uuidgen) --parent {} --type {}",
                quoted(&parent.name),
                quoted(&of_type.id)
            )],
        ),
        None => Missing::new(
            Lack::UsedUp,
            "types of vGPU are offered, and none has an instance left",
            &[],
        ),
    }
}

/// Returns why a card with SR-IOV has no virtual functions, of which it can have `total`. This is
/// certainly a problem only with NVIDIA's driver for vGPU hosts, which is installed for nothing
/// else. With any other driver, the user may not want a vGPU.
fn functions_off(host: &Host, gpu: &Gpu, total: u32) -> Option<Missing> {
    let address = gpu.pci.address;
    let off = match total {
        1 => "its virtual function is switched off".to_owned(),
        _ => format!("its {total} virtual functions are switched off"),
    };
    let switch = format!("echo {total} | sudo tee /sys/bus/pci/devices/{address}/sriov_numvfs");
    match (gpu.pci.vendor, gpu.driver.as_deref()) {
        (NVIDIA, Some("nvidia")) if host.modules.nvidia_vgpu => Missing::new(
            Lack::FunctionsOff,
            off,
            &[&format!("sudo /usr/lib/nvidia/sriov-manage -e {address}")],
        ),
        (NVIDIA, Some("nvidia")) => Missing::perhaps(
            Lack::FunctionsOff,
            format!(
                "{off}, and the module nvidia_vgpu_vfio is not loaded, which only NVIDIA's driver for vGPU hosts has"
            ),
            &[&format!(
                "sudo /usr/lib/nvidia/sriov-manage -e {address} # comes with NVIDIA's driver for vGPU hosts"
            )],
        ),
        (NVIDIA, driver) => Missing::perhaps(
            Lack::Driver,
            format!(
                "{off}, and {}: only NVIDIA's driver for vGPU hosts switches them on",
                bound(driver)
            ),
            &["sudo modprobe nvidia # once NVIDIA's driver for vGPU hosts is installed"],
        ),
        (INTEL, Some("i915")) => Missing::perhaps(
            Lack::FunctionsOff,
            format!(
                "{off}; i915 of the kernel itself can't switch them on, xe and Intel's i915 for SR-IOV can"
            ),
            &[&switch],
        ),
        (_, None) => Missing::perhaps(
            Lack::Driver,
            format!("{off}, and the card has no driver that could switch them on"),
            &[&load_driver(address)],
        ),
        _ => Missing::perhaps(Lack::FunctionsOff, off, &[&switch]),
    }
}

/// Returns the command that loads the kernel's driver for the PCI device at `address`.
pub(crate) fn load_driver(address: impl std::fmt::Display) -> String {
    format!("sudo modprobe $(cat /sys/bus/pci/devices/{address}/modalias)")
}

fn bound(driver: Option<&str>) -> String {
    driver.map_or_else(
        || "no driver is bound".into(),
        |driver| format!("{driver} is bound"),
    )
}

/// Returns why a card with virtual functions, but without mdev types, offers no vGPU; `None` if a
/// virtual function has a vGPU, or is bound to vfio and can't have a vGPU.
fn of_functions(host: &Host, gpu: &Gpu) -> Option<Missing> {
    let functions = &gpu.functions;
    let (have, are): (String, String) = match functions.len() {
        1 => ["has", "is"].map(|verb| format!("its virtual function {verb}")),
        many => ["have", "are"].map(|verb| format!("its {many} virtual functions {verb}")),
    }
    .into();
    let typed: Vec<&Function> = functions
        .iter()
        .filter(|function| function.vgpu_type.is_some())
        .collect();
    if typed.iter().any(|function| function.vgpu_type != Some(0)) {
        return None;
    }
    let at_vfio = |function: &&Function| {
        let id = DeviceId::Pci(function.address);
        function.vgpu_type.is_none() && host.devices.iter().any(|device| device.id == id)
    };
    if functions.iter().any(|function| at_vfio(&function)) {
        return None;
    }
    if !typed.is_empty() {
        return untyped(&have, &typed);
    }
    let mut drivers: Vec<&str> = functions
        .iter()
        .filter_map(|function| function.driver.as_deref())
        .collect();
    drivers.dedup();
    if gpu.pci.vendor == NVIDIA {
        return Missing::new(
            Lack::Module,
            format!("{have} no vGPU types"),
            &[
                "sudo modprobe nvidia_vgpu_vfio",
                "systemctl status nvidia-vgpu-mgr.service",
            ],
        );
    }
    let whom = match drivers[..] {
        [] => "to no driver".to_owned(),
        _ => format!("to the host's driver {}", drivers.join(", ")),
    };
    let first = functions.first().map(|function| function.address)?;
    Missing::perhaps(
        Lack::FunctionsAtHost,
        format!(
            "{are} bound {whom}; libvirt rebinds one for a guest whose hostdev has managed='yes'"
        ),
        &[&format!(
            "virsh -c qemu:///system nodedev-detach {}",
            name_of(DeviceId::Pci(first), None)
        )],
    )
}

/// Returns why the virtual functions `typed`, which can have a vGPU, have none. `have` is the
/// beginning of the message, such as `its 16 virtual functions have`.
fn untyped(have: &str, typed: &[&Function]) -> Option<Missing> {
    if let Some(first) = typed.iter().find(|function| !function.creatable.is_empty()) {
        let names: Vec<String> = first
            .creatable
            .iter()
            .map(|(number, name)| format!("{number} {name}"))
            .collect();
        return Missing::new(
            Lack::NoType,
            format!(
                "{have} no vGPU; types that can be made: {}",
                names.join(", ")
            ),
            &[&format!(
                "echo {} | sudo tee /sys/bus/pci/devices/{}/nvidia/current_vgpu_type",
                first.creatable[0].0, first.address
            )],
        );
    }
    Missing::new(
        Lack::NothingCreatable,
        format!("{have} no vGPU, and creatable_vgpu_types has no type"),
        &[
            "systemctl status nvidia-vgpu-mgr.service",
            "nvidia-smi vgpu -s",
        ],
    )
}

/// Returns why a card that has neither virtual functions nor mdev types offers no vGPU; `None` if
/// its driver does not show the reason.
fn of_driver(host: &Host, gpu: &Gpu) -> Option<Missing> {
    let modules = host.modules;
    match (gpu.driver.as_deref(), modules.enable_gvt) {
        (Some("i915"), Some(false)) => Missing::new(
            Lack::Parameter,
            "GVT-g is switched off (i915's parameter enable_gvt)",
            &[
                "echo 'options i915 enable_gvt=1' | sudo tee /etc/modprobe.d/gvt-g.conf && sudo update-initramfs -u # Fedora: sudo dracut -f; then reboot",
            ],
        ),
        (Some("i915"), Some(true)) if !modules.kvmgt => Missing::new(
            Lack::Module,
            "the module kvmgt, which makes GVT-g's mdevs, is not loaded",
            &["sudo modprobe kvmgt"],
        ),
        (Some("i915"), Some(true)) => Missing::perhaps(
            Lack::NoTypes,
            "GVT-g is switched on and offers no types: the GPU is none of Broadwell to Comet Lake, or GVT-g has failed to start",
            &["sudo dmesg | grep -i gvt"],
        ),
        (Some("i915"), None) => Missing::perhaps(
            Lack::Parameter,
            "this kernel's i915 has no GVT-g (CONFIG_DRM_I915_GVT)",
            &[],
        ),
        (Some("nvidia"), _) if modules.nvidia_vgpu => Missing::new(
            Lack::NoTypes,
            "NVIDIA's driver for vGPU hosts offers no types for it",
            &[
                "systemctl status nvidia-vgpu-mgr.service",
                "nvidia-smi vgpu -s",
            ],
        ),
        (Some("nvidia"), _) => Missing::perhaps(
            Lack::Module,
            "the module nvidia_vgpu_vfio is not loaded: only NVIDIA's driver for vGPU hosts has it, and only some of NVIDIA's GPUs have vGPUs",
            &["nvidia-smi vgpu -s"],
        ),
        (Some("nouveau" | "nova_core"), _) => Missing::perhaps(
            Lack::Driver,
            "the kernel's own driver for NVIDIA makes no vGPUs; NVIDIA's driver for vGPU hosts does",
            &[],
        ),
        (None, _) if matches!(gpu.pci.vendor, INTEL | NVIDIA) => Missing::perhaps(
            Lack::Driver,
            "no driver is bound to it",
            &[&load_driver(gpu.pci.address)],
        ),
        _ => None,
    }
}
