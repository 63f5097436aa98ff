//! The settings: `/etc/gfxplane/gfxplane.toml` and the files in `conf.d` beside it.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::device::toml::{BadToml, Step, Toml};
use crate::domain::policy::{self, Policy, Wishes};

/// The devices that gfxplane may open without being told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbePolicy {
    /// Devices that a rule declares safe to open.
    Known,
    /// Devices that a rule declares safe to open, and devices that no rule knows.
    All,
    /// gfxplane opens no device without being told to.
    Never,
}

/// The behaviour of the qemu hook towards a domain that QEMU would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookMode {
    /// The hook checks no domain. It still waits for a device that is being probed, and tells the
    /// daemon about domains that end.
    Off,
    /// The hook writes a warning to the journal, and the domain starts.
    Warn,
    /// The hook vetoes the start and gives the reason.
    Enforce,
}

/// The domains that the daemon starts after a veto, once it has fixed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryStart {
    /// The daemon starts no domains.
    Never,
    /// Domains that libvirt starts by itself.
    Autostart,
    /// All persistent domains.
    Persistent,
}

/// The maker of mdevctl's link to our callout, through which libvirt learns displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalloutLink {
    /// The daemon makes the link once libvirt has listed its devices, and removes it when libvirt
    /// ends.
    Daemon,
    /// `gfxplane-helper callout` makes the link, which is permanent.
    Static,
}

/// The files that the daemon keeps up to date for a fleet's tools, one for each format. The formats
/// of Ansible and Nova need none: Ansible's program never changes, and Nova reads its file only
/// when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// The file for node_exporter's textfile collector.
    prometheus: Option<PathBuf>,
    /// The file for Node Feature Discovery's features.d.
    nfd: Option<PathBuf>,
}

impl Destinations {
    /// Returns the formats for which a file is set, by their names in `gfxplane export`, each with
    /// its file.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [("prometheus", &self.prometheus), ("nfd", &self.nfd)];
        all.into_iter()
            .filter_map(|(format, file)| Some((format, file.as_deref()?)))
    }
}

/// The settings. A setting that no file sets has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `probe = "known" | "all" | "never"`: the devices that may be opened unasked. Default: known.
    pub probe: ProbePolicy,
    /// `deadline = SECONDS`: the time that a driver has to answer. Default: 5; at most 120, because
    /// udev gives up on an event after 180.
    pub deadline: Duration,
    /// `attributes = "on" | "off"`: whether mdevctl, and so libvirt, gets our attributes. Default:
    /// on.
    pub attributes: bool,
    /// `callout = "daemon" | "static"`: who makes mdevctl's link to our callout. Default: daemon.
    pub callout: CalloutLink,
    /// `hook = "off" | "warn" | "enforce"`: the behaviour of the qemu hook. Default: enforce.
    pub hook: HookMode,
    /// `retry_start = "never" | "autostart" | "persistent"`: the domains that the daemon starts
    /// after a veto, once it has fixed them. Default: autostart.
    pub retry_start: RetryStart,
    /// `export = { prometheus = FILE, nfd = FILE }`: the files to which `gfxplane-export.service`
    /// copies the daemon's exports. Default: none.
    pub export: Destinations,
    /// `display`, `unknown`, `video`, `boot_display`, `guest`, `consent`: the changes that gfxplane
    /// may make to a domain; see [`crate::domain::policy`].
    pub policy: Policy,
}

/// The longest deadline that may be set.
pub(crate) const MAX_DEADLINE: Duration = Duration::from_secs(120);

