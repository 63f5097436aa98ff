//! The verb `probe` of `gfxplane`, and all of `gfxplane-probe` that a person types.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use crate::cli::{End, GlobalArgs, json, seconds};
use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::{Display, Facts, Reason};
use crate::device::id::DeviceId;
use crate::host::config;
use crate::host::{Root, Warning, settings, sysfs};
use crate::libvirt::{Context, Failure};
use crate::probe::asking::{Outcome, Request, announce, ask_and_keep};
use crate::probe::instance::{Instance, clean_up};
use crate::probe::{Asked, may_open_type};
use crate::publish::export::said;
use crate::publish::inventory::{Sources, rule_for_type};

/// The program that opens devices.
const PROBER: &str = "gfxplane-probe";

/// The number of devices that are asked at a time, so that a driver that hangs does not hold up the
/// others.
const AT_A_TIME: usize = 8;

/// Ask vfio devices what display they have.
///
/// Exit codes: 0 all devices answered, 1 refused or unknown, 2 wrong usage, 3 the environment lacks
/// something, 4 a fault in gfxplane.
///
/// udev runs "gfxplane-probe --udev NAME", which prints the properties of a device and may ask it
/// first, and "gfxplane-probe --forget NAME", which removes its record. Neither takes another
/// option.
#[derive(Debug, clap::Parser)]
#[command(name = "gfxplane-probe", version)]
pub struct Arguments {
    /// The options that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The devices, and how to ask them.
    #[command(flatten)]
    pub probe: Probe,
}

/// Ask devices what display they have
///
/// Opens a device for a moment. If the device is in use, this fails and disturbs nobody. The answer
/// is kept until the host reboots, the device is removed, or its driver changes.
#[derive(Debug, clap::Args)]
pub struct Probe {
    /// A UUID, a PCI address, or libvirt's name of the node device
    #[arg(value_name = "DEVICE", required_unless_present_any = ["all", "type"])]
    devices: Vec<String>,
    /// Ask every device that rules and settings allow gfxplane to open by itself
    #[arg(long, conflicts_with_all = ["devices", "type"])]
    all: bool,
    /// Ask a type of mdevs (see list --types) instead of a device; needs --instantiate
    #[arg(
        long = "type",
        id = "type",
        value_name = "PARENT/TYPE",
        requires = "instantiate",
        conflicts_with = "devices"
    )]
    of_type: Option<String>,
    /// Create a device of the type, ask it, and remove it again
    #[arg(long, requires = "type")]
    instantiate: bool,
    /// Create the device even if no more devices of this or another type can then be created
    #[arg(long, requires = "instantiate")]
    force: bool,
    /// Ask the device even if its earlier answer is still valid
    #[arg(long)]
    pub(super) fresh: bool,
    /// Open the device only through this interface: group (/dev/vfio/GROUP), or cdev (its own node,
    /// with iommufd)
    #[arg(long, value_name = "group|cdev")]
    path: Option<OpenPath>,
    /// Open only devices that gfxplane may open by itself (for the daemon)
    #[arg(long, hide = true)]
    unasked: bool,
    /// Print JSON, with everything that the devices answered
    #[arg(long)]
    pub(super) json: bool,
    /// Wait at most this long for a driver's answer
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) deadline: Option<f64>,
}

