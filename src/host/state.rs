//! `/var/lib/gfxplane`: gfxplane's memory of its changes to domains.
//!
//! The directory is root's and 0700, its files 0600. Files are replaced as a whole (temporary file,
//! rename). Each entry of the log is written by one system call. A lock admits one writer at a
//! time. Readers accept only regular files of root or of their own user that nobody else may write,
//! and follow no link.
//!
//! * `domains/UUID.json`: how to undo a domain's changes, and whether the daemon leaves it alone;
//!   a file that can't be read is renamed to `UUID.json.damaged` before a new one is written;
//! * `log.jsonl` and, once the log has grown to 1 MiB, `log.jsonl.1`: the log;
//! * `older.json`: the domains that existed before the package was installed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::device::record::{FORMAT, NotARecord};
use crate::host::log::{By, Entry, What};
use crate::host::{Root, Warning, is_absent, or_ignored, remove, run};
use crate::plan::Change;
use crate::plan::undo::{Inverse, Unreadable, inverse};

const BASE: &str = "var/lib/gfxplane";
const LOG: &str = "log.jsonl";
const OLD_LOG: &str = "log.jsonl.1";
const OLDER: &str = "older.json";

/// The greatest number of changes of a domain that can be undone.
pub(crate) const MAX_ROUNDS: usize = 32;

/// The largest size of a domain's file, in bytes. Above it, older changes are dropped.
const MAX_DOMAIN: usize = 1024 * 1024;

/// The size in bytes at which the log is renamed and a new log begins.
const MAX_LOG: u64 = 1024 * 1024;

/// The largest file that is read, in bytes. This is enough for an `older.json` with hundreds of
/// thousands of domains.
const MAX_READ: usize = 16 * 1024 * 1024;

/// The time that a writer waits for another writer, which needs only milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store in `/var/lib/gfxplane` of one host.
#[derive(Debug, Clone)]
pub struct State {
    root: Root,
}

/// One change of a domain, which can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The time of the change, in seconds since 1970.
    pub time: u64,
    /// The values to put back to undo the change.
    pub changes: Vec<Inverse>,
}

/// The content of a domain's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    format: u32,
    /// The domain's name when the file was last written, only for people who read the file.
    domain: String,
    uuid: Uuid,
    hands_off: bool,
    /// The changes that can be undone, the oldest first.
    undo: Vec<Round>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Older {
    format: u32,
    domains: BTreeSet<Uuid>,
}

/// An error of the store: something can't be stored, or the store can't be read.
#[derive(Debug, thiserror::Error)]
pub enum NotRemembered {
    /// The domain's definition before or after the change, as libvirt printed it, can't be parsed.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A file or directory of the store can't be written or read.
    #[error("{path}: {error}")]
    Io {
        /// The path of the file or directory.
        path: PathBuf,
        /// The file system's error.
        error: io::Error,
    },
}

/// A change that gfxplane has made to a domain's definition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'m> {
    pub uuid: Uuid,
    pub name: &'m str,
    /// The definition before the change, as libvirt printed it.
    pub before: &'m str,
    /// The definition after the change, as libvirt prints it now.
    pub after: &'m str,
    /// The changes of the plan.
    pub changes: &'m [Change],
}

impl State {
    /// Returns the store of a host, without reading or making anything yet.
    pub fn new(root: &Root) -> Self {
        State { root: root.clone() }
    }

