//! libvirt's checks of the graphics, and of the audio that belongs to them.

use super::rule::{Check, OfGraphics, World, if_so};
use crate::domain::{GraphicsSettings, GraphicsType, SpiceMode};
use crate::predict::abilities::{DBUS_DAEMON_DIED, RenderNodes};
use crate::predict::screens::{Frontend, Screens};
use crate::predict::versions::{DBUS, RDP};

const SEVERAL_LISTENS: Check<Frontend> = |_, frontend| {
    let kinds = [GraphicsType::Vnc, GraphicsType::Spice];
    if_so(kinds.contains(&frontend.kind) && frontend.settings.listens.len() > 1)
};

const SEVERAL_LISTENS_OF_RDP: Check<Frontend> =
    |_, frontend| if_so(frontend.kind == GraphicsType::Rdp && frontend.settings.listens.len() > 1);

const RDP_WITHOUT_A_BUS: Check<Frontend> =
    |world, frontend| if_so(frontend.kind == GraphicsType::Rdp && !world.has_bus);

/// The checks of each graphics (src/conf/domain_validate.c, `virDomainGraphicsDefValidate`;
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefGraphics`). libvirt 12.8 makes the last
/// three checks here, and 11.3 makes them at start ([`START`]).
pub(super) const GRAPHICS: [OfGraphics; 15] = [
    OfGraphics::define(
        "'network' attribute is required for listen type 'network'",
        |_, frontend| {
            let mut listens = frontend.settings.listens.iter();
            if_so(listens.any(|(kind, named)| kind == "network" && !named))
        },
    ),
    OfGraphics::define(
        "listen type '{}' is not available for graphics type 'rdp'",
        |_, frontend| {
            let listens = &frontend.settings.listens;
            let has = |kind: &&str| listens.iter().any(|(other, _)| other == kind);
            let found = ["socket", "none"].into_iter().find(has)?;
            (frontend.kind == GraphicsType::Rdp).then(|| found.to_owned())
        },
    ),
    OfGraphics::define(
        "D-Bus p2p with an address is not supported",
        |_, frontend| if_so(frontend.p2p && frontend.settings.has_address),
    ),
    OfGraphics::define(
        "Invalid value for attribute 'type' in element 'graphics': '{}'.",
        |world, frontend| {
            let has_none = frontend.kind == GraphicsType::Dbus && !world.libvirt.has(DBUS);
            has_none.then(|| frontend.kind.to_string())
        },
    )
    .repairable(),
    // For dbus, egl-headless and sdl, libvirt knows only whether QEMU was built with them
    // (`virQEMUCapsFillDomainDeviceGraphicsCaps`). So it is QEMU that reports a module that is not
    // installed.
    OfGraphics::define(
        "{} graphics are not supported with this QEMU",
        |world, frontend| {
            let kind = frontend.kind;
            let is_asked = match kind {
                GraphicsType::Vnc | GraphicsType::Spice => true,
                // libvirt has rdp if it finds qemu-rdp (src/qemu/qemu_rdp.c, `qemuRdpAvailable`).
                GraphicsType::Rdp if world.libvirt.has(RDP) => true,
                GraphicsType::Rdp => return Some(kind.to_string()),
                _ => false,
            };
            let lacks = is_asked && world.abilities.has(kind.word()) == Some(false);
            lacks.then(|| kind.to_string())
        },
    )
    .repairable(),
    OfGraphics::define(
        "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' graphics types",
        |world, frontend| {
            let pairs = [
                GraphicsType::EglHeadless,
                GraphicsType::Vnc,
                GraphicsType::Spice,
            ];
            let has_egl = world.has_graphics(GraphicsType::EglHeadless);
            if_so(has_egl && !pairs.contains(&frontend.kind))
        },
    )
    .repairable(),
    OfGraphics::define(
        "multiple OpenGL displays are not supported by QEMU",
        |world, frontend| {
            let has_egl = world.has_graphics(GraphicsType::EglHeadless);
            if_so(has_egl && frontend.kind == GraphicsType::Spice && frontend.gl)
        },
    )
    .repairable(),
    OfGraphics::define(
        "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
        |world, frontend| {
            let is_tls = frontend.kind == GraphicsType::Spice && frontend.is_on_tcp();
            if_so(is_tls && frontend.settings.tls_port > 0 && !world.tls)
        },
    ),
    OfGraphics::define(
        "This QEMU doesn't support spice OpenGL",
        |world, frontend| {
            let lacks = world.abilities.has("spice-gl") == Some(false);
            if_so(lacks && frontend.kind == GraphicsType::Spice && frontend.gl)
        },
    )
    .repairable(),
    OfGraphics::define(
        "VNC password is {} characters long, only 8 permitted",
        |_, frontend| {
            let length = frontend.settings.password;
            (frontend.kind == GraphicsType::Vnc && length > 8).then(|| length.to_string())
        },
    ),
    OfGraphics::define("RDP doesn't support 'replaceUser'", |_, frontend| {
        if_so(frontend.kind == GraphicsType::Rdp && frontend.settings.replace_user)
    }),
    OfGraphics::define("RDP doesn't support 'multiUser'", |_, frontend| {
        if_so(frontend.kind == GraphicsType::Rdp && frontend.settings.multi_user)
    }),
    OfGraphics::define(
        "QEMU does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS,
    )
    .since(&[12, 8])
    .always(),
    OfGraphics::define(
        "qemu-rdp does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS_OF_RDP,
    )
    .since(&[12, 8]),
    OfGraphics::define(
        "qemu-rdp support requires a D-Bus bus graphics device.",
        RDP_WITHOUT_A_BUS,
    )
    .since(&[12, 8])
    .repairable(),
];

/// The checks of each graphics at start (src/qemu/qemu_process.c,
/// `qemuProcessStartValidateGraphics`).
pub(super) const START: [OfGraphics; 3] = [
    OfGraphics::start(
        "QEMU does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS,
    )
    .until(&[12, 8])
    .always(),
    OfGraphics::start(
        "qemu-rdp does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS_OF_RDP,
    )
    .until(&[12, 8]),
    OfGraphics::start(
        "qemu-rdp support requires a D-Bus bus graphics device.",
        RDP_WITHOUT_A_BUS,
    )
    .until(&[12, 8])
    .repairable(),
];

/// libvirt's message, before the profile's name, if its AppArmor helper makes no profile for a
/// domain. The helper makes none if an SDL display is the domain's only graphics and has no
/// `xauth`, or has it in a directory that the helper keeps from guests
/// (src/security/virt-aa-helper.c, `get_files`, `valid_path`).
pub(crate) const NO_APPARMOR_PROFILE: &str = "cannot load AppArmor profile";

pub(super) const PROFILE: [OfGraphics; 1] =
    [OfGraphics::start(NO_APPARMOR_PROFILE, |world, frontend| {
        let is_alone = world.screens.frontends.len() == 1 && !world.screens.desktop;
        let is_its = is_alone && frontend.kind == GraphicsType::Sdl;
        let refused = match frontend.settings.xauth.as_deref() {
            None => true,
            Some(path) => RESTRICTED.split(' ').any(|start| path.starts_with(start)),
        };
        let makes_one =
            world.abilities.guests.apparmor == Some(true) && !world.screens.settings.unconfined;
        if_so(is_its && refused && makes_one)
    })
    .repairable()];

/// The prefixes of the paths that libvirt's AppArmor helper keeps from guests.
const RESTRICTED: &str = "\
    /bin/ /etc/ /lib /lost+found/ /proc/ /sbin/ /selinux/ /sys/ /usr/bin/ /usr/lib /usr/sbin/ \
    /usr/share/ /usr/local/bin/ /usr/local/etc/ /usr/local/lib /usr/local/sbin/";

/// The checks when libvirt chooses a render node (`qemuProcessGraphicsSetupRenderNode`).
pub(super) const RENDER_NODE: [OfGraphics; 1] = [OfGraphics::start("{}", |world, frontend| {
    let looks = frontend.renders() && frontend.rendernode.is_none();
    let message = world
        .abilities
        .render_nodes
        .and_then(RenderNodes::refusal)?;
    looks.then(|| message.to_owned())
})
.repairable()];

/// The checks of each graphics once QEMU's process exists and before QEMU runs in it
/// (src/qemu/qemu_cgroup.c, `qemuSetupGraphicsCgroup`).
pub(super) const CGROUP: [OfGraphics; 1] = [OfGraphics::arguments(
    "Path '{}' is not accessible: No such file or directory",
    |world, frontend| {
        let node = frontend.rendernode.as_ref()?;
        let is_absent = world.abilities.lacks_node(node) == Some(true);
        (is_absent && frontend.hands_over_its_node()).then(|| node.clone())
    },
)];

/// libvirt's message if it is to choose a TLS port for spice, but qemu.conf has TLS switched off.
pub const NO_TLS_PORT: &str =
    "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf";

/// Returns whether libvirt reports this message only at a real start, and not when it only
/// translates a domain's XML into QEMU's arguments.
pub(crate) fn is_of_real_starts(message: &str) -> bool {
    let is_cgroups = message.starts_with("Path '") && message.contains("' is not accessible");
    is_cgroups || [NO_TLS_PORT, NO_APPARMOR_PROFILE, DBUS_DAEMON_DIED].contains(&message)
}

/// The checks of each graphics once all graphics are set up (`qemuProcessSPICEAllocatePorts`).
pub(super) const PORTS: [OfGraphics; 1] = [OfGraphics::start(NO_TLS_PORT, |world, frontend| {
    let settings = &frontend.settings;
    let wants = settings.autoport && settings.wants_tls() || settings.tls_port == -1;
    let is_spice = frontend.kind == GraphicsType::Spice && frontend.is_on_tcp();
    if_so(is_spice && wants && !world.tls)
})];

/// The checks of each graphics when libvirt starts a dbus-daemon (src/qemu/qemu_dbus.c,
/// `qemuDBusStart`).
pub(super) const DAEMON: [OfGraphics; 1] =
    [OfGraphics::arguments(DBUS_DAEMON_DIED, |world, frontend| {
        if_so(frontend.has_daemon() && world.daemon_denied)
    })
    .repairable()];

/// The checks before libvirt builds the command line (src/qemu/qemu_command.c,
/// `qemuBuildCommandLineValidate`).
pub(super) const ONE_OF_EACH: [OfGraphics; 2] = [
    OfGraphics::arguments(
        "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus, rdp) is supported",
        is_twice,
    )
    .since(&[11, 1])
    .always(),
    OfGraphics::arguments(
        "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported",
        is_twice,
    )
    .until(&[11, 1])
    .always(),
];

fn is_twice(world: &World<'_>, frontend: &Frontend) -> Option<String> {
    if_so(
        world
            .kinds
            .get(&frontend.kind)
            .is_some_and(|many| *many > 1),
    )
}

/// The checks of each graphics when libvirt builds QEMU's arguments
/// (`qemuBuildGraphicsVNCCommandLine`, `qemuBuildGraphicsSPICECommandLine`).
pub(super) const ARGUMENTS: [OfGraphics; 4] = [
    OfGraphics::arguments("vnc port must be in range [5900,65535]", |_, frontend| {
        let settings = &frontend.settings;
        let is_vnc = frontend.kind == GraphicsType::Vnc && frontend.is_on_tcp();
        if_so(is_vnc && !settings.autoport && !(5900..=65535).contains(&settings.port))
    }),
    OfGraphics::arguments(NO_AUDIO, |world, frontend| {
        if_so(frontend.kind == GraphicsType::Vnc && world.lacks_audio)
    })
    .repairable(),
    OfGraphics::arguments("spice {} connection is not available", |_, f| {
        let (mode, connection) = lacking(f, |mode| f.settings.default_mode == mode)?;
        Some(format!(
            "defaultMode {mode} requested in XML configuration, but {connection}"
        ))
    }),
    OfGraphics::arguments("spice {} connection is not available", |_, f| {
        let (mode, connection) = lacking(f, |mode| f.settings.channels.contains(&mode))?;
        Some(format!(
            "{mode} channels set in XML configuration, but {connection}"
        ))
    }),
];

/// libvirt's message for a device that needs an `<audio>` in a domain that has none.
pub(super) const NO_AUDIO: &str = "unable to find audio backend for sound device";

/// Returns whether a domain with graphics has no `<audio>`, and libvirt adds none
/// (src/qemu/qemu_postparse.c, `qemuDomainDefAddDefaultAudioBackend`). libvirt adds one for spice
/// or VNC, unless an SDL display, which uses the host's own audio, comes after them.
pub(super) fn lacks_audio(screens: &Screens) -> bool {
    let with_audio = |f: &Frontend| match f.kind {
        GraphicsType::Spice | GraphicsType::Vnc => Some(true),
        GraphicsType::Sdl => Some(false),
        _ => None,
    };
    let has_one = screens.frontends.iter().filter_map(with_audio).next_back();
    screens.settings.audio.is_empty() && !screens.frontends.is_empty() && has_one != Some(true)
}

/// Returns the mode of spice's channels that can't work, and the connection that it lacks; `None`
/// if every mode works, or the frontend is not spice. `asks` returns whether the XML asks for a
/// mode. With autoport, libvirt adds every connection that the XML asks for.
fn lacking(
    frontend: &Frontend,
    asks: impl Fn(SpiceMode) -> bool,
) -> Option<(&'static str, &'static str)> {
    let GraphicsSettings {
        autoport,
        port,
        tls_port,
        ..
    } = frontend.settings;
    let is_on_tcp = frontend.is_on_tcp();
    let has_tls = is_on_tcp && (autoport || tls_port != 0);
    let has_plain = !is_on_tcp || autoport || port != 0;
    if frontend.kind != GraphicsType::Spice {
        None
    } else if asks(SpiceMode::Secure) && !has_tls {
        Some(("secure", "TLS"))
    } else {
        (asks(SpiceMode::Insecure) && !has_plain).then_some(("insecure", "plaintext"))
    }
}
