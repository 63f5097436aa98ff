//! The mdevctl callout and notifier. Protocol: mdevctl(8) "CALLOUTS", src/callouts.rs.
//!
//! As a callout it answers only `get attributes` for `mdevctl list`. To all other calls it answers
//! "not mine" (exit code 2), so that it never takes a device away from a vendor's script. As a
//! notifier it waits at `start` until no probe of ours has the device open, and removes our
//! attributes from definitions.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::alarm;

use gfxplane::device::id::DeviceId;
use gfxplane::host::answers::Place;
use gfxplane::host::{Root, callout, mdevctl, run, settings, started_after_boot, udev};
use gfxplane::predict::hints::hints;
use gfxplane::publish::inventory;
use gfxplane::publish::mdevctl_call::{Call, is_list, verb};
use gfxplane::publish::words::{attributes, words};

use crate::{SUCCESS, fail};

/// The longest time that the notifier runs without its wait for a probe, in seconds. After that,
/// SIGALRM ends it.
const LIMIT: u32 = 10;

/// The unit in which the kernel reports the start time of a process (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// "Not my device": mdevctl asks the next script.
const NOT_MINE: u8 = 2;

/// Answers mdevctl's call. Returns the exit code.
pub(crate) fn run(root: &Root, call: &Call) -> u8 {
    match (call.event.as_str(), call.action.as_str()) {
        ("get", "attributes") => {
            if !is_list(&caller()) {
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

fn caller() -> Vec<u8> {
    let parent = std::os::unix::process::parent_id();
    std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default()
}

/// Returns the text with a device's attributes for mdevctl, from an earlier answer if that is still
/// valid. Keeps a new answer. Returns `None` if the device gets no attributes.
fn attributes_of(root: &Root, uuid: &str) -> Option<String> {
    let id = uuid.parse().ok()?;
    let place = Place::of(root, id)?;
    place.answer(root).or_else(|| {
        let answer = attributes(&words_of(root, id)?);
        place.keep(root, &answer);
        Some(answer)
    })
}

/// Returns the names and values of a device's attributes. `None` without a valid record, if the
/// settings switch attributes off, or if libvirt itself shows displays.
pub(crate) fn words_of(root: &Root, id: DeviceId) -> Option<Vec<(String, String)>> {
    let are_wanted = settings::config(root, &mut Vec::new()).attributes;
    if !are_wanted || callout::is_told_by_libvirt(root) {
        return None;
    }
    let known = inventory::recorded(root, id, &mut Vec::new())?;
    let hints = hints(&known.finding.facts, known.render_node.as_deref());
    Some(words(&known.finding, &hints))
}

/// Returns the time (CLOCK_MONOTONIC) at which the process that called us was started, minus a
/// [`TICK`]; zero if the time can't be read.
fn caller_started() -> Duration {
    let clock = |id| clock_gettime(id).map_or(Duration::ZERO, Duration::from);
    let parent = std::os::unix::process::parent_id();
    let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    let Some(started) = started_after_boot(&stat) else {
        return Duration::ZERO;
    };
    let ago = clock(ClockId::CLOCK_BOOTTIME).saturating_sub(started.saturating_sub(TICK));
    clock(ClockId::CLOCK_MONOTONIC).saturating_sub(ago)
}

fn notify(root: &Root, call: &Call, action: &str) -> u8 {
    let Ok(id @ DeviceId::Mdev(uuid)) = call.uuid.parse() else {
        return NOT_MINE;
    };
    if call.state != "success" {
        return SUCCESS;
    }
    // mdevctl continues when SIGALRM ends a notifier.
    alarm::set(LIMIT);
    let problem = match action {
        "start" => {
            let deadline = settings::config(root, &mut Vec::new()).deadline;
            alarm::set(LIMIT + deadline.as_secs() as u32);
            let limit = Instant::now() + deadline;
            // udev's rule for a parent runs `start-parent-mdevs`, and udev handles no event of a
            // device while it runs the rules of its parent. So it is useless to wait then. No
            // domain is started at that time.
            let by_udev = verb(&caller()) == Some(b"start-parent-mdevs");
            let known = by_udev || udev::wait_for_udev(root, id, caller_started(), limit);
            match run::wait_until_free(root, id, limit) {
                Ok(true) if known => None,
                Ok(_) => Some(format!(
                    "{id} is still being probed, so opening it may fail with \"busy\""
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
        Some(problem) => fail(&problem),
    }
}
