//! A view of a libvirt domain's XML, in libvirt's words: the parts that matter to its screens.
//!
//! The view passes over the elements that libvirt's parser passes over. It keeps the elements
//! themselves, so that a plan can be turned into edits of their bytes.

pub mod policy;
pub mod shell;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use crate::device::id::{DeviceId, PciAddress};
use crate::xml::{Document, Element};

/// The namespace of `<qemu:commandline>` and `<qemu:override>` (libvirt docs/drvqemu.rst).
pub const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The namespace of `<gfxplane:policy>` in a domain's metadata.
pub const POLICY_NAMESPACE: &str = "urn:gfxplane:domain:1";

/// The namespace of libosinfo's metadata.
pub(crate) const LIBOSINFO_NAMESPACE: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";

/// The error for a document whose root is not `<domain>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}, column {column}: <{name}> is no domain: expected <domain>, as virsh dumpxml prints it"
)]
pub struct NotADomain {
    /// The line of its root, counted from 1.
    pub line: usize,
    /// The column of its root in characters, counted from 1.
    pub column: usize,
    /// The root's name.
    pub name: String,
}

/// The value of an attribute that is `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// `on`
    On,
    /// `off`
    Off,
}

impl Switch {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "on" => Some(Switch::On),
            "off" => Some(Switch::Off),
            _ => None,
        }
    }
}

/// The distance from which a viewer can reach a graphics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Not over a network: a socket, a file descriptor, the host's own screen.
    Local,
    /// Over TCP, from this host alone.
    Loopback,
    /// Over TCP, from elsewhere.
    Remote,
}

/// The `type` of a `<graphics>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphicsType {
    /// `spice`
    Spice,
    /// `vnc`
    Vnc,
    /// `dbus` (libvirt 8.4)
    Dbus,
    /// `rdp` (libvirt 11.1 for QEMU, served by qemu-rdp from a dbus display)
    Rdp,
    /// `egl-headless`
    EglHeadless,
    /// `sdl`
    Sdl,
    /// `gtk`: QEMU's own. It comes only from the user's arguments; libvirt has no such graphics.
    Gtk,
}

impl GraphicsType {
    const ALL: [GraphicsType; 6] = [
        GraphicsType::Spice,
        GraphicsType::Vnc,
        GraphicsType::Dbus,
        GraphicsType::Rdp,
        GraphicsType::EglHeadless,
        GraphicsType::Sdl,
    ];

    /// Returns the word that XML uses for this type.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            GraphicsType::Spice => "spice",
            GraphicsType::Vnc => "vnc",
            GraphicsType::Dbus => "dbus",
            GraphicsType::Rdp => "rdp",
            GraphicsType::EglHeadless => "egl-headless",
            GraphicsType::Sdl => "sdl",
            GraphicsType::Gtk => "gtk",
        }
    }
}

impl fmt::Display for GraphicsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A `<hostdev>` that is a vfio device, of type mdev or pci.
#[derive(Debug, Clone)]
pub struct Hostdev<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The device that it passes to the guest.
    pub id: DeviceId,
    /// The attribute `model` of a mediated device; `vfio-pci` for a PCI device.
    pub model: String,
    /// The attribute `display`. libvirt fills in `off` for mediated devices, and nothing for PCI
    /// devices.
    pub display: Option<Switch>,
    /// The attribute `ramfb`.
    pub ramfb: Option<Switch>,
    /// The id by which QEMU knows the device: the user's alias (`ua-…`) or libvirt's `hostdevN`
    /// (libvirt src/qemu/qemu_alias.c, `qemuAssignDeviceHostdevAlias`).
    pub alias: String,
    /// The settings that libvirt's checks and its handling of the device depend on.
    pub settings: HostdevSettings,
}

/// The settings of a `<hostdev>` that libvirt reads before QEMU runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostdevSettings {
    /// True for `managed='yes'`: libvirt binds a PCI device to a vfio driver at start, and gives it
    /// back afterwards. It ignores the attribute of mediated devices.
    pub managed: bool,
    /// The attribute `model` of `<driver>`: the vfio driver that libvirt binds to (libvirt 10.0).
    pub driver: Option<String>,
    /// True if there is a `<boot order=…>`.
    pub boot: bool,
    /// The `type` of the device's own `<address>` in the guest.
    pub address: Option<String>,
}

impl Hostdev<'_, '_> {
    /// Returns whether the user chose the alias. libvirt keeps such an alias, so `qemu:override`
    /// can rely on it.
    #[must_use]
    pub fn has_user_alias(&self) -> bool {
        self.alias.starts_with("ua-")
    }
}

/// A `<graphics>`.
#[derive(Debug, Clone)]
pub struct Graphics<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The type; `None` for one that QEMU does not have (`desktop`) or that gfxplane does not know.
    pub kind: Option<GraphicsType>,
    /// True for `<gl enable='yes'>`, and always for egl-headless.
    pub gl: bool,
    /// The attribute `rendernode` of `<gl>`.
    pub rendernode: Option<String>,
    /// The place where it listens.
    pub listen: Listen,
    /// dbus: true for `p2p='yes'`.
    pub p2p: bool,
    /// The settings that libvirt's checks depend on.
    pub settings: GraphicsSettings,
}

/// The settings of a `<graphics>` that change no screen but that libvirt checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphicsSettings {
    /// The `type` of each `<listen>`, and whether that element names a network. Empty without a
    /// `<listen>`; libvirt then makes one.
    pub listens: Vec<(String, bool)>,
    /// The attribute `port`; 0 if libvirt chooses the port.
    pub port: i32,
    /// True if libvirt chooses the port.
    pub autoport: bool,
    /// spice: the attribute `tlsPort`; 0 if there is none or libvirt chooses it.
    pub tls_port: i32,
    /// vnc: the port `websocket`; 0 if there is none, and -1 if libvirt chooses it.
    pub websocket: i32,
    /// spice: the attribute `defaultMode`.
    pub default_mode: SpiceMode,
    /// spice: the `mode` of each `<channel>`.
    pub channels: Vec<SpiceMode>,
    /// dbus: true if the user gave an address.
    pub has_address: bool,
    /// sdl: the attribute `display`, the X display that QEMU opens.
    pub x_display: Option<String>,
    /// sdl: the attribute `xauth`, a file.
    pub xauth: Option<String>,
    /// vnc: the length of `passwd` in bytes.
    pub password: usize,
    /// rdp: true for `replaceUser='yes'`.
    pub replace_user: bool,
    /// rdp: true for `multiUser='yes'`.
    pub multi_user: bool,
}

