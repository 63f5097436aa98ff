//! Probes one device: checks whether it may be opened and whether a record has the answer already,
//! and keeps a new answer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::device::record::Record;
use crate::host::run::{self, Written};
use crate::host::sysfs::{self, Device, Host};
use crate::host::{Root, Warning};
use crate::predict::screens::Here;
use crate::probe::{Answer, Asked, Manner, ask, may_open};
use crate::publish::inventory::{Sources, rule_for};
use crate::publish::node_device::name_of;

/// The options of a probe.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The path of gfxplane-probe, the program that opens devices.
    pub prober: &'a Path,
    /// The occasion of the probe.
    pub asked: Asked,
    /// True to open the device even if a record has the answer.
    pub fresh: bool,
    /// The time that the probe may take.
    pub deadline: Duration,
    /// The only interface to try. A record counts only if it came from this interface.
    pub path: Option<OpenPath>,
}

/// The result of a probe.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The answer, from the device or from its record.
    pub answer: Answer,
    /// True if the answer came from the record, and the device was left alone.
    pub from_record: bool,
    /// The effect on the stored record; `None` if none was stored.
    pub written: Option<Written>,
    /// The reason why the device was not opened or the record not kept.
    pub note: Option<String>,
}

impl Outcome {
    /// Makes the result of a probe that wrote no record.
    pub(crate) fn unkept(answer: Answer, note: Option<String>) -> Self {
        Outcome {
            answer,
            from_record: false,
            written: None,
            note,
        }
    }
}

/// Probes one device and keeps the answer. `device` is the device in `sources`; `None` if it is not
/// there.
///
/// Returns a valid record without a probe, unless `fresh` is set or the record came from another
/// interface than `path`. If the record has no answer, the device is probed again if the user named
/// it or [`may_pass`] returns true. A failure that [is not about the
/// device](says_nothing_of_the_device) is returned but not kept.
pub fn ask_and_keep(
    root: &Root,
    sources: &Sources,
    id: DeviceId,
    device: Option<&Device>,
    request: &Request<'_>,
) -> Outcome {
    let Some(device) = device else {
        return not_found(root, id);
    };
    // A record must name the driver that answered.
    if device.driver.is_none() {
        return unknown(Reason::NoDriver, Step::Find, None);
    }
    let record = sources.memory.devices.get(&id);
    let record =
        record.filter(|record| record.circumstances == device.circumstances(&sources.host));
    let is_wanted = |record: &&Record| request.path.is_none_or(|path| record.path == Some(path));
    if let Some(record) = record.filter(is_wanted).filter(|_| !request.fresh) {
        let again = request.asked == Asked::ByName || may_pass(record);
        if record.facts.display.is_answer() || !again {
            let answer = Answer {
                facts: record.facts.clone(),
                path: record.path,
                step: record.step,
                errno: record.errno.clone(),
            };
            return Outcome {
                from_record: true,
                ..Outcome::unkept(answer, None)
            };
        }
    }
    let rule = rule_for(&sources.rules, &sources.host, device);
    if let Err(why) = may_open(device, rule, request.asked) {
        return unknown(Reason::NotAllowed, Step::Policy, Some(why));
    }
    if root.is_recorded() {
        let why = "a recorded host has no devices to open".into();
        return unknown(Reason::NotAllowed, Step::Policy, Some(why));
    }
    let facts = rule.and_then(|rule| rule.facts.as_ref());
    let manner = Manner {
        kvm: facts.is_some_and(|facts| facts.kvm) || record.is_some_and(|record| record.facts.kvm),
        path: request.path,
    };
    let answer = ask(request.prober, id, request.deadline, manner);
    if says_nothing_of_the_device(&answer) {
        return Outcome::unkept(answer, None);
    }
    let record = record_of(device, &sources.host, &answer);
    let written = run::write_record(root, &record, device.parent.as_deref());
    // If the device disappeared during the probe, nothing else would remove its record.
    if !root.device(id).exists() {
        let _ = run::forget(root, id);
    }
    match written {
        Ok(written) => Outcome {
            written: Some(written),
            ..Outcome::unkept(answer, None)
        },
        Err(error) => {
            let note = format!("the record could not be stored: {error}");
            Outcome::unkept(answer, Some(note))
        }
    }
}

/// Returns the outcome for a device that could not be asked, because `step` failed.
pub(crate) fn unknown(reason: Reason, step: Step, note: impl Into<Option<String>>) -> Outcome {
    Outcome::unkept(Answer::none(reason, step), note.into())
}

