//! `/var/lib/gfxplane`: what is remembered of the changes to domains.
//!
//! The directory is root's and 0700, its files 0600. Files are replaced as a whole (temporary file,
//! rename). The log grows by one write of a whole line. Writers take turns by a lock. Readers
//! accept only regular files of root or of their own user that nobody else may write, and follow no
//! link.
//!
//! * `domains/UUID.json`: how to undo the changes of a domain, and whether the daemon leaves it alone;
//! * `log.jsonl` and, once that has grown to 1 MiB, `log.jsonl.1`: what was done;
//! * `older.json`: the domains that existed before the package.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::libc;
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::device::record::{FORMAT, NotARecord, from_json};
use crate::host::log::{By, Entry, What};
use crate::host::{Root, Warning, is_absent, run};
use crate::plan::Change;
use crate::plan::undo::{Inverse, Unreadable, inverse};

const BASE: &str = "var/lib/gfxplane";

/// The number of changes of a domain that can be undone.
pub const MAX_ROUNDS: usize = 32;

/// The largest file of a domain, in bytes. Beyond it, older changes are dropped.
const MAX_DOMAIN: usize = 1024 * 1024;

/// Of how many domains that were undefined it is remembered that the daemon stays away from them.
pub const MAX_GONE: usize = 1000;

/// The size at which the log is put aside, in bytes.
const MAX_LOG: u64 = 1024 * 1024;

/// The largest file that is read, in bytes: `older.json` with hundred thousands of domains.
const MAX_READ: usize = 16 * 1024 * 1024;

/// The time that a writer waits for another one, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The store of what is remembered on a host.
#[derive(Debug, Clone)]
pub struct State {
    root: Root,
}

/// One change of a domain, which can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The time, in seconds since 1970.
    pub time: u64,
    /// What it takes.
    pub changes: Vec<Inverse>,
}

/// What is remembered of one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    format: u32,
    /// Its name when it was written last; for people.
    domain: String,
    uuid: Uuid,
    hands_off: bool,
    /// The changes, the oldest first.
    undo: Vec<Round>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Older {
    format: u32,
    domains: BTreeSet<Uuid>,
}

/// The reason why a change is not remembered.
#[derive(Debug, thiserror::Error)]
pub enum NotRemembered {
    /// libvirt's form of the definition can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The file can't be written.
    #[error("{path}: {error}")]
    Io {
        /// The file's path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// A change that was made to a definition.
#[derive(Debug, Clone, Copy)]
pub struct Made<'m> {
    /// The domain's UUID.
    pub uuid: Uuid,
    /// The domain's name.
    pub name: &'m str,
    /// The definition before the change, as libvirt printed it.
    pub before: &'m str,
    /// The definition after the change, as libvirt prints it now.
    pub after: &'m str,
    /// The planned changes.
    pub changes: &'m [Change],
}

impl State {
    /// Returns the store of a host. Nothing is read or made yet.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        State { root: root.clone() }
    }

    /// Checks that this user may read the store. An empty store may be read by everybody.
    ///
    /// # Errors
    /// [`NotRemembered::Io`], most often because the user is not root.
    pub fn readable(&self) -> Result<(), NotRemembered> {
        let path = self.base();
        match fs::read_dir(&path) {
            Err(error) if !is_absent(&error) => Err(NotRemembered::Io { path, error }),
            _ => Ok(()),
        }
    }

    /// Remembers how to undo a change, and writes it to the log.
    ///
    /// # Errors
    /// [`NotRemembered`]; the log is written all the same, if possible.
    pub fn made(&self, by: By, made: &Made<'_>) -> Result<(), NotRemembered> {
        let entry =
            Entry::new(now(), What::Fixed, by, made.name, Some(made.uuid)).changes(made.changes);
        let logged = self.append(&entry);
        let changes = inverse(made.before, made.after)?;
        self.push_undo(made.uuid, made.name, changes)?;
        logged
    }

    /// Adds one change to those of a domain that can be undone. The oldest are dropped if there are
    /// more than [`MAX_ROUNDS`], or too much for one file. No changes add nothing.
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

