//! Probes devices that come free, through `gfxplane-probe`. A separate thread waits for
//! `gfxplane-probe`, so that a driver that hangs does not hold up the daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::host::config::Config;
use crate::probe::asking::may_pass;
use crate::probe::{Asked, may_open};
use crate::publish::inventory::{Sources, rule_for};

/// The thread that probes.
pub(super) struct Probing {
    devices: Sender<Vec<DeviceId>>,
}

impl Probing {
    /// Starts the thread. `prober` is the program that opens devices.
    pub(super) fn new(prober: PathBuf) -> Self {
        let (devices, asked) = mpsc::channel::<Vec<DeviceId>>();
        thread::spawn(move || {
            for devices in asked {
                ask(&prober, &devices);
            }
        });
        Probing { devices }
    }

    /// Has the thread probe devices. The answers go to the devices' records.
    pub(super) fn ask(&self, devices: Vec<DeviceId>) {
        // The thread ends only with the daemon.
        let _ = self.devices.send(devices);
    }
}

fn ask(prober: &Path, devices: &[DeviceId]) {
    // The answer is in the record. A start that begins meanwhile goes first. Failures go to stderr,
    // and so to the journal.
    let _ = Command::new(prober)
        .arg("--unasked")
        .args(devices.iter().map(ToString::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
}

/// Returns whether a device is to be probed: it exists, may be opened unasked, and has no valid
/// record of its own, or a record of an attempt that may succeed now ([`may_pass`]). Records of
/// other devices of its type don't count.
pub(super) fn is_to_be_asked(root: &Root, id: DeviceId, config: &Config) -> bool {
    let (sources, device) = Sources::read_device(root, id);
    device.is_some_and(|device| {
        let rule = rule_for(&sources.rules, &sources.host, &device);
        let circumstances = device.circumstances(&sources.host);
        let record = sources.memory.devices.get(&id);
        record
            .filter(|record| record.circumstances == circumstances)
            .is_none_or(may_pass)
            && may_open(&device, rule, Asked::Unasked(config.probe)).is_ok()
    })
}

/// Returns the devices that were in use when they were last probed.
pub(super) fn in_use(root: &Root) -> Vec<DeviceId> {
    let sources = Sources::read(root);
    let devices = sources.memory.devices.values();
    devices
        .filter(|record| record.facts.display == Display::Unknown(Reason::InUse))
        .map(|record| record.device)
        .collect()
}
