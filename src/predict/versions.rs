//! The differences between versions of QEMU and libvirt, each with the commit or the release notes
//! of the change. Code that depends on one of these versions, or names one, takes it from here.
//!
//! **Versions that nobody has read.** The table ends with [`LAST_QEMU`] and [`LAST_LIBVIRT`]. A
//! newer version may have dropped a refusal, as versions before it did. So its refusals are a doubt
//! ([`not_reviewed`]), unless every version refuses ([`Refusal::always`]). A predicted start
//! remains certain: both programs go on accepting what they once accepted, with one exception so
//! far ([`VNC_BINDS`]), and the daemon changes nothing that it has not tried. An unknown version
//! counts as newer, too.
//!
//! If you have read a newer version (docs/qemu-and-libvirt.md says what to look at), raise the
//! constant.

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::domain::Versions;
use crate::predict::abilities::Abilities;
use crate::predict::{Program, Refusal, qemu_messages};

/// The newest series of QEMU whose rules are known. 11.1.3 was read and measured; stable releases
/// of a series bring no new rules.
const LAST_QEMU: [u32; 2] = [11, 1];

/// The newest series of libvirt whose rules are known. 12.8.0 was read and measured.
const LAST_LIBVIRT: [u32; 2] = [12, 8];

/// Returns a remark if a version is newer than the last one whose rules are known; `None` if it
/// is not.
pub(crate) fn newer(program: Program, version: &Version) -> Option<String> {
    let [major, minor] = match program {
        Program::Qemu => LAST_QEMU,
        Program::Libvirt => LAST_LIBVIRT,
    };
    (*version > Version::of(&[major, minor, u32::MAX])).then(|| {
        let name = program.word();
        format!(
            "{name} {version} is newer than {major}.{minor}, the last version whose rules are known"
        )
    })
}

/// Returns why a refusal is not certain: the host's version is not known, or is newer than the last
/// one that was read, and so may have dropped the check. `None` if the refusal is certain.
pub(crate) fn not_reviewed(refusal: &Refusal, abilities: &Abilities) -> Option<String> {
    if refusal.always {
        return None;
    }
    let program = refusal.by();
    let version = match program {
        Program::Qemu => &abilities.qemu,
        Program::Libvirt => &abilities.libvirt,
    };
    match version {
        None => Some(format!("{}'s version is not known", program.word())),
        Some(version) => newer(program, version),
    }
}

/// A change between versions, by the first version that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change(&'static [u32]);

impl Change {
    /// Returns the first version that has the change.
    pub(crate) fn since(&self) -> Version {
        Version::of(self.0)
    }

    /// Returns whether a version has the change.
    pub(crate) fn is_in(&self, version: &Version) -> bool {
        version.is_from(self.0)
    }
}

/// Returns the versions of QEMU that have a fault.
const fn fault(since: &'static [u32], until: &'static [u32]) -> Versions {
    Versions {
        since,
        until,
        always: false,
    }
}

/// VNC binds itself to the first screen, and QEMU asks whether VNC can show that screen's dmabufs.
/// If a viewer chooses another screen, QEMU asks again. QEMU 9.0.0, d4c199566f6f "ui/vnc: Do not
/// use console_select()". Before, VNC showed whatever screen was active, and QEMU did not ask
/// (ui/vnc.c of 8.2.2 and 9.2.1; measured with 7.2.22 and 10.0.13).
pub(crate) const VNC_BINDS: Change = Change(&[9, 0]);

/// Spice with OpenGL may listen on TCP: QEMU 10.1.0, 376d4b22e4d7 and bd46161dd1be, if it was built
/// with spice-server 0.15.3 or later. The version alone does not show whether it was
/// ([`crate::predict::abilities::Abilities::spice_gl_over_tcp`]).
pub(crate) const SPICE_GL_OVER_TCP: Change = Change(&[10, 1]);

/// QEMU passes on the OpRegion by default, and no longer refuses a device without one: QEMU 10.1.0,
/// 16cbb43302a2 "vfio/igd: Enable OpRegion by default".
pub(crate) const OPREGION_BY_DEFAULT: Change = Change(&[10, 1]);