/// The JSON's entry about one device.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: DeviceId,
    #[serde(flatten)]
    facts: Facts,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<OpenPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<String>,
    from_record: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Probe {
    /// Probes devices through `prober`, prints the answers, and announces new ones. Returns
    /// [`End::Refused`] if a device does not answer.
    ///
    /// # Errors
    /// A text names no device; a temporary device can't be made; the host lacks what all the probes
    /// need; the output can't be written.
    pub fn run(
        &self,
        context: &Context,
        prober: &Path,
        out: &mut dyn Write,
    ) -> anyhow::Result<End> {
        let mut warnings = Vec::new();
        let config = settings::config(&context.root, &mut warnings);
        let deadline = match self.deadline {
            Some(seconds) => config::deadline(seconds)
                .map_err(|e| Failure::Usage(format!("--deadline is {e}")))?,
            None => config.deadline,
        };
        // A killed run may have left devices.
        warnings.extend(clean_up(&context.root, prober, deadline).err());
        let instance = match &self.of_type {
            Some(of_type) => {
                let limit = Instant::now() + deadline;
                Some(self.instantiate(&context.root, prober, of_type, limit)?)
            }
            None => None,
        };
        let (ids, asked) = if let Some(instance) = &instance {
            (vec![instance.id], Asked::ByName)
        } else if self.all {
            let host = sysfs::read(&context.root, &[]);
            warnings.extend(host.warnings);
            let ids = host.devices.iter().map(|device| device.id).collect();
            (ids, Asked::Unasked(config.probe))
        } else if self.unasked {
            (self.named()?, Asked::Unasked(config.probe))
        } else {
            (self.named()?, Asked::ByName)
        };
        let request = Request {
            prober,
            asked,
            fresh: self.fresh,
            deadline,
            path: self.path,
        };
        let outcomes = ask_all(context, &ids, &request, &mut warnings);
        for (id, outcome) in ids.iter().zip(&outcomes) {
            // A device that is removed at once is not announced.
            if instance.is_none() {
                warnings.extend(announce(&context.root, *id, outcome.written).err());
            }
        }
        if let Some(instance) = instance {
            let path = context.root.device(instance.id);
            if !instance.end(Instant::now() + deadline) {
                let problem = "this temporary device is not removed yet, because its driver still holds it; it goes away when the driver releases it, or a later run removes it";
                warnings.push(Warning::new(path, problem));
            }
        }
        context.warn(&warnings);
        // `--all` does not show devices that the policy leaves alone.
        let shown = ids.into_iter().zip(outcomes);
        let shown = shown.filter(|(_, o)| !self.all || reason(o) != Some(&Reason::NotAllowed));
        let rows: Vec<Row> = shown.map(|(id, outcome)| row(id, outcome)).collect();
        self.print(&rows, out)?;
        end(&rows)
    }

    /// Returns the devices that the user names.
    ///
    /// # Errors
    /// A text names no device.
    pub(super) fn named(&self) -> Result<Vec<DeviceId>, Failure> {
        let id = |text: &String| DeviceId::from_user(text);
        let ids: Result<_, _> = self.devices.iter().map(id).collect();
        ids.map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Prints the devices' answers as text or JSON.
    pub(super) fn print(&self, rows: &[Row], out: &mut dyn Write) -> anyhow::Result<()> {
        if self.json {
            json(out, &json!({"probes": rows}))
        } else {
            if rows.is_empty() {
                writeln!(
                    out,
                    "no device may be opened unasked; gfxplane list shows all devices, and gfxplane doctor what is missing"
                )?;
            }
            let mut lines = rows.iter();
            Ok(lines.try_for_each(|row| writeln!(out, "{}", sentence(row)))?)
        }
    }

    /// Creates a temporary device of the type that `--type` names (`text`).
    ///
    /// # Errors
    /// No parent here has the type; the host is a recorded one; the device may not be opened, or
    /// can't be created.
    fn instantiate(
        &self,
        root: &Root,
        prober: &Path,
        text: &str,
        limit: Instant,
    ) -> anyhow::Result<Instance> {
        let (parent, type_id) = text.split_once('/').ok_or_else(|| {
            Failure::Usage(format!(
                "--type {text:?}: expected PARENT/TYPE, as in list --types"
            ))
        })?;
        let sources = Sources::read(root);
        let known = sources.host.parents.iter().find(|p| p.name == parent);
        let of_type =
            known.and_then(|known| known.types.iter().find(|of_type| of_type.id == type_id));
        let Some((known, of_type)) = known.zip(of_type) else {
            let problem = format!("--type {text:?}: no parent here has it");
            return Err(Failure::Environment(problem).into());
        };
        if root.is_recorded() {
            let problem = "nothing can be made on a recorded host";
            return Err(Failure::Environment(problem.into()).into());
        }
        let problem = |problem: &dyn std::fmt::Display| format!("--type {text:?}: {problem}");
        let rule = rule_for_type(&sources, Some(known), type_id, Some(of_type));
        if let Err(why) = may_open_type(of_type, rule) {
            let why = format!("not created, because it may not be opened: {why}");
            return Err(Failure::Refused(problem(&why)).into());
        }
        let wanted = (parent, type_id);
        let made = Instance::make(root, prober, wanted, &known.types, self.force, limit);
        made.map_err(|error| match error.is_refusal() {
            true => Failure::Refused(problem(&error)).into(),
            false => Failure::Environment(problem(&error)).into(),
        })
    }
}

fn ask_all(
    context: &Context,
    ids: &[DeviceId],
    request: &Request<'_>,
    warnings: &mut Vec<Warning>,
) -> Vec<Outcome> {
    let ask = |id: &DeviceId| {
        let (sources, device) = Sources::read_device(&context.root, *id);
        let outcome = ask_and_keep(&context.root, &sources, *id, device.as_ref(), request);
        (outcome, sources.host.warnings)
    };
    let next = AtomicUsize::new(0);
    let (send, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(ids.len()) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(id) = ids.get(place) else { return };
                    let (outcome, warnings) = ask(id);
                    let _ = send.send((place, outcome, warnings));
                }
            });
        }
    });
    drop(send);
    let mut answers: Vec<_> = answers.iter().collect();
    answers.sort_by_key(|(place, _, _)| *place);
    let mut outcomes = Vec::new();
    for (_, outcome, more) in answers {
        outcomes.push(outcome);
        // All devices are read with the same rules, and so with the same warnings.
        for warning in more {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    outcomes
}

/// Returns the path of the program that opens devices: next to the running program, or in `bin`.
///
/// # Errors
/// The program is not there.
pub fn prober() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("finding this program's own file")?;
    let beside = me.with_file_name(PROBER);
    // The program with libvirt is installed in libexec.
    let installed = me
        .ancestors()
        .nth(3)
        .map(|prefix| prefix.join("bin").join(PROBER));
    let found = [Some(beside.clone()), installed]
        .into_iter()
        .flatten()
        .find(|path| path.exists());
    let problem = format!("{} is missing: install gfxplane whole", beside.display());
    Ok(found.ok_or(Failure::Environment(problem))?)
}

