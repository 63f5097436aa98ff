//! Reads the version of the host's libvirt, and the settings of its `qemu.conf` about screens.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cache::{CACHE, parsed};
use super::libraries;
use crate::device::record::FORMAT;
use crate::device::version::Version;
use crate::host::apparmor::{confines_guests, denies_dbus_daemon, denies_x};
use crate::host::{Root, Warning, exists, or_ignored, read_names, read_text};
use crate::predict::abilities::{Abilities, Guests, RenderNodes};

/// The address where SPICE and VNC listen unless qemu.conf names another (libvirt
/// src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`).
pub(super) const LISTEN: &str = "127.0.0.1";

/// `libvirt.json` of a recorded host: the installed libvirt's version, and what the host lets its
/// guests use.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Installed {
    pub(super) format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<Version>,
    #[serde(flatten)]
    pub(super) guests: Guests,
}

pub(super) fn installed_path(root: &Root) -> PathBuf {
    root.join(CACHE).join("libvirt.json")
}

/// Returns the installed libvirt's version, and what the host lets its guests use ([`Guests`]). For
/// a recorded host, reads `libvirt.json`.
pub(super) fn installed(root: &Root, warnings: &mut Vec<Warning>) -> Installed {
    if root.is_recorded() {
        let path = installed_path(root);
        return or_ignored(parsed(root, &path), &path, warnings).unwrap_or_default();
    }
    let conf = conf(root, warnings);
    let drivers = conf.as_ref().and_then(|text| list(text, "security_driver"));
    let apparmor = conf.as_ref().and_then(|_| confines_guests(root, drivers));
    Installed {
        format: FORMAT,
        version: version(root),
        guests: Guests {
            dri: dri(root),
            apparmor,
            x_servers: x_servers(root),
            x_denied: apparmor.and_then(|confined| denies_x(root, confined)),
            first_port: conf.as_deref().and_then(|text| first_port(root, text)),
            dbus_daemon_denied: apparmor.and_then(|confined| denies_dbus_daemon(root, confined)),
        },
    }
}

/// Returns the names in `/dev/dri` and its `by-path`; `None` if there is no `/dev/dri`.
fn dri(root: &Root) -> Option<BTreeSet<String>> {
    let directory = root.join("dev/dri");
    if !directory.is_dir() {
        return None;
    }
    let unheard = &mut Vec::new();
    let mut names = BTreeSet::from_iter(read_names(&directory, unheard));
    let by_path = read_names(&directory.join("by-path"), unheard);
    names.extend(by_path.iter().map(|name| format!("by-path/{name}")));
    Some(names)
}

/// Returns the display numbers of the X servers that have a socket; `None` without a directory of
/// sockets. systemd makes it at boot, but a service with a `/tmp` of its own does not see it.
fn x_servers(root: &Root) -> Option<BTreeSet<u32>> {
    let directory = root.join("tmp/.X11-unix");
    if !directory.is_dir() {
        return None;
    }
    let names = read_names(&directory, &mut Vec::new());
    let number = |name: &String| name.strip_prefix('X')?.parse().ok();
    Some(names.iter().filter_map(number).collect())
}