/// Returns the outcome for an id that is no vfio device of this host.
fn not_found(root: &Root, id: DeviceId) -> Outcome {
    let Some(Here::Present { driver, .. }) = sysfs::here(root, id) else {
        return unknown(Reason::Vanished, Step::Find, None);
    };
    let at = driver.map_or_else(
        || "it is bound to no driver".to_owned(),
        |driver| format!("it is bound to {driver}, which is no vfio driver"),
    );
    let name = name_of(id, None);
    let why = format!(
        "{at}: virsh -c qemu:///system nodedev-detach {name} # to vfio-pci, so that the host can't use it any more"
    );
    unknown(Reason::NoDriver, Step::Find, Some(why))
}

/// Returns whether a record only says that the device could not be probed at that moment: it was in
/// use, or no KVM VM could be created (kvm was not loaded yet, or another hypervisor had the
/// processor's virtualization).
pub(crate) fn may_pass(record: &Record) -> bool {
    match record.facts.display.reason() {
        Some(Reason::InUse) => true,
        Some(Reason::NeedsVm) => record.step.is_some_and(Step::is_kvm),
        _ => false,
    }
}

/// Returns whether a failure is not about the device, but about this host, this process or this
/// moment. A timeout before the driver's own open is such a failure: the child was waiting for
/// another probe.
fn says_nothing_of_the_device(answer: &Answer) -> bool {
    match answer.facts.display.reason() {
        Some(Reason::TimedOut) => answer.step.is_none_or(|step| step < Step::Open),
        Some(Reason::InUse) => false,
        Some(
            Reason::Permission
            | Reason::Vanished
            | Reason::NoDriver
            | Reason::NoVfio
            | Reason::UnsafeState,
        ) => true,
        _ => answer.step.is_some_and(|step| step <= Step::Lock),
    }
}

/// Makes the kernel send a change event for an mdev if `written` says that its record has changed,
/// so that udev and libvirt read the record. Never call this while handling an event: it would
/// cause the next one.
pub(crate) fn announce(root: &Root, id: DeviceId, written: Option<Written>) -> Result<(), Warning> {
    if written != Some(Written::Changed) || !matches!(id, DeviceId::Mdev(_)) {
        return Ok(());
    }
    let path = root.device(id).join("uevent");
    fs::write(&path, "change")
        .map_err(|error| Warning::new(path, format!("udev was not told: {error}")))
}

/// Makes the record of a probe from its answer.
fn record_of(device: &Device, host: &Host, answer: &Answer) -> Record {
    Record {
        format: crate::device::record::FORMAT,
        device: device.id,
        circumstances: device.circumstances(host),
        facts: answer.facts.clone(),
        path: answer.path,
        step: answer.step,
        errno: answer.errno.clone(),
        qemu: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again_unasked() {
        let id = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let host = crate::host::sysfs::Host::default();
        for (reason, step, passes) in [
            (Reason::InUse, Step::Lock, true),
            (Reason::InUse, Step::Bind, true),
            (Reason::NeedsVm, Step::Kvm, true),
            (Reason::NeedsVm, Step::KvmVm, true),
            (Reason::NeedsVm, Step::KvmFile, true),
            // The driver got a VM, but wants more.
            (Reason::NeedsVm, Step::Open, false),
            (Reason::OpenFailed, Step::Open, false),
            (Reason::TimedOut, Step::Control, false),
        ] {
            let device = Device::named(id, "/sys/devices/x");
            let record = record_of(&device, &host, &Answer::none(reason.clone(), step));
            assert_eq!(may_pass(&record), passes, "{reason} {step}");
        }
    }

    /// Only a driver whose open was called can be known to hang.
    #[test]
    fn what_is_kept() {
        for (reason, step, kept) in [
            // A domain with the device is being started.
            (Reason::InUse, Step::Lock, true),
            (Reason::InUse, Step::Group, true),
            (Reason::TimedOut, Step::Open, true),
            (Reason::TimedOut, Step::QueryDmabuf, true),
            (Reason::TimedOut, Step::Lock, false),
            (Reason::TimedOut, Step::Group, false),
            (Reason::OpenFailed, Step::Open, true),
            (Reason::OpenFailed, Step::Lock, false),
            (Reason::Permission, Step::Group, false),
            (Reason::Vanished, Step::Open, false),
        ] {
            let answer = Answer::none(reason.clone(), step);
            assert_eq!(
                says_nothing_of_the_device(&answer),
                !kept,
                "{reason} {step}"
            );
        }
    }
}
