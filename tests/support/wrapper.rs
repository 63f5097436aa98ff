//! Tests the wrapper that stands in mdevctl's place for libvirt before 10.1. Each folder in
//! `tests/wrapper` is a call:
//!
//! * `case.toml`: `host` (a folder of `tests/hosts`), `arguments`, and how the real mdevctl ends, if it does
//!   not succeed: `ends`, its exit code, or `signal`, which kills it;
//! * `printed`: the output of the real one; the lists are mdevctl 1.2.0's and 1.4.0's, with sysfs and the
//!   definitions of host `lab` and some of devices that exist;
//! * `stdin`: the input from libvirt, as its nodedev driver writes it; missing if there is none;
//! * `gfxplane.toml`: the configuration; may be missing;
//! * `out`: the expected output; missing if it is that of the real one;
//! * `given`: the expected input of the real one; missing if it is libvirt's.
//!
//! Arguments and status must always be the same as without us. `UPDATE_GOLDEN=1 cargo test --test
//! cases` writes the last two files anew.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use tempfile::TempDir;

use crate::support::folders::{self, nothing_but};
use crate::support::hosts::{golden, updating};

const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");

#[derive(Deserialize)]
struct Case {
    host: String,
    arguments: Vec<String>,
    #[serde(default)]
    ends: i32,
    signal: Option<i32>,
}

/// Returns all cases, and the tests of what must hold of any.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("wrapper", of_folder)
        .into_iter()
        .chain([
            Trial::test("wrapper::no-mdevctl-at-all", no_mdevctl),
            Trial::test("wrapper::more-than-a-list-can-be", more_than_a_list),
            Trial::test("wrapper::arguments-that-are-no-text", odd_arguments),
            Trial::test("wrapper::nobody-reads", nobody_reads),
        ])
        .collect()
}

/// A libvirtd whose PATH has our mdevctl first, then another name for it, then the real one.
struct Daemon {
    directory: TempDir,
    host: PathBuf,
}

impl Daemon {
    /// Makes a daemon. `real` is the script of the real mdevctl.
    fn new(host: &str, real: Option<&str>) -> Self {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let daemon = Daemon {
            host: hosts.join(host).join("root"),
            directory,
        };
        for place in ["ours", "again", "real"] {
            fs::create_dir(daemon.path(place)).unwrap();
        }
        symlink(HELPER, daemon.path("ours/mdevctl")).unwrap();
        symlink("../ours/mdevctl", daemon.path("again/mdevctl")).unwrap();
        if let Some(real) = real {
            fs::write(daemon.path("script"), format!("#!/bin/sh\n{real}")).unwrap();
            // This process does not write the file, as a child of another test might hold it open
            // for writing.
            let installed = Command::new("install")
                .args(["-m", "755"])
                .args([daemon.path("script"), daemon.path("real/mdevctl")])
                .status();
            assert!(installed.unwrap().success());
        }
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn search(&self, ours: &[&str]) -> OsString {
        let ours = ours.iter().map(|name| self.path(name));
        let others = ["/usr/bin", "/bin"].map(PathBuf::from);
        std::env::join_paths(ours.chain(others)).unwrap()
    }

    /// Calls it as libvirt does: by its bare name, found in PATH, with an empty environment.
    fn call<T: AsRef<OsStr>>(&self, arguments: &[T], stdin: &[u8]) -> Output {
        let given = self.path("stdin");
        fs::write(&given, stdin).unwrap();
        self.command(arguments)
            .stdin(fs::File::open(given).unwrap())
            .output()
            .unwrap()
    }

    fn command<T: AsRef<OsStr>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "exec mdevctl \"$@\"", "sh"])
            .args(arguments)
            .env_clear()
            .env("GFXPLANE_ROOT", &self.host)
            .env("PATH", self.search(&["ours", "again", "real"]));
        command
    }
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let printed = fs::read(folder.join("printed")).unwrap_or_default();
    let stdin = fs::read(folder.join("stdin")).unwrap_or_default();
    let end = match case.signal {
        Some(signal) => format!("kill -{signal} $$"),
        None => format!("exit {}", case.ends),
    };
    // Like mdevctl, it opens /dev/stdin by name.
    let read =
        "printf '%s\\n' \"$@\" > arguments; printf %s \"$PATH\" > path; cat /dev/stdin > given";
    let daemon = Daemon::new(
        &case.host,
        Some(&format!(
            "cd \"${{0%/*}}\"; {read}; cat printed; echo complaint >&2; {end}\n"
        )),
    );
    fs::write(daemon.path("real/printed"), &printed)?;
    let daemon = configured(daemon, &folder.join("gfxplane.toml"))?;
    let output = daemon.call(&case.arguments, &stdin);

    if (output.status.code(), output.status.signal()) != expected(&case) {
        return Err(format!("it ended with {}", output.status).into());
    }
    if output.stderr != b"complaint\n" {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let arguments = fs::read_to_string(daemon.path("real/arguments"))?;
    if arguments != case.arguments.join("\n") + "\n" {
        return Err(format!("the real one was called with {arguments:?}").into());
    }
    if fs::read(daemon.path("real/path"))? != daemon.search(&["real"]).into_vec() {
        return Err("we are in the PATH of the real one".into());
    }
    let given = fs::read(daemon.path("real/given"))?;
    let mut files = vec!["case.toml", "printed", "stdin", "gfxplane.toml"];
    for (name, seen, before) in [("out", &output.stdout, &printed), ("given", &given, &stdin)] {
        if seen != before {
            files.push(name);
            golden(&folder.join(name), &String::from_utf8(seen.clone())?)?;
        } else if updating() {
            let _ = fs::remove_file(folder.join(name));
        }
    }
    nothing_but(folder, &files)?;
    Ok(())
}

