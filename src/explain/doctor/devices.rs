//! Checks devices, what is known of them, and gfxplane's own parts.

use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::domain::shell::quoted;
use crate::explain::doctor::{
    Host, Line, REINSTALL, Report, Topic, UdevRule, Verdict, listed, nodedev,
};
use crate::publish::inventory::State;

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
                "sudoedit {} # until it is mended nothing in it counts, and the hook only warns",
                quoted(&warning.path.to_string_lossy())
            ));
    }
}

/// Checks whether graphics cards offer what they can.
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

/// The command that loads vfio.
const VFIO: &str = "sudo modprobe vfio_iommu_type1";

/// Checks the active devices.
pub(super) fn devices(host: &Host, report: &mut Report) {
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
            .fix(VFIO);
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
            let wants_vm = entry.require.iter().any(|hint| hint.name == "kvm");
            if wants_vm && !host.kvm {
                lacks_kvm(line);
            }
            continue;
        };
        let line = report.line(
            Topic::Devices,
            what,
            Verdict::Warn,
            format!("not known: {reason}"),
        );
        line.of(entry.id);
        match reason {
            Reason::InUse => {
                line.fix("gfxplane # shows which guest has it; gfxplane learn with that name");
            }
            // Nobody would believe its answers a second time.
            Reason::Untrusted => {
                line.fix("sudoedit /etc/gfxplane/rules.d/own.toml # a rule that says what it is: man gfxplane-rules");
            }
            Reason::NeedsVm if !host.kvm => {
                lacks_kvm(line);
            }
            Reason::Permission => {
                line.fix(format!("sudo gfxplane probe --fresh {}", entry.id));
            }
            Reason::NoDriver => {
                line.fix(match entry.id {
                    DeviceId::Pci(_) => format!(
                        "virsh -c qemu:///system nodedev-detach {} # to vfio-pci",
                        nodedev(entry.id)
                    ),
                    DeviceId::Mdev(_) => {
                        "ls /sys/bus/mdev/drivers # one of them has to be bound to it".into()
                    }
                });
            }
            Reason::NoVfio => {
                line.fix(VFIO);
            }
            Reason::NotViable => {
                let group = entry.iommu_group.and_then(|group| host.groups.get(&group));
                let others = group.into_iter().flatten();
                for other in others.filter(|other| other.is_in_the_way()) {
                    line.fix(other.detach());
                }
                if let Some(number) = entry.iommu_group.filter(|_| line.fixes.is_empty()) {
                    line.fix(format!(
                        "ls /sys/kernel/iommu_groups/{number}/devices # all of them have to be handed out"
                    ));
                }
            }
            Reason::NotProbed if host.asked_unasked.contains(&entry.id) => {
                line.fix(format!("sudo gfxplane probe {}", entry.id));
            }
            Reason::NotProbed | Reason::NotAllowed => {
                line.fix(if_it_may_be_opened(entry.id));
            }
            _ => {
                line.fix(format!("sudo gfxplane probe --fresh {}", entry.id));
            }
        }
    }
}

/// Turns the line into a failure: the driver wants a virtual machine, and the host can't create
/// one.
fn lacks_kvm(line: &mut Line) {
    line.verdict = Verdict::Fail;
    line.more
        .push_str("; its driver opens it for a KVM VM only, and there is no /dev/kvm");
    line.fix("sudo modprobe -a kvm_intel kvm_amd # if neither can be loaded, switch on virtualization in the firmware");
}

/// Returns the fix for a device that is opened only if somebody names it.
fn if_it_may_be_opened(id: DeviceId) -> String {
    format!("sudo gfxplane probe {id} # if its driver may be opened: docs/devices.md")
}

/// Checks for records that nobody believes any more, or ever did.
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
        there.partition(|id| host.asked_unasked.contains(id));
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
