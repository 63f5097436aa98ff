//! What the log of a domain shows of its devices' displays: text in, evidence out.
//!
//! libvirt writes a line and QEMU's whole command line into `/var/log/libvirt/qemu/NAME.log` before
//! QEMU runs, what QEMU prints after that goes there, too, and at the end libvirt says why it was the end
//! (src/qemu/qemu_domain.c, `qemuDomainLogContextNew`; src/qemu/qemu_process.c, `qemuProcessLaunch` and
//! `qemuProcessStop`). A device with `display=on` then tells:
//!
//! * QEMU refused it for want of OpenGL, and the start failed: a dmabuf;
//! * QEMU found no display, and the start failed: none;
//! * the domain has started, and nothing on the command line has OpenGL: a region, as QEMU would have refused
//!   a dmabuf and no display alike.
//!
//! **What can be trusted.** The process that writes the log is QEMU, which a guest may have made its own once it
//! runs. So its words count only for a start that failed, and count for nothing else than the
//! domain's own devices, which are not taken from the log. That a start failed can't be forged by saying
//! so: libvirt's own line at the end of a domain that ran gives another reason, and then it has
//! started, whatever else is there. But a guest that forges the whole log of a further start can make its own
//! screen be taken for another kind, as long as nobody asks the device: what is learned is evidence
//! `qemu`, never a measurement, which any answer of the device's goes before, and says nothing of other devices.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use uuid::Uuid;

use crate::facts::Display;
use crate::names::DeviceId;
use crate::predict::words;
use crate::verify::said;
use crate::version::Version;

/// What the last start in a log shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// When it began, since 1970 (the clock of the host).
    pub began: Duration,
    /// QEMU's version, as libvirt has it.
    pub qemu: Option<Version>,
    /// What was run. A script may give QEMU other arguments than the log has, and then a start tells
    /// nothing.
    pub emulator: PathBuf,
    /// Whether the domain started.
    pub started: bool,
    /// What it shows of which devices: those of the domain that have `display=on`.
    pub displays: Vec<(DeviceId, Display)>,
}

/// A log that shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nothing {
    /// There is no start in it, or a part of one.
    #[error("there is no whole start in its log")]
    NoStart,
    /// The last start is another domain's, which had its name.
    #[error("the last start in its log is of another domain of its name")]
    OtherDomain,
    /// It can't be seen whether the domain started.
    #[error("its log does not say how the last start ended")]
    NoEnd,
    /// No device of the domain has a display there.
    #[error("none of its vfio devices had display=on at the last start")]
    NoDisplay,
    /// It has started, and with OpenGL that says nothing.
    #[error("it started with OpenGL, or may have, so that any display would have done")]
    OpenGl,
    /// It was refused, for another reason.
    #[error("it failed to start for another reason than the display of a vfio device")]
    OtherReason,
}

/// Reads what the last start in a log shows of these devices of the domain. `log` may lack its
/// beginning; `is_running`: libvirt says that the domain runs.
///
/// # Errors
/// [`Nothing`]: why it shows nothing.
pub fn learn(
    log: &str,
    domain: Uuid,
    devices: &[DeviceId],
    is_running: bool,
) -> Result<Lesson, Nothing> {
    let start = Start::last(log).ok_or(Nothing::NoStart)?;
    let uuid = start.value("-uuid").ok_or(Nothing::NoStart)?;
    if uuid.parse() != Ok(domain) {
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

/// When the last start in a log began, since 1970.
#[must_use]
pub fn began(log: &str) -> Option<Duration> {
    Some(Start::last(log)?.began)
}

/// The last start in a log, whatever its devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastStart<'l> {
    /// When it began, since 1970.
    pub began: Duration,
    /// QEMU's version, as libvirt has it.
    pub qemu: Option<Version>,
    /// The domain's UUID.
    pub domain: Option<Uuid>,
    /// Whether the domain started; `None` if the log does not say.
    pub started: Option<bool>,
    /// How often something has failed after that before there was a QEMU.
    pub failed_since: usize,
    /// What came after the command line.
    pub printed: &'l str,
}

impl<'l> LastStart<'l> {
    /// Reads it; `None` if there is no whole start in the log.
    #[must_use]
    pub fn of(log: &'l str) -> Option<Self> {
        let start = Start::last(log)?;
        let reasons = start.printed.lines().filter_map(reason);
        Some(LastStart {
            domain: start.value("-uuid").and_then(|uuid| uuid.parse().ok()),
            started: start.has_started(),
            failed_since: reasons.skip(1).filter(|reason| *reason == "failed").count(),
            began: start.began,
            qemu: start.qemu,
            printed: start.printed,
        })
    }
}

/// One start.
struct Start<'l> {
    began: Duration,
    qemu: Option<Version>,
    emulator: PathBuf,
    arguments: Vec<String>,
    /// What came after the command line.
    printed: &'l str,
}

impl<'l> Start<'l> {
    fn last(log: &'l str) -> Option<Self> {
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
        // What libvirt sets in the environment comes first; the program is an absolute path.
        let mut words = words.into_iter().skip_while(|word| !word.starts_with('/'));
        Some(Start {
            began,
            qemu,
            emulator: words.next()?.into(),
            arguments: words.collect(),
            printed,
        })
    }