    /// Returns the changes of a domain that can be undone, the oldest first.
    #[must_use]
    pub fn undo_stack(&self, uuid: Uuid, warnings: &mut Vec<Warning>) -> Vec<Round> {
        let found = self.domain(uuid).unwrap_or_else(|problem| {
            let problem = format!("ignored: {problem}");
            warnings.push(Warning::new(self.domain_path(uuid), problem));
            None
        });
        found.map(|remembered| remembered.undo).unwrap_or_default()
    }

    /// Drops the changes of a domain that could be undone.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; all of them stay then.
    pub fn clear_undo(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        if matches!(self.domain(uuid), Ok(None)) {
            return Ok(());
        }
        self.change(uuid, |remembered| remembered.undo.clear())
    }

    /// Returns whether the daemon leaves a domain alone because somebody has undone its changes.
    /// Also true if that can't be read: doing nothing is better than doing what somebody has
    /// refused.
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
    /// [`NotRemembered::Io`]; it stays as it was.
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

    /// A domain was undefined. What could be undone is forgotten; that the daemon stays away from it is not, as it may be
    /// defined again.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; it is then as it was.
    pub fn undefined(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        match self.domain(uuid) {
            Ok(Some(remembered)) if remembered.hands_off && remembered.undo.is_empty() => Ok(()),
            Ok(Some(remembered)) if remembered.hands_off => self.clear_undo(uuid),
            _ => self.forget(uuid),
        }
    }

    /// Forgets those domains of which `is_there` says no, but for the [`MAX_GONE`] that were written last.
    ///
    /// # Errors
    /// [`NotRemembered::Io`].
    pub fn forget_gone(&self, is_there: impl Fn(Uuid) -> bool) -> Result<(), NotRemembered> {
        let mut gone: Vec<Uuid> = self.domains();
        gone.retain(|uuid| !is_there(*uuid));
        if gone.len() <= MAX_GONE {
            return Ok(());
        }
        let written = |uuid: &Uuid| {
            let metadata = fs::metadata(self.domain_path(*uuid));
            metadata.and_then(|metadata| metadata.modified()).ok()
        };
        gone.sort_by_cached_key(written);
        let surplus = gone.len() - MAX_GONE;
        gone[..surplus]
            .iter()
            .try_for_each(|uuid| self.forget(*uuid))
    }

    /// Forgets a domain. What the log says of it stays.
    ///
    /// # Errors
    /// [`NotRemembered::Io`] unless there was nothing to forget.
    pub fn forget(&self, uuid: Uuid) -> Result<(), NotRemembered> {
        let path = self.domain_path(uuid);
        match fs::remove_file(&path) {
            Err(error) if !is_absent(&error) => Err(NotRemembered::Io { path, error }),
            _ => Ok(()),
        }
    }

