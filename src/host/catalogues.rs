//! Reads the catalogues of libvirt's messages in other languages, as gettext installs them.

use std::io::Read;
use std::path::PathBuf;

use crate::host::{Root, open_file, read_names};

/// The largest catalogue that is read, in bytes. Those of libvirt 12 are below 1.5 MiB.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Returns libvirt's catalogues of all installed languages. Each is read when the caller asks for
/// it.
pub fn libvirts(root: &Root) -> impl Iterator<Item = Vec<u8>> + use<> {
    let directory = root.join("usr/share/locale");
    let languages = read_names(&directory, &mut Vec::new()).into_iter();
    let path = move |language: String| -> PathBuf {
        directory.join(language).join("LC_MESSAGES/libvirt.mo")
    };
    languages.filter_map(move |language| {
        let mut bytes = Vec::new();
        let file = open_file(&path(language)).ok()?;
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    })
}
