//! One domain: read, decided about, and defined.

use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::domains::Unsure;
use super::service::Priority;
use super::{Daemon, Event, SOON, Task};
use crate::cli::libvirt::{self, Definition, Happened, New, Replaced};
use crate::cli::subject::HostSurroundings;
use crate::cli::{Failure, libvirt::Libvirt};
use crate::config::RetryStart;
use crate::domain::name_and_devices;
use crate::fixup::Fixed;
use crate::host::requests;
use crate::host::state::{Made, now};
use crate::log::{By, Entry, What};
use crate::plan::{Change, Level, words};
use crate::predict::About;
use crate::shell::operand;
use crate::watch::{Decision, Line, only_graphics};

/// How often in a row a definition that changes while it is mended is read again at once.
const AT_ONCE: u32 = 5;

/// How long the report of a definition of ours may take to come.
const OWN_REPORT: Duration = Duration::from_secs(1);

/// How long after the first report another one may come that belongs to the same moment.
const OTHERS_REPORT: Duration = Duration::from_millis(100);

/// The longest wait for a domain of which libvirt can't say anything: this many times doubled.
const LONGEST: u32 = 8;

impl Daemon<'_> {
    /// Looks at the next domain; whether there was one. `receive`: where the reports come from.
    pub(super) fn work_once(&mut self, receive: Option<&Receiver<Event>>) -> bool {
        let Some(libvirt) = self.libvirt.clone() else {
            return false;
        };
        let Some(task) = self.tasks.pop_front() else {
            return false;
        };
        match self.look(libvirt.as_ref(), task, receive) {
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

    /// A start or another job holds the domain, or libvirt is going: later then.
    fn failed(&mut self, task: Task, error: &str) {
        self.failures += 1;
        let domain = self.domains.watched(task.uuid);
        let wait = SOON * (1 << domain.failures.min(LONGEST));
        domain.failures += 1;
        let is_news = domain.failure != error;
        error.clone_into(&mut domain.failure);
        let mut name = domain.name.clone();
        if name.is_empty() {
            name = task.uuid.to_string();
        }
        if is_news {
            let text = format!("{name}: {error}; looked at again in {} s", wait.as_secs());
            self.say(Priority::Warning, &text);
        }
        self.again(task, wait);
    }

    pub(super) fn again(&mut self, task: Task, wait: Duration) {
        let key = (Instant::now() + wait, task.uuid);
        self.later.insert(key, task);
    }

    fn look(
        &mut self,
        libvirt: &dyn Libvirt,
        task: Task,
        receive: Option<&Receiver<Event>>,
    ) -> Result<(), Failure> {
        let uuid = task.uuid;
        let Some(definition) = libvirt.persistent(&uuid.to_string())? else {
            // A report that it is undefined may be older than a definition that came since.
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
                let line = Line::new(Level::Warn, About::Domain, format!("left alone: {error}"));
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
                // Somebody else was faster to mend it.
                if is_bad || !self.domains.watched(uuid).vetoed {
                    self.handled(uuid, false);
                } else {
                    self.start(libvirt, &definition, receive.is_none())?;
                }
            }
            Ok(Decision::Act(fixed)) => {
                if self.is_seen(libvirt, task, &fixed)? {
                    self.act(libvirt, uuid, &definition, &fixed, receive)?;
                }
            }
        }
        Ok(())
    }

    /// What the hook has asked for is done, or will not be. The file goes last, so that the next
    /// daemon finds it if this one is ended; but before a start of ours, which may leave a new one.
    pub(super) fn handled(&mut self, uuid: Uuid, starts: bool) {
        let Some(domain) = self.domains.known(uuid) else {
            return;
        };
        if !std::mem::take(&mut domain.vetoed) {
            return;
        }
        let root = &self.context.root;
        if let Err(error) = requests::forget_veto(root, uuid) {
            // It would be there again after a restart of ours.
            let text = format!("{}: {error}", requests::directory(root).display());
            self.say(Priority::Warning, &text);
        }
        if !starts {
            return;
        }
        let name = self.name(uuid);
        let text = format!("{name}: is started, as it was refused and is mended");
        self.say(Priority::Notice, &text);
    }

    pub(super) fn name(&mut self, uuid: Uuid) -> String {
        self.domains.watched(uuid).name.clone()
    }

    /// Writes to the log of what was done.
    fn log(&mut self, uuid: Uuid, what: What, reason: Option<&str>) {
        let name = self.domains.watched(uuid).name.clone();
        let mut entry = Entry::new(now(), what, By::Daemon, &name, Some(uuid));
        entry.reason = reason.map(Into::into);
        let kept = self.domains.state.append(&entry);
        self.report(kept);
    }

    /// Says the lines, unless they were said of this domain the last time. `what`: as which they go
    /// to the log of what was done, too.
    pub(super) fn say_of(&mut self, uuid: Uuid, lines: Vec<Line>, what: Option<What>) {
        let domain = self.domains.watched(uuid);
        let name = domain.name.clone();
        let typed = operand(Some(&name), Some(uuid));
        let news = domain.news(lines);
        if let (Some(first), Some(what)) = (news.first(), what) {
            self.log(uuid, what, Some(&first.words(&typed)));
        }
        for line in news {
            let text = line.words(&typed);
            let text = match line.about {
                About::Domain => format!("{name}: {text}"),
                about => format!("{name}: {about}: {text}"),
            };
            self.say(line.level.into(), &text);
        }
    }

    fn act(
        &mut self,
        libvirt: &dyn Libvirt,
        uuid: Uuid,
        before: &Definition,
        fixed: &Fixed,
        receive: Option<&Receiver<Event>>,
    ) -> Result<(), Failure> {
        let Some(plan) = &fixed.plan else {
            return Ok(());
        };
        let name = self.domains.watched(uuid).name.clone();
        let graphics = only_graphics(fixed);
        let new = match &graphics {
            Some(graphics) => New::Graphics(graphics),
            // What it would be held against the schema for is in our tests; here it would make the
            // moment longer in which somebody else's definition is lost.
            None => New::Whole(&fixed.text),
        };
        match libvirt.define(before, new) {
            Ok(Replaced::Done { since, window }) => {
                let domain = self.domains.watched(uuid);
                domain.memory.did(plan);
                domain.misses = 0;
                for change in &plan.changes {
                    let text = format!(
                        "{name}: changed: {}: {}",
                        words(&change.action),
                        change.reason
                    );
                    self.say(Priority::Notice, &text);
                }
                let how = match new {
                    New::Graphics(_) => "graphics replaced",
                    New::Whole(_) | New::Checked(_) => "defined",
                };
                let text = format!(
                    "{name}: {how} {} µs after it was last looked at",
                    window.as_micros()
                );
                self.say(Priority::Info, &text);
                // At once: what somebody else does from now on is theirs.
                let after = libvirt.persistent(&before.uuid);
                let is_whole = graphics.is_none();
                let is_alone = self.only_ours(uuid, since, window, is_whole, receive);
                self.keep(uuid, before, after, &plan.changes, is_alone);
                let remarks = plan.notes.iter().map(Line::of).collect();
                self.say_of(uuid, remarks, None);
                if plan.after.starts() && self.domains.watched(uuid).vetoed {
                    self.start(libvirt, before, receive.is_none())?;
                } else {
                    self.handled(uuid, false);
                }
                Ok(())
            }
            Ok(Replaced::Changed) => {
                let domain = self.domains.watched(uuid);
                domain.misses += 1;
                let again = Task {
                    uuid,
                    defined: true,
                };
                if domain.misses <= AT_ONCE {
                    self.tasks.push_front(again);
                } else {
                    let text = format!(
                        "{name}: not defined: somebody changes it all the time; looked at again in {} s",
                        SOON.as_secs()
                    );
                    self.say(Priority::Warning, &text);
                    self.again(again, SOON);
                }
                Ok(())
            }
            Err(Failure::Refused(problem)) => {
                let domain = self.domains.watched(uuid);
                domain.memory.was_refused(&before.xml);
                self.say(Priority::Error, &format!("{name}: {problem}"));
                self.log(uuid, What::Refused, Some(&problem));
                self.handled(uuid, false);
                Ok(())
            }
            Err(error) => {
                // It may have ended before it did it, or before it said so.
                self.domains.watched(uuid).unsure = Some(Unsure {
                    before: before.xml.clone(),
                    wanted: fixed.text.clone(),
                    changes: plan.changes.clone(),
                });
                Err(error)
            }
        }
    }

    /// Remembers a change that libvirt has made and not confirmed, as one that it has. Only what was wanted can be
    /// undone of it: what else is new may be somebody else's.
    fn was_done_after_all(&mut self, uuid: Uuid, definition: &Definition) {
        let domain = self.domains.watched(uuid);
        let done = domain.unsure.take();
        let Some(done) = done.filter(|unsure| unsure.is_done(&definition.xml)) else {
            return;
        };
        domain.memory.is_ours(&definition.xml);
        let name = domain.name.clone();
        for change in &done.changes {
            let what = words(&change.action);
            let text = format!("{name}: changed, though libvirt has not said so: {what}");
            self.say(Priority::Notice, &text);
        }
        let kept = self.domains.state.made(
            By::Daemon,
            &Made {
                uuid,
                name: &name,
                before: &done.before,
                after: &done.wanted,
                changes: &done.changes,
            },
        );
        self.report(kept);
    }

    /// Waits for libvirt's report of our own definition; whether it was the only one. If there is
    /// another beside it, somebody else changed the domain at the same moment, and may have lost
    /// that if we replaced the whole.
    fn only_ours(
        &mut self,
        uuid: Uuid,
        since: Instant,
        window: Duration,
        is_whole: bool,
        receive: Option<&Receiver<Event>>,
    ) -> bool {
        let Some(receive) = receive else { return true };
        let mut limit = Instant::now() + OWN_REPORT;
        let (mut reports, mut is_new, mut metadata) = (0, false, false);
        while let Ok(event) = receive.recv_timeout(limit.saturating_duration_since(Instant::now()))
        {
            match event {
                Event::Libvirt(libvirt::Event::Domain { uuid: of, what, at })
                    if of.parse() == Ok(uuid) && at >= since =>
                {
                    match what {
                        Happened::Defined { is_new: added } => {
                            if reports == 0 {
                                let others = if is_whole {
                                    OTHERS_REPORT
                                } else {
                                    Duration::ZERO
                                };
                                limit = Instant::now() + others;
                            }
                            reports += 1;
                            is_new |= added;
                        }
                        Happened::Metadata => metadata |= at <= since + window,
                        other => self.happened(uuid, other),
                    }
                }
                other => self.event(other),
            }
        }
        let name = self.name(uuid);
        let problem = if is_new {
            format!(
                "{name}: somebody else undefined it at the same moment, and now it is defined again: undefine it once more"
            )
        } else if !is_whole && reports > 1 {
            self.task(uuid, true);
            return false;
        } else if is_whole && (reports > 1 || metadata) {
            format!(
                "{name}: somebody else changed it at the same moment (within {} µs): what they changed may be lost; see that it is there",
                window.as_micros()
            )
        } else {
            return true;
        };
        self.say(Priority::Error, &problem);
        self.log(uuid, What::Conflict, Some(&problem));
        self.task(uuid, true);
        false
    }

    /// Keeps what it takes to undo it, and that it was done. `is_alone`: nobody else has a part in
    /// what it is now.
    fn keep(
        &mut self,
        uuid: Uuid,
        before: &Definition,
        after: Result<Option<Definition>, Failure>,
        changes: &[Change],
        is_alone: bool,
    ) {
        let name = self.name(uuid);
        let after = match after {
            Ok(Some(after)) => {
                let (name, devices) = name_and_devices(&after.xml);
                let domain = self.domains.watched(uuid);
                domain.note(&name, &after.xml, devices);
                domain.memory.is_ours(&after.xml);
                Some(after).filter(|_| is_alone)
            }
            // It has gone again.
            Ok(None) => None,
            Err(error) => {
                let text = format!("{name}: what was done can't be undone by gfxplane: {error}");
                self.say(Priority::Warning, &text);
                None
            }
        };
        let state = &self.domains.state;
        let kept = match after {
            Some(after) => state.made(
                By::Daemon,
                &Made {
                    uuid,
                    name: &name,
                    before: &before.xml,
                    after: &after.xml,
                    changes,
                },
            ),
            None => state.append(
                &Entry::new(now(), What::Fixed, By::Daemon, &name, Some(uuid)).changes(changes),
            ),
        };
        self.report(kept);
    }

    /// Starts a domain that the hook has kept from starting, if that is wanted. `in_line`: nobody
    /// waits for what comes of it.
    fn start(
        &mut self,
        libvirt: &dyn Libvirt,
        definition: &Definition,
        in_line: bool,
    ) -> Result<(), Failure> {
        let Ok(uuid) = definition.uuid.parse() else {
            return Ok(());
        };
        let wanted = match self.config.retry_start {
            RetryStart::Never => false,
            RetryStart::Autostart => libvirt.is_autostart(&definition.uuid)?,
            RetryStart::Persistent => true,
        };
        let name = self.name(uuid);
        if definition.is_active {
            self.handled(uuid, false);
            return Ok(());
        }
        let problem = if !wanted {
            "it would start now; gfxplane does not start it (retry_start)"
        } else if !self.domains.watched(uuid).may_retry() {
            "refused again; gfxplane has started it once and does not try for ever"
        } else {
            self.handled(uuid, true);
            let Some(libvirt) = self.libvirt.clone() else {
                return Ok(());
            };
            let text = definition.uuid.clone();
            let start = move || {
                let result = libvirt.start_persistent(&text);
                result.map_err(|error| error.to_string())
            };
            if in_line {
                self.started(uuid, start());
            } else {
                let sink = self.sink.clone();
                // A start takes its time, and other domains don't wait for it.
                thread::spawn(move || {
                    let _ = sink.send(Event::Started(uuid, start()));
                });
            }
            return Ok(());
        };
        self.say(Priority::Info, &format!("{name}: {problem}"));
        self.handled(uuid, false);
        Ok(())
    }

    /// What came of starting a domain.
    pub(super) fn started(&mut self, uuid: Uuid, result: Result<(), String>) {
        let name = self.name(uuid);
        match result {
            Ok(()) => {
                self.say(Priority::Notice, &format!("{name}: started"));
                self.log(uuid, What::Started, None);
            }
            Err(error) => {
                self.failures += 1;
                self.say(Priority::Warning, &format!("{name}: not started: {error}"));
                self.log(uuid, What::NotStarted, Some(&error));
            }
        }
    }
}