/// The protection of a spice channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SpiceMode {
    /// With or without TLS.
    #[default]
    Any,
    /// Only with TLS.
    Secure,
    /// Only without TLS.
    Insecure,
}

impl<'d, 'a> Graphics<'d, 'a> {
    /// Returns the `<channel>` elements that ask for encryption.
    pub fn secure_channels(&self) -> impl Iterator<Item = Element<'d, 'a>> {
        let is_secure = |child: &Element<'d, 'a>| {
            child.name() == "channel" && child.attribute("mode").as_deref() == Some("secure")
        };
        self.element.children().filter(is_secure)
    }
}

impl GraphicsSettings {
    /// spice: returns whether any channel asks for encryption.
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.default_mode == SpiceMode::Secure || self.channels.contains(&SpiceMode::Secure)
    }
}

/// The place where a `<graphics>` listens. Its first `<listen>` decides; libvirt uses no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP on this address. `None` stands for the address in `qemu.conf`, or 127.0.0.1 (libvirt
    /// src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`).
    Address(Option<String>),
    /// TCP on the address of one of libvirt's networks.
    Network,
    /// A UNIX socket.
    Socket,
    /// Nothing listens: `virsh` and viewers hand over a file descriptor.
    None,
}

/// The place where graphics listen that name no address, according to `qemu.conf`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenDefault<'a> {
    /// The address; `None` if it is not known and may be any.
    pub address: Option<&'a str>,
    /// True if libvirt uses a UNIX socket instead, whatever the address (libvirt
    /// src/qemu/qemu_process.c, `qemuProcessGraphicsSetupListen`).
    pub socket: bool,
}

impl Listen {
    /// Returns from where a viewer can reach it.
    #[must_use]
    pub fn reach(&self, default: ListenDefault<'_>) -> Reach {
        let address = match self {
            Listen::None | Listen::Socket => return Reach::Local,
            Listen::Network => return Reach::Remote,
            Listen::Address(None) if default.socket => return Reach::Local,
            Listen::Address(address) => address.as_deref().or(default.address),
        };
        let Some(address) = address else {
            return Reach::Remote;
        };
        let loopback = match address.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => address == "localhost",
        };
        if loopback {
            Reach::Loopback
        } else {
            Reach::Remote
        }
    }
}

/// A `<video>`.
#[derive(Debug, Clone)]
pub struct Video<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The `type` of `<model>`; `None` if libvirt chooses.
    pub model: Option<String>,
    /// True for `<model primary='yes'>`: libvirt puts this card first.
    pub primary: bool,
    /// True for `<acceleration accel3d='yes'>`.
    pub accel3d: bool,
    /// True for `<driver name='vhostuser'>`.
    pub vhost_user: bool,
    /// The settings that libvirt's checks depend on.
    pub settings: VideoSettings,
}

/// The settings of a `<video>` that change no screen but that libvirt checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VideoSettings {
    /// True for `<model primary='yes'>`.
    pub primary: bool,
    /// True for `<driver name='vhostuser'>`.
    pub vhost_user: bool,
    /// True for `<acceleration accel3d='yes'>`.
    pub accel3d: bool,
    /// True for `<acceleration accel2d='yes'>`.
    pub accel2d: bool,
    /// True if `<acceleration>` names a render node.
    pub rendernode: bool,
    /// The model's `heads`; 1 if it names none.
    pub heads: u32,
    /// The model's `blob` (libvirt 9.2).
    pub blob: Option<Switch>,
    /// The model's `edid` (libvirt 11.7).
    pub edid: Option<Switch>,
    /// The model's `device` (libvirt 12.5).
    pub device: Option<String>,
    /// The width and height in `<resolution>`, in pixels.
    pub resolution: Option<(u32, u32)>,
    /// The model's `ram`, `vram`, `vram64` and `vgamem`.
    pub memory: VideoMemory,
    /// True if the card has an `<address>`.
    pub has_address: bool,
}

/// The memory of a `<video>`, in KiB; 0 where the XML names none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VideoMemory {
    /// `ram`
    pub ram: u64,
    /// `vram`
    pub vram: u64,
    /// `vram64`
    pub vram64: u64,
    /// `vgamem`
    pub vgamem: u64,
}

/// A `<qemu:arg>`.
#[derive(Debug, Clone)]
pub struct Argument<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The attribute `value`.
    pub value: String,
}

/// A `<qemu:property>` of a device in `<qemu:override>`.
#[derive(Debug, Clone)]
pub struct Property<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The alias of the device that gets the property.
    pub alias: String,
    /// The property's `name`.
    pub name: String,
    /// The `type`: `string`, `unsigned`, `signed`, `bool` or `remove`.
    pub kind: String,
    /// The attribute `value`; a property with `type='remove'` has none.
    pub value: Option<String>,
}

