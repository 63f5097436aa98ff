//! Learns from the starts of domains, for the daemon.

use uuid::Uuid;

use super::Daemon;
use super::lessons::{Logged, Unlearned, entry, learn_from};
use super::service::Priority;
use crate::domain::name_and_devices;
use crate::host::Warning;
use crate::host::log::By;
use crate::libvirt::logs::directory;

impl Daemon<'_> {
    /// Learns from the last start of a domain that runs or has just ended. Asks libvirt for the
    /// domain's present state, because the event may be about an earlier start.
    pub(super) fn learn(&mut self, uuid: Uuid) {
        let Some(libvirt) = self.libvirt.clone() else {
            return;
        };
        let root = &self.context.root;
        let Some(directory) = directory(root, self.context.connect.as_deref()) else {
            return;
        };
        let known = self.domains.known(uuid);
        let (name, devices) = match known.filter(|domain| !domain.name.is_empty()) {
            Some(domain) => (domain.name.clone(), domain.devices.clone()),
            // The daemon has not looked at the domain yet. A domain without a definition has no
            // devices to compare with its log.
            None => match libvirt.persistent(uuid) {
                Ok(Some(definition)) => name_and_devices(&definition.xml),
                _ => return,
            },
        };
        if devices.is_empty() {
            return;
        }
        let logged = Logged {
            name: &name,
            uuid,
            devices: &devices,
            libvirt: &*libvirt,
            directory: &directory,
        };
        match learn_from(root, logged) {
            Ok(learned) => {
                for learned in learned.iter().filter(|learned| learned.is_new) {
                    let text = format!("{name}: learned: {}", learned.words());
                    self.say(Priority::Info, &text);
                }
                if let Some(entry) = entry(&learned, &name, uuid, By::Daemon) {
                    let kept = self.domains.state.append(&entry);
                    self.report(kept);
                }
            }
            Err(Unlearned::Nothing(_)) => {}
            Err(Unlearned::Problem(problem)) => {
                self.warn(&[Warning::new(directory, problem)]);
            }
        }
    }
}
