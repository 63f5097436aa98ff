//! Reads the definition of one domain, decides about it, and defines the result.

use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::conflict::Moment;
use super::memory::Unsure;
use super::service::Priority;
use super::{Daemon, Event, SOON, Task};
use crate::libvirt::Failure;
use crate::libvirt::Libvirt;
use crate::libvirt::definition_versions::Watched;
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::{Definition, New, Replaced};

use crate::daemon::decision::{Decision, only_graphics};
use crate::domain::name_and_devices;
use crate::domain::shell::operand;
use crate::host::config::RetryStart;
use crate::host::log::{By, Entry, What};
use crate::host::requests;
use crate::host::state::{Made, now};
use crate::plan::fixup::Fixed;
use crate::plan::{Change, Level, Note, words};
use crate::predict::About;

/// How often in a row the daemon looks at a domain again soon, or tries to restore a definition, if
/// somebody else changes the definition at the same moment.
pub(super) const AT_ONCE: u32 = 5;

/// The greatest number of times that the wait [`SOON`] is doubled while libvirt can't answer about
/// a domain.
const LONGEST: u32 = 8;

impl Daemon<'_> {
    /// Looks at the next domain. Returns `false` if no domain is waiting, or there is no connection
    /// to libvirt.
    pub(super) fn work_once(&mut self) -> bool {
        let Some(libvirt) = self.libvirt.clone() else {
            return false;
        };
        let Some(task) = self.tasks.pop_front() else {
            return false;
        };
        match self.look(libvirt.as_ref(), task) {
            Ok(()) => {
                if let Some(domain) = self.domains.known(task.uuid) {
                    domain.failures = 0;
                    domain.failure.clear();
                }
            }
            Err(error) => self.failed(task, &error.to_string()),
        }
        true
    }

    /// Puts the task off after an error, for example because a start or another job has locked the
    /// domain, or because libvirt is ending. The wait doubles with each error in a row, [`LONGEST`]
    /// times at most. Writes the error if it differs from the last one.
    fn failed(&mut self, task: Task, error: &str) {
        self.failures += 1;
        let domain = self.domains.watched(task.uuid);
        let wait = SOON * (1 << domain.failures.min(LONGEST));
        domain.failures += 1;
        if domain.failure != error {
            error.clone_into(&mut domain.failure);
            let text = format!("{error}; gfxplane checks it again in {} s", wait.as_secs());
            self.tell(task.uuid, Priority::Warning, &text);
        }
        self.again(task, wait);
    }

    pub(super) fn again(&mut self, task: Task, wait: Duration) {
        let key = (Instant::now() + wait, task.uuid);
        self.later.insert(key, task);
    }

    fn look(&mut self, libvirt: &dyn Libvirt, task: Task) -> Result<(), Failure> {
        let uuid = task.uuid;
        let Some(definition) = libvirt.persistent(uuid)? else {
            // The domain may have been defined again since the report that it was undefined.
            self.later.retain(|(_, of), _| *of != uuid);
            self.handled(uuid, false);
            let forgotten = self.domains.forget(uuid);
            self.report(forgotten);
            return Ok(());
        };
        self.was_done_after_all(uuid, &definition);
        self.domains.watched(uuid).waits = false;
        let (name, devices) = name_and_devices(&definition.xml);
        let is_another = self
            .domains
            .watched(uuid)
            .note(&name, &definition.xml, devices);
        if task.defined && is_another {
            let newer = self.domains.is_newer(uuid);
            self.report(newer);
        }
        let domain = self.domains.watched(uuid);
        if !task.anyway && !domain.vetoed && domain.memory.has_made(&definition.xml) {
            // This was the report of our own definition.
            return Ok(());
        }
        let mut warnings = Vec::new();
        let standing = self.domains.standing(uuid, &mut warnings);
        let surroundings = HostSurroundings::as_it_is(self.context);
        let decision = self.domains.watched(uuid).memory.decide(
            &definition.xml,
            &surroundings,
            &self.config.policy,
            standing,
        );
        warnings.extend(surroundings.warnings());
        self.warn(&warnings);
        match decision {
            Err(error) => {
                let line = Note::new(Level::Warn, About::Domain, format!("left alone: {error}"));
                self.say_of(uuid, vec![line], Some(What::LeftAlone));
                self.handled(uuid, false);
            }
            Ok(Decision::NotOurs) => self.handled(uuid, false),
            Ok(Decision::Leave {
                is_bad,
                gave_up,
                why,
            }) => {
                let what = match (gave_up, is_bad) {
                    (true, _) => Some(What::GaveUp),
                    (false, true) => Some(What::LeftAlone),
                    (false, false) => None,
                };
                self.say_of(uuid, why, what);
                // Somebody else has fixed the domain first.
                if is_bad || !self.domains.watched(uuid).vetoed {
                    self.handled(uuid, false);
                } else {
                    self.start(libvirt, &definition)?;
                }
            }
            Ok(Decision::Act(fixed)) => {
                if self.is_seen(libvirt, task, &fixed)? {
                    self.act(libvirt, uuid, &definition, &fixed)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the hook's request for a domain after a veto, by removing its file; does nothing
    /// without such a request. Call this last, so that the next daemon finds the request if this
    /// one is killed before. But call it before starting the domain (`starts`, which also writes a
    /// line about the start), because the hook may leave a new request at the start.
    pub(super) fn handled(&mut self, uuid: Uuid, starts: bool) {
        let Some(domain) = self.domains.known(uuid) else {
            return;
        };
        if !std::mem::take(&mut domain.vetoed) {
            return;
        }
        let root = &self.context.root;
        if let Err(error) = requests::forget_veto(root, uuid) {
            // After a restart of the daemon, the request would come again.
            let text = format!("{}: {error}", requests::directory(root).display());
            self.say(Priority::Warning, &text);
        }
        if starts {
            let text = "is started, as it was refused and is fixed";
            self.tell(uuid, Priority::Notice, text);
        }
    }

    /// Returns the name of a domain, or its UUID if nobody has looked at it yet. If the domain is
    /// not watched yet, it is from now on ([`Domains::watched`](super::memory::Domains::watched)).
    pub(super) fn name(&mut self, uuid: Uuid) -> String {
        let name = &self.domains.watched(uuid).name;
        if name.is_empty() {
            uuid.to_string()
        } else {
            name.clone()
        }
    }

    /// Adds an entry about a domain to the log.
    pub(super) fn log(&mut self, uuid: Uuid, what: What, reason: Option<&str>) {
        let name = self.name(uuid);
        let mut entry = Entry::new(now(), what, By::Daemon, &name, Some(uuid));
        if let Some(reason) = reason {
            entry = entry.because(reason);
        }
        let kept = self.domains.state.append(&entry);
        self.report(kept);
    }

    /// Writes lines about a domain, unless they are the same as the last ones about it. If `what`
    /// is an event, also adds the first line to the log.
    pub(super) fn say_of(&mut self, uuid: Uuid, lines: Vec<Note>, what: Option<What>) {
        let typed = operand(Some(&self.name(uuid)), Some(uuid));
        let news = self.domains.watched(uuid).news(lines);
        if let (Some(first), Some(what)) = (news.first(), what) {
            self.log(uuid, what, Some(&first.words(&typed)));
        }
        for line in news {
            let text = line.words(&typed);
            let text = match line.about {
                About::Domain => text,
                about => about.before(&text),
            };
            self.tell(uuid, line.level.into(), &text);
        }
    }

    fn act(
        &mut self,
        libvirt: &dyn Libvirt,
        uuid: Uuid,
        before: &Definition,
        fixed: &Fixed,
    ) -> Result<(), Failure> {
        let Some(plan) = &fixed.plan else {
            return Ok(());
        };
        let graphics = only_graphics(fixed);
        let new = match &graphics {
            Some(graphics) => New::Graphics(graphics),
            // Only our tests let libvirt check the definition against its schema. Here the check
            // would prolong the moment in which somebody else's definition can be lost.
            None => New::Whole(&fixed.text),
        };
        let watched = self.watch(uuid);
        let defined = libvirt.define(before, new);
        let seen = watched.map(Watched::end);
        match defined {
            Ok(Replaced::Done { window }) => {
                let how = graphics.as_ref().map_or("defined", |_| "graphics replaced");
                let micros = window.as_micros();
                self.domains.watched(uuid).misses = 0;
                let moment = Moment { uuid, window };
                let replaced = self.replaced(libvirt, moment, before, fixed, seen)?;
                let Some((base, ours)) = replaced else {
                    return Ok(());
                };
                // This comes first: any change from now on is somebody else's.
                let after = libvirt.persistent(uuid);
                let text = format!("{how} {micros} µs after it was last looked at");
                self.tell(uuid, Priority::Info, &text);
                self.domains.watched(uuid).memory.did(plan);
                for change in &plan.changes {
                    let what = words(&change.action);
                    let text = format!("changed: {what}: {}", change.reason);
                    self.tell(uuid, Priority::Notice, &text);
                }
                self.keep(uuid, &base, ours, after, &plan.changes);
                self.say_of(uuid, plan.notes.clone(), None);
                if plan.after.starts() && self.domains.watched(uuid).vetoed {
                    self.start(libvirt, before)?;
                } else {
                    self.handled(uuid, false);
                }
                Ok(())
            }
            Ok(Replaced::Changed) => {
                self.changed_before(uuid);
                Ok(())
            }
            Err(Failure::Refused(problem)) => {
                let domain = self.domains.watched(uuid);
                domain.memory.was_refused(&before.xml);
                self.tell(uuid, Priority::Error, &problem);
                self.log(uuid, What::Refused, Some(&problem));
                self.handled(uuid, false);
                Ok(())
            }
            Err(error) => {
                // libvirt did not confirm the change, but may have made it before it ended.
                self.domains.watched(uuid).unsure = Some(Unsure {
                    before: before.xml.clone(),
                    wanted: fixed.text.clone(),
                    changes: plan.changes.clone(),
                });
                Err(error)
            }
        }
    }

    /// Plans to look at the domain again, because somebody else changed its definition before we
    /// did: soon or, after [`AT_ONCE`] times in a row, later and with a warning.
    fn changed_before(&mut self, uuid: Uuid) {
        let domain = self.domains.watched(uuid);
        domain.misses += 1;
        if domain.misses <= AT_ONCE {
            self.soon(uuid, true);
            return;
        }
        let text = format!(
            "not changed: somebody else keeps changing it; gfxplane checks it again in {} s",
            SOON.as_secs()
        );
        self.tell(uuid, Priority::Warning, &text);
        let task = Task {
            uuid,
            defined: true,
            anyway: true,
        };
        self.again(task, SOON);
    }

    /// If the present `definition` shows that libvirt made a change without confirming it, reports
    /// the change and keeps it for undo. Only the wanted changes can be undone, because any other
    /// difference may be somebody else's.
    fn was_done_after_all(&mut self, uuid: Uuid, definition: &Definition) {
        let domain = self.domains.watched(uuid);
        let done = domain.unsure.take();
        let Some(done) = done.filter(|unsure| unsure.is_done(&definition.xml)) else {
            return;
        };
        domain.memory.is_ours(&definition.xml);
        for change in &done.changes {
            let what = words(&change.action);
            let text = format!("changed, although libvirt did not confirm it: {what}");
            self.tell(uuid, Priority::Notice, &text);
        }
        let made = Made {
            uuid,
            name: &self.name(uuid),
            before: &done.before,
            after: &done.wanted,
            changes: &done.changes,
        };
        let kept = self.domains.state.made(By::Daemon, &made);
        self.report(kept);
    }

    /// Writes the changes to the log, and keeps what is needed to undo them: the definition without
    /// them (`base`) and with them (`ours` if libvirt was seen to write it, or else `after`, the
    /// present one). Without the latter, they can't be undone; if libvirt does not answer, a
    /// warning says so.
    fn keep(
        &mut self,
        uuid: Uuid,
        base: &str,
        ours: Option<String>,
        after: Result<Option<Definition>, Failure>,
        changes: &[Change],
    ) {
        let after = match (after, ours) {
            (Ok(Some(after)), Some(ours)) if after.xml.trim() != ours => Some(ours),
            (Ok(Some(after)), _) => {
                let (name, devices) = name_and_devices(&after.xml);
                let domain = self.domains.watched(uuid);
                domain.note(&name, &after.xml, devices);
                domain.memory.is_ours(&after.xml);
                Some(after.xml)
            }
            // The domain is undefined again, or libvirt does not answer.
            (_, Some(ours)) => Some(ours),
            (Ok(None), None) => None,
            (Err(error), None) => {
                let text = format!("gfxplane can't undo this change later: {error}");
                self.tell(uuid, Priority::Warning, &text);
                None
            }
        };
        let name = &self.name(uuid);
        let state = &self.domains.state;
        let kept = match &after {
            Some(after) => {
                let made = Made {
                    uuid,
                    name,
                    before: base,
                    after,
                    changes,
                };
                state.made(By::Daemon, &made)
            }
            None => {
                let entry = Entry::new(now(), What::Fixed, By::Daemon, name, Some(uuid));
                state.append(&entry.changes(changes))
            }
        };
        self.report(kept);
    }

    /// Starts an inactive domain that the hook has vetoed, if the settings ask for that and this
    /// definition was not started yet. Otherwise writes why not, unless the domain is active.
    /// Either way, ends the hook's request. A separate thread waits for the outcome, unless the
    /// daemon runs only once.
    fn start(&mut self, libvirt: &dyn Libvirt, definition: &Definition) -> Result<(), Failure> {
        let uuid = definition.uuid;
        let wanted = match self.config.retry_start {
            RetryStart::Never => false,
            RetryStart::Autostart => libvirt.is_autostart(uuid)?,
            RetryStart::Persistent => true,
        };
        if definition.is_active {
            self.handled(uuid, false);
            return Ok(());
        }
        let problem = if !wanted {
            "it would start now; gfxplane does not start it (setting retry_start): start it yourself"
        } else if !self.domains.watched(uuid).may_retry() {
            "refused again; gfxplane tried to start it once, and does not try again"
        } else {
            self.handled(uuid, true);
            let Some(libvirt) = self.libvirt.clone() else {
                return Ok(());
            };
            let start = move || {
                let result = libvirt.start_persistent(uuid);
                result.map_err(|error| error.to_string())
            };
            if self.is_once {
                self.started(uuid, start());
            } else {
                let sink = self.sink.clone();
                // A start takes time, and other domains must not wait for it.
                thread::spawn(move || {
                    let _ = sink.send(Event::Started(uuid, start()));
                });
            }
            return Ok(());
        };
        self.tell(uuid, Priority::Info, problem);
        self.handled(uuid, false);
        Ok(())
    }

    /// Writes the outcome of starting a domain after a veto to the journal and the log.
    pub(super) fn started(&mut self, uuid: Uuid, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.tell(uuid, Priority::Notice, "started");
                self.log(uuid, What::Started, None);
            }
            Err(error) => {
                self.failures += 1;
                self.tell(uuid, Priority::Warning, &format!("not started: {error}"));
                self.log(uuid, What::NotStarted, Some(&error));
            }
        }
    }
}