/// The view of one domain.
#[derive(Debug, Clone)]
pub struct Domain<'d, 'a> {
    /// The element `<domain>`.
    pub element: Element<'d, 'a>,
    /// The element `<devices>`.
    pub devices: Option<Element<'d, 'a>>,
    /// The attribute `type` of `<domain>`, such as `kvm` or `qemu`.
    pub virt_type: String,
    /// The text of `<name>`.
    pub name: Option<String>,
    /// The UUID in `<uuid>`.
    pub uuid: Option<Uuid>,
    /// The attribute `arch` of `<os><type>`.
    pub arch: Option<String>,
    /// The attribute `machine` of `<os><type>`.
    pub machine: Option<String>,
    /// True if the firmware is UEFI: `<os firmware='efi'>` or a `pflash` loader.
    pub efi: bool,
    /// The path in `<emulator>`.
    pub emulator: Option<String>,
    /// The vfio devices.
    pub hostdevs: Vec<Hostdev<'d, 'a>>,
    /// All elements that libvirt counts for its `hostdevN`, with their aliases: first the
    /// interfaces of type hostdev, then the hostdevs of all types.
    pub aliases: Vec<(Element<'d, 'a>, String)>,
    /// The graphics, in the order of the XML.
    pub graphics: Vec<Graphics<'d, 'a>>,
    /// The video cards, in the order of the XML.
    pub videos: Vec<Video<'d, 'a>>,
    /// The `type` of each character device that needs spice: `spicevmc` or `spiceport`.
    pub spice_chardevs: Vec<String>,
    /// The `type` of each `<audio>`.
    pub audio: Vec<String>,
    /// True if there is a `<sound>`.
    pub sound: bool,
    /// True if the guest's memory is a memfd (`<memoryBacking><source type='memfd'/>`).
    pub memfd: bool,
    /// The errors that libvirt's parser reports for the devices, in its words.
    pub misread: Vec<String>,
    /// libosinfo's id of the guest's system (`http://microsoft.com/win/10`).
    pub os_id: Option<String>,
    /// The name of another manager whose metadata the domain carries.
    pub manager: Option<&'static str>,
    /// The element `<gfxplane:policy>` in the metadata.
    pub policy: Option<Element<'d, 'a>>,
    /// The arguments in `<qemu:commandline>`, in the order of the XML.
    pub arguments: Vec<Argument<'d, 'a>>,
    /// The properties in `<qemu:override>`, in the order of the XML.
    pub properties: Vec<Property<'d, 'a>>,
}

/// Other managers: a part of their metadata's namespace, and their name.
pub(crate) const MANAGERS: [(&str, &str); 5] = [
    ("openstack.org", "Nova"),
    ("ovirt.org", "oVirt"),
    ("cloudstack", "CloudStack"),
    ("kubevirt.io", "KubeVirt"),
    ("opennebula", "OpenNebula"),
];

impl<'d, 'a> Domain<'d, 'a> {
    /// Makes the view of a document.
    ///
    /// # Errors
    /// [`NotADomain`] if its root is not `<domain>`.
    pub fn new(document: &'d Document<'a>) -> Result<Self, NotADomain> {
        let root = document.root();
        if !root.is(None, "domain") {
            let (line, column) = root.position();
            return Err(NotADomain {
                line,
                column,
                name: root.name().into(),
            });
        }
        let devices = root.child("devices");
        let of_name = |name: &'static str| {
            devices
                .into_iter()
                .flat_map(Element::children)
                .filter(move |child| child.name() == name)
        };
        let counted = counted(of_name("interface"), of_name("hostdev"));
        let names = numbered(counted.iter().map(|(_, alias)| alias.clone()));
        let aliases: Vec<_> = counted
            .into_iter()
            .map(|(element, _)| element)
            .zip(names)
            .collect();
        let os = root.child("os");
        let os_type = os.and_then(|os| os.child("type"));
        let firmware = os.and_then(|os| os.attribute("firmware"));
        let loader = os.and_then(|os| os.child("loader"));
        let metadata = || {
            root.child("metadata")
                .into_iter()
                .flat_map(Element::children)
        };
        Ok(Domain {
            element: root,
            devices,
            virt_type: owned(root.attribute("type")).unwrap_or_default(),
            name: text_of(root.child("name")),
            uuid: text_of(root.child("uuid")).and_then(|text| text.trim().parse().ok()),
            arch: os_type.and_then(|t| owned(t.attribute("arch"))),
            machine: os_type.and_then(|t| owned(t.attribute("machine"))),
            efi: firmware.as_deref() == Some("efi")
                || loader.is_some_and(|l| l.attribute("type").as_deref() == Some("pflash")),
            emulator: text_of(of_name("emulator").next()),
            hostdevs: hostdevs(&aliases),
            aliases,
            graphics: of_name("graphics").map(graphics).collect(),
            videos: of_name("video").map(video).collect(),
            spice_chardevs: spice_chardevs(devices),
            audio: of_name("audio")
                .map(|audio| owned(audio.attribute("type")).unwrap_or_default())
                .collect(),
            sound: of_name("sound").next().is_some(),
            memfd: root
                .child("memoryBacking")
                .and_then(|backing| backing.child("source"))
                .is_some_and(|source| source.attribute("type").as_deref() == Some("memfd")),
            misread: misread(devices.into_iter().flat_map(Element::children)),
            os_id: metadata()
                .find(|child| child.is(Some(LIBOSINFO_NAMESPACE), "libosinfo"))
                .and_then(|info| info.children().find(|child| child.local_name() == "os"))
                .and_then(|os| owned(os.attribute("id"))),
            manager: metadata().find_map(manager),
            policy: metadata().find(|child| child.is(Some(POLICY_NAMESPACE), "policy")),
            arguments: in_qemu(root, "commandline")
                .filter(|child| child.is(Some(QEMU_NAMESPACE), "arg"))
                .map(|element| Argument {
                    element,
                    value: owned(element.attribute("value")).unwrap_or_default(),
                })
                .collect(),
            properties: properties(root),
        })
    }

    /// Returns the program that runs the domain: its `<emulator>`, or else Debian's QEMU for its
    /// architecture.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.emulator.as_ref().map_or_else(
            || {
                let arch = self.arch.as_deref().unwrap_or(std::env::consts::ARCH);
                PathBuf::from(format!("/usr/bin/qemu-system-{arch}"))
            },
            PathBuf::from,
        )
    }

    /// Returns whether libosinfo's metadata say that the guest is Windows.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.os_id
            .as_deref()
            .is_some_and(|id| id.contains("microsoft.com/win"))
    }

    /// Returns whether a hostdev of a vfio device does not say which device: libvirt refuses the
    /// domain ([`Domain::misread`]).
    #[must_use]
    pub fn has_unread_hostdev(&self) -> bool {
        let hostdevs = self.aliases.iter().map(|(element, _)| element);
        let mut hostdevs = hostdevs.filter(|element| element.name() == "hostdev");
        hostdevs.any(|hostdev| {
            let kind = hostdev.attribute("type");
            matches!(kind.as_deref(), Some("mdev" | "pci")) && device(*hostdev).is_none()
        })
    }

    /// Returns whether QEMU runs the domain.
    #[must_use]
    pub fn is_qemu(&self) -> bool {
        // hyperv is QEMU on Microsoft's hypervisor (KubeVirt 1.9, pkg/hypervisor/mshv), as far as a
        // domain has vfio devices.
        matches!(self.virt_type.as_str(), "kvm" | "qemu" | "hvf" | "hyperv")
    }
}

