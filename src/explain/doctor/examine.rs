//! Reads all facts of a host that the checks of [`crate::explain::doctor`] need.
//!
//! Some facts can't be in a recorded host's files, such as owners of files and running programs. A
//! recorded host has them in `var/cache/gfxplane/moment.json`; on this machine they are read from
//! the running system ([`Moment`]). Two answers come from systemd, because no file has them:
//! whether our daemon runs, and when a libvirt daemon last reloaded.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Group, Uid, User};

use crate::device::id::DeviceId;
use crate::device::record::FORMAT;
use crate::explain::doctor::{
    Access, HOOK_PROGRAM, Host, Moment, Profile, QemuUser, Recording, RenderNode, Running, Script,
    Scripts, Selinux, UdevRule,
};
use crate::host::apparmor::{self, DAEMONS, may_execute};
use crate::host::callout;
use crate::host::config::Config;
use crate::host::emulator::{self, AskLibvirt, Asking};
use crate::host::exports::published;
use crate::host::mdevctl::WRAPPER;
use crate::host::udev::UDEV_RULE;
use crate::host::{
    Root, Warning, is_dir, read_link, read_names, read_names_that, read_text, read_whole, run,
    settings, started_after_boot,
};
use crate::probe::opened_unasked;
use crate::publish::inventory::{Sources, inventory};
use crate::publish::unknown::Around;

/// The name of our hook in `qemu.d`.
const HOOK: &str = "50-gfxplane";

/// The program that the hook runs.
const HELPER: &str = "usr/bin/gfxplane-helper";

/// The file with the [`Moment`] of a recorded host.
pub(crate) const MOMENT: &str = "var/cache/gfxplane/moment.json";

/// Reads all facts of a host. Calls `ask` for the abilities of each QEMU that gfxplane's cache
/// lacks, but never for a recorded host. Also returns the warnings for which the report has no
/// line.
#[must_use]
pub fn read(root: &Root, ask: &AskLibvirt<'_>) -> (Host, Vec<Warning>) {
    let mut warnings = Vec::new();
    let config = settings::config(root, &mut warnings);
    let sources = Sources::read(root);
    warnings.extend(sources.host.warnings.iter().cloned());
    let below = |warning: &Warning, directories: &[&str]| {
        let mut directories = directories.iter();
        directories.any(|directory| warning.path.starts_with(root.join(directory)))
    };
    let (settings, rest): (Vec<_>, Vec<_>) = warnings
        .into_iter()
        .partition(|warning| below(warning, &["etc/gfxplane", "usr/share/gfxplane"]));
    let (odd_records, mut rest): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|warning| below(warning, &["run/gfxplane"]));
    let hooks = hooks(root, &mut rest);
    let libvirt = emulator::abilities(root, Path::new(""), Asking::Cached, &mut rest);
    let render_nodes = render_nodes(root, &mut rest);
    let mut moment = moment(root, &hooks, &render_nodes, &mut rest);
    moment.exports.extend(exports(root, &config));
    let host = Host {
        recording: match (root.is_recorded(), root.join(MOMENT).exists()) {
            (false, _) => Recording::None,
            (true, true) => Recording::Whole,
            (true, false) => Recording::Part,
        },
        stale: stale(root, &sources),
        settings: settings.into_iter().map(|w| on_host(root, w)).collect(),
        odd_records: odd_records.into_iter().map(|w| on_host(root, w)).collect(),
        around: Around::read(root, opened_unasked(&sources, config.probe), &mut rest),
        vfio: ["dev/vfio/vfio", "dev/iommu"]
            .iter()
            .any(|path| root.join(path).exists()),
        egl_vendor: has_egl_vendor(root, &mut rest),
        emulators: emulators(root, ask, &mut rest),
        libvirt: libvirt.libvirt,
        dbus_daemon_denied: libvirt.guests.dbus_daemon_denied,
        mdevctl: mdevctl(root),
        scripts: scripts(root, &mut rest),
        helper: is_executable(root, &root.join(HELPER)),
        udev_rule: udev_rule(root),
        profiles: profiles(root, &mut rest),
        selinux: selinux(root, &mut rest),
        moment,
        inventory: inventory(&sources),
        is_told_by_libvirt: callout::is_told_by_libvirt(root),
        attributes: config.attributes,
        wrapper: root.join(WRAPPER).exists(),
        hook_mode: config.hook,
        hooks_hidden: is_hidden(&root.join("etc/libvirt/hooks/qemu.d")),
        hooks,
        render_nodes,
    };
    (host, rest)
}

