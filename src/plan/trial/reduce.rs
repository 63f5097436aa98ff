//! Makes the domain for a trial.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::domain::{
    Domain, Graphics, GraphicsType, Hostdev, Listen, QEMU_NAMESPACE, in_qemu, numbered,
};
use crate::plan::trial::kept_arguments::arguments;
use crate::plan::trial::writer::{Keep, Writer};
use crate::predict::abilities::Abilities;
use crate::xml::{Document, Element, XmlError};

/// A small copy of a domain, for a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduced {
    /// The XML of the copy.
    pub xml: String,
    /// The left-out parts that may interest the user. Disks and other devices are not listed.
    pub left_out: Vec<LeftOut>,
}

/// A part of the domain that is not in the small copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The name of the part; for QEMU's arguments only the option, as a value may be a secret.
    pub what: String,
    /// True if the part may concern displays, so that the answer may differ without it.
    pub matters: bool,
}

/// The error for a text from which no domain for a trial can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Irreducible {
    /// The text is not well-formed, is not a domain, or has XML that gfxplane refuses.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// QEMU does not run the domain.
    #[error(
        "a domain of type {0:?} is not run by QEMU, so there is nothing to try: expected kvm or qemu"
    )]
    NotQemu(String),
}

/// Makes the domain for the trial, with this name and UUID. Only one part of `abilities` matters:
/// the settings in qemu.conf for graphics without an address.
///
/// The copy keeps type, architecture, machine, ACPI, emulator, CPU mode, memory backing and
/// security labels; the vfio devices with display, ramfb, alias and rom; graphics with their types,
/// GL, audio and the way in which they listen; video; and the parts of QEMU's namespace that
/// concern these. Beside all other devices, the copy lacks:
///
/// * passwords, fixed ports and addresses: graphics on TCP listen on 127.0.0.1, on a port that
///   libvirt chooses; libvirt also chooses the paths of sockets;
/// * the firmware: a domain that is started paused runs none, and its NVRAM must not be touched;
/// * memory, processors and pinning: 64 MiB and one processor are enough;
/// * addresses of devices in the guest: QEMU makes its screens in the order of the devices;
/// * `managed='yes'`: libvirt would take a device away from the host. The caller has to make sure
///   that the devices are ready.
///
/// # Errors
/// [`Irreducible`], with the place if it is known.
pub fn reduce(
    text: &str,
    name: &str,
    uuid: Uuid,
    abilities: &Abilities,
) -> Result<Reduced, Irreducible> {
    let document = Document::parse(text)?;
    let domain = Domain::new(&document)?;
    if !domain.is_qemu() {
        return Err(Irreducible::NotQemu(domain.virt_type));
    }
    let mut left_out = Vec::new();
    let aliases = aliases(&domain);
    let qemu = qemu(&domain, &aliases, &mut left_out);
    let mut out = Writer::default();
    let mut root = vec![("type", domain.virt_type.as_str())];
    if !qemu.text.is_empty() {
        root.push(("xmlns:qemu", QEMU_NAMESPACE));
    }
    out.open("domain", &root);
    out.leaf("name", &[], name);
    out.leaf("uuid", &[], &uuid.hyphenated().to_string());
    out.leaf("memory", &[("unit", "MiB")], "64");
    out.leaf("vcpu", &[], "1");
    machine(&mut out, &domain, &mut left_out);
    for action in ["on_poweroff", "on_reboot", "on_crash"] {
        out.leaf(action, &[], "destroy");
    }
    devices(&mut out, &domain, abilities);
    for label in domain.element.children().filter(|e| e.name() == "seclabel") {
        out.copy(label, &SECLABEL);
    }
    out.text.push_str(&qemu.text);
    out.close("domain");
    for other in ["iommu", "launchSecurity"] {
        let is_there = |parent: Element<'_, '_>| parent.child(other).is_some();
        if is_there(domain.element) || domain.devices.is_some_and(is_there) {
            left_out.push(LeftOut {
                what: format!("<{other}>"),
                matters: false,
            });
        }
    }
    Ok(Reduced {
        xml: out.text,
        left_out,
    })
}

const CPU: Keep = Keep::leaf("cpu", &["mode"]);

