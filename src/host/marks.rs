//! `/run/gfxplane/instances`: the marks of temporary devices that were created for probing.
//!
//! A mark is an empty file, named by the device's UUID, in a directory that only root can use
//! (0700). The mark is made before the device and removed after the device. The process that makes
//! the device holds a lock on the mark. If nobody holds the lock of a mark, the process that made
//! the device was killed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::device::id::DeviceId;
use crate::host::run::{self, Lock};
use crate::host::{Root, remove};

const INSTANCES: &str = "instances";

/// Returns the directory of the marks.
pub fn directory(root: &Root) -> PathBuf {
    root.join(run::BASE).join(INSTANCES)
}

fn path(root: &Root, id: DeviceId) -> PathBuf {
    directory(root).join(id.to_string())
}

/// Makes the mark of a device that is about to be created, and locks it. Waits for the lock without
/// a limit.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if the directory exists but can't
/// be trusted.
pub fn mark(root: &Root, id: DeviceId) -> io::Result<Lock> {
    run::directory(root, INSTANCES, 0o700)?;
    // A sweep at this very moment finds no device and removes the mark, which is then made again.
    Lock::of_file(&path(root, id), None)
}

/// Returns the marked devices, whether or not their marks are locked. Empty if the directory can't
/// be read or trusted, as for users other than root.
pub(crate) fn marked(root: &Root) -> Vec<DeviceId> {
    let directory = directory(root);
    let trusted = run::trusted(root, &directory, None);
    let names = trusted.and_then(|_| fs::read_dir(directory));
    let names = names.into_iter().flatten().flatten();
    let ids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| matches!(id, DeviceId::Mdev(_))).collect()
}

/// Locks the mark of a device as soon as nobody else holds it, at most until `limit`. Returns
/// `None` if the mark is gone.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::TimedOut`] if somebody holds the mark until
/// `limit`.
pub(crate) fn take_over(root: &Root, id: DeviceId, limit: Instant) -> io::Result<Option<Lock>> {
    Lock::wait(&path(root, id), false, Some(limit))
}

/// Removes the mark of a device that is gone.
///
/// # Errors
/// Any error of the file system. A mark that does not exist is no error.
pub(crate) fn unmark(root: &Root, id: DeviceId) -> io::Result<()> {
    remove(&path(root, id))
}
