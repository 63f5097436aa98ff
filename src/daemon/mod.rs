//! `gfxplane watch`: the daemon. It looks at every domain once, and then at each domain that
//! libvirt or the hook reports. [`crate::daemon::decision`] decides what to do about a domain.
//!
//! One thread makes all decisions and writes all messages, event by event. Other threads wait for
//! libvirt's reports, files, signals, devices that are probed and domains that start.

mod acting;
mod callout_link;
mod conflict;
mod connection;
mod decision;
pub mod hook;
mod learning;
pub(crate) mod lessons;
mod memory;
mod probing;
mod publishing;
mod service;
mod tasks;
#[cfg(test)]
mod tests;
mod trying;
mod watched_files;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::host::config::Config;
use crate::host::domains::DEFINITIONS;
use crate::host::run::{Lock, qemu_directory, records_directory};
use crate::host::state::NotRemembered;
use crate::host::{Warning, requests, settings};
use crate::libvirt::definition_versions::{self, Versions};
use crate::libvirt::logs::users_directory;
use crate::libvirt::{self, Happened, Libvirt};
use crate::libvirt::{Context, Failure, SYSTEM};
use crate::probe::instance::clean_up;

use callout_link::{Listed, NODE_DEVICE_DAEMON, NodeDevices};
use connection::{LATEST, SOONEST};
use memory::Domains;
use probing::Probing;
use publishing::Publishing;
use service::{Journal, Priority, Service, take_signals};
use tasks::Task;
use watched_files::{Files, Kind, Seen};

/// The URI of the user's own libvirt.
const SESSION: &str = "qemu:///session";

/// The directory and the files where libvirt's daemons write their process ids.
const DAEMONS: (&str, [&str; 2]) = ("run", ["libvirtd.pid", "virtqemud.pid"]);

/// The time that a domain has to be quiet before the daemon looks at it, because a definition is
/// often changed several times in a row.
const QUIET: Duration = Duration::from_millis(250);

/// The wait until the daemon looks again at a domain that somebody keeps changing, about which
/// libvirt can't answer, or whose devices will soon be free.
const SOON: Duration = Duration::from_secs(2);

/// The greatest number of different warnings that are written, until the settings are read again or
/// libvirt is connected.
const MOST_WARNINGS: usize = 1000;

/// An event for which the daemon waits.
enum Event {
    Libvirt(libvirt::Event),
    Files(Seen),
    /// The outcome of waiting until libvirt has listed its devices, with the number of that wait.
    Listed(u64, Listed),
    /// The connection to virtnodedevd that was opened in the wait with this number has ended.
    DevicesLost(u64),
    /// The process of the libvirt daemon that had the node devices has ended, or lives on for so
    /// long that we no longer wait.
    Ended,
    /// The outcome of a start after a veto.
    Started(Uuid, Result<(), String>),
    Reload,
    End,
}

/// Runs the daemon until a signal ends it or, with `once`, until it has looked at every domain.
/// `prober` is the program that opens devices.
///
/// # Errors
/// The host is a recorded one; libvirt is on another host; another daemon runs; with `once`,
/// libvirt can't be reached, or a domain could not be looked at or started.
pub fn run(context: &Context, prober: &Path, once: bool) -> anyhow::Result<()> {
    context.refuse_recorded("gfxplane watch can't watch a recorded host")?;
    if context.is_remote() {
        let problem = "this libvirt is on another host, whose devices can't be seen from here: run gfxplane there";
        return Err(Failure::Usage(problem.into()).into());
    }
    // Definitions contain passwords, which must not get into a core file.
    nix::sys::prctl::set_dumpable(false)?;
    let _lock = alone(context)?;
    let (send, receive) = mpsc::channel();
    take_signals(&send)?;
    let mut daemon = Daemon::new(context, prober.to_owned(), send)?;
    let left = clean_up(&context.root, prober, daemon.config.deadline);
    daemon.warn(left.err().as_slice());
    if once {
        daemon.quiet = Duration::ZERO;
        daemon.is_once = true;
        daemon.connect(true)?;
        daemon.work();
        return match daemon.failures {
            0 => Ok(()),
            _ => Err(Failure::Environment("some domains could not be checked".into()).into()),
        };
    }
    // An earlier daemon that was killed may have left the link.
    daemon.set_link();
    // libvirt may take minutes to start, and systemd does not wait that long.
    daemon.service.tell("READY=1");
    daemon.connect(false)?;
    daemon.run(&receive);
    daemon.service.tell("STOPPING=1");
    // After this, nobody would remove the link.
    daemon.devices.listed = false;
    daemon.set_link();
    daemon.journal.say(Priority::Info, "ends");
    Ok(())
}

