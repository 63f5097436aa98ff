//! The daemon's memory of the domains. One part lasts as long as the daemon runs, the other is in
//! `/var/lib/gfxplane`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use uuid::Uuid;

use crate::daemon::decision::{Memory, Standing, mark};
use crate::device::id::DeviceId;
use crate::domain::Domain;
use crate::host::domains::{self, DomainFile};
use crate::host::state::{NotRemembered, State};
use crate::host::{Root, Warning};
use crate::libvirt::definition_versions::distance;
use crate::plan::{Change, Note};
use crate::xml::Document;

/// The greatest number of undefined domains whose plans are remembered.
const MAX_GONE: usize = 1000;

/// A domain that the daemon watches.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) memory: Memory,
    pub(super) devices: Vec<DeviceId>,
    /// The hash of the domain's last definition, to recognize a report that brings nothing new.
    seen: Option<u64>,
    /// True if the hook has vetoed the domain's start since the daemon last looked at the domain.
    pub(super) vetoed: bool,
    /// The last lines that were written about the domain.
    said: Vec<Note>,
    /// The number of times in a row that somebody else changed the definition before we could.
    pub(super) misses: u32,
    /// The number of times in a row that libvirt did not answer about the domain, and its last
    /// error.
    pub(super) failures: u32,
    pub(super) failure: String,
    /// The hash of the last definition that the daemon started after a veto. Each definition is
    /// started once.
    retried: Option<u64>,
    /// The hash of the planned definition that the domain did not get, and the reason: the
    /// definition was refused in a trial, or can't be tried at all.
    pub(super) in_vain: Option<(u64, String)>,
    /// True if the planned definition could not be tried because a device is in use.
    pub(super) waits: bool,
    /// A change that libvirt may have made, although it has not confirmed it.
    pub(super) unsure: Option<Unsure>,
    /// The times of changes that somebody is making; `None` if the domain is quiet.
    pub(super) loud: Option<Loud>,
}

/// The time of the first change since the daemon last looked at the domain, and the time at which
/// the daemon looks at it next, which each change postpones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loud {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

/// A change whose outcome is unknown, because libvirt ended before it confirmed the change.
#[derive(Debug)]
pub(super) struct Unsure {
    pub(super) before: String,
    pub(super) wanted: String,
    pub(super) changes: Vec<Change>,
}

impl Unsure {
    /// Returns whether the change was made: the present definition is more like the wanted one than
    /// like the one before.
    pub(super) fn is_done(&self, definition: &str) -> bool {
        distance(definition, &self.wanted) < distance(definition, &self.before)
    }
}

/// The memory of all domains.
#[derive(Debug)]
pub(super) struct Domains {
    pub(super) state: State,
    /// The domains that existed before the package; `None` if no list of them was made yet.
    older: Option<BTreeSet<Uuid>>,
    /// True if `older` was written to the disk.
    is_kept: bool,
    /// True for the system's libvirt. Only then does the memory outlive the daemon.
    is_system: bool,
    all: BTreeMap<Uuid, Watched>,
    /// The plans that were carried out for domains that are undefined now: somebody who insists on
    /// the old definition may undefine the domain and define it anew.
    gone: VecDeque<(Uuid, Memory)>,
}

impl Watched {
    /// Notes the domain's present definition, with its name and devices. Returns `true` if an
    /// earlier definition was noted and differs.
    pub(super) fn note(&mut self, name: &str, definition: &str, devices: Vec<DeviceId>) -> bool {
        let now = mark(definition);
        name.clone_into(&mut self.name);
        self.devices = devices;
        self.seen.replace(now).is_some_and(|before| before != now)
    }

    /// Returns whether the daemon may start the domain after a veto: once until the definition
    /// changes. The call uses this up.
    pub(super) fn may_retry(&mut self) -> bool {
        let is_another = self.retried != self.seen;
        self.retried = self.seen;
        is_another
    }

    /// Returns these lines, or nothing if they are the same as the last ones. Remembers them as the
    /// last.
    pub(super) fn news(&mut self, lines: Vec<Note>) -> Vec<Note> {
        if self.said == lines {
            return Vec::new();
        }
        self.said.clone_from(&lines);
        lines
    }
}

impl Domains {
    pub(super) fn new(root: &Root, is_system: bool, warnings: &mut Vec<Warning>) -> Self {
        let state = State::new(root);
        // The first daemon starts when the package is installed, and libvirt may not run then.
        let kept = is_system.then(|| state.older(warnings)).flatten();
        let is_kept = kept.is_some();
        let first = || is_system.then(|| written(root)).flatten();
        Domains {
            older: kept.or_else(first),
            is_kept,
            is_system,
            state,
            all: BTreeMap::new(),
            gone: VecDeque::new(),
        }
    }

