//! What QEMU does with its displays at start, in its order: early displays (spice, and whether
//! there is OpenGL at all), devices, then the frontends, each of which binds itself to screens.
//!
//! A screen of a dmabuf device has the flags GL and DMABUF (QEMU hw/vfio/display.c), and each
//! frontend that binds to it is asked whether it can do these (ui/console.c,
//! `console_compatible_with`). A "no" ends QEMU.

use crate::domain::{GraphicsType, Reach};
use crate::predict::versions::{Libvirt, Qemu};
use crate::predict::{About, Danger, Head, HeadOf, Program, Refusal, Shown};
use crate::screens::{Found, Screens, Vgpu};

/// A screen as QEMU's console layer sees it.
struct Console {
    of: HeadOf,
    about: About,
    /// `GRAPHIC_FLAGS_GL`
    gl: bool,
    /// `GRAPHIC_FLAGS_DMABUF`
    dmabuf: bool,
    /// qxl shows itself to spice.
    qxl: bool,
}

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

/// The frontend of `-display`: QEMU has one, and the last on its command line counts.
fn local(screens: &Screens) -> Option<(GraphicsType, bool)> {
    screens
        .frontends
        .iter()
        .rev()
        .find(|f| {
            matches!(
                f.kind,
                GraphicsType::Sdl | GraphicsType::EglHeadless | GraphicsType::Dbus
            )
        })
        .map(|f| (f.kind, f.gl))
}

fn of_kind(screens: &Screens, kind: GraphicsType) -> Option<&crate::screens::Frontend> {
    screens.frontends.iter().find(|f| f.kind == kind)
}

/// VNC, if QEMU itself has it.
fn vnc<'s>(screens: &'s Screens, libvirt: &Libvirt) -> Option<&'s crate::screens::Frontend> {
    let from_dbus = libvirt.vnc_from_dbus && on_a_bus(screens).is_some();
    of_kind(screens, GraphicsType::Vnc).filter(|_| !from_dbus)
}

