//! Finds out once what the host's QEMU and libvirt can do ([`Abilities`]), and caches the result in
//! `/var/cache/gfxplane`.
//!
//! This runs no QEMU. libvirt reports the graphics that it accepts with an emulator
//! (`<domainCapabilities>`). QEMU's own files show its version, and two facts that libvirt does not
//! know: which modules are not installed, and with which spice-server QEMU was built. A
//! distribution may put each frontend into a package of its own, so the cache also has the state of
//! the program, its modules and libvirt. libvirt's version is in the file name of its library.

mod cache;
mod capabilities;
mod files;
mod libvirt_settings;
#[cfg(test)]
mod made;
pub mod trials;

pub use cache::known;
pub(crate) use libvirt_settings::qemu_conf;
#[cfg(test)]
pub(crate) use made::pretend;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::device::record::FORMAT;
use crate::host::{Root, Warning};
use crate::predict::abilities::{Abilities, Guests};
use cache::{Kept, Key, keep, kept_path, read, to_text};
use files::Told;
use libvirt_settings::{Installed, installed, installed_path, listens, render_nodes};

/// A function that asks libvirt for the `<domainCapabilities>` of an emulator, by its path. It
/// returns `None` if there is no libvirt to ask, and an error that says why libvirt gave no answer.
pub(crate) type AskLibvirt<'a> = dyn Fn(&Path) -> Result<Option<String>, String> + 'a;

/// Where to look for abilities.
#[derive(Clone, Copy)]
pub enum Asking<'a> {
    /// Reads only the cache. Abilities that are not in it are unknown.
    Cached,
    /// Asks libvirt and reads QEMU's files, if the cache has nothing about this program, its
    /// modules and libvirt as they are now. Keeps the answer for the next caller, if this user may
    /// write to the cache.
    Fresh(&'a AskLibvirt<'a>),
}

/// Returns the directories of libraries below `prefix` (`/usr`): Debian's directory for this
/// architecture first (its wiki, "Multiarch/Tuples").
fn libraries(prefix: &Path) -> [PathBuf; 3] {
    let debian = match std::env::consts::ARCH {
        "x86" => "lib/i386-linux-gnu".to_owned(),
        "arm" => "lib/arm-linux-gnueabihf".to_owned(),
        "powerpc64" => "lib/powerpc64le-linux-gnu".to_owned(),
        other => format!("lib/{other}-linux-gnu"),
    };
    [debian.as_str(), "lib64", "lib"].map(|name| prefix.join(name))
}

/// Returns the paths where distributions install the QEMU that libvirt uses on this kind of
/// machine.
pub(crate) fn usual() -> Vec<PathBuf> {
    let of_arch = format!("/usr/bin/qemu-system-{}", std::env::consts::ARCH);
    ["/usr/bin/qemu-kvm", &of_arch, "/usr/libexec/qemu-kvm"]
        .map(PathBuf::from)
        .into()
}

/// Returns the emulators in the host's cache, and those of the [`usual`] ones that the host has.
pub(crate) fn all(root: &Root, warnings: &mut Vec<Warning>) -> BTreeSet<PathBuf> {
    let here = usual().into_iter().filter(|path| root.join(path).exists());
    known(root, warnings).into_iter().chain(here).collect()
}

/// The kind of file at an emulator's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A machine program (ELF).
    Program,
    /// Any other file, such as a script, which may give QEMU other arguments.
    Script,
    /// Unknown, because the file does not exist, can't be read, or is shorter than four bytes.
    Unknown,
}

/// Returns the kind of an emulator. `emulator` is its path on the host, as a domain names it.
pub fn kind(root: &Root, emulator: &Path) -> Kind {
    let mut start = [0; 4];
    let path = root.join(emulator);
    match files::open(&path).and_then(|mut file| file.read_exact(&mut start)) {
        Err(_) => Kind::Unknown,
        Ok(()) if start == *b"\x7fELF" => Kind::Program,
        Ok(()) => Kind::Script,
    }
}

/// Returns the abilities of this QEMU and the host's libvirt. `emulator` is QEMU's path on the
/// host, as a domain names it. What can't be found out stays unknown. [`Abilities::kvm`] is left to
/// the caller.
///
/// For a recorded host, reads only its files, and does not compare the cache with the emulator.
pub fn abilities(
    root: &Root,
    emulator: &Path,
    asking: Asking<'_>,
    warnings: &mut Vec<Warning>,
) -> Abilities {
    let mut abilities = of_qemu(root, emulator, asking, warnings);
    let installed = installed(root, warnings);
    abilities.libvirt = installed.version;
    abilities.guests = installed.guests;
    listens(root, &mut abilities, warnings);
    abilities.render_nodes = render_nodes(root);
    abilities
}