const MEMORY_BACKING: Keep = Keep {
    name: "memoryBacking",
    attributes: &[],
    children: &[
        Keep::leaf("source", &["type"]),
        Keep::leaf("access", &["mode"]),
    ],
};

const GL: Keep = Keep::leaf("gl", &["enable", "rendernode"]);

const VIDEO: Keep = Keep {
    name: "video",
    attributes: &[],
    children: &[
        Keep::leaf("driver", &["name"]),
        Keep {
            name: "model",
            attributes: &[
                "type", "ram", "vram", "vram64", "vgamem", "heads", "primary", "blob", "edid",
                "device",
            ],
            children: &[
                Keep::leaf("acceleration", &["accel3d", "accel2d", "rendernode"]),
                Keep::leaf("resolution", &["x", "y"]),
            ],
        },
        Keep::leaf("alias", &["name"]),
    ],
};

/// The parts of `<seclabel>` that are kept. A label decides what QEMU may open, for example a
/// render node.
const SECLABEL: Keep = Keep {
    name: "seclabel",
    attributes: &["type", "model", "relabel"],
    children: &[Keep::leaf("label", &[]), Keep::leaf("baselabel", &[])],
};

fn machine(out: &mut Writer, domain: &Domain<'_, '_>, left_out: &mut Vec<LeftOut>) {
    let root = domain.element;
    // vhost-user needs shareable memory; libvirt refuses it without.
    if let Some(backing) = root.child("memoryBacking") {
        let mut copy = Writer::inside(out.depth);
        copy.copy(backing, &MEMORY_BACKING);
        if copy.text.contains("</") {
            out.text.push_str(&copy.text);
        }
    }
    let os = root.child("os");
    let kind = [("arch", &domain.arch), ("machine", &domain.machine)];
    let kind = kind
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let kind: Vec<(&str, &str)> = kind.collect();
    out.open("os", &[]);
    out.leaf("type", &kind, "hvm");
    out.close("os");
    let firmware = |os: Element<'_, '_>| {
        os.attribute("firmware").is_some()
            || os
                .children()
                .any(|e| matches!(e.name(), "loader" | "nvram"))
    };
    if os.is_some_and(firmware) {
        left_out.push(LeftOut {
            what: "the firmware (none runs in a domain that is started paused)".into(),
            matters: false,
        });
    }
    // On other architectures libvirt accepts ACPI only together with UEFI.
    let is_x86 = domain
        .arch
        .as_deref()
        .is_none_or(|arch| matches!(arch, "x86_64" | "i686"));
    if let Some(features) = root.child("features").filter(|_| is_x86) {
        let mut inner = Writer::inside(out.depth + 1);
        for name in ["acpi", "apic"] {
            if features.child(name).is_some() {
                inner.empty(name, &[]);
            }
        }
        if !inner.text.is_empty() {
            out.wrap("features", &[], &inner);
        }
    }
    // With KVM on ARM, only the host's own processor works.
    let mode = root.child("cpu").filter(|cpu| {
        matches!(
            cpu.attribute("mode").as_deref(),
            Some("host-passthrough" | "host-model" | "maximum")
        )
    });
    if let Some(cpu) = mode {
        out.copy(cpu, &CPU);
    }
}

fn devices(out: &mut Writer, domain: &Domain<'_, '_>, abilities: &Abilities) {
    out.open("devices", &[]);
    if let Some(emulator) = &domain.emulator {
        out.leaf("emulator", &[], emulator);
    }
    out.empty("controller", &[("type", "usb"), ("model", "none")]);
    for each in &domain.graphics {
        graphics(out, each, abilities);
    }
    audio(out, domain);
    for video in &domain.videos {
        out.copy(video.element, &VIDEO);
    }
    for each in &domain.hostdevs {
        hostdev(out, each);
    }
    out.empty("memballoon", &[("model", "none")]);
    out.close("devices");
}

const LOCAL: [(&str, &str); 2] = [("type", "address"), ("address", "127.0.0.1")];

