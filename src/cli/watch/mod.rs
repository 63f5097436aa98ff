//! `gfxplane watch`: the daemon. It looks at every domain once, and then at each that libvirt or
//! the hook reports; what is done about it is decided in [`crate::watch`].
//!
//! One thread does all that is said and decided, one event after the other; others wait: for
//! libvirt's reports, for files, for signals, for devices that are asked and domains that start.

mod acting;
mod domains;
mod files;
mod learning;
mod probing;
mod service;
#[cfg(test)]
mod tests;
mod trying;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use uuid::Uuid;

use crate::cli::libvirt::{self, Happened, Libvirt};
use crate::cli::probe::prober;
use crate::cli::{Context, End, Failure, SYSTEM};
use crate::config::Config;
use crate::host::run::records_directory;
use crate::host::state::NotRemembered;
use crate::host::{Warning, read_whole, requests, settings, testimony};
use crate::names::DeviceId;
use crate::probe::instance::clean_up;

use domains::Domains;
use files::{Files, Kind, Seen};
use probing::Probing;
use service::{Journal, Priority, Service};

/// Keep the definitions of all domains right, as a service
///
/// Looks at every domain, and again whenever one is defined, its devices are better known, or the
/// hook has refused it. What may be done unasked is done; all else is said in the log.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Look at every domain once, and end
    #[arg(long)]
    once: bool,
}

/// The first version whose `attach-device --config` is reported (as `virConnectGetLibVersion` has
/// it); measured: 9.0 does not, 11.3 does.
const REPORTS_ATTACHED: u32 = 10_000_000;

/// Where libvirt has the definitions of the system's domains.
const DEFINITIONS: &str = "etc/libvirt/qemu";

/// Where the daemons of libvirt leave their process ids, and the files.
const DAEMONS: (&str, [&str; 2]) = ("run", ["libvirtd.pid", "virtqemud.pid"]);

/// How long after a failure libvirt is tried again; twice as long after each.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(30);

/// When a domain is looked at again that changes all the time, with which libvirt is too busy, or whose devices
/// are about to come free.
const SOON: Duration = Duration::from_secs(2);

/// So many different warnings are said until the settings are read again.
const MOST_WARNINGS: usize = 1000;

/// What the daemon waits for.
enum Event {
    Libvirt(libvirt::Event),
    Files(Seen),
    /// A domain that was started after a veto.
    Started(Uuid, Result<(), String>),
    Reload,
    End,
}

impl Watch {
    /// Runs until it is told to end.
    ///
    /// # Errors
    /// The host is a recorded one or another; with `--once`, libvirt can't be reached.
    pub fn run(&self, context: &Context) -> anyhow::Result<End> {
        if context.root.is_recorded() {
            let problem = "a recorded host has no domains that could be watched";
            return Err(Failure::Usage(problem.into()).into());
        }
        if context.is_remote() {
            let problem = "this libvirt is another host's, whose devices can't be seen from here: run gfxplane there";
            return Err(Failure::Usage(problem.into()).into());
        }
        // Definitions have passwords in them: they go into no core file.
        nix::sys::prctl::set_dumpable(false)?;
        let (send, receive) = mpsc::channel();
        take_signals(&send)?;
        let prober = prober()?;
        let mut daemon = Daemon::new(context, prober.clone(), send)?;
        let left = clean_up(&context.root, &prober, daemon.config.deadline);
        daemon.warn(left.err().as_slice());
        if self.once {
            daemon.connect(true)?;
            daemon.work();
            return match daemon.failures {
                0 => Ok(End::Done),
                _ => Err(Failure::Environment("not all domains could be looked at".into()).into()),
            };
        }
        // libvirt may take minutes to start, and systemd does not wait so long.
        daemon.service.tell("READY=1");
        daemon.connect(false)?;
        daemon.run(&receive);
        daemon.service.tell("STOPPING=1");
        daemon.journal.say(Priority::Info, "ends");
        Ok(End::Done)
    }
}

/// Whether libvirt is this machine's system daemon.
fn is_system(context: &Context) -> bool {
    let uri = context.connect.as_deref();
    uri.is_none_or(|uri| uri == SYSTEM)
}

