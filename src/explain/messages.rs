//! Reads the known messages and the knowledge about them from `messages.toml`.
//!
//! The file explains its fields and how its messages were checked. To add a message, change only
//! this file.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::explain::doctor::Topic;

/// The program that gives a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// QEMU.
    Qemu,
    /// libvirt, or one of its tools.
    Libvirt,
    /// The kernel, in its log.
    Kernel,
    /// NVIDIA's manager of vGPUs, in the journal.
    NvidiaManager,
    /// mdevctl.
    Mdevctl,
    /// A shell, for an error of a write to sysfs.
    Shell,
    /// Another program of the host, such as modprobe.
    Tool,
    /// A program that shows a guest's screen, such as virt-manager or Looking Glass.
    Viewer,
    /// The guest's system, or a program in it.
    Guest,
    /// gfxplane's hook.
    Gfxplane,
}

impl Speaker {
    /// Returns the program's name, as text for the user.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Speaker::Qemu => "QEMU",
            Speaker::Libvirt => "libvirt",
            Speaker::Kernel => "the kernel",
            Speaker::NvidiaManager => "nvidia-vgpu-mgr",
            Speaker::Mdevctl => "mdevctl",
            Speaker::Shell => "the shell",
            Speaker::Tool => "a program of the host",
            Speaker::Viewer => "a viewer",
            Speaker::Guest => "the guest",
            Speaker::Gfxplane => "gfxplane's qemu hook",
        }
    }
}

/// The words of a known message.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wording {
    /// The program that gives the message.
    pub by: Speaker,
    /// The words of the message; `*` means any text.
    pub words: String,
    /// The versions that are known to give the message.
    pub versions: String,
    /// The origin of the message: a file and a function, or a page that quotes it.
    pub source: String,
    /// True if the message follows from another problem, and counts only if nothing else is found.
    #[serde(default)]
    pub follows: bool,
}

/// The condition under which `gfxplane fixup` is the fix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fixup {
    /// `gfxplane fixup` is never the fix.
    #[default]
    Never,
    /// `gfxplane fixup` is the fix if the domain would be refused.
    Refused,
    /// `gfxplane fixup` is the fix whenever it would change the domain.
    Always,
}

/// A choice of what `gfxplane explain` shows of the host and the domain, beside the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tell {
    /// The displays of all of the domain's devices that have `display='on'`, if the message names
    /// no device.
    Displays,
    /// The statement whether the device has an OpRegion.
    Opregion,
    /// The statement whether the device is active now.
    Active,
    /// The render node of the GPU behind the device.
    RenderNode,
    /// The screens that make QEMU exit if a VNC viewer switches to them.
    Viewers,
    /// The members of the IOMMU group, with their drivers.
    Group,
    /// No prediction for the domain, because the message already implies it.
    NoPrediction,
    /// No device of the host, because the address in the message is an address in the guest.
    GuestAddress,
}

/// A condition of this host or domain under which the message has another cause. "The message's
/// devices" are those that the message names or, if it names none and the symptom has
/// [`Tell::Displays`], the domain's devices with `display='on'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Condition {
    /// A device of the domain has ramfb, and its display is on.
    Ramfb,
    /// The message names a whole graphics card; or it names no device, and the domain has a whole
    /// graphics card and no display that is on.
    Whole,
    /// The message's devices are all PCI devices.
    Pci,
    /// The message's devices are all mediated devices.
    Mdev,
    /// One of the message's devices is NVIDIA's.
    Nvidia,
    /// One of the message's devices is Intel's.
    Intel,
    /// One of the message's devices has a display that is known only by rule or sibling.
    Ruled,
    /// The host has render nodes, and all of them belong to NVIDIA's own driver.
    NvidiaRenders,
}

/// Something that the user can do about a cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", from = "Written")]
pub enum Remedy {
    /// A command that can be pasted into a shell, perhaps with its purpose after a `#`.
    Command(String),
    /// Advice in words, where no command helps.
    Advice(String),
}

/// The form of a [`Remedy`] in `messages.toml`: a string for a command, a table with the key
/// `advice` for advice.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Command(String),
    Advice { advice: String },
}

impl From<Written> for Remedy {
    fn from(written: Written) -> Self {
        match written {
            Written::Command(text) => Remedy::Command(text),
            Written::Advice { advice } => Remedy::Advice(advice),
        }
    }
}

impl Remedy {
    /// Returns the text of the command or advice.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Remedy::Command(text) | Remedy::Advice(text) => text,
        }
    }

    /// Returns the remedy with its text changed by `change`; a command stays a command.
    #[must_use]
    pub(super) fn map(&self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Remedy::Command(text) => Remedy::Command(change(text)),
            Remedy::Advice(text) => Remedy::Advice(change(text)),
        }
    }
}

/// The cause of a message under a condition, with the fixes of this cause.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The condition under which this case applies.
    pub is: Condition,
    /// The cause of the message in this case.
    pub cause: String,
    /// The fixes in this case, the best first.
    pub fixes: Vec<Remedy>,
}

/// The knowledge about a problem: its messages, their cause, and the fixes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Symptom {
    /// The usual cause of the messages.
    pub cause: String,
    /// The fixes of the usual cause, the best first.
    pub fixes: Vec<Remedy>,
    /// The condition under which `gfxplane fixup` is the first fix.
    #[serde(default)]
    pub fixup: Fixup,
    /// The topics of `gfxplane doctor` whose checks concern this problem.
    #[serde(default)]
    pub topics: Vec<Topic>,
    /// The facts about host and domain that are shown with the cause.
    #[serde(default)]
    pub tell: Vec<Tell>,
    /// The cases with another cause. The first case whose condition is true counts.
    #[serde(default)]
    pub when: Vec<Case>,
    /// The messages by which the symptom is recognized.
    pub said: Vec<Wording>,
}

/// All symptoms by their names.
pub(crate) static SYMPTOMS: LazyLock<BTreeMap<String, Symptom>> = LazyLock::new(|| {
    toml::from_str(include_str!("messages.toml")).expect("a test has read what is built in")
});

/// Returns all known messages, each with the name of its symptom.
pub fn wordings() -> impl Iterator<Item = (&'static str, &'static Wording)> {
    SYMPTOMS
        .iter()
        .flat_map(|(name, symptom)| symptom.said.iter().map(move |said| (name.as_str(), said)))
}
