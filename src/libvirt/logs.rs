//! Removes the logs and AppArmor profiles of trial copies, which libvirt leaves behind.
//!
//! libvirt never removes the log of a domain, nor the file of a domain's profile. Nobody needs
//! those of a trial copy: the user has read QEMU's message, and nobody knows the copy's name. A run
//! removes the files of its own copy, and those left by killed runs. It removes a file only if the
//! file's name belongs to a trial copy ([`crate::plan::trial::name`]), and if it is a regular file
//! of our user. It finds a profile by the copy's log, so a profile without a log stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::host::Root;
use crate::libvirt::User;
use crate::plan::trial;

/// The directories of a libvirt's logs and AppArmor profiles.
#[derive(Debug)]
pub(crate) struct Logs {
    logs: Option<PathBuf>,
    profiles: PathBuf,
}

/// The directory of libvirt's AppArmor profiles (src/security/virt-aa-helper.c, `APPARMOR_DIR`).
const PROFILES: &str = "/etc/apparmor.d/libvirt";

impl Logs {
    /// Returns the directories of the libvirt at `uri`; `None` is the system's.
    pub(crate) fn of(uri: Option<&str>) -> Self {
        Logs {
            logs: directory(&Root::system(), uri),
            profiles: PROFILES.into(),
        }
    }

    /// Removes the logs and the profile of this trial copy. A file that the user may not remove is
    /// left to a later run with more rights.
    pub(crate) fn remove(&self, name: &str) {
        self.remove_those(|domain| domain == name);
    }

    /// Removes the logs and profiles of all trial copies that are not in `active`, the running
    /// domains.
    pub(crate) fn sweep(&self, active: &[User]) {
        self.remove_those(|domain| !active.iter().any(|user| user.domain == domain));
    }

    fn remove_those(&self, wanted: impl Fn(&str) -> bool) {
        let entries = self.logs.iter().filter_map(|path| fs::read_dir(path).ok());
        for entry in entries.flatten().flatten() {
            let file_name = entry.file_name();
            let domain = file_name.to_str().and_then(domain_of);
            let Some(domain) = domain.filter(|d| trial::is_name(d) && wanted(d)) else {
                continue;
            };
            remove(&entry.path());
            // The UUID of a trial copy is part of its name.
            if let Some(uuid) = trial::uuid_of(domain) {
                for ending in ["", ".files"] {
                    remove(&self.profiles.join(format!("libvirt-{uuid}{ending}")));
                }
            }
        }
    }
}

/// Returns the directory where the libvirt at `uri` keeps the logs of its domains
/// (src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`: logDir). `None` for a session's libvirt if
/// neither `XDG_CACHE_HOME` nor `HOME` is set. Only the system's directory is below `root`.
pub(crate) fn directory(root: &Root, uri: Option<&str>) -> Option<PathBuf> {
    let is_session = uri.is_some_and(|uri| uri.contains("/session"));
    if !is_session {
        return Some(root.join("var/log/libvirt/qemu"));
    }
    let cache = users_directory("XDG_CACHE_HOME", ".cache")?;
    Some(cache.join("libvirt/qemu/log"))
}

/// Returns a directory of our user's: the value of this environment variable, or else `usual` in
/// the home directory (XDG Base Directory Specification). `None` if neither this variable nor
/// `HOME` is set.
pub(crate) fn users_directory(variable: &str, usual: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).filter(|path| !path.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(usual));
    named.map(PathBuf::from).or_else(home)
}

/// Removes a regular file that belongs to our user. Ignores a failure.
fn remove(path: &Path) {
    let is_ours = |file: fs::Metadata| file.is_file() && file.uid() == geteuid().as_raw();
    if fs::symlink_metadata(path).is_ok_and(is_ours) {
        let _ = fs::remove_file(path);
    }
}

/// Returns the name of the domain to which a log belongs; `None` if the file is no log. A log's
/// name is `NAME.log`, or `NAME.log.N` once virtlogd has begun a new file.
fn domain_of(file_name: &str) -> Option<&str> {
    let (domain, rest) = file_name.split_once(".log")?;
    let number = rest.strip_prefix('.').unwrap_or(rest);
    (rest.is_empty() || !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn only_ours_go() {
        let directory = tempfile::tempdir().unwrap();
        let profiles = directory.path().join("profiles");
        fs::create_dir(&profiles).unwrap();
        let logs = Logs {
            logs: Some(directory.path().into()),
            profiles: profiles.clone(),
        };
        let (ours, running) = (
            trial::name(Uuid::from_u128(1)),
            trial::name(Uuid::from_u128(2)),
        );
        let stay = [
            "guest.log".to_owned(),
            "gfxplane-verify-guest.log".into(),
            format!("{ours}.txt"),
            format!("{ours}.log.old"),
            format!("x{ours}.log"),
            format!("{running}.log"),
        ];
        let go = [format!("{ours}.log"), format!("{ours}.log.0")];
        for name in stay.iter().chain(&go) {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let link = format!("{}.log", trial::name(Uuid::from_u128(3)));
        std::os::unix::fs::symlink("guest.log", directory.path().join(&link)).unwrap();
        let active = User {
            domain: running.clone(),
            devices: Vec::new(),
        };
        let profile = |number| {
            let uuid = Uuid::from_u128(number).hyphenated().to_string();
            profiles.join(format!("libvirt-{uuid}"))
        };
        for number in [1, 2, 4] {
            fs::write(profile(number), "").unwrap();
        }
        logs.sweep(&[active]);
        assert!(!profile(1).exists() && profile(2).exists() && profile(4).exists());
        let left = |name: &String| fs::symlink_metadata(directory.path().join(name)).is_ok();
        assert!(stay.iter().all(left) && left(&link));
        assert!(!go.iter().any(left));
        logs.remove(&running);
        assert!(!left(&format!("{running}.log")) && left(&stay[0]));
    }

    #[test]
    fn where_they_are() {
        assert_eq!(
            Logs::of(None).logs.unwrap(),
            PathBuf::from("/var/log/libvirt/qemu")
        );
        let system = Logs::of(Some("qemu:///system")).logs.unwrap();
        assert_eq!(system, PathBuf::from("/var/log/libvirt/qemu"));
        let session = Logs::of(Some("qemu:///session")).logs;
        assert!(session.is_none_or(|path| path.ends_with("libvirt/qemu/log")));
    }
}
