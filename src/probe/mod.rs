//! Probes a device for its display. Of all modules, only this one opens devices.
//!
//! A driver may hang in its open, so a child does the work, and its parent waits only until a
//! deadline. The child (`gfxplane-probe --child ID`, [`child`]) holds the device's lock from before
//! the open until after the close. It reports each step before doing it, and at the end its
//! [`Answer`]. A child that does not end is killed and left behind. Nobody waits for it, because a
//! process in an uninterruptible sleep can't be killed.
//!
//! [`group`] and [`cdev`] are the two ways to open a device, each in two steps, so that a VM
//! ([`kvm`]) can be associated between them.

pub mod asking;
mod cdev;
pub mod child;
mod group;
pub mod instance;
mod ioctl;
mod kvm;
pub mod queries;
mod rights;

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::{Display, Facts, Reason};
use crate::device::id::DeviceId;
use crate::device::rules::{Open, Rule};
use crate::host::config::ProbePolicy;
use crate::host::sysfs::{Device, MdevType};
use crate::publish::inventory::{Sources, rule_for};

/// The result of probing one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The facts. If there was no answer, the display is unknown with a reason.
    pub facts: Facts,
    /// The interface through which the child opened the device, or tried to; `None` if it tried
    /// none.
    pub path: Option<OpenPath>,
    /// The step that failed; `None` if none did.
    pub step: Option<Step>,
    /// The name of the errno of the failed step, if it has one.
    pub errno: Option<String>,
}

/// A failed step, and what the failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step that failed.
    pub step: Step,
    /// The errno with which the step failed.
    pub errno: Errno,
    /// The reason for the unknown display, which follows from the step and the errno.
    pub reason: Reason,
}

impl Failure {
    fn new(step: Step, errno: Errno, reason: Reason) -> Self {
        Failure {
            step,
            errno,
            reason,
        }
    }
}

/// The open files that opening a device needs.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The group's file or the device's own node. The VM is associated through this file
    /// (`KVM_DEV_VFIO_FILE_ADD`).
    pub file: OwnedFd,
    /// The file that must also stay open: the container, or the iommufd.
    pub keep: OwnedFd,
}

/// The function to call with each step before doing it.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Step);

impl Answer {
    /// Makes the answer of a device that has answered all questions.
    pub(crate) fn of(facts: Facts, path: Option<OpenPath>) -> Self {
        Answer {
            facts,
            path,
            step: None,
            errno: None,
        }
    }

    /// Makes the answer for a step that failed. If the device needs a VM, the fact `kvm` is true.
    pub(crate) fn failed(failure: &Failure) -> Self {
        let mut answer = Answer::none(failure.reason.clone(), failure.step);
        answer.facts.kvm = failure.reason == Reason::NeedsVm;
        answer.errno = Some(errno_name(failure.errno));
        answer
    }

    /// Makes the answer for a failure without an errno.
    pub(crate) fn none(reason: Reason, step: Step) -> Self {
        Answer {
            step: Some(step),
            ..Answer::of(Facts::of(Display::Unknown(reason)), None)
        }
    }
}

/// The advice to users whose device is in use.
pub(crate) const IN_USE: &str = "stop the guest that uses it, or run gfxplane learn DOMAIN";

impl Answer {
    /// Returns a remark that explains a failure to the user, in addition to its reason, step and
    /// errno. Returns `None` if these are enough.
    pub(crate) fn remark(&self) -> Option<&'static str> {
        let (reason, step) = (self.facts.display.reason()?, self.step?);
        match reason {
            Reason::InUse if step == Step::Lock => Some("a domain that has it is being started"),
            Reason::InUse => Some(IN_USE),
            Reason::NeedsVm if step.is_kvm() => {
                Some("its driver needs a KVM VM, which can't be made here")
            }
            Reason::NeedsVm => Some("its driver wants a KVM VM, and did not accept an empty one"),
            Reason::OpenFailed if step.is_open() && self.errno.as_deref() == Some("EEXIST") => {
                Some("its driver says that the KVM VM already has such a device")
            }
            _ => None,
        }
    }
}

/// Returns the name of an errno, such as `EBUSY`; `UnknownErrno` for one without a name, such as
/// 524, which some drivers return.
pub(crate) fn errno_name(errno: Errno) -> String {
    format!("{errno:?}")
}

/// Returns the errno of an error of the standard library. An error without an errno, such as an
/// early end of a file, counts as EIO.
fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}

/// Returns a function that makes a failure of this step from an errno.
fn failed(step: Step) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::new(step, errno, meaning(step, errno))
}

