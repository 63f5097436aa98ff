//! Learns the displays of a domain's devices from the text of its log.
//!
//! Before libvirt runs QEMU, it writes a line with the time and QEMU's whole command line into
//! `/var/log/libvirt/qemu/NAME.log`. QEMU's output follows. At the end, libvirt writes why the
//! domain ended (src/qemu/qemu_domain.c, `qemuDomainLogContextNew`; src/qemu/qemu_process.c,
//! `qemuProcessLaunch` and `qemuProcessStop`). For a device with `display=on`, the log shows:
//!
//! * a dmabuf, if the start failed because QEMU found no OpenGL;
//! * none, if the start failed because QEMU found no display;
//! * a region, if the domain started and nothing on the command line has OpenGL. QEMU would have
//!   refused a dmabuf, and also a device without a display.
//!
//! **Trust.** QEMU writes the log, and a guest may have taken over its QEMU. So QEMU's words count
//! only for a start that failed. They count only for the domain's own devices, which are not taken
//! from the log. A guest cannot fake a failed start by writing that it failed: libvirt's own line
//! at the end of a domain that ran names another reason, and then the domain has started, whatever
//! else the log says.
//!
//! But a guest can forge the whole log of another start, and so give its device a wrong display
//! until gfxplane asks the device. So a lesson is evidence of the method `qemu`, never a
//! measurement. Any answer of the device outranks the lesson, and the lesson is no evidence about
//! other devices.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

use crate::device::facts::Display;
use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::plan::trial::said;
use crate::predict::arguments::Device;
use crate::predict::qemu_messages;

/// The displays that were learned from the last start in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The time at which the start began, since 1970 by the host's clock.
    pub began: Duration,
    /// QEMU's version, as libvirt reports it; `None` if it can't be read.
    pub qemu: Option<Version>,
    /// The program that libvirt ran. A script may give QEMU other arguments than the log has; then
    /// nothing can be learned.
    pub emulator: PathBuf,
    /// True if the last start in the log succeeded.
    pub started: bool,
    /// The learned displays: of each device with `display=on` or, if the start failed, only of the
    /// device that QEMU refused.
    pub displays: Vec<(DeviceId, Display)>,
}

/// The reason why nothing can be learned from a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// The log has no start, or only a part of a start.
    #[error("there is no complete start in its log")]
    NoStart,
    /// The last start in the log is of another domain, which had this name before.
    #[error("the last start in its log is of another domain of its name")]
    OtherDomain,
    /// The log does not show whether the domain started.
    #[error("its log does not say how the last start ended")]
    NoEnd,
    /// None of the domain's devices had `display=on` at the last start.
    #[error("none of its vfio devices had display=on at the last start")]
    NoDisplay,
    /// The domain started and may have had OpenGL, so it would have started with any display.
    #[error("it started, perhaps with OpenGL, so any display would have worked")]
    OpenGl,
    /// The start failed, but not because of the display of one of the domain's devices.
    #[error("its start failed for a reason other than the display of a vfio device")]
    OtherReason,
}

/// Learns the displays of the domain's `devices` from the last start in a log. `log` may lack its
/// beginning. `is_running` is true if libvirt says that the domain runs.
///
/// # Errors
/// [`Nothing`]: the reason why nothing can be learned from the log.
pub fn learn(
    log: &str,
    domain: Uuid,
    devices: &[DeviceId],
    is_running: bool,
) -> Result<Lesson, Nothing> {
    let start = Start::last(log).ok_or(Nothing::NoStart)?;
    if start.values("-uuid").next().is_none() {
        return Err(Nothing::NoStart);
    }
    if start.domain() != Some(domain) {
        return Err(Nothing::OtherDomain);
    }
    let started = if is_running {
        true
    } else {
        start.has_started().ok_or(Nothing::NoEnd)?
    };
    let with_display: Vec<DeviceId> = start
        .values("-device")
        .filter_map(with_display)
        .filter(|id| devices.contains(id))
        .collect();
    if with_display.is_empty() {
        return Err(Nothing::NoDisplay);
    }
    let displays = if !started {
        vec![start.refusal(&with_display).ok_or(Nothing::OtherReason)?]
    } else if start.may_have_opengl() {
        return Err(Nothing::OpenGl);
    } else {
        let region = |id| (id, said::display(None));
        with_display.into_iter().map(region).collect()
    };
    Ok(Lesson {
        began: start.began,
        qemu: start.qemu,
        emulator: start.emulator,
        started,
        displays,
    })
}

/// Returns the time at which the last start in a log began, since 1970; `None` if the log has no
/// complete start.
#[must_use]
pub fn began(log: &str) -> Option<Duration> {
    Some(Start::last(log)?.began)
}

