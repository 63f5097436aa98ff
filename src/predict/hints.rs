//! Derives the options that a display requires or allows from the facts.

use serde::Serialize;

use crate::device::facts::{Display, DisplayInterface, Facts};
use crate::device::id::display_as_serde;
use crate::device::version::Version;
use crate::predict::versions::OPREGION_BY_DEFAULT;

/// The place where an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// A `<graphics>` element of the domain.
    Graphics,
    /// The `<hostdev>` element of the device.
    Hostdev,
    /// A property of QEMU's vfio-pci device for which libvirt has no XML of its own.
    Qemu,
    /// A requirement on the host.
    Host,
}

/// The purpose of an option that is not always wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// The device's screen also shows the firmware and the early boot.
    BootDisplay,
    /// The driver of a Windows guest needs the option.
    Windows,
}

display_as_serde!(Scope, Purpose);

/// An option with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hint {
    /// The place where the option is set.
    pub scope: Scope,
    /// The option's name, as libvirt or QEMU spells it.
    pub name: &'static str,
    /// The option's value, as libvirt or QEMU spells it.
    pub value: String,
    /// The purpose; `None` if the option is wanted for every display.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// The first version of QEMU that no longer needs this option; `None` if all versions need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu_below: Option<Version>,
}

/// Returns the options for a device with these facts. `render_node` is the path of the render node
/// of the GPU behind the device.
///
/// * dmabuf: `gl`, because QEMU refuses to start without OpenGL ("vfio-display-dmabuf: opengl not
///   available", hw/vfio/display.c), and `rendernode` if there is one, because the render node must
///   be able to import the device's buffers.
/// * region: nothing for the graphics, because any graphics show the screen.
/// * dmabuf or region: `display='on'`, and `ramfb`, which shows the firmware on the device's screen
///   until the guest's driver sets a mode. ramfb works only with `display='on'`.
/// * none: `display='off'`, because QEMU refuses `display='on'` ("vfio: device doesn't support any
///   (known) display method").
/// * unknown: no options for the display.
/// * Whatever the display: `x-igd-opregion` for a device with an OpRegion, and `kvm` for a driver
///   that needs a VM.
pub fn hints(facts: &Facts, render_node: Option<&str>) -> Vec<Hint> {
    let option = |scope, name, value: &str| Hint {
        scope,
        name,
        value: value.into(),
        purpose: None,
        qemu_below: None,
    };
    let preferred = facts.display.preferred();
    let mut hints = Vec::new();
    if preferred == Some(DisplayInterface::Dmabuf) {
        hints.push(option(Scope::Graphics, "gl", "yes"));
    }
    if let Display::Known(interfaces) = &facts.display {
        let value = if interfaces.is_empty() { "off" } else { "on" };
        hints.push(option(Scope::Hostdev, "display", value));
    }
    if preferred.is_some() {
        hints.push(Hint {
            purpose: Some(Purpose::BootDisplay),
            ..option(Scope::Hostdev, "ramfb", "on")
        });
    }
    if facts.opregion.is_some() {
        hints.push(Hint {
            purpose: Some(Purpose::Windows),
            qemu_below: Some(OPREGION_BY_DEFAULT.since()),
            ..option(Scope::Qemu, "x-igd-opregion", "on")
        });
    }
    if facts.kvm {
        hints.push(option(Scope::Host, "kvm", "yes"));
    }
    if let (Some(DisplayInterface::Dmabuf), Some(node)) = (preferred, render_node) {
        hints.push(option(Scope::Host, "rendernode", node));
    }
    hints
}
