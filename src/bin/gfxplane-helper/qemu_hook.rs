//! The qemu hook (libvirt docs/hooks.rst), behind `hooks/qemu.d/50-gfxplane`.
//!
//! While the hook runs, libvirt holds the domain's lock. So the hook asks no other program and
//! opens no device. It reads files, and waits only for a probe or a trial of ours.
//!
//! The domain starts, whatever goes wrong here. Only the exit code 77 keeps the domain from
//! starting, and the hook returns it only for a [`Verdict::Veto`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::unistd::{alarm, geteuid};

use gfxplane::daemon::hook::{self, Definition, Operation, Verdict};
use gfxplane::device::id::DeviceId;
use gfxplane::domain::Domain;
use gfxplane::domain::shell::{operand, plain};
use gfxplane::host::config::{Config, HookMode};
use gfxplane::host::emulator::{self, Asking, Kind};
use gfxplane::host::requests::{self, Request};
use gfxplane::host::{Root, run, settings};
use gfxplane::plan::fixup::{Remembering, Surroundings};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::publish::inventory::{self, Reading};
use gfxplane::xml::{self, Document};

use crate::SUCCESS;

/// The exit code that means a veto to the script `50-gfxplane`. A crash or another error never
/// gives this code.
const VETO: u8 = 77;

/// The longest time that the hook runs without its wait for a probe, in seconds. One test in
/// tests/hook.rs has a shorter limit of its own ("Well before the alarm").
const LIMIT: u32 = 10;

/// How long before the end of [`LIMIT`] the hook writes to the journal that the domain starts
/// unchecked.
const SOON: Duration = Duration::from_millis(200);

/// The beginning of every `<hostdev>`. The hook ignores a domain without it.
const HOSTDEV: &[u8] = b"<hostdev";

/// The beginning of each line for the journal. `<28>`: facility daemon, warning (RFC 3164).
const JOURNAL: &str = "<28>gfxplane: ";

/// Runs the hook and returns the exit code. A hook that takes too long is ended by SIGALRM, which
/// is no veto. Does nothing for users other than root, except on a recorded host. `operation` is
/// libvirt's second argument. The other arguments add nothing to the XML on stdin.
pub(crate) fn run(root: &Root, operation: &OsStr) -> u8 {
    // SIGALRM ends us, which is no veto: the domain starts.
    alarm::set(LIMIT);
    // Other users of libvirt (qemu:///session) have neither the lock nor the daemon.
    if !root.is_recorded() && !geteuid().is_root() {
        return SUCCESS;
    }
    look(root, operation).unwrap_or(SUCCESS)
}

/// Does what the operation needs for the domain on stdin: waits for a probe, tells the daemon of an
/// end, and decides. Returns the exit code; `None` if nothing is decided: the hook is off, the
/// operation is a release or not one of ours, or the domain can't be read or has no vfio devices.
fn look(root: &Root, operation: &OsStr) -> Option<u8> {
    let operation = Operation::parse(operation.to_str()?)?;
    let mut bytes = Vec::new();
    let limit = xml::MAX_SIZE as u64 + 1;
    io::stdin().take(limit).read_to_end(&mut bytes).ok()?;
    memmem::find(&bytes, HOSTDEV)?;
    let text = xml::from_bytes(bytes).ok()?;
    let document = Document::parse(&text).ok()?;
    let domain = Domain::new(&document).ok()?;
    let devices = hook::devices(&domain);
    if devices.is_empty() {
        return None;
    }
    let config = config(root);
    // This is done even if the hook is off: no start may meet a probe of ours, and only this tells
    // the daemon that a domain has ended.
    match operation {
        Operation::Prepare => {
            alarm::set(LIMIT + config.deadline.as_secs() as u32);
            wait(root, &devices, &config);
            say_when_late(root, &domain);
        }
        Operation::Release => {
            for id in &devices {
                let _ = requests::forget_start(root, *id);
            }
            // The devices become free, and the daemon can learn from the domain's log.
            leave(root, &domain, false);
            return None;
        }
        Operation::Migrate | Operation::Restore => {}
    }
    if config.hook == HookMode::Off {
        return None;
    }
    let verdict = verdict(root, operation, &text, (&document, &domain), &config);
    let is_veto = matches!(verdict, Verdict::Veto { .. });
    if operation == Operation::Prepare && !is_veto {
        // The domain starts now, so the daemon must not start it later.
        if let Some(uuid) = domain.uuid {
            let _ = requests::forget_veto(root, uuid);
        }
    }
    Some(answer(root, &domain, verdict))
}

/// Returns what the hook does about a domain. If the emulator is a script, a veto becomes a
/// warning. `text` is the domain's XML, `document` and `domain` are views of it.
fn verdict(
    root: &Root,
    operation: Operation,
    text: &str,
    (document, domain): (&Document<'_>, &Domain<'_, '_>),
    config: &Config,
) -> Verdict {
    let reading = Reading::new(root);
    let host = ThisHost { root, reading };
    let host = Remembering::new(&host);
    match operation {
        Operation::Prepare => {
            let definition = definition(root, domain.name.as_deref());
            let start = |config: &Config| hook::start(text, domain, &host, config, definition);
            match start(config) {
                // A script in QEMU's place may give QEMU other graphics than libvirt knows of.
                Verdict::Veto { .. } if emulator::kind(root, &domain.program()) == Kind::Script => {
                    let mut config = config.clone();
                    config.hook = HookMode::Warn;
                    start(&config)
                }
                verdict => verdict,
            }
        }
        Operation::Migrate | Operation::Restore | Operation::Release => {
            hook::incoming(document, domain, &host, config)
        }
    }
}

/// Passes the verdict to libvirt, the journal and the daemon, and returns the exit code.
fn answer(root: &Root, domain: &Domain<'_, '_>, verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Nothing => SUCCESS,
        Verdict::Warn(line) => {
            journal(root, &line);
            SUCCESS
        }
        Verdict::Veto { why, fix } => {
            leave(root, domain, true);
            let lines = format!("gfxplane: {why}\ngfxplane: {fix}\n");
            let _ = io::stderr().write_all(lines.as_bytes());
            VETO
        }
        Verdict::Rewrite { text, line } => {
            // All or nothing: the script passes on only the output of a helper that ended well.
            let mut out = io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            journal(root, &line);
            written.map_or(crate::FAILURE, |()| SUCCESS)
        }
    }
}

