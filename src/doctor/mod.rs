//! What stands between a host and a working display: what was read of the host in, lines out.
//!
//! Each check is about one thing that has kept somebody's screen dark, and says PASS, WARN or FAIL,
//! what was found, and what helps. [`crate::host::examine`] reads; nothing here touches a machine.
//! Of what could not be found out a line says so, and is a warning only where the check matters.

mod devices;
mod libvirt;
mod opengl;
mod versions;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::abilities::Abilities;
use crate::config::HookMode;
use crate::facts::{Display, DisplayInterface};
use crate::host::Warning;
use crate::inventory::Inventory;
use crate::names::DeviceId;
use crate::version::Version;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// All is well, or there is nothing to be well.
    Pass,
    /// It may be in the way of some domain, or could not be seen.
    Warn,
    /// It is in the way.
    Fail,
}

impl Verdict {
    /// The word for it, as virt-host-validate has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        }
    }
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// gfxplane's own settings and rules.
    Settings,
    /// Devices, and what is known of them.
    Devices,
    /// Records of probes.
    Records,
    /// `/dev/dri`.
    RenderNodes,
    /// OpenGL in QEMU, and the libraries that it takes.
    OpenGl,
    /// mdevctl.
    Mdevctl,
    /// What libvirt shows of what mdevctl says.
    Attributes,
    /// Its callouts and notifiers.
    Callouts,
    /// libvirt's qemu hooks.
    Hook,
    /// SELinux and AppArmor.
    Confinement,
    /// Whether AppArmor lets a guest have a dbus-daemon.
    DbusDaemon,
    /// Versions with known faults.
    Versions,
    /// udev's rules, and the daemon.
    Service,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What the check is about.
    pub topic: Topic,
    /// The one device that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// What was checked, to follow "Checking".
    pub what: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub more: String,
    /// What helps, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cures: Vec<String>,
}

/// What was read of a host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Devices and types with what is known of them.
    pub inventory: Inventory,
    /// What was passed over in settings and rules.
    pub settings: Vec<Warning>,
    /// The devices that are there and may be opened unasked, by the settings too.
    pub asked_unasked: Vec<DeviceId>,
    /// What was passed over in `/run/gfxplane`.
    pub odd_records: Vec<Warning>,
    /// Records that no longer hold: what they depended on has changed, or the device has gone.
    pub stale: Vec<DeviceId>,
    /// Whether `/dev/vfio/vfio` or `/dev/iommu` is there.
    pub vfio: bool,
    /// Whether `/dev/kvm` is there.
    pub kvm: bool,
    /// The render nodes, by path.
    pub render_nodes: Vec<RenderNode>,
    /// Whether there is a vendor of EGL (`egl_vendor.d` of libglvnd).
    pub egl_vendor: bool,
    /// Each emulator of the host with what it can do.
    pub emulators: Vec<(PathBuf, Abilities)>,
    /// libvirt's version.
    pub libvirt: Option<Version>,
    /// [`Abilities::dbus_daemon_denied`].
    pub dbus_daemon_denied: Option<bool>,
    /// mdevctl's program.
    pub mdevctl: Option<PathBuf>,
    /// The directories of mdevctl's scripts that are there.
    pub scripts: Vec<Scripts>,
    /// Whether libvirt may be shown attributes, by the settings.
    pub attributes: bool,
    /// Whether the wrapper for libvirt before 10.1 is switched on (docs/libvirt-9.md).
    pub wrapper: bool,
    /// libvirt's qemu hooks, in the order in which they are run.
    pub hooks: Vec<Script>,
    /// Whether they can't be seen, as this user may not look.
    pub hooks_hidden: bool,
    /// What the hook does, by the settings.
    pub hook_mode: HookMode,
    /// Whether gfxplane-helper is where the hook looks for it, and can be run.
    pub helper: bool,
    /// The udev rule; `None` if it is not installed.
    pub udev_rule: Option<UdevRule>,
    /// What AppArmor's profile of each libvirt daemon lets it do; none where there is no profile.
    pub profiles: Vec<Profile>,
    /// SELinux; `None` where it is not there.
    pub selinux: Option<Selinux>,
    /// What runs, who owns what, and qemu.conf.
    pub moment: Moment,
}

/// A render node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderNode {
    /// `/dev/dri/renderD128`.
    pub path: PathBuf,
    /// The driver of the GPU behind it.
    pub driver: Option<String>,
}

/// A directory of mdevctl's scripts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scripts {
    /// Which, as the host has it.
    pub directory: PathBuf,
    /// Whether its scripts are callouts; else they are notifiers.
    pub callouts: bool,
    /// What is in it, in the order in which mdevctl asks.
    pub scripts: Vec<Script>,
}

/// A script of somebody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// As the host has it.
    pub path: PathBuf,
    /// Whether it is gfxplane's.
    pub is_ours: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// The udev rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdevRule {
    /// It is used.
    Installed,
    /// A file of its name in `/etc` or `/run` takes its place.
    Hidden,
}

/// What an AppArmor profile of a libvirt daemon allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The daemon.
    pub daemon: String,
    /// To run what is in `/etc/libvirt/hooks`.
    pub hooks: bool,
    /// To run `/usr/bin/gfxplane-helper`.
    pub helper: bool,
    /// To run [`HOOK_PROGRAM`], where the hook is a link to it.
    pub hook_program: bool,
}

/// Where the .rpm has what its hook is a link to.
pub const HOOK_PROGRAM: &str = "/usr/libexec/gfxplane/qemu-hook";

