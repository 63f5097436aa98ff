//! Wraps mdevctl for libvirt before 10.1. Such a libvirt looks for `mdevctl` in its PATH, and reads
//! the attributes of devices only in the definitions that `mdevctl list --dumpjson --defined`
//! prints (src/node_device/node_device_driver.c of 9.0, `virMdevctlListDefined`). If the
//! administrator switches the wrapper on, our directory comes first in libvirtd's PATH. The wrapper
//! then adds the measured attributes of devices that are both defined and active to that list.
//!
//! For everything else, this process becomes the real mdevctl. Our attributes are removed from
//! definitions on stdin, because libvirt passes back the attributes that it was shown. If anything
//! goes wrong, the output and the exit code are those of the real mdevctl, to the byte.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use gfxplane::device::id::DeviceId;
use gfxplane::host::{Root, mdevctl, sysfs};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, raise};
use uuid::Uuid;

use crate::mdevctl_callout::words_of;
use crate::{FAILURE, SUCCESS, fail};

/// The file name under which libvirt runs mdevctl. If we are called by this name, we act as
/// mdevctl.
const NAME: &str = "mdevctl";

/// The directories to search if there is no PATH.
const SEARCH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The exit code of a shell for a command that does not exist.
const NOT_FOUND: u8 = 127;

/// Returns whether we are called by the name `mdevctl`.
pub(crate) fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// Does the work of mdevctl. Returns the exit code.
pub(crate) fn run(root: &Root, program: &OsStr, arguments: &[OsString]) -> u8 {
    let Some(real) = Real::find(std::env::var_os("PATH")) else {
        return without_mdevctl(arguments);
    };
    let mut command = Command::new(&real.program);
    // So the programs that mdevctl runs find the real mdevctl, too.
    command
        .arg0(program)
        .args(arguments)
        .env("PATH", &real.search);
    if lists_definitions(arguments) {
        return list(root, command);
    }
    if takes_a_definition(arguments) {
        match without_our_attributes() {
            Ok(Some(definition)) => drop(command.stdin(definition)),
            Ok(None) => {}
            Err(error) => return fail(&format!("the definition on stdin: {error}")),
        }
    }
    become_it(command)
}

/// The real mdevctl, which we find in PATH.
#[derive(Debug, PartialEq, Eq)]
struct Real {
    program: PathBuf,
    /// The PATH without the directories in which `mdevctl` is this program.
    search: OsString,
}

impl Real {
    fn find(path: Option<OsString>) -> Option<Self> {
        let path = path
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| SEARCH.into());
        let ourselves = std::fs::metadata("/proc/self/exe").ok();
        let mut search = Vec::new();
        let mut program = None;
        for directory in std::env::split_paths(&path) {
            let candidate = directory.join(NAME);
            // A relative directory would depend on libvirtd's working directory.
            if directory.is_absolute()
                && let Ok(found) = std::fs::metadata(&candidate)
            {
                if is_ours(&candidate, &found, ourselves.as_ref()) {
                    continue;
                }
                if program.is_none() && found.is_file() && found.permissions().mode() & 0o111 != 0 {
                    program = Some(candidate);
                }
            }
            search.push(directory);
        }
        Some(Real {
            program: program?,
            search: std::env::join_paths(search).ok()?,
        })
    }
}

/// Returns whether a candidate is this program, which must not run itself for ever. Compares the
/// file, and then the name behind all links.
fn is_ours(candidate: &Path, found: &Metadata, ourselves: Option<&Metadata>) -> bool {
    let same = |ours: &Metadata| (ours.dev(), ours.ino()) == (found.dev(), found.ino());
    let resolved = std::fs::canonicalize(candidate).ok();
    let name = resolved.as_deref().and_then(Path::file_name);
    ourselves.is_some_and(same) || name == Some(OsStr::new("gfxplane-helper"))
}

/// Answers in place of mdevctl if PATH has none. The list of definitions is empty, because a
/// libvirt whose first list fails sees no device that appears later. Any other call fails, as
/// without the wrapper.
fn without_mdevctl(arguments: &[OsString]) -> u8 {
    if lists_definitions(arguments) {
        return match io::stdout().write_all(b"[]\n") {
            Ok(()) => SUCCESS,
            Err(_) => FAILURE,
        };
    }
    fail("there is no mdevctl in PATH");
    NOT_FOUND
}

/// Returns whether the arguments ask for the list of definitions, as libvirt before 10.1 does.
fn lists_definitions(arguments: &[OsString]) -> bool {
    arguments == ["list", "--dumpjson", "--defined"]
}