/// The part of a domain's log about one start.
pub(crate) struct Start<'l> {
    /// The time when the start began, since 1970.
    pub(crate) began: Duration,
    /// QEMU's version, as libvirt reports it; `None` if it can't be read.
    pub(crate) qemu: Option<Version>,
    emulator: PathBuf,
    arguments: Vec<String>,
    /// The text of the log after the command line.
    pub(crate) printed: &'l str,
}

impl<'l> Start<'l> {
    /// Reads the last start in a log; `None` if its command line is not complete.
    pub(crate) fn last(log: &'l str) -> Option<Self> {
        let lines = log.split_inclusive('\n').scan(0, |at, line| {
            *at += line.len();
            Some((*at, line))
        });
        let (after, began, line) = lines
            .filter_map(|(after, line)| {
                let (began, words) = by_libvirt(line)?;
                let words = words.strip_prefix("starting up libvirt version: ")?;
                Some((after, began, words))
            })
            .last()?;
        let qemu = line
            .split_once(", qemu version: ")
            .and_then(|(_, version)| Version::parse(version));
        let (words, printed) = command(&log[after..])?;
        // The variables that libvirt sets in the environment come first. The program is an absolute
        // path.
        let mut words = words.into_iter().skip_while(|word| !word.starts_with('/'));
        Some(Start {
            began,
            qemu,
            emulator: words.next()?.into(),
            arguments: words.collect(),
            printed,
        })
    }

