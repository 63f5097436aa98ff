//! The facts about a device as plain data, with the names of vfio.h where it has them.

use serde::{Deserialize, Serialize};

use crate::device::id::{display_as_serde, from_word};

/// The beginning of all our attribute names.
pub const PREFIX: &str = "gfxplane.";

/// The way in which a device hands its screen to the host.
///
/// The order is QEMU's: it asks for dmabuf first and uses a region only if the device refuses (QEMU
/// hw/vfio/display.c, `vfio_display_probe`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisplayInterface {
    /// `VFIO_GFX_PLANE_TYPE_DMABUF`: a dma-buf. QEMU can show it only through graphics with OpenGL.
    Dmabuf,
    /// `VFIO_GFX_PLANE_TYPE_REGION`: device memory that QEMU copies from. Any graphics can show it.
    Region,
}

/// The reason why a display is unknown.
///
/// The list may grow: this version reads a word that it does not know as [`Reason::Other`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Another program has the device open (EBUSY), which is no error.
    InUse,
    /// The driver opens the device only for a process with a KVM VM (ESRCH from kvmgt), and either
    /// we could make no VM or the driver did not accept ours.
    NeedsVm,
    /// The driver did not answer before the deadline.
    TimedOut,
    /// We have no right to open `/dev/vfio` or the device.
    Permission,
    /// No vfio driver is bound to the device: there is no IOMMU group or device node to open.
    NoDriver,
    /// The driver says yes to every question, even to the nonsensical one that we ask as a check.
    Untrusted,
    /// The device was not asked yet, and no rule knows it.
    NotProbed,
    /// The kernel has no vfio interface that we can open, or not the chosen one (group or cdev).
    NoVfio,
    /// Other devices of the IOMMU group are bound to host drivers.
    NotViable,
    /// The driver refused to open the device, or the device could not be asked at all. The evidence
    /// has the step and the errno.
    OpenFailed,
    /// `/run/gfxplane` exists, but others may write to it, so that no lock can be taken.
    UnsafeState,
    /// The device was opened, but a query failed in a way that vfio.h does not foresee.
    QueryFailed,
    /// The device disappeared during the probe.
    Vanished,
    /// The device may not be opened, or only if the user names it: because of a rule, the setting
    /// `probe`, or the kind of device.
    NotAllowed,
    /// The device exists only as a definition (`mdevctl define`), and nothing is known of its type.
    NotActive,
    /// A word that a newer version wrote.
    #[serde(untagged)]
    Other(String),
}

/// Each reason, and what it means.
const REASONS: [(Reason, &str); 15] = [
    (Reason::InUse, "a program has it open"),
    (
        Reason::NeedsVm,
        "its driver opens it for a virtual machine only",
    ),
    (Reason::TimedOut, "its driver did not answer in time"),
    (Reason::Permission, "this user may not open it"),
    (Reason::NoDriver, "no vfio driver is bound to it"),
    (Reason::Untrusted, "its driver says yes to every question"),
    (Reason::NotProbed, "nobody has asked the device"),
    (Reason::NoVfio, "the kernel offers no vfio to open it with"),
    (
        Reason::NotViable,
        "other devices of its IOMMU group are bound to drivers of the host",
    ),
    (Reason::OpenFailed, "it could not be opened"),
    (Reason::UnsafeState, "others may write to /run/gfxplane"),
    (Reason::QueryFailed, "its driver answered with an error"),
    (Reason::Vanished, "it disappeared while it was asked"),
    (Reason::NotAllowed, "it is opened only if you name it"),
    (Reason::NotActive, "it is not started"),
];

impl Reason {
    /// Returns the meaning of the reason, for people, with its word: `a program has it open
    /// (in-use)`. For [`Reason::Other`], returns only the word.
    pub fn why(&self) -> String {
        match REASONS.iter().find(|(reason, _)| reason == self) {
            Some((_, why)) => format!("{why} ({self})"),
            None => self.to_string(),
        }
    }
}

impl From<&str> for Reason {
    fn from(word: &str) -> Self {
        let mut reasons = REASONS.iter().map(|(reason, _)| reason);
        let known = reasons.find(|reason| reason.to_string() == word);
        known.map_or_else(|| Reason::Other(word.into()), Clone::clone)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let is_word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if word.split('-').all(is_word) {
            Ok(Reason::from(word.as_str()))
        } else {
            Err(serde::de::Error::custom(format!(
                "{word:?} is no reason: expected a word like in-use"
            )))
        }
    }
}

impl DisplayInterface {
    /// Returns the word that XML, JSON, attributes and properties use for this interface.
    pub fn word(self) -> &'static str {
        match self {
            DisplayInterface::Dmabuf => "dmabuf",
            DisplayInterface::Region => "region",
        }
    }
}

display_as_serde!(DisplayInterface, Reason);

