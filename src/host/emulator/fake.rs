//! A host whose QEMU is a script.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::{Kept, Key, keep, kept_path};
use super::libvirt::LISTEN;
use super::{Asking, abilities, on_host};
use crate::abilities::{Abilities, RenderNodes};
use crate::host::{Root, Warning};
use crate::record::FORMAT;

pub(super) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// What QEMU 7.2.22 of Debian 12 says, with most options left out.
pub(super) const QMP: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18+b3"}, "capabilities": ["oob"]}}
{"return": {}}
{"return": [{"name": "chardev-spicevmc", "parent": "chardev-spice"}], "id": "types"}
{"return": [{"parameters": [{"name": "gl", "type": "boolean"}, {"name": "port", "type": "number"}], "option": "spice"}], "id": "spice"}
{"return": [{"parameters": [{"name": "vnc", "type": "string"}], "option": "vnc"}], "id": "vnc"}
{"timestamp": {"seconds": 1795350400, "microseconds": 306633}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}
{"return": {}}
"#;

pub(super) const DISPLAYS: &str =
    "Available display backend types:\nnone\negl-headless\ncurses\ndbus\n";

/// What is known where nothing is installed.
pub(super) fn nothing() -> Abilities {
    Abilities {
        spice_listen: Some(LISTEN.into()),
        vnc_listen: Some(LISTEN.into()),
        spice_auto_unix_socket: Some(false),
        vnc_auto_unix_socket: Some(false),
        render_nodes: Some(RenderNodes::NoDirectory),
        ..Abilities::default()
    }
}

/// Puts a QEMU there that nobody can run, of which this was found out before, and a libvirt of this version.
pub(crate) fn pretend(root: &Root, libvirt: &str, abilities: &Abilities) {
    let emulator = Path::new(QEMU);
    let program = on_host(root, emulator);
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(program, "\x7fELF").unwrap();
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    fs::create_dir_all(&libraries).unwrap();
    fs::write(libraries.join(libvirt), "").unwrap();
    std::os::unix::fs::symlink(libvirt, libraries.join("libvirt.so.0")).unwrap();
    let kept = Kept {
        format: FORMAT,
        emulator: emulator.into(),
        key: Some(Key::of(root, emulator).unwrap()),
        abilities: abilities.clone(),
    };
    keep(&kept_path(root, emulator), &kept).unwrap();
}

/// A host with a QEMU that is a script, and notes each of its runs.
pub(super) struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    pub(super) fn new(qmp: &str, displays: &str) -> Self {
        let host = Host {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(host.root().join("usr/lib/x86_64-linux-gnu/qemu")).unwrap();
        let runs = host.root().join("runs");
        host.program(&format!(
            "echo run >> '{}'\ncase \"$*\" in\n\
             *qmp*) cat <<'END'\n{qmp}END\n;;\n\
             '-display help') cat <<'END'\n{displays}END\n;;\nesac\n",
            runs.display()
        ));
        host
    }

    pub(super) fn root(&self) -> Root {
        Root::strict(self.directory.path())
    }

    /// Written by another process: while this one forks for another test, nothing can be
    /// executed that it has open (ETXTBSY).
    pub(super) fn program(&self, script: &str) {
        let path = on_host(&self.root(), Path::new(QEMU));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Whatever the umask is.
        for directory in path.ancestors().skip(1).take(2) {
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        }
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script = format!("#!/bin/sh\n{script}");
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        assert!(shell.wait().unwrap().success());
    }

    pub(super) fn runs(&self) -> usize {
        let text = fs::read_to_string(self.root().join("runs"));
        text.map_or(0, |text| text.lines().count())
    }

    pub(super) fn ask(&self, asking: Asking) -> (Abilities, Vec<Warning>) {
        let mut warnings = Vec::new();
        let abilities = abilities(&self.root(), Path::new(QEMU), asking, &mut warnings);
        (abilities, warnings)
    }

    pub(super) fn kept(&self) -> PathBuf {
        kept_path(&self.root(), Path::new(QEMU))
    }
}

pub(super) fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}