impl Default for Config {
    fn default() -> Self {
        Config {
            probe: ProbePolicy::Known,
            deadline: Duration::from_secs(5),
            attributes: true,
            callout: CalloutLink::Daemon,
            hook: HookMode::Enforce,
            retry_start: RetryStart::Autostart,
            export: Destinations::default(),
            policy: Policy::default(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    probe: Option<ProbePolicy>,
    deadline: Option<f64>,
    attributes: Option<OnOff>,
    callout: Option<CalloutLink>,
    hook: Option<HookMode>,
    retry_start: Option<RetryStart>,
    export: Option<Destinations>,
    display: Option<policy::Displays>,
    unknown: Option<policy::Unknown>,
    video: Option<policy::EmulatedVideo>,
    boot_display: Option<policy::BootDisplay>,
    guest: Option<policy::Guest>,
    consent: Option<std::collections::BTreeSet<policy::Consent>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnOff {
    On,
    Off,
}

/// Returns whether a path is absolute and has no `..`.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

/// The error for a number of seconds that can't be a deadline.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0}: expected seconds, more than 0 and at most 120")]
pub struct BadDeadline(pub f64);

/// Makes a deadline from a number of seconds.
///
/// # Errors
/// [`BadDeadline`] unless the number is above 0 and at most [`MAX_DEADLINE`].
pub(crate) fn deadline(seconds: f64) -> Result<Duration, BadDeadline> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero() && *d <= MAX_DEADLINE)
        .ok_or(BadDeadline(seconds))
}

impl Config {
    /// Returns these settings, overridden by the settings in the text of one file.
    ///
    /// # Errors
    /// [`BadToml`], with line and column; no setting of the file is applied.
    pub fn with_file(self, text: &str) -> Result<Self, BadToml> {
        let toml = Toml::parse(text)?;
        let file: ConfigFile = toml.read()?;
        let named = file.export.unwrap_or_default();
        let at = |key| [Step::Key("export"), Step::Key(key)];
        if let Some((key, path)) = named.named().find(|(_, path)| !is_plain(path)) {
            let what =
                format!("`{key}` is {path:?}: expected a path that begins with /, without ..");
            return Err(toml.mistake(&at(key), what));
        }
        let is_here = named.nfd.is_some();
        let export = Destinations {
            prometheus: named.prometheus.or(self.export.prometheus),
            nfd: named.nfd.or(self.export.nfd),
        };
        if let Some(path) = &export.prometheus
            && export.nfd.as_ref() == Some(path)
        {
            let what =
                format!("`prometheus` and `nfd` are both {path:?}: expected a file for each");
            let key = if is_here { "nfd" } else { "prometheus" };
            return Err(toml.mistake(&at(key), what));
        }
        let seconds = |seconds| {
            deadline(seconds).map_err(|bad| {
                toml.mistake(&[Step::Key("deadline")], format!("`deadline` is {bad}"))
            })
        };
        Ok(Config {
            probe: file.probe.unwrap_or(self.probe),
            deadline: file.deadline.map_or(Ok(self.deadline), seconds)?,
            attributes: file
                .attributes
                .map_or(self.attributes, |value| matches!(value, OnOff::On)),
            callout: file.callout.unwrap_or(self.callout),
            hook: file.hook.unwrap_or(self.hook),
            retry_start: file.retry_start.unwrap_or(self.retry_start),
            export,
            policy: self.policy.with(&Wishes {
                display: file.display,
                unknown: file.unknown,
                video: file.video,
                boot_display: file.boot_display,
                guest: file.guest,
                consent: file.consent,
                ..Wishes::default()
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_laid_over_each_other() {
        let config = Config::default()
            .with_file("probe = 'all'\ndeadline = 60\n")
            .and_then(|c| c.with_file("attributes = 'off'\ndeadline = 0.5\nhook = 'warn'"))
            .unwrap();
        let deadline = Duration::from_millis(500);
        assert_eq!(
            config,
            Config {
                probe: ProbePolicy::All,
                deadline,
                attributes: false,
                hook: HookMode::Warn,
                ..Config::default()
            }
        );
        assert_eq!(Config::default().with_file("").unwrap(), Config::default());
    }

    #[test]
    fn errors_name_the_place() {
        for (text, part) in [
            (
                "deadline = 0",
                "line 1, column 12: `deadline` is 0: expected seconds, more than 0 and at most 120",
            ),
            (
                "hook='off'\ndeadline = nan",
                "line 2, column 12: `deadline` is NaN",
            ),
            ("deadline = 1e300", "expected seconds"),
            (
                "deadline = 'long'",
                "line 1, column 12: \"long\": expected a number",
            ),
            (
                "probe = 'sometimes'",
                "line 1, column 9: `sometimes`: expected one of `known`, `all`, `never`",
            ),
            (
                "export = { nfd = 'd/f' }",
                "line 1, column 18: `nfd` is \"d/f\": expected a path that begins with /",
            ),
            (
                "export.nfd='/f'\nexport.prometheus='/f'",
                "line 1, column 12: `prometheus` and `nfd` are both \"/f\"",
            ),
            (
                "export = { nova = '/f' }",
                "line 1, column 12: there is no key `nova`: expected `prometheus` or `nfd`",
            ),
            (
                "consent = ['remote', 'most']",
                "line 1, column 22: `most`: expected `remote` or `video`",
            ),
            (
                "\n\nprobes = 'all'",
                "line 3, column 1: there is no key `probes`: expected one of `probe`, ",
            ),
            ("\u{feff}probes = 'all'", "line 1, column 1: "),
            ("\u{feff}hook='off'\nprobe=1", "line 2, column 7: "),
            ("probe", "line 1"),
        ] {
            let error = Config::default().with_file(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
