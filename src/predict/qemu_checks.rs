//! Predicts how QEMU handles its displays at start, in QEMU's order: early displays (spice, and
//! whether there is OpenGL at all), devices, then the frontends, each of which binds itself to
//! screens (`frontends`).
//!
//! A screen of a dmabuf device has the flags GL and DMABUF (QEMU hw/vfio/display.c).

use crate::domain::{GraphicsType, Reach, Switch};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::{Local, Setting, told};
use crate::predict::frontends::{self, Console, libvirts_local, local, of_kind};
use crate::predict::properties;
use crate::predict::screens::{Card, Found, Frontend, Screens, Vgpu};
use crate::predict::versions::{
    AUDIO_NEEDS_DBUS, BLOB_WITH_VIRGL, EGL_BEFORE_DEVICES, Libvirt, NO_OPENGL_NAMES_DISPLAY,
    NO_OPENGL_SAID_AT_LENGTH, OPREGION_BY_DEFAULT, Qemu,
};
use crate::predict::{About, HeadOf, Refusal, Stage, qemu_messages};

/// Returns the screens in QEMU's order. `found` has the display of each vfio device.
pub(super) fn consoles(screens: &Screens, found: &[Found], libvirt: &Libvirt) -> Vec<Console> {
    let console = |card: &Card| {
        let model = card.model.clone().unwrap_or_else(|| "vga".into());
        Console {
            qxl: is_qxl(card),
            of: HeadOf::Card(model),
            gl: card.gl,
            // blob does not count.
            dmabuf: card.settings.vhost_user,
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
            gl: *found == Found::Dmabuf,
            dmabuf: *found == Found::Dmabuf,
            qxl: false,
            no_mmap: *found == Found::Region && vgpu.switch("x-no-mmap") == Some(true),
        }))
        .chain(screens.cards_after.iter().map(console))
        .collect()
}

fn is_qxl(card: &Card) -> bool {
    matches!(card.model.as_deref(), Some("qxl" | "qxl-vga"))
}

/// Returns whether QEMU gets `display=on` for a device.
fn shows(vgpu: &Vgpu, libvirt: &Libvirt) -> bool {
    vgpu.is_pci
        && vgpu.display
        && (libvirt.takes_display(vgpu.id) || vgpu.said("display").is_some())
}

fn refuse(about: About, message: impl Into<String>, always: bool) -> Option<Refusal> {
    Some(Refusal::new(Stage::Qemu, about, message, always))
}

/// Returns why QEMU would refuse to start; `None` if it starts. `found` has the display of each
/// vfio device, and `x` is the behaviour of the X server.
pub(crate) fn refusal(
    screens: &Screens,
    found: &[Found],
    abilities: &Abilities,
    (libvirt, qemu): (&Libvirt, &Qemu),
    x: X,
) -> Option<Refusal> {
    if let Some(refusal) = before_devices(screens, abilities, qemu, x) {
        return Some(refusal);
    }
    let spice = of_kind(screens, GraphicsType::Spice);
    let has_gl = local(screens).is_some_and(|(_, gl)| gl);
    let opengl = has_gl || spice.is_some_and(|spice| spice.gl);
    let slot = screens.slot_taken.as_ref();
    let lacks = screens.lacks_its_node();
    let own_device = |json| {
        let mut own = screens.own_vfio();
        let device = own.find(|device| device.json == json && lacks(device) == Some(true))?;
        let about = device.vfio_id().map_or(About::Domain, About::Device);
        // hw/vfio/container.c. The guest's /dev has only the groups of the domain's hostdevs.
        let message = "Could not open '/dev/vfio/N': No such file or directory";
        refuse(about, message, false)
    };
    // Devices in option syntax come before libvirt's.
    own_device(false)
        .or_else(|| card_refusal(&screens.cards_before, &[], qemu, opengl))
        .or_else(|| refuse(About::Domain, slot?.clone(), false))
        .or_else(|| device(screens, found, (libvirt, qemu), opengl))
        .or_else(|| own_device(true))
        .or_else(|| refuse(About::Domain, late_display(screens, qemu, x)?, false))
        .or_else(|| {
            // SDL finds no X server that it can open.
            let is_sdl = local(screens).is_some_and(|(kind, _)| kind == GraphicsType::Sdl);
            let about = About::Graphics(GraphicsType::Sdl);
            refuse(about, qemu_messages::NO_SDL, false).filter(|_| is_sdl && x == X::Closed)
        })
        .or_else(|| {
            let consoles = consoles(screens, found, libvirt);
            let is_denied = |port| is_privileged(port, screens, abilities);
            frontends::refusal(screens, &consoles, (libvirt, qemu), &is_denied)
        })
        .or_else(|| {
            let about = About::Graphics(GraphicsType::Sdl);
            refuse(about, qemu_messages::NO_SECOND_GL_ON_X, false).filter(|_| x == X::EndsQemu)
        })
}