fn first_port(root: &Root, conf: &str) -> Option<u16> {
    let setting = value(conf, "clear_emulator_capabilities");
    let user = value(conf, "user").and_then(quoted);
    let is_root = user.is_some_and(|user| ["root", "0", "+0"].contains(&user.as_str()));
    if is_root || setting.is_some_and(|value| switch(value) != Some(true)) {
        return None;
    }
    let path = root.join("proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = read_text(&path, &mut Vec::new()).and_then(|text| text.parse().ok());
    Some(first.unwrap_or(1024))
}

/// Returns the version of the installed libvirt. `libvirt.so.0.11003.0` is 11.3.0 (libvirt
/// meson.build, `lib_version`). Returns `None` if no version or several versions are installed.
pub(super) fn version(root: &Root) -> Option<Version> {
    let versions: BTreeSet<Version> = libraries(&root.join("usr"))
        .iter()
        .filter_map(|directory| directory.join("libvirt.so.0").canonicalize().ok())
        .filter_map(|library| version_of_library(library.file_name()?.to_str()?))
        .collect();
    let mut versions = versions.into_iter();
    versions.next().filter(|_| versions.next().is_none())
}

/// Returns whether libvirt finds qemu-rdp, or the program that the setting `qemu_rdp` in qemu.conf
/// names instead.
pub(super) fn has_rdp(root: &Root) -> bool {
    let conf = conf(root, &mut Vec::new()).unwrap_or_default();
    let named = value(&conf, "qemu_rdp").and_then(quoted);
    let name = named.unwrap_or_else(|| "qemu-rdp".to_owned());
    if let Some(path) = name.strip_prefix('/') {
        return exists(&root.join(path));
    }
    let directories = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"];
    directories
        .iter()
        .any(|directory| exists(&root.join(directory).join(&name)))
}

fn version_of_library(name: &str) -> Option<Version> {
    let (major_minor, micro) = name.strip_prefix("libvirt.so.0.")?.split_once('.')?;
    let major_minor = major_minor.parse::<u32>().ok()?.checked_mul(1000)?;
    let number = major_minor.checked_add(micro.parse().ok()?)?;
    Some(Version::from_libvirt(number))
}

/// Sets the abilities that depend on `qemu.conf`: where SPICE and VNC listen, TLS, and guests' own
/// `/dev`. A missing setting has libvirt's default; one that can't be understood stays unknown.
/// Sets nothing if `qemu.conf` can't be read, as on Debian by users other than root.
pub(super) fn listens(root: &Root, abilities: &mut Abilities, warnings: &mut Vec<Warning>) {
    let Some(text) = conf(root, warnings) else {
        return;
    };
    let listen = |key| value(&text, key).map_or(Some(LISTEN.into()), quoted);
    abilities.spice_listen = listen("spice_listen");
    abilities.vnc_listen = listen("vnc_listen");
    let socket = |key| value(&text, key).map_or(Some(false), switch);
    abilities.spice_auto_unix_socket = socket("spice_auto_unix_socket");
    abilities.vnc_auto_unix_socket = socket("vnc_auto_unix_socket");
    abilities.spice_tls = socket("spice_tls");
    abilities.own_dev = Some(has_mount_namespace(&text));
}

/// Returns whether each guest has a `/dev` of its own. This is so unless the setting `namespaces`
/// leaves out `mount`.
fn has_mount_namespace(text: &str) -> bool {
    list(text, "namespaces").is_none_or(|list| list.contains("mount"))
}

/// The settings of `qemu.conf` about the user who runs QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QemuConf {
    /// The setting `user`, if there is one.
    pub user: Option<String>,
    /// The setting `group`, if there is one.
    pub group: Option<String>,
    /// True if each guest has a `/dev` of its own, and libvirt gives the files in it to QEMU's
    /// user, as it does by default (`namespaces` with `mount`, `dynamic_ownership` on).
    pub own_dev: bool,
}

/// Reads the settings about QEMU's user, or returns libvirt's defaults if there is no qemu.conf.
/// Returns `None` if the file can't be read, as on Debian by users other than root.
pub(crate) fn qemu_conf(root: &Root, warnings: &mut Vec<Warning>) -> Option<QemuConf> {
    let text = conf(root, warnings)?;
    let set = |key| value(&text, key).and_then(quoted);
    let mount = has_mount_namespace(&text);
    let owned = value(&text, "dynamic_ownership").is_none_or(|value| switch(value) != Some(false));
    Some(QemuConf {
        user: set("user"),
        group: set("group"),
        own_dev: mount && owned,
    })
}

/// Returns whether libvirt finds render nodes in `/dev/dri`; `None` for a recorded host, and if
/// only sysfs has render nodes: in a container, libvirt may see more than we do.
pub(super) fn render_nodes(root: &Root) -> Option<RenderNodes> {
    if root.is_recorded() {
        return None;
    }
    let has_node = |directory: &str| {
        let is_node = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"renderD"))
        };
        fs::read_dir(root.join(directory)).map(|mut entries| entries.any(is_node))
    };
    match (has_node("dev/dri"), has_node("sys/class/drm")) {
        (Ok(true), _) => Some(RenderNodes::Present),
        (_, Ok(true)) => None,
        (Ok(false), _) => Some(RenderNodes::Missing),
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            Some(RenderNodes::NoDirectory)
        }
        (Err(_), _) => None,
    }
}

