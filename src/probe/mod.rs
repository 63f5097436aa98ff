//! Asking a device: the other of the two places that touch the machine, and the only one that
//! opens devices.
//!
//! A driver may hang in its open, so a child does the work and the asker waits for it until a
//! deadline, never longer. The child ([`Prober`]: `gfxplane-probe --child ID`, or a copy of a
//! gfxplane-probe) holds the device's lock from before the open until after the close, tells each
//! step before it takes it, and ends with its [`Answer`]. One that does not end is killed and left
//! behind; it is not waited for, because a process in an uninterruptible sleep can't be killed.
//!
//! * [`asking`]: one question with all that belongs to it: policy, record, announcement.
//! * [`child`]: what the child does.
//! * [`group`]: opening over container and group. Other ways are further [`Opener`]s.
//! * [`device`]: the questions to an opened device.
//! * `fork`: the child as a copy of this process, with `unsafe` of its own.
//! * [`instance`]: a device made for the sake of one question.
//! * [`ioctl`]: the kernel's interface, with the other `unsafe`.
//! * [`running`]: asking through the descriptor of the guest that has the device, with `unsafe` of
//!   its own.

pub mod asking;
pub mod child;
pub mod device;
mod fork;
pub mod group;
pub mod instance;
pub mod ioctl;
pub mod running;

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use serde::{Deserialize, Serialize};

use crate::config::ProbePolicy;
use crate::evidence::{OpenPath, Step};
use crate::facts::{Display, Facts, Reason};
use crate::host::Root;
use crate::host::sysfs::Device;
use crate::names::DeviceId;
use crate::rules::{Open, Rule};

/// What came of asking one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it said; an unknown display with its reason if nothing.
    pub facts: Facts,
    /// How it was opened, if it was.
    pub path: Option<OpenPath>,
    /// The step that failed.
    pub step: Option<Step>,
    /// The name of its errno.
    pub errno: Option<String>,
    /// What more there is to say, for people; no part of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A step that failed, and what that means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub step: Step,
    /// With which error.
    pub errno: Errno,
    /// What that says of the device.
    pub reason: Reason,
}

/// What stands ready to have the device opened.
#[derive(Debug)]
pub struct Prepared {
    /// The group's file or the device's own node: what `KVM_DEV_VFIO_FILE_ADD` takes, which some
    /// drivers want before the open.
    pub file: OwnedFd,
    /// What else must stay open: the container, or the iommufd.
    pub keep: OwnedFd,
}

/// A way to open a device, in two steps, so that a VM can be associated between them.
pub trait Opener {
    /// Which way.
    fn path(&self) -> OpenPath;

    /// Whether the kernel offers it for this device.
    fn fits(&self, root: &Root, id: DeviceId) -> bool;

    /// Everything up to the open, telling each step before it is taken.
    ///
    /// # Errors
    /// The step that failed, its errno and what it means.
    fn prepare(&self, root: &Root, id: DeviceId, tell: Tell<'_>) -> Result<Prepared, Failure>;

    /// Opens the device: what its driver's own open does happens here.
    ///
    /// # Errors
    /// The step that failed, its errno and what it means.
    fn open(&self, prepared: &Prepared, id: DeviceId, tell: Tell<'_>) -> Result<File, Failure>;
}

/// Is told each step before it is taken.
pub type Tell<'a> = &'a mut dyn FnMut(Step);

impl Answer {
    /// No answer, because a step failed.
    #[must_use]
    pub fn failed(failure: &Failure) -> Self {
        Answer {
            facts: Facts {
                kvm: failure.reason == Reason::NeedsVm,
                ..Facts::of(Display::Unknown(failure.reason.clone()))
            },
            path: None,
            step: Some(failure.step),
            errno: Some(errno_name(failure.errno)),
            note: None,
        }
    }

    /// No answer, for a reason that is no errno.
    #[must_use]
    pub fn none(reason: Reason, step: Step) -> Self {
        Answer {
            facts: Facts::of(Display::Unknown(reason)),
            path: None,
            step: Some(step),
            errno: None,
            note: None,
        }
    }
}

/// The name of an errno: `EBUSY`. (524, which some drivers return, has none in libc.)
#[must_use]
pub fn errno_name(errno: Errno) -> String {
    format!("{errno:?}")
}

/// Who wants a device to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Somebody named this device.
    ByName,
    /// Nobody did (udev, `--all`): the policy decides.
    Unasked(ProbePolicy),
}

/// In which cases a device is left alone, or asked all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Leave it alone while a domain that has it is being started: see [`child::run`].
    pub unless_starting: bool,
    /// If it is in use, ask through the descriptor of the guest that has it: see [`running`].
    pub running: bool,
}

