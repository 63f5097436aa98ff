//! Makes hosts for tests. Their QEMU is a file with only the texts that we search for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::cache::{Kept, Key, keep, kept_path};
use super::libvirt_settings::LISTEN;
use super::{Asking, abilities};
use crate::device::record::FORMAT;
use crate::host::{Root, Warning};
use crate::predict::abilities::{Abilities, Guests, RenderNodes};

pub(super) const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A program with the texts that we search for, as in Debian 12's QEMU.
pub(super) const PROGRAM: &str = "\x7fELF\0QEMU emulator version %s\0\
    QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright\0\
    ui-curses\0ui-opengl\0ui-egl-headless\0ui-dbus\0ui-gtk\0ui-sdl\0ui-spice-core\0";

/// The `<domainCapabilities>` of libvirt on Debian 12.
pub(super) const CAPABILITIES: &str = "<domainCapabilities>\
    <path>/usr/bin/qemu-system-x86_64</path><devices>\
    <graphics supported='yes'><enum name='type'><value>sdl</value><value>vnc</value><value>spice</value>\
    <value>egl-headless</value><value>dbus</value></enum></graphics></devices></domainCapabilities>";

/// The directory of QEMU's modules.
pub(super) const MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";

/// Returns the abilities that we find if neither QEMU nor libvirt is installed.
pub(super) fn nothing() -> Abilities {
    Abilities {
        spice_listen: Some(LISTEN.into()),
        vnc_listen: Some(LISTEN.into()),
        spice_auto_unix_socket: Some(false),
        vnc_auto_unix_socket: Some(false),
        spice_tls: Some(false),
        own_dev: Some(true),
        render_nodes: Some(RenderNodes::NoDirectory),
        guests: Guests {
            apparmor: Some(false),
            x_denied: Some(false),
            first_port: Some(1024),
            dbus_daemon_denied: Some(false),
            ..Guests::default()
        },
        ..Abilities::default()
    }
}

/// Installs a QEMU that can't be run, with these abilities in the cache, and a libvirt whose
/// library has the file name `libvirt`.
pub(crate) fn pretend(root: &Root, libvirt: &str, abilities: &Abilities) {
    let emulator = Path::new(QEMU);
    root.put(&QEMU[1..], "\x7fELF");
    install(root, libvirt);
    let kept = Kept {
        format: FORMAT,
        emulator: emulator.into(),
        key: Some(Key::of(root, emulator).unwrap()),
        abilities: abilities.clone(),
    };
    keep(&kept_path(root, emulator), &kept).unwrap();
}

/// Installs a libvirt whose library has this file name.
pub(super) fn install(root: &Root, libvirt: &str) {
    let library = "usr/lib64/libvirt.so.0";
    root.put(&library.replace("libvirt.so.0", libvirt), "");
    let _ = std::fs::remove_file(root.join(library));
    std::os::unix::fs::symlink(libvirt, root.join(library)).unwrap();
}

pub(super) struct Host {
    directory: tempfile::TempDir,
    /// The `<domainCapabilities>` that libvirt returns.
    pub(super) answer: Result<Option<String>, String>,
    asked: Cell<usize>,
}

impl Host {
    /// Makes a simulated Debian 12 host, whose QEMU has the SPICE, dbus and egl-headless modules.
    pub(super) fn new() -> Self {
        let host = Host {
            directory: tempfile::tempdir().unwrap(),
            answer: Ok(Some(CAPABILITIES.into())),
            asked: Cell::new(0),
        };
        host.write(QEMU, PROGRAM);
        for (name, text) in [
            ("ui-dbus.so", ""),
            ("ui-egl-headless.so", ""),
            (
                "ui-spice-core.so",
                "failed to initialize spice server\0SPICE GL support is local-only for now\0spice-egl\0",
            ),
        ] {
            host.write(&format!("{MODULES}/{name}"), text);
        }
        host
    }

    pub(super) fn root(&self) -> Root {
        Root::strict(self.directory.path())
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        self.root().put(path.trim_start_matches('/'), text);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.get()
    }

    /// Returns the abilities and the warnings. If not `fresh`, reads only the cache.
    pub(super) fn find(&self, fresh: bool) -> (Abilities, Vec<Warning>) {
        let mut warnings = Vec::new();
        let ask = |_: &Path| {
            self.asked.set(self.asked.get() + 1);
            self.answer.clone()
        };
        let asking = if fresh {
            Asking::Fresh(&ask)
        } else {
            Asking::Cached
        };
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
