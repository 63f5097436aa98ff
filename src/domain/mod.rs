//! A view of a libvirt domain's XML, in libvirt's words: the parts that matter to its screens.
//!
//! The view ignores the elements that libvirt's parser ignores. It keeps the elements
//! themselves, so that a plan can be turned into edits of their bytes.

mod graphics;
mod hostdev;
pub mod policy;
pub mod shell;
mod values;
mod video;

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::xml::{Document, Element, XmlError};

use graphics::graphics;
pub use graphics::{
    Graphics, GraphicsSettings, GraphicsType, Listen, ListenDefault, Reach, SpiceMode,
};

pub use hostdev::{Hostdev, HostdevSettings};

pub(crate) use hostdev::numbered;
use hostdev::{aliases, hostdevs};
pub(crate) use hostdev::{device, number_in};
pub use video::{Video, VideoSettings};

use video::video;

/// The namespace of `<qemu:commandline>` and `<qemu:override>` (libvirt docs/drvqemu.rst).
pub const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The namespace of `<gfxplane:policy>` in a domain's metadata.
pub(crate) const POLICY_NAMESPACE: &str = "urn:gfxplane:domain:1";

/// The namespace of libosinfo's metadata.
pub(crate) const LIBOSINFO_NAMESPACE: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";

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

/// A `<qemu:arg>`.
#[derive(Debug, Clone)]
pub struct Argument<'d, 'a> {
    /// The element, for edits.
    pub element: Element<'d, 'a>,
    /// The attribute `value`.
    pub value: String,
}

/// A `<qemu:property>` of a device in `<qemu:override>`.
#[derive(Debug, Clone)]
pub struct Property<'d, 'a> {
    /// The element, for edits.
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
    /// The first element `<devices>`, if there is one. libvirt reads every `<devices>`.
    pub devices: Option<Element<'d, 'a>>,
    /// The attribute `type` of `<domain>`, such as `kvm` or `qemu`.
    pub virt_type: String,
    /// The text of `<name>`.
    pub name: Option<String>,
    /// The UUID in `<uuid>`; `None` if it is missing or can't be read.
    pub uuid: Option<Uuid>,
    /// The attribute `arch` of `<os><type>`.
    pub arch: Option<String>,
    /// The attribute `machine` of `<os><type>`.
    pub machine: Option<String>,
    /// The path in `<emulator>`.
    pub emulator: Option<String>,
    /// The vfio devices, in the order of the XML. Left out are a hostdev whose device can't be
    /// read, and a PCI device with `<address type='unassigned'>`, which the guest does not get.
    pub hostdevs: Vec<Hostdev<'d, 'a>>,
    /// All elements that libvirt numbers as `hostdevN`, with their aliases: first the interfaces of
    /// type hostdev, then the hostdevs of all types.
    pub aliases: Vec<(Element<'d, 'a>, String)>,
    /// The graphics, in the order of the XML.
    pub graphics: Vec<Graphics<'d, 'a>>,
    /// The video cards, in the order of the XML.
    pub videos: Vec<Video<'d, 'a>>,
    /// The settings that libvirt's and QEMU's checks depend on, and that no plan changes.
    pub settings: DomainSettings,
    /// libosinfo's id of the guest's system (`http://microsoft.com/win/10`).
    pub os_id: Option<String>,
    /// The name of another manager, if the domain has metadata of one.
    pub manager: Option<&'static str>,
    /// The element `<gfxplane:policy>` in the metadata.
    pub policy: Option<Element<'d, 'a>>,
    /// The arguments in `<qemu:commandline>`, in the order of the XML.
    pub arguments: Vec<Argument<'d, 'a>>,
    /// The properties in `<qemu:override>`, in the order of the XML.
    pub properties: Vec<Property<'d, 'a>>,
}