/// The display of a device.
///
/// In JSON: `"display": ["dmabuf"]`, `["dmabuf", "region"]`, `["none"]`, or
/// `["unknown"], "reason": "in-use"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "DisplayWords", try_from = "DisplayWords")]
pub enum Display {
    /// The device has these interfaces, first the one that QEMU uses. An empty list means no
    /// display.
    Known(Vec<DisplayInterface>),
    /// The display is unknown, for this reason.
    Unknown(Reason),
}

impl Display {
    /// The display of a device that has none.
    pub const NONE: Display = Display::Known(Vec::new());

    /// Makes a display from the answers to the two plane queries.
    pub fn from_answers(dmabuf: bool, region: bool) -> Self {
        let dmabuf = dmabuf.then_some(DisplayInterface::Dmabuf);
        let region = region.then_some(DisplayInterface::Region);
        Display::Known(dmabuf.into_iter().chain(region).collect())
    }

    /// Returns the words for the display, at least one: `dmabuf`, `region`, `none` or `unknown`.
    pub fn words(&self) -> Vec<&'static str> {
        match self {
            Display::Unknown(_) => vec!["unknown"],
            Display::Known(interfaces) if interfaces.is_empty() => vec!["none"],
            Display::Known(interfaces) => interfaces.iter().map(|i| i.word()).collect(),
        }
    }

    /// Returns the interface that QEMU will use; `None` if there is no display or it is unknown.
    pub(crate) fn preferred(&self) -> Option<DisplayInterface> {
        match self {
            Display::Known(interfaces) => interfaces.first().copied(),
            Display::Unknown(_) => None,
        }
    }

    /// Returns the reason why the display is unknown; `None` if it is known.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Display::Known(_) => None,
            Display::Unknown(reason) => Some(reason),
        }
    }

    /// Returns whether this is an answer, as opposed to a reason why there is none. A driver that
    /// says yes to everything has answered; one that hung, or whose query failed, has not.
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            Display::Known(_) | Display::Unknown(Reason::Untrusted)
        )
    }

    /// Returns whether the display is known. No display counts as known.
    pub fn is_known(&self) -> bool {
        matches!(self, Display::Known(_))
    }
}

/// The two fields that hold a [`Display`] in a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct DisplayWords {
    pub(crate) display: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
}

impl From<Display> for DisplayWords {
    fn from(display: Display) -> Self {
        DisplayWords {
            display: display.words().into_iter().map(String::from).collect(),
            reason: display.reason().cloned(),
        }
    }
}

impl TryFrom<DisplayWords> for Display {
    type Error = String;

    fn try_from(words: DisplayWords) -> Result<Self, String> {
        let list: Vec<&str> = words.display.iter().map(String::as_str).collect();
        match list[..] {
            ["none"] => Ok(Display::NONE),
            ["unknown"] => Ok(Display::Unknown(words.reason.unwrap_or(Reason::NotProbed))),
            [] => Err("`display` is empty: expected dmabuf, region, none or unknown".into()),
            _ => {
                let interface = |word: &&str| {
                    from_word::<DisplayInterface>(word).ok_or_else(|| {
                        format!(
                            "`display` has {word:?}: expected dmabuf, region or both, or none or unknown alone"
                        )
                    })
                };
                let mut interfaces: Vec<DisplayInterface> =
                    list.iter().map(interface).collect::<Result<_, _>>()?;
                interfaces.sort_unstable();
                interfaces.dedup();
                Ok(Display::Known(interfaces))
            }
        }
    }
}

/// The EDID region (`VFIO_REGION_SUBTYPE_GFX_EDID`), through which the host tells the guest's
/// driver which modes to offer. Sizes are in pixels; 0 means that the device sets no limit
/// (mbochs-large).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edid {
    /// `max_xres` of struct `vfio_region_gfx_edid`.
    pub max_xres: u32,
    /// `max_yres` of struct `vfio_region_gfx_edid`.
    pub max_yres: u32,
}

/// The Intel OpRegion (vendor region type 0x8086, subtype 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpRegion {
    /// The OpRegion's size in bytes; 8192 on every device seen.
    pub size: u64,
}

/// All known facts about a device, from any source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The device's display, or the reason why it is unknown.
    #[serde(flatten)]
    pub display: Display,
    /// The greatest size in the EDID region; `None` if the device has no such region or, unless
    /// `device` is set, if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edid: Option<Edid>,
    /// The OpRegion; `None` if the device has none or, unless `device` is set, if that is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opregion: Option<OpRegion>,
    /// True if the driver opens the device only for a process that has a KVM VM. A probe sets this
    /// if the driver refused us without a VM, or opened the device with one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kvm: bool,
    /// The driver's answers to vfio's queries; `None` unless the device was probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceInfo>,
}

impl Facts {
    /// Makes facts that consist of only a display.
    pub fn of(display: Display) -> Self {
        Facts {
            display,
            edid: None,
            opregion: None,
            kvm: false,
            device: None,
        }
    }
}

