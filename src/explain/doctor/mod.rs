//! Finds problems of a host that keep screens dark, and returns lines of a report.
//!
//! Each check is about one problem that has kept somebody's screen dark. Its line has the outcome
//! (PASS, WARN or FAIL), the finding, and the fixes. [`examine::read`] reads the host; the checks
//! read no files. A check that lacks a fact writes a warning on this machine, or SKIP for a
//! recorded host.

mod callouts_and_hooks;
mod device_checks;
pub mod examine;
mod guest_checks;
mod known_bugs;
mod opengl;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::facts::{Display, DisplayInterface};
use crate::device::id::{DeviceId, display_as_serde};
use crate::device::version::Version;
use crate::host::Warning;
use crate::host::config::HookMode;
use crate::plan::Level;
use crate::predict::abilities::Abilities;
use crate::publish::inventory::Inventory;
use crate::publish::unknown::Around;

pub use guest_checks::guests;

/// The command that installs the package's files again.
const REINSTALL: &str = "sudo apt reinstall gfxplane # Fedora: sudo dnf reinstall gfxplane";

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// The recording of the host lacks the facts that the check needs.
    Skip,
    /// All is well, or the check does not apply here.
    Pass,
    /// Some domains may have a problem, or the check was not possible.
    Warn,
    /// The check has found a problem.
    Fail,
}

// The words are those of virt-host-validate.
display_as_serde!(Verdict);

impl From<Level> for Verdict {
    fn from(level: Level) -> Self {
        match level {
            Level::Info => Verdict::Pass,
            Level::Warn => Verdict::Warn,
            Level::Fail => Verdict::Fail,
        }
    }
}

/// The kind of a host: this machine, or a recording with or without all facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// The host is this machine.
    None,
    /// The recording has all facts for the checks: `gfxplane collect` made it.
    Whole,
    /// The recording has no [`Moment`], and may lack other files of the host, too.
    Part,
}

/// The subject of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// The files of gfxplane's settings and rules.
    Settings,
    /// Devices, and the knowledge about them.
    Devices,
    /// Graphics cards, and the vGPUs that they offer.
    Gpus,
    /// Damaged and outdated records of probes.
    Records,
    /// The render nodes in `/dev/dri`, and QEMU's access to them.
    RenderNodes,
    /// OpenGL in QEMU, and the libraries that it needs.
    OpenGl,
    /// The program mdevctl.
    Mdevctl,
    /// The displays in libvirt's node-device XML, which mdevctl's attributes put there.
    Attributes,
    /// mdevctl's callouts and notifiers.
    Callouts,
    /// libvirt's qemu hooks.
    Hook,
    /// The confinement of libvirt's daemons by SELinux or AppArmor.
    Confinement,
    /// The permission of AppArmor for libvirt to start a dbus-daemon for a guest.
    DbusDaemon,
    /// Versions of QEMU and libvirt with known bugs.
    Versions,
    /// gfxplane's udev rule, its daemon, and the files that the daemon exports.
    Service,
    /// Domains with vfio devices.
    Guests,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The subject of the check.
    pub topic: Topic,
    /// The device, if the check is about a single device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The domain's name, if the check is about a single domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The thing that is checked, in words, such as `udev rule`.
    pub what: String,
    /// The outcome of the check.
    pub verdict: Verdict,
    /// The finding in words; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub more: String,
    /// The commands that fix the problem, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
}

/// The facts of a host that the checks need.
#[derive(Debug, Clone)]
pub struct Host {
    /// The kind of recording, if this is a recorded host.
    pub recording: Recording,
    /// The devices and types, with the knowledge about them.
    pub inventory: Inventory,
    /// Warnings about settings and rules that were ignored.
    pub settings: Vec<Warning>,
    /// Warnings about files in `/run/gfxplane` that were ignored.
    pub odd_records: Vec<Warning>,
    /// Devices whose records are no longer valid, because kernel, driver, type or boot have changed
    /// or the device is gone.
    pub stale: Vec<DeviceId>,
    /// The IOMMU groups, whether the host has KVM, and the devices that may be opened unasked.
    pub around: Around,
    /// True if `/dev/vfio/vfio` or `/dev/iommu` exists.
    pub vfio: bool,
    /// The render nodes, sorted by path.
    pub render_nodes: Vec<RenderNode>,
    /// True if libglvnd finds an EGL driver: a `.json` file in one of its `egl_vendor.d`
    /// directories.
    pub egl_vendor: bool,
    /// The emulators of the host, each with its abilities.
    pub emulators: Vec<(PathBuf, Abilities)>,
    /// libvirt's version; `None` if it is not known.
    pub libvirt: Option<Version>,
    /// True if AppArmor keeps libvirt from starting a dbus-daemon for a guest; `None` if unknown.
    pub dbus_daemon_denied: Option<bool>,
    /// The path of mdevctl; `None` if it is not installed.
    pub mdevctl: Option<PathBuf>,
    /// The directories of mdevctl's scripts that exist.
    pub scripts: Vec<Scripts>,
    /// True if libvirt itself shows displays, so that attributes are not needed.
    pub is_told_by_libvirt: bool,
    /// True if the settings allow attributes to be shown to libvirt.
    pub attributes: bool,
    /// True if the wrapper for libvirt before 10.1 is switched on (docs/libvirt-9.md).
    pub wrapper: bool,
    /// libvirt's qemu hooks, in the order in which they are run.
    pub hooks: Vec<Script>,
    /// True if this user may not list the hooks.
    pub hooks_hidden: bool,
    /// The behaviour of the hook, by the settings.
    pub hook_mode: HookMode,
    /// True if `/usr/bin/gfxplane-helper`, which the hook runs, can be executed.
    pub helper: bool,
    /// The udev rule; `None` if it is not installed.
    pub udev_rule: Option<UdevRule>,
    /// The AppArmor profiles of libvirt's daemons; empty if AppArmor is switched off.
    pub profiles: Vec<Profile>,
    /// The state of SELinux; `None` if the host has none.
    pub selinux: Option<Selinux>,
    /// The facts that a recorded host's files can't hold.
    pub moment: Moment,
}

