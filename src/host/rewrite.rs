//! Changes a file that belongs to another program: vdsm's `_hook_domxml`, or one of mdevctl's
//! definitions.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// Replaces the file's content `old` by `new` in the file itself, so that its owner, its mode and
/// its names stay. If that fails, puts the old text back.
///
/// # Errors
/// Any error of the file system. The file then has the old text, unless that could not be restored;
/// then the error says so.
pub fn rewrite(path: &Path, old: &str, new: &str) -> io::Result<()> {
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
/// A loss of power before the text is on the disk may leave neither.
fn fill(file: &mut File, text: &str) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut whole = text.to_owned();
    whole.extend(std::iter::repeat_n('\n', length.saturating_sub(text.len())));
    file.seek(SeekFrom::Start(0))?;
    file.write_all(whole.as_bytes())?;
    file.sync_data()?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_keeps_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link, other] = ["file", "link", "other"].map(|name| directory.path().join(name));
        fs::write(&path, "a longer text").unwrap();
        symlink(&path, &link).unwrap();
        fs::hard_link(&path, &other).unwrap();
        rewrite(&link, "a longer text", "short").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&other).unwrap(), "short");
        rewrite(&path, "short", "something longer").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "something longer");
    }

    #[test]
    fn what_is_full_keeps_what_it_had() {
        let full = Path::new("/dev/full");
        let error = rewrite(full, "old", "new").unwrap_err();
        assert_eq!(error.raw_os_error(), None, "{error}");
        assert!(
            error.to_string().contains("could not be restored"),
            "{error}"
        );
        assert!(rewrite(Path::new("/nonexistent/file"), "", "").is_err());
    }
}