/// SELinux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selinux {
    /// Whether it is enforced.
    pub enforcing: bool,
    /// The boolean `virt_hooks_unconfined`, which is about virtnetworkd's hooks alone (docs/selinux.md);
    /// `None`: this policy has none.
    pub hooks_unconfined: Option<bool>,
}

/// What the files of a recorded host can't have: who owns what, what runs, and what qemu.conf says of
/// users. There it is in `var/cache/gfxplane/moment.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// [`crate::record::FORMAT`].
    pub format: u32,
    /// Files of which that matters, by path.
    #[serde(default)]
    pub access: BTreeMap<PathBuf, Access>,
    /// libvirt's daemons that run.
    #[serde(default)]
    pub daemons: Vec<Running>,
    /// Whether the service `gfxplane` runs; `None` if nobody can tell.
    #[serde(default)]
    pub service: Option<bool>,
    /// As whom QEMU runs; `None` if that is not known.
    #[serde(default)]
    pub qemu: Option<QemuUser>,
}

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Its mode, in octal: `0660`.
    pub mode: String,
    /// Its owner's name, or number.
    pub user: String,
    /// Its group's.
    pub group: String,
    /// When it was last changed in any way (`st_ctime`), in seconds since 1970.
    #[serde(default)]
    pub changed: u64,
    /// Whether it is a symbolic link to the file of which all that is said.
    #[serde(default)]
    pub link: bool,
}

/// A program that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its name: `libvirtd`, `virtqemud`.
    pub name: String,
    /// When it was started, or last told to read everything again, in seconds since 1970; `None`:
    /// that can't be seen.
    #[serde(default)]
    pub since: Option<u64>,
    /// Its label, as SELinux or AppArmor have it: `libvirtd (enforce)`.
    #[serde(default)]
    pub label: Option<String>,
}

/// As whom libvirt runs QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuUser {
    /// Its user.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Whether each guest has a `/dev` of its own, in which libvirt gives QEMU what the domain names
    /// (`namespaces` and `dynamic_ownership` of qemu.conf; src/security/security_dac.c,
    /// `virSecurityDACSetGraphicsLabel`).
    pub own_dev: bool,
}

impl Access {
    /// Whether somebody may read and write it by its mode. Access control lists are not looked at.
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
    /// Whether a device or type of the host may hand over its screen as a dmabuf.
    #[must_use]
    pub fn has_dmabuf(&self) -> bool {
        let is = |display: &Display| display.preferred() == Some(DisplayInterface::Dmabuf);
        let devices = self.inventory.devices.iter();
        let types = self.inventory.types.iter();
        let mut displays = devices
            .map(|entry| &entry.finding)
            .chain(types.map(|entry| &entry.finding))
            .map(|finding| &finding.facts.display);
        displays.any(is)
    }
}

/// Examines a host.
#[must_use]
pub fn examine(host: &Host) -> Vec<Line> {
    let mut report = Report(Vec::new());
    devices::settings(host, &mut report);
    devices::devices(host, &mut report);
    devices::records(host, &mut report);
    devices::service(host, &mut report);
    opengl::render_nodes(host, &mut report);
    opengl::libraries(host, &mut report);
    opengl::emulators(host, &mut report);
    libvirt::mdevctl(host, &mut report);
    libvirt::callouts(host, &mut report);
    libvirt::hook(host, &mut report);
    libvirt::confinement(host, &mut report);
    libvirt::dbus_daemon(host, &mut report);
    versions::versions(host, &mut report);
    report.0
}

/// The worst of these lines; PASS if there are none.
#[must_use]
pub fn worst(lines: &[Line]) -> Verdict {
    let verdicts = lines.iter().map(|line| line.verdict);
    verdicts.max().unwrap_or(Verdict::Pass)
}

/// Lines that are being written.
struct Report(Vec<Line>);

impl Report {
    fn line(
        &mut self,
        topic: Topic,
        what: impl Into<String>,
        verdict: Verdict,
        more: impl Into<String>,
    ) -> &mut Line {
        self.0.push(Line {
            topic,
            device: None,
            what: what.into(),
            verdict,
            more: more.into(),
            cures: Vec::new(),
        });
        self.0.last_mut().expect("it was just put there")
    }
}

impl Line {
    fn of(&mut self, device: DeviceId) -> &mut Self {
        self.device = Some(device);
        self
    }

    fn cure(&mut self, cure: impl Into<String>) -> &mut Self {
        self.cures.push(cure.into());
        self
    }
}

/// Paths in a row.
fn listed<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> String {
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_open_what() {
        let access = |mode: &str, user: &str, group: &str| Access {
            mode: mode.into(),
            user: user.into(),
            group: group.into(),
            changed: 0,
            link: false,
        };
        let groups = ["kvm".to_owned(), "render".to_owned()];
        for (mode, user, group, open) in [
            ("0660", "root", "render", true),
            ("0660", "root", "video", false),
            ("0666", "root", "video", true),
            ("0640", "root", "render", false),
            // The owner's bits count for the owner, whatever others may do.
            ("0066", "qemu", "render", false),
            ("0600", "qemu", "root", true),
            ("nonsense", "qemu", "render", false),
        ] {
            let found = access(mode, user, group).is_open_to("qemu", &groups);
            assert_eq!(found, open, "{mode} {user} {group}");
        }
    }

    #[test]
    fn the_worst_line_counts() {
        let mut report = Report(Vec::new());
        assert_eq!(worst(&report.0), Verdict::Pass);
        for (verdict, expected) in [
            (Verdict::Pass, Verdict::Pass),
            (Verdict::Fail, Verdict::Fail),
            (Verdict::Warn, Verdict::Fail),
        ] {
            report.line(Topic::Hook, "", verdict, "");
            assert_eq!(worst(&report.0), expected);
        }
    }
}
