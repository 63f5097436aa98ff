//! Connects the daemon to libvirt, and decides when to try again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::service::Priority;
use super::{DAEMONS, Daemon, Event};
use crate::device::version::Version;
use crate::host::read_whole;

/// The first version that reports `attach-device --config`. Measured: 9.0 does not report it, 11.3
/// does.
const REPORTS_ATTACHED: [u32; 1] = [10];

/// The wait before the first attempt to connect to a libvirt that has just appeared. Doubled after
/// each failure, up to [`LATEST`].
const AT_FIRST: Duration = Duration::from_millis(50);

/// The wait after the first failed attempt to connect to any other libvirt. Doubled after each
/// failure, up to [`LATEST`].
pub(super) const SOONEST: Duration = Duration::from_millis(500);
pub(super) const LATEST: Duration = Duration::from_secs(30);

impl Daemon<'_> {
    /// Returns whether to connect to libvirt: to this machine's system libvirt only if one of its
    /// daemons runs and is not about to end. If systemd listens on libvirt's socket, connecting
    /// would start a daemon that somebody has stopped on purpose.
    pub(super) fn is_there(&self) -> bool {
        let is_another = |pid: &u32| !self.ending.contains(pid);
        !self.is_system() || self.alive().iter().any(is_another)
    }

    /// Returns the process ids of libvirtd and virtqemud, as far as they run.
    pub(super) fn alive(&self) -> BTreeSet<u32> {
        let pids = DAEMONS.1.iter().filter_map(|name| self.pid(name));
        pids.collect()
    }

    /// Returns the process id in one of libvirt's files, if that process runs.
    pub(super) fn pid(&self, file: &str) -> Option<u32> {
        let path = self.context.root.join(DAEMONS.0).join(file);
        let pid = read_whole(&path, 64).ok()?.trim().parse().ok()?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        process.exists().then_some(pid)
    }

    /// Connects to libvirt, and then looks at all domains. If `at_once` is true, an unreachable
    /// libvirt is an error. If it is false, never fails: the daemon tries again later, or waits
    /// until libvirt runs ([`is_there`](Self::is_there)).
    pub(super) fn connect(&mut self, at_once: bool) -> anyhow::Result<()> {
        if !at_once && !self.is_there() {
            self.retry = None;
            self.say(Priority::Info, "waits for libvirt");
            self.service.tell("STATUS=Waiting for libvirt");
            return Ok(());
        }
        let sink = self.sink.clone();
        let watched = self.context.libvirt.watch(Arc::new(move |event| {
            let _ = sink.send(Event::Libvirt(event));
        }));
        match watched {
            Ok(libvirt) => {
                self.retry = None;
                self.warned.clear();
                self.libvirt = Some(libvirt);
                self.service.tell("STATUS=Watching libvirt's domains");
                self.connected();
                Ok(())
            }
            Err(error) if at_once => Err(error.into()),
            Err(error) => {
                let wait = self
                    .retry
                    .map_or(SOONEST, |(_, wait)| (wait * 2).min(LATEST));
                let text = format!("{error}; gfxplane keeps trying");
                if self.warned.insert(text.clone()) {
                    self.say(Priority::Warning, &text);
                }
                self.retry = Some((Instant::now() + wait, wait));
                Ok(())
            }
        }
    }

    fn connected(&mut self) {
        let Some(libvirt) = self.libvirt.clone() else {
            return;
        };
        let version = libvirt.version().unwrap_or_else(|_| Version::of(&[0]));
        self.say(Priority::Info, &format!("connected to libvirt {version}"));
        if self.is_system() && !version.is_from(&REPORTS_ATTACHED) {
            let text = "this libvirt does not report devices that are attached to a definition: its files are watched, too";
            self.say(Priority::Info, text);
            self.watches_definitions = true;
            self.watch_files();
        }
        self.wait_for_devices();
        self.look_at_everything();
        self.take_requests();
        self.publish_soon();
    }

    pub(super) fn daemon_came(&mut self) {
        if self.libvirt.is_none() && self.is_there() {
            // The daemon's socket may come a moment after its process id.
            self.retry = Some((Instant::now() + AT_FIRST, AT_FIRST));
        }
    }
}