/// Returns the text of `qemu.conf`, empty if there is none; `None` if it can't be read. Warns then,
/// unless this user may not read it, like users other than root on Debian.
fn conf(root: &Root, warnings: &mut Vec<Warning>) -> Option<String> {
    let path = root.join("etc/libvirt/qemu.conf");
    let forbidden = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    if File::open(&path).is_err_and(forbidden) {
        None
    } else if exists(&path) {
        read_text(&path, warnings)
    } else {
        Some(String::new())
    }
}

/// Returns the value after `key =`: the rest of the line or, if the value is a list, the whole
/// list, which may have several lines. Returns `None` without the key.
fn list<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let first = value(text, key)?;
    if !first.starts_with('[') {
        return Some(first);
    }
    let at = first.as_ptr() as usize - text.as_ptr() as usize;
    text[at..].split(']').next()
}

/// Returns the rest of the line after `key =`; `None` without the key. If the key occurs several
/// times, the first one counts, as in libvirt (src/util/virconf.c).
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let blank = [' ', '\t'];
    text.lines().find_map(|line| {
        let rest = line.trim_start_matches(blank).strip_prefix(key)?;
        let value = rest.trim_start_matches(blank).strip_prefix('=')?;
        Some(value.trim_start_matches(blank))
    })
}

/// Reads a text in single, double or triple quotes; `None` without quotes.
fn quoted(value: &str) -> Option<String> {
    ["\"\"\"", "\"", "'"].iter().find_map(|quote| {
        let rest = value.strip_prefix(quote)?;
        Some(rest.split_once(quote)?.0.to_owned())
    })
}

