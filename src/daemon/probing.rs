//! Devices that come free are asked, by `gfxplane-probe`, in a thread of their own: a driver that
//! hangs holds nobody up.

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

/// Who asks.
pub(super) struct Probing {
    devices: Sender<Vec<DeviceId>>,
}

impl Probing {
    /// `prober`: the program that opens devices.
    pub(super) fn new(prober: PathBuf) -> Self {
        let (devices, asked) = mpsc::channel::<Vec<DeviceId>>();
        thread::spawn(move || {
            for devices in asked {
                ask(&prober, &devices);
            }
        });
        Probing { devices }
    }

    /// Has devices asked; what they say is in their records.
    pub(super) fn ask(&self, devices: Vec<DeviceId>) {
        // The thread ends with us.
        let _ = self.devices.send(devices);
    }
}

fn ask(prober: &Path, devices: &[DeviceId]) {
    // What it has to say is in the record; a start that comes in between goes first. What it can't
    // do it says on stderr, which is the journal's.
    let _ = Command::new(prober)
        .arg("--unasked")
        .args(devices.iter().map(ToString::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
}

/// Whether a device that is there has not been asked, or could not be when it was ([`may_pass`]),
/// and may be opened unasked. What others of its type have said does not count.
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

/// The devices that were in use when they were asked.
pub(super) fn in_use(root: &Root) -> Vec<DeviceId> {
    let sources = Sources::read(root);
    let devices = sources.memory.devices.values();
    devices
        .filter(|record| record.facts.display == Display::Unknown(Reason::InUse))
        .map(|record| record.device)
        .collect()
}