/// Returns the path that a file below the root has on the host itself.
fn host_path(root: &Root, path: &Path) -> PathBuf {
    let inside = path.strip_prefix(root.path());
    inside.map_or_else(|_| path.to_owned(), |inside| Path::new("/").join(inside))
}

fn on_host(root: &Root, warning: Warning) -> Warning {
    Warning {
        path: host_path(root, &warning.path),
        ..warning
    }
}

/// Returns [`Moment::exports`], without files that this user can't read.
fn exports(root: &Root, config: &Config) -> Vec<(PathBuf, bool)> {
    let copied = |(format, to): (&str, &Path)| {
        let text = published(root, format).ok()??;
        let there = read_whole(&root.join(to), text.len());
        let error = there.as_ref().map_err(std::io::Error::kind).err();
        let is_there = there.is_ok_and(|there| there == text);
        (error != Some(ErrorKind::PermissionDenied)).then(|| (to.to_owned(), is_there))
    };
    config.export.named().filter_map(copied).collect()
}

/// Returns the devices whose records are no longer valid, because the circumstances have changed or
/// the device is gone.
fn stale(root: &Root, sources: &Sources) -> Vec<DeviceId> {
    // Reading the devices has already warned about damaged records.
    let mut ignored = Vec::new();
    let names = read_names(&root.join(run::BASE).join("records"), &mut ignored);
    let ids = names
        .iter()
        .filter_map(|name| name.strip_suffix(".json")?.parse::<DeviceId>().ok());
    ids.filter(|id| {
        let Some(record) = run::read_record(root, *id, &mut ignored) else {
            return false;
        };
        let mut devices = sources.host.devices.iter();
        let device = devices.find(|device| device.id == *id);
        device.is_none_or(|device| device.circumstances(&sources.host) != record.circumstances)
    })
    .collect()
}

/// Returns the render nodes in `/dev/dri`, each with the driver of its GPU.
pub(crate) fn render_nodes(root: &Root, warnings: &mut Vec<Warning>) -> Vec<RenderNode> {
    let is_node = |name: &str| name.starts_with("renderD");
    read_names_that(is_node, &root.join("dev/dri"), warnings)
        .into_iter()
        .map(|name| {
            let driver = root.join("sys/class/drm").join(&name).join("device/driver");
            let driver = read_link(&driver).ok();
            let driver = driver.as_deref().and_then(Path::file_name);
            RenderNode {
                path: Path::new("/dev/dri").join(name),
                driver: driver.map(|name| name.to_string_lossy().into_owned()),
            }
        })
        .collect()
}

/// Returns whether libglvnd finds an EGL driver in its directories (src/EGL/icd_enumeration.md of
/// libglvnd).
fn has_egl_vendor(root: &Root, warnings: &mut Vec<Warning>) -> bool {
    let directories = ["etc/glvnd/egl_vendor.d", "usr/share/glvnd/egl_vendor.d"];
    directories.iter().any(|directory| {
        let names = read_names(&root.join(directory), warnings);
        names.iter().any(|name| name.ends_with(".json"))
    })
}

fn emulators(
    root: &Root,
    ask: &AskLibvirt<'_>,
    warnings: &mut Vec<Warning>,
) -> Vec<(PathBuf, crate::predict::abilities::Abilities)> {
    let mut paths = emulator::all(root, warnings);
    if !root.is_recorded() {
        // The cache keeps the file of an emulator that is gone.
        paths.retain(|path| root.join(path).exists());
    }
    let found = |path: PathBuf| {
        let abilities = emulator::abilities(root, &path, Asking::Fresh(ask), warnings);
        (path, abilities)
    };
    paths.into_iter().map(found).collect()
}

