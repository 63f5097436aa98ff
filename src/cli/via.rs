//! `gfxplane probe`: asks devices itself, or through a QEMU that is started for this purpose.
//!
//! Some drivers open a device only for a real QEMU: NVIDIA's manager looks for `-uuid` on the
//! command line of the process that opens one. So `--via qemu` starts a paused domain with only
//! that device and without OpenGL, as `gfxplane verify` does ([`crate::cli::verify`]), and takes
//! QEMU's answer for the device's ([`crate::plan::trial::said::display`]). QEMU opens the device as
//! for a guest, with all that the device's driver then does, so gfxplane never does this unasked.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cli::list::display;
use crate::cli::probe::{Probe, end, prober, row};
use crate::cli::progress::Progress;
use crate::cli::{End, deadline};
use crate::device::evidence::Step;
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::device::record::{ByQemu, Circumstances, Record};
use crate::device::version::Version;
use crate::host::emulator::{self, Asking};
use crate::host::run;
use crate::libvirt::idle;
use crate::libvirt::trial::{NotTried, SmallCopy};
use crate::libvirt::{Context, Failure, Start};
use crate::plan::trial::said;
use crate::predict::versions::PCI_DISPLAY;
use crate::probe::asking::{Outcome, announce, unknown};
use crate::probe::{Answer, Asked, may_open};
use crate::publish::inventory::{Sources, active, rule_for};

/// The time that QEMU may take to answer, in seconds, unless the user gives another. A driver may
/// take half a minute to make a device ready.
const DEADLINE: f64 = 120.0;

/// Ask devices what display they have
///
/// Opens a device for a moment. If the device is in use, this fails and disturbs nobody. The answer
/// is kept until the host reboots, the device is removed, or its driver changes.
///
/// With --via qemu, QEMU opens the device, and gfxplane learns from it which display the device
/// has. This holds only for this device, and the device's own answer overrules it.
#[derive(Debug, clap::Args)]
pub(crate) struct ProbeCommand {
    #[command(flatten)]
    probe: Probe,
    /// Start a paused QEMU that opens the device, for drivers that open it for no other program
    ///
    /// If a domain with the device is started meanwhile, the qemu hook ends this QEMU. Without the
    /// hook, the domain's start may fail. QEMU gets two minutes, unless --deadline is given.
    #[arg(
        long,
        value_enum,
        value_name = "PROGRAM",
        conflicts_with_all = ["all", "type", "path", "unasked"]
    )]
    pub(super) via: Option<Via>,
}

/// The program that opens the device instead of gfxplane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Via {
    /// QEMU, through libvirt
    Qemu,
}

/// The context and the options for all devices of one command.
struct Asker<'c> {
    context: &'c Context,
    fresh: bool,
    deadline: Duration,
    /// The QEMU to start; `None` if libvirt chooses.
    emulator: Option<PathBuf>,
}

impl ProbeCommand {
    /// Asks the devices, prints the answers, and announces new ones. Returns [`End::Refused`] if
    /// the display of a device is not known afterwards.
    ///
    /// # Errors
    /// The errors of [`Probe::run`]; QEMU can't be started (after the earlier answers were
    /// printed).
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        match self.via {
            None => self.probe.run(context, &prober()?, out),
            Some(Via::Qemu) => self.via_qemu(context, out),
        }
    }

    fn via_qemu(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let deadline = deadline(self.probe.deadline.unwrap_or(DEADLINE))?;
        context.refuse_recorded("a recorded host has no devices that a QEMU could open")?;
        context.refuse_remote()?;
        let ids = self.probe.named()?;
        let asker = Asker {
            context,
            fresh: self.probe.fresh,
            deadline,
            emulator: emulator::usual().into_iter().find(|path| path.is_file()),
        };
        let (mut rows, mut failed) = (Vec::new(), None);
        let progress = Progress::begin(context.quiet, "asking through QEMU");
        for id in ids {
            // The answers before a failure are kept, and shown.
            let outcome = match asker.ask(id) {
                Ok(outcome) => outcome,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            if let Err(warning) = announce(&context.root, id, outcome.written) {
                context.warn(&[warning]);
            }
            rows.push(row(id, outcome));
        }
        drop(progress);
        match failed {
            Some(error) if rows.is_empty() => Err(error),
            failed => {
                self.probe.print(&rows, out)?;
                failed.map_or_else(|| end(&rows), Err)
            }
        }
    }
}

