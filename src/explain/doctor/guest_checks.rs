//! Checks the guests: whether the host has their devices, whether they start, and whether graphics
//! show their screens. The overview has already found the answers.

use std::collections::BTreeMap;

use crate::explain::doctor::{Line, Recording, Report, Topic};
use crate::plan::Level;
use crate::predict::viewers;
use crate::publish::overview::{GuestEntry, GuestsFrom, Overview};

/// Returns the lines about the guests in the overview, or a line that says why there are none.
#[must_use]
pub fn guests(overview: &Overview, recording: Recording) -> Vec<Line> {
    let mut report = Report::new(recording);
    let mut check = report.check(Topic::Guests, "guests");
    let devices = overview.parents.iter().flat_map(|parent| &parent.devices);
    let mut guests: BTreeMap<&str, Vec<&GuestEntry>> = BTreeMap::new();
    let with_device = devices.chain(&overview.absent).flat_map(|one| &one.guests);
    for guest in with_device.chain(&overview.guests) {
        guests.entry(&guest.name).or_default().push(guest);
    }
    match overview.guests_from {
        GuestsFrom::Nowhere => {
            let problem = overview.guests_unknown.as_ref();
            let why = problem.map_or("", |problem| &problem.text);
            let fixes = problem.iter().flat_map(|problem| &problem.fixes);
            check.unknown(why).fixes(fixes);
        }
        _ if guests.is_empty() => {
            check.pass("none has a vfio device");
        }
        _ => {}
    }
    for (name, entries) in guests {
        of_guest(name, &entries, &mut report);
    }
    report.lines
}

/// Writes the lines about one guest. `entries` are the guest's entries in the overview, which has
/// one for each of the guest's devices.
fn of_guest(name: &str, entries: &[&GuestEntry], report: &mut Report) {
    let mut check = report.check(Topic::Guests, format!("guest {name}"));
    let problems = entries.iter().flat_map(|entry| &entry.problems);
    let mut is_well = true;
    for problem in problems.filter(|problem| problem.level > Level::Info) {
        is_well = false;
        let line = check.line(problem.level.into(), &problem.text);
        line.guest = Some(name.to_owned());
        line.fixes(&problem.fixes);
    }
    if is_well {
        let by = entries.iter().flat_map(|entry| viewers(&entry.shown_by));
        let by: Vec<String> = by.collect();
        let more = match by.is_empty() {
            true => "starts".to_owned(),
            false => format!("starts, screen shown by {}", by.join(", ")),
        };
        let line = check.pass(more);
        line.guest = Some(name.to_owned());
    }
}