    /// What follows an option, wherever it stands.
    fn values(&self, option: &str) -> impl Iterator<Item = &str> {
        let options = self.arguments.iter().zip(self.arguments.iter().skip(1));
        options
            .filter(move |(word, _)| word.replacen("--", "-", 1) == option)
            .map(|(_, value)| value.as_str())
    }

    fn value(&self, option: &str) -> Option<&str> {
        self.values(option).last()
    }

    /// Whether the domain started, as the lines at its end tell; `None` if they don't.
    ///
    /// There may be more than one: a hook that keeps a later start back has libvirt write "failed",
    /// and so does a guest that wants its words to count. Of a domain that ran libvirt itself
    /// writes one with another reason.
    fn has_started(&self) -> Option<bool> {
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

    /// The device that QEMU refused, and what its words say of it. QEMU ends with the first one.
    fn refusal(&self, devices: &[DeviceId]) -> Option<(DeviceId, Display)> {
        self.printed.lines().find_map(|line| {
            let (before, words) = [words::DMABUF_NEEDS_OPENGL, words::NO_DISPLAY]
                .iter()
                .find_map(|words| Some((line.trim_end().strip_suffix(words)?, words)))?;
            // "vfio NAME: " is put before what vfio's part of QEMU says (hw/vfio/pci.c).
            let before = before.strip_suffix("vfio: ").unwrap_or(before);
            let name = |id: &&DeviceId| before.ends_with(&format!(": vfio {id}: "));
            let id = devices.iter().find(name)?;
            Some((*id, said::display(Some(words))))
        })
    }

    /// Whether QEMU may have had OpenGL, or a device another display than its `-device` says: what
    /// is not known to have none counts.
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
        // With none of them QEMU chooses.
        !has_frontend
    }
}

fn kind(value: &str) -> &str {
    let value = value.strip_prefix("type=").unwrap_or(value);
    value.split(',').next().unwrap_or_default()
}

/// The device of a `-device` that has `display=on`: JSON, as libvirt writes it since 6.9, or QEMU's
/// list of options.
fn with_display(value: &str) -> Option<DeviceId> {
    let json = serde_json::from_str::<serde_json::Value>(value).ok();
    let property = |name: &str| match &json {
        Some(json) => json.get(name)?.as_str(),
        None if name == "driver" => value.split(',').next(),
        None => value.split(',').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            (key == name).then_some(value)
        }),
    };
    let is_vfio = property("driver")?.starts_with("vfio-pci");
    if !is_vfio || property("display") != Some("on") {
        return None;
    }
    let name = match property("sysfsdev") {
        Some(path) => path.rsplit('/').next()?,
        None => property("host")?,
    };
    name.parse().ok()
}

/// Splits a line of libvirt's own: when, and what it says. `2026-11-22 18:34:30.123+0000: …`, in
/// UTC always (src/util/virtime.c, `virTimeStringThen`).
fn by_libvirt(line: &str) -> Option<(Duration, &str)> {
    let (stamp, rest) = line.split_at_checked("2026-11-22 18:34:30.123".len())?;
    let words = rest.strip_prefix("+0000: ")?;
    let time = humantime::parse_rfc3339_weak(stamp).ok()?;
    Some((time.duration_since(UNIX_EPOCH).ok()?, words))
}

/// Why a domain ended, in a line of libvirt's that says so.
fn reason(line: &str) -> Option<&str> {
    let (_, words) = by_libvirt(line)?;
    words
        .strip_prefix("shutting down, reason=")
        .map(str::trim_end)
}

/// The words of the command at the beginning of a text, and what comes after it; `None` if it has
/// no end. libvirt writes it
/// for a shell: words in single quotes where they need it, and a backslash before each line end but
/// the last (src/util/vircommand.c, `virCommandToStringBuf`).
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
    use crate::log::rfc3339;

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
        let id = "c1a20000-0000-4000-8000-000000000002";
        for (value, expected) in [
            (
                format!(
                    r#"{{"driver":"vfio-pci","id":"hostdev0","sysfsdev":"/sys/bus/mdev/devices/{id}","display":"on"}}"#
                ),
                Some(id),
            ),
            (
                format!(
                    r#"{{"driver":"vfio-pci-nohotplug","sysfsdev":"/sys/bus/mdev/devices/{id}","display":"on","ramfb":true}}"#
                ),
                Some(id),
            ),
            (
                format!(
                    "vfio-pci,id=hostdev0,sysfsdev=/sys/bus/mdev/devices/{id},display=on,bus=pci.9,addr=0x0"
                ),
                Some(id),
            ),
            (
                r#"{"driver":"vfio-pci","host":"0000:06:00.4","id":"hostdev0","display":"on"}"#
                    .into(),
                Some("0000:06:00.4"),
            ),
            (
                "vfio-pci,host=0000:06:00.4,display=on".into(),
                Some("0000:06:00.4"),
            ),
            ("vfio-pci,host=0000:06:00.4,display=off".into(), None),
            ("vfio-pci,host=0000:06:00.4".into(), None),
            ("vfio-ccw,host=0000:06:00.4,display=on".into(), None),
            ("VGA,display=on".into(), None),
            (
                r#"{"driver":"vfio-pci","host":"../x","display":"on"}"#.into(),
                None,
            ),
            ("{".into(), None),
        ] {
            let found = with_display(&value).map(|id| id.to_string());
            assert_eq!(found.as_deref(), expected, "{value}");
        }
    }
}
