//! Makes and removes mdevctl's link to the helper. The link exists while libvirt runs, but only
//! after libvirt has listed its devices ([`crate::host::callout`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::service::Priority;
use super::{Daemon, Event, SOONEST};
use crate::host::callout::{self, OF_DAEMON};
use crate::host::config::CalloutLink;
use crate::libvirt::{Failure, Libvirt, Sink};

/// The URI of virtnodedevd, and (below) the file with its process id. virtnodedevd has the node
/// devices if each of libvirt's drivers has its own daemon.
const NODE_DEVICES: &str = "nodedev:///system";
pub(super) const NODE_DEVICE_DAEMON: &str = "virtnodedevd.pid";

/// The file with the process id of libvirtd, which has all drivers.
const ALL_DRIVERS: &str = "libvirtd.pid";

/// The time between two checks whether a daemon's process has ended, and the greatest number of
/// checks.
const LOOKS: (Duration, u32) = (Duration::from_millis(20), 3000);

/// The number of attempts to connect to a daemon that has written its process id: its socket may
/// appear a moment later.
const TRIES: u32 = 4;

/// The libvirt daemon that has the node devices.
#[derive(Debug, Default)]
pub(super) struct NodeDevices {
    /// The open connection to virtnodedevd; `None` if libvirtd has the devices.
    own: Option<Arc<dyn Libvirt>>,
    /// The number of the present wait. A report of an earlier wait no longer counts.
    pub(super) turn: u64,
    /// True if the daemon has listed its devices.
    pub(super) listed: bool,
    /// The daemon's process id.
    process: Option<u32>,
}

/// The outcome of waiting until libvirt has listed its devices: the connection to virtnodedevd, or
/// `None` if libvirtd has the devices.
pub(super) type Listed = Result<Option<Arc<dyn Libvirt>>, Failure>;

impl Daemon<'_> {
    /// Starts a thread that waits until libvirt has listed its devices, and then sends
    /// [`Event::Listed`]. Does nothing without a connection to the system's libvirt, or if no
    /// daemon with devices runs.
    pub(super) fn wait_for_devices(&mut self) {
        let Some(libvirt) = self.libvirt.clone().filter(|_| self.is_system()) else {
            return;
        };
        self.devices.turn += 1;
        let (turn, sink) = (self.devices.turn, self.sink.clone());
        if self.pid(ALL_DRIVERS).is_some() {
            thread::spawn(move || {
                // libvirt answers only after it has listed them.
                let listed = libvirt.lists_nodedevs();
                drop(libvirt);
                let _ = sink.send(Event::Listed(turn, listed.map(|()| None)));
            });
        } else if self.pid(NODE_DEVICE_DAEMON).is_some() {
            let library = Arc::clone(&self.context.libvirt);
            thread::spawn(move || {
                let to_loop = sink.clone();
                let lost: Sink = Arc::new(move |_| {
                    let _ = to_loop.send(Event::DevicesLost(turn));
                });
                let listed = connected(library.as_ref(), &lost);
                let _ = sink.send(Event::Listed(turn, listed.map(Some)));
            });
        }
    }

    /// Makes the link after the wait with the number `turn`, or warns if that wait has failed. Does
    /// nothing if a later wait has begun.
    pub(super) fn devices_are_listed(&mut self, turn: u64, listed: Listed) {
        if turn != self.devices.turn {
            return;
        }
        match listed {
            Ok(own) => {
                let file = match own {
                    Some(_) => NODE_DEVICE_DAEMON,
                    None => ALL_DRIVERS,
                };
                self.devices.process = self.pid(file);
                self.devices.own = own;
                self.devices.listed = true;
                self.set_link();
            }
            Err(error) => {
                let text =
                    format!("virsh nodedev-dumpxml shows no attributes of gfxplane's: {error}");
                self.say(Priority::Warning, &text);
            }
        }
    }

    /// Handles the end of the connection to the daemon that has the devices. Removes the link only
    /// after the daemon's process has ended, or after a minute ([`LOOKS`]): if it disappeared
    /// earlier, the ending daemon would have mdevctl list all devices again, and end later.
    pub(super) fn devices_are_lost(&mut self) {
        self.devices.turn += 1;
        self.devices.listed = false;
        self.devices.own = None;
        let process = self.devices.process.take();
        let process = process.map(|pid| PathBuf::from(format!("/proc/{pid}")));
        let Some(process) = process.filter(|process| process.exists()) else {
            return self.set_link();
        };
        let sink = self.sink.clone();
        thread::spawn(move || {
            let mut looks = 0..LOOKS.1;
            while process.exists() && looks.next().is_some() {
                thread::sleep(LOOKS.0);
            }
            let _ = sink.send(Event::Ended);
        });
    }

    /// Makes the link if the settings want it, libvirt has listed its devices, and libvirt does not
    /// show displays by itself. Otherwise removes the link.
    pub(super) fn set_link(&mut self) {
        let root = &self.context.root;
        let wanted = self.config.attributes
            && self.config.callout == CalloutLink::Daemon
            && !callout::is_told_by_libvirt(root);
        let done = if wanted && self.devices.listed {
            callout::make(root, OF_DAEMON)
        } else {
            callout::remove(root, OF_DAEMON)
        };
        if let Err(error) = done {
            let text = format!(
                "mdevctl's link to gfxplane-helper: {error}: virsh nodedev-dumpxml shows no attributes"
            );
            self.say(Priority::Warning, &text);
        }
    }
}

/// Connects to virtnodedevd, and waits until it has listed its devices. Calls `lost` when the
/// connection ends.
fn connected(library: &dyn Libvirt, lost: &Sink) -> Result<Arc<dyn Libvirt>, Failure> {
    let mut tries = 1;
    loop {
        match library.stay(NODE_DEVICES, Arc::clone(lost)) {
            Ok(libvirt) => return libvirt.lists_nodedevs().map(|()| libvirt),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {
                tries += 1;
                thread::sleep(SOONEST);
            }
        }
    }
}
