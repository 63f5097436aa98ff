//! What a probe found, in the form in which it is kept.
//!
//! A record is JSON with `"format": 1`. Fields that this version does not know are ignored, so
//! that a newer gfxplane's records still serve; a higher format is refused.

use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, Method, OpenPath, Step};
use crate::facts::Facts;
use crate::names::DeviceId;

/// The format of records, and of all JSON that gfxplane prints.
pub const FORMAT: u32 = 1;

/// The largest record that is read or written, in bytes.
pub const MAX_SIZE: usize = 64 * 1024;

/// What a record depends on: if any of this differs, the record says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: String,
    /// The vfio driver.
    pub driver: Option<String>,
    /// Its module's version or srcversion.
    pub driver_version: Option<String>,
    /// The mdev type id, or the vGPU type of a virtual function.
    #[serde(rename = "type")]
    pub type_id: Option<String>,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The device that was asked.
    pub device: DeviceId,
    /// When it holds.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// What was found.
    pub facts: Facts,
    /// How the device was opened, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<OpenPath>,
    /// The step that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// Its errno's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
}

/// A text that is no record.
#[derive(Debug, thiserror::Error)]
pub enum NotARecord {
    /// It is not JSON, or not of this shape.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// It was written by a newer version.
    #[error("its format is {0}, this version reads {FORMAT}")]
    Format(u32),
    /// It is about another device than its file name says.
    #[error("it is about {0}")]
    OtherDevice(DeviceId),
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// [`NotARecord`] if it is damaged or of a higher format.
    pub fn parse(text: &str) -> Result<Self, NotARecord> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text)?;
        if head.format != FORMAT {
            return Err(NotARecord::Format(head.format));
        }
        let record: Record = serde_json::from_str(text)?;
        let is_errno =
            |name: &str| name.starts_with('E') && name.bytes().all(|b| b.is_ascii_alphanumeric());
        match &record.errno {
            Some(name) if !is_errno(name) && name != "UnknownErrno" => Err(NotARecord::Damaged(
                serde::de::Error::custom(format!("{name:?} is no errno")),
            )),
            _ => Ok(record),
        }
    }

    /// The text to keep: at most [`MAX_SIZE`] bytes; the regions of a device that has absurdly
    /// many are left out.
    #[must_use]
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

    /// How its facts are known. `method` is [`Method::Probe`] for the device itself,
    /// [`Method::Sibling`] for another of its type.
    #[must_use]
    pub fn evidence(&self, method: Method) -> Evidence {
        Evidence {
            path: self.path,
            driver: self.circumstances.driver.clone(),
            driver_version: self.circumstances.driver_version.clone(),
            kernel: Some(self.circumstances.kernel.clone()),
            step: self.step,
            errno: self.errno.clone(),
            ..Evidence::by(method)
        }
    }

    /// Whether another record, of this or another device, says the same, and when it holds.
    #[must_use]
    pub fn says_the_same(&self, other: &Record) -> bool {
        *self
            == Record {
                device: self.device,
                ..other.clone()
            }
    }

    /// Whether this record should take the place of `older`, which is valid, too: an attempt that
    /// could not ask the device must not wipe out what an earlier one measured.
    #[must_use]
    pub fn supersedes(&self, older: &Record) -> bool {
        self.facts.display.is_answer() || !older.facts.display.is_answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Display, Reason};

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
        }
    }

    #[test]
    fn to_text_and_back() {
        let record = record(Display::from_answers(true, false));
        assert_eq!(Record::parse(&record.to_text()).unwrap(), record);
    }

    #[test]
    fn what_is_no_record() {
        let text = record(Display::NONE).to_text();
        for (bad, expected) in [
            (String::new(), "it is damaged"),
            (text[..text.len() / 2].to_owned(), "it is damaged"),
            (
                text.replace("\"format\": 1", "\"format\": 2"),
                "its format is 2, this version reads 1",
            ),
            (text.replace("none", "perhaps"), "it is damaged"),
            ("[]".into(), "it is damaged"),
        ] {
            assert_eq!(
                Record::parse(&bad).unwrap_err().to_string(),
                expected,
                "{bad}"
            );
        }
    }

    #[test]
    fn a_record_stays_below_the_limit() {
        let mut big = record(Display::NONE);
        let region = crate::facts::Region {
            index: 1,
            flags: 7,
            offset: 1,
            size: 1,
            capabilities: vec![],
        };
        big.facts.device = Some(crate::facts::DeviceInfo {
            flags: 2,
            num_regions: 5000,
            num_irqs: 0,
            regions: vec![region; 5000],
            irqs: vec![],
            hot_reset: crate::facts::HotReset::Devices(0),
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
        // A deadline that was too short must not cost a measurement either.
        assert!(in_use.supersedes(&in_use) && !hung.supersedes(&known) && hung.supersedes(&in_use));
    }
}
