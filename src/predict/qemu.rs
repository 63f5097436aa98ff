//! What QEMU does with its displays at start, in its order: early displays (spice, and whether
//! there is OpenGL at all), devices, then the frontends, each of which binds itself to screens
//! (`frontends`).
//!
//! A screen of a dmabuf device has the flags GL and DMABUF (QEMU hw/vfio/display.c).

use crate::abilities::Abilities;
use crate::domain::{GraphicsType, Reach};
use crate::predict::frontends::{self, Console, local, of_kind};
use crate::predict::versions::{Libvirt, Qemu};
use crate::predict::{About, Danger, Head, HeadOf, Program, Refusal, words};
use crate::screens::{Card, Found, Screens, Vgpu};

fn consoles(screens: &Screens, found: &[Found], libvirt: &Libvirt) -> Vec<Console> {
    let cards = screens.cards.iter().map(|card| {
        let model = card.model.clone().unwrap_or_else(|| "vga".into());
        Console {
            qxl: model == "qxl",
            of: HeadOf::Card(model),
            about: About::Domain,
            gl: card.gl,
            dmabuf: card.dmabuf,
        }
    });
    let vgpus = screens.vgpus.iter().zip(found);
    let vgpus = vgpus.filter(|(vgpu, found)| shows(vgpu, libvirt) && **found != Found::Nothing);
    cards
        .chain(vgpus.map(|(vgpu, found)| Console {
            of: HeadOf::Device(vgpu.id),
            about: About::Device(vgpu.id),
            gl: *found == Found::Dmabuf,
            dmabuf: *found == Found::Dmabuf,
            qxl: false,
        }))
        .collect()
}

/// Whether QEMU is told `display=on`.
fn shows(vgpu: &Vgpu, libvirt: &Libvirt) -> bool {
    vgpu.is_pci
        && vgpu.display
        && (libvirt.takes_display(vgpu.id) || vgpu.properties.contains_key("display"))
}

/// Why QEMU would refuse to start.
#[must_use]
pub fn refusal(
    screens: &Screens,
    found: &[Found],
    abilities: &Abilities,
    (libvirt, qemu): (&Libvirt, &Qemu),
) -> Option<Refusal> {
    let refuse = |about, message: String, always| {
        Some(Refusal {
            by: Program::Qemu,
            about,
            message,
            always,
        })
    };
    // -set is looked up among the -device options before any of them is made.
    if let Some(setting) = screens.dead_settings.first() {
        let id = setting.split('.').nth(1).unwrap_or_default();
        let message = words::filled(words::NO_SUCH_DEVICE, id);
        return refuse(About::Domain, message, false);
    }
    // libvirt knows only what was built, and a module may not be installed (measured on Debian 13).
    let local = local(screens);
    if let Some((kind, _)) = local
        && abilities.has(kind.word()) == Some(false)
    {
        let message = words::filled(words::DISPLAY_NOT_AVAILABLE, kind.word());
        return refuse(About::Graphics(kind), message, true);
    }
    let spice = of_kind(screens, GraphicsType::Spice);
    if let Some(spice) = spice
        && spice.gl
        && spice.reach != Reach::Local
        && !qemu.spice_gl_over_tcp
    {
        return refuse(
            About::Graphics(GraphicsType::Spice),
            words::SPICE_GL_LOCAL_ONLY.into(),
            false,
        );
    }
    let has_gl = local.is_some_and(|(_, gl)| gl);
    let opengl = has_gl || spice.is_some_and(|spice| spice.gl);
    if let Some(refusal) = device(screens, found, libvirt, qemu, opengl) {
        return Some(refusal);
    }
    let consoles = consoles(screens, found, libvirt);
    frontends::refusal(screens, &consoles, libvirt, qemu)
}

