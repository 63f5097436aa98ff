//! The mdevctl callout and notifier. Protocol: mdevctl(8) "CALLOUTS", src/callouts.rs.
//!
//! As a callout it answers one thing, `get attributes` for `mdevctl list`, and says "not mine"
//! (exit code 2) to all else, so that it never takes a device away from a vendor's script. As a
//! notifier it waits at `start` until no probe of ours holds the device, and takes our attributes
//! out of definitions.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use gfxplane::hints::hints;
use gfxplane::host::{Root, mdevctl, run, settings};
use gfxplane::inventory;
use gfxplane::names::DeviceId;
use gfxplane::nodedev::words::{attributes, words};

use crate::{FAILURE, SUCCESS};

/// What our links are called in mdevctl's directories.
const OUR_NAME: &str = "99-gfxplane";

/// "Not my device": mdevctl asks the next script.
const NOT_MINE: u8 = 2;

/// One call by mdevctl.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    event: String,
    action: String,
    state: String,
    uuid: String,
    parent: String,
}

impl Call {
    /// Reads the arguments; `None` if they aren't mdevctl's (which always begin with `-t`).
    pub(crate) fn parse(arguments: &[OsString]) -> Option<Self> {
        if arguments.first()? != "-t" {
            return None;
        }
        let mut call = Call {
            event: String::new(),
            action: String::new(),
            state: String::new(),
            uuid: String::new(),
            parent: String::new(),
        };
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { break };
            // Whatever is not UTF-8 names nothing that we could have a record of.
            let value = value.to_str().unwrap_or_default().to_owned();
            match option.to_str() {
                Some("-e") => call.event = value,
                Some("-a") => call.action = value,
                Some("-s") => call.state = value,
                Some("-u") => call.uuid = value,
                Some("-p") => call.parent = value,
                _ => {}
            }
        }
        Some(call)
    }
}

/// Answers the call. `program`: as which file we were called.
pub(crate) fn run(root: &Root, program: &OsStr, call: &Call) -> u8 {
    match (call.event.as_str(), call.action.as_str()) {
        ("get", "attributes") => {
            if !is_list(&caller()) || !is_last(root, Path::new(program)) {
                return NOT_MINE;
            }
            match attributes_of(root, &call.uuid) {
                Some(text) if io::stdout().write_all(text.as_bytes()).is_ok() => SUCCESS,
                _ => NOT_MINE,
            }
        }
        ("notify", action) => notify(root, call, action),
        _ => NOT_MINE,
    }
}

/// The command line of whoever called us.
fn caller() -> Vec<u8> {
    let parent = std::os::unix::process::parent_id();
    std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default()
}

/// Whether mdevctl was called to list devices. `mdevctl define` asks for attributes, too, and would
/// store them in the definition.
fn is_list(cmdline: &[u8]) -> bool {
    verb(cmdline) == Some(b"list")
}

/// The command of mdevctl's that this is.
fn verb(cmdline: &[u8]) -> Option<&[u8]> {
    let mut words = cmdline.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    match program.rsplit(|byte| *byte == b'/').next() {
        Some(b"mdevctl") => words.next(),
        Some(b"lsmdev") => Some(b"list"),
        _ => None,
    }
}

/// Whether every vendor's script has had its turn. mdevctl asks the scripts of
/// `/etc/mdevctl.d/scripts.d` after those of `/usr/lib/mdevctl/scripts.d`, and takes the first
/// answer. So the link in /usr/lib answers only if there is nobody in /etc but ourselves, and our
/// link there, which sorts last, answers after the others.
fn is_last(root: &Root, program: &Path) -> bool {
    if program.starts_with("/etc") {
        return true;
    }
    match std::fs::read_dir(root.join("etc/mdevctl.d/scripts.d/callouts")) {
        Ok(entries) => entries.flatten().all(|entry| entry.file_name() == OUR_NAME),
        Err(_) => true,
    }
}

/// What was measured of the device. No valid record, no attributes.
fn attributes_of(root: &Root, uuid: &str) -> Option<String> {
    words_of(root, uuid.parse().ok()?).map(|words| attributes(&words))
}

