//! `/run/gfxplane/export`: the daemon's files for a fleet's tools, one for each format.
//!
//! `gfxplane-export.service` copies the files to the paths in the settings whenever the directory
//! changes, so a file appears in the directory only when it is complete.

use std::fs;
use std::io;
use std::time::Duration;

use crate::host::Root;
use crate::host::run::{BASE, directory, read_trusted, replace};

/// The largest file that is copied, in bytes.
const MOST: usize = 16 << 20;

/// The age at which a file is written again although nothing has changed: Node Feature Discovery's
/// labels expire after a day.
pub const FRESH: Duration = Duration::from_secs(6 * 60 * 60);

/// Writes the text of a format, if its content is new or the old file is at least [`FRESH`] old.
/// Comments are no content.
///
/// # Errors
/// Any error of the file system; [`io::ErrorKind::InvalidData`] if the directory can't be trusted.
pub fn publish(root: &Root, format: &str, text: &str) -> io::Result<()> {
    let path = directory(root, "export", 0o755)?.join(format);
    let age = || fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok();
    let is_fresh = || age().is_some_and(|age| age < FRESH);
    match published(root, format) {
        Ok(Some(old)) if says(&old).eq(says(text)) && is_fresh() => Ok(()),
        _ => replace(&root.join(BASE), &path, text.as_bytes()),
    }
}

/// Returns the text that the daemon has written for a format; `None` if it has written none.
///
/// # Errors
/// The file can't be read, is larger than 16 MiB or not UTF-8, or somebody other than root can have
/// written it.
pub fn published(root: &Root, format: &str) -> Result<Option<String>, String> {
    let path = root.join(BASE).join("export").join(format);
    let text = read_trusted(root, &path, MOST);
    text.map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the content of a text: the lines that are no comments. A comment may be the time at
/// which labels expire, which changes each time.
fn says(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_file_is_written_if_it_says_something_new_or_is_old() {
        let (_keep, root) = crate::host::empty();
        assert_eq!(published(&root, "nfd"), Ok(None));
        let file = root.join(BASE).join("export/nfd");
        let inode = || fs::metadata(&file).unwrap().ino();
        publish(&root, "nfd", "# 1\na=b\n").unwrap();
        let first = File::open(&file).unwrap();
        publish(&root, "nfd", "# 2\na=b\n").unwrap();
        assert_eq!(published(&root, "nfd"), Ok(Some("# 1\na=b\n".into())));
        assert_eq!(inode(), first.metadata().unwrap().ino());
        first.set_modified(SystemTime::now() - FRESH).unwrap();
        publish(&root, "nfd", "# 3\na=b\n").unwrap();
        assert_eq!(published(&root, "nfd"), Ok(Some("# 3\na=b\n".into())));
        publish(&root, "nfd", "# 3\na=c\n").unwrap();
        assert_eq!(published(&root, "nfd"), Ok(Some("# 3\na=c\n".into())));
        // A watcher of the directory never sees an incomplete file.
        assert_ne!(inode(), first.metadata().unwrap().ino());
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