/// Returns whether mdevctl reads a definition from stdin. libvirt passes one in no other way.
fn takes_a_definition(arguments: &[OsString]) -> bool {
    let Some((verb, rest)) = arguments.split_first() else {
        return false;
    };
    let stdin = |pair: &[OsString]| pair == ["--jsonfile", "/dev/stdin"];
    ["define", "modify", "start"].iter().any(|one| verb == one)
        && (rest.iter().any(|one| one == "--jsonfile=/dev/stdin") || rest.windows(2).any(stdin))
}

/// Runs mdevctl's `list`, and prints its output with our attributes added. Prints the output as it
/// is if mdevctl fails, or if the output is not in a form that we know.
fn list(root: &Root, mut command: Command) -> u8 {
    command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
    let Ok(Output { status, stdout, .. }) = command.output() else {
        return become_it(command);
    };
    let added = str::from_utf8(&stdout)
        .ok()
        .filter(|_| status.success())
        .and_then(|text| mdevctl::with_attributes(text, |parent, id| known(root, parent, id)));
    let text = added.as_deref().map_or(&stdout[..], str::as_bytes);
    let mut out = io::stdout();
    // Without a flush, a last line without a line ending would stay in the buffer and be lost.
    let written = out.write_all(text).and_then(|()| out.flush());
    end(status, written.is_ok())
}

/// Returns the attributes of a device; `None` if it has none, or if the active device of this UUID
/// has another parent than the definition.
fn known(root: &Root, parent: &str, uuid: Uuid) -> Option<Vec<(String, String)>> {
    let id = DeviceId::Mdev(uuid);
    (sysfs::parent_of(root, id)? == parent).then(|| words_of(root, id))?
}

/// Returns the code with which mdevctl ended; a failure if mdevctl succeeded but its output could
/// not be `written`. If a signal ended mdevctl, the same signal ends us.
fn end(ended: ExitStatus, written: bool) -> u8 {
    if let Some(signal) = ended.signal() {
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = raise(signal);
        }
        return 128_u8.saturating_add(u8::try_from(signal).unwrap_or_default());
    }
    match ended.code().map(u8::try_from) {
        Some(Ok(SUCCESS)) if !written => FAILURE,
        Some(Ok(code)) => code,
        _ => FAILURE,
    }
}

/// Returns a file with the text on stdin, without our attributes. A text that is no definition
/// stays as it is. Returns `None`, and reads nothing, if no such file can be made.
fn without_our_attributes() -> io::Result<Option<File>> {
    let Ok(memory) = memfd_create(c"definition", MFdFlags::MFD_CLOEXEC) else {
        return Ok(None);
    };
    let mut given = Vec::new();
    io::stdin().read_to_end(&mut given)?;
    let cleaned = str::from_utf8(&given)
        .ok()
        .and_then(|text| mdevctl::without_our_attributes(text).ok().flatten());
    let mut file = File::from(memory);
    file.write_all(cleaned.as_deref().map_or(&given[..], str::as_bytes))?;
    file.rewind()?;
    Ok(Some(file))
}

/// Replaces this process by the real mdevctl. Returns only if that fails.
fn become_it(mut command: Command) -> u8 {
    let error = command.exec();
    let program = Path::new(command.get_program()).display();
    fail(&format!("{program} can't be run: {error}"));
    NOT_FOUND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_one_is_never_ours() {
        let directory = tempfile::tempdir().unwrap();
        let in_path = |name: &str| directory.path().join(name);
        for name in ["ours", "renamed", "empty", "text", "real", "second"] {
            std::fs::create_dir(in_path(name)).unwrap();
        }
        let ourselves = std::env::current_exe().unwrap();
        std::os::unix::fs::symlink(ourselves, in_path("ours/mdevctl")).unwrap();
        // Another copy of the helper.
        std::fs::write(in_path("gfxplane-helper"), "").unwrap();
        std::os::unix::fs::symlink("../gfxplane-helper", in_path("renamed/mdevctl")).unwrap();
        for (place, mode) in [("text", 0o644), ("real", 0o755), ("second", 0o755)] {
            let file = in_path(place).join(NAME);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        }
        let path = |names: &[&str]| std::env::join_paths(names.iter().map(|n| in_path(n))).unwrap();
        let found = Real::find(Some(path(&[
            "ours", "empty", "renamed", "text", "real", "second",
        ])));
        let expected = Real {
            program: in_path("real/mdevctl"),
            search: path(&["empty", "text", "real", "second"]),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(Real::find(Some(path(&["ours", "renamed", "text"]))), None);
    }
}
