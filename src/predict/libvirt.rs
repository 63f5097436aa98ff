//! What libvirt refuses by itself, before QEMU is started.

use crate::abilities::{Abilities, RenderNodes};
use crate::domain::GraphicsType;
use crate::predict::versions::Libvirt;
use crate::predict::{About, Program, Refusal};
use crate::screens::{Frontend, Screens};

/// Why libvirt would refuse the domain, in the order of its checks.
#[must_use]
pub fn refusal(screens: &Screens, abilities: &Abilities, libvirt: &Libvirt) -> Option<Refusal> {
    let refuse = |about, message: &str, always| {
        Some(Refusal {
            by: Program::Libvirt,
            about,
            message: message.into(),
            always,
        })
    };
    // src/conf/domain_validate.c, virDomainDefHostdevValidate
    if let Some(twice) = screens.twice() {
        return refuse(
            About::Device(twice),
            "Hostdev already exists in the domain configuration",
            true,
        );
    }
    if let Some(message) = screens.refused.first() {
        return refuse(About::Domain, message, true);
    }
    let mut with_ramfb = screens
        .vgpus
        .iter()
        .filter(|vgpu| vgpu.ramfb_asked)
        .filter(|vgpu| libvirt.takes_display(vgpu.id));
    if let (Some(_), Some(second)) = (with_ramfb.next(), with_ramfb.next()) {
        return refuse(
            About::Device(second.id),
            "Only one vgpu device can have 'ramfb' enabled",
            true,
        );
    }
    // src/qemu/qemu_validate.c, qemuValidateDomainMdevDefVFIOPCI and
    // qemuValidateDomainDeviceDefHostdev
    for vgpu in &screens.vgpus {
        // It looks at the attribute, whatever qemu:override says.
        if vgpu.is_pci
            && vgpu.asked
            && libvirt.takes_display(vgpu.id)
            && screens.frontends.is_empty()
        {
            return refuse(
                About::Device(vgpu.id),
                "graphics device is needed for attribute value 'display=on' in <hostdev>",
                true,
            );
        }
    }
    let has = |kind| screens.frontends.iter().any(|f| f.kind == kind);
    for frontend in &screens.frontends {
        let about = About::Graphics(frontend.kind);
        if let Some(message) = missing(frontend.kind, frontend.gl, abilities) {
            return refuse(about, &message, true);
        }
        if frontend.kind == GraphicsType::Dbus && !libvirt.dbus
            || frontend.kind == GraphicsType::Rdp && !libvirt.rdp
        {
            return refuse(
                about,
                &format!("this libvirt has no graphics of type {}", frontend.kind),
                false,
            );
        }
        // qemuValidateDomainDeviceDefGraphics
        if has(GraphicsType::EglHeadless) {
            match frontend.kind {
                GraphicsType::EglHeadless | GraphicsType::Vnc => {}
                GraphicsType::Spice if frontend.gl => {
                    return refuse(
                        about,
                        "multiple OpenGL displays are not supported by QEMU",
                        true,
                    );
                }
                GraphicsType::Spice => {}
                _ => {
                    return refuse(
                        about,
                        "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' graphics types",
                        true,
                    );
                }
            }
        }
    }
    // src/qemu/qemu_process.c, qemuProcessGraphicsSetupRenderNode
    if let Some(message) = abilities.render_nodes.and_then(RenderNodes::refusal) {
        let looks = |f: &&Frontend| match f.kind {
            GraphicsType::Spice | GraphicsType::Dbus => f.gl && f.rendernode.is_none(),
            GraphicsType::EglHeadless => f.rendernode.is_none(),
            _ => false,
        };
        if let Some(frontend) = screens.frontends.iter().find(looks) {
            return refuse(About::Graphics(frontend.kind), message, true);
        }
    }
    // src/qemu/qemu_command.c, qemuBuildCommandLineValidate
    for frontend in &screens.frontends {
        let of_kind = screens.frontends.iter().filter(|f| f.kind == frontend.kind);
        if of_kind.count() > 1 {
            return refuse(
                About::Graphics(frontend.kind),
                "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus, rdp) is supported",
                true,
            );
        }
    }
    // docs/formatdomain.rst: "A non-p2p dbus graphics is required to enable the QEMU RDP support".
    let on_a_bus = screens
        .frontends
        .iter()
        .any(|f| f.kind == GraphicsType::Dbus && !f.p2p);
    if has(GraphicsType::Rdp) && !on_a_bus {
        return refuse(
            About::Graphics(GraphicsType::Rdp),
            "rdp needs a dbus graphics that is not p2p",
            true,
        );
    }
    None
}

/// What libvirt says of a frontend that QEMU was built or installed without
/// (`virQEMUCapsFillDomainDeviceGraphicsCaps`). Of dbus, egl-headless and sdl libvirt knows only whether they
/// were built, so QEMU says that their module is not installed.
fn missing(kind: GraphicsType, gl: bool, abilities: &Abilities) -> Option<String> {
    let is_asked = matches!(kind, GraphicsType::Vnc | GraphicsType::Spice);
    if is_asked && abilities.has(kind.word()) == Some(false) {
        return Some(format!("{kind} graphics are not supported with this QEMU"));
    }
    if kind == GraphicsType::Spice && gl && abilities.has("spice-gl") == Some(false) {
        return Some("This QEMU doesn't support spice OpenGL".into());
    }
    None
}