/// The answer to `VFIO_DEVICE_GET_INFO` and to the queries that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The flags, `VFIO_DEVICE_FLAGS_*`.
    pub flags: u32,
    /// The number of regions as the driver counts them; a display region may have a higher index
    /// (mdpy, NVIDIA).
    pub num_regions: u32,
    /// The number of IRQ indexes as the driver counts them.
    pub num_irqs: u32,
    /// The regions that exist (size or flags not 0).
    pub regions: Vec<Region>,
    /// The IRQ indexes that have interrupts.
    pub irqs: Vec<Irq>,
    /// The devices that a hot reset would affect.
    pub hot_reset: HotReset,
    /// The whole header of the EDID region; `None` if there is no such region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edid: Option<EdidHeader>,
}

/// The struct `vfio_region_gfx_edid` at the start of the EDID region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdidHeader {
    /// The offset of the blob in the region, in bytes.
    pub edid_offset: u32,
    /// The largest size that a blob may have, in bytes.
    pub edid_max_size: u32,
    /// The size of the present blob in bytes; 0 if none was set.
    pub edid_size: u32,
    /// The greatest width in pixels; 0: no limit.
    pub max_xres: u32,
    /// The greatest height in pixels; 0: no limit.
    pub max_yres: u32,
    /// The state of the link. 1: up, 2: down (`VFIO_DEVICE_GFX_LINK_STATE_*`).
    pub link_state: u32,
}

/// The answer to `VFIO_DEVICE_GET_REGION_INFO` for one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The index: `VFIO_PCI_*_REGION_INDEX` up to 8, device-specific from 9 on.
    pub index: u32,
    /// The flags, `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// The offset from the start of the device file, in bytes.
    pub offset: u64,
    /// The region's size in bytes.
    pub size: u64,
    /// The capability chain, in the driver's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<RegionCapability>,
}

/// One link of a region's capability chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "capability", rename_all = "kebab-case")]
pub enum RegionCapability {
    /// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`: the parts of the region that can be mapped.
    SparseMmap {
        /// The offset and size of each part in bytes, from the start of the region.
        areas: Vec<(u64, u64)>,
    },
    /// `VFIO_REGION_INFO_CAP_TYPE`: the kind of a device-specific region.
    Type {
        /// `VFIO_REGION_TYPE_*`; with bit 31 set, a type of the PCI vendor's own.
        r#type: u32,
        /// `VFIO_REGION_SUBTYPE_*`.
        subtype: u32,
    },
    /// `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`.
    MsixMappable,
    /// A capability that this version does not know.
    Unknown {
        /// The capability's number in its header.
        id: u16,
        /// The capability's version in its header.
        version: u16,
    },
    /// A capability that a newer gfxplane wrote into a record.
    #[serde(other)]
    Newer,
}

/// The answer to `VFIO_DEVICE_GET_IRQ_INFO` for one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// The index, `VFIO_PCI_*_IRQ_INDEX`.
    pub index: u32,
    /// The flags, `VFIO_IRQ_INFO_*`.
    pub flags: u32,
    /// The number of interrupts in the index.
    pub count: u32,
}

/// The answer to `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HotReset {
    /// The driver does not know this ioctl, or the slot and bus can't be reset. Holds the errno's
    /// name.
    Unsupported(String),
    /// The number of devices that the reset would affect.
    Devices(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_documents() {
        let table = include_str!("../../docs/formats.md");
        for (reason, _) in REASONS {
            let row = format!("\n| `{reason}` | ");
            assert!(table.contains(&row), "{reason}");
        }
    }

    #[test]
    fn display_in_json() {
        for (display, json) in [
            (
                Display::from_answers(true, false),
                r#"{"display":["dmabuf"]}"#,
            ),
            (
                Display::from_answers(true, true),
                r#"{"display":["dmabuf","region"]}"#,
            ),
            (Display::NONE, r#"{"display":["none"]}"#),
            (
                Display::Unknown(Reason::InUse),
                r#"{"display":["unknown"],"reason":"in-use"}"#,
            ),
            (
                Display::Unknown(Reason::Other("soon".into())),
                r#"{"display":["unknown"],"reason":"soon"}"#,
            ),
        ] {
            let facts = Facts::of(display);
            assert_eq!(serde_json::to_string(&facts).unwrap(), json);
            assert_eq!(serde_json::from_str::<Facts>(json).unwrap(), facts);
        }
    }

    #[test]
    fn display_that_makes_no_sense() {
        for json in [
            r#"{"display":["unknown"],"reason":"No <such> word"}"#,
            r#"{"display":[]}"#,
            r#"{"display":["none","region"]}"#,
            r#"{"display":["gl"]}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Facts>(json).is_err(), "{json}");
        }
        // QEMU's choice comes first, whatever the order in the file.
        let facts: Facts =
            serde_json::from_str(r#"{"display":["region","dmabuf","region"]}"#).unwrap();
        assert_eq!(facts.display, Display::from_answers(true, true));
    }

    #[test]
    fn every_reason_has_its_word() {
        for (reason, _) in REASONS {
            assert_eq!(Reason::from(reason.to_string().as_str()), reason);
        }
    }
}