/// When QEMU first draws the screen, it reads beyond the end of its list of the device's regions:
/// since 95cdb024515b (10.1.0), fixed by ecbe424a63c9 (10.2.0 and 10.1.3).
pub(crate) const REGION_FAULT: Versions = fault(&[10, 1], &[10, 1, 3]);

/// sdl can show a dmabuf (52053b7e0a0e), but only where it draws with EGL. QEMU 10.2.2 can't and
/// 11.1.3 can; 11.0 was not read.
const SDL_DMABUF: Change = Change(&[11, 0]);

/// A card with 3D that finds no OpenGL is refused with another message: QEMU 9.1.0, 0fa57cbfa7.
pub(crate) const NO_OPENGL_SAID_AT_LENGTH: Change = Change(&[9, 1]);

/// QEMU refuses a device without the requested OpRegion with another message, and no longer refuses
/// a PCI device that is not Intel's: QEMU 10.0.0, ae9d9ec4a6 and e46b7af508.
const OPREGION_BY_IGD: Change = Change(&[10, 0]);

/// A virtio card may have blob resources and 3D: QEMU 9.2.0, 7c092f17cc.
pub(crate) const BLOB_WITH_VIRGL: Change = Change(&[9, 2]);

/// A dmabuf has no size, so a screen that ramfb has shown stays black: since 9ac06df8b6 (8.1.0),
/// fixed by 931150e56b (8.2.0 and 8.1.2).
pub(crate) const DMABUF_WITHOUT_SIZE: Versions = fault(&[8, 1], &[8, 1, 2]);

/// Spice with OpenGL ends QEMU when a guest's screen is switched off, as at a reset, if QEMU was
/// built with a spice-server before 0.15.3: since 98a050ca93 (10.1.0), fixed by 62fd247a24 (10.2.0
/// and 10.1.1).
pub(crate) const RESET_ENDS_GUEST: Versions = fault(&[10, 1], &[10, 1, 1]);

/// libvirt lets qemu-vnc serve VNC from a dbus display that is on a bus (12.5.0, with QEMU 11.1;
/// NEWS): QEMU then gets no `-vnc` at all.
const VNC_FROM_DBUS: Change = Change(&[12, 5]);

/// The first QEMU with qemu-vnc.
const QEMU_VNC: Change = Change(&[11, 1]);

/// libvirt accepts `display` and `ramfb` on PCI hostdevs (10.3.0; libvirt docs/formatdomain.rst).
/// Older versions drop the attributes silently.
pub(crate) const PCI_DISPLAY: Change = Change(&[10, 3]);

/// libvirt has `<graphics type='dbus'>` (8.4.0; docs/formatdomain.rst).
pub(crate) const DBUS: Change = Change(&[8, 4]);

/// libvirt has `<graphics type='rdp'>` for QEMU (11.1.0; docs/formatdomain.rst).
pub(crate) const RDP: Change = Change(&[11, 1]);

/// libvirt describes devices to QEMU in JSON if QEMU accepts it ([`DEVICE_JSON_QEMU`]): libvirt
/// 7.9.0, c9b13e0557.
const DEVICE_JSON: Change = Change(&[7, 9]);

/// QEMU accepts `-device` in JSON: 6.2.0, 5dacda5167.
const DEVICE_JSON_QEMU: Change = Change(&[6, 2]);

/// libvirt describes devices in JSON only if QEMU can unplug such devices, from QEMU 7.0 on:
/// libvirt 8.0.0.
pub(crate) const DEVICE_JSON_HOTPLUG: Change = Change(&[8, 0]);

/// QEMU can unplug devices in JSON: 7.0.0, 64b4529a43.
const DEVICE_JSON_HOTPLUG_QEMU: Change = Change(&[7, 0]);

/// libvirt reads `<qemu:override>` (8.2.0; NEWS, docs/drvqemu.rst).
pub(crate) const OVERRIDE: Change = Change(&[8, 2]);