/// The dbus display that helpers (qemu-rdp, qemu-vnc) can look at.
fn on_a_bus(screens: &Screens) -> Option<&crate::screens::Frontend> {
    of_kind(screens, GraphicsType::Dbus).filter(|dbus| !dbus.p2p)
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
            by: Program::Qemu,
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
    let local = local(screens);
    let opengl = local.is_some_and(|(_, gl)| gl) || spice.is_some_and(|spice| spice.gl);
    device(screens, found, libvirt, qemu, opengl).or_else(|| {
        displays(
            screens,
            &consoles(screens, found, libvirt),
            local,
            libvirt,
            qemu,
        )
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
                by: Program::Qemu,
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
    for (vgpu, found) in screens.vgpus.iter().zip(found) {
        let refuse = |message: &str, always| {
            Some(Refusal {
                by: Program::Qemu,
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

/// Who owns the OpenGL context of all screens.
#[derive(Clone, Copy, PartialEq)]
enum Context {
    None,
    /// egl-headless copies into a surface for every frontend without OpenGL of its own.
    EglHeadless,
    /// dbus and sdl take nobody but themselves.
    Own(GraphicsType),
}

/// Why a frontend can't bind to a screen (ui/console.c, `console_compatible_with`).
fn incompatible(
    console: &Console,
    context: Context,
    frontend: GraphicsType,
    dmabuf: bool,
) -> Option<String> {
    if let Context::Own(owner) = context
        && owner != frontend
    {
        return Some(format!(
            "Display {frontend} is incompatible with the GL context"
        ));
    }
    if console.gl && context == Context::None {
        return Some("The console requires a GL context.".into());
    }
    if console.dmabuf && !dmabuf {
        return Some("The console requires display DMABUF support.".into());
    }
    None
}

/// What the `-display` frontend does to the context of the screens.
fn context_of(local: Option<(GraphicsType, bool)>) -> Context {
    match local {
        Some((GraphicsType::EglHeadless, _)) => Context::EglHeadless,
        Some((kind, true)) => Context::Own(kind),
        _ => Context::None,
    }
}

/// The first frontend that can't bind (system/vl.c, `qemu_init_displays`: local, VNC, spice).
fn displays(
    screens: &Screens,
    consoles: &[Console],
    local: Option<(GraphicsType, bool)>,
    libvirt: &Libvirt,
    qemu: &Qemu,
) -> Option<Refusal> {
    let refuse = |console: &Console, message: String, always| {
        Some(Refusal {
            by: Program::Qemu,
            about: console.about,
            message,
            always,
        })
    };
    let context = context_of(local);
    // sdl has no dpy_gl_scanout_dmabuf (ui/sdl2.c). dbus binds when somebody comes.
    if let Some((GraphicsType::Sdl, _)) = local {
        for console in consoles {
            let own = if context == Context::None {
                Context::None
            } else {
                Context::Own(GraphicsType::Sdl)
            };
            if let Some(message) =
                incompatible(console, own, GraphicsType::Sdl, qemu.sdl_takes_dmabuf)
            {
                return refuse(console, message, false);
            }
        }
    }
    if qemu.vnc_binds
        && vnc(screens, libvirt).is_some_and(|vnc| vnc.listens)
        && let Some(console) = consoles.first()
        && let Some(message) = incompatible(console, context, GraphicsType::Vnc, false)
    {
        return refuse(console, message, false);
    }
    let spice = of_kind(screens, GraphicsType::Spice)?;
    for console in consoles {
        if spice.gl {
            if context != Context::None {
                return refuse(
                    console,
                    "The console already has an OpenGL context.".into(),
                    true,
                );
            }
        } else if !console.qxl
            && let Some(message) = incompatible(console, context, GraphicsType::Spice, false)
        {
            return refuse(console, message, true);
        }
    }
    None
}

/// The screens and what shows them, if QEMU starts.
#[must_use]
pub fn heads(screens: &Screens, found: &[Found], libvirt: &Libvirt, qemu: &Qemu) -> Vec<Head> {
    let consoles = consoles(screens, found, libvirt);
    let context = context_after(screens);
    consoles
        .iter()
        .enumerate()
        .map(|(place, console)| {
            let mut shown_by = Vec::new();
            for frontend in &screens.frontends {
                match frontend.kind {
                    GraphicsType::EglHeadless => {}
                    GraphicsType::Sdl | GraphicsType::Dbus
                        if local(screens).is_some_and(|(kind, _)| kind != frontend.kind) => {}
                    // qemu-vnc has no handler for dmabufs (tools/qemu-vnc/display.c), and with gl
                    // dbus hands over every screen as one.
                    GraphicsType::Vnc if vnc(screens, libvirt).is_none() => {
                        if on_a_bus(screens).is_some_and(|dbus| !dbus.gl) {
                            shown_by.push((GraphicsType::Vnc, Shown::AtOnce));
                        }
                    }
                    GraphicsType::Vnc if place > 0 => {
                        let no = incompatible(console, context, GraphicsType::Vnc, false);
                        if no.is_none() || !qemu.vnc_binds {
                            shown_by.push((GraphicsType::Vnc, Shown::AfterSwitch));
                        }
                    }
                    kind => shown_by.push((kind, Shown::AtOnce)),
                }
            }
            Head {
                of: console.of.clone(),
                shown_by,
            }
        })
        .collect()
}

/// Who owns the context once all frontends are there.
fn context_after(screens: &Screens) -> Context {
    match of_kind(screens, GraphicsType::Spice) {
        Some(spice) if spice.gl => Context::Own(GraphicsType::Spice),
        _ => context_of(local(screens)),
    }
}

/// What may happen once the guest runs.
#[must_use]
pub fn dangers(screens: &Screens, found: &[Found], libvirt: &Libvirt, qemu: &Qemu) -> Vec<Danger> {
    let consoles = consoles(screens, found, libvirt);
    let context = context_after(screens);
    let mut dangers = Vec::new();
    let vnc = vnc(screens, libvirt).is_some() && qemu.vnc_binds;
    for (place, console) in consoles.iter().enumerate() {
        // Spice takes the context after VNC has bound itself to the first screen, so that
        // choosing that one again is refused, too.
        let asked_again = place > 0 || context == Context::Own(GraphicsType::Spice);
        if vnc && asked_again && incompatible(console, context, GraphicsType::Vnc, false).is_some()
        {
            dangers.push(Danger::ViewerEndsGuest {
                screen: console.of.clone(),
            });
        }
        if qemu.region_fault && matches!(console.of, HeadOf::Device(_)) && !console.dmabuf {
            dangers.push(Danger::RegionFault {
                screen: console.of.clone(),
            });
        }
    }
    dangers
}
