//! What differs between versions of QEMU and libvirt, each with the commit that changed it.
//!
//! A limit that is known only to lie between two versions leaves those between in doubt: both
//! possibilities are tried.
//!
//! Whoever needs one of these limits, to decide or to name it, asks here.

use crate::abilities::Abilities;
use crate::names::DeviceId;
use crate::version::Version;

/// When something changed.
pub struct Change {
    /// The last version known to be without it.
    without: &'static [u32],
    /// The first version known to have it; the same as the one after `without` where the commit
    /// is known.
    with: &'static [u32],
}

impl Change {
    /// The first version known to have it.
    #[must_use]
    pub fn since(&self) -> Version {
        Version::of(self.with)
    }

    /// Whether a version has it; `None` in doubt.
    #[must_use]
    pub fn has(&self, version: &Version) -> Option<bool> {
        if *version >= self.since() {
            Some(true)
        } else if *version <= Version::of(self.without) {
            Some(false)
        } else {
            None
        }
    }
}

/// VNC binds itself to the first screen, and so is asked whether it can do dmabufs; a viewer that
/// chooses another screen has it asked again. QEMU 9.0.0, d4c199566f6f "ui/vnc: Do not use
/// console_select()". Before, it showed whatever screen was active and nobody asked (ui/vnc.c of
/// 8.2.2 and 9.2.1; measured with 7.2.22 and 10.0.13).
pub const VNC_BINDS: Change = Change {
    without: &[8, 2, 999],
    with: &[9, 0],
};

/// Spice with OpenGL may listen on TCP: QEMU 10.1.0, 376d4b22e4d7 and bd46161dd1be, if it was built
/// with spice-server 0.15.3 or later, which the version alone does not tell
/// ([`crate::abilities::Abilities::spice_gl_over_tcp`]).
pub const SPICE_GL_OVER_TCP: Change = Change {
    without: &[10, 0, 999],
    with: &[10, 1],
};

/// The OpRegion is handed on without being asked for: QEMU 10.1.0, 16cbb43302a2 "vfio/igd: Enable
/// OpRegion by default", and a device that has none is no longer refused.
pub const OPREGION_BY_DEFAULT: Change = Change {
    without: &[10, 0, 999],
    with: &[10, 1],
};

/// A region beyond the last one of a device is looked up out of bounds: 95cdb024515b (10.1.0). It
/// strikes when the screen is first drawn.
pub const REGION_FAULT: Change = Change {
    without: &[10, 0, 999],
    with: &[10, 1],
};

/// It no longer is: ecbe424a63c9 (10.2.0 and 10.1.3).
pub const REGION_FAULT_MENDED: Change = Change {
    without: &[10, 1, 2],
    with: &[10, 1, 3],
};

/// sdl can show a dmabuf: in QEMU 11.1.1, not in 10.2.2 (52053b7e0a0e), and only where it draws
/// with EGL.
const SDL_DMABUF: &[u32] = &[10, 3];

/// The words for a card with 3D that finds no OpenGL (hw/display/virtio-gpu-gl.c of 8.2.2 and 9.2.1).
const NO_OPENGL_SAID_AT_LENGTH: &[u32] = &[9, 0];

/// libvirt has qemu-vnc serve VNC from a dbus display that is on a bus (12.5.0, with QEMU 11.1;
/// NEWS): QEMU then gets no `-vnc` at all.
const VNC_FROM_DBUS: Change = Change {
    without: &[12, 4, 999],
    with: &[12, 5],
};

/// The first QEMU with qemu-vnc.
const QEMU_VNC: &[u32] = &[11, 1];

/// libvirt gives PCI hostdevs `display` and `ramfb` (10.3.0; libvirt docs/formatdomain.rst).
/// Older ones drop the attributes without a word.
pub const PCI_DISPLAY: Change = Change {
    without: &[10, 2, 999],
    with: &[10, 3],
};

