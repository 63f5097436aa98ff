//! Keeps the list of domains that the daemon has to look at, now or later.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Daemon;
use super::memory::Loud;

/// The longest time that the daemon waits for a domain to become quiet.
pub(super) const NEVER_QUIET: Duration = Duration::from_secs(2);

/// A domain that the daemon has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) uuid: Uuid,
    /// True if libvirt reports that the definition was written.
    pub(super) defined: bool,
    /// True if there is another reason than a written definition.
    pub(super) anyway: bool,
}

impl Daemon<'_> {
    pub(super) fn task(&mut self, uuid: Uuid, defined: bool) {
        self.add(Task {
            uuid,
            defined,
            anyway: !defined,
        });
    }

    pub(super) fn add(&mut self, task: Task) {
        // A domain that somebody is changing is looked at only when it is quiet.
        let waiting = self.domains.known(task.uuid).and_then(|domain| domain.loud);
        let waiting = waiting.and_then(|loud| self.later.get_mut(&(loud.until, task.uuid)));
        let mut tasks = self.tasks.iter_mut();
        match waiting.or_else(|| tasks.find(|other| other.uuid == task.uuid)) {
            Some(other) => {
                other.defined |= task.defined;
                other.anyway |= task.anyway;
            }
            None => self.tasks.push_back(task),
        }
    }

    /// Makes the daemon look at a domain that somebody is changing, after a quiet time. If the hook
    /// has vetoed the domain's start, another change does not prolong the wait.
    pub(super) fn soon(&mut self, uuid: Uuid, defined: bool) {
        let now = Instant::now();
        let domain = self.domains.watched(uuid);
        let since = domain.loud.map_or(now, |loud| loud.since);
        let until = match domain.loud {
            Some(loud) if domain.vetoed => loud.until,
            _ => (now + self.quiet).min(since + NEVER_QUIET),
        };
        let before = domain.loud.take();
        if !self.quiet.is_zero() {
            domain.loud = Some(Loud { since, until });
            let waiting = before.and_then(|loud| self.later.remove(&(loud.until, uuid)));
            let task = waiting.unwrap_or(Task {
                uuid,
                defined: false,
                anyway: false,
            });
            self.later.insert((until, uuid), task);
        }
        self.task(uuid, defined);
    }

    pub(super) fn time_passes(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            let ((until, uuid), task) = entry.remove_entry();
            if let Some(domain) = self.domains.known(uuid)
                && domain.loud.is_some_and(|loud| loud.until == until)
            {
                domain.loud = None;
            }
            self.add(task);
        }
        let with_guests = self.libvirt.is_some();
        self.publishing.time_passes(now, &self.config, with_guests);
        if self.retry.is_some_and(|(at, _)| at <= now) {
            self.ending.clear();
            // Without `at_once`, connecting does not fail.
            let _ = self.connect(false);
        }
    }
}
