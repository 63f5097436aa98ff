//! Learns the displays of a domain's devices from the log of its last start.

use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use crate::device::facts::Display;
use crate::device::id::DeviceId;
use crate::device::record::{ByQemu, Record};
use crate::device::version::Version;
use crate::explain::learn::{Lesson, began, learn};
use crate::host::log::{By, Entry, What};
use crate::host::run::{self, Written};
use crate::host::state::now;
use crate::host::{Root, emulator, qemu_log};
use crate::libvirt::{Failure, Libvirt};
use crate::probe::asking::announce;
use crate::publish::inventory::Sources;

/// A domain, its devices, and where to find its log.
#[derive(Clone, Copy)]
pub(crate) struct Logged<'d> {
    /// The domain's name.
    pub name: &'d str,
    /// The domain's UUID.
    pub uuid: Uuid,
    /// The domain's vfio devices.
    pub devices: &'d [DeviceId],
    /// The libvirt that has the domain.
    pub libvirt: &'d dyn Libvirt,
    /// The directory where libvirt keeps the logs of domains.
    pub directory: &'d Path,
}

/// The display of one device, learned from a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Learned {
    /// The device whose display was learned.
    pub device: DeviceId,
    #[serde(flatten)]
    display: Display,
    #[serde(skip_serializing_if = "Option::is_none")]
    qemu: Option<Version>,
    /// True if the domain started.
    started: bool,
    /// True if QEMU had not told this display of the device before.
    pub is_new: bool,
}

/// The reason why nothing was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unlearned {
    /// Nothing can be learned now, for this reason. The user need not know.
    Nothing(String),
    /// This is wrong, and the user should know.
    Problem(String),
}

impl Learned {
    /// Describes in one line what was learned.
    pub(crate) fn words(&self) -> String {
        let version = self.qemu.as_ref().map(|version| format!(" {version}"));
        let version = version.unwrap_or_default();
        let word = self.display.words().join(",");
        let why = if self.started {
            format!("QEMU{version} has started with its display and without OpenGL")
        } else if self.display == Display::NONE {
            format!("QEMU{version} has found no display")
        } else {
            format!("QEMU{version} refused it because OpenGL is missing")
        };
        format!("{}: {word}: {why}", self.device)
    }
}

/// Learns from the log of a domain, keeps the result as records, and tells udev. Never returns an
/// empty list: [`Unlearned`] has the reason.
pub(crate) fn learn_from(root: &Root, domain: Logged<'_>) -> Result<Vec<Learned>, Unlearned> {
    let nothing = |text: &str| Unlearned::Nothing(text.into());
    let log = || {
        let log = qemu_log::tail(root, domain.directory, domain.name);
        log.map_err(Unlearned::Problem)?
            .ok_or_else(|| nothing("it has no log"))
    };
    // This asks libvirt only after it has read the log, which may be that of a start under way.
    let before = began(&log()?);
    let runs = runs(domain.libvirt, domain.uuid);
    let runs = runs.map_err(|error| Unlearned::Problem(error.to_string()))?;
    // libvirt writes to the log how the domain ended before it reports the end. But by now the log
    // may have another start than the one about which libvirt answered.
    let log = log()?;
    let Some(is_running) = runs.filter(|_| began(&log) == before) else {
        return Err(nothing("it is just being started or ended"));
    };
    let lesson = learn(&log, domain.uuid, domain.devices, is_running)
        .map_err(|why| nothing(&why.to_string()))?;
    if lesson.started && emulator::kind(root, &lesson.emulator) != emulator::Kind::Program {
        return Err(nothing(
            "its emulator is missing, or is a script, which may give QEMU other displays",
        ));
    }
    let mut all = Vec::new();
    for (id, display) in &lesson.displays {
        all.extend(keep(root, domain.uuid, &lesson, *id, display)?);
    }
    if all.is_empty() {
        return Err(nothing(
            "the last start in its log was before the present devices existed",
        ));
    }
    Ok(all)
}

/// Returns whether a domain runs; `None` if it is being started, ended or undefined at this moment.
fn runs(libvirt: &dyn Libvirt, uuid: Uuid) -> Result<Option<bool>, Failure> {
    Ok(match libvirt.persistent(uuid)? {
        Some(definition) if !definition.is_active => Some(false),
        Some(_) if libvirt.is_running(uuid)? => Some(true),
        _ => None,
    })
}

/// Stores the display that was learned of one device, and tells udev. Returns `None` if the device
/// has no driver, no longer exists, or appeared only after the start.
fn keep(
    root: &Root,
    domain: Uuid,
    lesson: &Lesson,
    id: DeviceId,
    display: &Display,
) -> Result<Option<Learned>, Unlearned> {
    let (sources, device) = Sources::read_device(root, id);
    let Some(device) = device.filter(|device| {
        device.driver.is_some() && qemu_log::is_of_this_device(root, id, lesson.began)
    }) else {
        return Ok(None);
    };
    let qemu = ByQemu {
        version: lesson.qemu.clone(),
        learned_from: Some(domain),
    };
    let circumstances = device.circumstances(&sources.host);
    let record = Record::of_qemu(id, circumstances, display.clone(), qemu);
    let written = run::write_record(root, &record, None);
    // If the device has gone meanwhile, nothing else would remove its record.
    if !root.device(id).exists() {
        let _ = run::forget(root, id);
        return Ok(None);
    }
    let written = written.map_err(|error| {
        Unlearned::Problem(format!(
            "the display that was learned for {id} could not be stored: {error}"
        ))
    })?;
    // If udev can't be told now, it reads the record at the device's next event.
    let _ = announce(root, id, Some(written));
    Ok(Some(Learned {
        device: id,
        display: display.clone(),
        qemu: lesson.qemu.clone(),
        started: lesson.started,
        is_new: written == Written::Changed,
    }))
}

/// Returns the log entry about the new displays; `None` if none is new.
pub(crate) fn entry(learned: &[Learned], domain: &str, uuid: Uuid, by: By) -> Option<Entry> {
    let news: Vec<String> = learned
        .iter()
        .filter(|learned| learned.is_new)
        .map(Learned::words)
        .collect();
    let entry = Entry::new(now(), What::Learned, by, domain, Some(uuid));
    (!news.is_empty()).then(|| entry.because(news.join("; ")))
}
