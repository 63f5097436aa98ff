//! Reads facts from a QEMU's own files: its version, the modules that are not installed, and how
//! its SPICE was built. libvirt does not report these for every emulator, and reading them runs no
//! program.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::libraries;
use crate::device::version::Version;
use crate::host::{Root, open_file};
use crate::predict::versions::SPICE_GL_OVER_TCP;

/// The largest file that is read, in bytes. A QEMU with debug symbols has about 100 MiB.
const MAX_SIZE: u64 = 512 * 1024 * 1024;

/// The text that `--version` prints before the version (QEMU system/vl.c, `version`).
const VERSION: &str = "QEMU emulator version ";

/// Frontends that may be modules, `ui-NAME.so`. A QEMU that was built with modules contains their
/// names (`qemu_modinfo`, by scripts/modinfo-generate.py; QEMU 6.1 and later).
const MODULES: [&str; 4] = ["dbus", "egl-headless", "gtk", "sdl"];

/// The module that contains SPICE, unless the program itself does.
const SPICE_MODULE: &str = "ui-spice-core.so";

/// A text in every build of ui/spice-core.c, by which SPICE is recognized.
const SPICE: &str = "failed to initialize spice server";

/// A text in each build of ui/spice-display.c with OpenGL.
const SPICE_GL: &str = "spice-egl";

/// A text in each build of ui/spice-core.c with a spice-server older than 0.15.3.
const LOCAL_ONLY: &str = "SPICE GL support is local-only";

/// The facts that QEMU's files show. A fact is `None` if the files don't show it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// QEMU's version.
    pub(super) version: Option<Version>,
    /// The frontends that QEMU was built with as modules, but whose modules are not installed.
    pub(super) missing: Option<BTreeSet<&'static str>>,
    /// True if SPICE was built with OpenGL.
    pub(super) spice_gl: Option<bool>,
    /// True if SPICE accepts OpenGL over TCP; `None` also without OpenGL and with an old QEMU.
    pub(super) spice_gl_over_tcp: Option<bool>,
}

/// Reads the files of an emulator.
///
/// # Errors
/// The program can't be read, or does not contain QEMU's version: it is a script or another
/// program.
pub(super) fn read(root: &Root, emulator: &Path) -> io::Result<Told> {
    let program = contents(&root.join(emulator))?;
    let Some(version) = version(&program) else {
        return Err(io::Error::other(
            "is not QEMU: it is a script or another program",
        ));
    };
    let directories = module_directories(root, emulator);
    let is_installed = |file: &str| directories.iter().any(|path| path.join(file).exists());
    let is_missing = |name: &&str| {
        contains(&program, &format!("ui-{name}")) && !is_installed(&format!("ui-{name}.so"))
    };
    let missing = MODULES.into_iter().filter(is_missing).collect();
    let spice = spice(&program, &directories);
    let over_tcp = SPICE_GL_OVER_TCP.is_in(&version);
    Ok(Told {
        version: Some(version),
        // Without any directory of modules we may be looking in the wrong place.
        missing: (!directories.is_empty()).then_some(missing),
        spice_gl: spice.map(|(gl, _)| gl),
        spice_gl_over_tcp: spice
            .filter(|(gl, _)| *gl && over_tcp)
            .map(|(_, local_only)| !local_only),
    })
}

/// Returns whether SPICE was built with OpenGL, and whether SPICE contains the message that refuses
/// OpenGL over TCP. `None` without SPICE, or if its modules differ or can't be read.
fn spice(program: &[u8], directories: &[PathBuf]) -> Option<(bool, bool)> {
    let of = |file: &[u8]| {
        contains(file, SPICE).then(|| (contains(file, SPICE_GL), contains(file, LOCAL_ONLY)))
    };
    let modules = directories.iter().map(|path| path.join(SPICE_MODULE));
    let modules: Vec<PathBuf> = modules.filter(|path| path.exists()).collect();
    if modules.is_empty() {
        return of(program);
    }
    let all: Option<BTreeSet<_>> = modules
        .iter()
        .map(|path| of(&contents(path).ok()?))
        .collect();
    let mut all = all?.into_iter();
    all.next().filter(|_| all.next().is_none())
}

fn version(program: &[u8]) -> Option<Version> {
    memmem::find_iter(program, VERSION).find_map(|at| {
        let rest = &program[at + VERSION.len()..];
        let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
        let end = rest.iter().position(|byte| !is_part(byte))?;
        Version::parse(std::str::from_utf8(&rest[..end]).ok()?)
    })
}

fn contains(file: &[u8], text: &str) -> bool {
    memmem::find(file, text.as_bytes()).is_some()
}

/// Returns the content of a file. Fails like [`open`].
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_SIZE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a program to read it. Fails unless it is a regular file of at most [`MAX_SIZE`]: a domain
/// may name any path, and opening a device may have an effect.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let metadata = path.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_SIZE {
        return Err(io::Error::other("is not a program"));
    }
    open_file(path)
}

/// Returns the directories that may have this QEMU's modules: `lib/qemu`, or a distribution's name
/// for it, where QEMU was installed. QEMU can't be asked for its `--libdir` and
/// `CONFIG_QEMU_MODDIR`.
pub(super) fn module_directories(root: &Root, emulator: &Path) -> Vec<PathBuf> {
    let named = root.join(emulator);
    let real = named.canonicalize().ok();
    let programs = [Some(named), real].into_iter().flatten();
    let libraries = programs
        .filter_map(|program| Some(libraries(program.parent()?.parent()?)))
        .flatten();
    let found: BTreeSet<PathBuf> = libraries
        .flat_map(|library| ["qemu", "qemu-kvm"].map(|name| library.join(name)))
        .filter(|path| path.is_dir())
        .collect();
    found.into_iter().collect()
}