/// Takes the lock that only one daemon on this host can have, because two daemons would take each
/// other for somebody who changes domains. Returns `None` if the lock's file can't be written,
/// after a warning, or if this is not the system's libvirt.
///
/// # Errors
/// Another daemon runs.
fn alone(context: &Context) -> Result<Option<Lock>, Failure> {
    if !context.is_system() {
        return Ok(None);
    }
    match Lock::of_daemon(&context.root) {
        Ok(Ok(lock)) => Ok(Some(lock)),
        Ok(Err(pid)) => {
            let pid = if pid.is_empty() { "?" } else { &pid };
            Err(Failure::Environment(format!(
                "gfxplane watch already runs as process {pid} and manages all domains (systemctl status gfxplane)"
            )))
        }
        Err(error) => {
            let text = format!("it is not known whether another gfxplane watch runs: {error}");
            Journal::new().say(Priority::Warning, &text);
            Ok(None)
        }
    }
}

/// Returns the directory of the definitions of QEMU's domains, of the system or of a user (libvirt
/// src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`). `None` for any other libvirt, or without a home
/// directory.
fn definitions(context: &Context) -> Option<PathBuf> {
    match context.connect.as_deref() {
        None | Some(SYSTEM) => Some(context.root.join(DEFINITIONS)),
        Some(SESSION) => {
            let config = users_directory("XDG_CONFIG_HOME", ".config")?;
            Some(config.join("libvirt/qemu"))
        }
        Some(_) => None,
    }
}

struct Daemon<'c> {
    context: &'c Context,
    config: Config,
    journal: Journal,
    service: Service,
    files: Files,
    /// Catches the definitions that others make while we define a domain. `None` if that is not
    /// possible.
    versions: Option<Versions>,
    /// The time that a domain has to be quiet: [`QUIET`], or zero with `once`.
    quiet: Duration,
    /// True if the daemon ends once it has looked at every domain.
    is_once: bool,
    sink: Sender<Event>,
    libvirt: Option<Arc<dyn Libvirt>>,
    /// The time of the next attempt to connect to libvirt, and the wait to double if it fails.
    /// `None` if no attempt is planned.
    retry: Option<(Instant, Duration)>,
    domains: Domains,
    devices: NodeDevices,
    probing: Probing,
    publishing: Publishing,
    /// The UUID of the most recent trial copy: the small copy of a domain that is started to see
    /// whether the domain would start. The daemon ignores libvirt's events about this UUID.
    trial: Option<Uuid>,
    tasks: VecDeque<Task>,
    /// The tasks for later, each with the time when it is due.
    later: BTreeMap<(Instant, Uuid), Task>,
    /// The process ids of libvirt's daemons that may be ending, because our connection has ended.
    ending: BTreeSet<u32>,
    /// True if this libvirt writes some definitions without reporting an event.
    watches_definitions: bool,
    /// The warnings that were already written, to write each only once.
    warned: BTreeSet<String>,
    /// The number of domains that could not be looked at or started.
    failures: u32,
    ends: bool,
}

