//! The evidence for facts, and the choice between sources that contradict each other.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::facts::{Display, DisplayInterface, Facts, Reason};
use crate::device::id::{display_as_serde, from_word};
use crate::device::version::Version;

/// The kind of evidence for facts, the strongest first.
///
/// Only `Kernel` and `Probe` are measurements. Weaker evidence is never a reason for a veto, and
/// switches a display on only with the policy `trust_rules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A sysfs attribute, as Alex Williamson proposed it in 2018. No released kernel has it yet.
    Kernel,
    /// The answer of the device itself, given now or in a record that is still valid.
    Probe,
    /// A QEMU that opened this very device. It shows only which interface QEMU uses.
    Qemu,
    /// The answer of another device of the same type, with the same driver and kernel.
    Sibling,
    /// A rule about devices of this type.
    Rule,
}

impl Method {
    /// Returns whether this is a measurement of the device itself.
    pub fn is_measured(self) -> bool {
        self <= Method::Probe
    }
}

/// The kernel interface through which a device was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenPath {
    /// `/dev/vfio/vfio` and `/dev/vfio/GROUP`.
    Group,
    /// `/dev/vfio/devices/vfioN` and `/dev/iommu`.
    Cdev,
}

impl FromStr for OpenPath {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        from_word(word)
            .ok_or_else(|| format!("{word:?} is no way to open a device: expected group or cdev"))
    }
}

/// A step of a probe. The variants have the order of the steps.
///
/// If a driver first refuses to open the device without a VM, [`Step::Kvm`] and the three steps
/// after it follow the refused step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Checking whether this device may be opened at all.
    Policy,
    /// Starting the child that opens the device.
    Spawn,
    /// Taking the lock in `/run/gfxplane/lock`.
    Lock,
    /// Finding the IOMMU group or the device node in sysfs.
    Find,
    /// Opening `/dev/vfio/vfio`, and checking its version and its IOMMU type.
    Container,
    /// Opening `/dev/vfio/GROUP` (EBUSY: in use).
    Group,
    /// `VFIO_GROUP_GET_STATUS`: checking that all devices of the group are bound to vfio drivers.
    Viable,
    /// `VFIO_GROUP_SET_CONTAINER` and `VFIO_SET_IOMMU`.
    Attach,
    /// Opening `/dev/iommu`.
    Iommufd,
    /// Opening `/dev/vfio/devices/vfioN`. Success does not tell whether the device is in use.
    Cdev,
    /// Opening `/dev/kvm`, for a driver that needs a VM.
    Kvm,
    /// `KVM_CREATE_VM`.
    KvmVm,
    /// `KVM_CREATE_DEVICE` with `KVM_DEV_TYPE_VFIO`.
    KvmDevice,
    /// `KVM_DEV_VFIO_FILE_ADD`: associating the group, or the device by its node, with the VM.
    KvmFile,
    /// `VFIO_GROUP_GET_DEVICE_FD`, which makes the driver open the device.
    Open,
    /// `VFIO_DEVICE_BIND_IOMMUFD`, which makes the driver open the device (EBUSY, EINVAL: in use).
    Bind,
    /// `VFIO_DEVICE_GET_INFO`.
    Info,
    /// `VFIO_DEVICE_GET_REGION_INFO`.
    RegionInfo,
    /// Reading the EDID region's header.
    Edid,
    /// `VFIO_DEVICE_GET_IRQ_INFO`.
    IrqInfo,
    /// `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`.
    HotReset,
    /// `VFIO_DEVICE_QUERY_GFX_PLANE` with PROBE and no type. The driver must refuse it.
    Control,
    /// `VFIO_DEVICE_QUERY_GFX_PLANE` with PROBE and DMABUF.
    QueryDmabuf,
    /// `VFIO_DEVICE_QUERY_GFX_PLANE` with PROBE and REGION.
    QueryRegion,
    /// A step that this version does not know.
    #[serde(other)]
    Unknown,
}

impl Step {
    /// Returns whether the driver opens the device in this step.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Step::Open | Step::Bind)
    }

    /// Returns whether this is one of the four steps that make a VM and associate the device with
    /// it.
    pub(crate) fn is_kvm(self) -> bool {
        (Step::Kvm..=Step::KvmFile).contains(&self)
    }

    /// Returns the step that this word names; `None` if this version does not know it.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        from_word(word).filter(|step| *step != Step::Unknown)
    }
}

display_as_serde!(Method, OpenPath, Step);

