//! `/run/gfxplane`: records of probes, records of types, locks.
//!
//! The directory is root's and 0755, records are 0644, and `lock` is 0700, so that nobody else can
//! hold up a start by taking a lock. Files are replaced as a whole (temporary file, rename), so
//! readers need no lock. Readers accept only regular files of root that nobody else may write, at
//! most [`MAX_SIZE`] bytes, and follow no link.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{RenameFlags, renameat2};
use nix::libc;

use crate::device::evidence::Method;
use crate::device::facts::Facts;
use crate::device::id::DeviceId;
use crate::device::record::{MAX_SIZE, NotARecord, Record};
use crate::host::{Last, Root, Warning, is_absent, read_whole, requests, saw, tree};

pub(crate) const BASE: &str = "run/gfxplane";

/// The file of our udev rules; a file of this name in /etc hides it.
pub(crate) const UDEV_RULE: &str = "61-gfxplane.rules";

/// The time between two attempts to take a lock.
const POLL: Duration = Duration::from_millis(5);

/// The effect of writing a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The record says something new.
    Changed,
    /// The record says the same as the one before.
    Same,
    /// The record before stays, because it knows more ([`Record::supersedes`]).
    Kept,
}

/// The lock of a device, held from before it is opened until after it is closed.
///
/// It is an flock(2) that is never undone. It ends when the last descriptor is closed, so a process
/// that has inherited one holds the lock, too, for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Returns the directory of the records, for callers who want to watch it. Makes it if it does not
/// exist.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if the directory exists but can't
/// be trusted.
pub fn records_directory(root: &Root) -> io::Result<PathBuf> {
    directory(root, "records", 0o755)
}

/// Where the records of QEMU's word are, as [`records_directory`].
///
/// # Errors
/// Those of [`records_directory`].
pub fn qemu_directory(root: &Root) -> io::Result<PathBuf> {
    directory(root, "qemu", 0o755)
}