impl Asker<'_> {
    fn ask(&self, id: DeviceId) -> anyhow::Result<Outcome> {
        let root = &self.context.root;
        let (sources, device) = Sources::read_device(root, id);
        self.context.warn(&sources.host.warnings);
        if let Err(error) = idle::are_there(root, &[id]) {
            let note = Some(error.to_string());
            return Ok(unknown(Reason::Vanished, Step::Find, note));
        }
        let Some(device) = device else {
            return Ok(unknown(Reason::Vanished, Step::Find, None));
        };
        if device.driver.is_none() {
            return Ok(unknown(Reason::NoDriver, Step::Find, None));
        }
        let circumstances = device.circumstances(&sources.host);
        let known = sources.memory.qemu.get(&id).filter(|said| {
            let is_learned = said
                .qemu
                .as_ref()
                .is_none_or(|qemu| qemu.learned_from.is_some());
            said.circumstances == circumstances && !is_learned && !self.fresh
        });
        if let Some(known) = known {
            return Ok(Outcome {
                from_record: true,
                ..self.answer(id, known, None)
            });
        }
        let rule = rule_for(&sources.rules, &sources.host, &device);
        if let Err(why) = may_open(&device, rule, Asked::ByName) {
            return Ok(unknown(Reason::NotAllowed, Step::Policy, why));
        }
        match run::qemu_directory(root) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(unknown(Reason::UnsafeState, Step::Lock, error.to_string()))
            }
            // Any other error is reported when the answer can't be kept.
            _ => self.try_it(id, circumstances),
        }
    }

    /// Returns what QEMU has said of a device, and keeps it if it tells the display. `said` is the
    /// message of a refusal; `None` if QEMU has started.
    fn keep(&self, id: DeviceId, circumstances: Circumstances, said: Option<&str>) -> Outcome {
        let root = &self.context.root;
        let display = said::display(said);
        if !display.is_known() {
            let reason = display.reason().cloned().unwrap_or(Reason::OpenFailed);
            let note = said.map(|text| text.replace('\n', "; "));
            return unknown(reason, Step::Open, note);
        }
        let qemu = ByQemu {
            version: self.qemu(),
            learned_from: None,
        };
        let record = Record::of_qemu(id, circumstances, display, qemu);
        let written = run::write_record(root, &record, None);
        // If the device is gone by now, no later event removes its record.
        if !root.device(id).exists() {
            let _ = run::forget(root, id);
        }
        Outcome {
            written: written.as_ref().ok().copied(),
            ..self.answer(id, &record, written.err().as_ref())
        }
    }

    /// Returns QEMU's answer. Its note mentions if a measurement of the device itself differs, or
    /// if the answer could not be kept (`unkept`).
    fn answer(&self, id: DeviceId, said: &Record, unkept: Option<&io::Error>) -> Outcome {
        let version = said.qemu.as_ref().and_then(|qemu| qemu.version.as_ref());
        let version = version.map(|version| format!(" {version}"));
        let mut note = format!("said by QEMU{}", version.unwrap_or_default());
        let (sources, device) = Sources::read_device(&self.context.root, id);
        let believed = device.map(|device| active(&sources, &device).finding);
        if let Some(finding) = believed
            && finding.facts.display != said.facts.display
            && finding.facts.display.is_answer()
            && finding
                .evidence
                .as_ref()
                .is_some_and(|e| e.method.is_measured())
        {
            note.push_str(&format!(
                "; the device itself answered {}, which counts more",
                display(&finding)
            ));
        }
        if let Some(error) = unkept {
            note.push_str(&format!("; this could not be kept: {error}"));
        }
        Outcome::unkept(Answer::of(said.facts.clone(), None), Some(note))
    }

    /// Has QEMU open the device as for a guest, with KVM if the host has it, and keeps the answer.
    /// If the device is in use, or its domain is being started, or QEMU takes too long, the outcome
    /// is an unknown display with the reason.
    fn try_it(&self, id: DeviceId, circumstances: Circumstances) -> anyhow::Result<Outcome> {
        let root = &self.context.root;
        let libvirt = &self.context.libvirt;
        let limit = Instant::now() + self.deadline;
        // Earlier versions drop the attribute silently, so that a start would show nothing.
        if matches!(id, DeviceId::Pci(_)) && !PCI_DISPLAY.is_in(&libvirt.version()?) {
            let note = "libvirt before 10.3 gives no PCI device a display, so QEMU can't tell";
            return Ok(unknown(Reason::NotAllowed, Step::Policy, note.to_owned()));
        }
        let mut kvm = OpenOptions::new();
        let has_kvm = kvm
            .read(true)
            .write(true)
            .open(root.join("dev/kvm"))
            .is_ok();
        let text = domain_with(id, has_kvm, self.emulator.as_deref());
        let copy = SmallCopy::of(self.context, &text, &Default::default());
        let copy = copy.expect("it is a domain");
        match copy.start_by(libvirt.as_ref(), limit) {
            Ok(Start::Starts) => Ok(self.keep(id, circumstances, None)),
            Ok(Start::Refused(message)) if said::is_of_accelerator(&message) => {
                let problem = format!("QEMU can't run a guest on this host: {message}");
                Err(Failure::Environment(problem).into())
            }
            Ok(Start::Refused(message)) => Ok(self.keep(id, circumstances, Some(&message))),
            Err(NotTried::Gone(why)) => Ok(unknown(
                Reason::Vanished,
                Step::Open,
                why.replace('\n', "; "),
            )),
            Err(error @ NotTried::Start(_)) => {
                Ok(unknown(Reason::InUse, Step::Lock, error.to_string()))
            }
            Err(NotTried::InUse(why)) => {
                Ok(unknown(Reason::InUse, Step::Open, why.replace('\n', "; ")))
            }
            Err(NotTried::Ours(why)) => Ok(unknown(Reason::InUse, Step::Lock, why)),
            Err(NotTried::Late(why)) => Ok(unknown(Reason::TimedOut, Step::Open, why)),
            Err(error) => Err(Failure::from(error).into()),
        }
    }

    /// Returns the version of the QEMU to start; `None` if it is not known.
    fn qemu(&self) -> Option<Version> {
        let emulator = self.emulator.as_deref()?;
        let ask = |emulator: &Path| self.context.domain_capabilities(emulator, true);
        let asking = Asking::Fresh(&ask);
        let mut warnings = Vec::new();
        let abilities = emulator::abilities(&self.context.root, emulator, asking, &mut warnings);
        self.context.warn(&warnings);
        abilities.qemu
    }
}

