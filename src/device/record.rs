//! The record of a device's display: the answer of the device, or of a QEMU that opened it.
//!
//! A record is JSON with `"format": 1`. Fields that this version does not know are ignored, so that
//! a newer gfxplane's records can still be used; any other format is refused.
//!
//! An answer of QEMU is no measurement. A QEMU without OpenGL shows only which interface it uses,
//! when it starts or by the message with which it refuses; the device may have other interfaces.
//! And the answer may come from the domain's log, which a guest's own process writes. So QEMU's
//! answers have a directory of their own, and are evidence about the one device, not about its
//! type.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::device::evidence::{Evidence, Method, OpenPath, Step};
use crate::device::facts::{Display, Facts};
use crate::device::id::DeviceId;
use crate::device::version::Version;

/// The format of records, and of all JSON that gfxplane prints.
pub const FORMAT: u32 = 1;

/// The largest record that is read or written, in bytes.
pub const MAX_SIZE: usize = 64 * 1024;

/// The circumstances on which a record depends. If any of them has changed, the record is no longer
/// valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// The vfio driver that is bound to the device.
    pub driver: Option<String>,
    /// The version of the driver's module or, without one, its srcversion.
    pub driver_version: Option<String>,
    /// The mdev type id, or the vGPU type of a virtual function.
    #[serde(rename = "type")]
    pub type_id: Option<String>,
}

/// The QEMU that opened a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByQemu {
    /// QEMU's version, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The domain from whose log QEMU's answer was learned. `None` if QEMU was started for our
    /// question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_from: Option<Uuid>,
}

/// The result of asking a device once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version, [`FORMAT`].
    pub format: u32,
    /// The device that was asked.
    pub device: DeviceId,
    /// The circumstances under which the record is valid.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// The facts in the answer of the device or of QEMU.
    pub facts: Facts,
    /// The interface through which the device was opened; `None` if it was not opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OpenPath>,
    /// The step that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The name of the errno with which the step failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The QEMU that answered. `None` if the device itself was probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<ByQemu>,
}

/// The error for a text that should be a record, or another JSON document of ours, but is not.
#[derive(Debug, thiserror::Error)]
pub enum NotARecord {
    /// The text is not JSON, or not of the document's form.
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// The document has another format than [`FORMAT`]: a newer version wrote it.
    #[error("its format is {0}, but this version reads {FORMAT}")]
    Format(u32),
    /// The record is about another device than its file name says.
    #[error("it is about {0}")]
    OtherDevice(DeviceId),
    /// A record of QEMU has several interfaces or an unknown display. A QEMU uses one interface or
    /// none.
    #[error("a record of QEMU has one display interface or none, not {0}")]
    Display(String),
}

/// Reads a JSON document of ours.
///
/// # Errors
/// [`NotARecord`] if the document is damaged or of another format than [`FORMAT`].
pub(crate) fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, NotARecord> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(text)?;
    if head.format != FORMAT {
        return Err(NotARecord::Format(head.format));
    }
    Ok(serde_json::from_slice(text)?)
}

impl Record {
    /// Makes the record of the interface that a QEMU used when it opened the device.
    pub(crate) fn of_qemu(
        device: DeviceId,
        circumstances: Circumstances,
        display: Display,
        qemu: ByQemu,
    ) -> Self {
        Record {
            format: FORMAT,
            device,
            circumstances,
            facts: Facts::of(display),
            path: None,
            step: None,
            errno: None,
            qemu: Some(qemu),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`NotARecord`], except for [`NotARecord::OtherDevice`].
    pub fn parse(text: &str) -> Result<Self, NotARecord> {
        let record: Record = from_json(text.as_bytes())?;
        if record.qemu.is_some()
            && !matches!(&record.facts.display, Display::Known(taken) if taken.len() <= 1)
        {
            let words = record.facts.display.words().join(" and ");
            return Err(NotARecord::Display(words));
        }
        let is_errno =
            |name: &str| name.starts_with('E') && name.bytes().all(|b| b.is_ascii_alphanumeric());
        match &record.errno {
            Some(name) if !is_errno(name) && name != "UnknownErrno" => Err(NotARecord::Damaged(
                serde::de::Error::custom(format!("{name:?} is no errno")),
            )),
            _ => Ok(record),
        }
    }

    /// Returns the text to keep, at most [`MAX_SIZE`] bytes. Leaves out [`Facts::device`] if a
    /// device has absurdly many regions.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a record has only string keys");
        if text.len() >= MAX_SIZE {
            let mut facts = self.facts.clone();
            facts.device = None;
            text = serde_json::to_string_pretty(&Record {
                facts,
                ..self.clone()
            })
            .expect("a record has only string keys");
        }
        text.push('\n');
        text
    }

    /// Returns the evidence about the record's own device: a probe, or the QEMU that opened the
    /// device.
    pub fn evidence(&self) -> Evidence {
        self.evidence_by(match &self.qemu {
            Some(_) => Method::Qemu,
            None => Method::Probe,
        })
    }