fn owned(text: Option<std::borrow::Cow<'_, str>>) -> Option<String> {
    text.map(std::borrow::Cow::into_owned)
}

fn text_of(element: Option<Element<'_, '_>>) -> Option<String> {
    owned(element.and_then(|element| element.text()))
}

fn is_yes(element: Option<Element<'_, '_>>, attribute: &str) -> bool {
    element.is_some_and(|element| {
        matches!(element.attribute(attribute).as_deref(), Some("yes" | "on"))
    })
}

/// Returns the children of all elements of this name in QEMU's namespace under `<domain>`.
fn in_qemu<'d, 'a>(
    root: Element<'d, 'a>,
    name: &'static str,
) -> impl Iterator<Item = Element<'d, 'a>> {
    root.children()
        .filter(move |child| child.is(Some(QEMU_NAMESPACE), name))
        .flat_map(Element::children)
}

fn manager(metadata: Element<'_, '_>) -> Option<&'static str> {
    let namespace = metadata.namespace()?;
    MANAGERS
        .iter()
        .find(|(part, _)| namespace.contains(part))
        .map(|(_, name)| *name)
}

/// Returns the elements that libvirt counts for its `hostdevN`, each with the user's alias if it
/// has one. libvirt keeps only aliases that begin with `ua-` (src/conf/domain_conf.c,
/// `virDomainDeviceAliasIsUserAlias`).
fn counted<'d, 'a>(
    interfaces: impl Iterator<Item = Element<'d, 'a>>,
    hostdevs: impl Iterator<Item = Element<'d, 'a>>,
) -> Vec<(Element<'d, 'a>, Option<String>)> {
    interfaces
        .filter(|interface| interface.attribute("type").as_deref() == Some("hostdev"))
        .chain(hostdevs)
        .map(|element| {
            let alias = element.child("alias");
            let alias = alias.and_then(|alias| alias.attribute("name"));
            (
                element,
                owned(alias.filter(|alias| alias.starts_with("ua-"))),
            )
        })
        .collect()
}

/// Returns the aliases after libvirt has numbered the elements that have none of the user's.
#[must_use]
pub fn numbered(aliases: impl Iterator<Item = Option<String>>) -> Vec<String> {
    let mut next = 0..;
    aliases
        .map(|alias| alias.unwrap_or_else(|| format!("hostdev{}", next.next().unwrap_or_default())))
        .collect()
}

fn hostdevs<'d, 'a>(aliases: &[(Element<'d, 'a>, String)]) -> Vec<Hostdev<'d, 'a>> {
    let mut found = Vec::new();
    for (element, alias) in aliases {
        let element = *element;
        if element.name() != "hostdev" {
            continue;
        }
        // The host gives the device up, and the guest does not get it (libvirt
        // docs/formatdomain.rst).
        let is_unassigned = element
            .child("address")
            .is_some_and(|address| address.attribute("type").as_deref() == Some("unassigned"));
        if is_unassigned {
            continue;
        }
        let Some((id, model)) = device(element) else {
            continue;
        };
        let switch = |name| {
            element
                .attribute(name)
                .and_then(|value| Switch::parse(&value))
        };
        found.push(Hostdev {
            element,
            id,
            model,
            display: switch("display"),
            ramfb: switch("ramfb"),
            alias: alias.clone(),
            settings: HostdevSettings {
                managed: is_yes(Some(element), "managed"),
                driver: element
                    .child("driver")
                    .and_then(|driver| owned(driver.attribute("model"))),
                boot: element.child("boot").is_some(),
                address: element
                    .child("address")
                    .and_then(|address| owned(address.attribute("type"))),
            },
        });
    }
    found
}

/// Returns the vfio device of a hostdev and its model.
pub(crate) fn device(hostdev: Element<'_, '_>) -> Option<(DeviceId, String)> {
    let address = hostdev.child("source")?.child("address");
    match hostdev.attribute("type").as_deref() {
        Some("mdev") => {
            let uuid = parse_uuid(&address?.attribute("uuid")?)?;
            let model = owned(hostdev.attribute("model")).unwrap_or_default();
            Some((DeviceId::Mdev(uuid), model))
        }
        Some("pci") => {
            // What is left out is 0, and so is all of it without an <address>.
            let number = |name| match address.and_then(|address| address.attribute(name)) {
                None => Some(0),
                Some(text) => parse_number(&text),
            };
            let narrow = |name, limit| {
                number(name)
                    .and_then(|value| u8::try_from(value).ok())
                    .filter(|value| *value <= limit)
            };
            let id = DeviceId::Pci(PciAddress {
                domain: number("domain")?,
                bus: narrow("bus", 0xff)?,
                device: narrow("slot", 0x1f)?,
                function: narrow("function", 7)?,
            });
            Some((id, "vfio-pci".into()))
        }
        _ => None,
    }
}