/// Returns why QEMU would refuse before it creates any device; `None` if it would not.
fn before_devices(screens: &Screens, abilities: &Abilities, qemu: &Qemu, x: X) -> Option<Refusal> {
    // QEMU looks up -set among the -device options before it creates any of them.
    if let Some(setting) = screens.dead_settings.first() {
        let message = match Setting::read(setting) {
            Some(Setting { id, .. }) => qemu_messages::filled(qemu_messages::NO_SUCH_DEVICE, &id),
            // The argument may contain a secret.
            None => "can't parse".to_owned(),
        };
        return refuse(About::Domain, message, false);
    }
    // libvirt knows only what QEMU was built with. A module may be missing (seen on Debian 13).
    let local = local(screens);
    if let Some((kind, _)) = local
        && abilities.has(kind.word()) == Some(false)
    {
        let is_own = screens.arguments.display.is_some();
        let about = if is_own {
            About::Domain
        } else {
            About::Graphics(kind)
        };
        let message = qemu_messages::filled(qemu_messages::DISPLAY_NOT_AVAILABLE, kind.word());
        return refuse(about, message, true);
    }
    if let Some(message) = early_display(screens, qemu, x) {
        return refuse(About::Domain, message, false);
    }
    let spice = of_kind(screens, GraphicsType::Spice);
    if let Some(spice) = spice
        && spice.is_on_tcp()
        && [spice.settings.port, spice.settings.tls_port]
            .iter()
            .any(|port| is_privileged(*port, screens, abilities))
    {
        let about = About::Graphics(GraphicsType::Spice);
        return refuse(about, qemu_messages::NO_SPICE_SERVER, false);
    }
    if let Some(spice) = spice
        && spice.gl
        && spice.reach != Reach::Local
        && !qemu.spice_gl_over_tcp
    {
        return refuse(
            About::Graphics(GraphicsType::Spice),
            qemu_messages::SPICE_GL_LOCAL_ONLY,
            false,
        );
    }
    // -audiodev comes before the devices.
    let is_dbus = local.is_some_and(|(kind, _)| kind == GraphicsType::Dbus);
    if qemu.has(AUDIO_NEEDS_DBUS)
        && !is_dbus
        && screens.settings.audio.iter().any(|kind| kind == "dbus")
    {
        return refuse(About::Domain, qemu_messages::NO_DBUS_FOR_AUDIO, false);
    }
    None
}

/// The behaviour of an X server towards SDL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum X {
    /// The server lets SDL in, or SDL needs none. Also used for a domain without SDL.
    Opens,
    /// The server does not exist, or does not let SDL in.
    Closed,
    /// The server lets SDL in, and Xlib ends QEMU when SDL uses OpenGL beside spice.
    EndsQemu,
}

/// Returns whether QEMU may not listen on a port, because the port needs a privilege; false if the
/// host's setting is not known.
fn is_privileged(port: i32, screens: &Screens, abilities: &Abilities) -> bool {
    let first = abilities.guests.first_port.map_or(0, i32::from);
    (1..first).contains(&port) && !screens.settings.as_root
}

