//! What the host's QEMU and libvirt can do. (Being written: this stands in for it.)

use std::path::Path;

use crate::abilities::Abilities;
use crate::host::{Root, Warning};

/// Whether QEMU may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Never.
    Cached,
    /// If nothing is known.
    Fresh,
}

/// What they can do.
#[must_use]
pub fn abilities(
    _root: &Root,
    _emulator: &Path,
    _asking: Asking,
    _warnings: &mut Vec<Warning>,
) -> Abilities {
    Abilities::default()
}
