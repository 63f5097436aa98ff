//! How a fact is known, and which of several sources is believed.

use std::str::FromStr;

use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Serialize};

use crate::facts::{Display, DisplayInterface, Facts, Reason};
use crate::names::display_as_serde;
use crate::version::Version;

/// A source of facts. The order is that of authority, the strongest first.
///
/// `Kernel` and `Probe` are measurements of this device; nothing weaker ever vetoes a start or
/// switches a display on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A sysfs attribute, as Alex Williamson proposed it in 2018; no kernel has it yet.
    Kernel,
    /// The device itself was asked, now or in a record that is still valid.
    Probe,
    /// A QEMU that opened the device said so, of this device alone. It tells only which interface
    /// it takes.
    Qemu,
    /// A device of the same type, driver and kernel was asked.
    Sibling,
    /// A rule knows devices of this kind.
    Rule,
}

impl Method {
    /// Whether this is a measurement of the device itself.
    #[must_use]
    pub fn is_measured(self) -> bool {
        self <= Method::Probe
    }
}

/// Through which kernel interface a device was opened.
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
        [OpenPath::Group, OpenPath::Cdev]
            .into_iter()
            .find(|path| path.to_string() == word)
            .ok_or_else(|| format!("{word:?} is no way to open a device: expected group or cdev"))
    }
}

/// At which step of a probe something was decided; in the order in which they are taken. (A driver
/// that turns out to want a VM is given one after its first open: then [`Step::Kvm`] and the three
/// after it come between two of these.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Policy: may this device be opened at all?
    Policy,
    /// Starting the child that opens the device.
    Spawn,
    /// Taking the lock in `/run/gfxplane/lock`.
    Lock,
    /// Finding the IOMMU group or the device node in sysfs.
    Find,
    /// Opening `/dev/vfio/vfio`, its version, its IOMMU type.
    Container,
    /// Opening `/dev/vfio/GROUP` (EBUSY: in use).
    Group,
    /// `VFIO_GROUP_GET_STATUS`: are all devices of the group bound to vfio drivers?
    Viable,
    /// `VFIO_GROUP_SET_CONTAINER` and `VFIO_SET_IOMMU`.
    Attach,
    /// Opening `/dev/iommu`.
    Iommufd,
    /// Opening `/dev/vfio/devices/vfioN`, which says nothing of whether the device is in use.
    Cdev,
    /// Opening `/dev/kvm`, for a driver that wants a VM.
    Kvm,
    /// `KVM_CREATE_VM`.
    KvmVm,
    /// `KVM_CREATE_DEVICE` with `KVM_DEV_TYPE_VFIO`.
    KvmDevice,
    /// `KVM_DEV_VFIO_FILE_ADD`: tells the group, or the device by its node, of the VM.
    KvmFile,
    /// `VFIO_GROUP_GET_DEVICE_FD`: the driver's own open.
    Open,
    /// `VFIO_DEVICE_BIND_IOMMUFD` (EBUSY, EINVAL: in use), with the driver's own open in it.
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
    /// `VFIO_DEVICE_QUERY_GFX_PLANE` with PROBE and no type: it must fail.
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
    /// Whether the driver's own open is a part of it.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Step::Open | Step::Bind)
    }

    /// Whether it is one of the four that make a VM and tell it of the device.
    #[must_use]
    pub fn is_kvm(self) -> bool {
        (Step::Kvm..=Step::KvmFile).contains(&self)
    }

    /// The step that this word names, if this version knows it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let word: StrDeserializer<'_, serde::de::value::Error> = word.into_deserializer();
        let step = Step::deserialize(word).ok();
        step.filter(|step| *step != Step::Unknown)
    }
}

display_as_serde!(Method, OpenPath, Step);

/// How a set of facts is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The source.
    pub method: Method,
    /// Probe: how the device was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OpenPath>,
    /// The vfio driver of the device that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Its module's version or, without one, srcversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// The kernel's release (`uname -r`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// QEMU: its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// Rule: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Rule, and QEMU if it was not started to be asked: on what it rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Probe without a result: the step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Probe without a result: the name of the errno (`EBUSY`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

impl Evidence {
    /// Evidence by this method, with nothing more said.
    #[must_use]
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

/// What a weaker source says that the believed one contradicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// What it says.
    #[serde(flatten)]
    pub display: Display,
    /// Who says it.
    pub evidence: Evidence,
}

/// The facts about one device or type that are believed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The facts.
    #[serde(flatten)]
    pub facts: Facts,
    /// Where they come from; none if nobody knows anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// A probe that brought no answer, where the facts come from somewhere weaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Disagreement>,
    /// Sources that say something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<Disagreement>,
}

impl Finding {
    /// Whether the facts were measured, and if not, what they rest on; for people.
    #[must_use]
    pub fn how_known(&self) -> String {
        match &self.evidence {
            Some(evidence) if evidence.method.is_measured() => "measured".into(),
            Some(evidence) => format!("known by {}, not measured", evidence.method),
            None => "not measured".into(),
        }
    }
}

/// Chooses among what several sources say of one device.
///
/// The strongest source that knows the display is believed. What a device did when it was asked
/// (it says yes to everything, it hangs) counts as knowing; that it could not be asked does not,
/// and is kept as [`Finding::attempt`]. A driver that hangs with us and answers a QEMU that was started
/// to be asked is known by that; what was learned from a log ([`Evidence::source`]) goes behind every
/// probe, as a guest may have written it. A kernel attribute and QEMU say nothing of EDID and OpRegion:
/// these come from the strongest other source that agrees on the display. `nothing` is the reason if
/// nobody knows.
#[must_use]
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