/// Reads 1 as true and 0 as false (`virConfGetValueBool`); `None` for anything else.
fn switch(value: &str) -> Option<bool> {
    match value.split('#').next().unwrap_or_default().trim_end() {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Host, nothing};
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_version_of_libvirt() {
        for (name, expected) in [
            ("libvirt.so.0.11003.0", Some(&[11, 3, 0][..])),
            ("libvirt.so.0.9000.0", Some(&[9, 0, 0])),
            ("libvirt.so.0.7000.1", Some(&[7, 0, 1])),
            ("libvirt.so.0", None),
            ("libvirt.so.0.x.0", None),
            ("libvirt.so.0.4294967295.0", None),
            ("libvirt-qemu.so.0.11003.0", None),
        ] {
            assert_eq!(
                version_of_library(name),
                expected.map(Version::of),
                "{name}"
            );
        }
        let host = Host::new();
        let library = |directory: &str, version: &str| {
            host.write(&format!("{directory}/{version}"), "");
            let link = host.root().join(directory).join("libvirt.so.0");
            let _ = fs::remove_file(&link);
            symlink(version, link).unwrap();
        };
        let installed = || version(&host.root());
        assert_eq!(installed(), None);
        library("usr/lib/x86_64-linux-gnu", "libvirt.so.0.11003.0");
        library("usr/lib64", "libvirt.so.0.11003.0");
        assert_eq!(installed(), Some(Version::of(&[11, 3, 0])));
        library("usr/lib64", "libvirt.so.0.9000.0");
        assert_eq!(installed(), None);
    }

    #[test]
    fn render_nodes_as_libvirt_sees_them() {
        let host = Host::new();
        let found = || render_nodes(&host.root());
        let make = |path: &str| fs::create_dir_all(host.root().join(path)).unwrap();
        assert_eq!(found(), Some(RenderNodes::NoDirectory));
        make("dev/dri/by-path");
        assert_eq!(found(), Some(RenderNodes::Missing));
        make("sys/class/drm/renderD128");
        assert_eq!(found(), None, "as in a container");
        make("dev/dri/renderD128");
        assert_eq!(found(), Some(RenderNodes::Present));
        assert_eq!(render_nodes(&Root::recorded(host.root().path())), None);
    }

    #[test]
    fn what_guests_may_have() {
        let host = Host::new();
        let root = host.root();
        let names = |found: Option<BTreeSet<String>>| {
            found.map(|all| all.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert_eq!((dri(&root), x_servers(&root)), (None, None));
        host.write("dev/dri/renderD128", "");
        host.write("dev/dri/by-path/pci-0000:00:02.0-render", "");
        host.write("tmp/.X11-unix/X0", "");
        host.write("tmp/.X11-unix/X11", "");
        host.write("tmp/.X11-unix/lock", "");
        let expected = "by-path by-path/pci-0000:00:02.0-render renderD128";
        assert_eq!(names(dri(&root)).as_deref(), Some(expected));
        assert_eq!(x_servers(&root), Some(BTreeSet::from([0, 11])));
        assert_eq!(first_port(&root, ""), Some(1024));
        host.write("proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n");
        assert_eq!(
            first_port(&root, "clear_emulator_capabilities = 1\n"),
            Some(80)
        );
        assert_eq!(first_port(&root, "clear_emulator_capabilities = 0\n"), None);
        assert_eq!(first_port(&root, "user = \"root\"\n"), None);
        assert_eq!(first_port(&root, "user = \"+64055\"\n"), Some(80));
        assert!(!has_rdp(&root));
        host.write("usr/local/bin/qemu-rdp", "");
        assert!(has_rdp(&root));
        host.write("etc/libvirt/qemu.conf", "qemu_rdp = \"/opt/rdp\"\n");
        assert!(!has_rdp(&root));
        let abilities = Abilities {
            guests: Guests {
                dri: dri(&root),
                ..Guests::default()
            },
            ..Abilities::default()
        };
        for (path, lacks) in [
            ("/dev/dri/renderD128", Some(false)),
            ("/dev/dri/renderD129", Some(true)),
            ("/dev/dri/by-path/pci-0000:00:02.0-render", Some(false)),
            ("/dev/dri/by-path/pci-0000:03:00.0-render", Some(true)),
            ("/dev/dri/../dri/renderD128", None),
            ("/dev/other", None),
        ] {
            assert_eq!(abilities.lacks_node(path), lacks, "{path}");
        }
        assert_eq!(Abilities::default().lacks_node("/dev/dri/renderD1"), None);
    }

    #[test]
    fn settings_of_qemu_conf() {
        for (text, expected) in [
            ("spice_listen = \"0.0.0.0\"", Some(Some("0.0.0.0"))),
            (
                "\n \tspice_listen='::'# all\nspice_listen = \"x\"",
                Some(Some("::")),
            ),
            ("spice_listen = \"\"\"a\"\"\"", Some(Some("a"))),
            ("#spice_listen = \"0.0.0.0\"\n# spice_listen = \"x\"", None),
            ("spice_listen_x = \"0.0.0.0\"", None),
            ("vnc_listen = \"spice_listen = 'x'\"", None),
            ("spice_listen = 3", Some(None)),
            ("spice_listen = \"open", Some(None)),
            ("spice_listen = \"\"", Some(Some(""))),
            ("", None),
        ] {
            let expected = expected.map(|value| value.map(str::to_owned));
            let found = value(text, "spice_listen").map(quoted);
            assert_eq!(found, expected, "{text:?}");
        }
        let host = Host::new();
        let read = || {
            let mut found = Abilities::default();
            listens(&host.root(), &mut found, &mut Vec::new());
            found
        };
        let some = |text: &str| Some(text.to_owned());
        let bare = Abilities {
            render_nodes: None,
            guests: Guests::default(),
            ..nothing()
        };
        assert_eq!(read(), bare);
        for (text, spice, vnc, sockets) in [
            ("", some(LISTEN), some(LISTEN), [Some(false); 2]),
            (
                "vnc_listen = \"0.0.0.0\"\nspice_auto_unix_socket=1 # local\n",
                some(LISTEN),
                some("0.0.0.0"),
                [Some(true), Some(false)],
            ),
            (
                "vnc_listen = [\nvnc_auto_unix_socket = 1\nvnc_auto_unix_socket = 0\n",
                some(LISTEN),
                None,
                [Some(false), Some(true)],
            ),
            (
                "#vnc_auto_unix_socket = 1\nspice_auto_unix_socket = \"1\"\n",
                some(LISTEN),
                some(LISTEN),
                [None, Some(false)],
            ),
        ] {
            host.write("etc/libvirt/qemu.conf", text);
            let found = read();
            assert_eq!((&found.spice_listen, &found.vnc_listen), (&spice, &vnc));
            let both = [found.spice_auto_unix_socket, found.vnc_auto_unix_socket];
            assert_eq!(both, sockets, "{text:?}");
        }
    }
}
