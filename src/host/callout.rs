//! Our links among mdevctl's callouts, in `/etc/mdevctl.d/scripts.d/callouts`. mdevctl runs the
//! scripts of `/usr/lib/mdevctl/scripts.d`, then the scripts of this directory, each sorted by name
//! (mdevctl src/environment.rs, `callout_script_dirs`), and uses the first answer. So a vendor's
//! answer is used before ours.
//!
//! A callout makes libvirt take several times as long to start: for each mdev that libvirt finds,
//! it runs mdevctl, which lists all mdevs and runs every callout for each. So the daemon makes a
//! link once libvirt has listed its devices, and removes it when libvirt ends. A host without the
//! daemon may have a permanent link: `callout = "static"`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::config::CalloutLink;
use crate::host::{Root, settings};

const DIRECTORY: &str = "etc/mdevctl.d/scripts.d/callouts";

/// The name of the permanent link. The package's link among mdevctl's notifiers has this name, too.
const STATIC: &str = "99-gfxplane";

/// The name of the daemon's link. A link of this name that a killed daemon has left is removed
/// (packaging/gfxplane.service, packaging/gfxplane.tmpfiles).
pub(crate) const OF_DAEMON: &str = "99-gfxplane-watch";

/// The program to which our links lead.
const HELPER: &str = "/usr/bin/gfxplane-helper";

/// A file of a libvirt that has our patches, and so reports displays itself (upstream/libvirt).
pub(crate) const SCHEMA_OF_LIBVIRT: &str = "usr/share/libvirt/schemas/vfio-display.rng";

/// Returns whether libvirt reports displays itself, so that our attributes would only repeat them.
pub fn is_told_by_libvirt(root: &Root) -> bool {
    root.join(SCHEMA_OF_LIBVIRT).exists()
}

/// Returns whether this is the name of the permanent link or of the daemon's link.
pub(crate) fn is_ours(name: &str) -> bool {
    [STATIC, OF_DAEMON].contains(&name)
}

/// Makes a link of this name to the helper, and the links' directory. Replaces any file of this
/// name.
///
/// # Errors
/// Any error of the file system.
pub fn make(root: &Root, name: &str) -> io::Result<()> {
    let path = path(root, name);
    if fs::read_link(&path).is_ok_and(|target| target == Path::new(HELPER)) {
        return Ok(());
    }
    remove(root, name)?;
    fs::create_dir_all(root.join(DIRECTORY))?;
    std::os::unix::fs::symlink(HELPER, path)
}

/// Removes the link of this name.
///
/// # Errors
/// Any error of the file system. It is no error if there is no link.
pub fn remove(root: &Root, name: &str) -> io::Result<()> {
    super::remove(&path(root, name))
}

/// Makes the permanent link if the setting is `callout = "static"`, and removes it otherwise.
///
/// # Errors
/// Any error of the file system.
pub fn set(root: &Root) -> io::Result<()> {
    match settings::config(root, &mut Vec::new()).callout {
        CalloutLink::Static => make(root, STATIC),
        CalloutLink::Daemon => remove(root, STATIC),
    }
}

fn path(root: &Root, name: &str) -> PathBuf {
    root.join(DIRECTORY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_and_go() {
        let (_keep, root) = crate::host::empty();
        let target = |name| fs::read_link(path(&root, name)).ok();
        remove(&root, OF_DAEMON).unwrap();
        for _ in 0..2 {
            make(&root, OF_DAEMON).unwrap();
            assert_eq!(target(OF_DAEMON), Some(HELPER.into()));
        }
        // A link that leads elsewhere is replaced.
        remove(&root, OF_DAEMON).unwrap();
        std::os::unix::fs::symlink("/nowhere", path(&root, OF_DAEMON)).unwrap();
        make(&root, OF_DAEMON).unwrap();
        assert_eq!(target(OF_DAEMON), Some(HELPER.into()));
        remove(&root, OF_DAEMON).unwrap();
        assert_eq!(target(OF_DAEMON), None);
    }

    #[test]
    fn the_setting_decides_of_the_one_that_stays() {
        let (_keep, root) = crate::host::empty();
        let is_there = || path(&root, STATIC).is_symlink();
        set(&root).unwrap();
        assert!(!is_there());
        root.put("etc/gfxplane/gfxplane.toml", "callout = 'static'");
        set(&root).unwrap();
        assert!(is_there());
        root.put("etc/gfxplane/gfxplane.toml", "");
        set(&root).unwrap();
        assert!(!is_there());
    }
}
