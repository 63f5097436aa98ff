//! Mediated devices that mdevctl has a definition of: `/etc/mdevctl.d/PARENT/UUID`.
//!
//! Format: mdevctl src/mdev.rs, `load_from_json` and `to_json`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::host::{Root, Warning, is_dir, read_names, read_text};
use crate::nodedev::words::PREFIX;

/// One definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The device that it would make.
    pub uuid: Uuid,
    /// sysfs name of the device on which.
    pub parent: String,
    /// Of which type.
    pub type_id: String,
    /// Whether mdevctl makes it when the parent appears.
    pub autostart: bool,
}

#[derive(Deserialize)]
struct DefinitionFile {
    mdev_type: String,
    #[serde(default)]
    start: String,
}

/// Reads all definitions, sorted by parent and UUID. Files that are none are passed over; such
/// that should be one but can't be read give a warning.
pub fn read(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Definition> {
    let base = root.join("etc/mdevctl.d");
    let mut definitions = Vec::new();
    for parent in read_names(&base, warnings) {
        if parent == "scripts.d" || !is_dir(&base.join(&parent)) {
            continue;
        }
        for name in read_names(&base.join(&parent), warnings) {
            let Ok(uuid) = Uuid::parse_str(&name) else {
                continue;
            };
            let path = base.join(&parent).join(&name);
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
                    warnings.push(Warning::new(
                        path,
                        format!("is no definition of mdevctl's: {error}"),
                    ));
                }
            }
        }
    }
    definitions
}

/// The text of a definition without attributes of ours; `None` if there are none in it.
///
/// # Errors
/// If it is not JSON.
pub fn without_our_attributes(text: &str) -> serde_json::Result<Option<String>> {
    let mut definition: Value = serde_json::from_str(text)?;
    let Some(Value::Array(attrs)) = definition.get_mut("attrs") else {
        return Ok(None);
    };
    let ours = |attr: &Value| {
        attr.as_object()
            .is_some_and(|attr| !attr.is_empty() && attr.keys().all(|key| key.starts_with(PREFIX)))
    };
    let before = attrs.len();
    attrs.retain(|attr| !ours(attr));
    if attrs.len() == before {
        return Ok(None);
    }
    // mdevctl writes its definitions in this form (src/mdev.rs, write_config).
    serde_json::to_string_pretty(&definition).map(Some)
}

/// Takes attributes of ours out of a definition on disk, whole or not at all: a temporary file
/// beside it, then a rename. `Ok(false)`: nothing was to be done.
///
/// mdevctl would otherwise write each stored attribute to sysfs at the next start, and fail.
/// The temporary file lies in the parent's directory, where mdevctl passes over names that are
/// no UUID; one level up, a file that vanishes while it lists would make `mdevctl list` fail.
///
/// # Errors
/// Any error of the file system; a definition that is not JSON.
pub fn clean(root: &Root, parent: &str, uuid: Uuid) -> io::Result<bool> {
    let directory = root.join("etc/mdevctl.d").join(parent);
    let inside = Path::new(parent).components().count() == 1 && !parent.starts_with('.');
    if !inside {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{parent:?} is no device"),
        ));
    }
    let path: PathBuf = directory.join(uuid.hyphenated().to_string());
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    let Some(cleaned) = without_our_attributes(&text)? else {
        return Ok(false);
    };
    let permissions = fs::metadata(&path)?.permissions();
    let mut file = tempfile::Builder::new()
        .prefix(".gfxplane-")
        .tempfile_in(&directory)?;
    file.write_all(cleaned.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

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
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let uuid = Uuid::parse_str(UUID).unwrap();
        assert!(!clean(&root, "0000:00:02.0", uuid).unwrap());
        let parent = root.join("etc/mdevctl.d/0000:00:02.0");
        fs::create_dir_all(&parent).unwrap();
        let path = parent.join(UUID);
        fs::write(
            &path,
            r#"{"mdev_type":"t","attrs":[{"gfxplane.display":"none"}]}"#,
        )
        .unwrap();
        assert!(clean(&root, "0000:00:02.0", uuid).unwrap());
        assert!(!fs::read_to_string(&path).unwrap().contains("gfxplane"));
        assert!(!clean(&root, "0000:00:02.0", uuid).unwrap());
        assert_eq!(
            fs::read_dir(&parent).unwrap().count(),
            1,
            "the temporary file is gone"
        );
        assert!(clean(&root, "../x", uuid).is_err() && clean(&root, ".", uuid).is_err());
    }

    #[test]
    fn damaged_definitions_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let parent = root.join("etc/mdevctl.d/p");
        fs::create_dir_all(&parent).unwrap();
        fs::create_dir_all(root.join("etc/mdevctl.d/scripts.d/callouts")).unwrap();
        fs::write(
            parent.join(UUID),
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