/// Returns the record of a device, if there is one that can be believed. The caller must check
/// whether it is still valid ([`Record::circumstances`]).
pub fn read_record(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Record> {
    read_of(root, id, record_path(root, id), warnings).filter(|record| record.qemu.is_none())
}

/// What QEMU said of a device, as [`read_record`].
pub fn read_qemu(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Record> {
    read_of(root, id, qemu_path(root, id), warnings).filter(|record| record.qemu.is_some())
}

fn read_of(
    root: &Root,
    id: DeviceId,
    path: PathBuf,
    warnings: &mut Vec<Warning>,
) -> Option<Record> {
    let record = read(root, &path, warnings)?;
    if record.device == id {
        return Some(record);
    }
    let error = NotARecord::OtherDevice(record.device);
    warnings.push(Warning::new(path, format!("ignored: {error}")));
    None
}

/// Returns the record of a type, made from a device of that type since this boot.
pub fn read_type(root: &Root, type_id: &str, warnings: &mut Vec<Warning>) -> Option<Record> {
    let path = type_path(root, type_id)?;
    let record = read(root, &path, warnings)?;
    if record.circumstances.type_id.as_deref() != Some(type_id) {
        warnings.push(Warning::new(path, "ignored: it is about another type"));
        return None;
    }
    Some(record)
}

/// The time that a writer waits for another one, which takes milliseconds unless somebody has
/// stopped it in the middle.
const WRITER_PATIENCE: Duration = Duration::from_secs(5);

/// Keeps a record, and what it says of the type, and publishes the tree. `parent`: the sysfs name
/// of the device on which an mdev was made. What QEMU said says nothing of the type, and the tree
/// shows what was measured.
///
/// The record comes last: if anything before fails, the next probe still finds something new.
///
/// # Errors
/// Any error of the file system; also if `/run/gfxplane` is there but is not to be trusted
/// ([`io::ErrorKind::InvalidData`]).
pub fn write_record(root: &Root, record: &Record, parent: Option<&str>) -> io::Result<Written> {
    let (directory, path) = match &record.qemu {
        Some(_) => (qemu_directory(root)?, qemu_path(root, record.device)),
        None => (records_directory(root)?, record_path(root, record.device)),
    };
    let _one_writer = one_writer(root)?;
    let old =
        read(root, &path, &mut Vec::new()).filter(|old| old.circumstances == record.circumstances);
    if old.as_ref().is_some_and(|old| !record.supersedes(old)) {
        return Ok(Written::Kept);
    }
    if record.qemu.is_none() {
        publish_record(root, record, parent)?;
    }
    if old.as_ref() != Some(record) {
        replace(&directory, &path, record.to_text().as_bytes())?;
    }
    let same = old.is_some_and(|old| old.facts == record.facts && old.step == record.step);
    Ok(if same {
        Written::Same
    } else {
        Written::Changed
    })
}

/// Publishes what a probe found of the device, and keeps and publishes what that says of its type.
fn publish_record(root: &Root, record: &Record, parent: Option<&str>) -> io::Result<()> {
    publish(
        root,
        Path::new("devices"),
        &record.device.to_string(),
        &record.facts,
        Method::Probe,
    )?;
    // A record that says nothing of the device says nothing of its type.
    if let Some(type_id) = record.circumstances.type_id.as_deref()
        && record.facts.display.is_answer()
        && let Some(type_path) = type_path(root, type_id)
    {
        if let Some(parent) = parent {
            publish(
                root,
                &Path::new("mdev_supported_types").join(parent),
                type_id,
                &record.facts,
                Method::Sibling,
            )?;
        }
        let known = read(root, &type_path, &mut Vec::new());
        if !known.is_some_and(|known| known.says_the_same(record)) {
            replace(
                &directory(root, "types", 0o755)?,
                &type_path,
                record.to_text().as_bytes(),
            )?;
        }
    }
    Ok(())
}

/// Publishes the tree of a device that is not asked, from what is known of it otherwise.
///
/// # Errors
/// The errors of [`write_record`].
pub fn publish_unasked(root: &Root, id: DeviceId, facts: &Facts, method: Method) -> io::Result<()> {
    let _one_writer = one_writer(root)?;
    publish(root, Path::new("devices"), &id.to_string(), facts, method)
}

/// Removes what is kept of a device that is gone: its record, QEMU's statement, its tree, its lock.
/// The record of its type stays. So does a PCI device's mark of a start under way, because the
/// device may only have lost its driver: libvirt takes that away between its hook and QEMU
/// (`managed='yes'`).
///
/// # Errors
/// Any error of the file system. It is no error if nothing is kept.
pub fn forget(root: &Root, id: DeviceId) -> io::Result<()> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    };
    if !root.join(BASE).join("lock").is_dir() {
        return Ok(());
    }
    let _one_writer = one_writer(root)?;
    absent_is_fine(fs::remove_file(record_path(root, id)))?;
    absent_is_fine(fs::remove_file(qemu_path(root, id)))?;
    absent_is_fine(fs::remove_file(
        root.join(BASE).join("answers").join(id.to_string()),
    ))?;
    if let DeviceId::Mdev(_) = id {
        requests::forget_start(root, id)?;
    }
    remove_tree(&root.join(BASE).join("devices").join(id.to_string()))?;
    absent_is_fine(fs::remove_file(lock_path(root, id)))
}

