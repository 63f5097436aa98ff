//! `/run/gfxplane`: the records of devices and of types, and locks.
//!
//! The directory is root's and 0755, records are 0644, and `lock` is 0700, so that nobody else can
//! hold up a start by taking a lock. Files are replaced as a whole (temporary file, rename), so
//! readers need no lock. Readers accept only regular files of root that nobody else may write, at
//! most [`MAX_SIZE`] bytes, and follow no link.

mod lock;
mod trusted;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{RenameFlags, renameat2};

use crate::device::evidence::Method;
use crate::device::facts::Facts;
use crate::device::id::DeviceId;
use crate::device::record::{MAX_SIZE, NotARecord, Record};
use crate::host::{Root, Warning, is_absent, or_ignored, remove, requests, tree};

pub use lock::{Lock, trying_path, wait_until_free, wait_until_tried};
use lock::{lock_path, one_writer};
pub(super) use trusted::{
    directory, make_or_trust, open_trusted, ourselves, put, read_own_json, read_trusted,
    read_trusted_bytes, replace, trusted, untrusted,
};

pub(crate) const BASE: &str = "run/gfxplane";

/// The time between two attempts to take a lock.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// The effect of writing a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The new record differs from the earlier one in its circumstances, its facts or the failed
    /// step, or there was none.
    Changed,
    /// The new record has the circumstances, the facts and the failed step of the earlier one.
    Same,
    /// The new record was dropped, because it does not supersede the earlier one
    /// ([`Record::supersedes`]).
    Kept,
}

/// Returns the directory of the records, for callers that watch it. Makes it if it does not exist.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if the directory exists but can't
/// be trusted.
pub(crate) fn records_directory(root: &Root) -> io::Result<PathBuf> {
    directory(root, "records", 0o755)
}

/// Returns the directory of the records whose evidence is QEMU, like [`records_directory`].
///
/// # Errors
/// The errors of [`records_directory`].
pub(crate) fn qemu_directory(root: &Root) -> io::Result<PathBuf> {
    directory(root, "qemu", 0o755)
}