/// Writes the known abilities of an emulator, of libvirt and of qemu.conf into the directory of a
/// recorded host, for [`abilities`] to read there. `root` is that host; its older files are
/// overwritten. Returns the paths of the files. Masks this machine's own addresses: it only matters
/// whether other hosts can reach them.
///
/// # Errors
/// Any error of the file system.
pub fn record(root: &Root, emulator: &Path, abilities: &Abilities) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, text)?;
        written.push(path);
        io::Result::Ok(())
    };
    let kept = Kept {
        format: FORMAT,
        emulator: emulator.to_owned(),
        key: None,
        abilities: Abilities {
            qemu: abilities.qemu.clone(),
            frontends: abilities.frontends.clone(),
            spice_gl_over_tcp: abilities.spice_gl_over_tcp,
            ..Abilities::default()
        },
    };
    if kept.abilities != Abilities::default() {
        write(kept_path(root, emulator), to_text(&kept)?)?;
    }
    if abilities.libvirt.is_some() || abilities.guests != Guests::default() {
        let installed = Installed {
            format: FORMAT,
            version: abilities.libvirt.clone(),
            guests: abilities.guests.clone(),
        };
        write(installed_path(root), to_text(&installed)?)?;
    }
    let address = |set: &Option<String>| Some(format!("\"{}\"", masked(set.as_deref()?)));
    let switch = |set: Option<bool>| set.map(|set| u8::from(set).to_string());
    let has_none = abilities.own_dev == Some(false);
    let settings = [
        ("spice_listen", address(&abilities.spice_listen)),
        ("vnc_listen", address(&abilities.vnc_listen)),
        (
            "spice_auto_unix_socket",
            switch(abilities.spice_auto_unix_socket),
        ),
        (
            "vnc_auto_unix_socket",
            switch(abilities.vnc_auto_unix_socket),
        ),
        ("spice_tls", switch(abilities.spice_tls)),
        ("namespaces", has_none.then(|| "[ ]".to_owned())),
    ];
    let line = |(key, value): (&str, Option<String>)| Some(format!("{key} = {}\n", value?));
    let settings: String = settings.into_iter().filter_map(line).collect();
    if !settings.is_empty() {
        write(root.join("etc/libvirt/qemu.conf"), settings)?;
    }
    Ok(written)
}

/// Returns an address that may be published: the address itself if every host has it, otherwise one
/// of the addresses for documentation (RFC 5737, RFC 3849).
fn masked(address: &str) -> &str {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => address,
        Ok(std::net::IpAddr::V6(_)) => "2001:db8::1",
        Err(_) if address == "localhost" => address,
        _ => "192.0.2.1",
    }
}

fn of_qemu(
    root: &Root,
    emulator: &Path,
    asking: Asking<'_>,
    warnings: &mut Vec<Warning>,
) -> Abilities {
    let path = kept_path(root, emulator);
    let kept = read(root, &path, warnings).filter(|kept| {
        let same = kept.emulator == emulator;
        if !same {
            let other = kept.emulator.display();
            warnings.push(Warning::new(&path, format!("ignored: it is about {other}")));
        }
        same
    });
    if root.is_recorded() {
        return kept.map(|kept| kept.abilities).unwrap_or_default();
    }
    let key = match Key::of(root, emulator) {
        _ if !emulator.is_absolute() => Err(io::Error::other("is no absolute path")),
        key => key,
    };
    if let Some(kept) = kept
        && let Ok(key) = &key
        && kept.key.as_ref() == Some(key)
    {
        return kept.abilities;
    }
    let Asking::Fresh(ask) = asking else {
        return Abilities::default();
    };
    let mut unknown = |problem: &str| {
        let problem = format!("{problem}, so this QEMU's abilities are not known");
        warnings.push(Warning::new(root.join(emulator), problem));
    };
    let Ok(key) = key.inspect_err(|error| unknown(&error.to_string())) else {
        return Abilities::default();
    };
    let told = files::read(root, emulator).inspect_err(|error| unknown(&error.to_string()));
    let told = told.unwrap_or_default();
    let graphics = ask(emulator).and_then(|xml| {
        let of = |xml: String| capabilities::graphics(&xml, root, emulator);
        xml.map(of).transpose()
    });
    let graphics = graphics.inspect_err(|problem| unknown(problem.trim_end()));
    let graphics = graphics.unwrap_or_default();
    let is_whole = told.version.is_some() && graphics.is_some();
    let abilities = together(told, graphics);
    if is_whole {
        let kept = Kept {
            format: FORMAT,
            emulator: emulator.to_owned(),
            key: Some(key),
            abilities: abilities.clone(),
        };
        // A user who may not write to the cache asks again the next time.
        let _ = keep(&path, &kept);
    }
    abilities
}