impl Lock {
    /// Takes the lock of a device, and waits as long as it takes. The caller must have a deadline
    /// of its own.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn of_device(root: &Root, id: DeviceId) -> io::Result<Self> {
        directory(root, "lock", 0o700)?;
        let lock = Self::wait(&lock_path(root, id), true, None)?;
        Ok(lock.expect("it is made if it isn't there"))
    }

    /// Takes the daemon's lock, which only one process on a host can have. `Ok(Err(…))`: another
    /// process has it; the text is that process's id, if it has written it.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn of_daemon(root: &Root) -> io::Result<Result<Self, String>> {
        let path = directory(root, "lock", 0o700)?.join("daemon");
        match Self::of_file(&path, Instant::now()) {
            Ok(lock) => {
                // For whoever comes next; on a full disk it is not told.
                let pid = format!("{}\n", std::process::id());
                let _ = lock.file.set_len(0);
                let _ = (&lock.file).write_all(pid.as_bytes());
                Ok(Ok(lock))
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Ok(Err(fs::read_to_string(&path)?.trim().into()))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the lock of a file, which it makes if needed, and waits for it at most until `limit`.
    ///
    /// # Errors
    /// Any error of the file system; [`io::ErrorKind::TimedOut`] if somebody holds it until
    /// `limit`.
    pub(crate) fn of_file(path: &Path, limit: Instant) -> io::Result<Self> {
        let lock = Self::wait(path, true, Some(limit))?;
        Ok(lock.expect("it is made if it isn't there"))
    }

    /// Waits for the lock of a file. Returns `None` if there is no such file and it is not to be
    /// made. In that case it opens the file only for reading: flock(2) needs no more, and libvirt's
    /// confinement by SELinux allows the hook no more.
    pub(super) fn wait(
        path: &Path,
        make: bool,
        limit: Option<Instant>,
    ) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(make)
            .create(make)
            .mode(0o600)
            // O_NONBLOCK: a FIFO in this place must not hold us up.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        loop {
            let file = match options.open(path) {
                Err(error) if is_absent(&error) && !make => return Ok(None),
                result => result?,
            };
            if !file.metadata()?.is_file() {
                let problem = format!("{} is no regular file: remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            match file.try_lock() {
                // The device may have gone and come back, and its lock's file with it.
                Ok(()) if is_still(&file, path) => return Ok(Some(Lock { file })),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(POLL);
        }
    }
}

fn is_still(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata(), fs::symlink_metadata(path));
    matches!((open, named), (Ok(open), Ok(named)) if identity(open.clone()) == identity(named.clone()))
}

pub(super) fn one_writer(root: &Root) -> io::Result<Option<Lock>> {
    let path = directory(root, "lock", 0o700)?.join("records");
    Lock::wait(&path, true, Some(Instant::now() + WRITER_PATIENCE))
}

/// Waits until no process of ours holds the device, at most until `limit`. Returns `false` if one
/// still does.
///
/// # Errors
/// Any error of the file system. A lock that does not exist is free.
pub fn wait_until_free(root: &Root, id: DeviceId, limit: Instant) -> io::Result<bool> {
    is_free_until(&lock_path(root, id), limit)
}

