//! Predicts how QEMU's frontends bind themselves to the screens: with one table and one loop, as in
//! QEMU.
//!
//! At start QEMU goes through its frontends in a fixed order: the one of `-display`, then VNC, then
//! spice (system/vl.c, `qemu_init_displays`). A frontend with OpenGL first gives each of its
//! screens a GL context (ui/console.c, `qemu_console_set_display_gl_ctx`). Then it registers on
//! these screens, and QEMU asks whether screen, context and frontend fit together
//! (`console_compatible_with`). docs/qemu-and-libvirt.md has the commits.

use std::collections::HashSet;

use crate::domain::GraphicsType;
use crate::predict::arguments::Local;
use crate::predict::screens::{Frontend, Screens};
use crate::predict::versions::{
    DMABUF_WITHOUT_SIZE, Libvirt, Qemu, REGION_FAULT, RESET_ENDS_GUEST, VNC_BINDS,
};
use crate::predict::{
    About, Danger, DangerKind, Head, HeadOf, Outcome, Prediction, Refusal, Shown, Stage,
    qemu_messages,
};

/// A screen as QEMU's console layer sees it.
pub(super) struct Console {
    pub(super) of: HeadOf,
    /// True for QEMU's flag `GRAPHIC_FLAGS_GL`: the screen needs OpenGL.
    pub(super) gl: bool,
    /// True for QEMU's flag `GRAPHIC_FLAGS_DMABUF`: the screen is a dmabuf.
    pub(super) dmabuf: bool,
    /// True for qxl, which draws for spice by itself. The spice frontend ignores this screen.
    pub(super) qxl: bool,
    /// True if the screen is drawn from a region that QEMU was told not to map.
    pub(super) no_mmap: bool,
}

/// The owner of a screen's OpenGL context.
#[derive(Clone, Copy, PartialEq)]
enum Context {
    None,
    /// egl-headless, which copies the screen into memory for every frontend that has no OpenGL.
    EglHeadless,
    /// dbus, sdl or spice, which accept no other frontend on the screen.
    Own(GraphicsType),
}

/// The screens on which a frontend registers.
#[derive(Clone, Copy, PartialEq)]
enum Binds {
    All,
    First,
    AllButQxl,
}

/// A row of the table: a frontend as ui/console.c sees it.
struct Row {
    kind: GraphicsType,
    /// The `dpy_name` of the frontend's listener, which QEMU puts into its message.
    name: &'static str,
    binds: Binds,
    /// The context that the frontend gives to its screens.
    brings: Context,
    /// True if the frontend's listener accepts a dmabuf.
    dmabuf: bool,
    /// True if QEMU ends when the frontend can't register.
    fatal: bool,
    /// True if all versions that were read refuse the same registrations.
    always: bool,
}

/// Returns the domain's frontends in the order in which QEMU binds them.
fn rows(screens: &Screens, libvirt: &Libvirt, qemu: &Qemu) -> Vec<Row> {
    let spice = of_kind(screens, GraphicsType::Spice);
    let local = local(screens).map(|(kind, gl)| {
        // sdl and gtk ask whether any frontend has switched OpenGL on, and spice does so earlier
        // (ui/sdl2.c, ui/gtk.c).
        let asks = matches!(kind, GraphicsType::Sdl | GraphicsType::Gtk);
        let gl = gl || (asks && spice.is_some_and(|spice| spice.gl));
        Row {
            kind,
            name: match kind {
                GraphicsType::Dbus => "dbus-console",
                GraphicsType::Sdl if gl => "sdl2-gl",
                GraphicsType::Sdl => "sdl2-2d",
                GraphicsType::Gtk if gl => "gtk-egl",
                GraphicsType::Gtk => "gtk",
                _ => "egl-headless",
            },
            binds: Binds::All,
            brings: match kind {
                GraphicsType::EglHeadless => Context::EglHeadless,
                _ if gl => Context::Own(kind),
                _ => Context::None,
            },
            // dbus accepts dmabufs even without gl, but then the check for OpenGL refuses it first.
            dmabuf: match kind {
                GraphicsType::Sdl => qemu.sdl_takes_dmabuf,
                GraphicsType::Gtk => gl,
                _ => true,
            },
            fatal: true,
            // sdl and gtk may accept a dmabuf one day. The others have never dropped a refusal.
            always: !asks,
        }
    });
    // A VNC that listens nowhere binds itself, too (ui/vnc.c, `vnc_display_open`).
    let libvirts = usize::from(vnc(screens, libvirt).is_some());
    let vnc = (0..libvirts + screens.arguments.vnc).map(|_| Row {
        kind: GraphicsType::Vnc,
        name: "vnc",
        binds: Binds::First,
        brings: Context::None,
        dmabuf: false,
        fatal: qemu.has(VNC_BINDS),
        always: false,
    });
    let spice = spice.map(|spice| Row {
        kind: GraphicsType::Spice,
        name: if spice.gl { "spice-egl" } else { "spice" },
        binds: Binds::AllButQxl,
        brings: if spice.gl {
            Context::Own(GraphicsType::Spice)
        } else {
            Context::None
        },
        dmabuf: spice.gl,
        fatal: true,
        always: true,
    });
    local.into_iter().chain(vnc).chain(spice).collect()
}

