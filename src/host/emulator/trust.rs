//! Whether a program that a domain names may be run.
//!
//! A domain's XML names any file, and whoever fixes it may be root. So only that is run which
//! nobody but root and the own user can have put there: the file itself, and every directory on the
//! way to it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::host::{Root, run};

/// Others may make files here, but not move or remove those of anybody else (inode(7), `S_ISVTX`).
const STICKY: u32 = 0o1000;

/// The file that a path leads to, if it may be run. It is that one, not the path, that has to be
/// run: nobody else can put another in its place.
///
/// # Errors
/// Why not, with the place.
pub(super) fn trusted(root: &Root, program: &Path) -> Result<PathBuf, String> {
    let file = program.canonicalize().map_err(|error| error.to_string())?;
    let own = Some(geteuid().as_raw());
    for (step, place) in file.ancestors().enumerate() {
        let metadata = fs::symlink_metadata(place);
        let metadata = metadata.map_err(|error| format!("{}: {error}", place.display()))?;
        if step == 0 && !metadata.is_file() {
            return Err("is no file".into());
        }
        let spared = if step > 0 { STICKY } else { 0 };
        if let Some(problem) = run::untrusted(root, &metadata, own, spared) {
            return Err(format!(
                "is not run, as {} {problem} (mend that, or name the version with --qemu)",
                place.display()
            ));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// A program in a directory in a directory.
    fn program() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().canonicalize().unwrap().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("qemu");
        for (path, mode) in [(bin.parent().unwrap(), 0o755), (&bin, 0o755)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        (directory, program)
    }

    fn checked(program: &Path) -> Result<PathBuf, String> {
        trusted(&Root::system(), program)
    }

    #[test]
    fn what_others_can_write_is_not_run() {
        let (_keep, program) = program();
        assert_eq!(checked(&program), Ok(program.clone()));
        let bin = program.parent().unwrap();
        for (place, mode, good) in [
            (program.as_path(), 0o775, false),
            (&program, 0o757, false),
            (&program, 0o1757, false),
            (&program, 0o555, true),
            (bin, 0o777, false),
            (bin, 0o775, false),
            (bin, 0o1777, true),
            (bin.parent().unwrap(), 0o777, false),
        ] {
            let before = fs::metadata(place).unwrap().permissions();
            fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
            let answer = checked(&program);
            let said = format!("{} can be written by others", place.display());
            match answer {
                Ok(file) => assert!(good && file == program, "{mode:o} {}", place.display()),
                Err(problem) => assert!(!good && problem.contains(&said), "{problem}"),
            }
            fs::set_permissions(place, before).unwrap();
        }
        assert!(checked(bin).unwrap_err().contains("is no file"));
        assert!(checked(&bin.join("no")).is_err());
    }

    #[test]
    fn links_are_followed_to_what_is_run() {
        let (_keep, program) = program();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("qemu");
        symlink(&program, &link).unwrap();
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(checked(&link), Ok(program.clone()), "not what the link is");
        fs::set_permissions(&program, Permissions::from_mode(0o777)).unwrap();
        assert!(checked(&link).unwrap_err().contains("usr/bin/qemu can be"));
    }

    #[test]
    fn what_is_somebody_elses_is_not_run() {
        // Only root can give files away; others have no file of root's that they may change.
        if !geteuid().is_root() {
            assert!(checked(Path::new("/bin/sh")).is_ok());
            return;
        }
        let (_keep, program) = program();
        for place in program.ancestors().take(2) {
            chown(place, Some(65534), None).unwrap();
            let problem = checked(&program).unwrap_err();
            let said = format!("{} is not root's", place.display());
            assert!(problem.contains(&said), "{problem}");
            chown(place, Some(0), None).unwrap();
        }
        assert!(checked(&program).is_ok());
    }
}