impl Manner {
    /// The words for it on the child's command line.
    fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [
            (self.unless_starting, UNLESS_STARTING),
            (self.running, RUNNING),
        ];
        words
            .into_iter()
            .filter(|(said, _)| *said)
            .map(|(_, word)| word)
    }

    /// What these words of a child's command line say; `None` if one is unknown.
    #[must_use]
    pub fn from_words(words: &[&str]) -> Option<Self> {
        let mut manner = Manner::default();
        for word in words {
            match *word {
                UNLESS_STARTING => manner.unless_starting = true,
                RUNNING => manner.running = true,
                _ => return None,
            }
        }
        Some(manner)
    }
}

const UNLESS_STARTING: &str = "--unless-starting";
const RUNNING: &str = "--running";

/// Whether a device may be opened; if not, why in a sentence.
///
/// Whatever the rules say: never a `device_api` other than vfio-pci (there is no such ioctl),
/// never a PCI device on a driver of vfio-pci's family (opening resets it, and there is no such
/// ioctl either), and no PCI device unasked. Else what rule and policy say.
///
/// # Errors
/// The reason, for people.
pub fn may_open(device: &Device, rule: Option<&Rule>, asked: Asked) -> Result<(), String> {
    if let Some(api) = device
        .device_api
        .as_deref()
        .filter(|api| *api != "vfio-pci")
    {
        return Err(format!(
            "its device_api is {api}, which has no display to ask for"
        ));
    }
    if let DeviceId::Pci(_) = device.id {
        let driver = device.driver.as_deref().unwrap_or_default();
        if driver.ends_with("vfio-pci") || driver.ends_with("vfio_pci") {
            return Err(format!(
                "opening it would reset it, and {driver} has no display to ask for"
            ));
        }
        if matches!(asked, Asked::Unasked(_)) {
            return Err("a PCI device is opened only when it is named".into());
        }
    }
    let name = rule.map_or("", |rule| rule.name.as_str());
    match (rule.map(|rule| rule.open), asked) {
        (Some(Open::Never), _) => Err(format!("rule {name} says never to open it")),
        (_, Asked::ByName) => Ok(()),
        (_, Asked::Unasked(ProbePolicy::Never)) => Err("the policy is probe = \"never\"".into()),
        (Some(Open::Safe), _) | (None, Asked::Unasked(ProbePolicy::All)) => Ok(()),
        (Some(Open::Named), _) => Err(format!("rule {name} says to open it only when it is named")),
        (None, Asked::Unasked(ProbePolicy::Known)) => {
            Err("no rule calls it safe to open: name it, or set probe = \"all\"".into())
        }
    }
}

/// What opens devices: a process of its own, which may hang and is then left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prober {
    /// This program (`gfxplane-probe`), run as `PROGRAM --child ID PID`.
    Program(PathBuf),
    /// A copy of this process, which has nothing to load; if it has several threads, the program.
    Copy(PathBuf),
}

/// Asks one device through a child, and takes at most `deadline`.
#[must_use]
pub fn ask(
    root: &Root,
    prober: &Prober,
    id: DeviceId,
    deadline: Duration,
    manner: Manner,
) -> Answer {
    let limit = Instant::now() + deadline;
    let child = match prober {
        Prober::Program(program) => Running::program(program, id, manner),
        Prober::Copy(program) => match Running::copy(root, id, manner) {
            Ok(None) => Running::program(program, id, manner),
            Ok(Some(child)) => Ok(child),
            Err(error) => Err(error),
        },
    };
    match child {
        Ok(mut child) => {
            let answer = child.listen(limit);
            child.end();
            answer
        }
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
            Answer::failed(&Failure {
                step: Step::Spawn,
                errno,
                reason: Reason::OpenFailed,
            })
        }
    }
}