/// Writes a copy of graphics that other hosts can't reach: graphics that listen on an address or a
/// network listen on 127.0.0.1 instead. The copy of graphics on a UNIX socket has a socket, too,
/// and the copy of graphics that listen nowhere listens nowhere.
fn graphics(out: &mut Writer, graphics: &Graphics<'_, '_>, abilities: &Abilities) {
    let element = graphics.element;
    let attribute = |name: &str| element.attribute(name).map(std::borrow::Cow::into_owned);
    let kind = attribute("type").unwrap_or_default();
    let mut attributes = vec![("type", kind)];
    let mut inner = Writer::inside(out.depth + 1);
    match graphics.kind {
        Some(kind @ (GraphicsType::Vnc | GraphicsType::Spice | GraphicsType::Rdp)) => {
            let sockets = abilities.listen_default(kind).socket;
            match graphics.listen {
                Listen::None => inner.empty("listen", &[("type", "none")]),
                Listen::Address(None) if sockets => {
                    inner.empty("listen", &[("type", "socket")]);
                }
                Listen::Socket => inner.empty("listen", &[("type", "socket")]),
                Listen::Address(_) | Listen::Network => {
                    attributes.push(("autoport", "yes".into()));
                    inner.empty("listen", &LOCAL);
                }
            }
            // libvirt refuses a second <listen>, so the copy has one, too.
            let listens = element.children().filter(|e| e.name() == "listen");
            for _ in listens.skip(1) {
                inner.empty("listen", &LOCAL);
            }
        }
        // A dbus address is that of a bus that exists, which may already have a QEMU on it. Without
        // an address, libvirt starts a bus for the domain.
        Some(GraphicsType::Dbus) if graphics.p2p => attributes.push(("p2p", "yes".into())),
        Some(GraphicsType::Sdl) => {
            for name in ["display", "xauth", "fullscreen"] {
                attributes.extend(attribute(name).map(|value| (name, value)));
            }
        }
        Some(GraphicsType::Dbus | GraphicsType::EglHeadless | GraphicsType::Gtk) | None => {}
    }
    if let Some(gl) = element.child("gl") {
        inner.copy(gl, &GL);
    }
    if let Some(audio) = element.child("audio") {
        inner.copy(audio, &Keep::leaf("audio", &["id"]));
    }
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(n, v)| (*n, v.as_str())).collect();
    out.wrap("graphics", &attributes, &inner);
}

/// Writes each `<audio>` to which graphics refer. An `<audio>` that would use the host's sound gets
/// the type `none`.
fn audio(out: &mut Writer, domain: &Domain<'_, '_>) {
    let id = |element: Element<'_, '_>| element.attribute("id").map(std::borrow::Cow::into_owned);
    let wanted: Vec<String> = domain
        .graphics
        .iter()
        .filter_map(|graphics| id(graphics.element.child("audio")?))
        .collect();
    let all = domain.devices.into_iter().flat_map(Element::children);
    for audio in all.filter(|element| element.name() == "audio") {
        let Some(id) = id(audio).filter(|id| wanted.contains(id)) else {
            continue;
        };
        let kind = match audio.attribute("type").as_deref() {
            Some("dbus") => "dbus",
            Some("spice") => "spice",
            _ => "none",
        };
        out.empty("audio", &[("id", &id), ("type", kind)]);
    }
}

fn hostdev(out: &mut Writer, hostdev: &Hostdev<'_, '_>) {
    let element = hostdev.element;
    let mut attributes = vec![("mode", "subsystem".to_owned())];
    for name in ["type", "model", "display", "ramfb"] {
        attributes.extend(
            element
                .attribute(name)
                .map(|value| (name, value.into_owned())),
        );
    }
    if matches!(hostdev.id, DeviceId::Pci(_)) {
        attributes.push(("managed", "no".into()));
    }
    let attributes: Vec<(&str, &str)> = attributes.iter().map(|(n, v)| (*n, v.as_str())).collect();
    out.open("hostdev", &attributes);
    if let Some(driver) = element.child("driver") {
        out.copy(driver, &Keep::leaf("driver", &["name", "model", "iommufd"]));
    }
    out.open("source", &[]);
    match hostdev.id {
        DeviceId::Mdev(uuid) => {
            out.empty("address", &[("uuid", &uuid.hyphenated().to_string())]);
        }
        DeviceId::Pci(pci) => out.empty(
            "address",
            &[
                ("domain", &format!("0x{:04x}", pci.domain)),
                ("bus", &format!("0x{:02x}", pci.bus)),
                ("slot", &format!("0x{:02x}", pci.device)),
                ("function", &format!("0x{:x}", pci.function)),
            ],
        ),
    }
    out.close("source");
    if hostdev.has_user_alias() {
        out.empty("alias", &[("name", &hostdev.alias)]);
    }
    if let Some(rom) = element.child("rom") {
        out.copy(rom, &Keep::leaf("rom", &["bar", "file", "enabled"]));
    }
    out.close("hostdev");
}