/// The words for that.
pub(crate) fn words_of(root: &Root, id: DeviceId) -> Option<Vec<(String, String)>> {
    if !settings::config(root, &mut Vec::new()).attributes {
        return None;
    }
    let known = inventory::recorded(root, id, &mut Vec::new())?;
    let hints = hints(&known.finding.facts, known.render_node.as_deref());
    Some(words(&known.finding, &hints))
}

/// When whoever called us was started (CLOCK_MONOTONIC), a tick early; the beginning of time if
/// that can't be told. Field 22 of `/proc/PID/stat` counts ticks of CLOCK_BOOTTIME.
fn caller_started() -> Duration {
    let clock = |id| clock_gettime(id).map_or(Duration::ZERO, Duration::from);
    let parent = std::os::unix::process::parent_id();
    let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    // The second field is a name in parentheses, which may have anything in it.
    let ticks = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(19));
    let per_second = sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100)
        .max(1) as u64;
    let Some(ticks) = ticks.and_then(|ticks| ticks.parse::<u64>().ok()) else {
        return Duration::ZERO;
    };
    let started = Duration::from_millis(ticks.saturating_sub(1) * 1000 / per_second);
    let ago = clock(ClockId::CLOCK_BOOTTIME).saturating_sub(started);
    clock(ClockId::CLOCK_MONOTONIC).saturating_sub(ago)
}

fn notify(root: &Root, call: &Call, action: &str) -> u8 {
    let Ok(id @ DeviceId::Mdev(uuid)) = call.uuid.parse() else {
        return NOT_MINE;
    };
    if call.state != "success" {
        return SUCCESS;
    }
    let problem = match action {
        "start" => {
            let limit = Instant::now() + settings::config(root, &mut Vec::new()).deadline;
            // udev's rule for parents runs this, and udev handles no event of a device while it
            // runs the rules of its parent: waiting would be in vain. Nobody starts a domain then.
            let by_udev = verb(&caller()) == Some(b"start-parent-mdevs");
            let known = by_udev || run::wait_for_udev(root, id, caller_started(), limit);
            match run::wait_until_free(root, id, limit) {
                Ok(true) if known => None,
                Ok(_) => Some(format!(
                    "{id} is still being probed; whoever opens it may find it busy"
                )),
                Err(error) => Some(format!("waiting for the probe of {id}: {error}")),
            }
        }
        "define" | "modify" => match mdevctl::clean(root, &call.parent, uuid) {
            Ok(_) => None,
            Err(error) => Some(format!(
                "taking gfxplane's attributes out of the definition of {id}: {error}"
            )),
        },
        _ => None,
    };
    match problem {
        None => SUCCESS,
        Some(problem) => {
            let _ = writeln!(io::stderr(), "gfxplane-helper: {problem}");
            FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lists() {
        for (cmdline, expected) in [
            (&b"mdevctl\0list\0--dumpjson\0"[..], true),
            (b"/usr/sbin/mdevctl\0list\0", true),
            (b"/usr/sbin/lsmdev\0-d\0", true),
            (b"mdevctl\0define\0-u\0list\0", false),
            (b"mdevctl\0start\0list\0", false),
            (b"notlsmdev\0list\0", false),
            (b"mdevctl\0", false),
            (b"", false),
        ] {
            assert_eq!(
                is_list(cmdline),
                expected,
                "{}",
                String::from_utf8_lossy(cmdline)
            );
        }
    }

    #[test]
    fn arguments_of_mdevctl() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let call = Call::parse(&words("-t T -e get -a attributes -s none -u U -p P")).unwrap();
        assert_eq!(
            (
                call.event.as_str(),
                call.action.as_str(),
                call.uuid.as_str()
            ),
            ("get", "attributes", "U")
        );
        assert_eq!(Call::parse(&words("capability U")), None);
        assert_eq!(Call::parse(&[]), None);
        assert_eq!(Call::parse(&words("-t T -e")).unwrap().event, "");
    }
}
