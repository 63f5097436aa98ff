//! `gfxplane collect`: records a host as a test case, in the form of tests/hosts.
//!
//! The readers report what they looked at ([`watched`]), and that is copied. So nothing that they
//! need is missing, and nothing else goes along.

pub(super) mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use kept::kept;
use nix::libc;

use crate::cli::End;
use crate::device::rules::BUILT_IN;
use crate::domain::Domain;
use crate::domain::shell::plain;
use crate::explain::doctor::examine;
use crate::explain::doctor::{self, HOOK_PROGRAM, Moment, UdevRule};
use crate::host::emulator::{self, AskLibvirt, Asking};
use crate::host::log::rfc3339;
use crate::host::mdevctl::WRAPPER;
use crate::host::state::now;
use crate::host::{Last, Root, Warning, settings, watched};
use crate::libvirt::{Context, Failure};
use crate::predict::abilities::Abilities;
use crate::publish::inventory::Sources;
use crate::xml::{self, Document};

/// The largest file that is copied, in bytes. No more of any file is read.
const MAX_FILE: usize = 64 * 1024;

/// The number of links in a path after which it counts as a loop, as in the kernel (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Attributes that tell one machine from all others. gfxplane itself reads none of them, but a rule
/// of the administrator's may.
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

/// Record this host in a directory, as a test case or for a bug report
///
/// Leaves out serial numbers, MAC addresses and host names. UUIDs of mdevs and PCI addresses go
/// along.
#[derive(Debug, clap::Args)]
pub struct Collect {
    /// The directory, which must be empty or not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Files with the XML of domains; also records these, without what identifies them, and the
    /// abilities of their emulators
    #[arg(long, value_name = "DOMAIN-XML-FILE", num_args = 1..)]
    xml: Vec<PathBuf>,
}

impl Collect {
    /// Records the host, and prints what was written.
    ///
    /// # Errors
    /// The directory is not empty or can't be written to; a domain's file can't be read. What can't
    /// be read of the host gets a warning and is left out.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        self.see_that_it_is_free()?;
        let mut domains = Vec::new();
        for (place, path) in self.xml.iter().enumerate() {
            domains.push(read_domain(path, place + 1)?);
        }
        let root = &context.root;
        let mut notes = Vec::new();
        let (sources, seen) = watched(|| {
            settings::config(root, &mut notes);
            examine::render_nodes(root, &mut notes);
            Sources::read(root)
        });
        notes.extend(sources.host.warnings.iter().cloned());
        let mut copy = Copy::new(root, &self.directory);
        let mut emulators: BTreeSet<PathBuf> =
            emulator::known(root, &mut notes).into_iter().collect();
        emulators.extend(domains.iter().filter_map(|domain| domain.emulator.clone()));
        if !root.is_recorded() {
            let usual = emulator::usual().into_iter();
            emulators.extend(usual.filter(|path| path.exists()));
        }
        copy.host(&seen, &mut notes)?;
        let ask = |emulator: &Path| {
            let is_of_a_file = domains
                .iter()
                .any(|domain| domain.emulator.as_deref() == Some(emulator));
            context.domain_capabilities(emulator, !is_of_a_file)
        };
        let abilities = copy.emulators(&emulators, &ask, &mut notes)?;
        copy.examined(&examine::read(root, &ask).0)?;
        for (place, domain) in domains.iter().enumerate() {
            let name = format!("domains/domain-{}.xml", place + 1);
            copy.text(Path::new(&name), &domain.text)?;
        }
        notes.sort_by(|a, b| (&a.path, &a.problem).cmp(&(&b.path, &b.problem)));
        notes.dedup();
        let readme = readme(&sources.host.kernel, &abilities, &copy.of_the_host(&notes));
        copy.text(Path::new("README"), &readme)?;
        for path in &copy.written {
            let shown = plain(&path.to_string_lossy());
            writeln!(out, "{shown}")?;
        }
        out.flush()?;
        context.warn(&notes);
        let shown = self.directory.display();
        context.say(&format!(
            "this is all of {shown}: look through it before you give it away; \
             `gfxplane --root {shown}/root list` shows this host"
        ));
        Ok(End::Done)
    }

    fn see_that_it_is_free(&self) -> Result<(), Failure> {
        let shown = self.directory.display();
        let problem = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => "is no directory",
            Err(error) => return Err(Failure::Environment(format!("{shown}: {error}"))),
            Ok(mut entries) => match entries.next() {
                None => return Ok(()),
                Some(_) => "is not empty",
            },
        };
        Err(Failure::Usage(format!(
            "{shown} {problem}: name a directory that is not there yet"
        )))
    }
}

/// A domain as it is recorded.
struct Recorded {
    text: String,
    emulator: Option<PathBuf>,
}