    /// Notes which domains exist when the daemon connects, and forgets all others. If no list of
    /// the domains older than the package was made yet, these are the list. Changes that libvirt or
    /// a trial refused may be tried again.
    pub(super) fn starts_with(&mut self, all: &[Uuid]) -> Result<(), NotRemembered> {
        let there: BTreeSet<Uuid> = all.iter().copied().collect();
        let gone: Vec<Uuid> = self.all.keys().copied().collect();
        for uuid in gone.into_iter().filter(|uuid| !there.contains(uuid)) {
            self.put_aside(uuid);
        }
        for domain in self.all.values_mut() {
            domain.memory.try_again();
            domain.in_vain = None;
        }
        if self.is_system {
            for uuid in self.state.domains() {
                if !there.contains(&uuid) {
                    self.state.undefined(uuid)?;
                }
            }
        }
        let older = match &self.older {
            None => there,
            Some(older) => older.intersection(&there).copied().collect(),
        };
        self.set_older(older)
    }

    fn set_older(&mut self, older: BTreeSet<Uuid>) -> Result<(), NotRemembered> {
        let is_same = self.older.as_ref() == Some(&older);
        if is_same && (self.is_kept || !self.is_system) {
            return Ok(());
        }
        let written = if self.is_system {
            self.state.set_older(&older)
        } else {
            Ok(())
        };
        self.is_kept = written.is_ok();
        self.older = Some(older);
        written
    }

    /// Notes that the domain no longer counts as older than the package, because somebody has given
    /// it another definition.
    pub(super) fn is_newer(&mut self, uuid: Uuid) -> Result<(), NotRemembered> {
        let mut older = self.older.clone().unwrap_or_default();
        older.remove(&uuid);
        self.set_older(older)
    }

    pub(super) fn standing(&self, uuid: Uuid, warnings: &mut Vec<Warning>) -> Standing {
        let older = self.older.as_ref();
        Standing {
            is_older: older.is_some_and(|older| older.contains(&uuid)),
            is_hands_off: self.state.hands_off(uuid, warnings),
        }
    }

    /// Notes that no domain is being changed any more.
    pub(super) fn all_quiet(&mut self) {
        for domain in self.all.values_mut() {
            domain.loud = None;
        }
    }

    /// Returns what the daemon keeps about a domain. Makes an entry if the daemon does not watch
    /// the domain yet. If a domain with this UUID was undefined earlier, the entry gets its
    /// [`Memory`].
    pub(super) fn watched(&mut self, uuid: Uuid) -> &mut Watched {
        self.all.entry(uuid).or_insert_with(|| {
            let place = self.gone.iter().position(|(gone, _)| *gone == uuid);
            let memory = place.and_then(|place| self.gone.remove(place));
            Watched {
                memory: memory.map(|(_, memory)| memory).unwrap_or_default(),
                ..Watched::default()
            }
        })
    }

    /// Forgets a domain, except for the plans that were carried out. Returns `false` if the domain
    /// is not known.
    fn put_aside(&mut self, uuid: Uuid) -> bool {
        let Some(domain) = self.all.remove(&uuid) else {
            return false;
        };
        if !domain.memory.is_empty() {
            if self.gone.len() == MAX_GONE {
                self.gone.pop_front();
            }
            self.gone.push_back((uuid, domain.memory));
        }
        true
    }

    /// Returns what the daemon keeps about a domain; `None` if it does not watch the domain.
    pub(super) fn known(&mut self, uuid: Uuid) -> Option<&mut Watched> {
        self.all.get_mut(&uuid)
    }

    /// Returns the domains for which `is_wanted` returns true.
    pub(super) fn those(&self, is_wanted: impl Fn(&Watched) -> bool) -> Vec<Uuid> {
        let all = self.all.iter().filter(|(_, domain)| is_wanted(domain));
        all.map(|(uuid, _)| *uuid).collect()
    }

    /// Forgets a domain whose definition is gone. Does nothing if the domain is not known.
    ///
    /// # Errors
    /// The store on disk can't be written.
    pub(super) fn forget(&mut self, uuid: Uuid) -> Result<(), NotRemembered> {
        if !self.put_aside(uuid) {
            return Ok(());
        }
        self.is_newer(uuid)?;
        self.state.undefined(uuid)
    }
}

/// Returns the domains that have a definition file of libvirt's; `None` if the directory can't be
/// read.
fn written(root: &Root) -> Option<BTreeSet<Uuid>> {
    let uuid = |file: &DomainFile| {
        let document = Document::parse(&file.xml).ok()?;
        Domain::new(&document).ok()?.uuid
    };
    let files = domains::read(root, &mut Vec::new())?;
    Some(files.iter().filter_map(uuid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_defined_while_no_daemon_runs_is_not_older_than_the_package() {
        let (_keep, root) = crate::host::empty();
        let definitions = domains::DEFINITIONS;
        fs::create_dir_all(root.join("var/lib")).unwrap();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let define = |uuid: Uuid| {
            let text = format!("<domain><name>g</name><uuid>{uuid}</uuid></domain>");
            root.put(&format!("{definitions}/{uuid}.xml"), &text);
        };
        define(a);
        let begin = |all: &[Uuid]| {
            let mut domains = Domains::new(&root, true, &mut Vec::new());
            domains.starts_with(all).unwrap();
            domains
        };
        assert!(begin(&[a]).standing(a, &mut Vec::new()).is_older);
        define(b);
        let domains = begin(&[a, b]);
        assert!(domains.standing(a, &mut Vec::new()).is_older);
        assert!(!domains.standing(b, &mut Vec::new()).is_older);
    }
}
