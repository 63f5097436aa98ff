//! The subject of a refusal or a note.

use crate::device::id::{DeviceId, serialize_as_text};
use crate::domain::GraphicsType;

/// The subject of a refusal, or of a note in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// A vfio device of the domain.
    Device(DeviceId),
    /// A `<graphics>` of the domain.
    Graphics(GraphicsType),
    /// Another part of the domain, or the domain as a whole.
    Domain,
}

serialize_as_text!(About);

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            About::Device(id) => write!(f, "{id}"),
            About::Graphics(kind) => write!(f, "graphics {kind}"),
            About::Domain => f.write_str("domain"),
        }
    }
}

impl About {
    /// Returns a text with its subject and a colon before it (`graphics vnc: …`), unless the text
    /// contains the subject's name.
    pub fn before(&self, text: &str) -> String {
        let about = self.to_string();
        if text.contains(&about) {
            text.to_owned()
        } else {
            format!("{about}: {text}")
        }
    }
}
