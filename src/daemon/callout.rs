//! mdevctl's link to the helper, which is there while libvirt knows its devices and not while it looks for
//! them ([`crate::host::callout`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::service::Priority;
use super::{Daemon, Event, SOONEST};
use crate::host::callout::{self, OF_DAEMON};
use crate::host::config::CalloutLink;
use crate::libvirt::Failure;
use crate::libvirt::Libvirt;

/// The daemon of libvirt that has the node devices, where each driver has one of its own, and the file with its
/// process id.
const NODE_DEVICES: &str = "nodedev:///system";
pub(super) const NODE_DEVICE_DAEMON: &str = "virtnodedevd.pid";

/// The daemon that has all drivers.
const ALL_DRIVERS: &str = "libvirtd.pid";

/// How often it is looked whether a daemon has ended, and for how long.
const LOOKS: (Duration, u32) = (Duration::from_millis(20), 3000);

/// How often that daemon is tried whose process id is there: its socket may be a moment behind.
const TRIES: u32 = 4;

/// Who has the node devices.
#[derive(Debug, Default)]
pub(super) struct NodeDevices {
    /// The connection to a daemon that has nothing else, for as long as it lives.
    own: Option<Arc<dyn Libvirt>>,
    /// How often it was waited for: what is told of an earlier time counts no more.
    turn: u64,
    /// It has listed them.
    listed: bool,
    /// Its process.
    process: Option<u32>,
}

/// libvirt has listed its devices; over a connection of its own, or not.
pub(super) type Listed = Result<Option<Arc<dyn Libvirt>>, Failure>;

impl Daemon<'_> {
    /// Has a thread wait until libvirt has listed its devices.
    pub(super) fn wait_for_devices(&mut self) {
        let Some(libvirt) = self.libvirt.clone().filter(|_| self.is_system()) else {
            return;
        };
        self.devices.turn += 1;
        let (turn, sink) = (self.devices.turn, self.sink.clone());
        if self.is_alive(ALL_DRIVERS) {
            thread::spawn(move || {
                // libvirt answers once it is through.
                let listed = libvirt.lists_nodedevs();
                drop(libvirt);
                let _ = sink.send(Event::Listed(turn, listed.map(|()| None)));
            });
        } else if self.is_alive(NODE_DEVICE_DAEMON) {
            let library = Arc::clone(&self.context.libvirt);
            thread::spawn(move || {
                let to_loop = sink.clone();
                let listed = connected(library.as_ref(), &move || {
                    let _ = to_loop.send(Event::DevicesLost(turn));
                });
                let _ = sink.send(Event::Listed(turn, listed.map(Some)));
            });
        }
    }

    /// What came of it the `turn`th time.
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
                let text = format!("the host's devices stay without attributes: {error}");
                self.say(Priority::Warning, &text);
            }
        }
    }

    /// The connection to who has the devices has ended. The link goes once the process has: one that is ending would
    /// have mdevctl list everything again first, and end the later.
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
            for _ in 0..LOOKS.1 {
                if !process.exists() {
                    break;
                }
                thread::sleep(LOOKS.0);
            }
            let _ = sink.send(Event::Ended);
        });
    }

    /// Nobody looks after the link any more.
    pub(super) fn give_link_up(&mut self) {
        self.devices.listed = false;
        self.set_link();
    }

    /// That is told of the connection of the `turn`th time.
    pub(super) fn own_connection_is_lost(&mut self, turn: u64) {
        if turn == self.devices.turn {
            self.devices_are_lost();
        }
    }

    /// The daemon that has nothing but the devices is there (again).
    pub(super) fn node_device_daemon_came(&mut self) {
        if !self.devices.listed {
            self.wait_for_devices();
        }
    }

    /// The link is there if it is wanted, and if libvirt has listed its devices.
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

/// A connection to the daemon of the node devices that has listed them. `lost`: it has ended.
fn connected(
    library: &dyn Libvirt,
    lost: &(impl Fn() + Clone + Send + Sync + 'static),
) -> Result<Arc<dyn Libvirt>, Failure> {
    let mut tries = 1;
    loop {
        let lost = lost.clone();
        match library.stay(NODE_DEVICES, Arc::new(move |_| lost())) {
            Ok(libvirt) => return libvirt.lists_nodedevs().map(|()| libvirt),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {
                tries += 1;
                thread::sleep(SOONEST);
            }
        }
    }
}
