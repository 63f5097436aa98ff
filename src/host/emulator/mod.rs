//! What the host's QEMU and libvirt can do: asked once, and kept in `/var/cache/gfxplane`.
//!
//! QEMU is asked in two short runs: over QMP for its version, VNC and spice, and with `-display
//! help` for the rest. What it says depends on the modules that are installed, and a distribution
//! may have each frontend in a package of its own, so the answer is kept together with what tells
//! that the program or its modules have changed. libvirt is not asked at all: its library's file
//! name has the version.
//!
//! A QEMU that others can replace is not run: any file can be named in a domain's XML.

mod ask;
mod cache;
#[cfg(test)]
mod fake;
mod libvirt;
pub mod trials;
mod trust;

pub use cache::known;
#[cfg(test)]
pub(crate) use fake::pretend;
pub use libvirt::{QemuConf, qemu_conf};

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::abilities::Abilities;
use crate::host::{Root, Warning};
use crate::record::FORMAT;
use ask::{DEADLINE, ask};
use cache::{Kept, Key, keep, kept_path, only_qemus, read, to_text};
use libvirt::{Installed, installed_path, listens, render_nodes, version};

/// Whether QEMU may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Never: what is not in the cache is not known.
    Cached,
    /// If the cache says nothing of this program and its modules as they are now. The answer is
    /// kept for the next one, where that is allowed.
    Fresh,
}

/// Whether a directory of `/usr/lib` is that of an architecture (Debian's `x86_64-linux-gnu`).
fn is_multiarch(name: &str) -> bool {
    name.contains("-linux-")
}

/// Where distributions have the QEMU that libvirt uses on a machine of this kind.
#[must_use]
pub fn usual() -> Vec<PathBuf> {
    let of_arch = format!("/usr/bin/qemu-system-{}", std::env::consts::ARCH);
    ["/usr/bin/qemu-kvm", &of_arch, "/usr/libexec/qemu-kvm"]
        .map(PathBuf::from)
        .into()
}

/// What stands in an emulator's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program of the machine's (ELF).
    Program,
    /// Something else that can be run: a script, which may give QEMU other arguments.
    Script,
    /// Nobody can tell: it is not there, or can't be read.
    Unknown,
}

/// What an emulator is. `emulator`: its path on the host, as a domain names it.
#[must_use]
pub fn kind(root: &Root, emulator: &Path) -> Kind {
    let mut start = [0; 4];
    let path = root.join(emulator.strip_prefix("/").unwrap_or(emulator));
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)) {
        Err(_) => Kind::Unknown,
        Ok(()) if start == *b"\x7fELF" => Kind::Program,
        Ok(()) => Kind::Script,
    }
}

/// What this QEMU and the host's libvirt can do. `emulator`: its path on the host, as a domain
/// names it.
///
/// Of a recorded host only the files are read: QEMU is never run, and the cache believed.
pub fn abilities(
    root: &Root,
    emulator: &Path,
    asking: Asking,
    warnings: &mut Vec<Warning>,
) -> Abilities {
    let mut abilities = of_qemu(root, emulator, asking, warnings);
    abilities.libvirt = version(root, warnings);
    listens(root, &mut abilities, warnings);
    abilities.render_nodes = render_nodes(root);
    abilities
}