/// Returns the ways in which the X server may behave towards SDL: always [`X::Opens`], and the
/// others that are possible with this domain. SDL tries the server that the domain's XML names,
/// because QEMU's environment names no other. A server of this host is assumed to exist if it has a
/// socket, or if the sockets are not known.
///
/// Without a server, SDL's library decides whether QEMU ends: SDL 2.32.4 draws off screen, and
/// sdl2-compat with SDL 3 gives up (measured: Debian 13 and sid). If spice also uses OpenGL, Xlib
/// ends QEMU with Mesa's software GLX (measured: 10.0.13, 11.1.3); no other GLX was tried.
pub(crate) fn possible_x(screens: &Screens, abilities: &Abilities) -> Vec<X> {
    let mut possible = vec![X::Opens];
    let is_sdl = |f: &&Frontend| f.kind == GraphicsType::Sdl;
    let sdl = screens.frontends.iter().rev().find(is_sdl);
    let own = screens.arguments.display.as_ref().map(|own| &own.kind);
    // A gtk display of the user's own opens the X server of libvirt's SDL.
    let opens = matches!(own, None | Some(Local::Gtk)) && !screens.has_a_screen;
    let sdl = sdl.filter(|_| opens);
    let Some(sdl) = sdl else {
        return possible;
    };
    let is_gl = |f: &Frontend| f.kind == GraphicsType::Spice && f.gl;
    if own.is_none() && screens.frontends.iter().any(is_gl) {
        possible.push(X::EndsQemu);
    }
    let guests = &abilities.guests;
    let is_there = sdl.settings.x_display.as_ref().is_some_and(|display| {
        let (host, number) = display.rsplit_once(':').unwrap_or_default();
        let number = number.split('.').next();
        let number = number.and_then(|number| number.parse().ok());
        let servers = guests.x_servers.as_ref();
        matches!(host, "" | "unix")
            && servers.is_none_or(|all| number.is_none_or(|number| all.contains(&number)))
            && (screens.settings.unconfined || guests.x_denied != Some(true))
    });
    if !is_there {
        possible.push(X::Closed);
    }
    possible
}

/// Returns whether gtk finds an X or Wayland display that it can open.
fn opens_for_gtk(screens: &Screens, x: X) -> bool {
    screens.gtk_may_open() && x != X::Closed
}

/// Returns QEMU's refusal of the user's own local display before it makes devices (system/vl.c,
/// `qemu_create_early_backends`); `None` if there is no refusal.
fn early_display(screens: &Screens, qemu: &Qemu, x: X) -> Option<String> {
    let own = screens.arguments.display.as_ref()?;
    let name = own.kind.word()?;
    match own.kind {
        Local::EglHeadless | Local::Dbus => {
            return no_render_node(screens).filter(|_| qemu.has(EGL_BEFORE_DEVICES));
        }
        Local::None | Local::NoGraphic => {}
        // gtk has OpenGL if it can open a screen.
        Local::Gtk if !opens_for_gtk(screens, x) => {}
        _ => return None,
    }
    let before = libvirts_local(screens).filter(|(kind, _)| *kind != GraphicsType::EglHeadless);
    let gl = match own.gl {
        // -nographic changes only the type: the other options of libvirt's -display stay.
        None if own.kind == Local::NoGraphic => before.is_some_and(|(_, gl)| gl),
        gl => gl == Some(true),
    };
    gl.then(|| {
        if qemu.has(NO_OPENGL_NAMES_DISPLAY) {
            qemu_messages::filled(qemu_messages::NO_OPENGL_IN_BACKEND, name)
        } else {
            qemu_messages::NO_OPENGL_IN_DISPLAY.into()
        }
    })
}

/// Returns QEMU's refusal of the user's own local display after it has made the devices, if any.
fn late_display(screens: &Screens, qemu: &Qemu, x: X) -> Option<String> {
    match screens.arguments.display.as_ref()?.kind {
        Local::EglHeadless | Local::Dbus if !qemu.has(EGL_BEFORE_DEVICES) => {
            no_render_node(screens)
        }
        Local::Gtk if !opens_for_gtk(screens, x) => Some("gtk initialization failed".into()),
        // libvirt gives QEMU no terminal.
        Local::Curses => Some("We need a terminal output".into()),
        _ => None,
    }
}