/// A child that asks. What it says is in [`child`].
struct Running {
    pid: Pid,
    /// Its stdout: the answer.
    answer: PipeReader,
    /// Its stderr: the steps. Nobody waits for these, so that the child is not held up.
    steps: PipeReader,
}

impl Running {
    fn program(program: &Path, id: DeviceId, manner: Manner) -> io::Result<Self> {
        let ((answer, say), (steps, tell)) = (io::pipe()?, io::pipe()?);
        let child = Command::new(program)
            .args(["--child", &id.to_string(), &std::process::id().to_string()])
            .args(manner.words())
            // Not udev's: it waits for whoever holds its pipes.
            .stdin(Stdio::null())
            .stdout(say)
            .stderr(tell)
            .spawn()?;
        Ok(Running {
            pid: Pid::from_raw(child.id().cast_signed()),
            answer,
            steps,
        })
    }

    /// `None`: this process can't be copied.
    fn copy(root: &Root, id: DeviceId, manner: Manner) -> io::Result<Option<Self>> {
        let asker = getpid();
        Self::in_a_copy(|| {
            fork::close_others();
            child::run(root, id, asker.as_raw(), manner);
        })
    }

    /// Does something in a copy of this process; `None`: it can't be copied.
    fn in_a_copy(run: impl FnOnce()) -> io::Result<Option<Self>> {
        let ((answer, say), (steps, tell)) = (io::pipe()?, io::pipe()?);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let pid = fork::in_a_copy(move || {
            let standard = dup2_stdin(&null)
                .and_then(|()| dup2_stdout(&say))
                .and_then(|()| dup2_stderr(&tell));
            drop((null, say, tell));
            if standard.is_ok() {
                run();
            }
        })?;
        Ok(pid.map(|pid| Running { pid, answer, steps }))
    }