/// The settings of a domain that libvirt and QEMU check, and that no plan changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DomainSettings {
    /// The `type` of each character device that needs spice: `spicevmc` or `spiceport`.
    pub spice_chardevs: Vec<String>,
    /// The `type` of each `<audio>`.
    pub audio: Vec<String>,
    /// True if there is a `<sound>`.
    pub sound: bool,
    /// True if libvirt's AppArmor driver makes no profile for the guest.
    pub unconfined: bool,
    /// True if libvirt runs QEMU as root, because a `<seclabel>` of the domain says so.
    pub as_root: bool,
    /// True if the guest's memory is a memfd (`<memoryBacking><source type='memfd'/>`).
    pub memfd: bool,
    /// The errors that libvirt's parser reports for the devices, with its messages.
    pub misread: Vec<Misread>,
    /// The errors that libvirt reports for whole hostdevs, once all devices are parsed.
    pub unfit: Vec<Misread>,
    /// True if two elements in `aliases` name the same device of the host.
    pub has_a_device_twice: bool,
    /// An alias that the user has given to two devices of any kind, if there is one.
    pub alias_twice: Option<String>,
    /// A PCI address in the guest that the XML gives to two devices of any kind, if there is one.
    pub address_twice: Option<String>,
}

/// Other programs that manage domains: a part of their metadata's namespace, and their name.
pub(crate) const MANAGERS: [(&str, &str); 5] = [
    ("openstack.org", "Nova"),
    ("ovirt.org", "oVirt"),
    ("cloudstack", "CloudStack"),
    ("kubevirt.io", "KubeVirt"),
    ("opennebula", "OpenNebula"),
];

