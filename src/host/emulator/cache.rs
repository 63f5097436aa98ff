//! Keeps the abilities of an emulator in `/var/cache/gfxplane/qemu`, together with the state of the
//! files on which they depend.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::module_directories;
use super::libvirt_settings;
use crate::device::record::MAX_SIZE;
use crate::device::version::Version;
use crate::host::{Root, Warning, or_ignored, read_names, run};
use crate::predict::abilities::Abilities;

pub(super) const CACHE: &str = "var/cache/gfxplane";

/// Returns the paths of the emulators in the cache, sorted, whether or not the emulators still
/// exist. A file that can't be used is ignored with a warning.
pub fn known(root: &Root, warnings: &mut Vec<Warning>) -> Vec<PathBuf> {
    let directory = root.join(CACHE).join("qemu");
    let names = read_names(&directory, warnings);
    let names = names.iter().filter(|name| name.ends_with(".json"));
    let kept = names.filter_map(|name| read(root, &directory.join(name), warnings));
    let emulators: BTreeSet<PathBuf> = kept.map(|kept| kept.emulator).collect();
    emulators.into_iter().collect()
}

/// The cache's contents about one QEMU.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) format: u32,
    pub(super) emulator: PathBuf,
    /// The state on which the abilities depend; missing on recorded hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Key>,
    pub(super) abilities: Abilities,
}

/// The state of the emulator's files and of libvirt. If it changes, the abilities may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    device: u64,
    inode: u64,
    size: u64,
    modified: String,
    /// The directories that may hold QEMU's modules, with the time when a file was last added or
    /// removed. A module changes QEMU's abilities without changing the program.
    modules: BTreeMap<PathBuf, String>,
    /// The installed libvirt, because another version may accept other graphics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) libvirt: Option<Version>,
    /// True if libvirt finds qemu-rdp, without which it accepts no graphics of type rdp (libvirt
    /// src/qemu/qemu_rdp.c, `qemuRdpAvailable`).
    #[serde(default)]
    rdp: bool,
}

/// Returns a value as the JSON text of a cache file.
pub(super) fn to_text(kept: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(kept)? + "\n")
}

impl Key {
    /// Returns the present state of an emulator's files and of libvirt. Fails if the emulator does
    /// not exist or can't be reached.
    pub(super) fn of(root: &Root, emulator: &Path) -> io::Result<Self> {
        let program = fs::metadata(root.join(emulator))?;
        let modified = |data: &Metadata| format!("{}.{:09}", data.mtime(), data.mtime_nsec());
        let modules = module_directories(root, emulator).into_iter();
        Ok(Key {
            device: program.dev(),
            inode: program.ino(),
            size: program.size(),
            modified: modified(&program),
            modules: modules
                .filter_map(|path| Some((modified(&fs::metadata(&path).ok()?), path)))
                .map(|(modified, path)| (path, modified))
                .collect(),
            libvirt: libvirt_settings::version(root),
            rdp: libvirt_settings::has_rdp(root),
        })
    }
}

/// Returns the path of an emulator's cache file: the emulator's path with `,` for `/`, and escapes,
/// so that no two emulators share a file.
pub(super) fn kept_path(root: &Root, emulator: &Path) -> PathBuf {
    path_in("qemu", root, emulator)
}

/// Returns the path of an emulator's file in `directory` of the cache. [`kept_path`] describes its
/// name.
pub(super) fn path_in(directory: &str, root: &Root, emulator: &Path) -> PathBuf {
    let mut name = String::new();
    let emulator = emulator.strip_prefix("/").unwrap_or(emulator);
    for byte in emulator.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' => name.push(','),
            byte if byte.is_ascii_alphanumeric() || b"._-+".contains(byte) => {
                name.push(char::from(*byte));
            }
            byte => name.push_str(&format!("%{byte:02x}")),
        }
    }
    root.join(CACHE).join(directory).join(name + ".json")
}

pub(super) fn read(root: &Root, path: &Path, warnings: &mut Vec<Warning>) -> Option<Kept> {
    or_ignored(parsed(root, path), path, warnings)
}

pub(super) fn parsed<T: DeserializeOwned>(root: &Root, path: &Path) -> Result<Option<T>, String> {
    run::read_own_json(root, path, MAX_SIZE)
}

pub(super) fn keep(path: &Path, kept: &impl Serialize) -> io::Result<()> {
    let text = to_text(kept)?;
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(directory)?;
    run::replace(directory, path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::made::{Host, QEMU, nothing};
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_cache_that_cannot_be_believed_is_named_and_replaced() {
        let host = Host::new();
        host.find(true);
        let good = fs::read_to_string(host.kept()).unwrap();
        let of_other = good.replace("x86_64", "aarch64");
        let large = " ".repeat(65537);
        for (text, expected) in [
            ("{", "damaged"),
            ("[]", "damaged"),
            ("", "damaged"),
            ("{\"format\": 1}", "missing field"),
            ("{\"format\": 2}", "its format is 2"),
            (&of_other, "it is about /usr/bin/qemu-system-aarch64"),
            (&large, "larger than 64 KiB"),
        ] {
            fs::write(host.kept(), text).unwrap();
            let (abilities, warnings) = host.find(false);
            assert_eq!((abilities, warnings.len()), (nothing(), 1), "{expected}");
            let warning = warnings[0].to_string();
            assert!(
                warning.contains(expected) && warning.contains(",qemu-system"),
                "{warning}"
            );
            assert_ne!(host.find(true).0, nothing());
            assert_eq!(fs::read_to_string(host.kept()).unwrap(), good, "{expected}");
        }
        fs::set_permissions(host.kept(), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(host.find(false).1[0].problem.contains("written by others"));
        fs::rename(host.kept(), host.root().join("else")).unwrap();
        symlink(host.root().join("else"), host.kept()).unwrap();
        assert!(host.find(false).1[0].problem.contains("is a link"));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_done_without() {
        let host = Host::new();
        fs::create_dir(host.root().join("var")).unwrap();
        fs::write(host.root().join("var/cache"), "").unwrap();
        for _ in 0..2 {
            let (abilities, warnings) = host.find(true);
            assert_eq!((abilities.has("vnc"), warnings), (Some(true), Vec::new()));
        }
        assert_eq!(host.asked(), 2);
    }

    #[test]
    fn no_two_emulators_have_one_file() {
        let root = Root::recorded("/r");
        let name = |path: &str| {
            let path = kept_path(&root, Path::new(path));
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(QEMU), "usr,bin,qemu-system-x86_64.json");
        let paths = ["/a/b", "/a,b", "/a%2cb", "/a%252cb", "/a\u{e4}b", "/a b"];
        let names: BTreeSet<String> = paths.iter().map(|path| name(path)).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
    }
}
