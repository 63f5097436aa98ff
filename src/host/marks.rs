//! `/run/gfxplane/instances`: the marks of devices that were made for the sake of a question.
//!
//! A mark is an empty file named by the device's UUID, in a directory that is root's alone (0700).
//! It is there before the device is, and goes after it. Who made the device holds a lock on its
//! mark; a mark that nobody holds is of somebody who was killed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::host::run::{self, Lock};
use crate::host::{Root, is_absent};
use crate::names::DeviceId;

const INSTANCES: &str = "instances";

/// Where the marks are.
#[must_use]
pub fn directory(root: &Root) -> PathBuf {
    root.join(run::BASE).join(INSTANCES)
}

fn path(root: &Root, id: DeviceId) -> PathBuf {
    directory(root).join(id.to_string())
}

/// Leaves the mark of a device that is about to be made, and holds it.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if the directory is there but is
/// not to be trusted.
pub fn mark(root: &Root, id: DeviceId) -> io::Result<Lock> {
    run::directory(root, INSTANCES, 0o700)?;
    // Whoever looks at it right now finds no device, takes the mark away, and it is made again.
    let lock = Lock::wait(&path(root, id), true, None)?;
    Ok(lock.expect("it is made if it isn't there"))
}

/// The devices that are marked, whoever holds their marks. None where nothing can be read: the
/// directory is root's.
#[must_use]
pub fn marked(root: &Root) -> Vec<DeviceId> {
    let directory = directory(root);
    let is_trusted = fs::symlink_metadata(&directory).is_ok_and(|metadata| {
        metadata.is_dir() && run::untrusted(root, &metadata, None, 0).is_none()
    });
    if !is_trusted {
        return Vec::new();
    }
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let ids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| matches!(id, DeviceId::Mdev(_))).collect()
}

/// Takes the mark of a device over as soon as nobody holds it, at most until `limit`; `None`: there
/// is no mark any more.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::TimedOut`].
pub fn take_over(root: &Root, id: DeviceId, limit: Instant) -> io::Result<Option<Lock>> {
    Lock::wait(&path(root, id), false, Some(limit))
}

/// Takes the mark away; the device is gone.
///
/// # Errors
/// Any error of the file system except that there is none.
pub fn unmark(root: &Root, id: DeviceId) -> io::Result<()> {
    match fs::remove_file(path(root, id)) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}
