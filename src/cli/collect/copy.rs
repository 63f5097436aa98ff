//! Copies the files that the readers of a host looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::device::rules::BUILT_IN;
use crate::explain::doctor::examine;
use crate::explain::doctor::{self, HOOK_PROGRAM, Moment, UdevRule};
use crate::host::callout;
use crate::host::emulator::{self, AskLibvirt, Asking};
use crate::host::mdevctl::WRAPPER;
use crate::host::{Last, Root, Warning, is_absent, open_file};
use crate::libvirt::Failure;
use crate::predict::abilities::Abilities;

/// The largest file that is copied, in bytes. A larger file is left out.
const MAX_FILE: usize = 64 * 1024;

/// The number of links in a path after which it counts as a loop, as in the kernel (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Attributes in sysfs that identify one machine. gfxplane itself reads none of them, but a rule of
/// the administrator's may.
const IDENTIFYING: &[&str] = &[
    "serial",
    "serial_number",
    "unique_id",
    "uuid",
    "vpd",
    "wwid",
    "address",
    "hostname",
];

/// Copies a host into the directory `to`.
pub(super) struct Copy<'a> {
    from: &'a Root,
    /// The root with its links resolved, because readers report paths with and without links.
    base: PathBuf,
    to: &'a Path,
    /// The files and links that were made, relative to `to`.
    pub(super) written: BTreeSet<PathBuf>,
}

/// The form of one part of a path in the copy.
enum Part {
    Directory,
    Link(PathBuf),
    Text(Vec<u8>),
}

impl<'a> Copy<'a> {
    pub(super) fn new(from: &'a Root, to: &'a Path) -> Self {
        let base = from.path().canonicalize();
        Copy {
            from,
            base: base.unwrap_or_else(|_| from.path().to_owned()),
            to,
            written: BTreeSet::new(),
        }
    }

    /// Copies the files that the readers looked at (`seen`), and adds a note about each that is
    /// left out. Does not copy the built-in rules.
    pub(super) fn host(
        &mut self,
        seen: &BTreeMap<PathBuf, Last>,
        notes: &mut Vec<Warning>,
    ) -> Result<(), Failure> {
        // The rules that are built into this program need not be copied.
        let rules = "usr/share/gfxplane/rules.d";
        let built_in = is_built_in(&self.from.join(rules));
        for (path, last) in seen {
            let Some(inside) = self.inside(path) else {
                continue;
            };
            if built_in && inside.starts_with(rules) {
                continue;
            }
            match self.parts(inside, *last) {
                Ok(parts) => {
                    for (place, part) in parts {
                        self.make(&Path::new("root").join(place), part)?;
                    }
                }
                Err(problem) => notes.push(Warning::new(path, format!("left out: {problem}"))),
            }
        }
        self.fill(&self.to.join("root/sys"))?;
        Ok(())
    }

    /// Returns every directory, link and file on the way to `path`, also through links, each in the
    /// form in which it is copied. Returns nothing if `path` does not exist; a dangling link at its
    /// end counts as existing. `last` decides whether a link at the end of `path` is followed. The
    /// error is the reason to leave `path` out.
    fn parts(&self, path: &Path, last: Last) -> Result<Vec<(PathBuf, Part)>, String> {
        let names = |path: &Path| -> VecDeque<OsString> {
            let names = path.components().map(|name| name.as_os_str().to_owned());
            names.collect()
        };
        let mut ahead = names(path);
        // The number of these names that belong to the path itself, and not to a link's target.
        let mut own = ahead.len();
        let (mut at, mut links) = (PathBuf::new(), 0);
        let mut parts = Vec::new();
        // True after a link at the end, which counts even if it leads nowhere.
        let mut is_something = false;
        while let Some(name) = ahead.pop_front() {
            let is_last = ahead.is_empty();
            let is_own = own > ahead.len();
            own = own.min(ahead.len());
            if name == ".." {
                if !at.pop() {
                    return Err("it leads out of the host".into());
                }
                continue;
            }
            let place = at.join(&name);
            let there = self.from.join(&place);
            let data = match fs::symlink_metadata(&there) {
                Ok(data) => data,
                Err(error) if is_absent(&error) => {
                    return Ok(if is_something { parts } else { Vec::new() });
                }
                Err(error) => return Err(error.to_string()),
            };
            if data.is_dir() {
                parts.push((place.clone(), Part::Directory));
                at = place;
            } else if data.is_symlink() {
                let target = fs::read_link(&there).map_err(|error| error.to_string())?;
                if !stays_inside(&at, &target) {
                    return Err("it is a link that leads out of the host".into());
                }
                parts.push((place, Part::Link(target.clone())));
                links += 1;
                is_something |= is_last;
                if (is_own && is_last && last == Last::Link) || links > MAX_LINKS {
                    return Ok(parts);
                }
                let mut way = names(&target);
                way.append(&mut ahead);
                ahead = way;
            } else if is_last {
                let kind = data.file_type();
                let text = if data.is_file() {
                    text_of(&there, &name)?
                } else if kind.is_char_device() || kind.is_block_device() {
                    // Only its existence matters.
                    Vec::new()
                } else {
                    return Err("it is neither a file nor a directory".into());
                };
                parts.push((place, Part::Text(text)));
                return Ok(parts);
            } else {
                // Nothing is below a file.
                return Ok(Vec::new());
            }
        }
        Ok(parts)
    }

