//! Reads the domains of a host from libvirt's files, for hosts whose libvirt can't be asked.

use crate::host::{Root, Warning, exists, is_dir, read_names_that, read_whole};

/// The directory of the persistent definitions (libvirt src/qemu/qemu_conf.c,
/// `virQEMUDriverConfigNew`, `configDir`).
pub(crate) const DEFINITIONS: &str = "etc/libvirt/qemu";

/// The directory of the running domains' state (`stateDir` there).
const RUNNING: &str = "run/libvirt/qemu";

/// The largest definition that is read, in bytes, as large as libvirt's own limit for an XML
/// document over the wire (src/remote/remote_protocol.x, `REMOTE_STRING_MAX`).
const LARGEST: usize = 4 << 20;

/// A domain's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainFile {
    /// The domain's name, which names the file.
    pub name: String,
    /// The XML.
    pub xml: String,
    /// True if the domain runs; `None` if that can't be seen.
    pub runs: Option<bool>,
}

/// Returns the domains of libvirt's files, sorted by name; `None` if there is no directory of
/// definitions or it can't be read.
pub(crate) fn read(root: &Root, warnings: &mut Vec<Warning>) -> Option<Vec<DomainFile>> {
    let directory = root.join(DEFINITIONS);
    if !is_dir(&directory) || std::fs::read_dir(&directory).is_err() {
        return None;
    }
    let running = root.join(RUNNING);
    let is_seen = is_dir(&running);
    let mut found = Vec::new();
    for file in read_names_that(|name| name.ends_with(".xml"), &directory, warnings) {
        let path = directory.join(&file);
        let name = file.trim_end_matches(".xml").to_owned();
        match read_whole(&path, LARGEST) {
            Ok(xml) => found.push(DomainFile {
                runs: is_seen.then(|| exists(&running.join(&file))),
                name,
                xml,
            }),
            Err(error) => warnings.push(Warning::new(path, format!("can't be read: {error}"))),
        }
    }
    Some(found)
}