/// Returns the record of a device; `None` if there is none or, with a warning, if it can't be
/// trusted. The caller must check whether it is still valid ([`Record::circumstances`]).
pub fn read_record(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Record> {
    read_of(root, id, record_path(root, id), warnings).filter(|record| record.qemu.is_none())
}

/// Returns a device's record whose evidence is QEMU, like [`read_record`].
pub(crate) fn read_qemu(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Record> {
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

/// Returns the record of a type, from a device that was probed in this boot; `None` as for
/// [`read_record`]. The caller must check here, too, whether the record is still valid.
pub fn read_type(root: &Root, type_id: &str, warnings: &mut Vec<Warning>) -> Option<Record> {
    let path = type_path(root, type_id)?;
    let record = read(root, &path, warnings)?;
    if record.circumstances.type_id.as_deref() == Some(type_id) {
        return Some(record);
    }
    warnings.push(Warning::new(path, "ignored: it is about another type"));
    None
}

/// Writes the record of a device. A probe's record is also published as the device's tree, and its
/// facts are kept and published for the device's type. `parent` is the sysfs name of an mdev's
/// parent. A record whose evidence is QEMU is neither published nor kept for the type: the trees
/// show only what was measured.
///
/// The trees are published even if the record is the same, so that they are right again after an
/// earlier failure.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if `/run/gfxplane` exists but can't
/// be trusted; [`io::ErrorKind::TimedOut`] if another writer does not finish.
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

/// Publishes the facts that a probe found, as the device's tree below `/run/gfxplane`. If the probe
/// got an answer, also keeps the record for the device's type, and publishes the type's tree if the
/// `parent` is known.
fn publish_record(root: &Root, record: &Record, parent: Option<&str>) -> io::Result<()> {
    let device = record.device.to_string();
    publish(root, &["devices"], &device, &record.facts, Method::Probe)?;
    // A record without an answer about the device has none about its type.
    if let Some(type_id) = record.circumstances.type_id.as_deref()
        && record.facts.display.is_answer()
        && let Some(type_path) = type_path(root, type_id)
    {
        if let Some(parent) = parent {
            let below = ["mdev_supported_types", parent];
            publish(root, &below, type_id, &record.facts, Method::Sibling)?;
        }
        let directory = directory(root, "types", 0o755)?;
        replace(&directory, &type_path, record.to_text().as_bytes())?;
    }
    Ok(())
}

/// Publishes the tree of a device that is not probed, from facts that are known by another
/// `method`.
///
/// # Errors
/// The errors of [`write_record`].
pub fn publish_unasked(root: &Root, id: DeviceId, facts: &Facts, method: Method) -> io::Result<()> {
    let _one_writer = one_writer(root)?;
    publish(root, &["devices"], &id.to_string(), facts, method)
}

/// Removes everything that is kept about a device that is gone: its records, the answer to mdevctl,
/// its tree, its lock, and the mark that a domain with this mdev is being started. The record of
/// its type stays. The mark of a PCI device stays, because the device may only have lost its
/// driver: with `managed='yes'`, libvirt unbinds the driver between calling the hook and starting
/// QEMU.
///
/// # Errors
/// Any error of the file system. It is no error if nothing is kept.
pub fn forget(root: &Root, id: DeviceId) -> io::Result<()> {
    if !root.join(BASE).join("lock").is_dir() {
        return Ok(());
    }
    let _one_writer = one_writer(root)?;
    remove(&record_path(root, id))?;
    remove(&qemu_path(root, id))?;
    remove(&root.join(format!("{BASE}/answers/{id}")))?;
    if let DeviceId::Mdev(_) = id {
        requests::forget_start(root, id)?;
    }
    remove_tree(&root.join(format!("{BASE}/devices/{id}")))?;
    remove(&lock_path(root, id))
}

/// Returns the path of a device's record, whether or not there is one.
pub(crate) fn record_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(format!("{BASE}/records/{id}.json"))
}

fn qemu_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(format!("{BASE}/qemu/{id}.json"))
}

/// Returns the path of a type's record; `None` if the type's name would lead out of the directory.
fn type_path(root: &Root, type_id: &str) -> Option<PathBuf> {
    is_plain(type_id).then(|| root.join(format!("{BASE}/types/{type_id}.json")))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && name.len() < 200
}

fn read(root: &Root, path: &Path, warnings: &mut Vec<Warning>) -> Option<Record> {
    let parsed = |text: String| Record::parse(&text).map_err(|error| error.to_string());
    let record = read_trusted(root, path, MAX_SIZE).and_then(|text| text.map(parsed).transpose());
    or_ignored(record, path, warnings)
}

/// Replaces one directory of the tree as a whole, so that a reader sees the old one or the new one.
/// Does nothing if a name would lead out of the tree.
fn publish(
    root: &Root,
    below: &[&str],
    name: &str,
    facts: &Facts,
    method: Method,
) -> io::Result<()> {
    if !below.iter().all(|part| is_plain(part)) || !is_plain(name) {
        return Ok(());
    }
    let target = root.join(BASE).join(below.join("/")).join(name);
    // Only one process writes at a time, but an earlier writer may have been killed while it made
    // or removed this directory.
    let new = root.join(BASE).join(".new");
    remove_tree(&new)?;
    let mut place = directory(root, below[0], 0o755)?;
    for part in &below[1..] {
        place.push(part);
        make_or_trust(root, &place, 0o755, None)?;
    }
    let swapped = swap_in(&new, &target, facts, method);
    let removed = remove_tree(&new);
    swapped.and(removed)
}

/// Writes a directory of the tree at `new` and exchanges it with `target`, so that the old one is
/// then at `new`. If there is no `target`, moves the directory there.
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