/// Returns whether libvirt reads `<qemu:override>`; `None` if its version is not known.
pub(crate) fn reads_override(abilities: &Abilities) -> Option<bool> {
    Some(OVERRIDE.is_in(abilities.libvirt.as_ref()?))
}

/// Returns whether libvirt describes devices to QEMU in JSON, so that no `-set` finds them; `None`
/// if that is not known. `is_deleted` returns whether the domain removes a capability of QEMU's.
pub(crate) fn devices_are_json(
    abilities: &Abilities,
    is_deleted: impl Fn(&str) -> bool,
) -> Option<bool> {
    let with = |qemu: &Change, capability: &str| {
        if is_deleted(capability) {
            return Some(false);
        }
        Some(qemu.is_in(abilities.qemu.as_ref()?))
    };
    let now = || with(&DEVICE_JSON_HOTPLUG_QEMU, "device.json+hotplug");
    let then = || with(&DEVICE_JSON_QEMU, "device.json");
    match &abilities.libvirt {
        Some(libvirt) if DEVICE_JSON_HOTPLUG.is_in(libvirt) => now(),
        Some(libvirt) if DEVICE_JSON.is_in(libvirt) => then(),
        Some(_) => Some(false),
        None if now() == Some(false) && then() == Some(false) => Some(false),
        None => None,
    }
}

/// QEMU's refusal of a display without OpenGL ("OpenGL is not supported by display backend") names
/// the display: 9.1.0, 7aea035a60.
pub(crate) const NO_OPENGL_NAMES_DISPLAY: Change = Change(&[9, 1]);

/// QEMU opens the render node of its local display before it makes devices: 8.0.0, 0e1be59ed9.
pub(crate) const EGL_BEFORE_DEVICES: Change = Change(&[8, 0]);

/// Audio of type dbus needs a dbus display: after 10.2 (audio/dbusaudio.c). 10.0.13 starts without
/// one, and 11.1.3 does not (measured); 11.0 was not read.
pub(crate) const AUDIO_NEEDS_DBUS: Change = Change(&[11, 0]);

/// One of the QEMUs that the host may have; several if its version is not known, or if more than
/// the version decides ([`Qemu::possible`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qemu {
    version: Version,
    /// True if this is the host's version, and not one of several that the host may have.
    is_known: bool,
    /// True if spice with OpenGL may listen on TCP.
    pub spice_gl_over_tcp: bool,
    /// True if sdl can show dmabufs.
    pub sdl_takes_dmabuf: bool,
}

impl Qemu {
    /// Returns whether this QEMU has a change.
    pub(crate) fn has(&self, change: Change) -> bool {
        change.is_in(&self.version)
    }

    /// Returns whether this QEMU certainly has a fault. False if the version is not known, because
    /// few versions have a fault.
    pub(crate) fn has_fault(&self, fault: Versions) -> bool {
        self.is_known && fault.contains(&self.version)
    }

    /// Returns QEMU's message if it refuses a device without the requested OpRegion; `None` if it
    /// accepts the device.
    pub(crate) fn refuses_opregion(&self, id: DeviceId) -> Option<&'static str> {
        match id {
            _ if self.has(OPREGION_BY_DEFAULT) => None,
            DeviceId::Pci(_) if self.has(OPREGION_BY_IGD) => None,
            _ if self.has(OPREGION_BY_IGD) => Some(qemu_messages::NO_OPREGION_BY_IGD),
            _ => Some(qemu_messages::NO_OPREGION),
        }
    }

    /// Returns the QEMUs that the host may have: several if the version is not known, or if more
    /// than the version decides.
    pub(crate) fn possible(abilities: &Abilities) -> Vec<Self> {
        let versions = match &abilities.qemu {
            Some(version) => vec![version.clone()],
            // Each version in between acts as one of these does.
            None => [&[7, 2][..], &[9, 0], &[10, 1], &LAST_QEMU]
                .map(Version::of)
                .into(),
        };
        let mut all = Vec::new();
        for version in versions {
            let over_tcp = match abilities.spice_gl_over_tcp {
                _ if !SPICE_GL_OVER_TCP.is_in(&version) => vec![false],
                Some(known) => vec![known],
                None => vec![true, false],
            };
            // sdl needs a window with EGL. Under Xvfb on sid, the window had no EGL (measured).
            let sdl = [false]
                .into_iter()
                .chain(SDL_DMABUF.is_in(&version).then_some(true));
            for spice_gl_over_tcp in over_tcp {
                all.extend(sdl.clone().map(|sdl_takes_dmabuf| Qemu {
                    version: version.clone(),
                    is_known: abilities.qemu.is_some(),
                    spice_gl_over_tcp,
                    sdl_takes_dmabuf,
                }));
            }
        }
        all
    }
}

