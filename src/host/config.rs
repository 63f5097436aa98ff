//! The settings: `/etc/gfxplane/gfxplane.toml` and the files in `conf.d` beside it.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::device::rules::{BadToml, from_toml};
use crate::domain::policy::{self, Policy, Wishes};

/// The devices that may be opened although nobody has named them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbePolicy {
    /// Devices that a rule calls safe to open.
    Known,
    /// Also devices that no rule knows.
    All,
    /// No devices.
    Never,
}

/// The behaviour of the qemu hook towards a domain that QEMU would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookMode {
    /// The hook looks at no domain. It still waits until a device is free, and tells the daemon of
    /// domains that end.
    Off,
    /// The hook writes a warning to the journal.
    Warn,
    /// The hook vetoes the start and says why.
    Enforce,
}

/// The domains that the daemon starts once it has fixed what the hook refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryStart {
    /// No domains.
    Never,
    /// Domains that libvirt starts by itself.
    Autostart,
    /// All domains.
    Persistent,
}

/// The owner of mdevctl's link to the helper, through which libvirt learns of displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalloutLink {
    /// The daemon makes the link once libvirt has started, and removes it when libvirt ends.
    Daemon,
    /// The link is permanent.
    Static,
}

/// The files that a fleet's tools read, for the formats that the daemon keeps up to date. The other
/// formats are not among them: Ansible's program never changes, and Nova reads its file only when
/// it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// The file for node_exporter's textfile collector.
    prometheus: Option<PathBuf>,
    /// The file for Node Feature Discovery's features.d.
    nfd: Option<PathBuf>,
}

impl Destinations {
    /// Returns the formats that the settings ask for, by their name in `gfxplane export`, each with
    /// its file.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [("prometheus", &self.prometheus), ("nfd", &self.nfd)];
        all.into_iter()
            .filter_map(|(format, file)| Some((format, file.as_deref()?)))
    }
}

/// The settings, with defaults for those that are not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `probe = "known" | "all" | "never"`: the devices that may be opened unasked. Default: known.
    pub probe: ProbePolicy,
    /// `deadline = SECONDS`: the time that a driver has to answer. Default: 5; at most 120, as udev
    /// gives up on an event after 180.
    pub deadline: Duration,
    /// `attributes = "on" | "off"`: whether mdevctl, and so libvirt, gets our attributes. Default:
    /// on.
    pub attributes: bool,
    /// `callout = "daemon" | "static"`: the owner of mdevctl's link to the helper. Default: daemon.
    pub callout: CalloutLink,
    /// `hook = "off" | "warn" | "enforce"`: the behaviour of the qemu hook. Default: enforce.
    pub hook: HookMode,
    /// `retry_start = "never" | "autostart" | "persistent"`: the domains that the daemon starts
    /// once it has fixed what the hook refused. Default: autostart.
    pub retry_start: RetryStart,
    /// `export = { prometheus = FILE, nfd = FILE }`: where `gfxplane-export.service` copies what the
    /// daemon has written for others. Default: nowhere.
    pub export: Destinations,
    /// `display`, `unknown`, `video`, `boot_display`, `guest`, `consent`: the changes that a domain
    /// may get; see [`crate::domain::policy`].
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

/// The error for a configuration file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// The file is not TOML, or has an unknown setting or a value that the setting does not take.
    #[error(transparent)]
    Toml(#[from] BadToml),
    /// The deadline is out of range.
    #[error("{0}")]
    Deadline(BadDeadline),
    /// The path of a file to export to is not absolute, or not plain.
    #[error("export.{0} is {1:?}: expected a path that begins with /, without ..")]
    Relative(&'static str, PathBuf),
    /// Two formats have the same file.
    #[error("export: prometheus and nfd are both {0:?}: expected a file for each")]
    Twice(PathBuf),
}

/// Returns whether a path begins at the root and has no `..`.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

/// The error for a number of seconds that can't be a deadline.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("deadline is {0}: expected seconds, more than 0 and at most 120")]
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
    /// Returns these settings with those of one file applied over them.
    ///
    /// # Errors
    /// [`BadConfig`], with line and column. The settings stay as they were.
    pub fn with_file(self, text: &str) -> Result<Self, BadConfig> {
        let file: ConfigFile = from_toml(text)?;
        let named = file.export.unwrap_or_default();
        let export = Destinations {
            prometheus: named.prometheus.or(self.export.prometheus),
            nfd: named.nfd.or(self.export.nfd),
        };
        if let Some((format, path)) = export.named().find(|(_, path)| !is_plain(path)) {
            return Err(BadConfig::Relative(format, path.to_owned()));
        }
        if let Some(path) = export
            .prometheus
            .as_ref()
            .filter(|one| export.nfd.as_ref() == Some(one))
        {
            return Err(BadConfig::Twice(path.clone()));
        }
        Ok(Config {
            probe: file.probe.unwrap_or(self.probe),
            deadline: match file.deadline {
                Some(seconds) => deadline(seconds).map_err(BadConfig::Deadline)?,
                None => self.deadline,
            },
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
            ("deadline = 0", "deadline is 0"),
            ("deadline = nan", "deadline is NaN"),
            ("deadline = 1e300", "expected seconds"),
            ("probe = 'sometimes'", "line 1"),
            ("export = { nfd = 'd/f' }", "export.nfd is \"d/f\""),
            ("export = { nova = '/f' }", "expected `prometheus` or `nfd`"),
            ("\n\nprobes = 'all'", "line 3"),
            ("probe", "line 1"),
        ] {
            let error = Config::default().with_file(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