fn read_domain(path: &Path, number: usize) -> Result<Recorded, Failure> {
    let shown = path.display();
    let cant = |error: io::Error| Failure::Environment(format!("{shown}: {error}"));
    let unfit = |error: &dyn std::error::Error| Failure::Refused(format!("{shown}: {error}"));
    let mut bytes = Vec::new();
    let limit = xml::MAX_SIZE as u64 + 1;
    let file = fs::File::open(path).map_err(cant)?;
    file.take(limit).read_to_end(&mut bytes).map_err(cant)?;
    let text = xml::from_bytes(bytes).map_err(|error| unfit(&error))?;
    let document = Document::parse(&text).map_err(|error| unfit(&error))?;
    let domain = Domain::new(&document).map_err(|error| unfit(&error))?;
    Ok(Recorded {
        emulator: domain.emulator.as_ref().map(PathBuf::from),
        text: kept(&document, number),
    })
}

/// Returns whether an address is one that many have.
fn says_nothing(address: &str) -> bool {
    let ip = address.parse::<std::net::IpAddr>();
    ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// The directory that is being written.
struct Copy<'a> {
    from: &'a Root,
    /// The root with its links resolved, because readers name paths both ways.
    base: PathBuf,
    to: &'a Path,
    /// The files and links, from `to`.
    written: BTreeSet<PathBuf>,
}

/// The form of one part of a path in the copy.
enum Part {
    Directory,
    Link(PathBuf),
    Text(Vec<u8>),
}

impl<'a> Copy<'a> {
    fn new(from: &'a Root, to: &'a Path) -> Self {
        let base = from.path().canonicalize();
        Copy {
            from,
            base: base.unwrap_or_else(|_| from.path().to_owned()),
            to,
            written: BTreeSet::new(),
        }
    }

