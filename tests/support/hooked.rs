//! A host of our own, on which the qemu hook is called as libvirt calls it: the script as it is
//! installed, the built helper, domain XML on stdin.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gfxplane::host::Root;

/// Where the script looks for the helper.
const INSTALLED: &str = "/usr/bin/gfxplane-helper";

/// The script's name: under another one it does nothing.
pub(crate) const SCRIPT: &str = "50-gfxplane";

/// A host, thrown away at the end.
pub(crate) struct Hooked {
    directory: tempfile::TempDir,
    journal: UnixDatagram,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The script's; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// What the journal was told.
    pub(crate) journal: Vec<String>,
}

impl Hooked {
    /// A copy of one of `tests/hosts`, with the script and this helper.
    pub(crate) fn new(host: &str, helper: &Path) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(repository.join("tests/hosts").join(host).join("root/."))
            .arg(directory.path())
            .status();
        assert!(copied.unwrap().success(), "{host} can't be copied");
        // A record of a recorded host may be written by anybody.
        let script = fs::read_to_string(repository.join("hooks/qemu.d/50-gfxplane")).unwrap();
        assert_eq!(script.matches(INSTALLED).count(), 1);
        let script = script.replace(INSTALLED, helper.to_str().unwrap());
        fs::write(directory.path().join(SCRIPT), script).unwrap();
        for below in ["dev", "run"] {
            fs::create_dir_all(directory.path().join(below)).unwrap();
        }
        let journal = UnixDatagram::bind(directory.path().join("dev/log")).unwrap();
        journal.set_nonblocking(true).unwrap();
        Hooked { directory, journal }
    }

    pub(crate) fn root(&self) -> Root {
        Root::recorded(self.directory.path())
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The script's, with libvirt's clean environment.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("sh");
        command
            .arg(self.path(SCRIPT))
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("GFXPLANE_ROOT", self.directory.path());
        command
    }

    pub(crate) fn call(&self, arguments: &[impl AsRef<OsStr>], stdin: &[u8]) -> Answer {
        let child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            // Most calls leave without having read it.
            scope.spawn(move || pipe.write_all(stdin));
            child.wait_with_output().unwrap()
        });
        Answer {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: self.neutral(&String::from_utf8_lossy(&output.stderr)),
            journal: self.journal(),
        }
    }

    /// What the journal was told since it was last looked at.
    pub(crate) fn journal(&self) -> Vec<String> {
        let mut buffer = vec![0; 64 * 1024];
        let mut lines = Vec::new();
        while let Ok(length) = self.journal.recv(&mut buffer) {
            lines.push(self.neutral(&String::from_utf8_lossy(&buffer[..length])));
        }
        lines
    }

    /// Paths as on the host.
    fn neutral(&self, text: &str) -> String {
        text.replace(self.directory.path().to_str().unwrap(), "")
    }

    /// The names of the files below `/run/gfxplane/…`, sorted.
    pub(crate) fn names(&self, below: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("run/gfxplane").join(below)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let data = entry.metadata().unwrap();
                assert!(data.is_file() && data.len() == 0, "a file without content");
                assert_eq!(data.permissions().mode() & 0o777, 0o600);
                entry.file_name().to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    }
}
