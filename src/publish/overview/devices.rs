//! Makes the lines about devices, with their displays and problems.

use std::collections::{BTreeMap, BTreeSet};

use super::{DeviceLine, Given, GuestEntry, ParentLine, Problem, display_words};
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::sysfs::Gpu;
use crate::plan::commands::Names;
use crate::publish::inventory::{DeviceEntry, State};

/// Returns whether a device is a virtual function that can have a vGPU, but has none.
pub(super) fn is_bare(given: Given<'_>, entry: &DeviceEntry) -> bool {
    let mut functions = given
        .sources
        .host
        .gpus
        .iter()
        .flat_map(|gpu| &gpu.functions);
    functions.any(|one| DeviceId::Pci(one.address) == entry.id && one.vgpu_type == Some(0))
}

/// Adds lines about the card itself and its virtual functions to the card's line, and moves their
/// guests out of `guests` into these lines. Omits the devices in `placed`, which already have a
/// line as vfio devices. Adds the card only if a guest has it, and a virtual function if a guest
/// has it or with `--all`.
pub(super) fn functions(
    given: Given<'_>,
    gpu: &Gpu,
    placed: &BTreeSet<DeviceId>,
    guests: &mut BTreeMap<DeviceId, Vec<GuestEntry>>,
    line: &mut ParentLine,
) {
    let card = (gpu.pci.address, gpu.driver.clone());
    let functions = gpu.functions.iter();
    let functions = functions.map(|one| (one.address, one.driver.clone()));
    for (address, driver) in std::iter::once(card).chain(functions) {
        let id = DeviceId::Pci(address);
        let guests = guests.remove(&id).unwrap_or_default();
        let is_function = address != gpu.pci.address;
        if placed.contains(&id) || (guests.is_empty() && !(given.all && is_function)) {
            continue;
        }
        let at = driver.as_deref().map_or_else(
            || "bound to no driver".to_owned(),
            |driver| format!("the host's: bound to {driver}"),
        );
        line.devices.push(DeviceLine {
            id,
            is_whole: !is_function,
            type_id: None,
            state: Some(State::Active),
            driver,
            display: vec!["unknown".into()],
            known: at,
            problems: Vec::new(),
            guests,
        });
    }
}

/// Returns the line about a device of this host. `guests` are the guests that have the device.
pub(super) fn device(given: Given<'_>, entry: &DeviceEntry, guests: Vec<GuestEntry>) -> DeviceLine {
    let display = &entry.finding.facts.display;
    let holder = guests.iter().find(|guest| guest.holds_it());
    let names = |guest: &GuestEntry| Names::of_domain(given.connect, &guest.name, None);
    let holder = holder.map(|guest| names(guest).operand());
    let mut problem = given.around.problem(entry, holder.as_deref());
    let known = match display.reason() {
        None => entry.finding.how_known(),
        Some(reason) => {
            // A virtual function without a vGPU has no display, either.
            let is_dull = *reason == Reason::NoDriver && is_bare(given, entry);
            problem = problem.filter(|_| !is_dull).map(|problem| Problem {
                text: format!("its display is {}", problem.text),
                ..problem
            });
            reason.to_string()
        }
    };
    DeviceLine {
        id: entry.id,
        is_whole: false,
        type_id: entry.type_id.clone(),
        state: Some(entry.state),
        driver: entry.driver.clone(),
        display: display_words(display),
        known,
        problems: problem.into_iter().collect(),
        guests,
    }
}