/// SIGHUP, SIGTERM and SIGINT become events. Threads that are made later inherit that they wait.
fn take_signals(sink: &Sender<Event>) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let sink = sink.clone();
    thread::spawn(move || {
        loop {
            let event = match signals.wait() {
                Ok(Signal::SIGHUP) => Event::Reload,
                Ok(_) => Event::End,
                Err(_) => continue,
            };
            if sink.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Something that has to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Task {
    uuid: Uuid,
    /// Somebody has written the definition, or so it is said.
    defined: bool,
}

struct Daemon<'c> {
    context: &'c Context,
    config: Config,
    journal: Journal,
    service: Service,
    files: Files,
    sink: Sender<Event>,
    libvirt: Option<Arc<dyn Libvirt>>,
    /// When libvirt is tried again, and how long after that the next time.
    retry: Option<(Instant, Duration)>,
    domains: Domains,
    probing: Probing,
    /// The small copy of a domain that was started last. What is reported of it is not news.
    trial: Option<Uuid>,
    tasks: VecDeque<Task>,
    /// What is looked at again later.
    later: BTreeMap<(Instant, Uuid), Task>,
    /// The daemons that have closed our connection, and may be ending.
    ending: BTreeSet<u32>,
    /// This libvirt does not report all that it writes.
    watches_definitions: bool,
    /// What was said to be passed over.
    warned: BTreeSet<String>,
    /// How much has failed.
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
            sink,
            libvirt: None,
            retry: None,
            domains: Domains::new(&context.root, is_system(context), &mut warnings),
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
        Ok(daemon)
    }

    fn say(&self, priority: Priority, text: &str) {
        self.journal.say(priority, text);
    }

    /// Says what was passed over, once.
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
        let requests = requests::prepare_directory(root);
        let records = records_directory(root);
        // Named as the records are, and of the same consequence.
        let said = testimony::directory(root);
        for (kind, directory) in [
            (Kind::Request, requests),
            (Kind::Record, records),
            (Kind::Record, said),
        ] {
            let watched = directory.and_then(|path| Ok(self.files.watch(kind, &path)?));
            if let Err(error) = watched {
                let text = format!("{kind:?} files are not watched: {error}");
                self.say(Priority::Warning, &text);
            }
        }
        if self.is_system() {
            let run = root.join(DAEMONS.0);
            if let Err(error) = self.files.watch(Kind::Daemon, &run) {
                self.say(Priority::Warning, &format!("{}: {error}", run.display()));
            }
        }
        if self.watches_definitions {
            let directory = root.join(DEFINITIONS);
            if let Err(error) = self.files.watch(Kind::Definition, &directory) {
                let text = format!(
                    "{}: {error}: devices that are attached to a definition are seen only at its next change",
                    directory.display()
                );
                self.say(Priority::Warning, &text);
            }
        }
    }

    fn is_system(&self) -> bool {
        is_system(self.context)
    }

    /// Whether there is a daemon that could be reached. Trying would start one that was stopped on
    /// purpose, where systemd listens for it.
    fn is_there(&self) -> bool {
        let is_another = |pid: &u32| !self.ending.contains(pid);
        !self.is_system() || self.alive().iter().any(is_another)
    }

    /// The daemons that live.
    fn alive(&self) -> BTreeSet<u32> {
        let pid = |name: &&str| {
            let path = self.context.root.join(DAEMONS.0).join(name);
            let text = read_whole(&path, 64).ok()?;
            text.trim().parse().ok()
        };
        let pids = DAEMONS.1.iter().filter_map(pid);
        pids.filter(|pid| PathBuf::from(format!("/proc/{pid}")).exists())
            .collect()
    }

    /// Connects if there is somebody to connect to, and then looks at everything.
    fn connect(&mut self, at_once: bool) -> anyhow::Result<()> {
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
                let text = format!("{error}; tried again and again");
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
        let version = libvirt.version().unwrap_or(0);
        self.say(
            Priority::Info,
            &format!(
                "connected to libvirt {}.{}.{}",
                version / 1_000_000,
                version / 1000 % 1000,
                version % 1000
            ),
        );
        if self.is_system() && version < REPORTS_ATTACHED {
            let text = "this libvirt does not report devices that are attached to a definition: its files are watched, too";
            self.say(Priority::Info, text);
            self.watches_definitions = true;
            self.watch_files();
        }
        self.look_at_everything();
        self.take_requests();
    }

    fn look_at_everything(&mut self) {
        let Some(libvirt) = self.libvirt.clone() else {
            return;
        };
        match libvirt.all_persistent() {
            Ok(all) => {
                let all: Vec<Uuid> = all.iter().filter_map(|uuid| uuid.parse().ok()).collect();
                let kept = self.domains.starts_with(&all);
                self.report(kept);
                for uuid in all {
                    self.task(uuid, false);
                }
            }
            Err(error) => self.say(Priority::Warning, &error.to_string()),
        }
    }

    /// What can't be remembered is said, and holds nobody up.
    fn report(&self, result: Result<(), NotRemembered>) {
        if let Err(error) = result {
            self.say(Priority::Error, &error.to_string());
        }
    }

    fn task(&mut self, uuid: Uuid, defined: bool) {
        match self.tasks.iter_mut().find(|task| task.uuid == uuid) {
            Some(task) => task.defined |= defined,
            None => self.tasks.push_back(Task { uuid, defined }),
        }
    }

    fn run(&mut self, receive: &Receiver<Event>) {
        while !self.ends {
            self.work_with(receive);
            let watchdog = self.service.still_here();
            let retry = self.retry.map(|(at, _)| at);
            let later = self.later.keys().next().map(|(at, _)| *at);
            let next = [watchdog, retry, later].into_iter().flatten().min();
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

    fn time_passes(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let task = entry.remove();
            self.task(task.uuid, task.defined);
        }
        if self.retry.is_some_and(|(at, _)| at <= now) {
            self.ending.clear();
            // It fails only if it was asked to.
            let _ = self.connect(false);
        }
    }

    /// Works off what there is to do, with an eye on what happens meanwhile.
    fn work_with(&mut self, receive: &Receiver<Event>) {
        loop {
            while let Ok(event) = receive.try_recv() {
                self.event(event);
            }
            if self.ends || !self.work_once(Some(receive)) {
                return;
            }
            self.service.still_here();
        }
    }

    fn work(&mut self) {
        while self.work_once(None) {}
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Libvirt(libvirt::Event::Domain { uuid, what, .. }) => {
                if let Ok(uuid) = uuid.parse()
                    && self.trial != Some(uuid)
                {
                    self.happened(uuid, what);
                }
            }
            Event::Libvirt(libvirt::Event::Lost) => {
                if self.libvirt.take().is_some() {
                    self.say(Priority::Info, "libvirt has gone");
                    self.tasks.clear();
                    // One that ends closes its connections long before it takes its process id
                    // away, and who connects meanwhile has systemd start the next one. If only the
                    // connection has ended, it is still there after a while.
                    self.ending = self.alive();
                    self.retry = Some((Instant::now() + LATEST, SOONEST));
                    self.service.tell("STATUS=Waiting for libvirt");
                }
            }
            Event::Files(seen) => self.seen(seen),
            Event::Started(uuid, result) => self.started(uuid, result),
            Event::Reload => self.reload(),
            Event::End => self.ends = true,
        }
    }

    fn reload(&mut self) {
        let mut warnings = Vec::new();
        self.config = settings::config(&self.context.root, &mut warnings);
        self.say(Priority::Info, "settings read again");
        self.warned.clear();
        self.warn(&warnings);
        self.watch_files();
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
                for uuid in self.domains.with_device(id) {
                    self.task(uuid, false);
                }
            }
            Seen::File(Kind::Daemon, name) => {
                if DAEMONS.1.contains(&name.as_str()) {
                    self.daemon_came();
                }
            }
            Seen::File(Kind::Definition, name) => {
                let Some(name) = name.strip_suffix(".xml") else {
                    return;
                };
                match self.domains.named(name) {
                    Some(uuid) => self.task(uuid, true),
                    None => self.look_at_everything(),
                }
            }
        }
    }

    fn daemon_came(&mut self) {
        if self.libvirt.is_none() && self.is_there() {
            // Its socket may be a moment behind its process id.
            self.retry = Some((Instant::now() + SOONEST, SOONEST));
        }
    }

    fn take_requests(&mut self) {
        // They are kept until libvirt can be asked.
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
            Happened::Defined { .. } => self.task(uuid, true),
            // Also when it was undefined: it may have been defined again since.
            Happened::Metadata | Happened::Undefined => self.task(uuid, false),
            Happened::Started => {
                // Whatever the hook said earlier, it is done.
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

    /// A domain has ended: those are looked at that could not be tried for a device in use.
    fn waited(&mut self) {
        for uuid in self.domains.waiting() {
            self.task(uuid, false);
        }
    }

    /// Asks the devices of a domain that has ended, if nothing is known of them and nobody uses them.
    fn devices_of(&mut self, uuid: Uuid) {
        let unknown = match self.domains.known(uuid) {
            Some(_) => self.domains.devices(uuid),
            // A transient one: any that was in use may have been its.
            None => probing::in_use(&self.context.root),
        };
        let unknown: Vec<DeviceId> = unknown
            .into_iter()
            .filter(|id| probing::is_to_be_asked(&self.context.root, *id, &self.config))
            .collect();
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
            self.say(Priority::Info, &format!("{id}: not asked, as it is in use"));
        }
        if !free.is_empty() {
            let names: Vec<String> = free.iter().map(ToString::to_string).collect();
            let text = format!("{}: came free, and is asked", names.join(", "));
            self.say(Priority::Info, &text);
            self.probing.ask(free);
        }
    }
}
