//! Reads mdevctl's definitions of mediated devices: `/etc/mdevctl.d/PARENT/UUID`.
//!
//! The format is that of mdevctl src/mdev.rs, `load_from_json` and `to_json`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::device::facts::PREFIX;
use crate::host::rewrite::rewrite;
use crate::host::{MAX_TEXT, Root, Warning, is_dir, read_names, read_text, read_whole};

/// The systemd drop-in that puts our wrapper of mdevctl first in libvirtd's PATH. The administrator
/// can install it on a host with a libvirt before 10.1 (packaging/libvirt-9).
pub(crate) const WRAPPER: &str = "etc/systemd/system/libvirtd.service.d/gfxplane-mdevctl.conf";

/// A definition of a mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The device's UUID.
    pub uuid: Uuid,
    /// The sysfs name of the device's parent.
    pub parent: String,
    /// The id of the device's mdev type, such as `nvidia-222`.
    pub type_id: String,
    /// True if mdevctl creates the device as soon as the parent appears.
    pub autostart: bool,
}

#[derive(Deserialize)]
struct DefinitionFile {
    mdev_type: String,
    #[serde(default)]
    start: String,
}

/// Reads all definitions, sorted by parent and UUID. Files whose names are no UUIDs are ignored. A
/// definition that can't be read gives a warning.
pub fn read(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Definition> {
    let base = root.join("etc/mdevctl.d");
    let mut definitions = Vec::new();
    for parent in read_names(&base, warnings) {
        let directory = base.join(&parent);
        if parent == "scripts.d" || !is_dir(&directory) {
            continue;
        }
        for name in read_names(&directory, warnings) {
            let path = directory.join(&name);
            let Ok(uuid) = Uuid::parse_str(&name) else {
                continue;
            };
            let Some(text) = read_text(&path, warnings) else {
                continue;
            };
            match serde_json::from_str::<DefinitionFile>(&text) {
                Ok(file) => definitions.push(Definition {
                    uuid,
                    parent: parent.clone(),
                    type_id: file.mdev_type,
                    autostart: file.start == "auto",
                }),
                Err(error) => {
                    let problem = format!("is not a definition of mdevctl: {error}");
                    warnings.push(Warning::new(path, problem));
                }
            }
        }
    }
    definitions
}

/// Returns the text of a definition without our attributes; `None` if it has no attributes of ours.
///
/// # Errors
/// The text is not JSON.
pub fn without_our_attributes(text: &str) -> serde_json::Result<Option<String>> {
    let mut definition: Value = serde_json::from_str(text)?;
    let Some(Value::Array(attrs)) = definition.get_mut("attrs") else {
        return Ok(None);
    };
    let before = attrs.len();
    attrs.retain(|attr| !is_ours(attr));
    if attrs.len() == before {
        return Ok(None);
    }
    // mdevctl writes its definitions in this form (src/mdev.rs, write_config).
    serde_json::to_string_pretty(&definition).map(Some)
}

/// Adds attributes to the output of `mdevctl list --dumpjson --defined`. `words_of` returns a
/// device's attributes, without our prefix, for the parent's sysfs name and the device's UUID. A
/// definition that already has attributes of ours stays as it is.
///
/// Returns `None` if there is nothing to add, or if the output is not exactly in mdevctl's form
/// (1.2 writes a newline at the end, 1.4 does not).
pub fn with_attributes(
    printed: &str,
    mut words_of: impl FnMut(&str, Uuid) -> Option<Vec<(String, String)>>,
) -> Option<String> {
    let mut list: Value = serde_json::from_str(printed).ok()?;
    let ending = &printed[printed.trim_end().len()..];
    let text = |list: &Value| serde_json::to_string_pretty(list).ok().map(|t| t + ending);
    if text(&list).as_deref() != Some(printed) {
        return None;
    }
    let [parents] = list.as_array_mut()?.as_mut_slice() else {
        return None;
    };
    let mut added = false;
    for (parent, devices) in parents.as_object_mut()? {
        for device in devices.as_array_mut()? {
            let device = device.as_object_mut()?;
            if device.len() != 1 {
                return None;
            }
            let (uuid, definition) = device.iter_mut().next()?;
            let uuid = Uuid::parse_str(uuid).ok()?;
            let attrs = definition.get_mut("attrs")?.as_array_mut()?;
            if attrs.iter().any(is_ours) {
                continue;
            }
            for (name, value) in words_of(parent, uuid).unwrap_or_default() {
                attrs.push(json!({ format!("{PREFIX}{name}"): value }));
                added = true;
            }
        }
    }
    added.then(|| text(&list))?
}

fn is_ours(attr: &Value) -> bool {
    attr.as_object()
        .is_some_and(|attr| !attr.is_empty() && attr.keys().all(|key| key.starts_with(PREFIX)))
}

/// Makes libvirt read a device's definition again, for a libvirt that takes attributes only from
/// definitions: gives the parent's directory in `/etc/mdevctl.d`, which libvirt watches, a new
/// time. Returns `Ok(false)` if [`WRAPPER`] is not installed or mdevctl has no definition of the
/// device.
///
/// # Errors
/// Any error of the file system.
pub fn have_read_again(root: &Root, parent: &str, uuid: Uuid) -> io::Result<bool> {
    let directory = root.join("etc/mdevctl.d").join(parent);
    let definition = directory.join(uuid.hyphenated().to_string());
    if !root.join(WRAPPER).exists() || !definition.exists() {
        return Ok(false);
    }
    File::open(&directory)?.set_modified(SystemTime::now())?;
    Ok(true)
}

/// Removes our attributes from a definition on disk, in place, as mdevctl writes its definitions.
/// Returns `Ok(false)` if there was nothing to do.
///
/// Without this, mdevctl would write each stored attribute to sysfs at the device's next start, and
/// fail.
///
/// # Errors
/// Any error of the file system; the definition is not JSON, or larger than 64 KiB; `parent` is no
/// name of a directory.
pub fn clean(root: &Root, parent: &str, uuid: Uuid) -> io::Result<bool> {
    let directory = root.join("etc/mdevctl.d").join(parent);
    let inside = Path::new(parent).components().count() == 1 && !parent.starts_with('.');
    if !inside {
        let problem = format!("{parent:?} is no device");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let path = directory.join(uuid.hyphenated().to_string());
    let text = match read_whole(&path, MAX_TEXT as usize) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        text => text?,
    };
    let Some(cleaned) = without_our_attributes(&text)? else {
        return Ok(false);
    };
    rewrite(&path, &text, &cleaned)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    const UUID: Uuid = Uuid::from_u128(0x11111111_2222_3333_4444_555555555555);
    const PARENT: &str = "0000:00:02.0";
    const WITH_OURS: &str = r#"{"mdev_type":"t","attrs":[{"gfxplane.display":"none"}]}"#;

    /// Makes a host. Also returns the directory of the definitions below one parent.
    fn host() -> (tempfile::TempDir, Root, std::path::PathBuf) {
        let (keep, root) = crate::host::empty();
        let parent = root.join("etc/mdevctl.d").join(PARENT);
        fs::create_dir_all(&parent).unwrap();
        (keep, root, parent)
    }

    #[test]
    fn only_our_attributes_go() {
        for (before, after) in [
            (
                r#"{"mdev_type":"t","start":"manual","attrs":[{"gfxplane.display":"dmabuf"},{"a":"1"},{"gfxplane.graphics.gl":"yes"}]}"#,
                Some(r#"{"mdev_type":"t","start":"manual","attrs":[{"a":"1"}]}"#),
            ),
            (
                r#"{"start":"auto","mdev_type":"t","attrs":[{"gfxplane.x":"1"}]}"#,
                Some(r#"{"start":"auto","mdev_type":"t","attrs":[]}"#),
            ),
            (r#"{"mdev_type":"t","attrs":[{"a":"gfxplane.b"}]}"#, None),
            (r#"{"mdev_type":"t","attrs":[]}"#, None),
            (r#"{"mdev_type":"t"}"#, None),
            (r#"{"mdev_type":"t","attrs":[{},"x",3]}"#, None),
        ] {
            let cleaned = without_our_attributes(before).unwrap();
            let compact =
                cleaned.map(|text| serde_json::from_str::<Value>(&text).unwrap().to_string());
            assert_eq!(compact.as_deref(), after);
        }
        assert!(without_our_attributes("{").is_err());
    }

    #[test]
    fn a_definition_is_cleaned_in_place() {
        let (_keep, root, parent) = host();
        assert!(!clean(&root, PARENT, UUID).unwrap());
        let path = parent.join(UUID.to_string());
        fs::write(&path, WITH_OURS).unwrap();
        assert!(clean(&root, PARENT, UUID).unwrap());
        assert!(!fs::read_to_string(&path).unwrap().contains("gfxplane"));
        assert!(!clean(&root, PARENT, UUID).unwrap());
        assert!(clean(&root, "../x", UUID).is_err() && clean(&root, ".", UUID).is_err());
    }

    #[test]
    fn a_link_stays_one_and_a_file_has_its_names() {
        let (directory, root, parent) = host();
        let (real, link) = (directory.path().join("real"), parent.join(UUID.to_string()));
        fs::write(&real, WITH_OURS).unwrap();
        symlink(&real, &link).unwrap();
        assert!(clean(&root, PARENT, UUID).unwrap());
        assert!(link.is_symlink() && !fs::read_to_string(&real).unwrap().contains("gfxplane"));
        // A file with a second name keeps it.
        let other = directory.path().join("other");
        fs::hard_link(&real, &other).unwrap();
        fs::write(&other, WITH_OURS).unwrap();
        assert!(clean(&root, PARENT, UUID).unwrap());
        let [first, second] = [&real, &other].map(|path| fs::read_to_string(path).unwrap());
        assert!(first == second && !first.contains("gfxplane"), "{first}");
        serde_json::from_str::<Value>(&first).unwrap();
        assert_eq!(fs::metadata(&other).unwrap().nlink(), 2);
    }

    /// Opening a FIFO must not wait for a writer.
    #[test]
    fn a_fifo_for_a_definition_is_an_error() {
        let (_keep, root, parent) = host();
        let path = parent.join(UUID.to_string());
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let error = clean(&root, PARENT, UUID).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        let mut warnings = Vec::new();
        assert_eq!(
            (read(&root, &mut warnings), warnings.len()),
            (Vec::new(), 1)
        );
    }

    #[test]
    fn libvirt_reads_again_if_the_wrapper_is_on() {
        let (_keep, root, parent) = host();
        let long_ago = SystemTime::UNIX_EPOCH;
        File::open(&parent).unwrap().set_modified(long_ago).unwrap();
        let is_old = || fs::metadata(&parent).unwrap().modified().unwrap() == long_ago;
        let again = || have_read_again(&root, PARENT, UUID).unwrap();
        let (definition, switch) = (parent.join(UUID.to_string()), root.join(WRAPPER));
        root.put(WRAPPER, "");
        assert!(!again() && is_old(), "it is not defined");
        fs::write(&definition, "{}").unwrap();
        File::open(&parent).unwrap().set_modified(long_ago).unwrap();
        fs::remove_file(&switch).unwrap();
        assert!(!again() && is_old(), "it is switched off");
        fs::write(&switch, "").unwrap();
        assert!(again() && !is_old());
    }

    #[test]
    fn damaged_definitions_are_passed_over() {
        let (_keep, root, parent) = host();
        fs::create_dir_all(root.join("etc/mdevctl.d/scripts.d/callouts")).unwrap();
        fs::write(
            parent.join(UUID.to_string()),
            r#"{"mdev_type":"t","start":"auto","attrs":[]}"#,
        )
        .unwrap();
        fs::write(parent.join("21111111-2222-3333-4444-555555555555"), "{").unwrap();
        fs::write(parent.join("notes"), "x").unwrap();
        let mut warnings = Vec::new();
        let definitions = read(&root, &mut warnings);
        assert_eq!((definitions.len(), warnings.len()), (1, 1));
        assert!(definitions[0].autostart);
    }
}