/// Returns QEMU's refusal if the local display has OpenGL and the guest's `/dev` certainly has no
/// render node.
fn no_render_node(screens: &Screens) -> Option<String> {
    let (_, gl) = local(screens)?;
    (gl && screens.has_render_node() == Some(false))
        .then(|| "egl: no drm render node available".into())
}

/// The greatest number of heads of a virtio card (`VIRTIO_GPU_MAX_SCANOUTS`).
const MOST_HEADS: u32 = 16;

/// Returns the refusal of the first of `cards` that QEMU can't make; `None` if it can make all.
/// QEMU makes only one card with 3D (hw/display/virtio-gpu-gl.c), which may be in `earlier`: the
/// cards that QEMU makes before `cards`. `opengl` is true if a frontend has OpenGL.
fn card_refusal(cards: &[Card], earlier: &[&[Card]], qemu: &Qemu, opengl: bool) -> Option<Refusal> {
    let mut is_second = earlier.iter().copied().flatten().any(|card| card.gl);
    cards.iter().find_map(|card| {
        if card.gl && std::mem::replace(&mut is_second, true) {
            return refuse(About::Domain, qemu_messages::SECOND_3D_CARD, true);
        }
        if card.gl && !opengl {
            let words = match qemu.has(NO_OPENGL_SAID_AT_LENGTH) {
                true => qemu_messages::NO_OPENGL_AT_LENGTH,
                false => qemu_messages::NO_OPENGL,
            };
            return refuse(About::Domain, words, true);
        }
        let is_blob = card.settings.blob == Some(Switch::On);
        if card.gl && is_blob && !qemu.has(BLOB_WITH_VIRGL) {
            return refuse(About::Domain, qemu_messages::BLOB_AND_VIRGL, false);
        }
        let is_virtio = card.model.as_deref() == Some("virtio");
        let has_too_many = is_virtio && card.settings.heads > MOST_HEADS;
        refuse(About::Domain, qemu_messages::TOO_MANY_HEADS, true).filter(|_| has_too_many)
    })
}

/// Returns the refusal of the first card or vfio device that QEMU can't create; `None` if it can
/// create all. `found` has the display of each vfio device, and `opengl` is true if a frontend has
/// OpenGL.
fn device(
    screens: &Screens,
    found: &[Found],
    (libvirt, qemu): (&Libvirt, &Qemu),
    opengl: bool,
) -> Option<Refusal> {
    // hw/display/qxl.c, qxl_realize_primary
    let is_first = |card: &Card| card.model.as_deref() == Some("qxl-vga");
    let libvirts = screens.cards.first().is_some_and(is_qxl);
    let users = screens.cards_before.iter().skip(1).any(is_first);
    let has_cards = !screens.cards_before.is_empty();
    let later =
        (has_cards || !screens.cards.is_empty()) && screens.cards_after.iter().any(is_first);
    if has_cards && libvirts || users || later {
        let message =
            "primary qxl-vga device must be console 0 (first display device on the command line)";
        return refuse(About::Domain, message, false);
    }
    let before = || screens.cards_before.iter().chain(&screens.cards);
    if let Some(refusal) = card_refusal(&screens.cards, &[&screens.cards_before], qemu, opengl) {
        return Some(refusal);
    }
    let is_ramfb = |card: &Card| card.model.as_deref() == Some("ramfb");
    let mut once = Once {
        ramfb: before().any(is_ramfb),
        opregion: false,
    };
    let mut vgpus = screens.vgpus.iter().zip(found);
    vgpus
        .find_map(|(vgpu, found)| {
            let (words, always) =
                vfio_device(screens, vgpu, *found, (libvirt, qemu), opengl, &mut once)?;
            refuse(About::Device(vgpu.id), words, always)
        })
        .or_else(|| {
            let earlier = [&screens.cards_before[..], &screens.cards];
            card_refusal(&screens.cards_after, &earlier, qemu, opengl)
        })
        .or_else(|| {
            let is_twice = once.ramfb && screens.cards_after.iter().any(is_ramfb);
            refuse(About::Domain, qemu_messages::RAMFB_TWICE, false).filter(|_| is_twice)
        })
}

