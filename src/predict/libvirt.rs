//! libvirt's own refusals, before it starts QEMU: its checks as tables, in the order in which it
//! makes them, with its words.
//!
//! The tables are libvirt 11.3's source; docs/qemu-and-libvirt.md says what older and newer
//! versions have. libvirt checks the whole domain for each hostdev, then for each card, each
//! character device and each graphics, then for what occurs twice. That is a definition. A start
//! does the same again, checks the graphics, and then handles the host's devices.

use std::collections::BTreeMap;

use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::domain::{GraphicsType, SpiceMode, Switch};
use crate::predict::abilities::{Abilities, DBUS_DAEMON_DIED, RenderNodes};
use crate::predict::screens::{Card, Frontend, Here, Screens, Vgpu};
use crate::predict::versions::Libvirt;
use crate::predict::{About, Refusal, Stage};

/// A domain and one host that it may be on.
struct World<'w> {
    screens: &'w Screens,
    /// How many graphics it has of each type.
    kinds: BTreeMap<GraphicsType, usize>,
    /// True if the first of its dbus displays is on a bus. libvirt looks at no other
    /// (`virDomainDefHasDBus`).
    has_bus: bool,
    /// True if it has no `<audio>`, and libvirt adds none.
    lacks_audio: bool,
    abilities: &'w Abilities,
    libvirt: &'w Libvirt,
    /// The setting `spice_tls` of qemu.conf.
    tls: bool,
}

/// A check of libvirt's for a thing: a hostdev, a card, a graphics or the whole domain.
struct Rule<T> {
    stage: Stage,
    /// The first version with the check; empty: every version.
    since: &'static [u32],
    /// The first version without it; empty: none.
    until: &'static [u32],
    /// libvirt's words; `{}` stands for the text that `broken` returns.
    words: &'static str,
    /// True if a plan may change the thing that breaks it.
    repair: bool,
    /// Returns the text for `{}` if the rule is broken.
    broken: fn(&World<'_>, &T) -> Option<String>,
}

type OfHostdev = Rule<Vgpu>;
type OfCard = Rule<Card>;
type OfGraphics = Rule<Frontend>;
type OfDomain = Rule<Screens>;

impl<T> Rule<T> {
    const fn at(
        stage: Stage,
        words: &'static str,
        broken: fn(&World<'_>, &T) -> Option<String>,
    ) -> Self {
        Rule {
            stage,
            since: &[],
            until: &[],
            words,
            repair: false,
            broken,
        }
    }

    const fn define(words: &'static str, broken: fn(&World<'_>, &T) -> Option<String>) -> Self {
        Self::at(Stage::Define, words, broken)
    }

    const fn arguments(words: &'static str, broken: fn(&World<'_>, &T) -> Option<String>) -> Self {
        Self::at(Stage::Arguments, words, broken)
    }

    const fn start(words: &'static str, broken: fn(&World<'_>, &T) -> Option<String>) -> Self {
        Self::at(Stage::Start, words, broken)
    }

    const fn since(mut self, version: &'static [u32]) -> Self {
        self.since = version;
        self
    }

    const fn until(mut self, version: &'static [u32]) -> Self {
        self.until = version;
        self
    }

    const fn repairable(mut self) -> Self {
        self.repair = true;
        self
    }

    fn ask(&self, world: &World<'_>, thing: &T, about: About) -> Option<Broken> {
        if !world.has(self.since, self.until) {
            return None;
        }
        let found = (self.broken)(world, thing)?;
        Some(Broken {
            refusal: Refusal {
                stage: self.stage,
                about,
                message: self.words.replacen("{}", &found, 1),
                always: self.since.is_empty() && self.until.is_empty(),
                or: Vec::new(),
            },
            repair: self.repair,
        })
    }
}

/// A rule that is broken.
struct Broken {
    refusal: Refusal,
    repair: bool,
}

/// Returns the empty text for a broken rule whose words have no `{}`.
fn if_so(is_broken: bool) -> Option<String> {
    is_broken.then(String::new)
}

impl<'w> World<'w> {
    /// What several rules ask is found out once: a rule that went through all graphics for each of
    /// them would take a second for some thousands.
    fn new(
        screens: &'w Screens,
        abilities: &'w Abilities,
        libvirt: &'w Libvirt,
        tls: bool,
    ) -> Self {
        let mut kinds = BTreeMap::new();
        for frontend in &screens.frontends {
            *kinds.entry(frontend.kind).or_default() += 1;
        }
        let mut all = screens.frontends.iter();
        let dbus = all.find(|f| f.kind == GraphicsType::Dbus);
        World {
            screens,
            kinds,
            has_bus: dbus.is_some_and(|dbus| !dbus.p2p),
            lacks_audio: lacks_audio(screens),
            abilities,
            libvirt,
            tls,
        }
    }