/// One of the libvirts that the host may have; several if its version is not known, or if more than
/// the version decides ([`Libvirt::possible`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Libvirt {
    version: Version,
    /// True if libvirt lets qemu-vnc serve VNC if the domain has a dbus display on a bus.
    pub vnc_from_dbus: bool,
}

impl Libvirt {
    /// Returns the libvirts that the host may have. For an unknown version: one with every change,
    /// and one with none. For a known version: one, or two if it can use qemu-vnc and QEMU may have
    /// that: one that does, and one that does not.
    pub(crate) fn possible(abilities: &Abilities) -> Vec<Self> {
        let of = |version: &Version, vnc_from_dbus| Libvirt {
            version: version.clone(),
            vnc_from_dbus,
        };
        match (&abilities.libvirt, &abilities.qemu) {
            (None, _) => vec![
                of(&Version::of(&[u32::MAX]), true),
                of(&Version::of(&[0]), false),
            ],
            (Some(version), _) if !VNC_FROM_DBUS.is_in(version) => vec![of(version, false)],
            // qemu-vnc comes with QEMU 11.1, perhaps in a package of its own.
            (Some(version), Some(qemu)) if !QEMU_VNC.is_in(qemu) => vec![of(version, false)],
            (Some(version), _) => vec![of(version, true), of(version, false)],
        }
    }

    /// Returns whether this libvirt has a change.
    pub(crate) fn has(&self, change: Change) -> bool {
        change.is_in(&self.version)
    }

    /// Returns whether this libvirt is one of the versions that have a check.
    pub(crate) fn has_check(&self, versions: Versions) -> bool {
        versions.contains(&self.version)
    }

    /// Returns whether this libvirt passes the attributes `display` and `ramfb` of a device on to
    /// QEMU.
    pub(crate) fn takes_display(&self, id: DeviceId) -> bool {
        match id {
            DeviceId::Mdev(_) => true,
            DeviceId::Pci(_) => self.has(PCI_DISPLAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_read() {
        let newer = |program, text: &str| newer(program, &text.parse().unwrap()).is_some();
        assert!(!newer(Program::Qemu, "11.1.99") && newer(Program::Qemu, "11.2.0"));
        assert!(!newer(Program::Libvirt, "12.8.0") && newer(Program::Libvirt, "12.9.0"));
    }

    #[test]
    fn the_readme_names_the_last_version() {
        let [major, minor] = LAST_QEMU;
        let words = format!("For a QEMU after {major}.{minor}, gfxplane only warns");
        assert!(include_str!("../../README.md").contains(&words), "{words}");
    }

    #[test]
    fn only_what_every_version_refuses_is_certain() {
        let refusal = |always| {
            let stage = crate::predict::Stage::Qemu;
            Refusal::new(stage, crate::predict::About::Domain, "", always)
        };
        let abilities = |qemu: Option<&str>| Abilities {
            qemu: qemu.map(|text| text.parse().unwrap()),
            ..Abilities::default()
        };
        for (qemu, always, is_certain) in [
            (Some("10.0.13"), false, true),
            (Some("12.0"), false, false),
            (Some("12.0"), true, true),
            (None, false, false),
            (None, true, true),
        ] {
            let why = not_reviewed(&refusal(always), &abilities(qemu));
            assert_eq!(why.is_none(), is_certain, "{qemu:?} {always}");
        }
    }
}