fn is_free_until(lock: &Path, limit: Instant) -> io::Result<bool> {
    match Lock::wait(lock, false, Some(limit)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until no process of ours has a QEMU try the device, at most until `limit`. Returns `false`
/// if one still does.
///
/// # Errors
/// The errors of [`wait_until_free`].
pub fn wait_until_tried(root: &Root, id: DeviceId, limit: Instant) -> io::Result<bool> {
    is_free_until(&trying_path(root, id), limit)
}

/// Returns the path of the lock for a trial of the device. It is not the device's own lock, because
/// the start of the trial's QEMU may wait for that one. Its holder removes the file at the end.
#[must_use]
pub fn trying_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(BASE).join("lock").join(format!("{id}.verify"))
}

/// Waits until udev has processed the `add` event of an mdev, at most until `limit`. Only then is
/// it certain whether a probe of ours has begun. Returns at once if no udev runs, or if our rule is
/// masked. Returns `false` if it was not in time.
///
/// udev keeps what its rules found in `/run/udev/data/+SUBSYSTEM:NAME` (systemd
/// src/libsystemd/sd-device/device-private.c). Our rule sets at least one property for every mdev,
/// so the file exists once the rules have run. A file that udev wrote before `since`
/// (CLOCK_MONOTONIC) is about an earlier device of that name.
#[must_use]
pub fn wait_for_udev(root: &Root, id: DeviceId, since: Duration, limit: Instant) -> bool {
    let runs = root.join("run/udev/control").exists();
    if !runs || root.join("etc/udev/rules.d").join(UDEV_RULE).exists() {
        return true;
    }
    let settled = || initialized_at(root, id) >= Some(since);
    while !settled() {
        if Instant::now() >= limit {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Returns when udev first saw a device (CLOCK_MONOTONIC), if it has.
pub(super) fn initialized_at(root: &Root, id: DeviceId) -> Option<Duration> {
    let data = root.join("run/udev/data");
    let text = read_whole(&data.join(format!("+{}:{id}", id.bus())), MAX_SIZE);
    initialized(&text.ok()?)
}

/// Returns the time in the line `I:MICROSECONDS` of a udev data file: when udev first saw the
/// device.
fn initialized(data: &str) -> Option<Duration> {
    let microseconds = data.lines().find_map(|line| line.strip_prefix("I:"))?;
    Some(Duration::from_micros(microseconds.parse().ok()?))
}

/// Returns the path of a device's record, whether or not there is one.
#[must_use]
pub fn record_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(BASE).join("records").join(format!("{id}.json"))
}

fn qemu_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(BASE).join("qemu").join(format!("{id}.json"))
}

fn lock_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(BASE).join("lock").join(id.to_string())
}

/// Returns the path of a type's record; `None` for a type whose name would lead elsewhere.
fn type_path(root: &Root, type_id: &str) -> Option<PathBuf> {
    is_plain(type_id).then(|| {
        root.join(BASE)
            .join("types")
            .join(format!("{type_id}.json"))
    })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && name.len() < 200
}

/// Makes a directory below `/run/gfxplane`, or checks that the existing one can be trusted.
pub(super) fn directory(root: &Root, name: &str, mode: u32) -> io::Result<PathBuf> {
    let base = root.join(BASE);
    make_or_trust(root, &base, 0o755)?;
    let path = base.join(name);
    make_or_trust(root, &path, mode)?;
    Ok(path)
}

/// Makes one directory, or checks that the existing one can be trusted and is open to nobody else:
/// who may open a lock's file can hold the lock.
fn make_or_trust(root: &Root, path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).recursive(false).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path)?;
            // A link has all bits of a mode, so its kind is checked first.
            let problem = (!metadata.is_dir()).then_some("is no directory");
            if let Some(problem) = problem.or(untrusted(root, &metadata, None, 0)) {
                let problem = format!("{} {problem}: remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            if metadata.mode() & 0o777 & !mode != 0 {
                fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Returns why a file or directory can't be believed. `also` is a user who is trusted like root.
/// `spared` are mode bits with which others may write there.
pub(super) fn untrusted(
    root: &Root,
    metadata: &fs::Metadata,
    also: Option<u32>,
    spared: u32,
) -> Option<&'static str> {
    if root.is_recorded() {
        None
    } else if metadata.uid() != 0 && Some(metadata.uid()) != also {
        Some("is not root's")
    } else if metadata.mode() & 0o022 != 0 && metadata.mode() & spared == 0 {
        Some("can be written by others")
    } else {
        None
    }
}

fn read(root: &Root, path: &Path, warnings: &mut Vec<Warning>) -> Option<Record> {
    match try_read(root, path) {
        Ok(record) => record,
        Err(problem) => {
            warnings.push(Warning::new(path, format!("ignored: {problem}")));
            None
        }
    }
}

fn try_read(root: &Root, path: &Path) -> Result<Option<Record>, String> {
    let Some(text) = read_trusted(root, path, None)? else {
        return Ok(None);
    };
    Record::parse(&text)
        .map(Some)
        .map_err(|error| error.to_string())
}

/// Returns the text of a file that only root, or the user `also`, can have written; `None` if there
/// is no such file.
pub(super) fn read_trusted(
    root: &Root,
    path: &Path,
    also: Option<u32>,
) -> Result<Option<String>, String> {
    let bytes = read_trusted_bytes(root, path, also, MAX_SIZE)?;
    bytes
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| "it is not UTF-8".into())
}

/// Returns the bytes of such a file, if it has at most `limit` of them.
pub(crate) fn read_trusted_bytes(
    root: &Root,
    path: &Path,
    also: Option<u32>,
    limit: usize,
) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = open_trusted(root, path, also)? else {
        return Ok(None);
    };
    let mut bytes = Vec::with_capacity(4096);
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() > limit {
        return Err(format!("it is larger than {} KiB", limit / 1024));
    }
    Ok(Some(bytes))
}