    /// Returns whether this libvirt is of these versions. An unknown version counts as the newest
    /// or the oldest, as in [`Libvirt::possible`].
    fn has(&self, since: &[u32], until: &[u32]) -> bool {
        match &self.abilities.libvirt {
            Some(version) => {
                let is_older = |than: &[u32]| *version < Version::of(than);
                !is_older(since) && (until.is_empty() || is_older(until))
            }
            None if self.libvirt.pci_display => until.is_empty(),
            None => since.is_empty(),
        }
    }

    fn has_graphics(&self, kind: GraphicsType) -> bool {
        self.kinds.contains_key(&kind)
    }
}

/// The checks once a hostdev is parsed (src/conf/domain_postparse.c,
/// `virDomainHostdevDefPostParse`).
const HOSTDEV_PARSED: [Rule<Vgpu>; 1] =
    [Rule::define("Unsupported address type '{}", |_, vgpu| {
        let wanted = match vgpu.model.as_str() {
            "vfio-pci" => "pci",
            "vfio-ccw" => "ccw",
            _ => return None,
        };
        let address = vgpu.settings.address.as_deref()?;
        let is_mdev = matches!(vgpu.id, DeviceId::Mdev(_));
        let model = &vgpu.model;
        (is_mdev && address != wanted)
            .then(|| format!("{address}' with mediated device model '{model}'"))
    })];

/// The checks of each hostdev (src/qemu/qemu_validate.c, `qemuValidateDomainMdevDefVFIOPCI`,
/// `qemuValidateDomainMdevDefVFIOAP`, `qemuValidateDomainDeviceDefHostdev`).
const HOSTDEV: [OfHostdev; 3] = [
    OfHostdev::define(
        "booting from assigned devices is not supported by mediated devices of model {}",
        |_, vgpu| {
            let is_mdev = matches!(vgpu.id, DeviceId::Mdev(_));
            let has_rule = matches!(vgpu.model.as_str(), "vfio-pci" | "vfio-ap");
            (is_mdev && has_rule && vgpu.settings.boot).then(|| vgpu.model.clone())
        },
    ),
    // libvirt looks at the attribute, whatever qemu:override says.
    OfHostdev::define(
        "graphics device is needed for attribute value 'display=on' in <hostdev>",
        |world, vgpu| {
            let is_asked = vgpu.asked && vgpu.is_pci && world.libvirt.takes_display(vgpu.id);
            let has_none = world.screens.frontends.is_empty() && !world.screens.desktop;
            if_so(is_asked && has_none)
        },
    )
    .repairable(),
    OfHostdev::define(
        "Only one hostdev of model vfio-ap is supported",
        |world, vgpu| {
            let mut of_model = world.screens.vgpus.iter().filter(|v| v.model == "vfio-ap");
            if_so(vgpu.model == "vfio-ap" && of_model.nth(1).is_some())
        },
    ),
];

fn is_virtio(card: &Card) -> bool {
    card.model.as_deref() == Some("virtio")
}

/// Returns the model of a card that is none of these; `None` if libvirt chooses the model.
fn other_than<'c>(card: &'c Card, models: &[&str]) -> Option<&'c str> {
    let model = card.model.as_deref()?;
    (!models.contains(&model)).then_some(model)
}

/// Returns whether the card is the first one, or marked as primary.
fn is_primary(world: &World<'_>, card: &Card) -> bool {
    let first = world.screens.cards.first();
    card.settings.primary || first.is_some_and(|first| first.place == card.place)
}