    /// Checks that this user may read the store. A store that does not exist is readable.
    ///
    /// # Errors
    /// [`NotRemembered::Io`], most often because the user is not root.
    pub(crate) fn readable(&self) -> Result<(), NotRemembered> {
        let path = self.base();
        match fs::read_dir(&path) {
            Err(error) if !is_absent(&error) => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Stores how to undo a change, and writes the change to the log.
    ///
    /// # Errors
    /// [`NotRemembered`]; the log is written all the same, if possible.
    pub(crate) fn made(&self, by: By, made: &Made<'_>) -> Result<(), NotRemembered> {
        let entry =
            Entry::new(now(), What::Fixed, by, made.name, Some(made.uuid)).changes(made.changes);
        let logged = self.append(&entry);
        let changes = inverse(made.before, made.after)?;
        self.push_undo(made.uuid, made.name, changes)?;
        logged
    }

    /// Stores a change of a domain, to be undone. Drops the oldest changes if there are more than
    /// [`MAX_ROUNDS`] or the file is too large. Does nothing if `changes` is empty.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; the earlier changes stay.
    pub fn push_undo(
        &self,
        uuid: Uuid,
        name: &str,
        changes: Vec<Inverse>,
    ) -> Result<(), NotRemembered> {
        if changes.is_empty() {
            return Ok(());
        }
        let time = now();
        self.change(uuid, |remembered| {
            remembered.domain = name.into();
            remembered.undo.push(Round { time, changes });
        })
    }

    /// Returns the changes of a domain that can be undone, the oldest first. Empty, with a warning,
    /// if they can't be read.
    pub fn undo_stack(&self, uuid: Uuid, warnings: &mut Vec<Warning>) -> Vec<Round> {
        let found = or_ignored(self.domain(uuid), &self.domain_path(uuid), warnings);
        found.map(|remembered| remembered.undo).unwrap_or_default()
    }

    /// Forgets the changes of a domain that could be undone.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; all of the changes stay then.
    pub(crate) fn clear_undo(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        if matches!(self.domain(uuid), Ok(None)) {
            return Ok(());
        }
        self.change(uuid, |remembered| remembered.undo.clear())
    }

    /// Returns whether the daemon must leave a domain alone because somebody has undone gfxplane's
    /// changes. Also true if the domain's file can't be read: doing nothing is better than doing
    /// what somebody has refused.
    #[must_use]
    pub fn hands_off(&self, uuid: Uuid, warnings: &mut Vec<Warning>) -> bool {
        match self.domain(uuid) {
            Ok(remembered) => remembered.is_some_and(|remembered| remembered.hands_off),
            Err(problem) => {
                let problem = format!("{problem}: the domain is left alone until it is removed");
                warnings.push(Warning::new(self.domain_path(uuid), problem));
                true
            }
        }
    }

    /// Sets whether the daemon leaves a domain alone.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; the setting stays as it was.
    pub fn set_hands_off(
        &self,
        uuid: Uuid,
        name: &str,
        hands_off: bool,
    ) -> Result<(), NotRemembered> {
        if !hands_off && matches!(self.domain(uuid), Ok(None)) {
            return Ok(());
        }
        self.change(uuid, |remembered| {
            remembered.domain = name.into();
            remembered.hands_off = hands_off;
        })
    }

    /// Forgets a domain that was undefined. If the daemon leaves the domain alone, forgets only the
    /// changes that could be undone, because the domain may be defined again. A file that can't be
    /// read stays, because the daemon leaves its domain alone, too.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; the store is then as it was.
    pub(crate) fn undefined(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        match self.domain(uuid) {
            Ok(Some(remembered)) if remembered.hands_off && remembered.undo.is_empty() => Ok(()),
            Ok(Some(remembered)) if remembered.hands_off => self.clear_undo(uuid),
            Ok(_) => self.forget(uuid),
            // The daemon leaves this domain alone, too.
            Err(_) => Ok(()),
        }
    }

    /// Forgets a domain. Its entries in the log stay.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]. It is no error if the domain has no file.
    pub fn forget(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        let path = self.domain_path(uuid);
        remove(&path).map_err(at(&path))
    }

    /// Returns the domains that have a file in the store. The log may be about more domains.
    pub fn domains(&self) -> Vec<Uuid> {
        let entries = fs::read_dir(self.base().join("domains"));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| {
                let name = entry.file_name();
                name.to_str()?.strip_suffix(".json")?.parse().ok()
            })
            .collect()
    }

    /// Adds an entry to the log, as a whole line or not at all.
    ///
    /// # Errors
    /// [`NotRemembered::Io`] if the log can't be written.
    pub fn append(&self, entry: &Entry) -> Result<(), NotRemembered> {
        let path = self.base().join(LOG);
        self.append_line(&path, entry).map_err(at(&path))
    }

    fn append_line(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        let base = self.directory()?;
        let _turn = self.turn(&base)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.len() + line.len() as u64 > MAX_LOG => {
                fs::rename(path, base.join(OLD_LOG))?;
            }
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if let Some(problem) = run::untrusted(&self.root, &metadata, run::ourselves()) {
            let problem = format!("it {problem}: remove it");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let length = metadata.len();
        if length > 0 {
            // A killed writer may have left a line without its end.
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        // This must be one call; write_all would continue after a partial write.
        let written = file.write(&line).and_then(|written| {
            if written == line.len() {
                Ok(())
            } else {
                Err(io::ErrorKind::StorageFull.into())
            }
        });
        if written.is_err() {
            let _ = file.set_len(length);
        }
        written
    }

    /// Returns the log, the oldest entry first. Lines that can't be read are ignored with a
    /// warning.
    pub fn entries(&self, warnings: &mut Vec<Warning>) -> Vec<Entry> {
        // A reader who may not take the lock reads without it, and may miss entries if the log is
        // renamed meanwhile.
        let base = self.base();
        let _turn = base.is_dir().then(|| self.turn(&base).ok());
        let mut entries = Vec::new();
        for path in [OLD_LOG, LOG].map(|name| base.join(name)) {
            let bytes = run::read_trusted_bytes(&self.root, &path, run::ourselves(), MAX_READ);
            let Some(bytes) = or_ignored(bytes, &path, warnings) else {
                continue;
            };
            // A line that was not written to its end may end within a character.
            let text = String::from_utf8_lossy(&bytes);
            for (number, line) in text.split_inclusive('\n').enumerate() {
                let number = number + 1;
                if line.trim().is_empty() {
                    continue;
                }
                let problem = match serde_json::from_str::<Entry>(line) {
                    Ok(entry) if entry.format == FORMAT => {
                        entries.push(entry);
                        continue;
                    }
                    Ok(entry) => NotARecord::Format(entry.format).to_string(),
                    Err(_) if !line.ends_with('\n') => "it is torn".into(),
                    Err(error) => NotARecord::Damaged(error).to_string(),
                };
                let problem = format!("line {number} ignored: {problem}");
                warnings.push(Warning::new(&path, problem));
            }
        }
        entries
    }

    /// Returns the domains that existed before the package was installed; `None` if there is no
    /// list yet or, with a warning, if it can't be trusted.
    pub(crate) fn older(&self, warnings: &mut Vec<Warning>) -> Option<BTreeSet<Uuid>> {
        let path = self.base().join(OLDER);
        let older = run::read_own_json(&self.root, &path, MAX_READ);
        or_ignored(older, &path, warnings).map(|older: Older| older.domains)
    }

    /// Writes the list of the domains that existed before the package was installed.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; the earlier list stays.
    pub fn set_older(&self, domains: &BTreeSet<Uuid>) -> Result<(), NotRemembered> {
        let path = self.base().join(OLDER);
        let older = Older {
            format: FORMAT,
            domains: domains.clone(),
        };
        let write = || {
            let base = self.directory()?;
            let _turn = self.turn(&base)?;
            run::put(&base, &path, &text(&older)?, 0o600, true)
        };
        write().map_err(at(&path))
    }

    fn base(&self) -> PathBuf {
        self.root.join(BASE)
    }

    fn domain_path(&self, uuid: Uuid) -> PathBuf {
        self.root.join(format!("{BASE}/domains/{uuid}.json"))
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<Remembered>, String> {
        let path = self.domain_path(uuid);
        match run::read_own_json::<Remembered>(&self.root, &path, MAX_READ)? {
            Some(other) if other.uuid != uuid => Err(format!("it is about {}", other.uuid)),
            found => Ok(found),
        }
    }

    fn change(
        &self,
        uuid: Uuid,
        change: impl FnOnce(&mut Remembered),
    ) -> Result<(), NotRemembered> {
        let path = self.domain_path(uuid);
        let write = || {
            let base = self.directory()?;
            let directory = base.join("domains");
            run::make_or_trust(&self.root, &directory, 0o700, run::ourselves())?;
            let _turn = self.turn(&base)?;
            let remembered = self.domain(uuid).or_else(|_| {
                // A file that can't be read is renamed, so that it is not lost.
                fs::rename(&path, path.with_extension("json.damaged")).map(|()| None)
            })?;
            let mut remembered = remembered.unwrap_or_else(|| Remembered {
                format: FORMAT,
                domain: String::new(),
                uuid,
                hands_off: false,
                undo: Vec::new(),
            });
            change(&mut remembered);
            if remembered.undo.is_empty() && !remembered.hands_off {
                return remove(&path);
            }
            let surplus = remembered.undo.len().saturating_sub(MAX_ROUNDS);
            remembered.undo.drain(..surplus);
            let mut content = text(&remembered)?;
            while content.len() > MAX_DOMAIN && !remembered.undo.is_empty() {
                remembered.undo.remove(0);
                content = text(&remembered)?;
            }
            run::put(&directory, &path, &content, 0o600, true)
        };
        write().map_err(at(&path))
    }

    /// Returns the store's directory. Makes it if needed.
    fn directory(&self) -> io::Result<PathBuf> {
        let path = self.base();
        run::make_or_trust(&self.root, &path, 0o700, run::ourselves())?;
        Ok(path)
    }

    /// Takes the lock of the store, whose directory is `base`, for one writer at a time.
    fn turn(&self, base: &Path) -> io::Result<run::Lock> {
        run::Lock::of_file(&base.join("lock"), Instant::now() + PATIENCE)
    }
}

/// Returns a function that makes a [`NotRemembered::Io`] for `path`.
fn at(path: &Path) -> impl Fn(io::Error) -> NotRemembered {
    move |error| NotRemembered::Io {
        path: path.to_owned(),
        error,
    }
}

fn text(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Returns the time in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
