//! `/run/gfxplane/answers`: a cache of the answers that our callout gives to mdevctl.
//!
//! libvirt makes mdevctl list all mdevs for each mdev that it finds, so for N mdevs the callout
//! answers N² times. A cached answer is used as long as none of its sources has changed. The first
//! line of its file is the state of the sources: the inodes of the driver's link (a device that is
//! made or bound anew has a new one) and of the parent's directory of render nodes; and the inodes
//! and times of the record, of the settings, and of the schema of a libvirt that reports displays
//! itself.
//!
//! The directory is used only if it exists: packaging/gfxplane.tmpfiles makes it, and installing a
//! package empties it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::device::id::DeviceId;
use crate::host::{Root, callout, run};

/// The largest size of an answer's file, in bytes. An answer with every attribute has less than a
/// quarter of it.
const MAX_SIZE: usize = 8192;

/// The file in which a device's answer is kept, and the state of the files from which the answer is
/// made.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    file: PathBuf,
    made_of: String,
}

impl Place {
    /// Returns the place of an mdev's answer, with the present state of its sources. Call this
    /// before reading the sources, so that a later change is noticed. Returns `None`, so that
    /// nothing is cached, if the mdev has no driver or no record.
    pub fn of(root: &Root, id: DeviceId) -> Option<Self> {
        let driver = root.join(format!("sys/bus/mdev/devices/{id}/driver"));
        // sysfs gives no times of changes, only the times when the kernel made its inodes.
        let mut made_of = fs::symlink_metadata(driver).ok()?.ino().to_string();
        let record = fs::metadata(run::record_path(root, id)).ok()?;
        let settings = ["", "gfxplane.toml", "conf.d"]
            .map(|name| fs::metadata(root.join("etc/gfxplane").join(name)).ok());
        // The kernel follows the link, so `..` is the parent, whose render node is in the answer.
        let drm = root.join(format!("sys/bus/mdev/devices/{id}/../drm"));
        made_of += &fs::metadata(drm).map_or(" -".to_owned(), |drm| format!(" {}", drm.ino()));
        let schema = fs::metadata(root.join(callout::SCHEMA_OF_LIBVIRT)).ok();
        for file in [Some(record), schema].into_iter().chain(settings) {
            made_of += &file.map_or(" -".to_owned(), |file| {
                format!(" {}:{}.{}", file.ino(), file.ctime(), file.ctime_nsec())
            });
        }
        let directory = root.join(run::BASE).join("answers");
        Some(Place {
            file: directory.join(id.to_string()),
            directory,
            made_of,
        })
    }

    /// Returns the cached answer; `None` if there is none, a source has changed, or somebody other
    /// than root could have written the file.
    pub fn answer(&self, root: &Root) -> Option<String> {
        let text = run::read_trusted(root, &self.file, MAX_SIZE).ok()??;
        let (made_of, answer) = text.split_once('\n')?;
        (made_of == self.made_of).then(|| answer.to_owned())
    }

    /// Keeps an answer. Ignores a failure: the next answer then takes longer. Does nothing if the
    /// directory of answers does not exist, or if `conf.d` has files: a change inside one of these
    /// files does not show in the state.
    pub fn keep(&self, root: &Root, answer: &str) {
        let files = fs::read_dir(root.join("etc/gfxplane/conf.d"));
        if self.directory.is_dir() && !files.is_ok_and(|mut files| files.next().is_some()) {
            let text = format!("{}\n{answer}", self.made_of);
            let _ = run::replace(&self.directory, &self.file, text.as_bytes());
        }
    }
}