fn expected(case: &Case) -> (Option<i32>, Option<i32>) {
    match case.signal {
        Some(signal) => (None, Some(signal)),
        None => (Some(case.ends), None),
    }
}

/// Gives the daemon a copy of its host that has this configuration, if there is one.
fn configured(mut daemon: Daemon, configuration: &Path) -> Result<Daemon, Failed> {
    if configuration.exists() {
        let host = daemon.path("host");
        let copied = Command::new("cp")
            .arg("-a")
            .args([&daemon.host, &host])
            .status()?;
        assert!(copied.success());
        fs::copy(configuration, host.join("etc/gfxplane/gfxplane.toml"))?;
        daemon.host = host;
    }
    Ok(daemon)
}

const LIST: [&str; 3] = ["list", "--dumpjson", "--defined"];

/// A libvirt that finds no mdevctl does without it. One whose first list fails sees no device any
/// more.
fn no_mdevctl() -> Result<(), Failed> {
    let daemon = Daemon::new("lab", None);
    let list = daemon.call(&LIST, b"");
    assert_eq!(
        (list.status.code(), &list.stdout[..]),
        (Some(0), &b"[]\n"[..])
    );
    let other = daemon.call(&["start", "--uuid=x"], b"");
    assert_eq!((other.status.code(), other.stdout.len()), (Some(127), 0));
    assert!(String::from_utf8(other.stderr)?.contains("no mdevctl in PATH"));
    Ok(())
}

fn more_than_a_list() -> Result<(), Failed> {
    let daemon = Daemon::new(
        "lab",
        Some("head -c 5000000 /dev/zero; printf '[]'; exit 3\n"),
    );
    let output = daemon.call(&LIST, b"");
    assert_eq!(output.status.code(), Some(3));
    let mut expected = vec![0; 5_000_000];
    expected.extend(b"[]");
    assert!(
        output.stdout == expected,
        "{} bytes came out",
        output.stdout.len()
    );
    Ok(())
}

fn odd_arguments() -> Result<(), Failed> {
    let daemon = Daemon::new("lab", Some("printf '%s|' \"$@\"\n"));
    let odd = OsString::from_vec(b"\xff --\n".to_vec());
    let output = daemon.call(&[OsString::from("list"), odd, OsString::new()], b"");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"list|\xff --\n||");
    Ok(())
}

/// mdevctl itself would panic there. Ours fails, too.
fn nobody_reads() -> Result<(), Failed> {
    let daemon = Daemon::new("lab", Some("printf '[]\\n'\n"));
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let status = daemon
        .command(&LIST)
        .stdin(Stdio::null())
        .stdout(writer)
        .status()?;
    assert_eq!(status.code(), Some(1));
    Ok(())
}
