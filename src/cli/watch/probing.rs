//! Devices that come free are asked, by `gfxplane-probe`, in a thread of their own: a driver that
//! hangs holds nobody up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::facts::{Display, Reason};
use crate::host::Root;
use crate::inventory::{Sources, active};
use crate::names::DeviceId;

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
    // What it has to say is in the record; a start that comes in between goes first.
    let _ = Command::new(prober)
        .arg("--unless-starting")
        .args(devices.iter().map(ToString::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
}

/// Whether a device that is there has not been asked, or was in use when it was.
pub(super) fn is_unknown(root: &Root, id: DeviceId) -> bool {
    let (sources, device) = Sources::read_device(root, id);
    device.is_some_and(|device| {
        matches!(
            active(&sources, &device).finding.facts.display,
            Display::Unknown(Reason::InUse | Reason::NotProbed)
        )
    })
}