impl Row {
    /// Returns why the frontend can't register on a screen (`console_compatible_with`, in its
    /// order); `None` if it can.
    fn incompatible(&self, console: &Console, context: Context) -> Option<String> {
        if let Context::Own(owner) = context
            && owner != self.kind
        {
            let name = self.name;
            return Some(qemu_messages::filled(qemu_messages::CONTEXT_UNFIT, name));
        }
        if console.gl && context == Context::None {
            return Some(qemu_messages::CONSOLE_NEEDS_CONTEXT.into());
        }
        if console.dmabuf && !self.dmabuf {
            return Some(qemu_messages::CONSOLE_NEEDS_DMABUF.into());
        }
        None
    }
}

/// The result of binding all frontends: the context of each screen, and the first refusal that ends
/// QEMU, with the type of the frontend that was refused.
struct Bound {
    contexts: Vec<Context>,
    refusal: Option<(GraphicsType, Refusal)>,
    /// False if a VNC server could not register on its screen.
    vnc: bool,
}

fn bind(rows: &[Row], consoles: &[Console]) -> Bound {
    let mut bound = Bound {
        contexts: vec![Context::None; consoles.len()],
        refusal: None,
        vnc: true,
    };
    for row in rows {
        // There may be thousands of -vnc, and each binds itself to one screen.
        let many = match row.binds {
            Binds::First => 1,
            Binds::All | Binds::AllButQxl => consoles.len(),
        };
        for (place, console) in consoles.iter().enumerate().take(many) {
            if row.binds == Binds::AllButQxl && console.qxl {
                continue;
            }
            let context = &mut bound.contexts[place];
            let mut no = None;
            if row.brings != Context::None {
                if *context == Context::None {
                    *context = row.brings;
                } else {
                    no = Some((qemu_messages::CONTEXT_TWICE.to_owned(), true));
                }
            }
            let no = no.or_else(|| Some((row.incompatible(console, *context)?, row.always)));
            let Some((message, always)) = no else {
                continue;
            };
            if row.kind == GraphicsType::Vnc {
                bound.vnc = false;
            }
            if row.fatal && bound.refusal.is_none() {
                let refusal = Refusal::new(Stage::Qemu, console.of.about(), message, always);
                bound.refusal = Some((row.kind, refusal));
            }
        }
    }
    bound
}

/// Returns the refusal of the first frontend that can't bind, or of a VNC that may not listen on
/// its websocket port, whichever comes first. `is_denied` returns whether QEMU may not listen on a
/// port.
pub(super) fn refusal(
    screens: &Screens,
    consoles: &[Console],
    (libvirt, qemu): (&Libvirt, &Qemu),
    is_denied: &dyn Fn(i32) -> bool,
) -> Option<Refusal> {
    let refusal = bind(&rows(screens, libvirt, qemu), consoles).refusal;
    // VNC listens once it is bound to a screen, and before spice is.
    let listens = vnc(screens, libvirt).filter(|vnc| is_denied(vnc.settings.websocket));
    let denied = listens.map(|vnc| {
        let about = About::Graphics(vnc.kind);
        Refusal::new(Stage::Qemu, about, qemu_messages::NO_SOCKET, false)
    });
    match refusal {
        Some((kind, refusal)) if kind != GraphicsType::Spice || denied.is_none() => Some(refusal),
        _ => denied,
    }
}

