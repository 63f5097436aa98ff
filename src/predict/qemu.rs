//! What QEMU does with its displays at start, in its order: early displays (spice, and whether
//! there is OpenGL at all), devices, then the frontends, each of which binds itself to screens
//! (`frontends`).
//!
//! A screen of a dmabuf device has the flags GL and DMABUF (QEMU hw/vfio/display.c).

use crate::abilities::Abilities;
use crate::arguments::{Device, Local, Setting};
use crate::domain::{GraphicsType, Reach};
use crate::predict::frontends::{self, Console, libvirts_local, local, of_kind};
use crate::predict::versions::{Libvirt, Qemu};
use crate::predict::{About, Danger, Head, HeadOf, Refusal, Stage};
use crate::screens::{Card, Found, Screens, Vgpu};

fn consoles(screens: &Screens, found: &[Found], libvirt: &Libvirt) -> Vec<Console> {
    let console = |card: &Card| {
        let model = card.model.clone().unwrap_or_else(|| "vga".into());
        Console {
            qxl: model == "qxl",
            of: HeadOf::Card(model),
            about: About::Domain,
            gl: card.gl,
            dmabuf: card.dmabuf,
            no_mmap: false,
        }
    };
    let before = screens.cards_before.iter().chain(&screens.cards);
    let vgpus = screens.vgpus.iter().zip(found);
    let vgpus = vgpus.filter(|(vgpu, found)| shows(vgpu, libvirt) && **found != Found::Nothing);
    before
        .map(console)
        .chain(vgpus.map(|(vgpu, found)| Console {
            of: HeadOf::Device(vgpu.id),
            about: About::Device(vgpu.id),
            gl: *found == Found::Dmabuf,
            dmabuf: *found == Found::Dmabuf,
            qxl: false,
            no_mmap: *found == Found::Region && vgpu.switch("x-no-mmap") == Some(true),
        }))
        .chain(screens.cards_after.iter().map(console))
        .collect()
}

/// Whether QEMU is told `display=on`.
fn shows(vgpu: &Vgpu, libvirt: &Libvirt) -> bool {
    vgpu.is_pci
        && vgpu.display
        && (libvirt.takes_display(vgpu.id) || vgpu.said("display").is_some())
}

fn has_ramfb(vgpu: &Vgpu, libvirt: &Libvirt) -> bool {
    vgpu.is_pci && vgpu.ramfb && (libvirt.takes_display(vgpu.id) || vgpu.said("ramfb").is_some())
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
            stage: Stage::Qemu,
            about,
            message,
            always,
        })
    };
    // -set is looked up among the -device options before any of them is made.
    if let Some(setting) = screens.dead_settings.first() {
        let message = match Setting::read(setting) {
            Some(Setting { id, .. }) => format!("there is no device \"{id}\" defined"),
            None => format!("can't parse: \"{setting}\""),
        };
        return refuse(About::Domain, message, false);
    }
    if let Some(message) = early_display(screens, abilities, qemu) {
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
    let slot = screens.slot_taken.as_ref();
    let own_device = |json| {
        let lacks = |device: &Device| screens.lacks_its_node(device) == Some(true);
        let mut own = screens.own_vfio();
        let device = own.find(|device| device.json == json && lacks(device))?;
        let about = device.vfio_id().map_or(About::Domain, About::Device);
        // hw/vfio/container.c; the namespace has none but those of the domain's hostdevs.
        let message = "Could not open '/dev/vfio/N': No such file or directory";
        refuse(about, message.into(), false)
    };
    // Those in option syntax come before libvirt's.
    own_device(false)
        .or_else(|| refuse(About::Domain, slot?.clone(), false))
        .or_else(|| device(screens, found, libvirt, qemu, opengl))
        .or_else(|| own_device(true))
        .or_else(|| refuse(About::Domain, late_display(screens, qemu)?, false))
        .or_else(|| {
            let consoles = consoles(screens, found, libvirt);
            frontends::refusal(screens, &consoles, libvirt, qemu)
        })
}

