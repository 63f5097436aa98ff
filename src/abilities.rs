//! What the QEMU and the libvirt of a host can do, as far as it is known.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::version::Version;

/// What is known of QEMU and libvirt. Nothing known is not "can't": whatever depends on it is then
/// in doubt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// QEMU's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// The version of the libvirt that runs the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<Version>,
    /// The frontends that this QEMU has: `vnc`, `spice`, `spice-gl`, and what `-display help`
    /// lists (`dbus`, `egl-headless`, `sdl`). A distribution may leave any of them to a package
    /// of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<BTreeSet<String>>,
    /// Whether its spice takes OpenGL over TCP: QEMU 10.1 and later do if they were built with
    /// spice-server 0.15.3 or later, and carry the words of the refusal if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_gl_over_tcp: Option<bool>,
    /// `spice_listen` of qemu.conf, where spice listens unless the domain says otherwise: 127.0.0.1
    /// if it is not set. `None` if qemu.conf can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_listen: Option<String>,
    /// `vnc_listen` of qemu.conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_listen: Option<String>,
}

impl Abilities {
    /// Whether QEMU has a frontend; `None` if that is not known.
    #[must_use]
    pub fn has(&self, frontend: &str) -> Option<bool> {
        self.frontends
            .as_ref()
            .map(|frontends| frontends.contains(frontend))
    }
}