/// Joins the facts in QEMU's files with the types of graphics that libvirt accepts. The frontends
/// are unknown unless both are known.
fn together(told: Told, graphics: Option<BTreeSet<String>>) -> Abilities {
    let frontends = graphics.zip(told.missing).map(|(mut frontends, missing)| {
        // libvirt has no graphics of type gtk, but a -display that the user adds may name it.
        frontends.insert("gtk".to_owned());
        frontends.retain(|frontend| !missing.contains(frontend.as_str()));
        if frontends.contains("spice") && told.spice_gl == Some(true) {
            frontends.insert("spice-gl".to_owned());
        }
        frontends
    });
    Abilities {
        qemu: told.version,
        frontends,
        spice_gl_over_tcp: told.spice_gl_over_tcp,
        ..Abilities::default()
    }
}

#[cfg(test)]
mod tests {
    use super::made::{CAPABILITIES, Host, MODULES, PROGRAM, QEMU, install, nothing, set};
    use super::*;
    use crate::device::version::Version;

    fn all() -> Abilities {
        Abilities {
            qemu: Some(Version::of(&[7, 2, 22])),
            // libvirt lists sdl, too, but its module is not installed.
            frontends: Some(set(&["dbus", "egl-headless", "spice", "spice-gl", "vnc"])),
            ..nothing()
        }
    }

    #[test]
    fn libvirt_is_asked_once() {
        let host = Host::new();
        assert_eq!(host.find(false), (nothing(), Vec::new()));
        assert_eq!(host.asked(), 0);
        for fresh in [true, true, false] {
            assert_eq!(host.find(fresh), (all(), Vec::new()));
        }
        assert_eq!(host.asked(), 1, "the cache answers");
        assert_eq!(known(&host.root(), &mut Vec::new()), [PathBuf::from(QEMU)]);
    }

    #[test]
    fn what_has_changed_is_found_out_again() {
        let host = Host::new();
        host.find(true);
        host.write(&format!("{MODULES}/ui-sdl.so"), "");
        assert_eq!(host.find(false).0, nothing(), "a module was installed");
        assert_eq!(host.find(true).0.has("sdl"), Some(true));
        fs::create_dir_all(host.root().join("usr/lib64/qemu-kvm")).unwrap();
        host.find(true);
        assert_eq!(host.asked(), 3, "a directory of modules was made");
        host.write("usr/bin/qemu-rdp", "");
        assert_eq!(host.find(false).0, nothing(), "qemu-rdp was installed");
        host.find(true);
        host.write(QEMU, &PROGRAM.replace("7.2.22", "10.0.13"));
        assert_eq!(host.find(false).0, nothing(), "another QEMU");
        assert_eq!(host.find(true).0.qemu, Some(Version::of(&[10, 0, 13])));
        install(&host.root(), "libvirt.so.0.11003.0");
        assert_eq!(host.find(false).0.frontends, None, "another libvirt");
    }

    #[test]
    fn without_an_answer_of_libvirts_the_files_tell_their_part() {
        let mut host = Host::new();
        let version_alone = Abilities {
            frontends: None,
            ..all()
        };
        let other = CAPABILITIES.replace("x86_64", "aarch64");
        for (answer, expected) in [
            (Ok(None), None),
            (Err("libvirt: no\n".to_owned()), Some("libvirt: no")),
            (Ok(Some("<a/>".to_owned())), Some("no path or no graphics")),
            (
                Ok(Some(other)),
                Some("libvirt uses /usr/bin/qemu-system-aarch64"),
            ),
        ] {
            host.answer = answer;
            let (abilities, warnings) = host.find(true);
            assert_eq!(abilities, version_alone, "{expected:?}");
            assert_eq!(warnings.len(), usize::from(expected.is_some()));
            let said = warnings
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(said.contains(expected.unwrap_or_default()), "{said}");
            assert!(!host.kept().exists(), "half an answer is not kept");
        }
        host.answer = Ok(Some(CAPABILITIES.replace(QEMU, "/usr/bin/kvm")));
        std::os::unix::fs::symlink("qemu-system-x86_64", host.root().join("usr/bin/kvm")).unwrap();
        assert_eq!(host.find(true), (all(), Vec::new()), "the same by a link");
    }

