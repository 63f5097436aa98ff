//! mdevctl's link to the helper, which is there while libvirt knows its devices and not while it looks for
//! them ([`crate::host::callout`]).

use std::sync::Arc;
use std::thread;

use super::service::Priority;
use super::{Daemon, Event, SOONEST};
use crate::cli::libvirt::{self, Libvirt};
use crate::config::CalloutLink;
use crate::host::callout::{self, OF_DAEMON};

/// The daemon of libvirt that has the node devices, where each driver has one of its own, and the file with its
/// process id.
const NODE_DEVICES: &str = "nodedev:///system";
pub(super) const NODE_DEVICE_DAEMON: &str = "virtnodedevd.pid";

/// Who has the node devices.
#[derive(Debug, Default)]
pub(super) struct NodeDevices {
    /// The connection to a daemon that has nothing else.
    own: Option<Arc<dyn Libvirt>>,
    /// Which of the connections that we have had is the one that counts.
    turn: u64,
    /// It has listed them.
    listed: bool,
}

impl Daemon<'_> {
    /// Has a thread wait until libvirt has listed its devices.
    pub(super) fn wait_for_devices(&mut self) {
        if !self.is_system() {
            return;
        }
        let libvirt = if self.is_alive("libvirtd.pid") {
            self.libvirt.clone()
        } else {
            self.own_connection()
        };
        let Some(libvirt) = libvirt else { return };
        self.devices.turn += 1;
        let (turn, sink) = (self.devices.turn, self.sink.clone());
        // libvirt answers once it is through.
        thread::spawn(move || {
            let listed = libvirt.lists_nodedevs();
            drop(libvirt);
            let _ = sink.send(Event::Listed(
                turn,
                listed.map_err(|error| error.to_string()),
            ));
        });
    }

    fn own_connection(&mut self) -> Option<Arc<dyn Libvirt>> {
        if self.devices.own.is_none() && self.is_alive(NODE_DEVICE_DAEMON) {
            let sink = self.sink.clone();
            let lost = move |_| {
                let _ = sink.send(Event::Libvirt(libvirt::Event::NodeDevicesLost));
            };
            match self.context.libvirt.stay(NODE_DEVICES, Arc::new(lost)) {
                Ok(libvirt) => self.devices.own = Some(libvirt),
                Err(error) => self.say(Priority::Warning, &format!("{NODE_DEVICES}: {error}")),
            }
        }
        self.devices.own.clone()
    }

    /// libvirt has listed its devices, as far as `turn` is the last one.
    pub(super) fn devices_are_listed(&mut self, turn: u64, listed: Result<(), String>) {
        if turn != self.devices.turn {
            return;
        }
        match listed {
            Ok(()) => {
                self.devices.listed = true;
                self.set_link();
            }
            Err(error) => {
                let text = format!(
                    "libvirt does not list its devices, which stay without attributes: {error}"
                );
                self.say(Priority::Warning, &text);
            }
        }
    }

    /// Who has the devices has ended.
    pub(super) fn devices_are_lost(&mut self) {
        self.devices.turn += 1;
        self.devices.listed = false;
        self.devices.own = None;
        self.set_link();
    }

    /// The daemon that has the devices may be there (again).
    pub(super) fn node_device_daemon_came(&mut self) {
        if self.devices.own.is_none() && self.libvirt.is_some() && !self.is_alive("libvirtd.pid") {
            // Its socket may be a moment behind its process id.
            thread::sleep(SOONEST / 10);
            self.wait_for_devices();
        }
    }

    /// The link is there if it is wanted, and if libvirt has listed its devices.
    pub(super) fn set_link(&mut self) {
        let root = &self.context.root;
        let wanted = self.config.attributes && self.config.callout == CalloutLink::Daemon;
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
