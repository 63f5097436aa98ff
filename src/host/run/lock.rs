//! Takes locks in `/run/gfxplane`, and waits for their holders.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use super::trusted::directory;
use super::{BASE, POLL};
use crate::device::id::DeviceId;
use crate::host::{Root, is_absent};

/// The lock of a file. Whoever opens a device takes the device's lock first, and holds it until the
/// device is closed.
///
/// It is an flock(2) that nobody unlocks. It ends when its last file descriptor is closed, so a
/// child process that has inherited a descriptor also holds the lock as long as it lives.
#[derive(Debug)]
pub struct Lock {
    pub(super) file: File,
}

/// The time that a writer waits for another writer. Writing takes milliseconds, unless a signal has
/// stopped the writing process.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(5);

impl Lock {
    /// Takes the lock of a device. Waits for it without a limit, so the caller needs its own
    /// deadline.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn of_device(root: &Root, id: DeviceId) -> io::Result<Self> {
        directory(root, "lock", 0o700)?;
        Self::of_file(&lock_path(root, id), None)
    }

    /// Takes the daemon's lock, which only one process on a host can have, and writes our process's
    /// id into its file. If another process has the lock, returns `Ok(Err(…))` with the id in the
    /// file, which may be empty.
    pub(crate) fn of_daemon(root: &Root) -> io::Result<Result<Self, String>> {
        let path = directory(root, "lock", 0o700)?.join("daemon");
        match Self::of_file(&path, Instant::now()) {
            Ok(lock) => {
                // The next process reads this id; on a full disk there is none.
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

    /// Takes the lock of a file, and waits for it, at most until `limit` if there is one. Makes the
    /// file if it does not exist.
    ///
    /// # Errors
    /// Any error of the file system; [`io::ErrorKind::TimedOut`] if somebody holds the lock until
    /// `limit`.
    pub(crate) fn of_file(path: &Path, limit: impl Into<Option<Instant>>) -> io::Result<Self> {
        let lock = Self::wait(path, true, limit.into())?;
        Ok(lock.expect("it is made if it isn't there"))
    }

    /// Takes the lock of a file, and waits for it; fails with [`io::ErrorKind::TimedOut`] at
    /// `limit`, if there is one. If `make` is true, makes a missing file. Otherwise returns `None`
    /// for a missing file, and opens it only for reading: flock(2) needs no more, and SELinux's
    /// policy for libvirt allows the hook no more.
    pub(in crate::host) fn wait(
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
                // The device and its lock's file may have disappeared and come back meanwhile.
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
    let open = file.metadata().map(identity);
    open.is_ok_and(|open| {
        fs::symlink_metadata(path)
            .map(identity)
            .is_ok_and(|named| named == open)
    })
}

pub(super) fn one_writer(root: &Root) -> io::Result<Lock> {
    let path = directory(root, "lock", 0o700)?.join("records");
    Lock::of_file(&path, Instant::now() + WRITER_PATIENCE)
}

/// Waits until no process of ours holds the device's lock, at most until `limit`. Returns `false`
/// if a process still holds it, `true` also if the lock has no file. Does not keep the lock.
///
/// # Errors
/// Any error of the file system.
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

/// Waits until no trial uses the device, at most until `limit`. Returns `false` if a trial still
/// does.
///
/// # Errors
/// The errors of [`wait_until_free`].
pub fn wait_until_tried(root: &Root, id: DeviceId, limit: Instant) -> io::Result<bool> {
    is_free_until(&trying_path(root, id), limit)
}

/// Returns the path of the lock that is held while a trial uses the device. It is not the device's
/// own lock, for which the hook waits when the trial's QEMU starts. The process that makes the
/// trial removes the file at the end.
pub fn trying_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(format!("{BASE}/lock/{id}.verify"))
}

pub(super) fn lock_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(format!("{BASE}/lock/{id}"))
}