    /// Returns the record as evidence of another kind: [`Method::Sibling`] for a device of the same
    /// type.
    pub(crate) fn evidence_by(&self, method: Method) -> Evidence {
        let qemu = self.qemu.as_ref();
        let learned = qemu.and_then(|qemu| qemu.learned_from);
        Evidence {
            qemu: qemu.and_then(|qemu| qemu.version.clone()),
            source: learned.map(|uuid| format!("the log of domain {uuid}")),
            path: self.path,
            driver: self.circumstances.driver.clone(),
            driver_version: self.circumstances.driver_version.clone(),
            kernel: Some(self.circumstances.kernel.clone()),
            step: self.step,
            errno: self.errno.clone(),
            ..Evidence::by(method)
        }
    }

    /// Returns whether this record should replace `older`, which is still valid. A record without
    /// an answer ([`Display::is_answer`]) must not replace one with an answer. An answer from a log
    /// must not replace that of a QEMU that was started for our question.
    pub(crate) fn supersedes(&self, older: &Record) -> bool {
        match (&self.qemu, &older.qemu) {
            (Some(new), Some(old)) => new.learned_from.is_none() || old.learned_from.is_some(),
            _ => self.facts.display.is_answer() || !older.facts.display.is_answer(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::device::facts::{Display, Reason};

    pub(crate) fn record(display: Display) -> Record {
        Record {
            format: FORMAT,
            device: "11111111-2222-3333-4444-555555555555".parse().unwrap(),
            circumstances: Circumstances {
                boot_id: "b".into(),
                kernel: "6.12".into(),
                driver: Some("mbochs".into()),
                driver_version: None,
                type_id: Some("mbochs-small".into()),
            },
            facts: Facts::of(display),
            path: Some(OpenPath::Group),
            step: None,
            errno: None,
            qemu: None,
        }
    }

    pub(crate) fn said_by_qemu(display: Display, learned: bool) -> Record {
        Record {
            path: None,
            qemu: Some(ByQemu {
                version: Version::parse("10.0.13"),
                learned_from: learned.then_some(Uuid::nil()),
            }),
            ..record(display)
        }
    }

    #[test]
    fn to_text_and_back() {
        let display = || Display::from_answers(true, false);
        for record in [
            record(display()),
            said_by_qemu(display(), true),
            said_by_qemu(Display::NONE, false),
        ] {
            assert_eq!(Record::parse(&record.to_text()).unwrap(), record);
        }
    }

    #[test]
    fn what_is_no_record() {
        let text = record(Display::NONE).to_text();
        let said = said_by_qemu(Display::from_answers(true, false), true).to_text();
        for (bad, expected) in [
            (String::new(), "it is damaged: EOF"),
            (text[..text.len() / 2].to_owned(), "it is damaged: EOF"),
            (
                text.replace("\"format\": 1", "\"format\": 2"),
                "its format is 2, but this version reads 1",
            ),
            (text.replace("none", "perhaps"), "it is damaged: "),
            ("[]".into(), "it is damaged: "),
            (
                said.replace("\"dmabuf\"", "\"dmabuf\", \"region\""),
                "a record of QEMU has one display interface or none, not dmabuf and region",
            ),
            (
                said.replace("\"dmabuf\"", "\"unknown\""),
                "a record of QEMU has one display interface or none, not unknown",
            ),
        ] {
            let error = Record::parse(&bad).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn a_record_stays_below_the_limit() {
        let mut big = record(Display::NONE);
        let region = crate::device::facts::Region {
            index: 1,
            flags: 7,
            offset: 1,
            size: 1,
            capabilities: vec![],
        };
        big.facts.device = Some(crate::device::facts::DeviceInfo {
            flags: 2,
            num_regions: 5000,
            num_irqs: 0,
            regions: vec![region; 5000],
            irqs: vec![],
            hot_reset: crate::device::facts::HotReset::Devices(0),
            edid: None,
        });
        let text = big.to_text();
        assert!(text.len() <= MAX_SIZE);
        assert_eq!(Record::parse(&text).unwrap().facts.display, Display::NONE);
    }

    #[test]
    fn a_failed_attempt_does_not_wipe_out_a_measurement() {
        let (known, in_use) = (
            record(Display::NONE),
            record(Display::Unknown(Reason::InUse)),
        );
        let hung = record(Display::Unknown(Reason::TimedOut));
        assert!(!in_use.supersedes(&known) && known.supersedes(&in_use));
        let said = |learned| said_by_qemu(Display::NONE, learned);
        assert!(!said(true).supersedes(&said(false)) && said(false).supersedes(&said(true)));
        assert!(said(true).supersedes(&said(true)) && said(false).supersedes(&said(false)));
        // A probe with too short a deadline must not cost a measurement, either.
        assert!(in_use.supersedes(&in_use) && !hung.supersedes(&known) && hung.supersedes(&in_use));
    }
}
