//! Reads the domains of a host from libvirt's files, for hosts whose libvirt can't be asked.

use std::path::PathBuf;

use crate::host::{Root, Warning, exists, is_dir, read_names_that, read_whole};

/// The directory of persistent definitions (libvirt src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`,
/// `configDir`).
pub(crate) const DEFINITIONS: &str = "etc/libvirt/qemu";

/// The directory with the state of running domains (`stateDir` in `virQEMUDriverConfigNew`).
const RUNNING: &str = "run/libvirt/qemu";

/// The ending of a domain's file.
const ENDING: &str = ".xml";

/// The largest definition that is read, in bytes: the longest string of libvirt's protocol
/// (src/remote/remote_protocol.x, `REMOTE_STRING_MAX`).
const LARGEST: usize = 4 << 20;

/// A domain, as libvirt's files show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainFile {
    /// The domain's name, from the name of the file.
    pub name: String,
    /// The domain's persistent definition in XML.
    pub xml: String,
    /// True if the domain runs; `None` if libvirt's directory of running domains does not exist.
    pub runs: Option<bool>,
}

/// Returns the names of the domains that have a file, sorted; `None` if there is no directory of
/// definitions or it can't be read.
pub(crate) fn names(root: &Root, warnings: &mut Vec<Warning>) -> Option<Vec<String>> {
    let directory = root.join(DEFINITIONS);
    if !is_dir(&directory) || std::fs::read_dir(&directory).is_err() {
        return None;
    }
    let files = read_names_that(|name| name.ends_with(ENDING), &directory, warnings);
    let name = |file: String| file[..file.len() - ENDING.len()].to_owned();
    Some(files.into_iter().map(name).collect())
}

/// Returns the path of a domain's file.
pub(crate) fn path(root: &Root, name: &str) -> PathBuf {
    root.join(DEFINITIONS).join(format!("{name}{ENDING}"))
}

/// Returns the domains that have a file, sorted by name. A file that can't be read gives a warning,
/// and is left out. Returns `None` if the directory of definitions does not exist or can't be read.
pub(crate) fn read(root: &Root, warnings: &mut Vec<Warning>) -> Option<Vec<DomainFile>> {
    let running = root.join(RUNNING);
    let is_seen = is_dir(&running);
    let mut found = Vec::new();
    for name in names(root, warnings)? {
        let path = path(root, &name);
        match read_whole(&path, LARGEST) {
            Ok(xml) => found.push(DomainFile {
                runs: is_seen.then(|| exists(&running.join(format!("{name}{ENDING}")))),
                name,
                xml,
            }),
            Err(error) => warnings.push(Warning::new(path, format!("can't be read: {error}"))),
        }
    }
    Some(found)
}