/// A render node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderNode {
    /// The path, such as `/dev/dri/renderD128`.
    pub path: PathBuf,
    /// The driver of the GPU behind the node; `None` if the GPU has no driver.
    pub driver: Option<String>,
}

/// A directory of mdevctl's scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scripts {
    /// The directory's path on the host.
    pub directory: PathBuf,
    /// True if the directory's scripts are callouts, false if they are notifiers.
    pub callouts: bool,
    /// The directory's scripts, in the order in which mdevctl runs them.
    pub scripts: Vec<Script>,
}

/// A script that mdevctl or libvirt runs, ours or another program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The script's path on the host.
    pub path: PathBuf,
    /// True if the script is gfxplane's.
    pub is_ours: bool,
    /// True if the script can be executed.
    pub executable: bool,
}

/// The state of the udev rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdevRule {
    /// The rule is installed, and udev uses it.
    Installed,
    /// A file of the rule's name in `/etc` or `/run` replaces it.
    Hidden,
}

/// The permissions in an AppArmor profile of a libvirt daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The name of the confined daemon.
    pub daemon: String,
    /// True if the daemon may run the files in `/etc/libvirt/hooks`.
    pub hooks: bool,
    /// True if the daemon may run `/usr/bin/gfxplane-helper`.
    pub helper: bool,
    /// True if the daemon may run [`HOOK_PROGRAM`], where the hook is a link to it.
    pub hook_program: bool,
}

/// The program to which the hook of the .rpm is a link.
pub const HOOK_PROGRAM: &str = "/usr/libexec/gfxplane/qemu-hook";

/// The state of SELinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selinux {
    /// True if the policy is enforced.
    pub enforcing: bool,
    /// The boolean `virt_hooks_unconfined`, which concerns only virtnetworkd's hooks
    /// (docs/selinux.md). `None` if this policy has no such boolean.
    pub hooks_unconfined: Option<bool>,
}

/// Facts that a recorded host's files can't hold: owners of files, running programs, and
/// qemu.conf's settings about users. A recorded host has them in `var/cache/gfxplane/moment.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The format's version, [`crate::device::record::FORMAT`].
    pub format: u32,
    /// The access rights to the qemu hooks and render nodes, by path.
    #[serde(default)]
    pub access: BTreeMap<PathBuf, Access>,
    /// libvirt's running daemons.
    #[serde(default)]
    pub daemons: Vec<Running>,
    /// True if the service `gfxplane` runs; `None` if that is not known.
    #[serde(default)]
    pub service: Option<bool>,
    /// The files that the setting `export` names. The `bool` is true if the file has the text that
    /// the daemon wrote for it. Leaves out files for which the daemon has written nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<(PathBuf, bool)>,
    /// The user that QEMU runs as; `None` if that is not known.
    #[serde(default)]
    pub qemu: Option<QemuUser>,
}

/// The access rights to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The file's mode in octal, such as `0660`.
    pub mode: String,
    /// The owner's name, or the UID if it has no name.
    pub user: String,
    /// The group's name, or the GID if it has no name.
    pub group: String,
    /// The time of the last change of any kind (`st_ctime`), in seconds since 1970.
    #[serde(default)]
    pub changed: u64,
    /// True if the path is a symbolic link. The other fields are about its target.
    #[serde(default)]
    pub link: bool,
}

/// A running daemon of libvirt's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The daemon's name: `libvirtd`, `virtqemud`.
    pub name: String,
    /// The time of the daemon's start or last reload, in seconds since 1970; `None` if this user
    /// can't see it.
    #[serde(default)]
    pub since: Option<u64>,
    /// The daemon's label, as SELinux or AppArmor write it: `libvirtd (enforce)`.
    #[serde(default)]
    pub label: Option<String>,
}

/// The user that libvirt runs QEMU as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuUser {
    /// The name of the user that QEMU runs as.
    pub user: String,
    /// The names of the user's groups.
    pub groups: Vec<String>,
    /// True if each guest has a `/dev` of its own, in which libvirt gives QEMU the files that the
    /// domain names (`namespaces` and `dynamic_ownership` of qemu.conf;
    /// src/security/security_dac.c, `virSecurityDACSetGraphicsLabel`).
    pub own_dev: bool,
}