/// The checks of each card (src/conf/domain_validate.c, `virDomainVideoDefValidate`;
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefVideo`).
const VIDEO: [OfCard; 25] = [
    OfCard::define(
        "'vhostuser' driver is only supported with 'virtio' device",
        |_, card| if_so(card.settings.vhost_user && other_than(card, &["virtio"]).is_some()),
    ),
    OfCard::define(
        "unsupported rendernode accel attribute without 'vhostuser'",
        |_, card| if_so(card.settings.rendernode && !card.settings.vhost_user),
    ),
    OfCard::define(
        "video resolution values must be greater than 0",
        |_, card| {
            let empty = |(x, y): (u32, u32)| x == 0 || y == 0;
            if_so(card.settings.resolution.is_some_and(empty))
        },
    ),
    OfCard::define(
        "ram attribute only supported for video type qxl",
        |_, card| if_so(card.settings.memory.ram != 0 && other_than(card, &["qxl"]).is_some()),
    ),
    OfCard::define(
        "vram64 attribute only supported for video type qxl",
        |_, card| if_so(card.settings.memory.vram64 != 0 && other_than(card, &["qxl"]).is_some()),
    ),
    OfCard::define(
        "vgamem attribute only supported for video type qxl",
        |_, card| if_so(card.settings.memory.vgamem != 0 && other_than(card, &["qxl"]).is_some()),
    ),
    OfCard::define("address not supported for video type ramfb", |_, card| {
        if_so(card.settings.has_address && card.model.as_deref() == Some("ramfb"))
    }),
    OfCard::define(
        "video type '{}' does not support blob resources",
        |_, card| {
            card.settings.blob?;
            other_than(card, &["virtio"]).map(str::to_owned)
        },
    )
    .since(&[9, 2]),
    OfCard::define("video type '{}' does not support edid", |_, card| {
        card.settings.edid?;
        other_than(card, &["vga", "bochs", "virtio"]).map(str::to_owned)
    })
    .since(&[11, 7]),
    // No QEMU has any of these.
    OfCard::define(
        "domain configuration does not support video model '{}'",
        |_, card| {
            let model = card.model.as_deref()?;
            let is_foreign = matches!(model, "xen" | "vbox" | "parallels" | "gop");
            is_foreign.then(|| model.to_owned())
        },
    ),
    OfCard::define(
        "video type '{}' is only valid as primary video device",
        |world, card| {
            let model = other_than(card, &["qxl", "virtio"])?;
            (!is_primary(world, card)).then(|| model.to_owned())
        },
    ),
    OfCard::define(
        "video type '{}' doesn't support multiple 'heads'",
        |_, card| {
            let model = other_than(card, &["qxl", "virtio"])?;
            (card.settings.heads != 1).then(|| model.to_owned())
        },
    ),
    OfCard::define("qemu does not support the accel2d setting", |_, card| {
        if_so(card.settings.accel2d)
    }),
    OfCard::define("value for 'vram' must be less than '4194303'", |_, card| {
        if_so(card.model.as_deref() == Some("qxl") && card.settings.memory.vram > 4_194_303)
    }),
    OfCard::define("value for 'ram' must be less than '4194303'", |_, card| {
        if_so(card.model.as_deref() == Some("qxl") && card.settings.memory.ram > 4_194_303)
    }),
    OfCard::define(
        "value for 'vgamem' must be at least 1 MiB (1024 KiB)",
        |_, card| if_so((1..1024).contains(&card.settings.memory.vgamem)),
    ),
    OfCard::define("value for 'vgamem' must be power of two", |_, card| {
        let vgamem = card.settings.memory.vgamem;
        if_so(vgamem != 0 && !vgamem.is_power_of_two())
    }),
    OfCard::define("model resolution is not supported", |_, card| {
        let other = other_than(card, &["vga", "qxl", "virtio", "bochs"]);
        if_so(card.settings.resolution.is_some() && other.is_some())
    }),
    OfCard::define(
        "value for 'vram' must be at least 1 MiB (1024 KiB)",
        |_, card| {
            let has_rule = matches!(card.model.as_deref(), Some("vga" | "vmvga"));
            if_so(has_rule && (1..1024).contains(&card.settings.memory.vram))
        },
    ),
    // 12.8 does not have these words. 12.5, which brought the frontends below, probably dropped
    // them.
    OfCard::define(
        "3d acceleration is supported only with 'virtio' video device",
        |_, card| {
            let is_its = card.settings.accel3d && !card.settings.vhost_user;
            if_so(is_its && other_than(card, &["virtio"]).is_some())
        },
    )
    .until(&[12, 5]),
    OfCard::define(
        "'blob' support for virtio-gpu devices requires a memfd memory backend",
        |world, card| {
            let is_on = card.settings.blob == Some(Switch::On);
            if_so(is_virtio(card) && is_on && !world.screens.memfd)
        },
    )
    .since(&[9, 2]),
    OfCard::define(
        "Invalid value for attribute 'device' in element 'model': '{}'.",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            (!FRONTENDS.contains(&device.as_str())).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device frontend can be only used as primary video device",
        |world, card| {
            let device = card.settings.device.as_ref()?;
            let is_vga = device.contains("-vga");
            (is_virtio(card) && is_vga && !is_primary(world, card)).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device frontend can be only with enabled 3d acceleration",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            let is_gl = device.ends_with("-gl");
            (is_virtio(card) && is_gl && !card.settings.accel3d).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device doesn't match the selected vhostuser backend",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            let is_its = device.starts_with("vhost-user-");
            (is_virtio(card) && is_its != card.settings.vhost_user).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
];

/// The values of `device` in `<model type='virtio' device=…>`.
const FRONTENDS: [&str; 6] = [
    "virtio-vga",
    "virtio-gpu",
    "virtio-vga-gl",
    "virtio-gpu-gl",
    "vhost-user-vga",
    "vhost-user-gpu",
];

/// Returns the type of these graphics if one of its `<listen>` elements is of that kind.
fn listen_of(frontend: &Frontend, kinds: &[GraphicsType], what: &str) -> Option<String> {
    let listens = &frontend.settings.listens;
    let has_one = listens.iter().any(|(kind, _)| kind == what);
    (has_one && kinds.contains(&frontend.kind)).then(|| frontend.kind.to_string())
}

fn is_kind(frontend: &Frontend, kind: GraphicsType) -> bool {
    frontend.kind == kind
}

const SEVERAL_LISTENS: fn(&World<'_>, &Frontend) -> Option<String> = |_, frontend| {
    let kinds = [GraphicsType::Vnc, GraphicsType::Spice];
    if_so(kinds.contains(&frontend.kind) && frontend.settings.listens.len() > 1)
};

const SEVERAL_LISTENS_OF_RDP: fn(&World<'_>, &Frontend) -> Option<String> = |_, frontend| {
    if_so(is_kind(frontend, GraphicsType::Rdp) && frontend.settings.listens.len() > 1)
};

const RDP_WITHOUT_A_BUS: fn(&World<'_>, &Frontend) -> Option<String> =
    |world, frontend| if_so(is_kind(frontend, GraphicsType::Rdp) && !world.has_bus);

/// The checks of each graphics (src/conf/domain_validate.c, `virDomainGraphicsDefValidate`;
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefGraphics`). libvirt 12.8 has the words of
/// the last three in qemu_validate.c; it is not known since when.
const GRAPHICS: [OfGraphics; 16] = [
    OfGraphics::define(
        "'network' attribute is required for listen type 'network'",
        |_, frontend| {
            let mut listens = frontend.settings.listens.iter();
            if_so(listens.any(|(kind, named)| kind == "network" && !named))
        },
    ),
    OfGraphics::define(
        "listen type 'socket' is not available for graphics type '{}'",
        |_, frontend| listen_of(frontend, &[GraphicsType::Rdp], "socket"),
    ),
    OfGraphics::define(
        "listen type 'none' is not available for graphics type '{}'",
        |_, frontend| listen_of(frontend, &[GraphicsType::Rdp], "none"),
    ),
    OfGraphics::define(
        "D-Bus p2p with an address is not supported",
        |_, frontend| if_so(frontend.p2p && frontend.settings.has_address),
    ),
    OfGraphics::define(
        "Invalid value for attribute 'type' in element 'graphics': '{}'.",
        |world, frontend| {
            let has_none = is_kind(frontend, GraphicsType::Dbus) && !world.libvirt.dbus;
            has_none.then(|| frontend.kind.to_string())
        },
    )
    .repairable(),
    // For dbus, egl-headless and sdl, libvirt knows only whether QEMU was built with them
    // (`virQEMUCapsFillDomainDeviceGraphicsCaps`). So QEMU reports if their module is not
    // installed.
    OfGraphics::define(
        "{} graphics are not supported with this QEMU",
        |world, frontend| {
            let kind = frontend.kind;
            let is_asked = match kind {
                GraphicsType::Vnc | GraphicsType::Spice => true,
                // It is there if libvirt finds qemu-rdp (src/qemu/qemu_rdp.c, `qemuRdpAvailable`).
                GraphicsType::Rdp if world.libvirt.rdp => true,
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
    Rule::define(
        "multiple OpenGL displays are not supported by QEMU",
        |world, frontend| {
            let has_egl = world.has_graphics(GraphicsType::EglHeadless);
            if_so(has_egl && is_kind(frontend, GraphicsType::Spice) && frontend.gl)
        },
    )
    .repairable(),
    Rule::define(
        "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
        |world, frontend| {
            let is_tls = is_kind(frontend, GraphicsType::Spice) && frontend.is_on_tcp();
            if_so(is_tls && frontend.settings.tls_port > 0 && !world.tls)
        },
    ),
    Rule::define(
        "This QEMU doesn't support spice OpenGL",
        |world, frontend| {
            let lacks = world.abilities.has("spice-gl") == Some(false);
            if_so(lacks && is_kind(frontend, GraphicsType::Spice) && frontend.gl)
        },
    )
    .repairable(),
    Rule::define(
        "VNC password is {} characters long, only 8 permitted",
        |_, frontend| {
            let length = frontend.settings.password;
            (is_kind(frontend, GraphicsType::Vnc) && length > 8).then(|| length.to_string())
        },
    ),
    Rule::define("RDP doesn't support 'replaceUser'", |_, frontend| {
        if_so(is_kind(frontend, GraphicsType::Rdp) && frontend.settings.replace_user)
    }),
    Rule::define("RDP doesn't support 'multiUser'", |_, frontend| {
        if_so(is_kind(frontend, GraphicsType::Rdp) && frontend.settings.multi_user)
    }),
    Rule::define(
        "QEMU does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS,
    )
    .since(&[12, 8]),
    Rule::define(
        "qemu-rdp does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS_OF_RDP,
    )
    .since(&[12, 8]),
    Rule::define(
        "qemu-rdp support requires a D-Bus bus graphics device.",
        RDP_WITHOUT_A_BUS,
    )
    .since(&[12, 8])
    .repairable(),
];

/// The checks for what occurs twice, once every device has passed (src/conf/domain_validate.c,
/// `virDomainDefHostdevValidate`, `virDomainDefVideoValidate`).
const TWICE: [OfDomain; 3] = [
    OfDomain::define(
        "Hostdev already exists in the domain configuration",
        |_, screens| if_so(screens.twice().is_some()),
    ),
    OfDomain::define(
        "Only one vgpu device can have 'ramfb' enabled",
        |world, screens| if_so(with_ramfb(world, screens).count() > 1),
    )
    .repairable(),
    OfDomain::define(
        "Only one primary video device is supported",
        |_, screens| {
            let primary = screens.cards.iter().filter(|card| card.settings.primary);
            if_so(primary.count() > 1)
        },
    ),
];

/// Returns the devices whose attribute asks for a ramfb, as libvirt reads it.
fn with_ramfb<'w>(world: &World<'w>, screens: &'w Screens) -> impl Iterator<Item = &'w Vgpu> {
    let libvirt = world.libvirt;
    let asks = screens.vgpus.iter().filter(|vgpu| vgpu.ramfb_asked);
    asks.filter(move |vgpu| libvirt.takes_display(vgpu.id))
}

/// The checks of each graphics at start (src/qemu/qemu_process.c,
/// `qemuProcessStartValidateGraphics`).
const START: [OfGraphics; 3] = [
    OfGraphics::start(
        "QEMU does not support multiple listens for one graphics device.",
        SEVERAL_LISTENS,
    )
    .until(&[12, 8]),
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

/// What libvirt's helper for AppArmor gives up on: an SDL display is the domain's only graphics, and has no `xauth`,
/// or one in a directory that the helper keeps from guests (src/security/virt-aa-helper.c, `get_files`,
/// `valid_path`). libvirt's words go on with the guest's profile.
pub const NO_APPARMOR_PROFILE: &str = "cannot load AppArmor profile";

const PROFILE: [OfGraphics; 1] = [OfGraphics::start(NO_APPARMOR_PROFILE, |world, frontend| {
    let is_alone = world.screens.frontends.len() == 1 && !world.screens.desktop;
    let is_its = is_alone && is_kind(frontend, GraphicsType::Sdl);
    let refused = match frontend.settings.xauth.as_deref() {
        None => true,
        Some(path) => RESTRICTED.iter().any(|start| path.starts_with(start)),
    };
    if_so(is_its && refused && world.abilities.guests.apparmor == Some(true))
})
.repairable()];

/// The beginnings of paths that the helper keeps from guests.
const RESTRICTED: [&str; 16] = [
    "/bin/",
    "/etc/",
    "/lib",
    "/lost+found/",
    "/proc/",
    "/sbin/",
    "/selinux/",
    "/sys/",
    "/usr/bin/",
    "/usr/lib",
    "/usr/sbin/",
    "/usr/share/",
    "/usr/local/bin/",
    "/usr/local/etc/",
    "/usr/local/lib",
    "/usr/local/sbin/",
];

/// The checks of each graphics while libvirt sets it up (`qemuProcessGraphicsSetupRenderNode`).
const RENDER_NODE: [OfGraphics; 1] = [OfGraphics::start("{}", |world, frontend| {
    let looks = frontend.renders() && frontend.rendernode.is_none();
    let message = world
        .abilities
        .render_nodes
        .and_then(RenderNodes::refusal)?;
    looks.then(|| message.to_owned())
})
.repairable()];

/// For each graphics, once QEMU's process is there and has not begun (src/qemu/qemu_cgroup.c,
/// `qemuSetupGraphicsCgroup`).
const CGROUP: [OfGraphics; 1] = [OfGraphics::arguments(
    "Path '{}' is not accessible: No such file or directory",
    |world, frontend| {
        let node = frontend.rendernode.as_ref()?;
        let is_absent = world.abilities.lacks_node(node) == Some(true);
        (is_absent && frontend.hands_over_its_node()).then(|| node.clone())
    },
)];

/// libvirt's words if it has to find a TLS port and qemu.conf has no TLS.
pub const NO_TLS_PORT: &str =
    "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf";

/// Returns true for words that libvirt says at a real start alone, and not of a dry run.
#[must_use]
pub fn is_of_real_starts(message: &str) -> bool {
    let is_cgroups = message.starts_with("Path '") && message.contains("' is not accessible");
    is_cgroups || [NO_TLS_PORT, NO_APPARMOR_PROFILE, DBUS_DAEMON_DIED].contains(&message)
}

/// The checks of each graphics once all are set up (`qemuProcessSPICEAllocatePorts`).
const PORTS: [OfGraphics; 1] = [OfGraphics::start(NO_TLS_PORT, |world, frontend| {
    let settings = &frontend.settings;
    let modes = std::iter::once(&settings.default_mode).chain(&settings.channels);
    let wants = settings.autoport && modes.into_iter().any(|mode| *mode == SpiceMode::Secure)
        || settings.tls_port == -1;
    let is_spice = is_kind(frontend, GraphicsType::Spice) && frontend.is_on_tcp();
    if_so(is_spice && wants && !world.tls)
})];

/// The checks of each graphics when libvirt starts its daemon (src/qemu/qemu_dbus.c,
/// `qemuDBusStart`).
const DAEMON: [OfGraphics; 1] = [OfGraphics::arguments(DBUS_DAEMON_DIED, |world, frontend| {
    if_so(frontend.daemon && world.abilities.guests.dbus_daemon_denied == Some(true))
})
.repairable()];

/// The checks before libvirt builds the command line (src/qemu/qemu_command.c,
/// `qemuBuildCommandLineValidate`).
const ONE_OF_EACH: [OfGraphics; 2] = [
    OfGraphics::arguments(
        "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus, rdp) is supported",
        is_twice,
    )
    .since(&[11, 1]),
    OfGraphics::arguments(
        "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported",
        is_twice,
    )
    .until(&[11, 1]),
];

fn is_twice(world: &World<'_>, frontend: &Frontend) -> Option<String> {
    if_so(
        world
            .kinds
            .get(&frontend.kind)
            .is_some_and(|many| *many > 1),
    )
}

/// The checks of each graphics when libvirt builds its arguments
/// (`qemuBuildGraphicsVNCCommandLine`, `qemuBuildGraphicsSPICECommandLine`).
const ARGUMENTS: [OfGraphics; 6] = [
    OfGraphics::arguments("vnc port must be in range [5900,65535]", |_, frontend| {
        let settings = &frontend.settings;
        let is_vnc = is_kind(frontend, GraphicsType::Vnc) && frontend.is_on_tcp();
        if_so(is_vnc && !settings.autoport && !(5900..=65535).contains(&settings.port))
    }),
    OfGraphics::arguments(NO_AUDIO, |world, frontend| {
        if_so(is_kind(frontend, GraphicsType::Vnc) && world.lacks_audio)
    })
    .repairable(),
    OfGraphics::arguments(
        "spice defaultMode secure requested in XML configuration, but TLS connection is not available",
        |_, frontend| {
            let asks = frontend.settings.default_mode == SpiceMode::Secure;
            if_so(asks && lacks(frontend, SpiceMode::Secure))
        },
    ),
    OfGraphics::arguments(
        "spice defaultMode insecure requested in XML configuration, but plaintext connection is not available",
        |_, frontend| {
            let asks = frontend.settings.default_mode == SpiceMode::Insecure;
            if_so(asks && lacks(frontend, SpiceMode::Insecure))
        },
    ),
    OfGraphics::arguments(
        "spice secure channels set in XML configuration, but TLS connection is not available",
        |_, frontend| {
            let asks = frontend.settings.channels.contains(&SpiceMode::Secure);
            if_so(asks && lacks(frontend, SpiceMode::Secure))
        },
    ),
    OfGraphics::arguments(
        "spice insecure channels set in XML configuration, but plaintext connection is not available",
        |_, frontend| {
            let asks = frontend.settings.channels.contains(&SpiceMode::Insecure);
            if_so(asks && lacks(frontend, SpiceMode::Insecure))
        },
    ),
];

/// What libvirt says of a device that needs an `<audio>` where there is none.
const NO_AUDIO: &str = "unable to find audio backend for sound device";

/// Whether a domain has no `<audio>`, and libvirt adds none (src/qemu/qemu_postparse.c,
/// `qemuDomainDefAddDefaultAudioBackend`): it does so for spice and for VNC, and not if SDL comes after them, as that has
/// the host's own audio.
fn lacks_audio(screens: &Screens) -> bool {
    let with_audio = |f: &Frontend| match f.kind {
        GraphicsType::Spice | GraphicsType::Vnc => Some(true),
        GraphicsType::Sdl => Some(false),
        _ => None,
    };
    let has_one = screens.frontends.iter().filter_map(with_audio).next_back();
    screens.audio.is_empty() && !screens.frontends.is_empty() && has_one != Some(true)
}

/// Returns whether spice has no connection for channels of a mode. With autoport, libvirt has made
/// one for whatever the XML asks for.
fn lacks(frontend: &Frontend, mode: SpiceMode) -> bool {
    if !is_kind(frontend, GraphicsType::Spice) {
        return false;
    }
    let settings = &frontend.settings;
    let has_one = match mode {
        SpiceMode::Secure if !frontend.is_on_tcp() => false,
        SpiceMode::Secure => settings.autoport || settings.tls_port != 0,
        _ if !frontend.is_on_tcp() => true,
        _ => settings.autoport || settings.port != 0,
    };
    !has_one
}

/// Returns all rules that the domain breaks, in the order in which libvirt finds them.
fn broken<'w>(world: &'w World<'w>) -> impl Iterator<Item = Broken> + 'w {
    let screens = world.screens;
    let define = |message: String| Broken {
        refusal: Refusal {
            stage: Stage::Define,
            about: About::Domain,
            message,
            always: true,
            or: Vec::new(),
        },
        repair: false,
    };
    fn each<'w, T>(
        world: &'w World<'w>,
        things: &'w [T],
        about: fn(&T) -> About,
        rules: &'static [Rule<T>],
    ) -> impl Iterator<Item = Broken> + 'w {
        things.iter().flat_map(move |thing| {
            rules
                .iter()
                .filter_map(move |rule| rule.ask(world, thing, about(thing)))
        })
    }
    let vgpus = |rules| each(world, &screens.vgpus, |vgpu| About::Device(vgpu.id), rules);
    let frontends = |rules| {
        each(
            world,
            &screens.frontends,
            |f| About::Graphics(f.kind),
            rules,
        )
    };
    // src/conf/domain_validate.c, virDomainVideoDefValidate, for the first card
    let none_beside = screens.none_cards > 0 && screens.none_cards + screens.cards.len() > 1;
    let none_beside = none_beside.then(|| {
        define("a 'none' video type must be the only video device defined for the domain".into())
    });
    let has_spice = world.has_graphics(GraphicsType::Spice);
    // src/qemu/qemu_validate.c, qemuValidateDomainChrSourceDef
    let chardevs = screens.spice_chardevs.iter().filter(move |_| !has_spice);
    let chardevs = chardevs.map(move |kind| {
        define(format!(
            "chardev '{kind}' not supported without spice graphics"
        ))
    });
    let desktop = screens
        .desktop
        .then(|| define("desktop graphics are not supported with this QEMU".into()));
    let audio = (screens.audio.iter().any(|kind| kind == "spice") && !has_spice)
        .then(|| define("Spice audio is not supported without spice graphics".into()));
    let sound = (screens.sound && world.lacks_audio).then(|| Broken {
        refusal: Refusal {
            stage: Stage::Arguments,
            about: About::Domain,
            message: NO_AUDIO.into(),
            always: false,
            or: Vec::new(),
        },
        repair: true,
    });
    let twice = TWICE.iter().filter_map(move |rule| {
        let ramfb = || with_ramfb(world, screens).nth(1).map(|vgpu| vgpu.id);
        let about = screens.twice().or_else(ramfb);
        rule.ask(world, screens, about.map_or(About::Domain, About::Device))
    });
    screens
        .misread
        .iter()
        .map(move |message| define(message.clone()))
        .chain(vgpus(&HOSTDEV_PARSED))
        .chain(vgpus(&HOSTDEV))
        .chain(none_beside)
        .chain(each(world, &screens.cards, |_| About::Domain, &VIDEO))
        .chain(chardevs)
        .chain(frontends(&GRAPHICS))
        .chain(desktop)
        .chain(audio)
        .chain(twice)
        .chain(frontends(&START))
        .chain(frontends(&PROFILE))
        .chain(frontends(&RENDER_NODE))
        .chain(frontends(&PORTS))
        .chain(frontends(&DAEMON))
        .chain(frontends(&ONE_OF_EACH))
        .chain(frontends(&ARGUMENTS))
        .chain(sound)
        .chain(frontends(&CGROUP))
}

/// Returns the possible values of `spice_tls` of qemu.conf, as far as the domain depends on it.
pub(super) fn tls(abilities: &Abilities, screens: &Screens) -> Vec<bool> {
    let cares = screens.frontends.iter().any(|frontend| {
        let settings = &frontend.settings;
        settings.tls_port != 0
            || settings.default_mode == SpiceMode::Secure
            || settings.channels.contains(&SpiceMode::Secure)
    });
    match abilities.spice_tls {
        Some(tls) => vec![tls],
        None if cares => vec![true, false],
        None => vec![false],
    }
}

/// Returns libvirt's refusals to define or to start the domain, whatever devices the host has: one
/// answer for each possible value of an unknown setting.
#[must_use]
pub fn refusals(
    screens: &Screens,
    abilities: &Abilities,
    libvirt: &Libvirt,
) -> Vec<Option<Refusal>> {
    let answer = |tls| {
        let world = World::new(screens, abilities, libvirt, tls);
        broken(&world).next().map(|broken| broken.refusal)
    };
    tls(abilities, screens).into_iter().map(answer).collect()
}

/// Returns whether libvirt refuses the domain for something that no plan changes.
#[must_use]
pub fn is_beyond_repair(screens: &Screens, abilities: &Abilities) -> bool {
    Libvirt::possible(abilities).iter().all(|libvirt| {
        tls(abilities, screens).into_iter().all(|tls| {
            let world = World::new(screens, abilities, libvirt, tls);
            broken(&world).any(|broken| !broken.repair)
        })
    })
}

/// Returns libvirt's refusal when it prepares the host's devices: one of them does not exist, or a
/// PCI device without managed='yes' is still the host's. No change of the screens fixes that, so
/// [`predict`](super::predict) assumes that the devices exist and are ready.
///
/// Sources: src/hypervisor/virhostdev.c, `virHostdevPreparePCIDevicesImpl`, then
/// src/util/virmdev.c, `virMediatedDeviceNew`. The next function that needs a missing PCI device
/// finds that it does not exist (src/util/virpci.c, `virPCIDeviceNew`).
#[must_use]
pub fn devices(screens: &Screens) -> Option<Refusal> {
    let is_absent = |vgpu: &&Vgpu| vgpu.known.here == Some(Here::Absent);
    let is_the_hosts = |vgpu: &&Vgpu| {
        // The device is bound to no vfio driver, or to no driver at all.
        let is_here = matches!(vgpu.known.here, Some(Here::Present { .. }));
        let display = &vgpu.known.finding.facts.display;
        is_here && !vgpu.settings.managed && *display == Display::Unknown(Reason::NoDriver)
    };
    let vgpus = || screens.vgpus.iter();
    let pci = |vgpu: &&Vgpu| matches!(vgpu.id, DeviceId::Pci(_));
    let mdev = |vgpu: &&Vgpu| matches!(vgpu.id, DeviceId::Mdev(_));
    let words = |vgpu: &Vgpu| match (vgpu.id, &vgpu.known.here) {
        (DeviceId::Mdev(uuid), _) => {
            format!("device not found: mediated device '{uuid}' not found")
        }
        (DeviceId::Pci(address), Some(Here::Present { .. })) => {
            format!("Unmanaged PCI device {address} must be manually detached from the host")
        }
        (DeviceId::Pci(address), _) => format!(
            "Device {address} not found: could not access /sys/bus/pci/devices/{address}/config: No such file or directory"
        ),
    };
    let first = vgpus()
        .filter(pci)
        .find(is_the_hosts)
        .or_else(|| vgpus().filter(mdev).find(is_absent))
        .or_else(|| vgpus().filter(pci).find(is_absent))?;
    Some(Refusal {
        stage: Stage::Devices,
        about: About::Device(first.id),
        message: words(first),
        always: true,
        or: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