/// Returns what the error of a failed step means.
///
/// EBUSY: somebody has the group open (Linux drivers/vfio/group.c, `vfio_group_fops_open`,
/// `vfio_device_block_group`) or the device by its own node, or the driver reports it. For a
/// physical device it may also mean that another device of its group has a host driver (iommu.c,
/// `iommu_device_claim_dma_owner`), but physical devices are opened only when somebody names them.
///
/// EPERM while attaching the group or binding the device does not mean that we lack rights: type1
/// and iommufd return it for a device without interrupt remapping (iommufd/device.c,
/// `iommufd_device_bind`).
fn meaning(step: Step, errno: Errno) -> Reason {
    let is_forbidden = matches!(errno, Errno::EACCES | Errno::EPERM);
    match (step, errno) {
        // A VM is created only for a driver that needs one.
        (step, _) if step.is_kvm() => Reason::NeedsVm,
        (Step::Bind, Errno::EACCES) => Reason::Permission,
        (
            Step::Lock | Step::Container | Step::Iommufd | Step::Group | Step::Cdev | Step::Open,
            _,
        ) if is_forbidden => Reason::Permission,
        (Step::Container | Step::Iommufd, _) => Reason::NoVfio,
        (Step::Group | Step::Attach | Step::Open | Step::Bind, Errno::EBUSY) => Reason::InUse,
        (Step::Group | Step::Cdev, Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            Reason::NoDriver
        }
        // kvmgt found no KVM VM (i915/gvt/kvmgt.c, `intel_vgpu_open_device`).
        (Step::Open | Step::Bind, Errno::ESRCH) => Reason::NeedsVm,
        (step, Errno::ENODEV) if step >= Step::Open => Reason::Vanished,
        (step, _) if step >= Step::Info => Reason::QueryFailed,
        _ => Reason::OpenFailed,
    }
}

/// Opens a device's file for reading and writing.
fn open(path: &Path) -> Result<File, Errno> {
    let mut options = File::options();
    let file = options.read(true).write(true).open(path);
    file.map_err(|error| errno_of(&error))
}

/// The occasion of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The user named this device.
    ByName,
    /// Nobody named it (udev, `--all`), so rules and the policy decide.
    Unasked(ProbePolicy),
}

/// Returns the active devices that may be opened unasked, according to rules and settings.
pub fn opened_unasked(sources: &Sources, policy: ProbePolicy) -> Vec<DeviceId> {
    let devices = sources.host.devices.iter().filter(|device| {
        let rule = rule_for(&sources.rules, &sources.host, device);
        may_open(device, rule, Asked::Unasked(policy)).is_ok()
    });
    devices.map(|device| device.id).collect()
}

/// Checks whether a device may be opened. The error is the reason why not.
///
/// Three limits apply whatever the rules say:
/// * A device with a `device_api` other than vfio-pci is never opened, because it has no ioctl that
///   asks for a display (`VFIO_DEVICE_QUERY_GFX_PLANE`).
/// * A PCI device on a driver of vfio-pci's family is never opened: this would reset the device,
///   and the driver does not have the ioctl.
/// * Any other PCI device is opened only if the user names it.
///
/// For all other devices, the rule and the policy decide.
pub(crate) fn may_open(device: &Device, rule: Option<&Rule>, asked: Asked) -> Result<(), String> {
    has_displays(device.device_api.as_deref())?;
    if let DeviceId::Pci(_) = device.id {
        let driver = device.driver.as_deref().unwrap_or_default();
        if driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci") {
            return Err(format!(
                "opening it would reset it, and {driver} has no display to ask for"
            ));
        }
        if matches!(asked, Asked::Unasked(_)) {
            return Err("a PCI device is opened only if you name it".into());
        }
    }
    let name = rule.map_or("", |rule| rule.name.as_str());
    match (rule.map(|rule| rule.open), asked) {
        (Some(Open::Never), _) => not_forbidden(rule),
        (_, Asked::ByName) => Ok(()),
        (_, Asked::Unasked(ProbePolicy::Never)) => Err("the policy is probe = \"never\"".into()),
        (Some(Open::Safe), _) | (None, Asked::Unasked(ProbePolicy::All)) => Ok(()),
        (Some(Open::Named), _) => Err(format!("rule {name} allows to open it only if you name it")),
        (None, Asked::Unasked(ProbePolicy::Known)) => {
            Err("no rule says that it is safe to open: name it, or set probe = \"all\"".into())
        }
    }
}

/// Checks whether a temporary device of the named type may be opened. It may not if the
/// `device_api` of the type is something other than vfio-pci, or if a rule forbids opening it. The
/// error is the reason.
pub(crate) fn may_open_type(of_type: &MdevType, rule: Option<&Rule>) -> Result<(), String> {
    has_displays(of_type.device_api.as_deref())?;
    not_forbidden(rule)
}

fn has_displays(device_api: Option<&str>) -> Result<(), String> {
    match device_api {
        None | Some("vfio-pci") => Ok(()),
        Some(api) => Err(format!(
            "its device_api is {api}, which has no display to ask for"
        )),
    }
}

fn not_forbidden(rule: Option<&Rule>) -> Result<(), String> {
    match rule {
        Some(rule) if rule.open == Open::Never => {
            Err(format!("rule {} forbids to open it", rule.name))
        }
        _ => Ok(()),
    }
}

