//! What a QEMU that opened a device said of its display, in the form in which it is kept.
//!
//! It is no measurement. A QEMU that has no OpenGL shows with its start, or with the words of its
//! refusal, which interface it takes ([`crate::verify::said::display`]), and nothing else: what the device
//! offers beside that one stays unknown. And some of it is read from a file that a guest's own process writes
//! ([`crate::learn`]). So it is kept apart from the records of probes, holds for this one device, and
//! says nothing of its type.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::evidence::{Evidence, Method};
use crate::facts::Display;
use crate::names::DeviceId;
use crate::record::{Circumstances, FORMAT};
use crate::version::Version;

/// What QEMU said of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Testimony {
    /// [`FORMAT`].
    pub format: u32,
    /// The device that it opened.
    pub device: DeviceId,
    /// When it holds, as with a record.
    #[serde(flatten)]
    pub circumstances: Circumstances,
    /// What it takes: one interface, or none.
    #[serde(flatten)]
    pub display: Display,
    /// QEMU's version, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// The domain from whose log it was learned; none: a QEMU was started for the sake of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_from: Option<Uuid>,
}

/// A text that is no testimony.
#[derive(Debug, thiserror::Error)]
pub enum NotATestimony {
    /// It is not JSON, or not of this shape.
    #[error("it is damaged")]
    Damaged(#[from] serde_json::Error),
    /// It was written by a newer version.
    #[error("its format is {0}, this version reads {FORMAT}")]
    Format(u32),
    /// It says what no QEMU can tell.
    #[error("QEMU tells of one display interface or of none, never of {0}")]
    Display(String),
}

impl Testimony {
    /// Reads one.
    ///
    /// # Errors
    /// [`NotATestimony`] if it is damaged, of a higher format, or says what QEMU can't tell.
    pub fn parse(text: &str) -> Result<Self, NotATestimony> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text)?;
        if head.format != FORMAT {
            return Err(NotATestimony::Format(head.format));
        }
        let testimony: Testimony = serde_json::from_str(text)?;
        match &testimony.display {
            Display::Known(interfaces) if interfaces.len() <= 1 => Ok(testimony),
            other => Err(NotATestimony::Display(other.words().join(" and "))),
        }
    }

    /// The text to keep.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a testimony has only string keys");
        text + "\n"
    }

    /// How it is known.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let learned = |uuid: Uuid| format!("the log of domain {uuid}");
        Evidence {
            driver: self.circumstances.driver.clone(),
            driver_version: self.circumstances.driver_version.clone(),
            kernel: Some(self.circumstances.kernel.clone()),
            qemu: self.qemu.clone(),
            source: self.learned_from.map(learned),
            ..Evidence::by(Method::Qemu)
        }
    }

    /// Whether this should take the place of `older`, which holds, too: what a log shows must not
    /// wipe out what a QEMU said that was started to be asked.
    #[must_use]
    pub fn supersedes(&self, older: &Testimony) -> bool {
        self.learned_from.is_none() || older.learned_from.is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn testimony(display: Display, learned: bool) -> Testimony {
        Testimony {
            format: FORMAT,
            device: "11111111-2222-3333-4444-555555555555".parse().unwrap(),
            circumstances: Circumstances {
                boot_id: "b".into(),
                kernel: "6.12".into(),
                driver: Some("nvidia".into()),
                driver_version: Some("570.1".into()),
                type_id: Some("nvidia-63".into()),
            },
            display,
            qemu: Version::parse("10.0.13"),
            learned_from: learned.then_some(Uuid::nil()),
        }
    }

    #[test]
    fn to_text_and_back() {
        for learned in [true, false] {
            for display in [
                Display::NONE,
                Display::from_answers(true, false),
                Display::from_answers(false, true),
            ] {
                let testimony = testimony(display, learned);
                assert_eq!(Testimony::parse(&testimony.to_text()).unwrap(), testimony);
            }
        }
    }

    #[test]
    fn what_is_no_testimony() {
        let text = testimony(Display::from_answers(true, false), true).to_text();
        for (bad, expected) in [
            (text[..text.len() / 2].to_owned(), "it is damaged"),
            (
                text.replace("\"format\": 1", "\"format\": 2"),
                "its format is 2, this version reads 1",
            ),
            (
                text.replace("\"dmabuf\"", "\"dmabuf\", \"region\""),
                "QEMU tells of one display interface or of none, never of dmabuf and region",
            ),
            (
                text.replace("\"dmabuf\"", "\"unknown\""),
                "QEMU tells of one display interface or of none, never of unknown",
            ),
        ] {
            let error = Testimony::parse(&bad).unwrap_err();
            assert_eq!(error.to_string(), expected, "{bad}");
        }
    }

    #[test]
    fn a_log_does_not_overrule_a_qemu_that_was_asked() {
        let of = |learned| testimony(Display::NONE, learned);
        assert!(!of(true).supersedes(&of(false)));
        assert!(of(false).supersedes(&of(true)));
        assert!(of(true).supersedes(&of(true)) && of(false).supersedes(&of(false)));
    }
}
