//! Checks devices, the knowledge about them, and gfxplane's own parts.

use std::collections::BTreeMap;

use crate::device::id::DeviceId;
use crate::domain::shell::quoted;
use crate::explain::doctor::{Host, Line, REINSTALL, Report, Topic, UdevRule, Verdict, listed};
use crate::publish::inventory::State;
use crate::publish::unknown::{KVM_ONLY, LOAD_KVM, LOAD_VFIO, NO_KVM, if_it_may_be_opened};

/// Checks gfxplane's settings and rules. A file with a mistake is ignored as a whole, which nobody
/// may notice.
pub(super) fn settings(host: &Host, report: &mut Report) {
    let what = "gfxplane's settings and rules";
    if host.settings.is_empty() {
        report.line(Topic::Settings, what, Verdict::Pass, "");
    }
    for warning in &host.settings {
        report
            .line(Topic::Settings, what, Verdict::Fail, warning.to_string())
            .fix(format!(
                "sudoedit {} # gfxplane ignores the whole file until it is right, and the hook only warns",
                quoted(&warning.path.to_string_lossy())
            ));
    }
}

/// Checks whether graphics cards offer all that they can.
pub(super) fn gpus(host: &Host, report: &mut Report) {
    for gpu in &host.inventory.gpus {
        let Some(missing) = &gpu.missing else {
            continue;
        };
        let what = format!("vGPUs of {}", gpu.address);
        let verdict = if missing.certain {
            Verdict::Warn
        } else {
            Verdict::Pass
        };
        let line = report.line(Topic::Gpus, what, verdict, &missing.text);
        line.of(DeviceId::Pci(gpu.address));
        for fix in missing.fixes.iter().filter(|_| missing.certain) {
            line.fix(fix);
        }
    }
}

/// Checks the active devices.
pub(super) fn devices(host: &Host, holders: &BTreeMap<DeviceId, String>, report: &mut Report) {
    let active = || {
        let devices = host.inventory.devices.iter();
        devices.filter(|entry| entry.state == State::Active)
    };
    if active().next().is_none() {
        let more = "there is none; types of mediated devices: ";
        let more = format!("{more}{}", host.inventory.types.len());
        report.line(Topic::Devices, "vfio devices", Verdict::Pass, more);
        return;
    }
    if host.vfio {
        report.line(Topic::Devices, "vfio", Verdict::Pass, "");
    } else {
        report
            .missing(
                Topic::Devices,
                "vfio",
                Verdict::Fail,
                "neither /dev/vfio/vfio nor /dev/iommu is there",
            )
            .fix(LOAD_VFIO);
    }
    for entry in active() {
        let what = format!("display of {}", entry.id);
        let display = &entry.finding.facts.display;
        let words = display.words().join(", ");
        let Some(reason) = display.reason() else {
            let how = entry.finding.how_known();
            let line = report.line(
                Topic::Devices,
                what,
                Verdict::Pass,
                format!("{words}, {how}"),
            );
            line.of(entry.id);
            if host.around.lacks_kvm(entry) {
                line.more.push_str(&format!("; {KVM_ONLY}"));
                lacks_kvm(line);
                line.fix(LOAD_KVM);
            }
            continue;
        };
        let line = report.line(
            Topic::Devices,
            what,
            Verdict::Warn,
            format!("not known: {}", reason.why()),
        );
        line.of(entry.id);
        if host.around.lacks_kvm(entry) {
            lacks_kvm(line);
        }
        let holder = holders.get(&entry.id).map(String::as_str);
        for fix in host.around.fixes(entry, reason, holder) {
            line.fix(fix);
        }
    }
}

/// Turns the line into a failure, because the driver wants a virtual machine, and the host can't
/// create one.
fn lacks_kvm(line: &mut Line) {
    line.verdict = Verdict::Fail;
    line.more.push_str(&format!("; {NO_KVM}"));
}

/// Checks for records that nobody believes any more, or that nobody ever believed.
pub(super) fn records(host: &Host, report: &mut Report) {
    for warning in &host.odd_records {
        let stem = warning.path.file_stem().and_then(|stem| stem.to_str());
        let device = stem.and_then(|stem| stem.parse::<DeviceId>().ok());
        let path = quoted(&warning.path.to_string_lossy());
        let again = device.map(|id| format!(" && sudo gfxplane probe --fresh {id}"));
        report
            .line(
                Topic::Records,
                "damaged records",
                Verdict::Warn,
                warning.to_string(),
            )
            .fix(format!("sudo rm -r {path}{}", again.unwrap_or_default()));
    }
    let what = "stale records";
    if host.stale.is_empty() {
        report.line(Topic::Records, what, Verdict::Pass, "none");
        return;
    }
    let ids: Vec<String> = host.stale.iter().map(ToString::to_string).collect();
    let line = report.line(
        Topic::Records,
        what,
        Verdict::Warn,
        format!(
            "not believed: kernel, driver, type or boot have changed, or the device has gone: {}",
            ids.join(", ")
        ),
    );
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
    for id in named {
        line.fix(if_it_may_be_opened(*id));
    }
}

/// Checks udev's rule and the daemon.
pub(super) fn service(host: &Host, report: &mut Report) {
    let what = "udev rule";
    match host.udev_rule {
        Some(UdevRule::Installed) => {
            report.line(Topic::Service, what, Verdict::Pass, "");
        }
        Some(UdevRule::Hidden) => {
            report
                .line(
                    Topic::Service,
                    what,
                    Verdict::Warn,
                    "a file of its name in /etc/udev/rules.d or /run/udev/rules.d takes its place: new devices are not asked",
                )
                .fix("sudo rm -f /etc/udev/rules.d/61-gfxplane.rules /run/udev/rules.d/61-gfxplane.rules && sudo udevadm control --reload");
        }
        None => {
            let more = "it is not installed: new devices are not asked";
            report
                .missing(Topic::Service, what, Verdict::Warn, more)
                .fix(REINSTALL);
        }
    }
    let what = "daemon";
    match host.moment.service {
        Some(true) => {
            report.line(Topic::Service, what, Verdict::Pass, "runs");
        }
        Some(false) => {
            report
                .line(
                    Topic::Service,
                    what,
                    Verdict::Warn,
                    "it does not run: no definition is fixed, and no device asked that comes free",
                )
                .fix("sudo systemctl enable --now gfxplane.service");
        }
        None => {
            report.unknown(Topic::Service, what, "systemd could not be asked");
        }
    }
    let own: Vec<_> = host.hooks.iter().filter(|hook| hook.is_ours).collect();
    if !own.is_empty() && !host.helper {
        report
            .missing(
                Topic::Hook,
                "gfxplane-helper",
                Verdict::Fail,
                format!(
                    "/usr/bin/gfxplane-helper is missing or can't be executed: {} does nothing",
                    listed(own.iter().map(|hook| &hook.path))
                ),
            )
            .fix(REINSTALL);
    }
}