/// The features that a guest can have only once; true if an earlier device has taken the feature.
struct Once {
    ramfb: bool,
    opregion: bool,
}

/// Returns QEMU's message if it refuses a vfio device, and whether every version refuses the
/// device. Marks in `once` the features that the device takes. The checks are in QEMU's order: QEMU
/// first sets the device's properties and then realizes it (hw/vfio/pci.c, `vfio_realize`).
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
        // libvirt passes the attribute display on, although these devices have no such property.
        let has_none = matches!(vgpu.model.as_str(), "vfio-ap" | "vfio-ccw");
        let property = format!("{}.display", vgpu.model);
        let words = qemu_messages::filled(qemu_messages::PROPERTY_NOT_FOUND, &property);
        return (has_none && vgpu.says_display).then_some((words, true));
    }
    let takes_ramfb = libvirt.takes_display(vgpu.id);
    let lacks_ramfb = vgpu.lacks_ramfb(takes_ramfb);
    // QEMU sets properties from -global first (hw/core/qdev.c, `device_post_init`).
    if lacks_ramfb && let Some(value) = vgpu.globals.get("ramfb") {
        let global = format!("can't apply global vfio-pci.ramfb={}: ", told(value));
        return Some((global + qemu_messages::RAMFB_NOT_FOUND, true));
    }
    let mistyped = vgpu
        .mistyped
        .iter()
        .map(|(name, words)| (name.as_str(), words.as_str(), false));
    let unknown = lacks_ramfb.then_some(("ramfb", qemu_messages::RAMFB_NOT_FOUND, true));
    let wrong = unknown.into_iter().chain(mistyped);
    if let Some((_, words, always)) = wrong.min_by_key(|(name, ..)| properties::place(name)) {
        return say(words, always);
    }
    // The kernel's driver opens the device before QEMU asks the device for anything.
    if screens.without_kvm && vgpu.known.finding.facts.kvm {
        return say(qemu_messages::NEEDS_KVM, true);
    }
    // hw/vfio/igd.c: the OpRegion is requested, and the region does not exist
    let opregion = vgpu.switch("x-igd-opregion");
    if opregion == Some(true)
        && vgpu.has_opregion() == Some(false)
        && let Some(words) = qemu.refuses_opregion(vgpu.id)
    {
        return say(words, false);
    }
    // hw/nvram/fw_cfg.c accepts each file once.
    if opregion.unwrap_or(qemu.has(OPREGION_BY_DEFAULT))
        && vgpu.has_opregion() == Some(true)
        && std::mem::replace(&mut once.opregion, true)
    {
        return say(qemu_messages::OPREGION_TWICE, true);
    }
    let on = shows(vgpu, libvirt);
    let ramfb = vgpu.says_ramfb(takes_ramfb) && vgpu.ramfb;
    if on && found == Found::Nothing {
        return say(qemu_messages::NO_DISPLAY, true);
    }
    if on && found == Found::Dmabuf && !opengl {
        return say(qemu_messages::DMABUF_NEEDS_OPENGL, true);
    }
    if on && ramfb && !screens.has_fw_cfg_dma {
        return say(qemu_messages::RAMFB_NEEDS_FW_CFG, true);
    }
    if on && ramfb && std::mem::replace(&mut once.ramfb, true) {
        return say(qemu_messages::RAMFB_TWICE, true);
    }
    if ramfb && !on {
        return say(qemu_messages::RAMFB_NEEDS_DISPLAY, true);
    }
    let is_set = |name| vgpu.said(name).is_some_and(|value| value != "0");
    if is_set("xres") || is_set("yres") {
        if !on {
            return say(qemu_messages::MODES_NEED_DISPLAY, true);
        }
        if found == Found::Region || vgpu.has_edid() == Some(false) {
            return say(qemu_messages::MODES_NEED_EDID, true);
        }
    }
    None
}