impl Access {
    /// Returns whether the file's mode lets a user read and write it. Ignores access control lists.
    #[must_use]
    pub fn is_open_to(&self, user: &str, groups: &[String]) -> bool {
        let mode = u32::from_str_radix(&self.mode, 8).unwrap_or(0);
        let shift = if self.user == user {
            6
        } else if groups.contains(&self.group) {
            3
        } else {
            0
        };
        mode >> shift & 0o6 == 0o6
    }
}

impl Host {
    /// Returns whether a device or type of the host may hand over its screen as a dmabuf.
    #[must_use]
    pub fn has_dmabuf(&self) -> bool {
        let is = |display: &Display| display.preferred() == Some(DisplayInterface::Dmabuf);
        let mut devices = self.inventory.devices.iter();
        let mut types = self.inventory.types.iter();
        devices.any(|entry| is(&entry.finding.facts.display))
            || types.any(|entry| is(&entry.finding.facts.display))
    }
}

/// Makes all checks of a host and returns the lines of the report. `holders` names the running or
/// paused guest that has a device open ([`crate::publish::overview::Overview::holders`]), as an
/// argument of `gfxplane`.
#[must_use]
pub fn examine(host: &Host, holders: &BTreeMap<DeviceId, String>) -> Vec<Line> {
    let mut report = Report::new(host.recording);
    device_checks::settings(host, &mut report);
    device_checks::gpus(host, &mut report);
    device_checks::devices(host, holders, &mut report);
    device_checks::records(host, &mut report);
    device_checks::service(host, &mut report);
    opengl::render_nodes(host, &mut report);
    opengl::libraries(host, &mut report);
    opengl::emulators(host, &mut report);
    callouts_and_hooks::mdevctl(host, &mut report);
    callouts_and_hooks::callouts(host, &mut report);
    callouts_and_hooks::hook(host, &mut report);
    callouts_and_hooks::confinement(host, &mut report);
    callouts_and_hooks::dbus_daemon(host, &mut report);
    known_bugs::versions(host, &mut report);
    report.lines
}

/// Returns the worst outcome of the lines, ignoring SKIP; PASS if there is no other line.
#[must_use]
pub fn worst(lines: &[Line]) -> Verdict {
    let verdicts = lines.iter().map(|line| line.verdict);
    verdicts.fold(Verdict::Pass, Verdict::max)
}

struct Report {
    lines: Vec<Line>,
    recording: Recording,
}

impl Report {
    fn new(recording: Recording) -> Self {
        let lines = Vec::new();
        Report { lines, recording }
    }

    /// Begins a check of the thing `what`. Writes no line yet.
    fn check(&mut self, topic: Topic, what: impl Into<String>) -> Check<'_> {
        let what = what.into();
        Check {
            report: self,
            topic,
            what,
        }
    }
}

/// A check that is being made, and the report to which it adds lines.
struct Check<'r> {
    report: &'r mut Report,
    topic: Topic,
    what: String,
}

impl Check<'_> {
    fn line(&mut self, verdict: Verdict, more: impl Into<String>) -> &mut Line {
        self.report.lines.push(Line {
            topic: self.topic,
            device: None,
            guest: None,
            what: self.what.clone(),
            verdict,
            more: more.into(),
            fixes: Vec::new(),
        });
        self.report.lines.last_mut().expect("it was just put there")
    }

    fn pass(&mut self, more: impl Into<String>) -> &mut Line {
        self.line(Verdict::Pass, more)
    }

    fn warn(&mut self, more: impl Into<String>) -> &mut Line {
        self.line(Verdict::Warn, more)
    }

    fn fail(&mut self, more: impl Into<String>) -> &mut Line {
        self.line(Verdict::Fail, more)
    }

    /// Adds and returns the line about a file that does not exist. The line is SKIP if the host may
    /// have the file, and only the recording lacks it.
    fn missing(&mut self, verdict: Verdict, more: impl Into<String>) -> &mut Line {
        match self.report.recording {
            Recording::Part => self.line(Verdict::Skip, "not in the recording"),
            _ => self.line(verdict, more),
        }
    }

    /// Adds and returns the line about an unknown fact: a warning on this machine, SKIP for a
    /// recorded host.
    fn unknown(&mut self, more: impl Into<String>) -> &mut Line {
        match self.report.recording {
            Recording::None => self.warn(more),
            _ => self.line(Verdict::Skip, "not in the recording"),
        }
    }
}

impl Line {
    fn of(&mut self, device: DeviceId) -> &mut Self {
        self.device = Some(device);
        self
    }

    fn fix(&mut self, fix: impl Into<String>) -> &mut Self {
        self.fixes([fix])
    }

    fn fixes(&mut self, fixes: impl IntoIterator<Item = impl Into<String>>) -> &mut Self {
        if self.verdict != Verdict::Skip {
            self.fixes.extend(fixes.into_iter().map(Into::into));
        }
        self
    }
}

/// Returns paths as one text, with commas between.
fn listed<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> String {
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    paths.join(", ")
}