/// How a local display of the user's own fails before there are devices (system/vl.c,
/// `qemu_create_early_backends`).
fn early_display(screens: &Screens, abilities: &Abilities, qemu: &Qemu) -> Option<String> {
    let own = screens.arguments.display.as_ref()?;
    let name = own.kind.word()?;
    // libvirt, which is asked, knows nothing of the others.
    let is_known = matches!(own.kind, Local::EglHeadless | Local::Dbus | Local::Sdl);
    if is_known && abilities.has(name) == Some(false) {
        return Some(format!("Display '{name}' is not available."));
    }
    match own.kind {
        Local::EglHeadless | Local::Dbus => {
            return no_render_node(screens).filter(|_| qemu.egl_before_devices);
        }
        Local::None | Local::NoGraphic => {}
        // It has OpenGL if it can open a screen.
        Local::Gtk if !screens.has_a_screen => {}
        _ => return None,
    }
    let before = libvirts_local(screens).filter(|(kind, _)| *kind != GraphicsType::EglHeadless);
    let gl = match own.gl {
        // The type is another, and the rest of libvirt's -display stays.
        None if own.kind == Local::NoGraphic => before.is_some_and(|(_, gl)| gl),
        gl => gl == Some(true),
    };
    gl.then(|| {
        if qemu.no_opengl_names_display {
            format!("OpenGL is not supported by display backend '{name}'")
        } else {
            "OpenGL is not supported by the display".into()
        }
    })
}

/// How one fails behind the devices.
fn late_display(screens: &Screens, qemu: &Qemu) -> Option<String> {
    match screens.arguments.display.as_ref()?.kind {
        Local::EglHeadless | Local::Dbus if !qemu.egl_before_devices => no_render_node(screens),
        Local::Gtk if !screens.has_a_screen => Some("gtk initialization failed".into()),
        // libvirt gives it none.
        Local::Curses => Some("We need a terminal output".into()),
        _ => None,
    }
}

/// What QEMU says where the guest's `/dev` has no render node for a local display of the user's own.
fn no_render_node(screens: &Screens) -> Option<String> {
    let (_, gl) = local(screens)?;
    (gl && screens.has_render_node() == Some(false))
        .then(|| "egl: no drm render node available".into())
}

/// The first device that can't be made.
fn device(
    screens: &Screens,
    found: &[Found],
    libvirt: &Libvirt,
    qemu: &Qemu,
    opengl: bool,
) -> Option<Refusal> {
    // hw/display/qxl.c, qxl_realize_primary
    let is_qxl = |card: &Card| card.model.as_deref() == Some("qxl");
    if !screens.cards_before.is_empty() && screens.cards.first().is_some_and(is_qxl) {
        let message =
            "primary qxl-vga device must be console 0 (first display device on the command line)";
        return Some(Refusal {
            stage: Stage::Qemu,
            about: About::Domain,
            message: message.into(),
            always: false,
        });
    }
    let before = screens.cards_before.iter().chain(&screens.cards);
    for card in before.chain(&screens.cards_after) {
        if card.gl && !opengl {
            return Some(Refusal {
                stage: Stage::Qemu,
                about: About::Domain,
                message: qemu.no_opengl.into(),
                always: true,
            });
        }
    }
    let is_ramfb = |card: &Card| card.model.as_deref() == Some("ramfb");
    let mut cards = screens.cards_before.iter().chain(&screens.cards);
    let mut ramfb = cards.any(is_ramfb);
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
        // The property is vfio-pci-nohotplug's (hw/vfio/pci.c).
        if vgpu.driver() == "vfio-pci" {
            if vgpu.set.contains_key("ramfb") {
                return refuse("Property 'vfio-pci.ramfb' not found", true);
            }
            if let Some(value) = vgpu.globals.get("ramfb") {
                let message = format!(
                    "can't apply global vfio-pci.ramfb={value}: Property 'vfio-pci.ramfb' not found"
                );
                return refuse(&message, true);
            }
        }
        // hw/vfio/pci.c, vfio_realize
        if has_ramfb(vgpu, libvirt) && !on {
            return refuse("ramfb=on requires display=on", true);
        }
        let modes = ["xres", "yres"];
        let is_set = |value: &str| value != "0";
        let has_modes = modes.iter().any(|p| vgpu.said(p).is_some_and(is_set));
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
    if ramfb && screens.cards_after.iter().any(is_ramfb) {
        return Some(Refusal {
            stage: Stage::Qemu,
            about: About::Domain,
            message: "duplicate fw_cfg file name: vgaroms/vgabios-ramfb.bin".into(),
            always: false,
        });
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