    /// Copies what the readers looked at.
    fn host(
        &mut self,
        seen: &BTreeMap<PathBuf, Last>,
        notes: &mut Vec<Warning>,
    ) -> Result<(), Failure> {
        // The rules that this program carries need not be copied.
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

    /// Returns the parts that lead to a path, with what is there; empty if nothing is there.
    fn parts(&self, path: &Path, last: Last) -> Result<Vec<(PathBuf, Part)>, String> {
        let names = |path: &Path| -> VecDeque<OsString> {
            let names = path.components().map(|name| name.as_os_str().to_owned());
            names.collect()
        };
        let mut ahead = names(path);
        // The number of these that belong to the path itself, and not to a link's target.
        let mut own = ahead.len();
        let (mut at, mut links) = (PathBuf::new(), 0);
        let mut parts = Vec::new();
        // A link at the end counts, even if it leads nowhere.
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

    /// Returns notes with paths as the host has them.
    fn of_the_host(&self, notes: &[Warning]) -> Vec<Warning> {
        let on_host = |note: &Warning| {
            let path = self
                .inside(&note.path)
                .map(|path| Path::new("/").join(path));
            Warning::new(path.unwrap_or_else(|| note.path.clone()), &note.problem)
        };
        notes.iter().map(on_host).collect()
    }

    /// Returns a path without the host's root.
    fn inside<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        let inside = path.strip_prefix(&self.base);
        inside.or_else(|_| path.strip_prefix(self.from.path())).ok()
    }

    /// Records the abilities of QEMU and libvirt, asked for if needed.
    fn emulators(
        &mut self,
        emulators: &BTreeSet<PathBuf>,
        ask: &AskLibvirt<'_>,
        notes: &mut Vec<Warning>,
    ) -> Result<Vec<(PathBuf, Abilities)>, Failure> {
        let copy = Root::recorded(self.to.join("root"));
        // libvirt may be there without any QEMU.
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

    /// Copies what only `gfxplane doctor` looks at: the existence of files, not their contents, as
    /// scripts of others may contain anything.
    fn examined(&mut self, host: &doctor::Host) -> Result<(), Failure> {
        let there = |path: &str, is: bool| is.then(|| (PathBuf::from(path), String::new(), false));
        let mut files: Vec<(PathBuf, String, bool)> = Vec::new();
        files.extend(there("/dev/vfio/vfio", host.vfio));
        files.extend(there("/dev/kvm", host.around.kvm));
        files.extend(there(
            "/usr/share/glvnd/egl_vendor.d/50_vendor.json",
            host.egl_vendor,
        ));
        files.extend(there(
            "/usr/lib/udev/rules.d/61-gfxplane.rules",
            host.udev_rule.is_some(),
        ));
        files.extend(there(
            "/etc/udev/rules.d/61-gfxplane.rules",
            host.udev_rule == Some(UdevRule::Hidden),
        ));
        let programs = host.mdevctl.iter().cloned();
        let helper = host
            .helper
            .then(|| PathBuf::from("/usr/bin/gfxplane-helper"));
        for program in programs.chain(helper) {
            files.push((program, String::new(), true));
        }
        let scripts = host.scripts.iter().flat_map(|of| &of.scripts);
        for script in scripts.chain(&host.hooks) {
            files.push((script.path.clone(), String::new(), script.executable));
        }
        for profile in &host.profiles {
            let rule = |allowed, rule: &str| {
                if allowed {
                    format!("{rule}\n")
                } else {
                    String::new()
                }
            };
            let text = rule(profile.hooks, "/etc/libvirt/hooks/** rmix,")
                + &rule(profile.helper, "/usr/bin/* PUx,")
                + &rule(profile.hook_program, &format!("{HOOK_PROGRAM} PUx,"));
            let path = format!("/etc/apparmor.d/usr.sbin.{}", profile.daemon);
            files.push((path.into(), text, false));
            let enabled = "/sys/module/apparmor/parameters/enabled";
            files.push((enabled.into(), "Y\n".into(), false));
        }
        if host.wrapper {
            files.push((Path::new("/").join(WRAPPER), String::new(), false));
        }
        if let Some(selinux) = host.selinux {
            let digit = |is| u8::from(is).to_string();
            files.push((
                "/sys/fs/selinux/enforce".into(),
                digit(selinux.enforcing),
                false,
            ));
            if let Some(is) = selinux.hooks_unconfined {
                let path = "/sys/fs/selinux/booleans/virt_hooks_unconfined";
                files.push((path.into(), digit(is), false));
            }
        }
        for id in &host.stale {
            let path = PathBuf::from(format!("/run/gfxplane/records/{id}.json"));
            let text = fs::read_to_string(self.from.join(path.strip_prefix("/").unwrap_or(&path)));
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

    fn text(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        if let Some(directory) = path.parent() {
            self.make(directory, Part::Directory)?;
        }
        self.make(path, Part::Text(text.into()))
    }

    /// Makes one part, unless it is there already.
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

    /// Puts a file into an empty directory: git keeps no empty directories, and in sysfs each has a
    /// `uevent`.
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

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::Environment(format!("{}: {error}", path.display()))
}

/// Returns whether something is gone, as may happen in sysfs.
fn is_absent(error: &io::Error) -> bool {
    let gone = error.raw_os_error() == Some(libc::ENODEV);
    gone || matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Returns whether a link in this directory leads to a place of the same host, in a way that holds
/// wherever the host's root is.
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

/// Returns the content of a file, if it is a text that others may see.
fn text_of(path: &Path, name: &OsStr) -> Result<Vec<u8>, String> {
    if name
        .to_str()
        .is_some_and(|name| IDENTIFYING.contains(&name))
    {
        return Err("it tells this machine from others".into());
    }
    let mut options = OpenOptions::new();
    // O_NONBLOCK: a file that has become a FIFO meanwhile must not hold us up.
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() > MAX_FILE {
        return Err("it is larger than 64 KiB".into());
    }
    if bytes.contains(&0) {
        return Err("it is no text".into());
    }
    Ok(bytes)
}

/// Returns whether a directory has exactly the rules that this program carries.
fn is_built_in(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut built_in: Vec<_> = BUILT_IN.to_vec();
    built_in.sort_unstable();
    files.len() == built_in.len()
        && files.iter().zip(built_in).all(|(file, (name, text))| {
            file.file_name().is_some_and(|file| file == name)
                && fs::read_to_string(file).is_ok_and(|file| file == text)
        })
}

/// Returns the text about what was recorded, when, and with which versions.
fn readme(kernel: &str, abilities: &[(PathBuf, Abilities)], notes: &[Warning]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let libvirt = abilities
        .iter()
        .find_map(|(_, known)| known.libvirt.as_ref());
    let unknown = || "not known".to_owned();
    let libvirt = libvirt.map_or_else(unknown, ToString::to_string);
    let kernel = Some(kernel).filter(|kernel| !kernel.is_empty());
    let kernel = kernel.map_or_else(unknown, ToString::to_string);
    let mut text = format!(
        "Recorded by `gfxplane collect` (gfxplane {version}) on {}.\n\n\
         Kernel {kernel}; libvirt {libvirt}",
        &rfc3339(now())[..10]
    );
    for (emulator, known) in abilities {
        if let Some(qemu) = &known.qemu {
            text.push_str(&format!("; {}: QEMU {qemu}", emulator.display()));
        }
    }
    text.push_str(
        ".\n\n\
         root/ has what gfxplane reads of the host: vfio devices and their parents in sysfs, records\n\
         of probes, definitions of mdevs, configuration and rules, what QEMU and libvirt can do.\n\n\
         UUIDs of mdevs, PCI addresses, the boot id and the kernel release are the host's own. Serial\n\
         numbers, MAC addresses and host names are not in it. Of a domain only those elements and attributes\n\
         are in it that gfxplane reads, with names and addresses that many have; of QEMU's arguments the\n\
         values that are switches or numbers. Hooks and scripts of others are there by name, and empty.\n\
         What is written in configuration and in definitions of mdevs is there as it was.\n\n\
         As a test case: put it into tests/hosts (a domain into tests/fixup) and run\n\
         `UPDATE_GOLDEN=1 cargo test --test cases`.\n",
    );
    if !notes.is_empty() {
        text.push_str("\nPassed over, or left out:\n\n");
        for note in notes {
            text.push_str(&format!("* {note}\n"));
        }
    }
    text
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
