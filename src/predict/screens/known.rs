//! The facts that are known about a device of the domain.

use crate::device::evidence::{Finding, resolve};
use crate::device::facts::Reason;

/// All that is known about a device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The facts and their evidence.
    pub finding: Finding,
    /// The path of the render node of the GPU behind the device; `None` if none is known.
    pub render_node: Option<String>,
    /// The device's presence on the host; `None` if nobody has looked.
    pub here: Option<Here>,
}

/// The presence of a device on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// The host does not have the device. A mediated device that is only defined counts as absent,
    /// because libvirt does not start it.
    Absent,
    /// The host has the device.
    Present {
        /// The driver that is bound to the device, if there is one.
        driver: Option<String>,
        /// The PCI vendor ID of a PCI device.
        vendor: Option<u16>,
        /// The kind of GPU; `None` for a device that is no GPU, and if nobody has looked.
        gpu: Option<GpuPart>,
    },
}

/// The kinds of PCI devices that are GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuPart {
    /// A whole graphics card.
    Whole,
    /// A virtual function of a graphics card.
    Function,
}

impl GpuPart {
    /// The PCI class of display controllers (include/linux/pci_ids.h, `PCI_BASE_CLASS_DISPLAY`).
    const DISPLAY: u32 = 0x03;

    /// Returns the kind of GPU that a PCI device with this 24-bit class is; `None` if it is no GPU.
    /// `is_function` is true for a virtual function.
    pub fn of(class: u32, is_function: bool) -> Option<Self> {
        (class >> 16 == Self::DISPLAY).then_some(if is_function {
            GpuPart::Function
        } else {
            GpuPart::Whole
        })
    }
}

impl Known {
    /// Returns a value for a device about which nothing is known; `reason` says why.
    pub fn nothing(reason: Reason) -> Self {
        Known {
            finding: resolve(Vec::new(), reason),
            render_node: None,
            here: None,
        }
    }

    /// Returns the driver that is bound to the device; `None` if there is none or it is not known.
    pub fn driver(&self) -> Option<&str> {
        match &self.here {
            Some(Here::Present { driver, .. }) => driver.as_deref(),
            _ => None,
        }
    }

    /// Returns the kind of GPU that the device is; `None` if it is no GPU or that is not known.
    pub(crate) fn gpu(&self) -> Option<GpuPart> {
        match self.here {
            Some(Here::Present { gpu, .. }) => gpu,
            _ => None,
        }
    }

    /// Returns whether the display was measured. A driver that says yes to everything counts as
    /// measured, although its display is unknown.
    pub fn is_measured(&self) -> bool {
        let evidence = self.finding.evidence.as_ref();
        self.finding.facts.display.is_answer()
            && evidence.is_some_and(|evidence| evidence.method.is_measured())
    }
}
