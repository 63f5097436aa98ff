//! Changes a file that belongs to another program: vdsm's `_hook_domxml`, or one of mdevctl's
//! definitions that has hard links.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Replaces a file's content by `new`. `old` is the present content. Mode and owner stay.
///
/// Writes a temporary file beside the file and renames it, so that a reader sees the old text or
/// the new one. If that fails (the directory can't be written, or the file is a link, has hard
/// links or belongs to another user), writes into the file itself. If that fails, too, puts the old
/// text back.
///
/// # Errors
/// Any error of the file system. The file then has the old text, unless that could not be restored;
/// then the error says so.
pub fn rewrite(path: &Path, old: &str, new: &str) -> io::Result<()> {
    match beside(path, new) {
        Ok(()) => Ok(()),
        Err(_) => in_place(path, old, new),
    }
}

fn beside(path: &Path, new: &str) -> io::Result<()> {
    let before = fs::symlink_metadata(path)?;
    if !before.is_file() || before.nlink() != 1 {
        return Err(io::Error::other("it has hard links, or is a link"));
    }
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".gfxplane-")
        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(new.as_bytes())?;
    let made = file.as_file().metadata()?;
    if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
        fchown(file.as_file(), Some(before.uid()), Some(before.gid()))?;
    }
    // This comes after the owner, because a change of owner removes mode bits.
    file.as_file().set_permissions(before.permissions())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn in_place(path: &Path, old: &str, new: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let Err(error) = fill(&mut file, new) else {
        return Ok(());
    };
    match fill(&mut file, old) {
        Ok(()) => Err(error),
        Err(again) => Err(io::Error::new(
            error.kind(),
            format!("{error}; the old content could not be restored: {again}"),
        )),
    }
}

/// Writes a text over another. If the old text is longer, newlines replace the rest of it before
/// the file is cut off. So nobody reads a mixture of the two, not even if we are killed in between.
fn fill(file: &mut File, text: &str) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut whole = text.to_owned();
    whole.extend(std::iter::repeat_n('\n', length.saturating_sub(text.len())));
    file.seek(SeekFrom::Start(0))?;
    file.write_all(whole.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn whole_and_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domxml");
        for bits in [0o600, 0o640, 0o444] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            rewrite(&path, "old", "something longer").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "something longer");
            assert_eq!(mode(&path), bits);
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_stays_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&path, "a longer text").unwrap();
        symlink(&path, &link).unwrap();
        rewrite(&link, "a longer text", "short").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        let other = directory.path().join("other");
        fs::hard_link(&path, &other).unwrap();
        rewrite(&path, "short", "both").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "both");
    }

    #[test]
    fn what_is_full_keeps_what_it_had() {
        let full = Path::new("/dev/full");
        let error = in_place(full, "old", "new").unwrap_err();
        assert_eq!(error.raw_os_error(), None, "{error}");
        assert!(
            error.to_string().contains("could not be restored"),
            "{error}"
        );
        assert!(rewrite(Path::new("/nonexistent/file"), "", "").is_err());
    }
}
