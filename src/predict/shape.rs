//! The shape of a domain, that is the parts that decide whether libvirt and QEMU start its screens;
//! and the outcomes that were measured for shapes.
//!
//! Two domains of one shape start or fail alike with the same QEMU and libvirt. So the outcome of
//! one domain (`tests/vm/matrix-measured`), or of a trial with its small copy (`plan/trial`),
//! holds for all of its shape.
//!
//! A domain has no shape if it contains a part that is not read here, such as the user's arguments
//! for QEMU, properties in `qemu:override` other than `display`, `ramfb` and `x-igd-opregion`, a
//! display that is on and was not measured, or a device that opens only with KVM in a guest without
//! KVM. Only a trial of that very domain shows its outcome.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::domain::{Domain, GraphicsType, Reach, Video, of_qemu};
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Card, Found, Frontend, Screens, Vgpu};

/// The properties in `qemu:override` for which a shape has words.
const PROPERTIES: [&str; 3] = ["display", "ramfb", "x-igd-opregion"];

/// The shape of a domain, as a text.
///
/// Its text is `FRONTEND + … | SCREEN + …`, with a word for each thing that makes a difference:
/// `spice none gl + vnc tcp | vga + dmabuf ramfb + off`. A `-` means no frontend or no screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    frontends: Vec<Frontend>,
    text: String,
}

impl Shape {
    /// Returns the shape of a domain with these screens; `None` if it has a part that is not read,
    /// or has a device or a type of graphics twice.
    pub fn of(domain: &Domain<'_, '_>, screens: &Screens) -> Option<Self> {
        let has = |name| of_qemu(domain.element, name).next().is_some();
        let is_unread = has("commandline")
            || has("capabilities")
            || domain.graphics.iter().any(|one| one.kind.is_none())
            || screens.settings.has_a_device_twice
            || screens.lacks_kvm().is_some();
        if is_unread {
            return None;
        }
        let mut heads = Vec::new();
        for card in &screens.cards {
            let video = card.place.map(|place| domain.videos.get(place));
            heads.push(of_card(card, video.flatten())?);
        }
        for vgpu in &screens.vgpus {
            heads.push(of_device(vgpu)?);
        }
        let joined = |words: Vec<String>| match words.as_slice() {
            [] => "-".to_owned(),
            words => words.join(" + "),
        };
        let mut text = format!(
            "{} | {}",
            joined(screens.frontends.iter().map(of_frontend).collect()),
            joined(heads)
        );
        if let Some(machine) = unusual_machine(domain) {
            text = format!("{machine}: {text}");
        }
        Some(Shape {
            frontends: screens.frontends.clone(),
            text,
        })
    }

