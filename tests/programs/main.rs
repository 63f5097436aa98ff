//! The programs as their callers see them: arguments, exit codes, what goes to stdout.

mod export;
mod hostile;
mod libvirt;
mod mdevctl;
mod output;
mod prober;
#[allow(dead_code)]
#[path = "../support/schema.rs"]
mod schema;
mod verbs;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gfxplane::host::Root;
use gfxplane::host::run::Lock;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const TOOL: &str = env!("CARGO_BIN_EXE_gfxplane");
const PROBER: &str = env!("CARGO_BIN_EXE_gfxplane-probe");
const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");
/// A device of host lab that has a record: dmabuf with an EDID.
const DEVICE: &str = "c1a20000-0000-4000-8000-000000000002";

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32, stderr: &str) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert!(err.contains(stderr), "{err}");
}

/// The tool without gfxplane-libvirt beside it. It does what a tool does that was built without the feature.
struct Alone(tempfile::TempDir);

impl Alone {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Not a copy: one that this process has written might still be open in a child of another test, and then it
        // can't be executed (ETXTBSY).
        for (program, name) in [(TOOL, "gfxplane"), (PROBER, "gfxplane-probe")] {
            fs::hard_link(program, directory.path().join(name)).unwrap();
        }
        Alone(directory)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.0.path().join("gfxplane").to_str().unwrap(), arguments)
    }
}

/// A host of our own with one mdev that has a record.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["-a"])
            .arg(lab().join("."))
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(copied.success());
        Host(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Calls the helper as mdevctl does: by a process that was started with these words. `helper`
    /// is the file by which it is called.
    fn called_by(&self, caller: &[&str], helper: &Path, call: &[&str]) -> Output {
        let script = self.0.path().join("caller");
        let words: Vec<String> = call.iter().map(|word| format!("'{word}'")).collect();
        fs::write(
            &script,
            format!("{} {}\nexit $?\n", helper.display(), words.join(" ")),
        )
        .unwrap();
        // A shell that carries the caller's name and reads the script from stdin; its further
        // words are parameters to it.
        let (name, rest) = caller.split_first().unwrap();
        let shell = self.0.path().join(name);
        // A link: a copy might still be open for writing in a child of another test (ETXTBSY).
        std::os::unix::fs::symlink("/bin/bash", &shell)
            .or_else(|error| if shell.exists() { Ok(()) } else { Err(error) })
            .unwrap();
        // bash takes its first word for a script: let that be one.
        fs::create_dir_all(self.0.path().join("cwd")).unwrap();
        let first = rest.first().copied().unwrap_or("script");
        fs::copy(&script, self.0.path().join("cwd").join(first)).unwrap();
        Command::new(&shell)
            .args(if rest.is_empty() { &["script"] } else { rest })
            .current_dir(self.0.path().join("cwd"))
            .env("GFXPLANE_ROOT", self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn attributes(&self, caller: &[&str]) -> Output {
        self.called_by(caller, Path::new(HELPER), &get_attributes(DEVICE))
    }
}

fn get_attributes(uuid: &str) -> Vec<&str> {
    vec![
        "-t",
        "mbochs-small",
        "-e",
        "get",
        "-a",
        "attributes",
        "-s",
        "none",
        "-u",
        uuid,
        "-p",
        "mbochs",
    ]
}