    /// Returns the value of each occurrence of an option, such as `-device`, on the command line.
    fn values(&self, option: &str) -> impl Iterator<Item = &str> {
        let options = self.arguments.iter().zip(self.arguments.iter().skip(1));
        options
            .filter(move |(word, _)| word.replacen("--", "-", 1) == option)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the domain's UUID; `None` if the command line has no valid one.
    pub(crate) fn domain(&self) -> Option<Uuid> {
        self.values("-uuid").last()?.parse().ok()
    }

    /// Returns whether the domain started, according to the lines about its end; `None` if there is
    /// no such line, or if a line has an unknown reason.
    ///
    /// There may be several lines. libvirt writes the reason "failed" when a hook vetoes a later
    /// start, and a guest may write it to fake a failed start. For a domain that ran, libvirt
    /// itself writes another reason.
    pub(crate) fn has_started(&self) -> Option<bool> {
        let mut started = None;
        for reason in self.printed.lines().filter_map(reason) {
            match reason {
                "failed" => started = started.or(Some(false)),
                "shutdown" | "destroyed" | "crashed" | "migrated" | "saved" | "from snapshot"
                | "daemon" => return Some(true),
                _ => return None,
            }
        }
        started
    }

    /// Returns the number of starts after this one that failed before QEMU ran.
    pub(crate) fn failed_since(&self) -> usize {
        let reasons = self.printed.lines().filter_map(reason).skip(1);
        reasons.filter(|reason| *reason == "failed").count()
    }

    /// Returns the device whose display QEMU refused, and the display that QEMU's message implies;
    /// `None` if QEMU refused no display. QEMU exits at the first device that it refuses.
    fn refusal(&self, devices: &[DeviceId]) -> Option<(DeviceId, Display)> {
        self.printed.lines().find_map(|line| {
            let (before, words) = [
                qemu_messages::DMABUF_NEEDS_OPENGL,
                qemu_messages::NO_DISPLAY,
            ]
            .iter()
            .find_map(|words| Some((line.trim_end().strip_suffix(words)?, words)))?;
            // QEMU's vfio code puts "vfio NAME: " before its messages (hw/vfio/pci.c).
            let before = before.strip_suffix("vfio: ").unwrap_or(before);
            let name = |id: &&DeviceId| before.ends_with(&format!(": vfio {id}: "));
            let id = devices.iter().find(name)?;
            Some((*id, said::display(Some(words))))
        })
    }

    /// Returns whether QEMU may have had OpenGL, or whether another option may have changed the
    /// `display` of a `-device`. Also true if no option chooses a frontend.
    fn may_have_opengl(&self) -> bool {
        let mut has_frontend = false;
        for (place, word) in self.arguments.iter().enumerate() {
            let option = word.replacen("--", "-", 1);
            let value = self.arguments.get(place + 1).map_or("", String::as_str);
            let gl = value
                .split(',')
                .any(|part| part.starts_with("gl") && part != "gl=off");
            match option.as_str() {
                "-nographic" | "-vnc" => has_frontend = true,
                "-spice" if !gl => has_frontend = true,
                "-display" if !gl && matches!(kind(value), "none" | "dbus" | "curses") => {
                    has_frontend = true;
                }
                "-spice" | "-display" | "-sdl" | "-gtk" | "-readconfig" => return true,
                "-set" | "-global" if value.contains("display") => return true,
                _ => {}
            }
        }
        // Without any of these options, QEMU chooses a display, perhaps with OpenGL.
        !has_frontend
    }
}

fn kind(value: &str) -> &str {
    let value = value.strip_prefix("type=").unwrap_or(value);
    value.split(',').next().unwrap_or_default()
}

/// Returns the device of a `-device`'s value; `None` unless it is vfio and has `display=on`.
fn with_display(value: &str) -> Option<DeviceId> {
    let device = Device::read(value).filter(Device::is_vfio)?;
    let display = device.properties.get("display")?;
    (display == "on").then(|| device.vfio_id()).flatten()
}

/// Splits a line that libvirt wrote, such as `2026-11-22 18:34:30.123+0000: …`, into its time and
/// its words; `None` for any other line. The time is always UTC (src/util/virtime.c,
/// `virTimeStringThen`).
fn by_libvirt(line: &str) -> Option<(Duration, &str)> {
    let (stamp, rest) = line.split_at_checked("2026-11-22 18:34:30.123".len())?;
    let words = rest.strip_prefix("+0000: ")?;
    let time = humantime::parse_rfc3339_weak(stamp).ok()?;
    Some((time.duration_since(UNIX_EPOCH).ok()?, words))
}

/// Returns the reason in libvirt's line about the end of a domain; `None` for any other line.
fn reason(line: &str) -> Option<&str> {
    let (_, words) = by_libvirt(line)?;
    words
        .strip_prefix("shutting down, reason=")
        .map(str::trim_end)
}

/// Returns the words of the command at the beginning of a text, and the text after the command;
/// `None` if the command has no end.
///
/// libvirt writes the command for a shell: single quotes around words that need them, and a
/// backslash before each line end but the last (src/util/vircommand.c, `virCommandToStringBuf`).
fn command(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut characters = text.char_indices();
    let mut quoted = false;
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\n' if !quoted => {
                words.extend(word);
                return Some((words, &text[at + 1..]));
            }
            ' ' if !quoted => words.extend(word.take()),
            '\\' if !quoted => match characters.next() {
                Some((_, '\n')) | None => {}
                Some((_, other)) => word.get_or_insert_default().push(other),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::log::rfc3339;

    #[test]
    fn times() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59Z",
            "2026-11-22T18:34:30Z",
            "2100-03-01T00:00:00Z",
        ] {
            let line = format!("{}.123+0000: x", text.replace('T', " ").replace('Z', ""));
            let (time, words) = by_libvirt(&line).unwrap();
            assert_eq!(rfc3339(time.as_secs()), text);
            assert_eq!((time.subsec_millis(), words), (123, "x"));
        }
        for line in [
            "",
            "2026-11-22 18:34:30.123+0100: x",
            "2026-13-22 18:34:30.123+0000: x",
            "2026-11-22T18:34:30.123456Z qemu-system-x86_64: x",
            "2026-11-22 18:34:30.12é+0000: x",
            "1969-12-31 00:00:00.000+0000: x",
        ] {
            assert_eq!(by_libvirt(line), None, "{line}");
        }
    }

    #[test]
    fn commands() {
        let text = "LC_ALL=C \\\n/usr/bin/q \\\n-name 'a b'\\''c' \\\n-e '' x\\ y 'n\nl'\nnext\n";
        let (words, rest) = command(text).unwrap();
        assert_eq!(
            words,
            [
                "LC_ALL=C",
                "/usr/bin/q",
                "-name",
                "a b'c",
                "-e",
                "",
                "x y",
                "n\nl"
            ]
        );
        assert_eq!(rest, "next\n");
        for cut in ["", "a 'b", "a \\", "a \\\n", "a"] {
            assert_eq!(command(cut), None, "{cut}");
        }
    }

    #[test]
    fn devices_with_a_display() {
        // The device, or nothing, and the value.
        for row in [
            r#"MDEV|{"driver":"vfio-pci","sysfsdev":"/sys/bus/mdev/devices/MDEV","display":"on"}"#,
            r#"MDEV|{"driver":"vfio-pci-nohotplug","sysfsdev":"/sys/bus/mdev/devices/MDEV","display":"on","ramfb":true}"#,
            "MDEV|vfio-pci,id=hostdev0,sysfsdev=/sys/bus/mdev/devices/MDEV,display=on,bus=pci.9",
            r#"PCI|{"driver":"vfio-pci","host":"PCI","id":"hostdev0","display":"on"}"#,
            "PCI|vfio-pci,host=PCI,display=on",
            "|vfio-pci,host=PCI,display=off",
            "|vfio-pci,host=PCI",
            "|vfio-ccw,host=PCI,display=on",
            "|VGA,display=on",
            r#"|{"driver":"vfio-pci","host":"../x","display":"on"}"#,
            "|{",
        ] {
            let row = row.replace("MDEV", "c1a20000-0000-4000-8000-000000000002");
            let row = row.replace("PCI", "0000:06:00.4");
            let (device, value) = row.split_once('|').unwrap();
            let found = with_display(value).map(|id| id.to_string());
            assert_eq!(found.unwrap_or_default(), device, "{value}");
        }
    }
}