/// Reads a UUID as libvirt does (src/util/viruuid.c, `virUUIDParse`): its hyphens may stand anywhere,
/// or nowhere.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let digits = text.trim().replace(['-', ' '], "");
    // uuid also takes braces and a URN.
    Uuid::try_parse(&digits).ok().filter(|_| digits.len() == 32)
}

/// Reads a number as C's strtoul with base 0 does (libvirt src/conf/device_conf.c,
/// `virPCIDeviceAddressParseXML`).
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    let text = text.trim_start();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u32::from_str_radix(digits, 16).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(&text[1..], 8).ok()
    } else {
        text.parse().ok()
    }
}

fn graphics<'d, 'a>(element: Element<'d, 'a>) -> Graphics<'d, 'a> {
    let word = owned(element.attribute("type")).unwrap_or_default();
    let kind = GraphicsType::ALL
        .into_iter()
        .find(|kind| kind.word() == word);
    let gl = element.child("gl");
    Graphics {
        element,
        kind,
        gl: kind == Some(GraphicsType::EglHeadless) || is_yes(gl, "enable"),
        rendernode: gl.and_then(|gl| owned(gl.attribute("rendernode"))),
        listen: listen(element, kind),
        p2p: is_yes(Some(element), "p2p"),
        settings: graphics_settings(element, kind),
    }
}

/// Reads the settings as libvirt reads an inactive definition (src/conf/domain_conf.c,
/// `virDomainGraphicsDefParseXMLVNC` and its neighbours).
fn graphics_settings(graphics: Element<'_, '_>, kind: Option<GraphicsType>) -> GraphicsSettings {
    let number = |name| {
        let text = graphics.attribute(name)?;
        text.trim().parse::<i32>().ok()
    };
    let mode = |text: Option<std::borrow::Cow<'_, str>>| match text.as_deref() {
        Some("secure") => SpiceMode::Secure,
        Some("insecure") => SpiceMode::Insecure,
        _ => SpiceMode::Any,
    };
    let named = |name| {
        graphics
            .children()
            .filter(move |child| child.name() == name)
    };
    let (port, tls_port) = (number("port"), number("tlsPort").unwrap_or(0));
    let said = graphics.attribute("autoport");
    let autoport = match (kind, said.as_deref()) {
        (_, Some("yes")) => true,
        (Some(GraphicsType::Spice), _) => port == Some(-1) && tls_port == -1,
        (_, Some("no")) => false,
        _ => matches!(port, None | Some(-1)),
    };
    let chosen = |port| if autoport { 0 } else { port };
    GraphicsSettings {
        listens: named("listen")
            .map(|listen| {
                let kind = owned(listen.attribute("type")).unwrap_or_default();
                (kind, listen.attribute("network").is_some())
            })
            .collect(),
        port: chosen(port.unwrap_or(0)),
        autoport,
        tls_port: chosen(tls_port),
        websocket: number("websocket").unwrap_or(0),
        default_mode: mode(graphics.attribute("defaultMode")),
        channels: named("channel")
            .map(|channel| mode(channel.attribute("mode")))
            .collect(),
        has_address: graphics.attribute("address").is_some(),
        x_display: owned(graphics.attribute("display")),
        xauth: owned(graphics.attribute("xauth")),
        password: graphics.attribute("passwd").map_or(0, |text| text.len()),
        replace_user: is_yes(Some(graphics), "replaceUser"),
        multi_user: is_yes(Some(graphics), "multiUser"),
    }
}

fn listen(graphics: Element<'_, '_>, kind: Option<GraphicsType>) -> Listen {
    let first = graphics.child("listen");
    let attribute = |name: &str| owned(graphics.attribute(name)).filter(|text| !text.is_empty());
    let address = |listen: Option<Element<'_, '_>>| {
        listen
            .and_then(|listen| owned(listen.attribute("address")))
            .filter(|text| !text.is_empty())
            .or_else(|| attribute("listen"))
    };
    let declared = match first
        .and_then(|listen| owned(listen.attribute("type")))
        .as_deref()
    {
        Some("none") => Listen::None,
        Some("socket") => Listen::Socket,
        Some("network") => Listen::Network,
        // An old VNC element has the socket as an attribute.
        _ if kind == Some(GraphicsType::Vnc) && attribute("socket").is_some() => Listen::Socket,
        _ => Listen::Address(address(first)),
    };
    // A spice that listens on an address but asks for no port listens nowhere (libvirt
    // src/conf/domain_postparse.c, virDomainDefPostParseGraphics). -1 stands for a port that
    // libvirt chooses.
    let port = |name: &str| {
        attribute(name)
            .and_then(|text| text.trim().parse::<i32>().ok())
            .is_some_and(|port| port != 0)
    };
    let asks_for_a_port =
        port("port") || port("tlsPort") || attribute("autoport").as_deref() == Some("yes");
    match (kind, &declared) {
        (Some(GraphicsType::Spice), Listen::Address(_)) if !asks_for_a_port => Listen::None,
        (Some(GraphicsType::Spice | GraphicsType::Vnc | GraphicsType::Rdp), _) => declared,
        _ => Listen::None,
    }
}

fn video<'d, 'a>(element: Element<'d, 'a>) -> Video<'d, 'a> {
    let model = element.child("model");
    let settings = video_settings(element);
    Video {
        element,
        model: model
            .and_then(|model| owned(model.attribute("type")))
            .filter(|model| model != "default"),
        primary: settings.primary,
        accel3d: settings.accel3d,
        vhost_user: settings.vhost_user,
        settings,
    }
}