/// Writes what is known of an emulator, of libvirt and of qemu.conf into the directory of a
/// recorded host, for [`abilities`] to read there. Addresses of this machine's own do not go
/// along: what matters is that others can reach them.
///
/// # Errors
/// Any error of the file system.
pub fn record(root: &Root, emulator: &Path, abilities: &Abilities) -> io::Result<Vec<PathBuf>> {
    let Abilities {
        libvirt,
        spice_listen,
        vnc_listen,
        spice_auto_unix_socket,
        vnc_auto_unix_socket,
        ..
    } = abilities;
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
        abilities: only_qemus(abilities),
    };
    if kept.abilities != Abilities::default() {
        write(kept_path(root, emulator), to_text(&kept)?)?;
    }
    if let Some(version) = libvirt {
        let installed = Installed {
            format: FORMAT,
            version: version.clone(),
        };
        let text = serde_json::to_string_pretty(&installed)?;
        write(installed_path(root), text + "\n")?;
    }
    let mut settings: String = [("spice_listen", spice_listen), ("vnc_listen", vnc_listen)]
        .into_iter()
        .filter_map(|(key, address)| Some((key, masked(address.as_deref()?))))
        .map(|(key, address)| format!("{key} = \"{address}\"\n"))
        .collect();
    for (key, socket) in [
        ("spice_auto_unix_socket", spice_auto_unix_socket),
        ("vnc_auto_unix_socket", vnc_auto_unix_socket),
    ] {
        if let Some(socket) = socket {
            settings.push_str(&format!("{key} = {}\n", u8::from(*socket)));
        }
    }
    if !settings.is_empty() {
        write(root.join("etc/libvirt/qemu.conf"), settings)?;
    }
    Ok(written)
}

/// An address as it may be shown to others: those that every host has, as they are, another as one
/// of those that are for documentation (RFC 5737, RFC 3849).
fn masked(address: &str) -> &str {
    match address.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => address,
        Ok(std::net::IpAddr::V6(_)) => "2001:db8::1",
        Err(_) if address == "localhost" => address,
        _ => "192.0.2.1",
    }
}

fn of_qemu(root: &Root, emulator: &Path, asking: Asking, warnings: &mut Vec<Warning>) -> Abilities {
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
    let program = on_host(root, emulator);
    let key = match Key::of(root, emulator) {
        _ if !emulator.is_absolute() => Err(io::Error::other("is no absolute path")),
        key => key,
    };
    let key = match key {
        Ok(key) => key,
        Err(error) => {
            if asking == Asking::Fresh {
                let problem = format!("{error}: what this QEMU can do is not known");
                warnings.push(Warning::new(program, problem));
            }
            return Abilities::default();
        }
    };
    if let Some(kept) = kept
        && kept.key.as_ref() == Some(&key)
    {
        return kept.abilities;
    }
    if asking == Asking::Cached {
        return Abilities::default();
    }
    let answer = trust::trusted(root, &program)
        .and_then(|file| ask(root, emulator, &file, Instant::now() + DEADLINE));
    match answer {
        Ok(abilities) => {
            let kept = Kept {
                format: FORMAT,
                emulator: emulator.to_owned(),
                key: Some(key),
                abilities: abilities.clone(),
            };
            // Whoever may not write there asks again the next time.
            let _ = keep(&path, &kept);
            abilities
        }
        Err(problem) => {
            let problem = format!("{problem}: what this QEMU can do is not known");
            warnings.push(Warning::new(program, problem));
            Abilities::default()
        }
    }
}