    #[test]
    fn what_is_no_qemu() {
        let host = Host::new();
        for (text, expected) in [
            ("#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n", "is a script"),
            ("QEMU emulator version ", "is a script"),
            ("", "is a script"),
        ] {
            host.write(QEMU, text);
            let (abilities, warnings) = host.find(true);
            assert_eq!((abilities, warnings.len()), (nothing(), 1));
            let warning = warnings[0].to_string();
            assert!(
                warning.contains(expected) && warning.contains(QEMU),
                "{warning}"
            );
            assert!(!host.kept().exists());
            assert!(host.find(false).1.is_empty());
        }
        let program = host.root().join(QEMU);
        fs::remove_file(&program).unwrap();
        assert!(host.find(true).1[0].to_string().contains("No such file"));
        nix::unistd::mkfifo(&program, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            host.find(true).1[0]
                .to_string()
                .contains("is not a program")
        );
        assert_eq!(kind(&host.root(), Path::new(QEMU)), Kind::Unknown);
        let mut warnings = Vec::new();
        let relative = Path::new("qemu-system-x86_64");
        let asking = Asking::Fresh(&|_| panic!("libvirt is asked"));
        abilities(&host.root(), relative, asking, &mut warnings);
        let problem = &warnings[0].problem;
        assert!(problem.contains("no absolute path"), "{problem}");
    }

    #[test]
    fn what_spice_was_built_with() {
        let host = Host::new();
        let spice = "failed to initialize spice server";
        let module = |directory: &str, text: &str| {
            host.write(&format!("{directory}/ui-spice-core.so"), text);
        };
        let find = || {
            let _ = fs::remove_file(host.kept());
            let found = host.find(true).0;
            (found.has("spice-gl"), found.spice_gl_over_tcp)
        };
        assert_eq!(find(), (Some(true), None), "no 7.2 takes it over TCP");
        host.write(QEMU, &PROGRAM.replace("7.2.22", "11.1.3"));
        for (text, expected) in [
            (format!("{spice}\0spice-egl\0"), (Some(true), Some(true))),
            (
                format!("{spice}\0spice-egl\0SPICE GL support is local-only for now"),
                (Some(true), Some(false)),
            ),
            (spice.to_owned(), (Some(false), None)),
            ("spice-egl".to_owned(), (Some(false), None)),
        ] {
            module(MODULES, &text);
            assert_eq!(find(), expected, "{text}");
        }
        module("usr/lib64/qemu", &format!("{spice}\0spice-egl\0"));
        assert_eq!(find(), (Some(false), None), "two that differ");
    }

    #[test]
    fn a_qemu_without_modules() {
        let host = Host::new();
        let program = PROGRAM.replace("ui-", "");
        host.write(
            QEMU,
            &format!("{program}failed to initialize spice server\0spice-egl\0"),
        );
        for name in ["dbus", "egl-headless", "spice-core"] {
            fs::remove_file(host.root().join(MODULES).join(format!("ui-{name}.so"))).unwrap();
        }
        let found = host.find(true).0;
        for frontend in ["dbus", "egl-headless", "sdl", "spice", "spice-gl", "vnc"] {
            assert_eq!(found.has(frontend), Some(true), "{frontend}");
        }
    }

    #[test]
    fn where_modules_are_is_not_known() {
        let host = Host::new();
        fs::remove_dir_all(host.root().join("usr/lib")).unwrap();
        let found = host.find(true).0;
        assert_eq!((found.qemu, found.frontends), (all().qemu, None));
    }

    #[test]
    fn what_is_recorded_is_read() {
        let host = Host::new();
        let copy = Root::recorded(host.root().join("copy"));
        let all = Abilities {
            libvirt: Some(Version::of(&[11, 3, 0])),
            spice_gl_over_tcp: Some(true),
            spice_listen: Some("0.0.0.0".into()),
            vnc_listen: Some("10.1.2.3".into()),
            vnc_auto_unix_socket: Some(true),
            own_dev: Some(false),
            guests: Guests {
                dbus_daemon_denied: Some(true),
                ..Guests::default()
            },
            ..host.find(true).0
        };
        fs::create_dir(copy.path()).unwrap();
        assert_eq!(record(&copy, Path::new(QEMU), &all).unwrap().len(), 3);
        let expected = Abilities {
            vnc_listen: Some("192.0.2.1".into()),
            render_nodes: None,
            ..all
        };
        let mut warnings = Vec::new();
        let nobody = |_: &Path| panic!("libvirt is asked");
        for asking in [Asking::Cached, Asking::Fresh(&nobody)] {
            let found = abilities(&copy, Path::new(QEMU), asking, &mut warnings);
            assert_eq!(found, expected);
        }
        let other = Path::new("/usr/bin/other");
        let other = abilities(&copy, other, Asking::Fresh(&nobody), &mut warnings);
        assert_eq!(other.libvirt, expected.libvirt);
        assert_eq!((other.qemu, warnings), (None, Vec::new()));
        for (address, shown) in [
            ("::", "::"),
            ("::1", "::1"),
            ("127.0.0.2", "127.0.0.2"),
            ("localhost", "localhost"),
            ("fe80::1:2", "2001:db8::1"),
            ("host.example.org", "192.0.2.1"),
        ] {
            assert_eq!(masked(address), shown);
        }
    }
}