fn video_settings(video: Element<'_, '_>) -> VideoSettings {
    let model = video.child("model");
    let attribute = |name| model.and_then(|model| owned(model.attribute(name)));
    let switch = |name| attribute(name).and_then(|text| Switch::parse(&text));
    let number = |name| {
        let text = attribute(name);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let acceleration = model.and_then(|model| model.child("acceleration"));
    let resolution = model.and_then(|model| model.child("resolution"));
    let driver = video.child("driver");
    VideoSettings {
        primary: is_yes(model, "primary"),
        vhost_user: driver
            .is_some_and(|driver| driver.attribute("name").as_deref() == Some("vhostuser")),
        accel3d: is_yes(acceleration, "accel3d"),
        accel2d: is_yes(acceleration, "accel2d"),
        rendernode: acceleration.is_some_and(|a| a.attribute("rendernode").is_some()),
        heads: attribute("heads")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1),
        blob: switch("blob"),
        edid: switch("edid"),
        device: attribute("device"),
        resolution: resolution.map(|resolution| {
            let side = |name| {
                let text = resolution.attribute(name);
                text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
            };
            (side("x"), side("y"))
        }),
        memory: VideoMemory {
            ram: number("ram"),
            vram: number("vram"),
            vram64: number("vram64"),
            vgamem: number("vgamem"),
        },
        has_address: video.child("address").is_some(),
    }
}

/// Returns the errors that libvirt's parser would report, for example for a value that it does not
/// know or a hostdev without a device. libvirt refuses the domain with the first of them.
fn misread<'d, 'a: 'd>(devices: impl Iterator<Item = Element<'d, 'a>>) -> Vec<String> {
    let mut said = Vec::new();
    for element in devices {
        let attribute = |name| element.attribute(name);
        match element.name() {
            "graphics" => match attribute("type").as_deref() {
                None => said.push("Missing required attribute 'type' in element 'graphics'".into()),
                Some(word) if !LIBVIRTS_GRAPHICS.contains(&word) => {
                    said.push(invalid("type", "graphics", word));
                }
                Some(_) => {}
            },
            "video" => {
                let model = element.child("model");
                let word = model.and_then(|model| model.attribute("type"));
                said.extend(
                    word.filter(|word| !LIBVIRTS_VIDEO.contains(&&**word))
                        .map(|word| invalid("type", "model", &word)),
                );
            }
            "hostdev" => said.extend(misread_hostdev(element)),
            _ => {}
        }
    }
    said
}

/// Returns the same for a hostdev (src/conf/domain_conf.c, `virDomainHostdevDefParseXMLSubsys`).
fn misread_hostdev(hostdev: Element<'_, '_>) -> Vec<String> {
    let kind = match hostdev.attribute("type") {
        None => return vec!["Missing required attribute 'type' in element 'hostdev'".into()],
        Some(word) if !LIBVIRTS_HOSTDEVS.contains(&&*word) => {
            return vec![invalid("type", "hostdev", &word)];
        }
        Some(word) => word,
    };
    let Some(source) = hostdev.child("source") else {
        return vec!["Missing <source> element in hostdev device".into()];
    };
    let mut said = Vec::new();
    if kind == "mdev" {
        match hostdev.attribute("model") {
            None => said.push("Missing required attribute 'model' in element 'hostdev'".into()),
            Some(word) if !LIBVIRTS_MODELS.contains(&&*word) => {
                said.push(invalid("model", "hostdev", &word));
            }
            Some(_) => {}
        }
        for name in ["display", "ramfb"] {
            let value = hostdev.attribute(name);
            let value = value.filter(|value| Switch::parse(value).is_none());
            said.extend(value.map(|value| invalid(name, "hostdev", &value)));
        }
    }
    match (&*kind, source.child("address")) {
        ("pci", Some(address)) => said.extend(misread_address(address)),
        ("mdev", None) => said.push("Missing <address> element".into()),
        ("mdev", Some(address)) => match address.attribute("uuid") {
            None => said.push("Missing 'uuid' attribute for element <address>".into()),
            Some(uuid) if parse_uuid(&uuid).is_none() => {
                said.push("Cannot parse uuid attribute of element <address>".into());
            }
            Some(_) => {}
        },
        _ => {}
    }
    said
}

/// Returns the same for the address of a PCI device (src/conf/device_conf.c,
/// `virPCIDeviceAddressParseXML`; src/util/virpci.c, `virPCIDeviceAddressIsValid`).
fn misread_address(address: Element<'_, '_>) -> Option<String> {
    let number = |name| {
        address
            .attribute(name)
            .map(|text| (parse_number(&text), text))
    };
    for name in ["domain", "bus", "slot", "function"] {
        if let Some((None, text)) = number(name) {
            let invalid = invalid(name, "address", &text);
            return Some(format!("{invalid} Expected non-negative integer value"));
        }
    }
    let value = |name| number(name).and_then(|(value, _)| value).unwrap_or(0);
    let (bus, slot, function) = (value("bus"), value("slot"), value("function"));
    if bus > 0xff {
        Some(format!(
            "Invalid PCI address bus='{bus:#x}', must be <= 0xFF"
        ))
    } else if slot > 0x1f {
        Some(format!(
            "Invalid PCI address slot='{slot:#x}', must be <= 0x1F"
        ))
    } else if function > 7 {
        Some(format!(
            "Invalid PCI address function={function:#x}, must be <= 7"
        ))
    } else {
        None
    }
}

/// Returns libvirt's words about a value that it does not know.
fn invalid(attribute: &str, element: &str, value: &str) -> String {
    format!("Invalid value for attribute '{attribute}' in element '{element}': '{value}'.")
}

/// The types of hostdevs that libvirt knows (src/conf/domain_conf.c, `virDomainHostdevSubsys`).
const LIBVIRTS_HOSTDEVS: [&str; 5] = ["usb", "pci", "scsi", "scsi_host", "mdev"];

/// The models of mediated devices that libvirt knows (src/conf/device_conf.c, `virMediatedDeviceModel`).
const LIBVIRTS_MODELS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

