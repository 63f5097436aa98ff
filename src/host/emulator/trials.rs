//! The outcomes of trials on this host, in `/var/cache/gfxplane/trials`, a file for each QEMU. The
//! file also has the state of QEMU, its modules and libvirt. If this state has changed, the
//! outcomes in the file no longer count.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::{Key, keep, parsed, path_in, to_text};
use crate::device::record::FORMAT;
use crate::host::state::now;
use crate::host::{Root, Warning, or_ignored};

/// The largest size at which the file is written, in bytes. Above it, the oldest outcomes are
/// dropped. Files are read up to [`crate::device::record::MAX_SIZE`].
const LARGEST: usize = 48 * 1024;

/// The greatest number of characters that are kept of a message.
const LONGEST: usize = 400;

/// The directory of outcomes in `/var/cache/gfxplane`.
const TRIALS: &str = "trials";

/// The outcome of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The domain's shape on this host ([`crate::predict::shape::Shape::on_this_host`]).
    pub shape: String,
    /// The message of the program that refused the domain; `None` if the domain started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The time of the trial, in seconds since 1970.
    pub time: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    emulator: PathBuf,
    /// The state of QEMU's build and of libvirt.
    key: Key,
    trials: Vec<Trial>,
}

/// A build of QEMU together with a version of libvirt. The outcome of a trial is valid only for
/// both.
#[derive(Debug)]
pub(crate) struct Build<'r> {
    root: &'r Root,
    emulator: &'r Path,
    key: Key,
}

impl<'r> Build<'r> {
    /// Returns the emulator's present build with the installed libvirt. Returns `None` if either is
    /// unknown: then no outcome can be kept, because nobody could tell when it stops being true.
    pub(crate) fn of(root: &'r Root, emulator: &'r Path) -> Option<Self> {
        let key = Key::of(root, emulator).ok()?;
        key.libvirt.as_ref()?;
        Some(Build {
            root,
            emulator,
            key,
        })
    }

    /// Returns the outcome of an earlier trial of this shape with this build; `None` if there was
    /// none.
    pub(crate) fn result(&self, shape: &str, warnings: &mut Vec<Warning>) -> Option<Trial> {
        let mut trials = self.read(warnings).into_iter();
        trials.find(|trial| trial.shape == shape)
    }

    /// Keeps an outcome, and drops any earlier outcome of this shape. `message` is from the program
    /// that refused the domain; `None` if the domain started. A long message is cut. Fails if this
    /// user may not write to the cache.
    pub(crate) fn keep(&self, shape: &str, message: Option<&str>) -> std::io::Result<()> {
        let mut trials = self.read(&mut Vec::new());
        trials.retain(|trial| trial.shape != shape);
        trials.push(Trial {
            shape: shape.into(),
            message: message.map(|text| text.chars().take(LONGEST).collect()),
            time: now(),
        });
        let mut kept = Kept {
            format: FORMAT,
            emulator: self.emulator.into(),
            key: self.key.clone(),
            trials,
        };
        while to_text(&kept)?.len() > LARGEST && !kept.trials.is_empty() {
            kept.trials.remove(0);
        }
        keep(&self.path(), &kept)
    }

    fn path(&self) -> PathBuf {
        path_in(TRIALS, self.root, self.emulator)
    }

    fn read(&self, warnings: &mut Vec<Warning>) -> Vec<Trial> {
        let path = self.path();
        let kept: Option<Kept> = or_ignored(parsed(self.root, &path), &path, warnings);
        let kept = kept.filter(|kept| kept.emulator == self.emulator && kept.key == self.key);
        kept.map(|kept| kept.trials).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Host, QEMU, install};
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const LIBVIRT: &str = "libvirt.so.0.11003.0";

    fn message(trial: Option<Trial>) -> Option<Option<String>> {
        trial.map(|trial| trial.message)
    }

    #[test]
    fn a_result_holds_for_its_build_and_libvirt() {
        let host = Host::new();
        let (root, qemu) = (host.root(), Path::new(QEMU));
        assert!(Build::of(&root, qemu).is_none(), "no libvirt is installed");
        install(&root, LIBVIRT);
        let build = || Build::of(&root, qemu).unwrap();
        let known = |shape: &str| message(build().result(shape, &mut Vec::new()));
        assert_eq!(known("a"), None);
        build().keep("a", None).unwrap();
        build().keep("b", Some("no")).unwrap();
        assert_eq!(
            (known("a"), known("b")),
            (Some(None), Some(Some("no".into())))
        );
        build().keep("b", None).unwrap();
        assert_eq!(known("b"), Some(None));
        install(&root, "libvirt.so.0.12000.0");
        assert_eq!(known("a"), None, "another libvirt");
        install(&root, LIBVIRT);
        assert_eq!(known("a"), Some(None));
        fs::write(root.join("usr/lib/x86_64-linux-gnu/qemu/ui-gtk.so"), "").unwrap();
        assert_eq!(known("a"), None, "a module was installed");
    }

    #[test]
    fn the_latest_are_kept_and_no_file_of_others_believed() {
        let host = Host::new();
        let (root, qemu) = (host.root(), Path::new(QEMU));
        install(&root, LIBVIRT);
        let build = Build::of(&root, qemu).unwrap();
        let long = "\u{e4}".repeat(100_000);
        for number in 0..100 {
            build.keep(&number.to_string(), Some(&long)).unwrap();
        }
        let mut warnings = Vec::new();
        assert_eq!(build.result("0", &mut warnings), None);
        let last = message(build.result("99", &mut warnings)).flatten();
        assert_eq!(last.unwrap().chars().count(), LONGEST);
        assert_eq!(warnings, []);
        fs::set_permissions(build.path(), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(build.result("99", &mut warnings), None);
        assert!(
            warnings[0].problem.contains("written by others"),
            "{}",
            warnings[0]
        );
    }
}
