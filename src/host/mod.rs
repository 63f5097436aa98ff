//! Reads and writes files of a host. Besides the room that opens devices, only this room touches
//! the machine.
//!
//! Every function takes a [`Root`]: `/` for this machine, or the directory of a recorded host.

pub mod answers;
pub(crate) mod apparmor;
pub mod callout;
pub mod config;
pub(crate) mod domains;
pub mod emulator;
pub mod exports;
pub mod log;
pub mod marks;
pub mod mdevctl;
pub(crate) mod pci_ids;
pub(crate) mod qemu_log;
pub mod requests;
pub mod rewrite;
pub mod run;
pub mod settings;
pub mod state;
pub mod sysfs;
pub mod tree;
pub mod udev;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::domain::shell::in_words;

/// The largest text that is read from one attribute or definition, in bytes. The kernel's own limit
/// for an attribute is a page (Documentation/filesystems/sysfs.rst), 64 KiB on some machines.
const MAX_TEXT: u64 = 64 * 1024;

/// The directory that serves as `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
    recorded: bool,
}

impl Root {
    /// Returns the root of this machine.
    pub fn system() -> Self {
        Root {
            path: "/".into(),
            recorded: false,
        }
    }

    /// Returns the root of a recorded host. The user who names its directory vouches for its files,
    /// so their owners don't matter. There are no devices to open.
    pub fn recorded(path: impl Into<PathBuf>) -> Self {
        Root {
            path: path.into(),
            recorded: true,
        }
    }

    /// Returns a root for tests, whose files are checked as strictly as those of `/`.
    pub fn strict(path: impl Into<PathBuf>) -> Self {
        Root {
            path: path.into(),
            recorded: false,
        }
    }

    /// Returns whether this is a recorded host.
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Returns the place of a file below this root. `path` is the file's path on the host, with or
    /// without the leading slash.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Returns the path of a device's link in sysfs: `/sys/bus/BUS/devices/ID` below this root.
    pub fn device(&self, id: crate::device::id::DeviceId) -> PathBuf {
        self.join("sys/bus")
            .join(id.bus())
            .join("devices")
            .join(id.to_string())
    }

    /// Returns the directory that serves as `/`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A problem with a file or directory that does not stop gfxplane.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// The path of the file or directory. In JSON, bytes that are not UTF-8 become U+FFFD.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// The problem, and what gfxplane did about it.
    pub problem: String,
}

fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl Warning {
    pub(crate) fn new(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Warning {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names in sysfs may contain control characters, on which a terminal must not act.
        let text = format!("{}: {}", self.path.display(), self.problem);
        f.write_str(&in_words(&text).replace('\n', "\n  "))
    }
}

/// The treatment of a link at the end of a path: followed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Last {
    /// No: only the link itself was read.
    Link,
    /// Yes: the link's target was read.
    Followed,
}

thread_local! {
    static SEEN: RefCell<Option<BTreeMap<PathBuf, Last>>> = const { RefCell::new(None) };
}

/// Runs `read`. Returns its value, and the paths that this thread has noted meanwhile ([`saw`]),
/// whether or not they exist. Some functions of this room note nothing, such as [`read_whole`]. A
/// recording of a host copies these paths and nothing else.
pub fn watched<T>(read: impl FnOnce() -> T) -> (T, BTreeMap<PathBuf, Last>) {
    let before = SEEN.replace(Some(BTreeMap::new()));
    let value = read();
    (value, SEEN.replace(before).unwrap_or_default())
}

/// Notes for [`watched`] that this thread looked at a path.
fn saw(path: &Path, last: Last) {
    saw_in(path, None, last);
}

/// Notes for [`watched`] that this thread looked at `name` in a directory or, without a name, at
/// the directory.
fn saw_in(directory: &Path, name: Option<&OsStr>, last: Last) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            let path = name.map_or_else(|| directory.to_owned(), |name| directory.join(name));
            let known = seen.entry(path).or_insert(last);
            *known = last.max(*known);
        }
    });
}

pub(crate) fn read_link(path: &Path) -> io::Result<PathBuf> {
    saw(path, Last::Link);
    std::fs::read_link(path)
}

fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    saw(path, Last::Followed);
    path.canonicalize()
}

fn exists(path: &Path) -> bool {
    saw(path, Last::Followed);
    path.exists()
}

pub(crate) fn is_dir(path: &Path) -> bool {
    saw(path, Last::Followed);
    path.is_dir()
}