/// Opens such a file for reading.
pub(crate) fn open_trusted(
    root: &Root,
    path: &Path,
    also: Option<u32>,
) -> Result<Option<File>, String> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a FIFO in this place must not hold us up.
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err("it is a link".into());
        }
        result => result.map_err(|error| error.to_string())?,
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".into());
    }
    if let Some(problem) = untrusted(root, &metadata, also, 0) {
        return Err(format!("it {problem}"));
    }
    saw(path, Last::Link);
    Ok(Some(file))
}

/// Replaces a file as a whole, readable for everybody: a reader sees the old one or the new one.
pub(super) fn replace(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let whole = Whole {
        new: directory.join(".new"),
        permissions: Permissions::from_mode(0o644),
        owner: None,
        is_kept: false,
    };
    whole.put(path, content)
}

/// The replacement of a file as a whole.
///
/// Until the new file is complete, it has another name in the same directory, always the same one,
/// and is locked. So a writer that is killed leaves nothing but that file, and the next writer
/// reuses it.
#[derive(Debug)]
pub(super) struct Whole {
    /// The path of the new file until it is complete.
    pub(super) new: PathBuf,
    /// The permissions of the file.
    pub(super) permissions: Permissions,
    /// User and group, where it is not the writer's.
    pub(super) owner: Option<(u32, u32)>,
    /// True if it must survive a crash of the machine.
    pub(super) is_kept: bool,
}

impl Whole {
    /// Replaces the file, if there is one, by `content`.
    ///
    /// # Errors
    /// Any error of the file system; [`io::ErrorKind::TimedOut`]. The file is then as it was, or
    /// complete but perhaps not yet on the disk.
    pub(super) fn put(self, path: &Path, content: &[u8]) -> io::Result<()> {
        let locked = Lock::of_file(&self.new, Instant::now() + WRITER_PATIENCE)?;
        let mut file = &locked.file;
        let put = || {
            // An earlier writer may have been killed here.
            file.set_len(0)?;
            file.write_all(content)?;
            if let Some((user, group)) = self.owner {
                fchown(file, Some(user), Some(group))?;
            }
            // After the owner: a change of owner takes mode bits away.
            file.set_permissions(self.permissions)?;
            if self.is_kept {
                file.sync_all()?;
            }
            fs::rename(&self.new, path)
        };
        if let Err(error) = put() {
            let _ = fs::remove_file(&self.new);
            return Err(error);
        }
        match path.parent() {
            Some(directory) if self.is_kept => File::open(directory)?.sync_data(),
            _ => Ok(()),
        }
    }
}

/// Replaces one directory of the tree as a whole: a reader sees the old one or the new one. A
/// directory that says the same already stays.
fn publish(root: &Root, below: &Path, name: &str, facts: &Facts, method: Method) -> io::Result<()> {
    if !below.iter().all(|part| part.to_str().is_some_and(is_plain)) || !is_plain(name) {
        return Ok(());
    }
    // There is one writer, but an earlier one may have been killed when this was half made or half
    // removed.
    let new = root.join(BASE).join(".new");
    remove_tree(&new)?;
    if tree::is_of(&root.join(BASE).join(below).join(name), facts, method) {
        return Ok(());
    }
    let mut place = directory(
        root,
        below
            .iter()
            .next()
            .and_then(|p| p.to_str())
            .unwrap_or_default(),
        0o755,
    )?;
    for part in below.iter().skip(1) {
        place.push(part);
        make_or_trust(root, &place, 0o755)?;
    }
    let swapped = swap_in(&new, &place.join(name), facts, method);
    let removed = remove_tree(&new);
    swapped.and(removed)
}

/// Makes a directory of the tree, and swaps it with the existing one, which then has the new one's
/// name.
fn swap_in(new: &Path, target: &Path, facts: &Facts, method: Method) -> io::Result<()> {
    fs::create_dir(new)?;
    fs::set_permissions(new, Permissions::from_mode(0o755))?;
    tree::write(new, facts, method)?;
    let here = nix::fcntl::AT_FDCWD;
    match renameat2(here, new, here, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::ENOENT) => fs::rename(new, target),
        Err(error) => Err(error.into()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