    /// Returns the shape's text with the paths of its render nodes, because a result on this host
    /// is valid only for these nodes.
    pub(crate) fn on_this_host(&self) -> String {
        let nodes = self
            .frontends
            .iter()
            .filter_map(|f| f.rendernode.as_deref());
        let nodes: Vec<&str> = nodes.collect();
        if nodes.is_empty() {
            self.text.clone()
        } else {
            format!("{} @ {}", self.text, nodes.join(" "))
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns the architecture and the machine; `None` for x86_64 with a pc or q35 of QEMU 3.0 or
/// later, to which the measurements apply. A machine without PCI, or without `fw_cfg` DMA (older
/// than QEMU 2.4), may refuse devices that these accept.
fn unusual_machine(domain: &Domain<'_, '_>) -> Option<String> {
    let arch = domain.arch.as_deref().unwrap_or(std::env::consts::ARCH);
    let machine = domain.machine.as_deref().unwrap_or("pc");
    let version = ["pc-i440fx-", "pc-q35-"]
        .iter()
        .find_map(|family| machine.strip_prefix(family));
    let is_old = |version: &str| {
        ["0.", "1.", "2."]
            .iter()
            .any(|old| version.starts_with(old))
    };
    let is_usual = match version {
        Some(version) => !is_old(version),
        None => matches!(machine, "pc" | "q35"),
    };
    (arch != "x86_64" || !is_usual).then(|| format!("{arch} {machine}"))
}

fn of_frontend(frontend: &Frontend) -> String {
    let mut words = vec![frontend.kind.word()];
    match frontend.kind {
        GraphicsType::Spice | GraphicsType::Vnc | GraphicsType::Rdp => {
            words.push(match (frontend.reach, frontend.listens) {
                (Reach::Loopback | Reach::Remote, _) => "tcp",
                (Reach::Local, true) => "socket",
                (Reach::Local, false) => "none",
            });
        }
        GraphicsType::Dbus => words.push(if frontend.p2p { "p2p" } else { "bus" }),
        GraphicsType::EglHeadless | GraphicsType::Sdl | GraphicsType::Gtk => {}
    }
    if frontend.gl && frontend.kind != GraphicsType::EglHeadless {
        words.push("gl");
    }
    words.join(" ")
}

/// Returns the words for a card; `None` if it has an option that is not read.
fn of_card(card: &Card, video: Option<&Video<'_, '_>>) -> Option<String> {
    if let Some(video) = video {
        let element = video.element;
        let mut children = element.children();
        let is_plain = children.all(|child| match child.name() {
            "address" | "alias" | "model" => true,
            "driver" => card.settings.vhost_user,
            _ => false,
        });
        let is_plain_model = element.child("model").is_none_or(|model| {
            let mut attributes = model.attributes();
            let mut children = model.children();
            attributes.all(|(name, value)| match name {
                // Most of these set the size of the card's memory.
                "type" | "ram" | "vram" | "vram64" | "vgamem" | "primary" => true,
                "heads" => value == "1",
                _ => false,
            }) && children.all(|child| matches!(child.name(), "acceleration" | "resolution"))
        });
        let is_3d_read = !video.settings.accel3d || card.gl || card.settings.vhost_user;
        if !is_plain || !is_plain_model || !is_3d_read {
            return None;
        }
    }
    // libvirt chooses the model by the cards that this QEMU has.
    let mut words = vec![card.model.as_deref().unwrap_or("default")];
    words.extend(card.gl.then_some("gl"));
    words.extend(card.settings.vhost_user.then_some("vhost-user"));
    Some(words.join(" "))
}

/// Returns the words for a device; `None` if it has a property that is not read, or its display is
/// on and was not measured.
fn of_device(vgpu: &Vgpu) -> Option<String> {
    if !vgpu
        .properties
        .keys()
        .all(|name| PROPERTIES.contains(&name.as_str()))
    {
        return None;
    }
    let interface = if !vgpu.display {
        "off"
    } else if !vgpu.is_pci {
        "no-pci"
    } else if vgpu.known.is_measured() {
        match vgpu.found().as_slice() {
            [Found::Dmabuf] => "dmabuf",
            [Found::Region] => "region",
            [Found::Nothing] => "none",
            _ => return None,
        }
    } else {
        return None;
    };
    let mut words = vec![interface];
    // libvirt before 10.3 drops the options of PCI devices.
    words.extend(matches!(vgpu.id, DeviceId::Pci(_)).then_some("pci"));
    words.extend(vgpu.ramfb.then_some("ramfb"));
    words.extend((vgpu.switch("x-igd-opregion") == Some(true)).then_some("opregion"));
    words.extend((vgpu.has_opregion() == Some(true)).then_some("has-opregion"));
    Some(words.join(" "))
}

/// The outcome that a shape had with a real QEMU and libvirt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// QEMU's version.
    pub qemu: Version,
    /// libvirt's version.
    pub libvirt: Version,
    /// The shape's text.
    pub shape: String,
    /// The message of the program that refused the shape; `None` if it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// All measurements. A test makes the file from `tests/vm/matrix-measured`
/// (tests/support/matrix.rs).
static MEASURED: LazyLock<Vec<Measured>> = LazyLock::new(|| {
    let lines = include_str!("measured.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a test has read it"))
        .collect()
});

/// Returns the measurement of a shape with exactly this QEMU and libvirt. `None` if there is none,
/// if a version is not known, or if this QEMU was built without a part that the shape needs.
pub fn measured(shape: &Shape, abilities: &Abilities) -> Option<&'static Measured> {
    let Abilities { qemu, libvirt, .. } = abilities;
    let (qemu, libvirt) = (qemu.as_ref()?, libvirt.as_ref()?);
    let is_built_without = |frontend: &Frontend| {
        let lacks = |word: &str| abilities.has(word) == Some(false);
        let spice_gl = frontend.kind == GraphicsType::Spice && frontend.gl;
        let spice_gl_over_tcp = spice_gl && frontend.reach != Reach::Local;
        lacks(frontend.kind.word())
            || spice_gl && lacks("spice-gl")
            || spice_gl_over_tcp && abilities.spice_gl_over_tcp == Some(false)
    };
    if shape.frontends.iter().any(is_built_without) {
        return None;
    }
    MEASURED.iter().find(|measured| {
        measured.shape == shape.text && measured.qemu == *qemu && measured.libvirt == *libvirt
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::evidence::{Evidence, Method, resolve};
    use crate::device::facts::{Display, Facts, Reason};
    use crate::domain::QEMU_NAMESPACE;
    use crate::predict::screens::Known;
    use crate::xml::Document;

    fn known(id: DeviceId, method: Method) -> Known {
        let display = match id.to_string().as_bytes()[7] {
            b'1' => Display::from_answers(false, true),
            b'2' => Display::from_answers(true, false),
            _ => Display::NONE,
        };
        let evidence = vec![(Facts::of(display), Evidence::by(method))];
        Known {
            finding: resolve(evidence, Reason::NotProbed),
            render_node: None,
            here: None,
        }
    }

    fn shape(text: &str, method: Method) -> Option<Shape> {
        let document = Document::parse(text).unwrap();
        let domain = Domain::new(&document).unwrap();
        let abilities = Abilities {
            spice_listen: Some("127.0.0.1".into()),
            ..Abilities::default()
        };
        let screens = Screens::of(&domain, &|id| known(id, method), &abilities);
        Shape::of(&domain, &screens)
    }

    fn domain(devices: &str, rest: &str) -> String {
        format!(
            "<domain type='kvm' xmlns:qemu='{QEMU_NAMESPACE}'>\
             <os><type arch='x86_64' machine='pc-q35-9.0'>hvm</type></os>\
             <devices>{devices}</devices>{rest}</domain>"
        )
    }

    fn hostdev(number: u8, more: &str) -> String {
        format!(
            "<hostdev type='mdev' model='vfio-pci' {more}><source>\
             <address uuid='0000000{number}-2222-4333-8444-555555555555'/></source></hostdev>"
        )
    }

    /// Returns a `qemu:override` with this property for the first hostdev.
    fn property(name: &str) -> String {
        format!(
            "<qemu:override><qemu:device alias='hostdev0'><qemu:frontend>\
             <qemu:property name='{name}' type='string' value='on'/>\
             </qemu:frontend></qemu:device></qemu:override>"
        )
    }

    const SPICE_GL: &str = "<graphics type='spice'><listen type='none'/><gl enable='yes' rendernode='/dev/dri/renderD128'/></graphics>";
    const NONE: &str = "<video><model type='none'/></video>";

    #[test]
    fn words() {
        let region = hostdev(1, "display='on'");
        let off = hostdev(2, "display='off'");
        let vga = "<video><model type='vga' vram='16384' heads='1' primary='yes'/></video>";
        let virtio = "<video><model type='virtio'><acceleration accel3d='yes'/></model></video>";
        let egl =
            "<graphics type='vnc' autoport='yes' listen='0.0.0.0'/><graphics type='egl-headless'/>";
        for (devices, rest, expected) in [
            (
                format!("{egl}{virtio}{vga}{region}"),
                String::new(),
                "vnc tcp + egl-headless | vga + virtio gl + region",
            ),
            (
                format!(
                    "<graphics type='spice' autoport='yes'/><graphics type='dbus' p2p='yes'/>{NONE}"
                ),
                String::new(),
                "spice tcp + dbus p2p | -",
            ),
            (
                format!("{NONE}{off}"),
                property("x-igd-opregion"),
                "- | off opregion",
            ),
            (format!("{NONE}{off}"), property("display"), "- | dmabuf"),
            // libvirt adds a card.
            (
                format!("<graphics type='vnc'><listen type='socket'/></graphics>{off}"),
                String::new(),
                "vnc socket | default + off",
            ),
        ] {
            let text = domain(&devices, &rest);
            let shape = shape(&text, Method::Probe).map(|shape| shape.to_string());
            assert_eq!(shape.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_read_has_no_shape() {
        let device = hostdev(2, "display='on'");
        let good = format!("{SPICE_GL}{NONE}{device}");
        assert!(shape(&domain(&good, ""), Method::Probe).is_some());
        assert_eq!(shape(&domain(&good, ""), Method::Rule), None, "believed");
        let off = format!("{NONE}{}", hostdev(2, "display='off'"));
        assert!(shape(&domain(&off, ""), Method::Rule).is_some());
        let qemu = |inner: &str| format!("<qemu:{inner}</domain>");
        for (from, to) in [
            ("</domain>", property("x-no-mmap") + "</domain>"),
            (
                "</domain>",
                qemu("commandline><qemu:arg value='-s'/></qemu:commandline>"),
            ),
            (
                "</domain>",
                qemu("capabilities><qemu:del capability='x'/></qemu:capabilities>"),
            ),
            ("type='spice'", "type='desktop'".into()),
            (
                "type='none'/></video>",
                "type='vga' heads='2'/></video>".into(),
            ),
            (
                "type='none'/></video>",
                "type='virtio' blob='on'/></video>".into(),
            ),
            (
                NONE,
                "<video><driver iommu='on'/><model type='virtio'/></video>".into(),
            ),
            (&device, device.repeat(2)),
        ] {
            let text = domain(&good, "").replace(from, &to);
            assert_eq!(shape(&text, Method::Probe), None, "{text}");
        }
    }

    #[test]
    fn what_was_measured() {
        let text = domain(
            &format!("{SPICE_GL}{NONE}{}", hostdev(2, "display='on'")),
            "",
        );
        let shape_of = |text: &str| shape(text, Method::Probe).unwrap();
        let this = shape_of(&text);
        let abilities = Abilities {
            qemu: "10.0.13".parse().ok(),
            libvirt: "11.3.0".parse().ok(),
            ..Abilities::default()
        };
        let found = measured(&this, &abilities).unwrap();
        assert_eq!(
            (found.shape.as_str(), &found.message),
            ("spice none gl | dmabuf", &None)
        );
        assert_eq!(
            this.on_this_host(),
            "spice none gl | dmabuf @ /dev/dri/renderD128"
        );
        for other in ["10.0.12", "10.0", "11.0.0"] {
            let other = Abilities {
                qemu: other.parse().ok(),
                ..abilities.clone()
            };
            assert_eq!(measured(&this, &other), None);
        }
        let without = Abilities {
            frontends: Some(["spice".to_owned()].into()),
            ..abilities.clone()
        };
        assert_eq!(measured(&this, &without), None, "built without OpenGL");
        let vnc = text.replace(SPICE_GL, "<graphics type='vnc' listen='127.0.0.1'/>");
        let refused = measured(&shape_of(&vnc), &abilities).unwrap();
        assert!(
            refused
                .message
                .as_ref()
                .unwrap()
                .contains("opengl not available")
        );
        let other = vnc.replace("pc-q35-9.0", "microvm");
        assert_eq!(
            shape_of(&other).to_string(),
            "x86_64 microvm: vnc tcp | dmabuf"
        );
    }
}