/// Returns the text of a small file without the white space at its end. Returns `None` if there is
/// no such file or, with a warning, if it can't be read or has more than [`MAX_TEXT`].
///
/// Bytes that are not UTF-8 become U+FFFD, with a warning.
pub(crate) fn read_text(path: &Path, warnings: &mut Vec<Warning>) -> Option<String> {
    saw(path, Last::Followed);
    // Most attributes fit into this, so that one system call reads the whole attribute.
    let mut bytes = Vec::with_capacity(4096);
    let read = open_file(path).and_then(|file| file.take(MAX_TEXT + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if is_absent(&error) => return None,
        Err(error) => {
            warnings.push(Warning::new(path, format!("can't be read: {error}")));
            return None;
        }
        Ok(_) if bytes.len() as u64 > MAX_TEXT => {
            warnings.push(Warning::new(path, "is larger than 64 KiB: ignored"));
            return None;
        }
        Ok(_) => {}
    }
    let text = String::from_utf8(bytes).unwrap_or_else(|error| {
        let problem = "is not UTF-8: the bad bytes are shown as U+FFFD";
        warnings.push(Warning::new(path, problem));
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    });
    Some(text.trim_end().to_owned())
}

/// Keeps the kernel from writing a core dump of this process (`PR_SET_DUMPABLE`), because the XML
/// of domains contains passwords.
pub fn leave_no_core() {
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Opens a regular file for reading, also through a link. Does not wait for a FIFO or a device in
/// the file's place.
///
/// # Errors
/// Any error of the file system; the path is no regular file.
pub fn open_file(path: &Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file"))
    }
}

/// Returns the time from the host's boot to the start of a process, including suspended times.
/// `stat` is the process's proc_pid_stat(5); `None` if it has another form.
pub fn started_after_boot(stat: &str) -> Option<Duration> {
    // The name in brackets may contain anything. The third field is the first after it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(22 - 3)?.parse().ok()?;
    let a_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok().flatten()?).ok()?;
    Some(Duration::from_millis(ticks * 1000 / a_second))
}

/// Returns whether the host has `/dev/kvm`; `None` if the recording of a host has no `/dev`.
pub(crate) fn has_kvm(root: &Root) -> Option<bool> {
    (!root.is_recorded() || root.join("dev").exists()).then(|| root.join("dev/kvm").exists())
}

/// Returns the text of a regular file of at most `limit` bytes.
///
/// # Errors
/// The errors of [`open_file`]; the file is larger, or not UTF-8.
pub fn read_whole(path: &Path, limit: usize) -> io::Result<String> {
    let mut text = String::new();
    let read = open_file(path)?
        .take(limit as u64 + 1)
        .read_to_string(&mut text)?;
    if read > limit {
        let problem = format!("it is larger than {limit} bytes");
        return Err(io::Error::other(problem));
    }
    Ok(text)
}

/// Returns whether an error means that the file or device does not exist. ENOTDIR: a parent in the
/// path is a file. ENODEV: sysfs returns it for an attribute whose device has just gone.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.kind() == io::ErrorKind::NotADirectory
        || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// Removes a file, if it exists.
///
/// # Errors
/// Any error of the file system, unless the file does not exist.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Returns the value in `read`. If it is an error, warns that the file at `path` is ignored, and
/// returns `None`.
fn or_ignored<T>(
    read: Result<Option<T>, impl fmt::Display>,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Option<T> {
    read.unwrap_or_else(|problem| {
        warnings.push(Warning::new(path, format!("ignored: {problem}")));
        None
    })
}

/// Returns the names in a directory, sorted. Empty if there is no such directory or, with a
/// warning, if it can't be listed. A name that is not UTF-8 is left out, with a warning.
pub(crate) fn read_names(path: &Path, warnings: &mut Vec<Warning>) -> Vec<String> {
    read_names_that(|_| true, path, warnings)
}

/// Returns the names for which `are_wanted` is true, like [`read_names`].
pub(crate) fn read_names_that(
    are_wanted: impl Fn(&str) -> bool,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Vec<String> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            if !is_absent(&error) {
                warnings.push(Warning::new(path, format!("can't be listed: {error}")));
            }
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry.map(|entry| entry.file_name().into_string()) {
            Ok(Ok(name)) if !are_wanted(&name) => {}
            Ok(Ok(name)) => {
                saw_in(path, Some(name.as_ref()), Last::Link);
                names.push(name);
            }
            Ok(Err(name)) => {
                saw_in(path, Some(name.as_ref()), Last::Link);
                let problem = "has a name that is not UTF-8: ignored";
                warnings.push(Warning::new(path.join(name), problem));
            }
            Err(error) => {
                let problem = format!("can't be listed to its end: {error}");
                warnings.push(Warning::new(path, problem));
            }
        }
    }
    names.sort_unstable();
    names
}

#[cfg(test)]
impl Root {
    /// Writes a file of a test's host. Makes its directories.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.join(path);
        std::fs::create_dir_all(path.parent().expect("it has a name")).expect("there is room");
        std::fs::write(path, text).expect("there is room");
    }
}

/// Makes a host that has only an empty `/run`.
#[cfg(test)]
pub(crate) fn empty() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().expect("there is room");
    std::fs::create_dir(directory.path().join("run")).expect("it is empty");
    let root = Root::recorded(directory.path());
    (directory, root)
}

/// Makes a copy of the recorded host `lab`, in memory if possible, because tests sync many of its
/// files to the disk.
#[cfg(test)]
pub(crate) fn lab() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = Some(memory).filter(|memory| memory.is_dir());
    let directory = tempfile::tempdir_in(place.unwrap_or(&std::env::temp_dir()));
    let directory = directory.expect("there is room");
    let copied = std::process::Command::new("cp")
        .args(["-r", "--no-dereference", "--preserve=mode,links"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/hosts/lab/root/."
        ))
        .arg(directory.path())
        .status();
    assert!(copied.expect("cp is there").success());
    directory
}