/// The first device that can't be made.
fn device(
    screens: &Screens,
    found: &[Found],
    libvirt: &Libvirt,
    qemu: &Qemu,
    opengl: bool,
) -> Option<Refusal> {
    let refuse = |about, message: String, always| {
        Some(Refusal {
            by: Program::Qemu,
            about,
            message,
            always,
        })
    };
    for card in screens.cards.iter().filter(|card| card.gl) {
        if !opengl {
            return refuse(About::Domain, qemu.no_opengl.into(), true);
        }
        if card.blob && !qemu.blob_with_virgl {
            return refuse(About::Domain, words::BLOB_AND_VIRGL.into(), false);
        }
    }
    let is_ramfb = |card: &Card| card.model.as_deref() == Some("ramfb");
    let mut once = Once {
        ramfb: screens.cards.iter().any(is_ramfb),
        opregion: false,
    };
    screens.vgpus.iter().zip(found).find_map(|(vgpu, found)| {
        let (words, always) =
            vfio_device(screens, vgpu, *found, (libvirt, qemu), opengl, &mut once)?;
        refuse(About::Device(vgpu.id), words, always)
    })
}

/// What a guest can have once.
struct Once {
    ramfb: bool,
    opregion: bool,
}

/// The words by which a vfio device can't be made, and whether they are said by every version. Its
/// properties are set first; then it is realized (hw/vfio/pci.c, `vfio_realize`), in this order.
fn vfio_device(
    screens: &Screens,
    vgpu: &Vgpu,
    found: Found,
    (libvirt, qemu): (&Libvirt, &Qemu),
    opengl: bool,
    once: &mut Once,
) -> Option<(String, bool)> {
    let say = |words: &str, always| Some((words.to_owned(), always));
    if !vgpu.is_pci {
        // libvirt hands the attribute on to devices that have no such property.
        let has_none = matches!(vgpu.model.as_str(), "vfio-ap" | "vfio-ccw");
        let property = format!("{}.display", vgpu.model);
        let words = words::filled(words::PROPERTY_NOT_FOUND, &property);
        return (has_none && vgpu.says_display).then_some((words, true));
    }
    let takes_ramfb = libvirt.takes_display(vgpu.id);
    if vgpu.lacks_ramfb(takes_ramfb) {
        return say(words::RAMFB_NOT_FOUND, true);
    }
    if vgpu.ramfb_mistyped {
        return say(words::RAMFB_IS_A_SWITCH, false);
    }
    // hw/vfio/igd.c: asked for, and the region is not there
    let opregion = vgpu.switch("x-igd-opregion");
    if opregion == Some(true)
        && vgpu.has_opregion() == Some(false)
        && let Some(words) = qemu.refuses_opregion(vgpu.id)
    {
        return say(words, false);
    }
    // hw/nvram/fw_cfg.c takes each file once.
    if opregion.unwrap_or(qemu.opregion_by_default)
        && vgpu.has_opregion() == Some(true)
        && std::mem::replace(&mut once.opregion, true)
    {
        return say(words::OPREGION_TWICE, true);
    }
    let on = shows(vgpu, libvirt);
    let ramfb = vgpu.says_ramfb(takes_ramfb) && vgpu.ramfb;
    if on && found == Found::Nothing {
        return say(words::NO_DISPLAY, true);
    }
    if on && found == Found::Dmabuf && !opengl {
        return say(words::DMABUF_NEEDS_OPENGL, true);
    }
    if on && ramfb && !screens.has_fw_cfg_dma {
        return say(words::RAMFB_NEEDS_FW_CFG, true);
    }
    if on && ramfb && std::mem::replace(&mut once.ramfb, true) {
        return say(words::RAMFB_TWICE, true);
    }
    if ramfb && !on {
        return say(words::RAMFB_NEEDS_DISPLAY, true);
    }
    let is_set = |name| vgpu.properties.get(name).is_some_and(|value| value != "0");
    if is_set("xres") || is_set("yres") {
        if !on {
            return say(words::MODES_NEED_DISPLAY, true);
        }
        if found == Found::Region || vgpu.has_edid() == Some(false) {
            return say(words::MODES_NEED_EDID, true);
        }
    }
    None
}

/// The screens and what shows them, if QEMU starts.
#[must_use]
pub fn heads(screens: &Screens, found: &[Found], libvirt: &Libvirt, qemu: &Qemu) -> Vec<Head> {
    let consoles = consoles(screens, found, libvirt);
    frontends::heads(screens, &consoles, libvirt, qemu)
}

/// What may happen once the guest runs.
#[must_use]
pub fn dangers(screens: &Screens, found: &[Found], libvirt: &Libvirt, qemu: &Qemu) -> Vec<Danger> {
    let consoles = consoles(screens, found, libvirt);
    frontends::dangers(screens, &consoles, libvirt, qemu)
}