/// A path that the host has, where we find it.
fn on_host(root: &Root, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::fake::{DISPLAYS, Host, QEMU, QMP, nothing, set};
    use super::*;
    use crate::version::Version;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_asked_once() {
        let host = Host::new(QMP, DISPLAYS);
        assert_eq!(host.ask(Asking::Cached), (nothing(), Vec::new()));
        assert_eq!(host.runs(), 0);
        let expected = Abilities {
            qemu: Some(Version::of(&[7, 2, 22])),
            frontends: Some(set(&[
                "none",
                "egl-headless",
                "curses",
                "dbus",
                "spice",
                "spice-gl",
                "vnc",
            ])),
            ..nothing()
        };
        assert_eq!(host.ask(Asking::Fresh), (expected.clone(), Vec::new()));
        assert_eq!(host.runs(), 2);
        for asking in [Asking::Fresh, Asking::Cached] {
            assert_eq!(host.ask(asking), (expected.clone(), Vec::new()));
        }
        assert_eq!(host.runs(), 2, "the cache answers");
        assert_eq!(known(&host.root(), &mut Vec::new()), [PathBuf::from(QEMU)]);
    }

    #[test]
    fn what_has_changed_is_asked_again() {
        let host = Host::new(QMP, DISPLAYS);
        let modules = host.root().join("usr/lib/x86_64-linux-gnu/qemu");
        host.ask(Asking::Fresh);
        fs::write(modules.join("ui-gtk.so"), "").unwrap();
        assert_eq!(host.ask(Asking::Cached).0, nothing());
        host.ask(Asking::Fresh);
        assert_eq!(host.runs(), 4, "a module was installed");
        fs::create_dir_all(host.root().join("usr/lib64/qemu-kvm")).unwrap();
        host.ask(Asking::Fresh);
        assert_eq!(host.runs(), 6, "the first of its modules were installed");
        host.program("exit 1");
        let (abilities, warnings) = host.ask(Asking::Fresh);
        assert_eq!(abilities, nothing());
        assert!(warnings[0].to_string().contains("did not answer over QMP"));
    }

    #[test]
    fn a_qemu_that_talks_nonsense_or_is_not_there() {
        let host = Host::new("QEMU 7\n{\"QMP\":\n", "sdl\n");
        for expected in [
            "did not answer over QMP",
            "did not answer -display help",
            "No such file",
        ] {
            let (abilities, warnings) = host.ask(Asking::Fresh);
            assert_eq!((abilities, warnings.len()), (nothing(), 1));
            let warning = warnings[0].to_string();
            assert!(
                warning.contains(expected) && warning.contains(QEMU),
                "{warning}"
            );
            assert!(!host.kept().exists(), "half an answer is not kept");
            assert!(host.ask(Asking::Cached).1.is_empty());
            if expected.contains("QMP") {
                host.program(&format!(
                    "case \"$*\" in *qmp*) cat <<'END'\n{QMP}END\nesac"
                ));
            } else if !expected.contains("No") {
                fs::remove_file(on_host(&host.root(), Path::new(QEMU))).unwrap();
            }
        }
        let mut warnings = Vec::new();
        let relative = Path::new("qemu-system-x86_64");
        abilities(&host.root(), relative, Asking::Fresh, &mut warnings);
        assert!(
            warnings[0].problem.contains("no absolute path"),
            "{}",
            warnings[0]
        );
    }

    #[test]
    fn what_others_can_replace_is_not_run() {
        let host = Host::new(QMP, DISPLAYS);
        let program = on_host(&host.root(), Path::new(QEMU));
        let directory = program.parent().unwrap();
        for (place, mode) in [(program.as_path(), 0o777), (directory, 0o777)] {
            fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
            let (abilities, warnings) = host.ask(Asking::Fresh);
            assert_eq!((abilities, warnings.len()), (nothing(), 1));
            let warning = warnings[0].to_string();
            let said = format!("{} can be written by others", place.display());
            assert!(
                warning.contains(&said) && warning.contains("is not known"),
                "{warning}"
            );
            fs::set_permissions(place, Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(host.runs(), 0);
        assert!(!host.kept().exists());
        host.ask(Asking::Fresh);
        assert_eq!(host.runs(), 2);
    }

    #[test]
    fn what_is_recorded_is_read_and_nothing_run() {
        let host = Host::new(QMP, DISPLAYS);
        let copy = Root::recorded(host.root().join("copy"));
        let all = Abilities {
            libvirt: Some(Version::of(&[11, 3, 0])),
            spice_gl_over_tcp: Some(true),
            spice_listen: Some("0.0.0.0".into()),
            vnc_listen: Some("10.1.2.3".into()),
            vnc_auto_unix_socket: Some(true),
            ..host.ask(Asking::Fresh).0
        };
        fs::create_dir(copy.path()).unwrap();
        assert_eq!(record(&copy, Path::new(QEMU), &all).unwrap().len(), 3);
        let expected = Abilities {
            vnc_listen: Some("192.0.2.1".into()),
            render_nodes: None,
            ..all
        };
        let runs = host.runs();
        let mut warnings = Vec::new();
        for asking in [Asking::Cached, Asking::Fresh] {
            let found = abilities(&copy, Path::new(QEMU), asking, &mut warnings);
            assert_eq!((&found, host.runs()), (&expected, runs));
        }
        let other = abilities(
            &copy,
            Path::new("/usr/bin/other"),
            Asking::Fresh,
            &mut warnings,
        );
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