fn reason(outcome: &Outcome) -> Option<&Reason> {
    outcome.answer.facts.display.reason()
}

pub(super) fn row(id: DeviceId, outcome: Outcome) -> Row {
    let answer = outcome.answer;
    Row {
        id,
        note: outcome.note.or_else(|| answer.remark().map(str::to_owned)),
        facts: answer.facts,
        path: answer.path,
        step: answer.step,
        errno: answer.errno,
        from_record: outcome.from_record,
    }
}

/// Describes one device's answer in one line, for people to read.
fn sentence(row: &Row) -> String {
    let mut text = format!("{}: {}", row.id, said(&row.facts));
    if let Some(step) = row.step {
        text = format!("{text}, step {step}");
    }
    if let Some(errno) = &row.errno {
        text = format!("{text}: {errno}");
    }
    if row.from_record {
        text.push_str(" [from its record]");
    }
    match &row.note {
        Some(note) => format!("{text}; {note}"),
        None => text,
    }
}

/// Describes what the kernel lacks to open a device through `path`.
fn no_vfio(path: Option<OpenPath>, step: Option<Step>) -> &'static str {
    match (path, step) {
        (Some(OpenPath::Cdev), Some(Step::Iommufd)) => {
            "there is no /dev/iommu: the kernel needs CONFIG_IOMMUFD, and module iommufd loaded"
        }
        (Some(OpenPath::Cdev), _) => {
            "the kernel gives vfio devices no nodes of their own: it needs CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV (Linux 6.6)"
        }
        (_, Some(Step::Find)) => {
            "the kernel has no vfio groups: it needs CONFIG_VFIO_GROUP, or --path cdev"
        }
        _ => "the kernel offers no vfio container: is vfio_iommu_type1 loaded?",
    }
}

/// Returns how the command ends: done if all devices have answered, or else refused.
///
/// # Errors
/// The host lacks what is needed to ask any of them.
pub(super) fn end(rows: &[Row]) -> anyhow::Result<End> {
    let lacking = |row: &Row| match &row.facts.display {
        Display::Unknown(Reason::Permission) => Some("no permission to open it: run as root"),
        Display::Unknown(Reason::NoVfio) => Some(no_vfio(row.path, row.step)),
        Display::Unknown(Reason::UnsafeState) => {
            Some("/run/gfxplane is not root's alone: remove it")
        }
        Display::Unknown(Reason::Vanished) => {
            Some("this host has no such device: gfxplane list names its vfio devices")
        }
        _ => None,
    };
    if !rows.is_empty() && rows.iter().all(|row| lacking(row).is_some()) {
        let problems = rows
            .iter()
            .filter_map(|row| Some(format!("{}: {}", row.id, lacking(row)?)));
        return Err(Failure::Environment(problems.collect::<Vec<_>>().join("; ")).into());
    }
    let all_known = rows.iter().all(|row| row.facts.display.is_known());
    Ok(End::of(all_known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Answer;

    /// Returns the row for a device's failure.
    fn row_of(answer: &Answer) -> Row {
        let id = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        row(id, Outcome::unkept(answer.clone(), None))
    }

    #[test]
    fn a_kernel_without_the_way_that_was_asked_for() {
        for (path, step, missing) in [
            (OpenPath::Cdev, Step::Find, "CONFIG_VFIO_DEVICE_CDEV"),
            (OpenPath::Cdev, Step::Iommufd, "CONFIG_IOMMUFD"),
            (OpenPath::Group, Step::Find, "CONFIG_VFIO_GROUP"),
            (OpenPath::Group, Step::Container, "vfio_iommu_type1"),
        ] {
            let answer = Answer {
                path: Some(path),
                ..Answer::none(Reason::NoVfio, step)
            };
            let error = end(&[row_of(&answer)]).unwrap_err();
            assert!(error.to_string().contains(missing), "{error}");
            let failure = error.downcast_ref::<Failure>();
            assert!(matches!(failure, Some(Failure::Environment(_))), "exit 3");
        }
    }

    #[test]
    fn a_device_that_could_not_be_asked() {
        for (reason, step, errno, told) in [
            (
                Reason::NeedsVm,
                Step::Kvm,
                "ENOENT",
                "unknown (needs-vm), step kvm: ENOENT; its driver needs a KVM VM, which can't be made here",
            ),
            (
                Reason::InUse,
                Step::Group,
                "EBUSY",
                "unknown (in-use), step group: EBUSY; stop the guest that uses it, or run gfxplane learn DOMAIN",
            ),
        ] {
            let mut answer = Answer {
                errno: Some(errno.into()),
                ..Answer::none(reason, step)
            };
            answer.facts.kvm = true;
            let row = row_of(&answer);
            assert_eq!(sentence(&row), format!("{}: {told}", row.id));
            assert_eq!(end(&[row]).unwrap(), End::Refused);
        }
    }
}
