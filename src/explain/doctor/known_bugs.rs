//! Checks for versions of QEMU and libvirt whose known bugs concern devices of this host.

use crate::device::facts::DisplayInterface;
use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::explain::doctor::{Host, Report, Topic};
use crate::predict::Program;
use crate::predict::versions::{PCI_DISPLAY, REGION_FAULT, VNC_BINDS, newer};
use crate::publish::inventory::DeviceEntry;

/// Checks for bugs that concern this host, and for versions newer than gfxplane knows.
pub(super) fn versions(host: &Host, report: &mut Report) {
    for (emulator, abilities) in &host.emulators {
        let what = format!("version of {}", emulator.display());
        let before = report.lines.len();
        let mut check = report.check(Topic::Versions, what);
        let Some(version) = &abilities.qemu else {
            check.unknown("it is not known").fix("gfxplane qemu");
            continue;
        };
        let has = |interface| host.inventory.devices.iter().any(|e| has(e, interface));
        if REGION_FAULT.contains(version) && has(DisplayInterface::Region) {
            let more = format!(
                "QEMU {version} may crash when it draws a screen that lies beyond a device's last region, as NVIDIA's and mdpy's do; QEMU {} and later do not",
                Version::of(REGION_FAULT.until)
            );
            check
                .fail(more)
                .fix("gfxplane check --all # names the guests, and what helps until then");
        }
        if VNC_BINDS.is_in(version) && has(DisplayInterface::Dmabuf) {
            let more = format!(
                "with QEMU {version} a VNC viewer's Ctrl-Alt-2 ends a guest that has a dmabuf as its second screen"
            );
            check
                .warn(more)
                .fix("gfxplane check --all # names the guests; spice with gl instead of VNC helps");
        }
        if let Some(why) = newer(Program::Qemu, version) {
            check.warn(format!("{why}, so it is uncertain what QEMU would refuse"));
        }
        if check.report.lines.len() == before {
            check.pass(version.to_string());
        }
    }
    let mut check = report.check(Topic::Versions, "version of libvirt");
    let Some(version) = &host.libvirt else {
        check.unknown("it is not known");
        return;
    };
    let is_pci = |entry: &&DeviceEntry| {
        let display = entry.finding.facts.display.preferred();
        matches!(entry.id, DeviceId::Pci(_)) && display.is_some()
    };
    let pci: Vec<String> = host
        .inventory
        .devices
        .iter()
        .filter(is_pci)
        .map(|entry| entry.id.to_string())
        .collect();
    if !PCI_DISPLAY.is_in(version) && !pci.is_empty() {
        check.fail(format!(
            "libvirt {version} silently drops display and ramfb of PCI hostdevs, and libvirt {} and later do not: no screen of {}",
            PCI_DISPLAY.since(),
            pci.join(", ")
        ));
    } else if let Some(why) = newer(Program::Libvirt, version) {
        check.warn(format!(
            "{why}, so it is uncertain what libvirt would refuse"
        ));
    } else {
        check.pass(version.to_string());
    }
}

fn has(entry: &DeviceEntry, interface: DisplayInterface) -> bool {
    entry.finding.facts.display.preferred() == Some(interface)
}