/// The evidence for a set of facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The kind of source, such as a probe or a rule.
    pub method: Method,
    /// For a probe: the interface through which the device was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OpenPath>,
    /// The vfio driver of the device that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The version of the driver's module or, without one, its srcversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The release (`uname -r`) of the kernel under which the device was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// For QEMU: its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// For a rule: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// For a rule: its `source`. For QEMU: the log from which its answer was learned; `None` if
    /// QEMU was started for our question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// For a probe without a result: the step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// For a probe without a result: the name of the errno (`EBUSY`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

impl Evidence {
    /// Makes evidence that has only this method.
    pub fn by(method: Method) -> Self {
        Evidence {
            method,
            path: None,
            driver: None,
            driver_version: None,
            kernel: None,
            qemu: None,
            rule: None,
            source: None,
            step: None,
            errno: None,
        }
    }
}

/// A statement that is not believed: it contradicts the facts, or comes from a probe without an
/// answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// The display that is stated.
    #[serde(flatten)]
    pub display: Display,
    /// The evidence for that statement.
    pub evidence: Evidence,
}

/// The believed facts about one device or type, and their evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The facts that are believed.
    #[serde(flatten)]
    pub facts: Facts,
    /// The evidence for the facts; `None` if no source knows anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// A probe that got no answer, if the facts come from a weaker source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Disagreement>,
    /// The sources that contradict the facts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<Disagreement>,
}

impl Finding {
    /// Returns the kind of evidence if it is no measurement; `None` for a measurement or no
    /// evidence.
    pub(crate) fn believed(&self) -> Option<Method> {
        let method = self.evidence.as_ref()?.method;
        (!method.is_measured()).then_some(method)
    }

    /// Describes, for people, whether the facts were measured and, if not, their evidence.
    pub(crate) fn how_known(&self) -> String {
        match (self.believed(), &self.evidence) {
            (Some(method), _) => format!("known by {method}, not measured"),
            (None, Some(_)) => "measured".into(),
            (None, None) => "not measured".into(),
        }
    }
}

/// Chooses among the statements of several sources about one device.
///
/// The strongest source that decides is believed. A source decides if it knows the display, or if
/// the device was asked and says yes to everything, or hangs. A probe that could not ask the device
/// becomes [`Finding::attempt`]. If no source decides, the strongest gives the reason why the
/// display is unknown.
///
/// If a driver hangs when we ask but answers a QEMU that was started for our question, the QEMU is
/// believed. A statement that was learned from a log ([`Evidence::source`]) never overrules a
/// probe, not even one that hangs, because a guest may have written the log.
///
/// A kernel attribute and QEMU show only the display. The other facts come from the strongest
/// weaker source that agrees on the display. `nothing` is the reason if there are no sources.
pub fn resolve(mut sources: Vec<(Facts, Evidence)>, nothing: Reason) -> Finding {
    sources.sort_by_key(|(_, evidence)| evidence.method);
    let qemu_answers = sources.iter().any(|(facts, evidence)| {
        let was_asked = evidence.method == Method::Qemu && evidence.source.is_none();
        was_asked && facts.display.is_answer()
    });
    let decides = |facts: &Facts| {
        facts.display.is_answer()
            || (facts.display == Display::Unknown(Reason::TimedOut) && !qemu_answers)
    };
    let chosen = sources
        .iter()
        .position(|(facts, _)| decides(facts))
        .unwrap_or(0);
    if sources.is_empty() {
        return Finding {
            facts: Facts::of(Display::Unknown(nothing)),
            evidence: None,
            attempt: None,
            disagreements: Vec::new(),
        };
    }
    let attempt = sources[..chosen]
        .iter()
        .find(|(_, evidence)| evidence.method.is_measured())
        .map(|(facts, evidence)| Disagreement {
            display: facts.display.clone(),
            evidence: evidence.clone(),
        });
    let mut weaker = sources.split_off(chosen);
    let (mut facts, evidence) = weaker.remove(0);
    if matches!(evidence.method, Method::Kernel | Method::Qemu)
        && let Some((more, _)) = weaker
            .iter()
            .find(|(more, other)| agree((&more.display, other), (&facts.display, &evidence)))
    {
        facts.edid = more.edid;
        facts.opregion = more.opregion;
        facts.kvm = more.kvm;
        facts.device = facts.device.or_else(|| more.device.clone());
    }
    let disagreements = weaker
        .into_iter()
        .filter(|(other, by)| {
            decides(other) && !agree((&other.display, by), (&facts.display, &evidence))
        })
        .map(|(other, evidence)| Disagreement {
            display: other.display,
            evidence,
        })
        .collect();
    Finding {
        facts,
        evidence: Some(evidence),
        attempt,
        disagreements,
    }
}