/// Sets the alarm. Starts a thread that warns in the journal, shortly before the alarm, that the
/// domain starts unchecked. If there can be no thread, there is no warning.
fn say_when_late(root: &Root, domain: &Domain<'_, '_>) {
    alarm::set(LIMIT);
    let name = operand(domain.name.as_deref(), domain.uuid);
    let line = format!(
        "domain {name}: the check takes too long, so the hook lets the domain start unchecked"
    );
    let root = root.clone();
    let say = move || {
        thread::sleep(Duration::from_secs(u64::from(LIMIT)) - SOON);
        journal(&root, &line);
    };
    let _ = thread::Builder::new().stack_size(64 * 1024).spawn(say);
}

/// Returns the settings. If a file of settings can't be used, writes that to the journal, and the
/// hook only warns, because that file might have switched it off.
fn config(root: &Root) -> Config {
    let mut warnings = Vec::new();
    let mut config = settings::config(root, &mut warnings);
    for warning in &warnings {
        journal(root, &warning.to_string());
    }
    if !warnings.is_empty() && config.hook == HookMode::Enforce {
        config.hook = HookMode::Warn;
    }
    config
}

/// Marks the domain's devices as being started, and then waits, at most for the deadline of the
/// settings, until no probe and no trial of ours uses one of them. A probe or a trial that begins
/// later sees the mark and leaves the device alone. A trial that uses a device now also sees the
/// mark, and ends its QEMU. If the wait is in vain, the journal gets a line, and the start
/// continues.
fn wait(root: &Root, devices: &BTreeSet<DeviceId>, config: &Config) {
    for id in devices {
        if let Err(error) = requests::mark_start(root, *id) {
            journal(root, &format!("marking the start of {id}: {error}"));
        }
    }
    let limit = Instant::now() + config.deadline;
    for id in devices {
        let free = run::wait_until_free(root, *id, limit);
        let free = free.and_then(|free| Ok(run::wait_until_tried(root, *id, limit)? && free));
        match free {
            Ok(true) => {}
            Ok(false) => {
                let line = format!("{id} is still being probed; QEMU may find it busy");
                journal(root, &line);
            }
            Err(error) => journal(root, &format!("waiting for the probe of {id}: {error}")),
        }
    }
}

/// Leaves a request for the daemon to look at the domain. `veto` is true if the hook has just
/// vetoed the domain's start. Does nothing if the domain has no UUID; a failure goes to the
/// journal.
fn leave(root: &Root, domain: &Domain<'_, '_>, veto: bool) {
    let Some(domain) = domain.uuid else {
        return;
    };
    if let Err(error) = requests::leave(root, &Request { domain, veto }) {
        journal(root, &format!("asking the daemon for {domain}: {error}"));
    }
}

/// Returns whether the domain is persistent: whether libvirt has a definition file for it. A domain
/// without a name counts as persistent, and so does every domain if libvirt's directory can't be
/// seen.
fn definition(root: &Root, name: Option<&str>) -> Definition {
    let directory = root.join("etc/libvirt/qemu");
    let file = name.map(|name| directory.join(format!("{name}.xml")));
    match file {
        Some(file) if directory.is_dir() && !file.exists() => Definition::Transient,
        _ => Definition::Persistent,
    }
}

/// Writes a line to the journal. If no journal listens, the line is lost.
fn journal(root: &Root, line: &str) {
    let message = format!("{JOURNAL}{}", plain(&line.replace('\n', " ")));
    if let Ok(socket) = UnixDatagram::unbound()
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to(message.as_bytes(), root.join("dev/log"));
    }
}

/// This host. Reads only what the domain's devices need.
struct ThisHost<'r> {
    root: &'r Root,
    reading: Reading,
}

impl Surroundings for ThisHost<'_> {
    /// Returns what the valid record of a device says, without reading rules and types. Reads them
    /// only if there is no valid record, if the record has no answer, or if the kernel itself
    /// describes the type, which overrules the record.
    fn known(&self, device: DeviceId) -> Known {
        let mut unheard = Vec::new();
        // A statement of the kernel about the type would outrank the record.
        let by_kernel = || self.root.device(device).join("mdev_type/vfio-pci").exists();
        inventory::recorded(self.root, device, &mut unheard)
            .filter(|known| known.finding.facts.display.is_answer() && !by_kernel())
            .unwrap_or_else(|| self.reading.known(device, &mut unheard))
    }

    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities {
        let emulator = domain.program();
        emulator::abilities(self.root, &emulator, Asking::Cached, &mut Vec::new())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documents_name_the_limit() {
        let limit = format!(" {} seconds after ", super::LIMIT);
        let automatic = include_str!("../../../docs/automatic.md");
        assert!(automatic.contains(&(limit.clone() + "that wait")));
        let faults = include_str!("../../../docs/faults.md");
        assert!(faults.contains(&(limit + "its wait for a probe")));
    }
}