/// The types of graphics that libvirt knows (src/conf/domain_conf.c, `virDomainGraphics`); `dbus`
/// since 8.4.
const LIBVIRTS_GRAPHICS: [&str; 7] = [
    "sdl",
    "vnc",
    "rdp",
    "desktop",
    "spice",
    "egl-headless",
    "dbus",
];

/// The models of video cards that libvirt knows (src/conf/domain_conf.c, `virDomainVideo`).
const LIBVIRTS_VIDEO: [&str; 13] = [
    "default",
    "vga",
    "cirrus",
    "vmvga",
    "xen",
    "vbox",
    "qxl",
    "parallels",
    "virtio",
    "gop",
    "none",
    "bochs",
    "ramfb",
];

/// Returns the `type` of each character device that needs spice, in the order of libvirt's checks
/// (src/conf/domain_conf.c, `virDomainDeviceInfoIterateFlags`).
fn spice_chardevs(devices: Option<Element<'_, '_>>) -> Vec<String> {
    let kinds = [
        "smartcard",
        "serial",
        "parallel",
        "channel",
        "console",
        "rng",
        "redirdev",
    ];
    let children = || devices.into_iter().flat_map(Element::children);
    let all = kinds
        .into_iter()
        .flat_map(|kind| children().filter(move |child| child.name() == kind));
    all.filter_map(|child| owned(child.attribute("type")))
        .filter(|kind| matches!(kind.as_str(), "spicevmc" | "spiceport"))
        .collect()
}

fn properties<'d, 'a>(root: Element<'d, 'a>) -> Vec<Property<'d, 'a>> {
    let mut found = Vec::new();
    for device in in_qemu(root, "override") {
        let Some(alias) = owned(device.attribute("alias")) else {
            continue;
        };
        let frontends = device
            .children()
            .filter(|child| child.is(Some(QEMU_NAMESPACE), "frontend"));
        for element in frontends.flat_map(Element::children) {
            if !element.is(Some(QEMU_NAMESPACE), "property") {
                continue;
            }
            found.push(Property {
                element,
                alias: alias.clone(),
                name: owned(element.attribute("name")).unwrap_or_default(),
                kind: owned(element.attribute("type")).unwrap_or_default(),
                value: owned(element.attribute("value")),
            });
        }
    }
    found
}

