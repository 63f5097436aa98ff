//! `/run/gfxplane/qemu`: what QEMU said of devices, beside the records and written as they are.

use std::io;
use std::path::PathBuf;

use crate::host::run::{self, Written};
use crate::host::{Root, Warning};
use crate::names::DeviceId;
use crate::testimony::Testimony;

const DIRECTORY: &str = "qemu";

/// Where they are, made if it is not there, for whoever wants to watch them.
///
/// # Errors
/// Those of [`run::records_directory`].
pub fn directory(root: &Root) -> io::Result<PathBuf> {
    run::directory(root, DIRECTORY, 0o755)
}

/// What QEMU said of a device, if there is something that can be believed. Whether it still holds
/// is for the caller to see ([`Testimony::circumstances`]).
pub fn read(root: &Root, id: DeviceId, warnings: &mut Vec<Warning>) -> Option<Testimony> {
    let path = path(root, id);
    let problem = match run::read_trusted(root, &path, None) {
        Ok(None) => return None,
        Err(problem) => problem,
        Ok(Some(text)) => match Testimony::parse(&text) {
            Ok(testimony) if testimony.device == id => return Some(testimony),
            Ok(other) => format!("it is about {}", other.device),
            Err(error) => error.to_string(),
        },
    };
    warnings.push(Warning::new(path, format!("ignored: {problem}")));
    None
}

/// Keeps what QEMU said. Nothing else changes: no type is known by it, and the tree shows what was
/// measured.
///
/// # Errors
/// Those of [`run::write_record`].
pub fn write(root: &Root, testimony: &Testimony) -> io::Result<Written> {
    let directory = directory(root)?;
    let _one_writer = run::one_writer(root)?;
    let old = read(root, testimony.device, &mut Vec::new())
        .filter(|old| old.circumstances == testimony.circumstances);
    if old.as_ref().is_some_and(|old| !testimony.supersedes(old)) {
        return Ok(Written::Kept);
    }
    if old.as_ref() != Some(testimony) {
        let path = path(root, testimony.device);
        run::replace(&directory, &path, testimony.to_text().as_bytes())?;
    }
    let same = old.is_some_and(|old| old.display == testimony.display);
    Ok(if same {
        Written::Same
    } else {
        Written::Changed
    })
}

pub(super) fn path(root: &Root, id: DeviceId) -> PathBuf {
    root.join(run::BASE)
        .join(DIRECTORY)
        .join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Display;
    use crate::testimony::tests::testimony;
    use std::fs;

    #[test]
    fn it_is_kept_apart_from_records_and_forgotten_with_them() {
        let keep = tempfile::tempdir().unwrap();
        fs::create_dir(keep.path().join("run")).unwrap();
        let root = Root::recorded(keep.path());
        let region = |learned| testimony(Display::from_answers(false, true), learned);
        let none = |learned| testimony(Display::NONE, learned);
        let id = none(true).device;
        for (new, expected, kept) in [
            (none(true), Written::Changed, none(true)),
            (none(true), Written::Same, none(true)),
            (region(true), Written::Changed, region(true)),
            (region(false), Written::Same, region(false)),
            (none(true), Written::Kept, region(false)),
            (none(false), Written::Changed, none(false)),
        ] {
            assert_eq!(write(&root, &new).unwrap(), expected);
            assert_eq!(read(&root, id, &mut Vec::new()), Some(kept));
        }
        let base = keep.path().join("run/gfxplane");
        let mut there: Vec<String> = fs::read_dir(&base)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, ["lock", "qemu"], "no type, no tree, no record");
        run::forget(&root, id).unwrap();
        assert_eq!(read(&root, id, &mut Vec::new()), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let keep = tempfile::tempdir().unwrap();
        fs::create_dir(keep.path().join("run")).unwrap();
        let root = Root::recorded(keep.path());
        let mine = testimony(Display::NONE, false);
        write(&root, &mine).unwrap();
        let path = path(&root, mine.device);
        for (text, expected) in [
            ("{", "damaged"),
            (
                &mine.to_text().replace("11111111", "21111111"),
                "about 2111",
            ),
            (
                &mine.to_text().replace("none", "unknown"),
                "never of unknown",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let mut warnings = Vec::new();
            assert_eq!(read(&root, mine.device, &mut warnings), None);
            assert!(warnings[0].problem.contains(expected), "{warnings:?}");
        }
    }
}