/// Returns whether both statements can be right. QEMU tells only the interface that it uses, so its
/// statement agrees with any that has this interface first. QEMU uses dmabuf if the driver says yes
/// to everything ([`Reason::Untrusted`]).
fn agree(one: (&Display, &Evidence), other: (&Display, &Evidence)) -> bool {
    // QEMU uses dmabuf if a driver says yes to everything.
    let taken = |display: &Display| match display {
        Display::Known(interfaces) => Some(interfaces.first().copied()),
        Display::Unknown(Reason::Untrusted) => Some(Some(DisplayInterface::Dmabuf)),
        Display::Unknown(_) => None,
    };
    let by_qemu = [one.1, other.1].iter().any(|e| e.method == Method::Qemu);
    one.0 == other.0 || by_qemu && taken(one.0) == taken(other.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(method: Method, display: Display) -> (Facts, Evidence) {
        (Facts::of(display), Evidence::by(method))
    }

    fn learned(display: Display) -> (Facts, Evidence) {
        let (facts, mut evidence) = source(Method::Qemu, display);
        evidence.source = Some("the log of a domain".into());
        (facts, evidence)
    }

    /// Reads sources, such as `rule:region probe:in-use`. `log` is a statement of QEMU from a log.
    fn read(sources: &str) -> Vec<(Facts, Evidence)> {
        let display = |word: &str| match word {
            "dmabuf" => Display::from_answers(true, false),
            "region" => Display::from_answers(false, true),
            "both" => Display::from_answers(true, true),
            reason => Display::Unknown(reason.into()),
        };
        let read = |text: &str| match text.split_once(':').unwrap() {
            ("log", word) => learned(display(word)),
            (method, word) => source(from_word(method).unwrap(), display(word)),
        };
        sources.split_whitespace().map(read).collect()
    }

    #[test]
    fn authority() {
        // The sources; the display that is believed, its source, and the number of sources that
        // disagree.
        for (sources, display, method, disagreements) in [
            ("", "not-probed", "", 0),
            ("rule:region", "region", "rule", 0),
            ("rule:region probe:dmabuf", "dmabuf", "probe", 1),
            ("probe:dmabuf kernel:region", "region", "kernel", 1),
            // `in-use` says nothing about the display; `untrusted` is an answer.
            ("probe:in-use rule:region", "region", "rule", 0),
            ("probe:untrusted rule:region", "untrusted", "probe", 1),
            ("rule:dmabuf sibling:dmabuf", "dmabuf", "sibling", 0),
            ("qemu:region probe:dmabuf", "dmabuf", "probe", 1),
            // QEMU uses one of two interfaces, which is no disagreement unless it is the second.
            ("qemu:dmabuf probe:both", "dmabuf region", "probe", 0),
            ("qemu:region probe:both", "dmabuf region", "probe", 1),
            // QEMU uses an untrusted driver's screen as a dmabuf; any other statement disagrees.
            ("qemu:dmabuf probe:untrusted", "untrusted", "probe", 0),
            ("qemu:region probe:untrusted", "untrusted", "probe", 1),
            // If the probe could not ask, QEMU outranks sibling and rule.
            (
                "rule:region sibling:region qemu:dmabuf probe:open-failed",
                "dmabuf",
                "qemu",
                2,
            ),
            // A driver hangs with us, but answers a QEMU that we started. A log is no such QEMU.
            ("rule:dmabuf probe:timed-out", "timed-out", "probe", 1),
            ("qemu:region probe:timed-out", "region", "qemu", 0),
            ("log:region probe:timed-out", "timed-out", "probe", 1),
            // If the probe could not ask, a log counts.
            ("rule:dmabuf log:region probe:in-use", "region", "qemu", 1),
            ("probe:permission", "permission", "probe", 0),
        ] {
            let finding = resolve(read(sources), Reason::NotProbed);
            let found = &finding.facts.display;
            let words = || found.words().join(" ");
            let words = found.reason().map_or_else(words, ToString::to_string);
            assert_eq!(words, display, "{sources}");
            let by = finding.evidence.map(|evidence| evidence.method.to_string());
            assert_eq!(by.unwrap_or_default(), method, "{sources}");
            assert_eq!(finding.disagreements.len(), disagreements, "{sources}");
        }
    }

    #[test]
    fn what_qemu_said_is_completed_by_those_who_agree() {
        let mut rule = source(Method::Rule, Display::from_answers(true, true));
        rule.0.kvm = true;
        let qemu = |dmabuf| source(Method::Qemu, Display::from_answers(dmabuf, !dmabuf));
        let of = |sources| resolve(sources, Reason::NotProbed).facts;
        let facts = of(vec![rule.clone(), qemu(true)]);
        assert_eq!(facts.display, Display::from_answers(true, false));
        assert!(facts.kvm);
        assert!(!of(vec![rule, qemu(false)]).kvm);
    }
}