impl<'d, 'a> Domain<'d, 'a> {
    /// Makes the view of a document, which it borrows.
    ///
    /// # Errors
    /// [`XmlError`] if its root is not `<domain>`.
    pub fn new(document: &'d Document<'a>) -> Result<Self, XmlError> {
        let root = document.root();
        if !root.is(None, "domain") {
            return Err(root.refused(format!(
                "<{}> is not a domain: expected <domain>, as virsh dumpxml prints it",
                root.name()
            )));
        }
        let devices = root.child("devices");
        let of_name =
            |name: &'static str| in_devices(root).filter(move |child| child.name() == name);
        let aliases = aliases(of_name("interface"), of_name("hostdev"));
        let os_type = root.child("os").and_then(|os| os.child("type"));
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
            emulator: text_of(of_name("emulator").next()),
            hostdevs: hostdevs(&aliases),
            settings: DomainSettings {
                spice_chardevs: spice_chardevs(root),
                audio: of_name("audio")
                    .map(|audio| owned(audio.attribute("type")).unwrap_or_default())
                    .collect(),
                sound: of_name("sound").next().is_some(),
                unconfined: seclabels(root).any(is_without_profile),
                as_root: seclabels(root).any(is_of_root),
                memfd: root
                    .child("memoryBacking")
                    .and_then(|backing| backing.child("source"))
                    .is_some_and(|source| source.attribute("type").as_deref() == Some("memfd")),
                misread: misread(root),
                unfit: of_name("hostdev").flat_map(hostdev::unfit).collect(),
                has_a_device_twice: hostdev::twice(&aliases),
                alias_twice: twice(root, hostdev::users_alias),
                address_twice: twice(root, hostdev::address_in_guest),
            },
            aliases,
            graphics: of_name("graphics").map(graphics).collect(),
            videos: of_name("video").map(video).collect(),
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

    /// Returns the path of the program that runs the domain: the `<emulator>`, or else Debian's
    /// path of QEMU for the domain's architecture. Without an architecture in the XML, that is
    /// gfxplane's own.
    pub fn program(&self) -> PathBuf {
        self.emulator.as_ref().map_or_else(
            || {
                let arch = self.arch.as_deref().unwrap_or(std::env::consts::ARCH);
                PathBuf::from(format!("/usr/bin/qemu-system-{arch}"))
            },
            PathBuf::from,
        )
    }

    /// Returns whether a hostdev for a vfio device does not name the device. libvirt refuses such a
    /// domain ([`DomainSettings::misread`]).
    pub(crate) fn has_unread_hostdev(&self) -> bool {
        let hostdevs = self.aliases.iter().map(|(element, _)| element);
        let mut hostdevs = hostdevs.filter(|element| element.name() == "hostdev");
        hostdevs.any(|hostdev| {
            let kind = hostdev.attribute("type");
            matches!(kind.as_deref(), Some("mdev" | "pci")) && device(*hostdev).is_none()
        })
    }

    /// Returns whether QEMU runs the domain.
    pub(crate) fn is_qemu(&self) -> bool {
        // A domain of type hyperv with vfio devices runs in QEMU on Microsoft's hypervisor
        // (KubeVirt 1.9, pkg/hypervisor/mshv).
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

/// Returns the devices of the domain, in the order of the XML.
fn in_devices<'d, 'a>(root: Element<'d, 'a>) -> impl Iterator<Item = Element<'d, 'a>> {
    let all = root.children().filter(|child| child.is(None, "devices"));
    all.flat_map(Element::children)
}

/// Returns a name that two of the domain's devices have, if any; `name` returns a device's name.
/// Ignores every `<console>`, because libvirt may repeat the `<serial>` as a `<console>` with the
/// same names (src/conf/domain_conf.c, `virDomainDeviceInfoIterateFlags`).
fn twice(root: Element<'_, '_>, name: fn(Element<'_, '_>) -> Option<String>) -> Option<String> {
    let mut seen = HashSet::new();
    let devices = in_devices(root).filter(|device| device.name() != "console");
    let mut names = devices.filter_map(name);
    names.find(|name| !seen.insert(name.clone()))
}

/// Returns the children of `<domain>` (`root`) that have this name in QEMU's namespace.
pub(crate) fn of_qemu<'d, 'a>(
    root: Element<'d, 'a>,
    name: &'static str,
) -> impl Iterator<Item = Element<'d, 'a>> {
    let is_it = move |child: &Element<'_, '_>| child.is(Some(QEMU_NAMESPACE), name);
    root.children().filter(is_it)
}

/// Returns the children of the elements that [`of_qemu`] returns.
pub(crate) fn in_qemu<'d, 'a>(
    root: Element<'d, 'a>,
    name: &'static str,
) -> impl Iterator<Item = Element<'d, 'a>> {
    of_qemu(root, name).flat_map(Element::children)
}

fn seclabels<'d, 'a>(root: Element<'d, 'a>) -> impl Iterator<Item = Element<'d, 'a>> {
    let children = root.children();
    children.filter(|child| child.is(None, "seclabel"))
}

/// Returns whether a `<seclabel>` keeps libvirt's AppArmor driver from making a profile. A label
/// without a model is for libvirt's first security driver: AppArmor, if the host has it (libvirt
/// src/conf/domain_conf.c, `virSecurityLabelDefsParseXML`).
fn is_without_profile(seclabel: Element<'_, '_>) -> bool {
    let (kind, model) = (seclabel.attribute("type"), seclabel.attribute("model"));
    matches!(kind.as_deref(), Some("none" | "static"))
        && matches!(model.as_deref(), None | Some("apparmor"))
}

/// Returns whether a `<seclabel>` of model dac makes QEMU run as root. QEMU then has root's
/// capabilities (seen with libvirt 12.8).
fn is_of_root(seclabel: Element<'_, '_>) -> bool {
    let (kind, model) = (seclabel.attribute("type"), seclabel.attribute("model"));
    let label = text_of(seclabel.child("label")).unwrap_or_default();
    let user = label.trim().split(':').next().unwrap_or_default();
    model.as_deref() == Some("dac")
        && match kind.as_deref() {
            Some("none") => true,
            Some("static") => matches!(user, "root" | "0" | "+0"),
            _ => false,
        }
}

fn manager(metadata: Element<'_, '_>) -> Option<&'static str> {
    let namespace = metadata.namespace()?;
    MANAGERS
        .iter()
        .find(|(part, _)| namespace.contains(part))
        .map(|(_, name)| *name)
}

/// Returns the errors that libvirt's parser would report about interfaces, graphics, video cards
/// and hostdevs, for example for an unknown value or a hostdev without a device. They have the
/// order in which libvirt parses, kind by kind; it refuses the domain with the first one.
fn misread(root: Element<'_, '_>) -> Vec<Misread> {
    let virt = owned(root.attribute("type")).unwrap_or_default();
    let [mut interfaces, mut graphics, mut cards, mut hostdevs] = [const { Vec::new() }; 4];
    let has_no_usb = in_devices(root).any(|element| {
        let is = |name, value| element.attribute(name).as_deref() == Some(value);
        element.name() == "controller" && is("type", "usb") && is("model", "none")
    });
    for element in in_devices(root) {
        let attribute = |name| element.attribute(name);
        match element.name() {
            "interface" => interfaces.extend(hostdev::misread_interface(element)),
            "graphics" => match attribute("type").as_deref() {
                None => graphics.push(values::missing("type", "graphics").into()),
                Some(word) if !LIBVIRTS_GRAPHICS.contains(&word) => {
                    graphics.push(invalid("type", "graphics", word).into());
                }
                Some(word) => graphics.extend(values::misread(word, element)),
            },
            "video" => {
                let model = element.child("model");
                let word = model.and_then(|model| model.attribute("type"));
                cards.extend(
                    word.filter(|word| !LIBVIRTS_VIDEO.contains(&&**word))
                        .map(|word| invalid("type", "model", &word).into()),
                );
                cards.extend(values::misread("video", element));
                cards.extend(model.and_then(|model| values::misread("model", model)));
            }
            "hostdev" => {
                hostdevs.extend(hostdev::misread(element, &virt));
                if has_no_usb && attribute("type").as_deref() == Some("usb") {
                    let words = "Can't add host USB device: USB is disabled in this host";
                    hostdevs.push(words.to_owned().into());
                }
            }
            _ => {}
        }
    }
    interfaces.extend(graphics.into_iter().chain(cards).chain(hostdevs));
    interfaces
}

/// An error in the XML of a device, which libvirt reports on every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// libvirt's message.
    pub message: String,
    /// The versions that report the error.
    pub versions: Versions,
}

/// The versions of libvirt that have a check, or those of QEMU that have a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The first version that has it; empty: every version.
    pub since: &'static [u32],
    /// The first version that no longer has it; empty: none.
    pub until: &'static [u32],
    /// True if every version refuses the domain, even if with another message or at another stage.
    pub always: bool,
}

