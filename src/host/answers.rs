//! `/run/gfxplane/answers`: what was answered to mdevctl, word for word.
//!
//! libvirt has mdevctl list all devices at each mdev that it finds, so for N of them the callout
//! answers N² times. An answer is given again as long as none of its sources has changed. The first
//! line of the answer's file names the sources: the inode of the driver's link (a device that is
//! made anew, or bound anew, has a new one) and of the parent's directory of render nodes, and
//! inode and time of the record, of the settings and of the schema by which libvirt tells displays
//! itself.
//!
//! Only a directory that is there is used: packaging/gfxplane.tmpfiles makes it, and a new package empties it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::device::id::DeviceId;
use crate::host::{Root, callout, run};

/// The most bytes that a file of an answer may have. An answer of all words that there are has less than a fourth.
const MAX_SIZE: usize = 8192;

/// The place of a device's answer.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    file: PathBuf,
    made_of: String,
}

impl Place {
    /// Looks at the present state of an answer's sources. Call this before reading the sources.
    /// Returns `None` if the device has no driver or no record, so that there is no answer.
    pub fn of(root: &Root, id: DeviceId) -> Option<Self> {
        let driver = root.join(format!("sys/bus/mdev/devices/{id}/driver"));
        // The times in sysfs are those at which the kernel has made its own notes of a file.
        let mut made_of = fs::symlink_metadata(driver).ok()?.ino().to_string();
        let record = fs::metadata(run::record_path(root, id)).ok()?;
        let settings = ["", "gfxplane.toml", "conf.d"]
            .map(|name| fs::metadata(root.join("etc/gfxplane").join(name)).ok());
        // The kernel follows the link, so `..` is the parent, whose render node is told.
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

    /// Returns the answer that was kept, if its sources have not changed, and nobody but root could
    /// have written it.
    pub fn answer(&self, root: &Root) -> Option<String> {
        let text = run::read_trusted(root, &self.file, MAX_SIZE).ok()??;
        let (made_of, answer) = text.split_once('\n')?;
        (made_of == self.made_of).then(|| answer.to_owned())
    }

    /// Keeps an answer. A failure is ignored: the next answer then takes longer. Keeps none if
    /// there is no directory of answers, or if `conf.d` has files: a change that is written into
    /// one of these in place would not be noticed.
    pub fn keep(&self, root: &Root, answer: &str) {
        let files = fs::read_dir(root.join("etc/gfxplane/conf.d"));
        if self.directory.is_dir() && !files.is_ok_and(|mut files| files.next().is_some()) {
            let text = format!("{}\n{answer}", self.made_of);
            let _ = run::replace(&self.directory, &self.file, text.as_bytes());
        }
    }
}