/// The options of the child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// True if the driver is known to need a KVM VM: the child then associates one before it opens
    /// the device. Otherwise the child does so only if the driver refuses the open with ESRCH.
    pub kvm: bool,
    /// The only interface to try; `None` for the first one that the kernel offers.
    pub path: Option<OpenPath>,
}

impl Manner {
    /// Returns the options as arguments of the child.
    fn to_arguments(self) -> impl Iterator<Item = String> {
        let kvm = self.kvm.then(|| "--kvm".to_owned());
        let path = self.path.map(|path| format!("--path={path}"));
        kvm.into_iter().chain(path)
    }

    /// Reads the options from the arguments of the child; `None` if an argument is unknown.
    pub fn from_arguments(arguments: &[&str]) -> Option<Self> {
        let mut manner = Manner::default();
        for argument in arguments {
            match *argument {
                "--kvm" => manner.kvm = true,
                _ => manner.path = Some(argument.strip_prefix("--path=")?.parse().ok()?),
            }
        }
        Some(manner)
    }
}

/// Probes one device through a child, and waits for the answer at most for `deadline`. `prober` is
/// the path of gfxplane-probe, which the child runs.
pub(crate) fn ask(prober: &Path, id: DeviceId, deadline: Duration, manner: Manner) -> Answer {
    let limit = Instant::now() + deadline;
    match Child::start(prober, id, manner) {
        Ok(mut child) => {
            let answer = child.listen(limit);
            child.end();
            answer
        }
        Err(error) => Answer::failed(&failed(Step::Spawn)(errno_of(&error))),
    }
}

/// A running child. [`child`] describes its output.
struct Child {
    process: process::Child,
    /// The child's stdout, which carries the answer.
    answer: PipeReader,
    /// The child's stderr, which carries the steps. They all fit into the pipe, so the child never
    /// waits for a reader.
    steps: PipeReader,
}

impl Child {
    fn start(prober: &Path, id: DeviceId, manner: Manner) -> io::Result<Self> {
        let ((answer, say), (steps, tell)) = (io::pipe()?, io::pipe()?);
        let process = Command::new(prober)
            .args(["--child", &id.to_string(), &process::id().to_string()])
            .args(manner.to_arguments())
            // The child must not inherit udev's pipes, because udev waits until they are closed.
            .stdin(Stdio::null())
            .stdout(say)
            .stderr(tell)
            .spawn()?;
        Ok(Child {
            process,
            answer,
            steps,
        })
    }

    fn listen(&mut self, limit: Instant) -> Answer {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match wait(&self.answer, limit) {
                Ok(true) => {}
                Ok(false) => return Answer::none(Reason::TimedOut, self.last_step()),
                Err(errno) => {
                    let step = self.last_step();
                    return Answer::failed(&Failure::new(step, errno, Reason::QueryFailed));
                }
            }
            match self.answer.read(&mut buffer) {
                // The child ended without an answer, because it crashed or somebody killed it.
                Ok(0) | Err(_) => return Answer::none(Reason::QueryFailed, self.last_step()),
                Ok(count) => said.extend_from_slice(&buffer[..count]),
            }
            if let Some(end) = said.iter().position(|byte| *byte == b'\n') {
                return serde_json::from_slice(&said[..end])
                    .unwrap_or_else(|_| Answer::none(Reason::QueryFailed, self.last_step()));
            }
        }
    }

    /// Returns the last step that the child reported; [`Step::Spawn`] if none. Ignores a panic's
    /// message.
    fn last_step(&mut self) -> Step {
        // All steps, some of them reported twice, have about 300 bytes.
        let mut told = [0; 4096];
        let count = match wait(&self.steps, Instant::now()) {
            Ok(true) => self.steps.read(&mut told).unwrap_or(0),
            Ok(false) | Err(_) => 0,
        };
        let words = told[..count].split_inclusive(|byte| *byte == b'\n');
        words
            .filter_map(|line| Step::from_word(std::str::from_utf8(line).ok()?.strip_suffix('\n')?))
            .next_back()
            .unwrap_or(Step::Spawn)
    }

    /// Waits for the child's end, but no longer than a healthy child needs. Then kills the child,
    /// and leaves it behind.
    fn end(&mut self) {
        let patience = Instant::now() + Duration::from_millis(100);
        // The child's end closes the pipe. After that it needs only microseconds.
        let _ = wait(&self.answer, patience);
        while let Ok(None) = self.process.try_wait() {
            if Instant::now() >= patience {
                let _ = self.process.kill();
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits until there is something to read or the other end is closed. Returns `false` if neither
/// has happened by `limit`.
fn wait(pipe: &PipeReader, limit: Instant) -> nix::Result<bool> {
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        // Rounds up, because a poll of 0 ms just before the deadline would spin.
        let timeout =
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if Instant::now() >= limit => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests;