/// Returns the new alias of each hostdev and video card, by its alias in the whole domain. Without
/// the other devices, libvirt numbers hostdevs differently ([`crate::domain::Hostdev::alias`]).
fn aliases(domain: &Domain<'_, '_>) -> BTreeMap<String, String> {
    let old = domain.hostdevs.iter().map(|hostdev| hostdev.alias.clone());
    let own = domain.hostdevs.iter();
    let own = own.map(|hostdev| hostdev.has_user_alias().then(|| hostdev.alias.clone()));
    let mut all: BTreeMap<String, String> = old.zip(numbered(own)).collect();
    for (place, video) in domain.videos.iter().enumerate() {
        let alias = video
            .element
            .child("alias")
            .and_then(|a| a.attribute("name"));
        let alias = match alias {
            Some(alias) if alias.starts_with("ua-") => alias.into_owned(),
            _ => format!("video{place}"),
        };
        all.insert(alias.clone(), alias);
    }
    all
}

/// Returns the elements of QEMU's namespace for the copy. Adds dropped arguments to `left_out`.
fn qemu(
    domain: &Domain<'_, '_>,
    aliases: &BTreeMap<String, String>,
    left_out: &mut Vec<LeftOut>,
) -> Writer {
    let mut out = Writer::inside(1);
    let mut line = Writer::inside(2);
    for value in arguments(domain, aliases, left_out) {
        line.empty("qemu:arg", &[("value", &value)]);
    }
    let command_line = in_qemu(domain.element, "commandline");
    for variable in command_line.filter(|e| e.is(Some(QEMU_NAMESPACE), "env")) {
        let value = |name| variable.attribute(name).unwrap_or_default();
        let mut starts = ENVIRONMENT.split(' ');
        if starts.any(|start| value("name").starts_with(start)) {
            line.empty(
                "qemu:env",
                &[("name", &value("name")), ("value", &value("value"))],
            );
        }
    }
    if !line.text.is_empty() {
        out.wrap("qemu:commandline", &[], &line);
    }
    // QEMU's assumed capabilities decide how libvirt describes the devices.
    let mut capabilities = Writer::inside(2);
    for change in in_qemu(domain.element, "capabilities") {
        let name = match change.local_name() {
            "add" => "qemu:add",
            "del" => "qemu:del",
            _ => continue,
        };
        let capability = change.attribute("capability").unwrap_or_default();
        capabilities.empty(name, &[("capability", &capability)]);
    }
    if !capabilities.text.is_empty() {
        out.wrap("qemu:capabilities", &[], &capabilities);
    }
    let mut inner = Writer::inside(2);
    for (old, new) in aliases {
        let of_it: Vec<_> = domain
            .properties
            .iter()
            .filter(|p| p.alias == *old)
            .collect();
        if of_it.is_empty() {
            continue;
        }
        inner.open("qemu:device", &[("alias", new)]);
        inner.open("qemu:frontend", &[]);
        for property in of_it {
            let mut attributes = vec![("name", property.name.as_str()), ("type", &property.kind)];
            attributes.extend(property.value.as_deref().map(|value| ("value", value)));
            inner.empty("qemu:property", &attributes);
        }
        inner.close("qemu:frontend");
        inner.close("qemu:device");
    }
    if !inner.text.is_empty() {
        out.wrap("qemu:override", &[], &inner);
    }
    out
}

/// The prefixes of the environment variables that OpenGL, SDL and their drivers read.
const ENVIRONMENT: &str = "\
    DISPLAY DRI_ EGL_ GALLIUM_ GBM_ LIBGL_ MESA_ SDL_ VK_ WAYLAND_DISPLAY __EGL_ __GLX_";

#[cfg(test)]
pub(super) mod tests;