    /// Returns notes with the paths that the files have on the host.
    pub(super) fn of_the_host(&self, notes: &[Warning]) -> Vec<Warning> {
        let on_host = |note: &Warning| {
            let path = self
                .inside(&note.path)
                .map(|path| Path::new("/").join(path));
            Warning::new(path.unwrap_or_else(|| note.path.clone()), &note.problem)
        };
        notes.iter().map(on_host).collect()
    }

    /// Returns a path relative to the host's root; `None` if it is outside of the root.
    fn inside<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        let inside = path.strip_prefix(&self.base);
        inside.or_else(|_| path.strip_prefix(self.from.path())).ok()
    }

    /// Records and returns the abilities of QEMU and libvirt. Asks for them first if necessary.
    pub(super) fn emulators(
        &mut self,
        emulators: &BTreeSet<PathBuf>,
        ask: &AskLibvirt<'_>,
        notes: &mut Vec<Warning>,
    ) -> Result<Vec<(PathBuf, Abilities)>, Failure> {
        let copy = Root::recorded(self.to.join("root"));
        // libvirt may be installed without any QEMU.
        let none = PathBuf::new();
        let asked = emulators
            .iter()
            .map(|emulator| (emulator, Asking::Fresh(ask)));
        let mut all = Vec::new();
        for (emulator, asking) in std::iter::once((&none, Asking::Cached)).chain(asked) {
            let abilities = emulator::abilities(self.from, emulator, asking, notes);
            let written = emulator::record(&copy, emulator, &abilities)
                .map_err(|error| unwritable(copy.path(), &error))?;
            let inside = |path: PathBuf| Some(path.strip_prefix(self.to).ok()?.to_owned());
            self.written.extend(written.into_iter().filter_map(inside));
            all.push((emulator.clone(), abilities));
        }
        Ok(all)
    }

    /// Records what only `gfxplane doctor` looks at: of most files the existence, not the contents,
    /// because other people's scripts may contain anything.
    pub(super) fn examined(&mut self, host: &doctor::Host) -> Result<(), Failure> {
        let mut files = examined_files(host);
        for id in &host.stale {
            let path = PathBuf::from(format!("/run/gfxplane/records/{id}.json"));
            let text = fs::read_to_string(self.from.join(&path));
            // It may have been removed meanwhile.
            files.extend(text.ok().map(|text| (path, text, false)));
        }
        if host.moment != Moment::default() {
            let text = serde_json::to_string_pretty(&host.moment).expect("it has only string keys");
            files.push((Path::new("/").join(examine::MOMENT), text + "\n", false));
        }
        for (path, text, executable) in files {
            let path = Path::new("root").join(path.strip_prefix("/").unwrap_or(&path));
            let is_new = !self.written.contains(&path);
            self.text(&path, &text)?;
            if is_new && executable {
                let to = self.to.join(&path);
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&to, mode).map_err(|error| unwritable(&to, &error))?;
            }
        }
        // The existence of mdevctl's directories matters, too.
        for scripts in &host.scripts {
            let directory = &scripts.directory;
            let inside = directory.strip_prefix("/").unwrap_or(directory);
            self.make(&Path::new("root").join(inside), Part::Directory)?;
        }
        Ok(())
    }

    pub(super) fn text(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        if let Some(directory) = path.parent() {
            self.make(directory, Part::Directory)?;
        }
        self.make(path, Part::Text(text.into()))
    }

    /// Makes a part of the copy at `path`, unless it exists already.
    fn make(&mut self, path: &Path, part: Part) -> Result<(), Failure> {
        let to = self.to.join(path);
        if self.written.contains(path) {
            return Ok(());
        }
        let is_directory = matches!(part, Part::Directory);
        let made = match part {
            Part::Directory => fs::create_dir_all(&to),
            Part::Link(target) => symlink(target, &to),
            Part::Text(text) => fs::write(&to, text),
        };
        if !is_directory {
            self.written.insert(path.to_owned());
        }
        made.map_err(|error| unwritable(&to, &error))
    }

    /// Puts a file into each empty directory at and below `directory`: git keeps no empty
    /// directories, and in sysfs each has a `uevent`.
    fn fill(&mut self, directory: &Path) -> Result<(), Failure> {
        let mut is_empty = true;
        let Ok(entries) = fs::read_dir(directory) else {
            return Ok(());
        };
        for entry in entries {
            let entry = entry.map_err(|error| unwritable(directory, &error))?;
            is_empty = false;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.fill(&entry.path())?;
            }
        }
        let path = directory.join("uevent");
        match path.strip_prefix(self.to).map(Path::to_owned) {
            Ok(path) if is_empty => self.make(&path, Part::Text(Vec::new())),
            _ => Ok(()),
        }
    }
}

