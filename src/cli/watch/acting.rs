//! One domain: read, decided about, and defined.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::service::Priority;
use super::{Daemon, Event, Task};
use crate::cli::libvirt::{self, Definition, Happened, Replaced};
use crate::cli::subject::HostSurroundings;
use crate::cli::{Failure, libvirt::Libvirt};
use crate::config::RetryStart;
use crate::fixup::Fixed;
use crate::host::state::{Made, now};
use crate::log::{By, Entry, What};
use crate::plan::{Change, Level, words};
use crate::predict::About;
use crate::watch::{Decision, Line, about};

/// How often in a row a definition that changes while it is mended is read again at once.
const AT_ONCE: u32 = 5;

/// When it is looked at again after that, and when libvirt was too busy with the domain.
const SOON: Duration = Duration::from_secs(2);

/// How long the report of a definition of ours may take to come.
const OWN_REPORT: Duration = Duration::from_secs(1);

impl Daemon<'_> {
    /// Looks at the next domain; whether there was one.
    pub(super) fn work_once(&mut self, receive: Option<&Receiver<Event>>) -> bool {
        let (Some(libvirt), Some(task)) = (self.libvirt.clone(), self.tasks.pop_front()) else {
            return false;
        };
        if let Err(error) = self.look(libvirt.as_ref(), task, receive) {
            let mut name = self.domains.watched(task.uuid).name.clone();
            if name.is_empty() {
                name = task.uuid.to_string();
            }
            self.say(Priority::Warning, &format!("{name}: {error}"));
            // A start or another job holds it, or libvirt is going: then all is looked at again.
            self.again(task, SOON);
        }
        true
    }

    fn again(&mut self, task: Task, wait: Duration) {
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
            self.domains.watched(uuid).vetoed = false;
            return Ok(());
        };
        let (name, devices) = about(&definition.xml);
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
            Instant::now(),
        );
        warnings.extend(surroundings.warnings());
        self.warn(&warnings);
        match decision {
            Err(error) => {
                let line = Line {
                    level: Level::Warn,
                    about: About::Domain,
                    text: format!("left alone: {error}"),
                };
                self.say_of(uuid, vec![line], true);
                self.domains.watched(uuid).vetoed = false;
            }
            Ok(Decision::NotOurs) => self.domains.watched(uuid).vetoed = false,
            Ok(Decision::Leave { is_bad, why }) => {
                self.say_of(uuid, why, is_bad);
                // Somebody else was faster to mend it.
                let vetoed = std::mem::take(&mut self.domains.watched(uuid).vetoed);
                if vetoed && !is_bad {
                    self.start(uuid)?;
                }
            }
            Ok(Decision::Act(fixed)) => self.act(libvirt, uuid, &definition, &fixed, receive)?,
        }
        Ok(())
    }

    /// Writes to the log of what was done.
    fn log(&mut self, uuid: Uuid, what: What, reason: Option<&str>) {
        let name = self.domains.watched(uuid).name.clone();
        let mut entry = Entry::new(now(), what, By::Daemon, &name, Some(uuid));
        entry.reason = reason.map(Into::into);
        let kept = self.domains.state.append(&entry);
        self.report(kept);
    }

    /// Says the lines, unless they were said of this domain the last time. Those of a domain that
    /// is refused, or may be, and is left so, go to the log as well.
    fn say_of(&mut self, uuid: Uuid, lines: Vec<Line>, is_bad: bool) {
        let domain = self.domains.watched(uuid);
        let name = domain.name.clone();
        let news = domain.news(lines);
        if let Some(first) = news.first().filter(|_| is_bad) {
            self.log(uuid, What::LeftAlone, Some(&first.text));
        }
        for line in news {
            let text = match line.about {
                About::Domain => format!("{name}: {}", line.text),
                about => format!("{name}: {about}: {}", line.text),
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
        match libvirt.define(before, &fixed.text) {
            Ok(Replaced::Done { since, window }) => {
                let domain = self.domains.watched(uuid);
                domain.memory.did(plan, Instant::now());
                domain.misses = 0;
                for change in &plan.changes {
                    let text = format!(
                        "{name}: changed: {}: {}",
                        words(&change.action),
                        change.reason
                    );
                    self.say(Priority::Notice, &text);
                }
                let text = format!(
                    "{name}: defined {} µs after it was last looked at",
                    window.as_micros()
                );
                self.say(Priority::Info, &text);
                self.only_ours(uuid, since, window, receive);
                self.keep(libvirt, uuid, before, &plan.changes)?;
                let remarks = plan.notes.iter().map(Line::of).collect();
                self.say_of(uuid, remarks, false);
                let vetoed = std::mem::take(&mut self.domains.watched(uuid).vetoed);
                if vetoed && plan.after.starts() {
                    self.start(uuid)?;
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
                domain.vetoed = false;
                self.say(Priority::Error, &format!("{name}: {problem}"));
                self.log(uuid, What::Refused, Some(&problem));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for libvirt's report of our own definition. If there is another beside it, somebody
    /// else defined the domain at the same moment.
    fn only_ours(
        &mut self,
        uuid: Uuid,
        since: Instant,
        window: Duration,
        receive: Option<&Receiver<Event>>,
    ) {
        let Some(receive) = receive else { return };
        let limit = Instant::now() + OWN_REPORT;
        let mut reports = 0;
        loop {
            // Ours has come: only what is there already is looked at.
            let limit = if reports == 0 { limit } else { Instant::now() };
            let event = match receive.recv_timeout(limit.saturating_duration_since(Instant::now()))
            {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            };
            match event {
                Event::Libvirt(libvirt::Event::Domain {
                    uuid: of,
                    what: Happened::Defined,
                    at,
                }) if of.parse() == Ok(uuid) => {
                    reports += u32::from(at >= since);
                }
                other => self.event(other),
            }
        }
        if reports > 1 {
            let name = self.domains.watched(uuid).name.clone();
            let text = format!(
                "{name}: somebody else defined it at the same moment (within {} µs): what they changed may be lost; see that it is there",
                window.as_micros()
            );
            self.say(Priority::Error, &text);
            self.log(uuid, What::Conflict, Some(&text));
            self.task(uuid, true);
        }
    }

    /// Keeps what it takes to undo it, and that it was done.
    fn keep(
        &mut self,
        libvirt: &dyn Libvirt,
        uuid: Uuid,
        before: &Definition,
        changes: &[Change],
    ) -> Result<(), Failure> {
        // It may have gone again.
        let Some(after) = libvirt.persistent(&before.uuid)? else {
            return Ok(());
        };
        let (name, devices) = about(&after.xml);
        self.domains.watched(uuid).note(&name, &after.xml, devices);
        let made = Made {
            uuid,
            name: &name,
            before: &before.xml,
            after: &after.xml,
            changes,
        };
        let kept = self.domains.state.made(By::Daemon, &made);
        self.report(kept);
        Ok(())
    }

    /// Starts a domain that the hook has kept from starting, if that is wanted.
    fn start(&mut self, uuid: Uuid) -> Result<(), Failure> {
        let Some(libvirt) = self.libvirt.clone() else {
            return Ok(());
        };
        let name = self.domains.watched(uuid).name.clone();
        let text = uuid.to_string();
        let wanted = match self.config.retry_start {
            RetryStart::Never => false,
            RetryStart::Autostart => libvirt.is_autostart(&text)?,
            RetryStart::Persistent => true,
        };
        if !wanted {
            let said =
                format!("{name}: it would start now; gfxplane does not start it (retry_start)");
            self.say(Priority::Info, &said);
            return Ok(());
        }
        self.say(
            Priority::Notice,
            &format!("{name}: is started, as it was refused and is mended"),
        );
        self.log(uuid, What::Started, None);
        let sink = self.sink.clone();
        // A start takes its time, and other domains don't wait for it.
        thread::spawn(move || {
            let result = libvirt
                .start_persistent(&text)
                .map_err(|error| error.to_string());
            let _ = sink.send(Event::Started(uuid, result));
        });
        Ok(())
    }

    /// What came of starting a domain.
    pub(super) fn started(&mut self, uuid: Uuid, result: Result<(), String>) {
        let name = self.domains.watched(uuid).name.clone();
        match result {
            Ok(()) => self.say(Priority::Notice, &format!("{name}: started")),
            Err(error) => {
                self.say(Priority::Warning, &format!("{name}: not started: {error}"));
                self.log(uuid, What::NotStarted, Some(&error));
            }
        }
    }
}