/// libvirt has `<graphics type='dbus'>` (8.4.0; docs/formatdomain.rst).
const DBUS: Change = Change {
    without: &[8, 3, 999],
    with: &[8, 4],
};

/// libvirt has `<graphics type='rdp'>` for QEMU (11.1.0; docs/formatdomain.rst).
const RDP: Change = Change {
    without: &[11, 0, 999],
    with: &[11, 1],
};

/// libvirt hands devices to QEMU as JSON where QEMU takes it ([`DEVICE_JSON_QEMU`]): libvirt 7.9.0,
/// c9b13e0557.
const DEVICE_JSON: Change = Change {
    without: &[7, 8, 999],
    with: &[7, 9],
};

/// QEMU takes `-device` in JSON: 6.2.0, 5dacda5167.
const DEVICE_JSON_QEMU: Change = Change {
    without: &[6, 1, 999],
    with: &[6, 2],
};

/// libvirt does so only where QEMU can unplug such devices, from QEMU 7.0 on: libvirt 8.0.0.
pub const DEVICE_JSON_HOTPLUG: Change = Change {
    without: &[7, 10, 999],
    with: &[8, 0],
};

/// QEMU can: 7.0.0, 64b4529a43.
const DEVICE_JSON_HOTPLUG_QEMU: Change = Change {
    without: &[6, 2, 999],
    with: &[7, 0],
};

/// libvirt reads `<qemu:override>` (8.2.0; NEWS, docs/drvqemu.rst).
pub const OVERRIDE: Change = Change {
    without: &[8, 1, 999],
    with: &[8, 2],
};

/// Whether libvirt reads `<qemu:override>`; `None` if its version is not known.
#[must_use]
pub fn reads_override(abilities: &Abilities) -> Option<bool> {
    OVERRIDE.has(abilities.libvirt.as_ref()?)
}

/// Whether libvirt hands devices to QEMU as JSON, so that no `-set` finds them; `None` if that is not
/// known. `is_deleted` tells which of QEMU's capabilities the domain takes away.
#[must_use]
pub fn devices_are_json(abilities: &Abilities, is_deleted: impl Fn(&str) -> bool) -> Option<bool> {
    let with = |qemu: &Change, capability: &str| {
        if is_deleted(capability) {
            return Some(false);
        }
        qemu.has(abilities.qemu.as_ref()?)
    };
    let now = || with(&DEVICE_JSON_HOTPLUG_QEMU, "device.json+hotplug");
    let then = || with(&DEVICE_JSON_QEMU, "device.json");
    match &abilities.libvirt {
        Some(libvirt) if DEVICE_JSON_HOTPLUG.has(libvirt)? => now(),
        Some(libvirt) if DEVICE_JSON.has(libvirt)? => then(),
        Some(_) => Some(false),
        None if now() == Some(false) && then() == Some(false) => Some(false),
        None => None,
    }
}

/// QEMU names the display that has no OpenGL in "OpenGL is not supported by display backend": 9.1.0,
/// 7aea035a60.
const NO_OPENGL_NAMES_DISPLAY: &[u32] = &[9, 1];

/// QEMU opens the render node of its local display before it makes devices: 8.0.0, 0e1be59ed9.
const EGL_BEFORE_DEVICES: &[u32] = &[8, 0];

/// One QEMU that may be the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qemu {
    /// VNC binds itself to the first screen.
    pub vnc_binds: bool,
    /// Spice with OpenGL may listen on TCP.
    pub spice_gl_over_tcp: bool,
    /// The OpRegion is handed on by default, and asking for a missing one is no mistake.
    pub opregion_by_default: bool,
    /// SDL can show dmabufs.
    pub sdl_takes_dmabuf: bool,
    /// A region display may crash QEMU.
    pub region_fault: bool,
    /// How a card with 3D says that there is no OpenGL.
    pub no_opengl: &'static str,
    /// Whether the refusal of a local display without OpenGL names it.
    pub no_opengl_names_display: bool,
    /// Whether the local display opens its render node before there are devices.
    pub egl_before_devices: bool,
}

