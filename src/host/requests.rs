//! The files that the qemu hook leaves in `/run/gfxplane`: requests for the daemon, and marks of
//! devices that a starting domain uses.
//!
//! Requests and marks are empty files, in directories that only root can use (0700). Only their
//! names matter:
//!
//! * `requests/UUID`, `requests/UUID.veto`: a request to check this domain. The daemon itself finds
//!   out what is wrong with the domain. `.veto`: the hook has vetoed the domain's start.
//! * `starting/ID`: a domain with this device is being started. No prober opens the device for
//!   [`START_TAKES`], or until libvirt reports that the domain has released the device.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::host::{Root, Warning, is_absent, remove, run};

const REQUESTS: &str = "requests";
const STARTING: &str = "starting";

/// The ending of the name of a request that follows a veto.
const VETO: &str = ".veto";

/// The longest time that a start takes, from the hook's `prepare` until QEMU has opened its
/// devices. libvirt itself waits half a minute for a QEMU that does not answer yet
/// (src/qemu/qemu_monitor.c, `QEMU_DEFAULT_MONITOR_WAIT`).
const START_TAKES: Duration = Duration::from_secs(120);

/// The greatest number of requests that are kept. Without this limit, transient domains could fill
/// the `/run` of a host that has no daemon.
const MAX_REQUESTS: usize = 4096;

/// A request of the hook to the daemon: to check a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The domain's UUID.
    pub domain: Uuid,
    /// True if the hook has vetoed the domain's start.
    pub veto: bool,
}

impl Request {
    /// Returns the name of the request's file: the UUID in lower case, and [`VETO`] for a veto.
    fn file_name(&self) -> String {
        let ending = if self.veto { VETO } else { "" };
        format!("{}{ending}", self.domain.hyphenated())
    }

    /// Reads a request from the name of its file; `None` if it is not the name of a request.
    fn parse(name: &str) -> Option<Self> {
        let (uuid, veto) = match name.strip_suffix(VETO) {
            Some(uuid) => (uuid, true),
            None => (name, false),
        };
        let request = Request {
            domain: uuid.parse().ok()?,
            veto,
        };
        // A UUID has other spellings, which we never write.
        (request.file_name() == name).then_some(request)
    }
}

/// Returns the directory of the requests, which [`prepare_directory`] makes.
pub fn directory(root: &Root) -> PathBuf {
    root.join(run::BASE).join(REQUESTS)
}

/// Makes the directory of the requests, or checks that the existing one can be trusted.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if it exists but can't be trusted.
pub(crate) fn prepare_directory(root: &Root) -> io::Result<PathBuf> {
    run::directory(root, REQUESTS, 0o700)
}

/// Leaves a request for the daemon. If its file exists, opens and closes the file again, so that a
/// watcher of the directory notices.
///
/// # Errors
/// The errors of [`prepare_directory`]; an error if there are [`MAX_REQUESTS`] already.
pub fn leave(root: &Root, request: &Request) -> io::Result<()> {
    let directory = prepare_directory(root)?;
    let path = directory.join(request.file_name());
    let is_new = fs::symlink_metadata(&path).is_err();
    if is_new && fs::read_dir(&directory)?.take(MAX_REQUESTS).count() >= MAX_REQUESTS {
        let problem = format!("{} is full", directory.display());
        return Err(io::Error::other(problem));
    }
    touch(&path).map(|_| ())
}

/// The age up to which a veto counts. An older veto is treated as an ordinary request, because
/// somebody may have started and ended the domain since.
const VETO_HOLDS: Duration = Duration::from_secs(600);

