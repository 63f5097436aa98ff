//! What QEMU does with its displays at start, in its order: early displays (spice, and whether
//! there is OpenGL at all), devices, then the frontends, each of which binds itself to screens
//! (`frontends`).
//!
//! A screen of a dmabuf device has the flags GL and DMABUF (QEMU hw/vfio/display.c).

use crate::domain::{GraphicsType, Reach};
use crate::predict::frontends::{self, Console, local, of_kind};
use crate::predict::versions::{Libvirt, Qemu};
use crate::predict::{About, Danger, Head, HeadOf, Refusal, Stage};
use crate::screens::{Found, Screens, Vgpu};

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

fn has_ramfb(vgpu: &Vgpu, libvirt: &Libvirt) -> bool {
    vgpu.is_pci
        && vgpu.ramfb
        && (libvirt.takes_display(vgpu.id) || vgpu.properties.contains_key("ramfb"))
}

/// Why QEMU would refuse to start.
#[must_use]
pub fn refusal(
    screens: &Screens,
    found: &[Found],
    libvirt: &Libvirt,
    qemu: &Qemu,
) -> Option<Refusal> {
    let refuse = |about, message: String, always| {
        Some(Refusal {
            stage: Stage::Qemu,
            about,
            message,
            always,
        })
    };
    // -set is looked up among the -device options before any of them is made.
    if let Some(setting) = screens.dead_settings.first() {
        let id = setting.split('.').nth(1).unwrap_or_default();
        let message = format!("there is no device \"{id}\" defined");
        return refuse(About::Domain, message, false);
    }
    let spice = of_kind(screens, GraphicsType::Spice);
    if let Some(spice) = spice
        && spice.gl
        && spice.reach != Reach::Local
        && !qemu.spice_gl_over_tcp
    {
        return refuse(
            About::Graphics(GraphicsType::Spice),
            "SPICE GL support is local-only for now and incompatible with -spice port/tls-port"
                .into(),
            false,
        );
    }
    let has_gl = |local: Option<(GraphicsType, bool)>| local.is_some_and(|(_, gl)| gl);
    let opengl = has_gl(local(screens)) || spice.is_some_and(|spice| spice.gl);
    device(screens, found, libvirt, qemu, opengl).or_else(|| {
        let consoles = consoles(screens, found, libvirt);
        frontends::refusal(screens, &consoles, libvirt, qemu)
    })
}

/// The first device that can't be made.
fn device(
    screens: &Screens,
    found: &[Found],
    libvirt: &Libvirt,
    qemu: &Qemu,
    opengl: bool,
) -> Option<Refusal> {
    for card in &screens.cards {
        if card.gl && !opengl {
            return Some(Refusal {
                stage: Stage::Qemu,
                about: About::Domain,
                message: qemu.no_opengl.into(),
                always: true,
            });
        }
    }
    let card = |model| {
        screens
            .cards
            .iter()
            .any(|c| c.model.as_deref() == Some(model))
    };
    let mut ramfb = card("ramfb");
    let mut opregion = false;
    for (vgpu, found) in screens.vgpus.iter().zip(found) {
        let refuse = |message: &str, always| {
            Some(Refusal {
                stage: Stage::Qemu,
                about: About::Device(vgpu.id),
                message: message.into(),
                always,
            })
        };
        if !vgpu.is_pci {
            continue;
        }
        let on = shows(vgpu, libvirt);
        // hw/vfio/pci.c, vfio_realize
        if has_ramfb(vgpu, libvirt) && !on {
            return refuse("ramfb=on requires display=on", true);
        }
        let modes = ["xres", "yres"];
        let is_set = |value: Option<&String>| value.is_some_and(|value| value != "0");
        let has_modes = modes.iter().any(|p| is_set(vgpu.properties.get(*p)));
        if has_modes && !on {
            return refuse("xres and yres properties require display=on", true);
        }
        // hw/vfio/igd.c: asked for, and the region is not there
        if vgpu.switch("x-igd-opregion") == Some(true)
            && vgpu.has_opregion() == Some(false)
            && !qemu.opregion_by_default
        {
            return refuse("Device does not supports IGD OpRegion feature", false);
        }
        // hw/nvram/fw_cfg.c takes each file once.
        if vgpu
            .switch("x-igd-opregion")
            .unwrap_or(qemu.opregion_by_default)
            && vgpu.has_opregion() == Some(true)
        {
            if opregion {
                return refuse("duplicate fw_cfg file name: etc/igd-opregion", true);
            }
            opregion = true;
        }
        if !on {
            continue;
        }
        match found {
            Found::Nothing => {
                return refuse("device doesn't support any (known) display method", true);
            }
            Found::Dmabuf if !opengl => {
                return refuse("vfio-display-dmabuf: opengl not available", true);
            }
            Found::Region if has_modes => {
                return refuse("xres and yres properties need edid support", true);
            }
            Found::Dmabuf if has_modes && vgpu.has_edid() == Some(false) => {
                return refuse("xres and yres properties need edid support", true);
            }
            Found::Dmabuf | Found::Region => {}
        }
        if has_ramfb(vgpu, libvirt) {
            if ramfb {
                return refuse(
                    "duplicate fw_cfg file name: vgaroms/vgabios-ramfb.bin",
                    true,
                );
            }
            ramfb = true;
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