/// Returns the files that doctor has seen on a host, each with the text that a copy needs and
/// whether the file is executable.
fn examined_files(host: &doctor::Host) -> Vec<(PathBuf, String, bool)> {
    let mut files: Vec<(PathBuf, String, bool)> = Vec::new();
    let is_hidden = host.udev_rule == Some(UdevRule::Hidden);
    for (is_there, path) in [
        (host.vfio, "dev/vfio/vfio"),
        (host.around.kvm == Some(true), "dev/kvm"),
        (host.is_told_by_libvirt, callout::SCHEMA_OF_LIBVIRT),
        (
            host.egl_vendor,
            "usr/share/glvnd/egl_vendor.d/50_vendor.json",
        ),
        (
            host.udev_rule.is_some(),
            "usr/lib/udev/rules.d/61-gfxplane.rules",
        ),
        (is_hidden, "etc/udev/rules.d/61-gfxplane.rules"),
        (host.wrapper, WRAPPER),
    ] {
        if is_there {
            files.push((Path::new("/").join(path), String::new(), false));
        }
    }
    let helper = host.helper.then(|| "/usr/bin/gfxplane-helper".into());
    for program in host.mdevctl.iter().cloned().chain(helper) {
        files.push((program, String::new(), true));
    }
    let scripts = host.scripts.iter().flat_map(|of| &of.scripts);
    for script in scripts.chain(&host.hooks) {
        files.push((script.path.clone(), String::new(), script.executable));
    }
    for profile in &host.profiles {
        let rules = [
            (profile.hooks, "/etc/libvirt/hooks/** rmix,\n".to_owned()),
            (profile.helper, "/usr/bin/* PUx,\n".to_owned()),
            (profile.hook_program, format!("{HOOK_PROGRAM} PUx,\n")),
        ];
        let allowed = rules.into_iter().filter(|(is_allowed, _)| *is_allowed);
        let text = allowed.map(|(_, rule)| rule).collect();
        let path = format!("/etc/apparmor.d/usr.sbin.{}", profile.daemon);
        files.push((path.into(), text, false));
        let enabled = "/sys/module/apparmor/parameters/enabled";
        files.push((enabled.into(), "Y\n".into(), false));
    }
    if let Some(selinux) = host.selinux {
        let digit = |is| u8::from(is).to_string();
        let directory = Path::new("/sys/fs/selinux");
        let boolean = directory.join("booleans/virt_hooks_unconfined");
        files.push((directory.join("enforce"), digit(selinux.enforcing), false));
        let unconfined = selinux.hooks_unconfined;
        files.extend(unconfined.map(|is| (boolean, digit(is), false)));
    }
    files
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Environment(format!("{}: {error}", path.display()))
}

/// Returns whether a link in this directory still works in a copy of the host: its target must be
/// relative and stay below the root.
fn stays_inside(directory: &Path, target: &Path) -> bool {
    let mut depth = directory.components().count();
    target.components().all(|name| match name {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if depth > 0 => {
            depth -= 1;
            true
        }
        _ => false,
    })
}

/// Returns the content of a file.
///
/// # Errors
/// The file can't be read, is too large, is no text, or identifies this machine.
fn text_of(path: &Path, name: &OsStr) -> Result<Vec<u8>, String> {
    if name
        .to_str()
        .is_some_and(|name| IDENTIFYING.contains(&name))
    {
        return Err("it identifies this machine".into());
    }
    let mut bytes = Vec::new();
    let read =
        open_file(path).and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() > MAX_FILE {
        return Err("it is larger than 64 KiB".into());
    }
    if bytes.contains(&0) {
        return Err("it is no text".into());
    }
    Ok(bytes)
}

/// Returns whether a directory has exactly the rules that are built into this program.
fn is_built_in(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name, fs::read_to_string(entry.path()).ok()?))
    };
    let files: Option<BTreeMap<String, String>> = entries.flatten().map(file).collect();
    let built_in = BUILT_IN.iter();
    let built_in = built_in.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    files == Some(built_in.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_stay_inside() {
        for (directory, target, inside) in [
            ("sys/bus/mdev/devices", "../../../devices/x", true),
            ("sys", "../sys/x", true),
            ("sys", "../../etc", false),
            ("", "../x", false),
            ("sys", "/sys/x", false),
            ("sys/x", "a/../../../../x", false),
        ] {
            let found = stays_inside(Path::new(directory), Path::new(target));
            assert_eq!(found, inside, "{directory} {target}");
        }
    }
}