/// Returns the XML of a domain with one device and no other screen. libvirt accepts `display='on'`
/// only with graphics. VNC that listens nowhere is the simplest, and has no OpenGL.
fn domain_with(id: DeviceId, kvm: bool, emulator: Option<&Path>) -> String {
    let virt_type = if kvm { "kvm" } else { "qemu" };
    let emulator = emulator.map_or_else(String::new, |path| {
        format!(
            "<emulator>{}</emulator>",
            crate::xml::escape(&path.to_string_lossy())
        )
    });
    let graphics =
        "<graphics type='vnc'><listen type='none'/></graphics><video><model type='none'/></video>";
    let hostdev = match id {
        DeviceId::Mdev(uuid) => format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
             <address uuid='{uuid}'/></source></hostdev>"
        ),
        DeviceId::Pci(pci) => format!(
            "<hostdev mode='subsystem' type='pci' managed='no' display='on'><source>\
             <address domain='0x{:04x}' bus='0x{:02x}' slot='0x{:02x}' function='0x{:x}'/></source></hostdev>",
            pci.domain, pci.bus, pci.device, pci.function
        ),
    };
    format!(
        "<domain type='{virt_type}'><name>gfxplane</name><os><type>hvm</type></os>\
         <devices>{emulator}{graphics}{hostdev}</devices></domain>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::trial::reduce;
    use crate::predict::abilities::Abilities;
    use uuid::Uuid;

    #[test]
    fn what_libvirt_is_given() {
        for (id, kvm) in [
            ("c1a20000-0000-4000-8000-000000000002", false),
            ("0000:06:00.4", true),
        ] {
            let text = domain_with(id.parse().unwrap(), kvm, Some(Path::new("/q")));
            let xml = reduce(&text, "n", Uuid::nil(), &Abilities::default())
                .unwrap()
                .xml;
            for wanted in [
                "<listen type='none'/>",
                "display='on'",
                "<model type='none'/>",
                "<emulator>/q</emulator>",
                if kvm { "type='kvm'" } else { "type='qemu'" },
            ] {
                assert!(xml.contains(wanted), "{xml}");
            }
            assert!(
                !xml.contains("<gl") && !xml.contains("managed='yes'"),
                "{xml}"
            );
        }
    }
}
