//! Checks devices, the knowledge about them, and gfxplane's own parts.

use std::collections::BTreeMap;

use crate::device::id::DeviceId;
use crate::domain::shell::quoted;
use crate::explain::doctor::{Host, REINSTALL, Report, Topic, UdevRule, Verdict, listed};
use crate::publish::inventory::State;
use crate::publish::unknown::{LOAD_VFIO, if_it_may_be_opened};

/// Checks the files of gfxplane's settings and rules. gfxplane ignores a file with a mistake as a
/// whole, which the user may not notice.
pub(super) fn settings(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::Settings, "gfxplane's settings and rules");
    if host.settings.is_empty() {
        check.pass("");
    }
    for warning in &host.settings {
        check.fail(warning.to_string()).fix(format!(
            "sudoedit {} # gfxplane ignores the whole file until it is right, and the hook only warns",
            quoted(&warning.path.to_string_lossy())
        ));
    }
}

/// Checks whether graphics cards offer the vGPUs that they can have.
pub(super) fn gpus(host: &Host, report: &mut Report) {
    for gpu in &host.inventory.gpus {
        let Some(missing) = &gpu.missing else {
            continue;
        };
        let mut check = report.check(Topic::Gpus, format!("vGPUs of {}", gpu.address));
        let line = check.line(missing.level().into(), &missing.text);
        line.device = gpu.address.parse().ok();
        line.fixes(missing.fixes.iter().filter(|_| missing.certain));
    }
}

/// Checks vfio, and whether the displays of active devices are known. `holders`: the guests that
/// have devices open.
pub(super) fn devices(host: &Host, holders: &BTreeMap<DeviceId, String>, report: &mut Report) {
    let active = || {
        let devices = host.inventory.devices.iter();
        devices.filter(|entry| entry.state == State::Active)
    };
    if active().next().is_none() {
        let more = "there is none; types of mediated devices: ";
        let more = format!("{more}{}", host.inventory.types.len());
        report.check(Topic::Devices, "vfio devices").pass(more);
        return;
    }
    let mut check = report.check(Topic::Devices, "vfio");
    if host.vfio {
        check.pass("");
    } else {
        let more = "neither /dev/vfio/vfio nor /dev/iommu exists";
        check.missing(Verdict::Fail, more).fix(LOAD_VFIO);
    }
    for entry in active() {
        let mut check = report.check(Topic::Devices, format!("display of {}", entry.id));
        let holder = holders.get(&entry.id).map(String::as_str);
        let problem = host.around.problem(entry, holder);
        let display = &entry.finding.facts.display;
        let known = display.reason().is_none().then(|| {
            let words = display.words().join(", ");
            format!("{words}, {}", entry.finding.how_known())
        });
        let verdict = problem
            .as_ref()
            .map_or(Verdict::Pass, |one| one.level.into());
        let (why, fixes) = problem.map(|one| (one.text, one.fixes)).unzip();
        let more: Vec<String> = known.into_iter().chain(why).collect();
        let line = check.line(verdict, more.join("; ")).of(entry.id);
        line.fixes(fixes.unwrap_or_default());
    }
}

/// Checks for damaged records, and for records that are no longer valid.
pub(super) fn records(host: &Host, report: &mut Report) {
    for warning in &host.odd_records {
        let stem = warning.path.file_stem().and_then(|stem| stem.to_str());
        let device = stem.and_then(|stem| stem.parse::<DeviceId>().ok());
        let path = quoted(&warning.path.to_string_lossy());
        let again = device.map(|id| format!(" && sudo gfxplane probe --fresh {id}"));
        report
            .check(Topic::Records, "damaged records")
            .warn(warning.to_string())
            .fix(format!("sudo rm -r {path}{}", again.unwrap_or_default()));
    }
    let mut check = report.check(Topic::Records, "stale records");
    if host.stale.is_empty() {
        check.pass("none");
        return;
    }
    let ids: Vec<String> = host.stale.iter().map(ToString::to_string).collect();
    let line = check.warn(format!(
        "not valid any more: kernel, driver, type or boot have changed, or the device is gone: {}",
        ids.join(", ")
    ));
    let there = host.stale.iter().filter(|id| {
        let mut devices = host.inventory.devices.iter();
        devices.any(|entry| entry.id == **id && entry.state == State::Active)
    });
    let (unasked, named): (Vec<&DeviceId>, Vec<&DeviceId>) =
        there.partition(|id| host.around.unasked.contains(id));
    if !unasked.is_empty() {
        let ids: Vec<String> = unasked.iter().map(ToString::to_string).collect();
        line.fix(format!("sudo gfxplane probe --fresh {}", ids.join(" ")));
    }
    line.fixes(named.into_iter().map(|id| if_it_may_be_opened(*id)));
}

/// Checks the udev rule, the daemon, the files that it exports, and gfxplane-helper.
pub(super) fn service(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::Service, "udev rule");
    match host.udev_rule {
        Some(UdevRule::Installed) => {
            check.pass("");
        }
        Some(UdevRule::Hidden) => {
            check
                .warn("a file of its name in /etc/udev/rules.d or /run/udev/rules.d replaces it, so new devices are not probed")
                .fix("sudo rm -f /etc/udev/rules.d/61-gfxplane.rules /run/udev/rules.d/61-gfxplane.rules && sudo udevadm control --reload");
        }
        None => {
            let more = "it is not installed, so new devices are not probed";
            check.missing(Verdict::Warn, more).fix(REINSTALL);
        }
    }
    let mut check = report.check(Topic::Service, "daemon");
    match host.moment.service {
        Some(true) => {
            check.pass("runs");
        }
        Some(false) => {
            let more = "it does not run, so no definition is fixed, and no device is probed when it becomes free";
            check
                .warn(more)
                .fix("sudo systemctl enable --now gfxplane.service");
        }
        None => {
            check.unknown("systemd could not be asked");
        }
    }
    for (path, is_there) in &host.moment.exports {
        let mut check = report.check(Topic::Service, format!("export to {}", path.display()));
        if *is_there {
            check.pass("");
        } else {
            check
                .warn("its content is not what gfxplane.service wrote")
                .fix("sudo systemctl enable --now gfxplane-export.path && sudo systemctl restart gfxplane-export.service");
        }
    }
    let own: Vec<_> = host.hooks.iter().filter(|hook| hook.is_ours).collect();
    if !own.is_empty() && !host.helper {
        let more = format!(
            "/usr/bin/gfxplane-helper is missing or can't be executed: {} does nothing",
            listed(own.iter().map(|hook| &hook.path))
        );
        report
            .check(Topic::Hook, "gfxplane-helper")
            .missing(Verdict::Fail, more)
            .fix(REINSTALL);
    }
}