/// Predicts which graphics show which screens, and the dangers, if QEMU starts.
pub(super) fn seen(
    screens: &Screens,
    consoles: &[Console],
    libvirt: &Libvirt,
    qemu: &Qemu,
) -> Prediction {
    let rows = rows(screens, libvirt, qemu);
    let bound = bind(&rows, consoles);
    Prediction {
        outcome: Outcome::Yes,
        heads: heads(screens, consoles, &rows, &bound),
        dangers: dangers(consoles, &rows, &bound.contexts, qemu),
    }
}

/// Returns the screens and the graphics that show them.
fn heads(screens: &Screens, consoles: &[Console], rows: &[Row], bound: &Bound) -> Vec<Head> {
    let vnc = rows.iter().find(|row| row.kind == GraphicsType::Vnc);
    // A VNC that could not register shows a placeholder. egl-headless copies the screen into VNC's
    // surface as soon as the guest sets a mode; no other frontend does.
    let is_black = |place: usize| matches!(bound.contexts[place], Context::Own(_));
    let on_a_bus = on_a_bus(screens);
    let by_vnc = |place: usize, console: &Console| match vnc {
        // qemu-vnc has no handler for dmabufs (tools/qemu-vnc/display.c), and dbus with gl hands
        // over every screen as a dmabuf.
        None => on_a_bus
            .is_some_and(|dbus| !dbus.gl)
            .then_some(Shown::AtOnce),
        Some(_) if place == 0 => (bound.vnc || !is_black(place)).then_some(Shown::AtOnce),
        Some(vnc) => {
            let no = vnc.incompatible(console, bound.contexts[place]);
            let shows = no.is_none() || (!vnc.fatal && !is_black(place));
            shows.then_some(Shown::AfterSwitch(number(screens, place)))
        }
    };
    let own = screens.arguments.display.as_ref().map(|own| own.kind);
    // The first of each type counts: libvirt refuses a second one.
    let mut kinds = HashSet::new();
    let frontends = screens.frontends.iter();
    let frontends: Vec<&Frontend> = frontends.filter(|f| kinds.insert(f.kind)).collect();
    let local = local(screens);
    let is_own = of_kind(screens, GraphicsType::Vnc).is_none() && screens.arguments.vnc_listens;
    let head = |(place, console): (usize, &Console)| {
        let mut shown_by = Vec::new();
        match own {
            Some(Local::Gtk) => shown_by.push((GraphicsType::Gtk, Shown::AtOnce)),
            Some(Local::Sdl) => shown_by.push((GraphicsType::Sdl, Shown::AtOnce)),
            _ => {}
        }
        for frontend in &frontends {
            match frontend.kind {
                GraphicsType::EglHeadless => {}
                // A local display of the user's own replaces this one.
                GraphicsType::Sdl | GraphicsType::Dbus if own.is_some() => {}
                GraphicsType::Sdl | GraphicsType::Dbus
                    if local.is_some_and(|(kind, _)| kind != frontend.kind) => {}
                GraphicsType::Vnc => {
                    shown_by.extend(by_vnc(place, console).map(|how| (GraphicsType::Vnc, how)));
                }
                kind => shown_by.push((kind, Shown::AtOnce)),
            }
        }
        if is_own {
            shown_by.extend(by_vnc(place, console).map(|how| (GraphicsType::Vnc, how)));
        }
        Head {
            of: console.of.clone(),
            shown_by,
        }
    };
    consoles.iter().enumerate().map(head).collect()
}

/// Returns the number, from 1 on, by which a VNC viewer chooses the screen with the index `place`.
/// Each head of a virtio card is a screen of its own (hw/display/virtio-gpu-base.c,
/// `virtio_gpu_base_device_realize`).
fn number(screens: &Screens, place: usize) -> usize {
    let before = screens.cards.iter().take(place);
    let virtio = before.filter(|card| card.model.as_deref() == Some("virtio"));
    let more = virtio.map(|card| card.settings.heads.saturating_sub(1) as usize);
    place + 1 + more.sum::<usize>()
}