impl<'c> Daemon<'c> {
    fn new(context: &'c Context, prober: PathBuf, sink: Sender<Event>) -> anyhow::Result<Self> {
        let journal = Journal::new();
        let to_loop = sink.clone();
        let files = Files::new(move |seen| {
            let _ = to_loop.send(Event::Files(seen));
        })?;
        let mut warnings = Vec::new();
        let config = settings::config(&context.root, &mut warnings);
        let mut daemon = Daemon {
            context,
            config,
            journal,
            service: Service::new(),
            files,
            versions: None,
            quiet: QUIET,
            is_once: false,
            sink,
            libvirt: None,
            retry: None,
            domains: Domains::new(&context.root, context.is_system(), &mut warnings),
            devices: NodeDevices::default(),
            // `gfxplane` lies beside its prober. This program is not `gfxplane`.
            publishing: Publishing::new(&context.root, prober.with_file_name("gfxplane")),
            probing: Probing::new(prober),
            trial: None,
            tasks: VecDeque::new(),
            later: BTreeMap::new(),
            ending: BTreeSet::new(),
            watches_definitions: false,
            warned: BTreeSet::new(),
            failures: 0,
            ends: false,
        };
        daemon.warn(&warnings);
        daemon.watch_files();
        daemon.watch_versions();
        Ok(daemon)
    }

    fn say(&self, priority: Priority, text: &str) {
        self.journal.say(priority, text);
    }

    /// Writes a line about a domain to the journal, after its [`name`](Self::name).
    fn tell(&mut self, uuid: Uuid, priority: Priority, text: &str) {
        let text = format!("{}: {text}", self.name(uuid));
        self.say(priority, &text);
    }

    /// Writes each warning that was not written before, at most [`MOST_WARNINGS`].
    fn warn(&mut self, warnings: &[Warning]) {
        for warning in warnings {
            let text = warning.to_string();
            if self.warned.len() < MOST_WARNINGS && self.warned.insert(text.clone()) {
                self.say(Priority::Warning, &text);
            }
        }
    }

    fn watch_files(&self) {
        let root = &self.context.root;
        let mut wanted = vec![
            (Kind::Request, requests::prepare_directory(root)),
            (Kind::Record, records_directory(root)),
            // These files are named like records and have the same effect.
            (Kind::Record, qemu_directory(root)),
        ];
        if self.is_system() {
            wanted.push((Kind::Daemon, Ok(root.join(DAEMONS.0))));
        }
        if self.watches_definitions {
            wanted.push((Kind::Definition, Ok(root.join(DEFINITIONS))));
        }
        for (kind, directory) in wanted {
            let watched = directory.and_then(|path| Ok(self.files.watch(kind, &path)?));
            if let Err(error) = watched {
                let unseen = match kind {
                    Kind::Request => "requests of the qemu hook are not seen",
                    Kind::Record => "what is found out about devices is not seen",
                    Kind::Daemon => "a libvirt that starts is not seen",
                    Kind::Definition => {
                        "a device that is attached to a definition is seen only when the definition changes next"
                    }
                };
                self.say(Priority::Warning, &format!("{unseen}: {error}"));
            }
        }
    }

