//! Reads and writes files and directories that only root or a named user can have written.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::libc;
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;

use super::BASE;
use super::lock::{Lock, WRITER_PATIENCE};
use crate::device::record::from_json;
use crate::host::{Last, Root, is_absent, saw};

/// Makes `/run/gfxplane` and the directory `name` in it, or checks the existing ones
/// ([`make_or_trust`]). Returns the path of `name`.
pub(in crate::host) fn directory(root: &Root, name: &str, mode: u32) -> io::Result<PathBuf> {
    let base = root.join(BASE);
    make_or_trust(root, &base, 0o755, None)?;
    let path = base.join(name);
    make_or_trust(root, &path, mode, None)?;
    Ok(path)
}

/// Makes one directory, or checks the existing one ([`trusted`], with its `also`). Removes
/// permissions beyond `mode` from an existing one: anybody who can open a lock's file can hold the
/// lock.
pub(in crate::host) fn make_or_trust(
    root: &Root,
    path: &Path,
    mode: u32,
    also: Option<u32>,
) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if trusted(root, path, also)?.mode() & 0o777 & !mode != 0 {
                fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Checks that a path is a directory into which only root, or the user `also`, can have written.
/// Returns its metadata. Fails with [`io::ErrorKind::InvalidData`] if others can have written.
pub(in crate::host) fn trusted(
    root: &Root,
    path: &Path,
    also: Option<u32>,
) -> io::Result<fs::Metadata> {
    let metadata = fs::symlink_metadata(path)?;
    // A link has all bits of a mode, so its kind is checked first.
    let problem = (!metadata.is_dir()).then_some("is no directory");
    match problem.or(untrusted(root, &metadata, also)) {
        Some(problem) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} {problem}: remove it", path.display()),
        )),
        None => Ok(metadata),
    }
}

/// Returns why a file or directory can't be trusted; `None` if it can, and for a recorded host.
/// `also` is a user who is trusted like root.
pub(in crate::host) fn untrusted(
    root: &Root,
    metadata: &fs::Metadata,
    also: Option<u32>,
) -> Option<&'static str> {
    if root.is_recorded() {
        None
    } else if metadata.uid() != 0 && Some(metadata.uid()) != also {
        Some("is not root's")
    } else if metadata.mode() & 0o022 != 0 {
        Some("can be written by others")
    } else {
        None
    }
}

/// Returns the text of a file that only root can have written; `None` if there is no such file.
/// Fails if others can have written it, it has more than `limit` bytes, or is not UTF-8.
pub(in crate::host) fn read_trusted(
    root: &Root,
    path: &Path,
    limit: usize,
) -> Result<Option<String>, String> {
    let bytes = read_trusted_bytes(root, path, None, limit)?;
    let text = bytes.map(String::from_utf8).transpose();
    text.map_err(|_| "it is not UTF-8".into())
}

/// Returns the value in a JSON file that only root or our own user can have written; `None` if
/// there is no such file. Fails like [`read_trusted`], or if the JSON is no `T`.
pub(in crate::host) fn read_own_json<T: DeserializeOwned>(
    root: &Root,
    path: &Path,
    limit: usize,
) -> Result<Option<T>, String> {
    let bytes = read_trusted_bytes(root, path, ourselves(), limit)?;
    let parsed = bytes.map(|bytes| from_json(&bytes)).transpose();
    parsed.map_err(|error| error.to_string())
}

/// Returns the id of our own user, to be trusted as `also`.
pub(in crate::host) fn ourselves() -> Option<u32> {
    Some(geteuid().as_raw())
}

/// Like [`read_trusted`], for bytes, and with a user `also` who is trusted like root.
pub(in crate::host) fn read_trusted_bytes(
    root: &Root,
    path: &Path,
    also: Option<u32>,
    limit: usize,
) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = open_trusted(root, path, also)? else {
        return Ok(None);
    };
    saw(path, Last::Link);
    let mut bytes = Vec::with_capacity(4096);
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() > limit {
        return Err(format!("it is larger than {} KiB", limit / 1024));
    }
    Ok(Some(bytes))
}

/// Opens a regular file that only root, or the user `also`, can have written; `None` if there is no
/// such file. Fails if others can have written it, or if it is a link.
pub(in crate::host) fn open_trusted(
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
    match untrusted(root, &metadata, also) {
        Some(problem) => Err(format!("it {problem}")),
        None => Ok(Some(file)),
    }
}

/// Replaces a file that everybody may read, like [`put`]. The new file need not survive a crash.
pub(in crate::host) fn replace(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    put(directory, path, content, 0o644, false)
}

/// Replaces a file as a whole, or makes it, so that a reader sees the old one or the new one.
/// `is_kept`: the new file must survive a crash of the machine.
///
/// Until the new file is complete, it has another name in `directory`, which is on the same file
/// system: always the same name, and locked. So a writer that is killed leaves nothing but that
/// file, and the next writer uses it again.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::TimedOut`] if another writer does not finish. The
/// file is then as it was, or complete but perhaps not yet on the disk.
pub(in crate::host) fn put(
    directory: &Path,
    path: &Path,
    content: &[u8],
    mode: u32,
    is_kept: bool,
) -> io::Result<()> {
    let new = directory.join(".new");
    let locked = Lock::of_file(&new, Instant::now() + WRITER_PATIENCE)?;
    let mut file = &locked.file;
    let mut put = || {
        // An earlier writer may have been killed and left some text.
        file.set_len(0)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        if is_kept {
            file.sync_all()?;
        }
        fs::rename(&new, path)
    };
    if let Err(error) = put() {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    match path.parent() {
        Some(directory) if is_kept => File::open(directory)?.sync_data(),
        _ => Ok(()),
    }
}