/// Returns the dangers once the guest runs.
fn dangers(consoles: &[Console], rows: &[Row], contexts: &[Context], qemu: &Qemu) -> Vec<Danger> {
    let vnc = rows
        .iter()
        .find(|row| row.kind == GraphicsType::Vnc && row.fatal);
    let mut dangers = Vec::new();
    for (place, console) in consoles.iter().enumerate() {
        // Spice gives its context to the first screen after VNC has bound itself to that screen. So
        // a viewer that chooses the screen again is refused, too.
        let asked_again = place > 0 || contexts[place] == Context::Own(GraphicsType::Spice);
        let ends = vnc.is_some_and(|vnc| vnc.incompatible(console, contexts[place]).is_some());
        let is_device = matches!(console.of, HeadOf::Device(_));
        // A screen that was handed over with OpenGL is taken back at a reset.
        let is_taken_back = console.gl && contexts[place] == Context::Own(GraphicsType::Spice);
        let all = [
            (DangerKind::ViewerEndsGuest, asked_again && ends),
            (DangerKind::NoMmap, console.no_mmap),
            (
                DangerKind::RegionFault,
                qemu.has_fault(REGION_FAULT) && is_device && !console.dmabuf,
            ),
            (
                DangerKind::StaysBlack,
                qemu.has_fault(DMABUF_WITHOUT_SIZE) && is_device && console.dmabuf,
            ),
            (
                DangerKind::ResetEndsGuest,
                // Both depend on the same spice-server.
                qemu.has_fault(RESET_ENDS_GUEST) && !qemu.spice_gl_over_tcp && is_taken_back,
            ),
        ];
        let there = all.into_iter().filter(|(_, is_there)| *is_there);
        dangers.extend(there.map(|(kind, _)| Danger {
            kind,
            screen: console.of.clone(),
        }));
    }
    dangers
}

/// Returns the frontend of the last `-display`, the user's own or else libvirt's, and whether the
/// frontend has OpenGL; `None` if there is none or it shows no screen.
pub(super) fn local(screens: &Screens) -> Option<(GraphicsType, bool)> {
    let Some(own) = &screens.arguments.display else {
        return libvirts_local(screens);
    };
    let kind = match own.kind {
        Local::EglHeadless => return Some((GraphicsType::EglHeadless, true)),
        Local::Dbus => GraphicsType::Dbus,
        Local::Sdl => GraphicsType::Sdl,
        Local::Gtk => GraphicsType::Gtk,
        Local::None | Local::NoGraphic | Local::Curses | Local::Other => return None,
    };
    Some((kind, own.gl == Some(true)))
}

/// Returns the frontend of libvirt's last `-display`, if any, and whether the frontend has OpenGL.
pub(super) fn libvirts_local(screens: &Screens) -> Option<(GraphicsType, bool)> {
    let is_local = |frontend: &&Frontend| {
        matches!(
            frontend.kind,
            GraphicsType::Sdl | GraphicsType::EglHeadless | GraphicsType::Dbus
        )
    };
    let last = screens.frontends.iter().rev().find(is_local)?;
    Some((last.kind, last.gl))
}

pub(super) fn of_kind(screens: &Screens, kind: GraphicsType) -> Option<&Frontend> {
    screens.frontends.iter().find(|f| f.kind == kind)
}

/// Returns the VNC that QEMU itself serves, if there is one.
fn vnc<'s>(screens: &'s Screens, libvirt: &Libvirt) -> Option<&'s Frontend> {
    let from_dbus = libvirt.vnc_from_dbus && on_a_bus(screens).is_some();
    of_kind(screens, GraphicsType::Vnc).filter(|_| !from_dbus)
}

/// Returns the dbus display that helpers (qemu-rdp, qemu-vnc) can use, if there is one.
fn on_a_bus(screens: &Screens) -> Option<&Frontend> {
    of_kind(screens, GraphicsType::Dbus).filter(|dbus| !dbus.p2p)
}