/// Returns the path of mdevctl; `None` if it is in none of the directories in which libvirt looks
/// (the PATH that systemd gives a service).
fn mdevctl(root: &Root) -> Option<PathBuf> {
    let directories = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"];
    let mut paths = directories
        .iter()
        .map(|directory| root.join(directory).join("mdevctl"));
    let path = paths.find(|path| is_executable(root, path))?;
    Some(host_path(root, &path))
}

/// Returns mdevctl's script directories that exist, in mdevctl's order (mdevctl
/// src/environment.rs, `callout_script_dirs`).
fn scripts(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Scripts> {
    let mut found = Vec::new();
    for base in ["usr/lib/mdevctl/scripts.d", "etc/mdevctl.d/scripts.d"] {
        for (name, callouts) in [("callouts", true), ("notifiers", false)] {
            let directory = root.join(base).join(name);
            if !is_dir(&directory) {
                continue;
            }
            let scripts = read_names(&directory, warnings)
                .into_iter()
                .map(|name| script(root, &directory.join(&name), callout::is_ours(&name)))
                .collect();
            found.push(Scripts {
                directory: host_path(root, &directory),
                callouts,
                scripts,
            });
        }
    }
    found
}

/// Returns libvirt's qemu hooks, in libvirt's order (src/util/virhook.c, `virHookCall`).
fn hooks(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Script> {
    let hooks = root.join("etc/libvirt/hooks");
    let mut found = Vec::new();
    if hooks.join("qemu").is_file() {
        found.push(script(root, &hooks.join("qemu"), false));
    }
    let directory = hooks.join("qemu.d");
    for name in read_names(&directory, warnings) {
        found.push(script(root, &directory.join(&name), name == HOOK));
    }
    found
}

/// Returns whether this user lacks the permission to list a directory.
fn is_hidden(directory: &Path) -> bool {
    fs::read_dir(directory).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn script(root: &Root, path: &Path, is_ours: bool) -> Script {
    Script {
        path: host_path(root, path),
        is_ours,
        executable: is_executable(root, path),
    }
}

/// Returns whether a path of the host leads to a file that some user may execute. Follows absolute
/// links inside the root, as the host does, and at most 7 links.
fn is_executable(root: &Root, path: &Path) -> bool {
    const MOST_LINKS: usize = 8;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else {
            let metadata = fs::metadata(&path);
            return metadata.is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
        };
        path = match target.strip_prefix("/") {
            Ok(inside) => root.join(inside),
            Err(_) => path.with_file_name("").join(target),
        };
    }
    false
}

fn udev_rule(root: &Root) -> Option<UdevRule> {
    [
        ("etc/udev/rules.d", UdevRule::Hidden),
        ("run/udev/rules.d", UdevRule::Hidden),
        ("usr/lib/udev/rules.d", UdevRule::Installed),
        ("lib/udev/rules.d", UdevRule::Installed),
    ]
    .into_iter()
    .find_map(|(path, rule)| root.join(path).join(UDEV_RULE).exists().then_some(rule))
}

/// Returns AppArmor's profiles of libvirt's daemons; empty unless AppArmor is switched on.
fn profiles(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Profile> {
    if !apparmor::is_enabled(root) {
        return Vec::new();
    }
    let mut profile = |daemon: &str| {
        let name = format!("usr.sbin.{daemon}");
        let directory = root.join("etc/apparmor.d");
        let mut text = read_text(&directory.join(&name), warnings)?;
        let local = read_text(&directory.join("local").join(&name), warnings);
        text.push('\n');
        text.push_str(&local.unwrap_or_default());
        Some(Profile {
            daemon: daemon.to_owned(),
            hooks: may_execute(&text, &format!("/etc/libvirt/hooks/qemu.d/{HOOK}")),
            helper: may_execute(&text, &format!("/{HELPER}")),
            hook_program: may_execute(&text, HOOK_PROGRAM),
        })
    };
    DAEMONS
        .iter()
        .filter_map(|daemon| profile(daemon))
        .collect()
}

fn selinux(root: &Root, warnings: &mut Vec<Warning>) -> Option<Selinux> {
    let selinux = root.join("sys/fs/selinux");
    let enforcing = read_text(&selinux.join("enforce"), warnings)? == "1";
    // The file has two values: the present one, and the one after a commit.
    let boolean = read_text(&selinux.join("booleans/virt_hooks_unconfined"), warnings);
    Some(Selinux {
        enforcing,
        hooks_unconfined: boolean.map(|text| text.starts_with('1')),
    })
}

fn moment(
    root: &Root,
    hooks: &[Script],
    nodes: &[RenderNode],
    warnings: &mut Vec<Warning>,
) -> Moment {
    if root.is_recorded() {
        let path = root.join(MOMENT);
        let Some(text) = read_text(&path, warnings) else {
            return Moment::default();
        };
        let moment: Result<Moment, _> = serde_json::from_str(&text);
        return moment.unwrap_or_else(|error| {
            warnings.push(Warning::new(
                path,
                format!("ignored: it is damaged: {error}"),
            ));
            Moment::default()
        });
    }
    let paths = hooks
        .iter()
        .map(|hook| &hook.path)
        .chain(nodes.iter().map(|node| &node.path));
    let access = |path: &PathBuf| {
        let path = root.join(path);
        let file = fs::metadata(&path).ok()?;
        let user = User::from_uid(Uid::from_raw(file.uid())).ok().flatten();
        let group = Group::from_gid(Gid::from_raw(file.gid())).ok().flatten();
        Some(Access {
            mode: format!("{:04o}", file.mode() & 0o7777),
            user: user.map_or_else(|| file.uid().to_string(), |user| user.name),
            group: group.map_or_else(|| file.gid().to_string(), |group| group.name),
            changed: u64::try_from(file.ctime()).unwrap_or(0),
            link: path.is_symlink(),
        })
    };
    Moment {
        format: FORMAT,
        access: paths
            .filter_map(|path| Some((path.clone(), access(path)?)))
            .collect(),
        daemons: DAEMONS
            .iter()
            .filter_map(|name| daemon(root, name, warnings))
            .collect(),
        service: systemd("gfxplane.service", "ActiveState").map(|state| state == "active"),
        exports: Vec::new(),
        qemu: qemu_user(root, warnings),
    }
}

/// Asks this machine's systemd for a property of a unit; `None` if systemd does not run, or has no
/// value for it.
fn systemd(unit: &str, property: &str) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let said = Command::new("systemctl")
        .args(["show", "--timestamp=unix", "--value", "--property"])
        .args([property, unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}

/// Returns the state of libvirt's daemon `name`, found by its PID file (libvirt
/// src/remote/remote_daemon.c, `pid_file`); `None` if the daemon does not run. If `/proc` hides the
/// daemon from this user, only its name is known, and it may have ended.
fn daemon(root: &Root, name: &str, warnings: &mut Vec<Warning>) -> Option<Running> {
    let pid = read_text(&root.join("run").join(format!("{name}.pid")), warnings)?;
    let process = root.join("proc").join(pid.trim());
    match read_text(&process.join("comm"), warnings) {
        Some(comm) if comm != name => return None,
        Some(_) => {}
        // Either the daemon has ended, or /proc shows users only their own processes (hidepid of
        // proc(5)).
        None if shows_all(root) => return None,
        None => {
            return Some(Running {
                name: name.to_owned(),
                since: None,
                label: None,
            });
        }
    }
    let started = started(&process, warnings);
    // A reload changes the unit's state and back, so this is the time of the last reload.
    let changed = systemd(&format!("{name}.service"), "StateChangeTimestamp");
    let reloaded = changed.and_then(|at| at.strip_prefix('@')?.parse::<u64>().ok());
    let label = ["attr/apparmor/current", "attr/current"]
        .iter()
        .find_map(|path| read_text(&process.join(path), &mut Vec::new()));
    Some(Running {
        name: name.to_owned(),
        since: started.map(|at| at.max(reloaded.unwrap_or(0))),
        label: label.map(|text| text.trim_end_matches('\0').to_owned()),
    })
}

/// Returns whether `/proc` shows this user the processes of other users, such as process 1.
fn shows_all(root: &Root) -> bool {
    root.join("proc/1/comm").exists()
}

/// Returns the start time of a process, in seconds since 1970; `None` if it can't be read.
fn started(process: &Path, warnings: &mut Vec<Warning>) -> Option<u64> {
    let then = started_after_boot(&read_text(&process.join("stat"), warnings)?)?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    let today = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Some(today.checked_sub(now.checked_sub(then)?)?.as_secs())
}

/// Returns the user that libvirt runs QEMU as: the user in qemu.conf, or else the user that
/// distributions create. `None` if neither exists, or if a file can't be read.
fn qemu_user(root: &Root, warnings: &mut Vec<Warning>) -> Option<QemuUser> {
    let conf = emulator::qemu_conf(root, warnings)?;
    let passwd = read_text(&root.join("etc/passwd"), warnings)?;
    let line_of = |name: &str| {
        let is = |line: &&str| line.split(':').next() == Some(name);
        passwd.lines().find(is)
    };
    let user = match &conf.user {
        Some(user) => user.clone(),
        None => ["libvirt-qemu", "qemu"]
            .into_iter()
            .find(|name| line_of(name).is_some())?
            .to_owned(),
    };
    let groups = read_text(&root.join("etc/group"), warnings)?;
    let gid = line_of(&user).and_then(|line| line.split(':').nth(3));
    let mut names: Vec<String> = Vec::new();
    for line in groups.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, number, members] = fields[..] else {
            continue;
        };
        let is_main = conf
            .group
            .as_deref()
            .map_or(Some(number) == gid, |group| group == name);
        if is_main || members.split(',').any(|member| member == user) {
            names.push(name.to_owned());
        }
    }
    Some(QemuUser {
        user,
        groups: names,
        own_dev: conf.own_dev,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_lead_below_the_root() {
        let keep = tempfile::tempdir().unwrap();
        let root = Root::recorded(keep.path());
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join(HELPER), "").unwrap();
        let link = root.join("usr/link");
        symlink("/usr/bin/gfxplane-helper", &link).unwrap();
        assert!(!is_executable(&root, &link));
        fs::set_permissions(root.join(HELPER), Permissions::from_mode(0o755)).unwrap();
        assert!(is_executable(&root, &link));
        symlink("bin/gfxplane-helper", root.join("usr/relative")).unwrap();
        assert!(is_executable(&root, &root.join("usr/relative")));
        symlink("circle", root.join("usr/circle")).unwrap();
        assert!(!is_executable(&root, &root.join("usr/circle")));
        assert!(!is_executable(&root, &root.join("usr")));
    }

    #[test]
    fn when_this_process_was_started() {
        let started = started(Path::new("/proc/self"), &mut Vec::new()).unwrap();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        // The ticks are rounded.
        assert!(started <= now.as_secs() + 1 && started + 86400 > now.as_secs());
    }

    #[test]
    fn as_whom_qemu_runs() {
        let keep = tempfile::tempdir().unwrap();
        let root = Root::strict(keep.path());
        root.put(
            "etc/passwd",
            "root:x:0:0::/:/bin/sh\nlibvirt-qemu:x:64055:103::/:/bin/false\n",
        );
        root.put(
            "etc/group",
            "root:x:0:\nkvm:x:103:\nrender:x:104:libvirt-qemu,me\nvideo:x:44:me\n",
        );
        for (conf, expected) in [
            ("", "libvirt-qemu kvm,render own"),
            ("#user = \"x\"\n", "libvirt-qemu kvm,render own"),
            ("namespaces = []\n", "libvirt-qemu kvm,render"),
            (
                "namespaces = [\n  \"mount\"\n]\n",
                "libvirt-qemu kvm,render own",
            ),
            ("dynamic_ownership = 0\n", "libvirt-qemu kvm,render"),
            ("user = \"root\"\ngroup = \"video\"\n", "root video own"),
        ] {
            root.put("etc/libvirt/qemu.conf", conf);
            let found = qemu_user(&root, &mut Vec::new()).unwrap();
            let own = if found.own_dev { " own" } else { "" };
            let found = format!("{} {}{own}", found.user, found.groups.join(","));
            assert_eq!(found, expected, "{conf}");
        }
    }
}