/// Whether both can be right. QEMU tells only what it takes.
fn agree(one: (&Display, &Evidence), other: (&Display, &Evidence)) -> bool {
    // It believes a driver that says yes to everything.
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
    use crate::facts::Edid;

    fn source(method: Method, display: Display) -> (Facts, Evidence) {
        (Facts::of(display), Evidence::by(method))
    }

    fn learned(display: Display) -> (Facts, Evidence) {
        let (facts, mut evidence) = source(Method::Qemu, display);
        evidence.source = Some("the log of a domain".into());
        (facts, evidence)
    }

    #[test]
    fn authority() {
        let dmabuf = || Display::from_answers(true, false);
        let region = || Display::from_answers(false, true);
        let unknown = |reason| Display::Unknown(reason);
        let both = || Display::from_answers(true, true);
        use Method::{Kernel, Probe, Qemu, Rule, Sibling};
        for (name, sources, display, method, disagreements) in [
            ("nobody", vec![], unknown(Reason::NotProbed), None, 0),
            (
                "rule alone",
                vec![source(Rule, region())],
                region(),
                Some(Rule),
                0,
            ),
            (
                "probe over rule, reported",
                vec![source(Rule, region()), source(Probe, dmabuf())],
                dmabuf(),
                Some(Probe),
                1,
            ),
            (
                "kernel over probe",
                vec![source(Probe, dmabuf()), source(Kernel, region())],
                region(),
                Some(Kernel),
                1,
            ),
            (
                "in use says nothing of the display",
                vec![
                    source(Probe, unknown(Reason::InUse)),
                    source(Rule, region()),
                ],
                region(),
                Some(Rule),
                0,
            ),
            (
                "untrusted is an answer",
                vec![
                    source(Probe, unknown(Reason::Untrusted)),
                    source(Rule, region()),
                ],
                unknown(Reason::Untrusted),
                Some(Probe),
                1,
            ),
            (
                "sibling over rule, agreeing",
                vec![source(Rule, dmabuf()), source(Sibling, dmabuf())],
                dmabuf(),
                Some(Sibling),
                0,
            ),
            (
                "probe over QEMU, reported",
                vec![source(Qemu, region()), source(Probe, dmabuf())],
                dmabuf(),
                Some(Probe),
                1,
            ),
            (
                "QEMU takes one of two, and that is no disagreement",
                vec![source(Qemu, dmabuf()), source(Probe, both())],
                both(),
                Some(Probe),
                0,
            ),
            (
                "but it would have taken the other one",
                vec![source(Qemu, region()), source(Probe, both())],
                both(),
                Some(Probe),
                1,
            ),
            (
                "QEMU takes an untrusted driver's screen for a dmabuf",
                vec![
                    source(Qemu, dmabuf()),
                    source(Probe, unknown(Reason::Untrusted)),
                ],
                unknown(Reason::Untrusted),
                Some(Probe),
                0,
            ),
            (
                "and says nothing else of it",
                vec![
                    source(Qemu, region()),
                    source(Probe, unknown(Reason::Untrusted)),
                ],
                unknown(Reason::Untrusted),
                Some(Probe),
                1,
            ),
            (
                "QEMU where the probe could not ask, over sibling and rule",
                vec![
                    source(Rule, region()),
                    source(Sibling, region()),
                    source(Qemu, dmabuf()),
                    source(Probe, unknown(Reason::OpenFailed)),
                ],
                dmabuf(),
                Some(Qemu),
                2,
            ),
            (
                "a driver that hangs with us",
                vec![
                    source(Rule, dmabuf()),
                    source(Probe, unknown(Reason::TimedOut)),
                ],
                unknown(Reason::TimedOut),
                Some(Probe),
                1,
            ),
            (
                "and not with QEMU",
                vec![
                    source(Qemu, region()),
                    source(Probe, unknown(Reason::TimedOut)),
                ],
                region(),
                Some(Qemu),
                0,
            ),
            (
                "but a log is no QEMU that was asked",
                vec![learned(region()), source(Probe, unknown(Reason::TimedOut))],
                unknown(Reason::TimedOut),
                Some(Probe),
                1,
            ),
            (
                "a log where the probe could not ask",
                vec![
                    source(Rule, dmabuf()),
                    learned(region()),
                    source(Probe, unknown(Reason::InUse)),
                ],
                region(),
                Some(Qemu),
                1,
            ),
            (
                "only failures",
                vec![source(Probe, unknown(Reason::Permission))],
                unknown(Reason::Permission),
                Some(Probe),
                0,
            ),
        ] {
            let finding = resolve(sources, Reason::NotProbed);
            assert_eq!(finding.facts.display, display, "{name}");
            assert_eq!(finding.evidence.map(|e| e.method), method, "{name}");
            assert_eq!(finding.disagreements.len(), disagreements, "{name}");
        }
    }

    #[test]
    fn a_failed_attempt_is_kept() {
        let finding = resolve(
            vec![
                source(Method::Probe, Display::Unknown(Reason::InUse)),
                source(Method::Rule, Display::NONE),
            ],
            Reason::NotProbed,
        );
        assert_eq!(
            finding.attempt.unwrap().display,
            Display::Unknown(Reason::InUse)
        );
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

    #[test]
    fn a_kernel_attribute_is_completed_by_those_who_agree() {
        let edid = Some(Edid {
            max_xres: 1920,
            max_yres: 1200,
        });
        for (other, expected) in [
            (Display::from_answers(true, false), edid),
            (Display::NONE, None),
        ] {
            let mut probe = source(Method::Probe, other);
            probe.0.edid = edid;
            let kernel = source(Method::Kernel, Display::from_answers(true, false));
            assert_eq!(
                resolve(vec![probe, kernel], Reason::NotProbed).facts.edid,
                expected
            );
        }
    }
}