    /// Returns the domains of which anything is remembered outside of the log.
    #[must_use]
    pub fn domains(&self) -> Vec<Uuid> {
        let entries = fs::read_dir(self.base().join("domains"));
        let names = entries.into_iter().flatten().flatten();
        names
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_suffix(".json")?
                    .parse()
                    .ok()
            })
            .collect()
    }

    /// Adds an entry to the log: the whole line or nothing.
    ///
    /// # Errors
    /// [`NotRemembered::Io`] if it can't be written.
    pub fn append(&self, entry: &Entry) -> Result<(), NotRemembered> {
        let path = self.log_path();
        self.append_line(&path, entry)
            .map_err(|error| NotRemembered::Io { path, error })
    }

    fn append_line(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        let base = self.directory(None)?;
        let _turn = self.turn(&base)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.len() + line.len() as u64 > MAX_LOG => {
                fs::rename(path, self.old_log_path())?;
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
        if let Some(problem) = self.untrusted(&metadata) {
            return Err(damaged(&format!("it {problem}")));
        }
        let length = metadata.len();
        if length > 0 {
            // A writer that was killed has left a line without its end.
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                line.insert(0, b'\n');
            }
        }
        // This is one call: write_all would go on after a part.
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

    /// Returns the log, the oldest entry first. Lines that can't be read are ignored.
    #[must_use]
    pub fn entries(&self, warnings: &mut Vec<Warning>) -> Vec<Entry> {
        // A reader who may not take the lock reads all the same, and may miss what is put aside
        // meanwhile.
        let base = self.base();
        let _turn = if base.is_dir() {
            self.turn(&base).ok()
        } else {
            None
        };
        let mut entries = Vec::new();
        for path in [self.old_log_path(), self.log_path()] {
            let text = match self.bytes(&path) {
                // A torn line may end within a character.
                Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
                Ok(None) => continue,
                Err(problem) => {
                    warnings.push(Warning::new(&path, format!("ignored: {problem}")));
                    continue;
                }
            };
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

    /// Returns the domains that existed before the package; `None` if nobody has looked yet, or the
    /// list can't be believed.
    #[must_use]
    pub fn older(&self, warnings: &mut Vec<Warning>) -> Option<BTreeSet<Uuid>> {
        let path = self.older_path();
        let older: Option<Older> = self.json(&path).unwrap_or_else(|problem| {
            warnings.push(Warning::new(&path, format!("ignored: {problem}")));
            None
        });
        older.map(|older| older.domains)
    }

    /// Writes the list of these domains.
    ///
    /// # Errors
    /// [`NotRemembered::Io`]; the earlier list stays.
    pub fn set_older(&self, domains: &BTreeSet<Uuid>) -> Result<(), NotRemembered> {
        let path = self.older_path();
        let older = Older {
            format: FORMAT,
            domains: domains.clone(),
        };
        let write = || {
            let base = self.directory(None)?;
            let _turn = self.turn(&base)?;
            replace(&base, &path, &text(&older)?)
        };
        write().map_err(|error| NotRemembered::Io { path, error })
    }

    fn base(&self) -> PathBuf {
        self.root.join(BASE)
    }

    fn log_path(&self) -> PathBuf {
        self.base().join("log.jsonl")
    }

    fn old_log_path(&self) -> PathBuf {
        self.base().join("log.jsonl.1")
    }

    fn older_path(&self) -> PathBuf {
        self.base().join("older.json")
    }

    fn domain_path(&self, uuid: Uuid) -> PathBuf {
        self.base().join("domains").join(format!("{uuid}.json"))
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<Remembered>, String> {
        let found: Option<Remembered> = self.json(&self.domain_path(uuid))?;
        match found {
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
            let directory = self.directory(Some("domains"))?;
            let _turn = self.turn(&self.base())?;
            let remembered = self.domain(uuid).or_else(|_| {
                // A file that can't be read is put aside, not lost.
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
                return match fs::remove_file(&path) {
                    Err(error) if !is_absent(&error) => Err(error),
                    _ => Ok(()),
                };
            }
            let surplus = remembered.undo.len().saturating_sub(MAX_ROUNDS);
            remembered.undo.drain(..surplus);
            let mut content = text(&remembered)?;
            while content.len() > MAX_DOMAIN && !remembered.undo.is_empty() {
                remembered.undo.remove(0);
                content = text(&remembered)?;
            }
            replace(&directory, &path, &content)
        };
        write().map_err(|error: io::Error| NotRemembered::Io {
            path: path.clone(),
            error,
        })
    }

    /// Reads a file; `None` if it does not exist.
    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, String> {
        let Some(text) = self.bytes(path)? else {
            return Ok(None);
        };
        let parsed = from_json(&text);
        parsed.map(Some).map_err(|error| error.to_string())
    }

    fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let own = Some(geteuid().as_raw());
        run::read_trusted_bytes(&self.root, path, own, MAX_READ)
    }

    fn untrusted(&self, metadata: &fs::Metadata) -> Option<&'static str> {
        run::untrusted(&self.root, metadata, Some(geteuid().as_raw()), 0)
    }

    /// Returns the directory, or the one of this name in it. Makes it if needed.
    fn directory(&self, name: Option<&str>) -> io::Result<PathBuf> {
        let mut path = self.base();
        self.make(&path)?;
        if let Some(name) = name {
            path.push(name);
            self.make(&path)?;
        }
        Ok(path)
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let metadata = fs::symlink_metadata(path)?;
                let problem = self.untrusted(&metadata);
                match problem.or((!metadata.is_dir()).then_some("is no directory")) {
                    Some(problem) => Err(damaged(&format!("{} {problem}", path.display()))),
                    None => Ok(()),
                }
            }
            result => result,
        }
    }

    /// Takes the lock by which writers take turns.
    fn turn(&self, base: &Path) -> io::Result<run::Lock> {
        run::Lock::of_file(&base.join("lock"), Instant::now() + PATIENCE)
    }
}