    /// Begins to catch the versions of a domain's definition, which `end` of the result returns.
    /// `None` if that is not possible.
    fn watch(&mut self, uuid: Uuid) -> Option<definition_versions::Watched<'_>> {
        let name = self.name(uuid);
        self.versions.as_ref()?.watch(&name).ok()
    }

    /// Prepares to catch the versions of definitions, if we know in which directory libvirt has
    /// them. Warns if the directory can't be watched.
    fn watch_versions(&mut self) {
        let Some(directory) = definitions(self.context) else {
            return;
        };
        let versions = Versions::new(directory.clone()).and_then(|versions| {
            // This fails if the directory can't be watched.
            let _ = versions.watch("")?.end();
            Ok(versions)
        });
        match versions {
            Ok(versions) => self.versions = Some(versions),
            Err(error) => {
                let text = format!(
                    "{}: {error}: a definition that somebody else makes at the same moment as gfxplane would be lost silently",
                    directory.display()
                );
                self.say(Priority::Warning, &text);
            }
        }
    }

    fn is_system(&self) -> bool {
        self.context.is_system()
    }

    fn look_at_everything(&mut self) {
        let Some(libvirt) = self.libvirt.clone() else {
            return;
        };
        match libvirt.all_persistent() {
            Ok(all) => {
                let kept = self.domains.starts_with(&all);
                self.report(kept);
                for uuid in all {
                    self.task(uuid, false);
                }
            }
            Err(error) => self.say(Priority::Warning, &error.to_string()),
        }
    }

    /// Writes an error to the journal if something could not be remembered, and goes on.
    fn report(&self, result: Result<(), NotRemembered>) {
        if let Err(error) = result {
            self.say(Priority::Error, &error.to_string());
        }
    }

    fn run(&mut self, receive: &Receiver<Event>) {
        self.publish_soon();
        while !self.ends {
            self.work_with(receive);
            let watchdog = self.service.still_here();
            let retry = self.retry.map(|(at, _)| at);
            let later = self.later.keys().next().map(|(at, _)| *at);
            let publish = self.publishing.due;
            let next = [watchdog, retry, later, publish]
                .into_iter()
                .flatten()
                .min();
            let event = match next {
                Some(at) => receive.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => receive.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.time_passes();
        }
    }

    /// Carries out the tasks that are due, and handles events between them.
    fn work_with(&mut self, receive: &Receiver<Event>) {
        loop {
            while let Ok(event) = receive.try_recv() {
                self.event(event);
            }
            if self.ends || !self.work_once() {
                return;
            }
            self.service.still_here();
        }
    }

    fn work(&mut self) {
        while self.work_once() {}
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Libvirt(libvirt::Event::Domain { uuid, what }) => {
                if self.trial != Some(uuid) {
                    self.happened(uuid, what);
                }
            }
            Event::Libvirt(libvirt::Event::Lost) => {
                if self.libvirt.take().is_some() {
                    self.devices_are_lost();
                    self.say(Priority::Info, "the connection to libvirt has ended");
                    self.tasks.clear();
                    self.later.clear();
                    self.domains.all_quiet();
                    // A daemon that ends closes its connections long before it removes its process
                    // id. A connection in between would make systemd start the next daemon. If only
                    // our connection has ended, the daemon is still there after a while.
                    self.ending = self.alive();
                    self.retry = Some((Instant::now() + LATEST, SOONEST));
                    self.service.tell("STATUS=Waiting for libvirt");
                }
            }
            Event::DevicesLost(turn) if turn == self.devices.turn => self.devices_are_lost(),
            Event::DevicesLost(_) => {}
            Event::Ended => self.set_link(),
            Event::Listed(turn, listed) => self.devices_are_listed(turn, listed),
            Event::Files(seen) => self.seen(seen),
            Event::Started(uuid, result) => self.started(uuid, result),
            Event::Reload => self.reload(),
            Event::End => self.ends = true,
        }
        self.publish_soon();
    }

    /// Plans to write the files of a fleet's tools in a moment, if the settings name any and
    /// libvirt is the system's.
    pub(super) fn publish_soon(&mut self) {
        if self.is_system() {
            self.publishing.soon(&self.config);
        }
    }

    fn reload(&mut self) {
        let mut warnings = Vec::new();
        self.config = settings::config(&self.context.root, &mut warnings);
        self.say(Priority::Info, "settings read again");
        self.warned.clear();
        self.warn(&warnings);
        self.watch_files();
        self.set_link();
        self.look_at_everything();
        if self.libvirt.is_none() {
            let _ = self.connect(false);
        }
    }

    fn seen(&mut self, seen: Seen) {
        match seen {
            Seen::All(kind) => {
                if !self.files.is_watched(kind) {
                    self.watch_files();
                }
                match kind {
                    Kind::Request => self.take_requests(),
                    Kind::Record | Kind::Definition => self.look_at_everything(),
                    Kind::Daemon => self.daemon_came(),
                }
            }
            Seen::File(Kind::Request, _) => self.take_requests(),
            Seen::File(Kind::Record, name) => {
                let id = name.strip_suffix(".json").and_then(|id| id.parse().ok());
                let Some(id) = id else { return };
                self.look_at(|domain| domain.devices.contains(&id));
            }
            Seen::File(Kind::Daemon, name) => {
                if DAEMONS.1.contains(&name.as_str()) {
                    self.daemon_came();
                } else if name == NODE_DEVICE_DAEMON && !self.devices.listed {
                    self.wait_for_devices();
                }
            }
            Seen::File(Kind::Definition, name) => {
                let Some(name) = name.strip_suffix(".xml") else {
                    return;
                };
                match self.domains.those(|domain| domain.name == name).first() {
                    Some(uuid) => self.soon(*uuid, true),
                    None => self.look_at_everything(),
                }
            }
        }
    }

    fn take_requests(&mut self) {
        // The requests are kept until libvirt can be asked.
        if self.libvirt.is_none() {
            return;
        }
        let mut warnings = Vec::new();
        for request in requests::take(&self.context.root, &mut warnings) {
            let uuid = request.domain;
            self.task(uuid, false);
            if request.veto {
                self.domains.watched(uuid).vetoed = true;
            } else {
                self.learn(uuid);
                self.devices_of(uuid);
                self.waited();
            }
        }
        self.warn(&warnings);
    }

    fn happened(&mut self, uuid: Uuid, what: Happened) {
        match what {
            Happened::Defined => self.soon(uuid, true),
            // The domain may have been defined again since it was undefined.
            Happened::Metadata | Happened::Undefined => self.soon(uuid, false),
            Happened::Started => {
                // The domain has started, so an earlier veto no longer counts.
                if let Some(domain) = self.domains.known(uuid) {
                    domain.vetoed = false;
                }
                self.learn(uuid);
            }
            Happened::Stopped => {
                self.devices_of(uuid);
                self.waited();
            }
        }
    }

    /// Looks at the domains that could not be tried because a device was in use.
    fn waited(&mut self) {
        self.look_at(|domain| domain.waits);
    }

    fn look_at(&mut self, is_wanted: impl Fn(&memory::Watched) -> bool) {
        for uuid in self.domains.those(is_wanted) {
            self.task(uuid, false);
        }
    }

    /// Probes the devices of a domain that has ended, if their displays are not known and nobody
    /// uses them. If the daemon does not know the domain, probes instead the devices that were in
    /// use when they were last probed.
    fn devices_of(&mut self, uuid: Uuid) {
        let root = &self.context.root;
        let mut unknown = match self.domains.known(uuid) {
            Some(domain) => domain.devices.clone(),
            // The domain was transient, so it may have had any device that was in use.
            None => probing::in_use(root),
        };
        unknown.retain(|id| probing::is_to_be_asked(root, *id, &self.config));
        let Some(libvirt) = self.libvirt.as_ref().filter(|_| !unknown.is_empty()) else {
            return;
        };
        let users = match libvirt.users() {
            Ok(users) => users,
            Err(error) => {
                self.say(Priority::Warning, &error.to_string());
                return;
            }
        };
        let (used, free): (Vec<DeviceId>, Vec<DeviceId>) = unknown
            .into_iter()
            .partition(|id| users.iter().any(|user| user.devices.contains(id)));
        for id in used {
            self.say(
                Priority::Info,
                &format!("{id}: not probed, because it is in use"),
            );
        }
        if !free.is_empty() {
            let names: Vec<String> = free.iter().map(ToString::to_string).collect();
            let text = format!("{}: is free now, and is probed", names.join(", "));
            self.say(Priority::Info, &text);
            self.probing.ask(free);
        }
    }
}
