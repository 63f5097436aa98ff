//! Reads QEMU's logs of domains, and finds out whether a start in a log used the device that exists
//! now.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::device::id::DeviceId;
use crate::host::{Root, run, udev};

/// The number of bytes that are read from the end of a log. A start writes some 10 KiB, and
/// virtlogd begins a new file at 2 MiB (virtlogd.conf, `max_size`).
const TAIL: u64 = 1024 * 1024;

/// Returns the end of a domain's log; `None` if the domain has no log. `directory` is where libvirt
/// keeps the logs. The first line may lack its beginning. Bytes that are not UTF-8 become U+FFFD.
///
/// A guest's own process writes into the log through virtlogd. So the log must be a regular file
/// without hard links, and no symbolic link. It must belong to root or to our user, and nobody else
/// may be able to write it.
///
/// # Errors
/// The reason why the log is not read, with its path.
pub(crate) fn tail(root: &Root, directory: &Path, domain: &str) -> Result<Option<String>, String> {
    // libvirt refuses such names, too (src/conf/domain_conf.c, virDomainDefParseXML).
    if domain.is_empty() || domain.contains('/') {
        return Err(format!("{domain:?} is no name of a domain"));
    }
    let path = directory.join(format!("{domain}.log"));
    let file = run::open_trusted(root, &path, run::ourselves());
    let text = file.and_then(|file| file.map(read_tail).transpose());
    text.map_err(|problem| format!("{}: not read: {problem}", path.display()))
}

fn read_tail(mut file: File) -> Result<String, String> {
    let mut read = || {
        let metadata = file.metadata()?;
        if metadata.nlink() != 1 {
            return Err(io::Error::other("it has hard links"));
        }
        file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        (&file).take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|error| error.to_string())
}

/// Returns whether a start used the device that exists now. `began` is the time of the start, since
/// 1970: it must be in this boot, and not before udev first saw the device. If udev does not know
/// the device, only the boot matters. Returns `false` for a time in the future.
pub(crate) fn is_of_this_device(root: &Root, id: DeviceId, began: Duration) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // If the clock was set back, the start seems to lie in the future.
    let Some(ago) = now.ok().and_then(|now| now.checked_sub(began)) else {
        return false;
    };
    let at = |clock| Some(Duration::from(clock_gettime(clock).ok()?));
    let in_this_boot = at(ClockId::CLOCK_BOOTTIME).is_some_and(|up| ago <= up);
    let since = udev::initialized_at(root, id);
    let began = at(ClockId::CLOCK_MONOTONIC).map(|now| now.saturating_sub(ago));
    in_this_boot && since.is_none_or(|since| began >= Some(since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn refused(root: &Root, directory: &Path, name: &str) -> String {
        tail(root, directory, name).unwrap_err()
    }

    #[test]
    fn only_a_file_that_nobody_else_can_have_put_there() {
        let keep = tempfile::tempdir().unwrap();
        let (root, at) = (Root::strict(keep.path()), keep.path());
        let log = |name: &str| at.join(format!("{name}.log"));
        assert_eq!(tail(&root, at, "none"), Ok(None));
        fs::write(log("guest"), "text \u{e9}\n").unwrap();
        fs::set_permissions(log("guest"), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(tail(&root, at, "guest"), Ok(Some("text \u{e9}\n".into())));
        fs::set_permissions(log("guest"), Permissions::from_mode(0o620)).unwrap();
        assert!(refused(&root, at, "guest").contains("can be written by others"));
        fs::set_permissions(log("guest"), Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(log("guest"), log("second")).unwrap();
        assert!(refused(&root, at, "second").contains("hard links"));
        std::os::unix::fs::symlink(log("guest"), log("link")).unwrap();
        assert!(refused(&root, at, "link").contains("is a link"));
        nix::unistd::mkfifo(&log("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(refused(&root, at, "fifo").contains("no regular file"));
        for name in ["", "../guest"] {
            assert!(refused(&root, at, name).contains("no name of a domain"));
        }
    }

    #[test]
    fn no_more_than_the_end_is_read() {
        let (keep, root) = crate::host::empty();
        let mut text = vec![b'x'; usize::try_from(TAIL).unwrap()];
        text.extend(b"\xff\nend\n");
        fs::write(keep.path().join("guest.log"), &text).unwrap();
        let read = tail(&root, keep.path(), "guest").unwrap().unwrap();
        assert!(read.ends_with("x\u{fffd}\nend\n"));
        assert_eq!(read.len(), text.len() - 6 + 2);
    }

    #[test]
    fn a_start_of_another_boot_or_device_is_none_of_this_one() {
        let (_keep, root) = crate::host::empty();
        let id: DeviceId = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
        let minute = Duration::from_secs(60);
        assert!(is_of_this_device(&root, id, now));
        assert!(!is_of_this_device(&root, id, now - up - minute));
        assert!(!is_of_this_device(&root, id, now + minute * 60));
        let data = format!("run/udev/data/+mdev:{id}");
        let seen = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()) + minute;
        root.put(&data, &format!("I:{}\n", seen.as_micros()));
        assert!(!is_of_this_device(&root, id, now), "it was made after that");
        root.put(&data, "I:1\n");
        assert!(is_of_this_device(&root, id, now));
    }
}