impl Qemu {
    /// Those that it may be; more than one where the version is not known or in doubt.
    #[must_use]
    pub fn possible(abilities: &Abilities) -> Vec<Self> {
        let Some(version) = &abilities.qemu else {
            // Nothing lies between the measured versions that neither of them does.
            return [&[7, 2][..], &[9, 0], &[10, 1]]
                .into_iter()
                .flat_map(|numbers| {
                    Self::possible(&Abilities {
                        qemu: Some(Version::of(numbers)),
                        ..abilities.clone()
                    })
                })
                .map(|qemu| Qemu {
                    region_fault: false,
                    ..qemu
                })
                .collect();
        };
        let from = |numbers: &[u32]| *version >= Version::of(numbers);
        let has = |change: &Change| change.has(version).unwrap_or(false);
        let over_tcp = match abilities.spice_gl_over_tcp {
            _ if !has(&SPICE_GL_OVER_TCP) => vec![false],
            Some(known) => vec![known],
            None => vec![true, false],
        };
        let sdl = if from(SDL_DMABUF) {
            vec![true, false]
        } else {
            vec![false]
        };
        let mut all = Vec::new();
        for spice_gl_over_tcp in over_tcp {
            for sdl_takes_dmabuf in &sdl {
                all.push(Qemu {
                    vnc_binds: has(&VNC_BINDS),
                    spice_gl_over_tcp,
                    opregion_by_default: has(&OPREGION_BY_DEFAULT),
                    sdl_takes_dmabuf: *sdl_takes_dmabuf,
                    region_fault: has(&REGION_FAULT) && !has(&REGION_FAULT_MENDED),
                    no_opengl: if from(NO_OPENGL_SAID_AT_LENGTH) {
                        "The display backend does not have OpenGL support enabled"
                    } else {
                        "opengl is not available"
                    },
                    no_opengl_names_display: from(NO_OPENGL_NAMES_DISPLAY),
                    egl_before_devices: from(EGL_BEFORE_DEVICES),
                });
            }
        }
        all
    }
}

/// One libvirt that may be the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Libvirt {
    /// PCI hostdevs have `display` and `ramfb`.
    pub pci_display: bool,
    /// There is `<graphics type='dbus'>`.
    pub dbus: bool,
    /// There is `<graphics type='rdp'>`.
    pub rdp: bool,
    /// VNC beside a dbus display on a bus is served by qemu-vnc.
    pub vnc_from_dbus: bool,
}

impl Libvirt {
    /// Those that it may be. An unknown version is taken for one that has everything or lacks
    /// everything.
    #[must_use]
    pub fn possible(abilities: &Abilities) -> Vec<Self> {
        let Some(version) = &abilities.libvirt else {
            let every = |has| Libvirt {
                pci_display: has,
                dbus: has,
                rdp: has,
                vnc_from_dbus: has,
            };
            return vec![every(true), every(false)];
        };
        let has = |change: &Change| change.has(version).unwrap_or(false);
        // qemu-vnc comes with QEMU 11.1, in a package of its own perhaps.
        let has_helper = match &abilities.qemu {
            Some(qemu) if *qemu < Version::of(QEMU_VNC) => vec![false],
            _ => vec![true, false],
        };
        let from_dbus = if has(&VNC_FROM_DBUS) {
            has_helper
        } else {
            vec![false]
        };
        from_dbus
            .into_iter()
            .map(|vnc_from_dbus| Libvirt {
                pci_display: has(&PCI_DISPLAY),
                dbus: has(&DBUS),
                rdp: has(&RDP),
                vnc_from_dbus,
            })
            .collect()
    }

    /// Whether it passes on `display` and `ramfb` of a device.
    #[must_use]
    pub fn takes_display(&self, id: DeviceId) -> bool {
        match id {
            DeviceId::Mdev(_) => true,
            DeviceId::Pci(_) => self.pci_display,
        }
    }
}