/// Returns at most one request for each domain, the vetoes first: a veto replaces the domain's
/// ordinary request. Empty if there is no directory of requests or, with a warning, if it can't be
/// read.
///
/// The requests are removed, except for vetoes, which stay until [`forget_veto`] removes them or
/// they are too old. Other files stay, with a warning. Links are not followed.
pub fn take(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Request> {
    let directory = directory(root);
    let trusted = run::trusted(root, &directory, None);
    let entries = match trusted.and_then(|_| fs::read_dir(&directory)) {
        Ok(entries) => entries,
        Err(error) => {
            if !is_absent(&error) {
                let problem = format!("requests can't be read: {error}");
                warnings.push(Warning::new(directory, problem));
            }
            return Vec::new();
        }
    };
    let mut found: BTreeMap<Uuid, bool> = BTreeMap::new();
    // Any requests beyond the limit are taken the next time.
    for entry in entries.flatten().take(2 * MAX_REQUESTS) {
        let path = entry.path();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let request = entry.file_name().to_str().and_then(Request::parse);
        let Some(mut request) = request.filter(|_| is_file) else {
            let problem = "ignored: it is not a request of the qemu hook; remove it";
            warnings.push(Warning::new(path, problem));
            continue;
        };
        let left = entry.metadata().and_then(|metadata| metadata.modified());
        let age = left.ok().and_then(|left| left.elapsed().ok());
        request.veto &= age.is_some_and(|age| age < VETO_HOLDS);
        let taken = match request.veto {
            true => Ok(()),
            false => fs::remove_file(&path),
        };
        match taken {
            Ok(()) => *found.entry(request.domain).or_default() |= request.veto,
            // Another process has taken it.
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                // If it were returned again and again, it would keep the daemon busy for ever.
                let problem = format!("ignored, as it can't be removed: {error}");
                warnings.push(Warning::new(path, problem));
            }
        }
    }
    let found = found.into_iter();
    let mut requests: Vec<Request> = found
        .map(|(domain, veto)| Request { domain, veto })
        .collect();
    requests.sort_by_key(|request| !request.veto);
    requests
}

/// Removes the veto of a domain, because it has been handled or the domain starts all the same.
///
/// # Errors
/// Any error of the file system. It is no error if there is no veto.
pub fn forget_veto(root: &Root, domain: Uuid) -> io::Result<()> {
    let request = Request { domain, veto: true };
    remove(&directory(root).join(request.file_name()))
}

/// Marks that a domain with this device is being started.
///
/// # Errors
/// The errors of [`prepare_directory`].
pub fn mark_start(root: &Root, id: DeviceId) -> io::Result<()> {
    let directory = run::directory(root, STARTING, 0o700)?;
    touch(&directory.join(id.to_string()))?.set_modified(SystemTime::now())
}

/// Removes the mark of [`mark_start`], because the start is over or the domain has ended.
///
/// # Errors
/// Any error of the file system. It is no error if there is no mark.
pub fn forget_start(root: &Root, id: DeviceId) -> io::Result<()> {
    remove(&starting_path(root, id))
}

/// Returns whether a domain with this device is being started: its mark was made in this boot, less
/// than [`START_TAKES`] ago.
pub fn start_under_way(root: &Root, id: DeviceId) -> bool {
    let path = starting_path(root, id);
    let metadata = fs::symlink_metadata(&path)
        .ok()
        .filter(|metadata| metadata.is_file() && run::untrusted(root, metadata, None).is_none());
    let Some(Ok(marked)) = metadata.map(|metadata| metadata.modified()) else {
        return false;
    };
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(START_TAKES, Duration::from);
    match SystemTime::now().duration_since(marked) {
        Ok(ago) => ago < START_TAKES && ago <= up,
        // The clock was set back. The mark counts for no longer than a start takes.
        Err(ahead) => ahead.duration() < START_TAKES,
    }
}

fn starting_path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(run::BASE).join(STARTING).join(id.to_string())
}