/// Returns the name and the vfio devices of a domain; both empty if its XML can't be read.
#[must_use]
pub fn name_and_devices(definition: &str) -> (String, Vec<DeviceId>) {
    let Ok(document) = Document::parse(definition) else {
        return Default::default();
    };
    Domain::new(&document).map_or_else(
        |_| Default::default(),
        |domain| {
            let devices = domain.hostdevs.iter().map(|hostdev| hostdev.id).collect();
            (domain.name.clone().unwrap_or_default(), devices)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(devices: &str, look: impl FnOnce(&Domain<'_, '_>) -> T) -> T {
        let text = format!("<domain type='kvm'><devices>{devices}</devices></domain>");
        let document = Document::parse(&text).unwrap();
        look(&Domain::new(&document).unwrap())
    }

    #[test]
    fn what_graphics_listen_on() {
        let address = |text: &str| Listen::Address(Some(text.into()));
        for (graphics, expected) in [
            ("<graphics type='spice'/>", Listen::None),
            (
                "<graphics type='spice' autoport='yes'/>",
                Listen::Address(None),
            ),
            ("<graphics type='spice' port='-1'/>", Listen::Address(None)),
            ("<graphics type='spice' port='0'/>", Listen::None),
            (
                "<graphics type='spice' tlsPort='5901' listen='::'/>",
                address("::"),
            ),
            (
                "<graphics type='spice' port='1' listen='a'><listen type='address' address='b'/></graphics>",
                address("b"),
            ),
            (
                "<graphics type='spice' autoport='yes'><listen type='none'/></graphics>",
                Listen::None,
            ),
            (
                "<graphics type='spice'><listen type='network' network='n'/></graphics>",
                Listen::Network,
            ),
            ("<graphics type='vnc'/>", Listen::Address(None)),
            ("<graphics type='vnc' socket='/s'/>", Listen::Socket),
            (
                "<graphics type='vnc'><listen type='socket'/></graphics>",
                Listen::Socket,
            ),
            ("<graphics type='dbus'/>", Listen::None),
        ] {
            let seen = with(graphics, |domain| domain.graphics[0].listen.clone());
            assert_eq!(seen, expected, "{graphics}");
        }
    }

    #[test]
    fn from_where_it_is_reached() {
        for (address, default, expected) in [
            (Some("127.0.0.1"), None, Reach::Loopback),
            (Some("127.1.2.3"), None, Reach::Loopback),
            (Some("::1"), None, Reach::Loopback),
            (Some("localhost"), None, Reach::Loopback),
            (Some("0.0.0.0"), Some("127.0.0.1"), Reach::Remote),
            (Some("gateway"), None, Reach::Remote),
            (None, Some("127.0.0.1"), Reach::Loopback),
            (None, Some("::"), Reach::Remote),
            (None, None, Reach::Remote),
        ] {
            let listen = Listen::Address(address.map(str::to_owned));
            let by_conf = |socket| ListenDefault {
                address: default,
                socket,
            };
            let reach = listen.reach(by_conf(false));
            assert_eq!(reach, expected, "{address:?} {default:?}");
            let with_sockets = match address {
                Some(_) => expected,
                None => Reach::Local,
            };
            assert_eq!(listen.reach(by_conf(true)), with_sockets, "{address:?}");
        }
        let loopback = ListenDefault {
            address: Some("127.0.0.1"),
            socket: true,
        };
        assert_eq!(Listen::Network.reach(loopback), Reach::Remote);
        assert_eq!(Listen::Socket.reach(ListenDefault::default()), Reach::Local);
    }

    #[test]
    fn which_devices_and_what_qemu_calls_them() {
        const DEVICES: &str = "<interface type='hostdev'/><interface type='network'/>
            <hostdev mode='subsystem' type='usb'><source><vendor id='1'/></source></hostdev>
            <hostdev type='mdev' model='vfio-pci'><source><address uuid='c1a20000-0000-4000-8000-000000000002'/></source><alias name='ua-gpu'/></hostdev>
            <hostdev type='pci' display='on' ramfb='off'><source><address domain='0x0000' bus='0xe1' slot='010' function='7'/></source><alias name='hostdev7'/></hostdev>
            <hostdev type='pci'><source><address bus='0x100'/></source></hostdev>
            <hostdev type='mdev' model='vfio-ap'><source><address uuid='C1A20000-0000-4000-8000-000000000003'/></source></hostdev>";
        with(DEVICES, |domain| {
            let seen: Vec<String> = domain
                .hostdevs
                .iter()
                .map(|h| format!("{} {} {}", h.id, h.model, h.alias))
                .collect();
            assert_eq!(
                seen,
                [
                    "c1a20000-0000-4000-8000-000000000002 vfio-pci ua-gpu",
                    "0000:e1:08.7 vfio-pci hostdev2",
                    "c1a20000-0000-4000-8000-000000000003 vfio-ap hostdev4",
                ]
            );
            assert_eq!(domain.hostdevs[1].display, Some(Switch::On));
            assert_eq!(domain.hostdevs[1].ramfb, Some(Switch::Off));
        });
    }

    #[test]
    fn other_namespaces_are_not_qemus() {
        const TEXT: &str = "<domain type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' xmlns:qemu='urn:else'>
            <qemu:commandline><qemu:arg value='no'/></qemu:commandline>
            <q:commandline><q:arg value='-set'/><q:env name='no'/><q:arg value='x'/></q:commandline>
            <q:override><q:device alias='ua-a'><q:frontend><q:property name='p' type='remove'/></q:frontend></q:device></q:override>
            </domain>";
        let document = Document::parse(TEXT).unwrap();
        let domain = Domain::new(&document).unwrap();
        let values: Vec<&str> = domain.arguments.iter().map(|a| a.value.as_str()).collect();
        assert_eq!(values, ["-set", "x"]);
        let [property] = &domain.properties[..] else {
            panic!("{:?}", domain.properties);
        };
        assert_eq!(
            (property.alias.as_str(), property.value.as_deref()),
            ("ua-a", None)
        );
    }

    /// As libvirt 11.3 answers `virsh define`.
    #[test]
    fn hostdevs_that_libvirt_refuses() {
        let mdev = |source: &str| {
            format!("<hostdev mode='subsystem' type='mdev' model='vfio-pci'>{source}</hostdev>")
        };
        let uuid = |uuid: &str| mdev(&format!("<source><address uuid='{uuid}'/></source>"));
        let pci = |source: &str| format!("<hostdev mode='subsystem' type='pci'>{source}</hostdev>");
        let at = |at: &str| pci(&format!("<source><address {at}/></source>"));
        let id = "c1a20000-0000-4000-8000-000000000002";
        let one = format!("<source><address uuid='{id}'/></source>");
        let cannot = "Cannot parse uuid attribute of element <address>";
        for (xml, expected) in [
            (mdev(""), "Missing <source> element in hostdev device"),
            (mdev("<source/>"), "Missing <address> element"),
            (
                mdev("<source><address/></source>"),
                "Missing 'uuid' attribute for element <address>",
            ),
            (uuid("zz"), cannot),
            (uuid(&format!("{{{id}}}")), cannot),
            (uuid(&format!("urn:uuid:{id}")), cannot),
            (uuid(id), id),
            (uuid("c1a20000000040008000000000000002"), id),
            (uuid("c1-a2-0000-000040008000000000000002"), id),
            (uuid(&format!(" {} ", id.to_uppercase())), id),
            (
                format!("<hostdev type='mdev'>{one}</hostdev>"),
                "Missing required attribute 'model' in element 'hostdev'",
            ),
            (
                format!("<hostdev type='mdev' model='x'>{one}</hostdev>"),
                "Invalid value for attribute 'model' in element 'hostdev': 'x'.",
            ),
            (
                format!("<hostdev>{one}</hostdev>"),
                "Missing required attribute 'type' in element 'hostdev'",
            ),
            (
                format!("<hostdev type='x'>{one}</hostdev>"),
                "Invalid value for attribute 'type' in element 'hostdev': 'x'.",
            ),
            (pci(""), "Missing <source> element in hostdev device"),
            (pci("<source/>"), "0000:00:00.0"),
            (at("slot='1'"), "0000:00:01.0"),
            (at("domain='0x10000' bus=' 1'"), "10000:01:00.0"),
            (
                at("bus='zz'"),
                "Invalid value for attribute 'bus' in element 'address': 'zz'. Expected non-negative integer value",
            ),
            (
                at("bus='1 '"),
                "Invalid value for attribute 'bus' in element 'address': '1 '. Expected non-negative integer value",
            ),
            (
                at("domain='0x1ffffffff'"),
                "Invalid value for attribute 'domain' in element 'address': '0x1ffffffff'. Expected non-negative integer value",
            ),
            (
                at("function='08'"),
                "Invalid value for attribute 'function' in element 'address': '08'. Expected non-negative integer value",
            ),
            (
                at("bus='0x100'"),
                "Invalid PCI address bus='0x100', must be <= 0xFF",
            ),
            (
                at("slot='0x20'"),
                "Invalid PCI address slot='0x20', must be <= 0x1F",
            ),
            (
                at("function='8'"),
                "Invalid PCI address function=0x8, must be <= 7",
            ),
        ] {
            let found = with(&xml, |domain| {
                let ids = domain.hostdevs.iter().map(|hostdev| hostdev.id.to_string());
                domain.misread.first().cloned().or(ids.last())
            });
            assert_eq!(found.as_deref(), Some(expected), "{xml}");
        }
    }
}