impl Versions {
    /// Every version.
    pub(crate) const EVERY: Versions = Versions {
        since: &[],
        until: &[],
        always: true,
    };

    /// Returns whether a version is one of these.
    pub(crate) fn contains(&self, version: &Version) -> bool {
        version.is_from(self.since) && (self.until.is_empty() || !version.is_from(self.until))
    }
}

impl From<String> for Misread {
    fn from(message: String) -> Self {
        let versions = Versions::EVERY;
        Misread { message, versions }
    }
}

/// Returns libvirt's message about an unknown value.
fn invalid(attribute: &str, element: &str, value: &str) -> String {
    format!("Invalid value for attribute '{attribute}' in element '{element}': '{value}'.")
}

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
fn spice_chardevs(root: Element<'_, '_>) -> Vec<String> {
    let kinds = [
        "smartcard",
        "serial",
        "parallel",
        "channel",
        "console",
        "rng",
        "redirdev",
    ];
    let all = kinds
        .into_iter()
        .flat_map(|kind| in_devices(root).filter(move |child| child.name() == kind));
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

/// Returns the name and the vfio devices of a domain; an empty name if the domain has none, and
/// both empty if the XML can't be read.
pub(crate) fn name_and_devices(definition: &str) -> (String, Vec<DeviceId>) {
    let document = Document::parse(definition);
    let Ok(domain) = document
        .as_ref()
        .map_err(Clone::clone)
        .and_then(Domain::new)
    else {
        return Default::default();
    };
    let devices = domain.hostdevs.iter().map(|hostdev| hostdev.id);
    (domain.name.unwrap_or_default(), devices.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn with<T>(devices: &str, look: impl FnOnce(&Domain<'_, '_>) -> T) -> T {
        let text = format!("<domain type='kvm'><devices>{devices}</devices></domain>");
        let document = Document::parse(&text).unwrap();
        look(&Domain::new(&document).unwrap())
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
}