/// Makes an empty file, or opens the existing one. A watcher notices when the file is closed.
fn touch(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o600)
        // O_NONBLOCK: a FIFO in this place must not hold us up.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::empty as host;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const DOMAIN: &str = "0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01";
    const DEVICE: &str = "c1a20000-0000-4000-8000-000000000002";

    fn request(veto: bool) -> Request {
        Request {
            domain: DOMAIN.parse().unwrap(),
            veto,
        }
    }

    #[test]
    fn requests_are_left_and_taken_once() {
        let (_keep, root) = host();
        assert!(take(&root, &mut Vec::new()).is_empty(), "no directory yet");
        leave(&root, &request(false)).unwrap();
        leave(&root, &request(false)).unwrap();
        let path = directory(&root);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(DOMAIN))), (0o700, 0o600));
        let mut warnings = Vec::new();
        assert_eq!(take(&root, &mut warnings), [request(false)]);
        assert!(take(&root, &mut warnings).is_empty() && warnings.is_empty());
        // A veto, and libvirt's call at the end of the refused start.
        let other = Request {
            domain: Uuid::nil(),
            veto: false,
        };
        for request in [other, request(true), request(false)] {
            leave(&root, &request).unwrap();
        }
        assert_eq!(take(&root, &mut warnings), [request(true), other]);
    }

    #[test]
    fn a_veto_of_another_time_starts_nothing() {
        let (_keep, root) = host();
        let minute = Duration::from_secs(60);
        let now = SystemTime::now();
        for (left, holds) in [
            (now - minute, true),
            (now - VETO_HOLDS - minute, false),
            // The clock was set back.
            (now + 365 * 24 * 60 * minute, false),
            (SystemTime::UNIX_EPOCH, false),
        ] {
            leave(&root, &request(true)).unwrap();
            let path = directory(&root).join(request(true).file_name());
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_modified(left).unwrap();
            assert_eq!(take(&root, &mut Vec::new()), [request(holds)], "{left:?}");
            assert_eq!(
                path.exists(),
                holds,
                "one that holds stays until it is dealt with"
            );
            forget_veto(&root, request(true).domain).unwrap();
        }
    }

    #[test]
    fn odd_names_are_ignored_and_no_link_is_followed() {
        let (keep, root) = host();
        let path = prepare_directory(&root).unwrap();
        let outside = keep.path().join("outside");
        fs::write(&outside, "precious").unwrap();
        symlink(&outside, path.join(DOMAIN)).unwrap();
        fs::write(path.join(DOMAIN.to_uppercase()), "").unwrap();
        fs::write(path.join(format!("{DOMAIN}.veto.veto")), "").unwrap();
        fs::write(path.join("--help"), "").unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        let mut warnings = Vec::new();
        assert!(take(&root, &mut warnings).is_empty());
        assert_eq!(warnings.len(), 5, "{warnings:?}");
        // Leaving a request follows no link, either.
        assert!(leave(&root, &request(false)).is_err());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    }

    #[test]
    fn there_is_a_limit() {
        let (_keep, root) = host();
        for number in 0..MAX_REQUESTS {
            let path = prepare_directory(&root).unwrap();
            fs::write(path.join(Uuid::from_u128(number as u128).to_string()), "").unwrap();
        }
        assert!(leave(&root, &request(true)).is_err());
        let known = Request {
            domain: Uuid::from_u128(7),
            veto: false,
        };
        leave(&root, &known).unwrap();
        assert_eq!(take(&root, &mut Vec::new()).len(), MAX_REQUESTS);
        leave(&root, &request(true)).unwrap();
    }

    #[test]
    fn a_directory_of_somebody_elses_is_not_read() {
        let (_keep, recorded) = host();
        let strict = Root::strict(recorded.path());
        leave(&recorded, &request(false)).unwrap();
        fs::set_permissions(directory(&recorded), PermissionsExt::from_mode(0o777)).unwrap();
        let mut warnings = Vec::new();
        assert!(take(&strict, &mut warnings).is_empty());
        assert_eq!(warnings.len(), 1);
        assert!(leave(&strict, &request(false)).is_err());
    }

    #[test]
    fn a_start_outlives_the_driver_of_a_pci_device() {
        let (_keep, root) = host();
        for (id, lasts) in [(DEVICE, false), ("0000:00:02.0", true)] {
            let id = id.parse().unwrap();
            mark_start(&root, id).unwrap();
            let lock = run::Lock::of_device(&root, id).unwrap();
            run::forget(&root, id).unwrap();
            assert_eq!(start_under_way(&root, id), lasts, "{id}");
            drop(lock);
        }
    }

    #[test]
    fn a_start_is_under_way_until_it_is_over() {
        let (_keep, root) = host();
        let id = DEVICE.parse().unwrap();
        assert!(!start_under_way(&root, id));
        mark_start(&root, id).unwrap();
        assert!(start_under_way(&root, id));
        forget_start(&root, id).unwrap();
        forget_start(&root, id).unwrap();
        assert!(!start_under_way(&root, id));
        let file = || {
            mark_start(&root, id).unwrap();
            fs::File::open(starting_path(&root, id)).unwrap()
        };
        let now = SystemTime::now();
        for (modified, expected) in [
            (now - Duration::from_secs(1), true),
            (now - START_TAKES, false),
            (now + Duration::from_secs(60), true),
            (now + 2 * START_TAKES, false),
            (SystemTime::UNIX_EPOCH, false),
        ] {
            file().set_modified(modified).unwrap();
            assert_eq!(start_under_way(&root, id), expected, "{modified:?}");
        }
        mark_start(&root, id).unwrap();
        assert!(start_under_way(&root, id), "a new start counts anew");
    }
}