fn damaged(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{problem}: remove it"))
}

fn text(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces a file as a whole, so that it survives a crash.
fn replace(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let whole = run::Whole {
        owner: None,
        new: directory.join(".new"),
        permissions: Permissions::from_mode(0o600),
        is_kept: true,
    };
    whole.put(path, content)
}

/// Returns the time, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid::from_u128(0xc1a2_0000_0000_4000_8000_0000_0000_0002);

    struct Host {
        directory: tempfile::TempDir,
        state: State,
    }

    fn host() -> Host {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("var/lib")).unwrap();
        let state = State::new(&Root::strict(directory.path()));
        Host { directory, state }
    }

    impl Host {
        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(BASE).join(name)
        }

        /// Returns the warnings of a read, beside its value.
        fn warnings<T>(&self, read: impl FnOnce(&State, &mut Vec<Warning>) -> T) -> (T, String) {
            let mut warnings = Vec::new();
            let value = read(&self.state, &mut warnings);
            let base = self.directory.path().display().to_string();
            let said = warnings.iter().map(|w| w.to_string().replace(&base, ""));
            (value, said.collect::<Vec<_>>().join("\n"))
        }

        fn stack(&self) -> (Vec<Round>, String) {
            self.warnings(|state, warnings| state.undo_stack(UUID, warnings))
        }

        fn log(&self) -> (Vec<Entry>, String) {
            self.warnings(State::entries)
        }
    }

    fn change(value: &str) -> Vec<Inverse> {
        vec![Inverse::Attribute {
            element: vec!["devices".into()],
            name: "x".into(),
            old: Some(value.into()),
            new: None,
        }]
    }

    fn entry(reason: &str) -> Entry {
        Entry::new(7, What::LeftAlone, By::Daemon, "guest", Some(UUID)).because(reason)
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let host = host();
        assert_eq!(host.stack(), (vec![], String::new()));
        assert_eq!(host.log(), (vec![], String::new()));
        assert_eq!(host.warnings(State::older), (None, String::new()));
        let hands_off = host.warnings(|state, warnings| state.hands_off(UUID, warnings));
        assert_eq!(hands_off, (false, String::new()));
        host.state.forget(UUID).unwrap();
        host.state.clear_undo(UUID).unwrap();
        host.state.set_hands_off(UUID, "guest", false).unwrap();
        host.state.push_undo(UUID, "guest", vec![]).unwrap();
        assert!(!host.path("").exists(), "nothing was made for nothing");
    }

    #[test]
    fn domains_are_remembered_and_forgotten() {
        let host = host();
        let state = &host.state;
        state.push_undo(UUID, "guest", change("1")).unwrap();
        state.push_undo(UUID, "guest", change("2")).unwrap();
        state.set_hands_off(UUID, "guest", true).unwrap();
        let changes: Vec<_> = host
            .stack()
            .0
            .into_iter()
            .map(|round| round.changes)
            .collect();
        assert_eq!(changes, [change("1"), change("2")]);
        let mode = |name: &str| fs::metadata(host.path(name)).unwrap().permissions().mode() & 0o777;
        let file = format!("domains/{UUID}.json");
        assert_eq!(
            (mode(""), mode("domains"), mode(&file)),
            (0o700, 0o700, 0o600)
        );
        let (hands_off, _) = host.warnings(|state, warnings| state.hands_off(UUID, warnings));
        assert!(hands_off);
        state.clear_undo(UUID).unwrap();
        assert_eq!(host.stack().0, []);
        assert!(host.path(&file).exists());
        state.set_hands_off(UUID, "guest", false).unwrap();
        assert!(!host.path(&file).exists(), "there is nothing to remember");
        state.push_undo(UUID, "guest", change("3")).unwrap();
        state.forget(UUID).unwrap();
        assert_eq!(host.stack().0, []);
    }

    #[test]
    fn hands_stay_off_what_was_undefined() {
        let host = host();
        let state = &host.state;
        let hands_off = |uuid| state.hands_off(uuid, &mut Vec::new());
        state.push_undo(UUID, "guest", change("1")).unwrap();
        state.undefined(UUID).unwrap();
        assert!(state.domains().is_empty());
        state.push_undo(UUID, "guest", change("1")).unwrap();
        state.set_hands_off(UUID, "guest", true).unwrap();
        state.undefined(UUID).unwrap();
        state.undefined(UUID).unwrap();
        assert!(hands_off(UUID) && host.stack().0.is_empty());
        // Of so many, and no more.
        let other = |number: usize| Uuid::from_u128(number as u128);
        for number in 0..MAX_GONE {
            state.set_hands_off(other(number), "guest", true).unwrap();
        }
        state.forget_gone(|uuid| uuid == UUID).unwrap();
        assert_eq!(state.domains().len(), MAX_GONE + 1);
        state.forget_gone(|_| false).unwrap();
        assert_eq!(state.domains().len(), MAX_GONE);
        assert!(hands_off(other(MAX_GONE - 1)));
    }

    #[test]
    fn the_oldest_changes_go() {
        let host = host();
        for number in 0..MAX_ROUNDS + 3 {
            let change = change(&number.to_string());
            host.state.push_undo(UUID, "guest", change).unwrap();
        }
        let stack = host.stack().0;
        assert_eq!((stack.len(), &stack[0].changes), (MAX_ROUNDS, &change("3")));
        let large = change(&"x".repeat(MAX_DOMAIN / 3));
        for _ in 0..4 {
            host.state.push_undo(UUID, "guest", large.clone()).unwrap();
        }
        let stack = host.stack().0;
        assert_eq!((stack.len(), &stack[0].changes), (2, &large));
    }

    #[test]
    fn what_cant_be_believed_is_named_and_not_lost() {
        let host = host();
        host.state.push_undo(UUID, "guest", change("1")).unwrap();
        let name = format!("domains/{UUID}.json");
        let path = host.path(&name);
        let good = fs::read_to_string(&path).unwrap();
        let other = good.replace("0002", "0003");
        for (text, problem) in [
            ("{", "it is damaged: EOF"),
            ("{\"format\": 2}", "its format is 2, this version reads 1"),
            ("{\"format\": 1}", "it is damaged: missing field"),
            (&other, "it is about c1a20000-0000-4000-8000-000000000003"),
            ("\u{0}", "it is damaged"),
        ] {
            fs::write(&path, text).unwrap();
            let (stack, said) = host.stack();
            let expected = format!("/{BASE}/{name}: ignored: {problem}");
            assert!(
                stack.is_empty() && said.starts_with(&expected),
                "{text}: {said}"
            );
            let (hands_off, said) = host.warnings(|state, all| state.hands_off(UUID, all));
            assert!(hands_off && said.contains("left alone"), "{text}: {said}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o622)).unwrap();
        assert!(host.stack().1.contains("can be written by others"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(host.stack().1.contains("it is a link"));
        host.state.push_undo(UUID, "guest", change("2")).unwrap();
        assert_eq!(host.stack().0[0].changes, change("2"));
        assert!(fs::symlink_metadata(path.with_extension("json.damaged")).is_ok());
    }

    #[test]
    fn the_log_has_whole_lines() {
        let host = host();
        host.state.append(&entry("one")).unwrap();
        let path = host.path("log.jsonl");
        let whole = fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&whole),
            format!(
                "{{\"format\":1,\"time\":7,\"domain\":\"guest\",\"uuid\":\"{UUID}\",\"what\":\"left-alone\",\"by\":\"daemon\",\"reason\":\"one\"}}\n"
            )
        );
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The writer was killed within a character.
        fs::write(
            &path,
            [&whole[..], b"{\"format\":1,\"domain\":\"\xc3"].concat(),
        )
        .unwrap();
        let (entries, said) = host.log();
        assert_eq!(entries, [entry("one")]);
        assert_eq!(
            said,
            format!("/{BASE}/log.jsonl: line 2 ignored: it is torn")
        );
        host.state.append(&entry("two")).unwrap();
        let (entries, said) = host.log();
        assert_eq!(entries, [entry("one"), entry("two")]);
        assert!(said.contains("line 2 ignored: it is damaged"), "{said}");
    }

    #[test]
    fn the_log_is_put_aside_once() {
        let host = host();
        let long = "x".repeat(100_000);
        for number in 0..25 {
            // Longer than any that is made now.
            let mut entry = entry("");
            entry.reason = Some(format!("{number} {long}"));
            host.state.append(&entry).unwrap();
        }
        let (entries, said) = host.log();
        let reasons: Vec<_> = entries
            .iter()
            .filter_map(|e| e.reason.as_deref()?.split_once(' '))
            .collect();
        assert_eq!(
            (reasons[0].0, reasons[reasons.len() - 1].0, said.as_str()),
            ("10", "24", "")
        );
        assert_eq!(reasons.len(), 15);
        assert!(fs::metadata(host.path("log.jsonl")).unwrap().len() <= MAX_LOG);
        assert!(!host.path("log.jsonl.2").exists());
    }

    /// Repeats a write until it succeeds, however long a slow disk makes a writer wait for the
    /// others.
    fn in_turn<T>(mut write: impl FnMut() -> Result<T, NotRemembered>) -> T {
        loop {
            match write() {
                Err(NotRemembered::Io { error, .. }) if error.kind() == io::ErrorKind::TimedOut => {
                }
                done => return done.unwrap(),
            }
        }
    }

    #[test]
    fn many_writers_take_turns() {
        let host = host();
        let state = &host.state;
        std::thread::scope(|scope| {
            for writer in 0..4 {
                scope.spawn(move || {
                    for number in 0..8 {
                        in_turn(|| state.append(&entry(&format!("{writer} {number}"))));
                        in_turn(|| state.push_undo(UUID, "guest", change("1")));
                    }
                });
            }
        });
        assert_eq!(host.log().0.len(), 32);
        assert_eq!(host.stack().0.len(), 32);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_changes() {
        let host = host();
        let base = host.path("");
        fs::write(base.as_os_str().to_str().unwrap().trim_end_matches('/'), "").unwrap();
        let error = host.state.append(&entry("one")).unwrap_err().to_string();
        assert!(
            error.contains("/var/lib/gfxplane is no directory: remove it"),
            "{error}"
        );
        let error = host
            .state
            .push_undo(UUID, "guest", change("1"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("is no directory"), "{error}");
        let elsewhere = State::new(&Root::strict(host.directory.path().join("none")));
        assert!(elsewhere.append(&entry("one")).is_err());
    }

    #[test]
    fn older_domains() {
        let host = host();
        let none = BTreeSet::new();
        host.state.set_older(&none).unwrap();
        assert_eq!(host.warnings(State::older), (Some(none), String::new()));
        let some = BTreeSet::from([UUID]);
        host.state.set_older(&some).unwrap();
        assert_eq!(host.warnings(State::older).0, Some(some));
        fs::write(host.path("older.json"), "[]").unwrap();
        let (older, said) = host.warnings(State::older);
        assert!(
            older.is_none() && said.contains("older.json: ignored: it is damaged"),
            "{said}"
        );
    }

    #[test]
    fn a_change_is_remembered_and_told() {
        let host = host();
        let action = crate::plan::Action::Display {
            device: crate::device::id::DeviceId::Mdev(UUID),
            on: true,
        };
        let changes = [Change {
            action,
            reason: "it offers a region".into(),
            consent: None,
        }];
        let made = Made {
            uuid: UUID,
            name: "guest",
            before: "<domain><x y='1'/></domain>",
            after: "<domain><x y='2'/></domain>",
            changes: &changes,
        };
        host.state.made(By::Daemon, &made).unwrap();
        let stack = host.stack().0;
        let undone = crate::plan::undo::undo(made.after, &stack[0].changes).unwrap();
        assert_eq!(undone.text, made.before);
        let log = host.log().0;
        assert_eq!((log.len(), log[0].what), (1, What::Fixed));
        let said = &log[0].changes[0];
        assert_eq!(said.change, format!("display='on' for {UUID}"));
        assert_eq!(said.device, Some(UUID.to_string()));
    }
}