    fn listen(&mut self, limit: Instant) -> Answer {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match wait(&self.answer, limit) {
                Ok(true) => {}
                Ok(false) => return Answer::none(Reason::TimedOut, self.last_step()),
                Err(errno) => {
                    return Answer::failed(&Failure {
                        step: self.last_step(),
                        errno,
                        reason: Reason::QueryFailed,
                    });
                }
            }
            match self.answer.read(&mut buffer) {
                // It ended without an answer: it crashed, or somebody killed it.
                Ok(0) | Err(_) => return Answer::none(Reason::QueryFailed, self.last_step()),
                Ok(count) => said.extend_from_slice(&buffer[..count]),
            }
            if let Some(end) = said.iter().position(|byte| *byte == b'\n') {
                return serde_json::from_slice(&said[..end])
                    .unwrap_or_else(|_| Answer::none(Reason::QueryFailed, self.last_step()));
            }
        }
    }

    /// The step that it was about to take when it was last heard of. A panic's words on stderr are
    /// no step.
    fn last_step(&mut self) -> Step {
        // All steps together have some 200 bytes.
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

    /// Ends the child now; nobody has waited for it yet, so its number is still its own.
    fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Sees to it that the child ends; waits for it only as long as one that is well takes.
    fn end(&mut self) {
        let patience = Instant::now() + Duration::from_millis(100);
        // Its end closes the pipe; then it is a matter of microseconds.
        let _ = wait(&self.answer, patience);
        let mut killed = false;
        while let Ok(WaitStatus::StillAlive) = waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            if Instant::now() >= patience {
                if killed {
                    return;
                }
                self.kill();
                killed = true;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Waits until there is something to read, or the other end is closed; `false` if not by `limit`.
fn wait(pipe: &PipeReader, limit: Instant) -> nix::Result<bool> {
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        // Rounded up: a poll of 0 ms before the deadline would spin.
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
mod tests {
    use super::*;
    use crate::rules::Rules;

    /// A prober that runs a shell script instead of asking.
    fn ask_script(script: &str, deadline: Duration) -> Answer {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prober");
        let text = path.with_extension("text");
        std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process: a file that this one has written might still be open for writing in
        // a child of another test, and then it can't be executed (ETXTBSY).
        let copied = Command::new("install")
            .args(["-m", "755"])
            .args([&text, &path])
            .status();
        assert!(copied.unwrap().success());
        let prober = Prober::Program(path);
        let id = "0000:00:02.0".parse().unwrap();
        ask(&Root::system(), &prober, id, deadline, Manner::default())
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn every_way_a_child_can_end() {
        let answer = Answer {
            path: Some(OpenPath::Group),
            step: None,
            errno: None,
            note: None,
            facts: Facts::of(Display::NONE),
        };
        let said = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            ask_script(&format!("echo open >&2; echo '{said}'"), LONG),
            answer
        );

        let unknown = |reason, step| Answer::none(reason, step);
        let hang = ask_script("echo lock >&2; echo open >&2; exec sleep 1000", SHORT);
        assert_eq!(hang, unknown(Reason::TimedOut, Step::Open));
        let crash = ask_script(
            "echo control >&2; echo thread panicked >&2; kill -SEGV $$",
            LONG,
        );
        assert_eq!(crash, unknown(Reason::QueryFailed, Step::Control));
        assert_eq!(
            ask_script("echo nonsense", LONG),
            unknown(Reason::QueryFailed, Step::Spawn)
        );
        assert_eq!(
            ask_script("exec sleep 1000", SHORT),
            unknown(Reason::TimedOut, Step::Spawn)
        );
        let missing = ask(
            &Root::system(),
            &Prober::Program("/nonexistent".into()),
            "0000:00:02.0".parse().unwrap(),
            LONG,
            Manner::default(),
        );
        assert_eq!(
            (missing.step, missing.errno.as_deref()),
            (Some(Step::Spawn), Some("ENOENT"))
        );
    }

    #[test]
    fn manners_on_the_childs_command_line() {
        for (unless_starting, running) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let manner = Manner {
                unless_starting,
                running,
            };
            let words: Vec<_> = manner.words().collect();
            assert_eq!(Manner::from_words(&words), Some(manner), "{words:?}");
        }
        assert_eq!(Manner::from_words(&["--soon"]), None);
    }

    #[test]
    fn who_may_be_opened() {
        let rules = Rules::built_in();
        let named = |name: &str| {
            rules
                .iter()
                .map(|(_, rule)| rule)
                .find(|rule| rule.name == name)
        };
        let unasked = Asked::Unasked;
        let device = |bus: &str, driver: &str, api: &str| {
            let mdev = "11111111-2222-3333-4444-555555555555";
            let id = if bus == "pci" { "0000:00:02.0" } else { mdev };
            Device {
                driver: Some(driver.into()),
                device_api: Some(api.into()),
                ..Device::named(id.parse().unwrap(), "/sys/devices/x")
            }
        };
        let mdev = || device("mdev", "any", "vfio-pci");
        for (rule, asked, device, expected) in [
            (named("mdpy"), unasked(ProbePolicy::Known), mdev(), true),
            (named("mdpy"), unasked(ProbePolicy::Never), mdev(), false),
            (named("mdpy"), Asked::ByName, mdev(), true),
            (
                named("nvidia-mdev"),
                unasked(ProbePolicy::All),
                mdev(),
                false,
            ),
            (named("nvidia-mdev"), Asked::ByName, mdev(), true),
            (
                named("nvidia-vf"),
                Asked::ByName,
                device("pci", "nvidia", "vfio-pci"),
                true,
            ),
            (None, unasked(ProbePolicy::Known), mdev(), false),
            (None, unasked(ProbePolicy::All), mdev(), true),
            (None, Asked::ByName, mdev(), true),
            (
                None,
                Asked::ByName,
                device("mdev", "vfio_ap_mdev", "vfio-ap"),
                false,
            ),
            // No rule and no want of one changes these.
            (
                None,
                Asked::ByName,
                device("pci", "vfio-pci", "vfio-pci"),
                false,
            ),
            (
                named("mdpy"),
                Asked::ByName,
                device("pci", "mlx5_vfio_pci", "vfio-pci"),
                false,
            ),
            (
                named("mdpy"),
                unasked(ProbePolicy::All),
                device("pci", "nvidia", "vfio-pci"),
                false,
            ),
        ] {
            let allowed = may_open(&device, rule, asked);
            assert_eq!(
                allowed.is_ok(),
                expected,
                "{device:?} {asked:?}: {allowed:?}"
            );
        }
    }
}
