//! The screens of a domain without its XML: what makes a picture, and what shows it.
//!
//! This is what predictions are made of and what a plan changes; see [`crate::predict`] and
//! [`crate::plan`].

use std::collections::{BTreeMap, BTreeSet};

use crate::abilities::Abilities;
use crate::domain::{Domain, GraphicsType, Listen, QEMU_NAMESPACE, Reach, Switch};
use crate::evidence::{Finding, Method, resolve};
use crate::facts::{Display, DisplayInterface, Reason};
use crate::names::DeviceId;

/// What is known of a device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Facts and evidence.
    pub finding: Finding,
    /// The render node of the GPU behind it, by path where there is one.
    pub render_node: Option<String>,
}

impl Known {
    /// Of a device that this host does not have or has not looked at.
    #[must_use]
    pub fn nothing(reason: Reason) -> Self {
        Known {
            finding: resolve(Vec::new(), reason),
            render_node: None,
        }
    }

    /// Whether it is a measurement of the device itself.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        let evidence = self.finding.evidence.as_ref();
        self.finding.facts.display.is_answer()
            && evidence.is_some_and(|evidence| evidence.method.is_measured())
    }
}

/// What QEMU will find when it asks a device with `display=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// A dmabuf.
    Dmabuf,
    /// A region.
    Region,
    /// Nothing.
    Nothing,
}

/// A video card that QEMU emulates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its place among the domain's `<video>`s; `None`: libvirt adds it because there are
    /// `<graphics>` and no `<video>` (libvirt src/conf/domain_conf.c,
    /// `virDomainDefAddImplicitVideo`).
    pub place: Option<usize>,
    /// `type` of its model; `None`: libvirt chooses.
    pub model: Option<String>,
    /// Whether it renders with the host's OpenGL (virtio with accel3d).
    pub gl: bool,
    /// Whether it hands over dmabufs (virtio served by vhost-user-gpu; `blob` does not count).
    pub dmabuf: bool,
    /// `blob='on'`.
    pub blob: bool,
}

/// A vfio device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// Its place among the domain's hostdevs.
    pub place: usize,
    /// Which device.
    pub id: DeviceId,
    /// `model` of the hostdev.
    pub model: String,
    /// Whether it is one for which QEMU has a display: `vfio-pci`.
    pub is_pci: bool,
    /// Whether the attribute `display` is there, whatever it says.
    pub says_display: bool,
    /// Whether QEMU is told `display=on`: by the attribute, or by `qemu:override`, which goes over
    /// it.
    pub display: bool,
    /// Whether the attribute says so.
    pub asked: bool,
    /// Whether QEMU is told `ramfb=on`: by the attribute, or by `qemu:override`, which goes over it.
    pub ramfb: bool,
    /// Whether the attribute says so.
    pub ramfb_asked: bool,
    /// Whether `qemu:override` says it in a type that QEMU does not take for a switch.
    pub ramfb_mistyped: bool,
    /// What `qemu:override` sets.
    pub properties: BTreeMap<String, String>,
    /// What is known of it.
    pub known: Known,
}

impl Vgpu {
    /// What QEMU may find: one answer where the display is known.
    #[must_use]
    pub fn found(&self) -> Vec<Found> {
        if !self.is_pci {
            return vec![Found::Nothing];
        }
        match &self.known.finding.facts.display {
            Display::Known(interfaces) => vec![match interfaces.first() {
                Some(DisplayInterface::Dmabuf) => Found::Dmabuf,
                Some(DisplayInterface::Region) => Found::Region,
                None => Found::Nothing,
            }],
            // QEMU asks for dmabuf first and believes the yes.
            Display::Unknown(Reason::Untrusted) => vec![Found::Dmabuf],
            Display::Unknown(_) => vec![Found::Dmabuf, Found::Region, Found::Nothing],
        }
    }

    /// Whether it has an OpRegion; `None` if that is not known. A rule that knows the display names the
    /// OpRegion, too, as only Intel's devices have one; kernel attributes and QEMU's words say nothing of it.
    #[must_use]
    pub fn has_opregion(&self) -> Option<bool> {
        let finding = &self.known.finding;
        let evidence = finding.evidence.as_ref();
        let by_rule = evidence.is_some_and(|evidence| evidence.method == Method::Rule);
        match &finding.facts.opregion {
            Some(_) => Some(true),
            None if finding.facts.device.is_some() => Some(false),
            None if by_rule && finding.facts.display.is_answer() => Some(false),
            None => None,
        }
    }

    /// Whether it has an EDID region; `None` if that is not known.
    #[must_use]
    pub fn has_edid(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        match (&facts.edid, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    /// Switches the display on or off, where that is said: in `qemu:override` or by the attribute.
    pub fn set_display(&mut self, on: bool) {
        self.display = on;
        match self.properties.get_mut("display") {
            Some(value) => *value = if on { "on" } else { "off" }.into(),
            None => self.asked = on,
        }
    }

    /// Switches ramfb on or off by the attribute, with which libvirt chooses the driver that has it.
    pub fn set_ramfb(&mut self, on: bool) {
        self.properties.remove("ramfb");
        self.ramfb_mistyped = false;
        self.ramfb = on;
        self.ramfb_asked = on;
    }

    /// Whether QEMU is told of ramfb, on or off. `takes_ramfb`: libvirt passes the attribute on.
    #[must_use]
    pub fn says_ramfb(&self, takes_ramfb: bool) -> bool {
        self.properties.contains_key("ramfb") || self.ramfb_asked && takes_ramfb
    }

    /// Whether QEMU is told of ramfb for a driver that has none. The attribute has libvirt choose
    /// `vfio-pci-nohotplug`, which has it (`qemuBuildHostdevMdevModelTypeString`), unless `qemu:override` names another
    /// driver.
    #[must_use]
    pub fn lacks_ramfb(&self, takes_ramfb: bool) -> bool {
        let is_plain = match self.properties.get("driver") {
            Some(driver) => driver == "vfio-pci",
            None => !(self.ramfb_asked && takes_ramfb),
        };
        is_plain && self.says_ramfb(takes_ramfb)
    }

    /// A property of `qemu:override` that is a switch.
    #[must_use]
    pub fn switch(&self, property: &str) -> Option<bool> {
        match self.properties.get(property)?.as_str() {
            "on" | "true" | "yes" => Some(true),
            _ => Some(false),
        }
    }
}

/// Something that shows screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Its place among the domain's `<graphics>`; `None`: a plan adds it.
    pub place: Option<usize>,
    /// Its type.
    pub kind: GraphicsType,
    /// Whether it has OpenGL.
    pub gl: bool,
    /// From where it is reached.
    pub reach: Reach,
    /// Whether it listens for itself; VNC that doesn't is not there until a viewer comes.
    pub listens: bool,
    /// dbus: peer to peer, not on a bus.
    pub p2p: bool,
    /// The render node.
    pub rendernode: Option<String>,
}

/// The screens of a domain and what shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screens {
    /// The emulated cards, in the order in which QEMU makes them.
    pub cards: Vec<Card>,
    /// The vfio devices, in the order in which QEMU makes them: after the cards (libvirt
    /// src/qemu/qemu_command.c, `qemuBuildCommandLine`).
    pub vgpus: Vec<Vgpu>,
    /// The graphics, in the order of the XML.
    pub frontends: Vec<Frontend>,
    /// Whether there is a `<video>` at all, `none` included: libvirt then adds no card.
    pub video_said: bool,
    /// Whether the machine has what ramfb needs, fw_cfg with DMA (QEMU hw/display/ramfb.c): pc, q35,
    /// microvm and virt have it; machines of POWER, s390 and MIPS have not. Of others it is taken for granted.
    pub has_fw_cfg_dma: bool,
    /// QEMU arguments of the user's that have to do with displays: what they do is not known here.
    pub arguments: Vec<String>,
    /// What libvirt refuses for the way it is written, in its words.
    pub refused: Vec<&'static str>,
    /// `-set device.…` arguments for devices that libvirt makes: QEMU does not find these, as libvirt hands
    /// devices over as JSON.
    pub dead_settings: Vec<String>,
}

/// Options of QEMU that change what shows a screen.
const DISPLAY_OPTIONS: [&str; 8] = [
    "-readconfig",
    "-display",
    "-vnc",
    "-spice",
    "-nographic",
    "-sdl",
    "-curses",
    "-vga",
];

impl Screens {
    /// Those of a domain. `known` tells of each device; of `abilities` counts where spice and VNC
    /// listen by qemu.conf.
    #[must_use]
    pub fn of(
        domain: &Domain<'_, '_>,
        known: &dyn Fn(DeviceId) -> Known,
        abilities: &Abilities,
    ) -> Self {
        let frontends: Vec<Frontend> = domain
            .graphics
            .iter()
            .enumerate()
            .filter_map(|(place, graphics)| {
                let kind = graphics.kind?;
                Some(Frontend {
                    place: Some(place),
                    kind,
                    gl: graphics.gl,
                    reach: graphics.listen.reach(abilities.listen_default(kind)),
                    listens: graphics.listen != Listen::None,
                    p2p: graphics.p2p,
                    rendernode: graphics.rendernode.clone(),
                })
            })
            .collect();
        let mut cards: Vec<Card> = Vec::new();
        for (place, video) in domain.videos.iter().enumerate() {
            if video.model.as_deref() == Some("none") {
                continue;
            }
            let card = Card {
                place: Some(place),
                model: video.model.clone(),
                // vhost-user-gpu draws in a process of its own, and asks QEMU for no OpenGL.
                gl: video.accel3d && !video.vhost_user && video.model.as_deref() == Some("virtio"),
                dmabuf: video.vhost_user,
                blob: video.blob,
            };
            let at = if video.primary { 0 } else { cards.len() };
            cards.insert(at, card);
        }
        let mut screens = Screens {
            cards,
            vgpus: vgpus(domain, known),
            video_said: !domain.videos.is_empty(),
            has_fw_cfg_dma: !domain.arch.as_deref().is_some_and(|arch| {
                ["ppc", "s390", "mips"]
                    .iter()
                    .any(|without| arch.starts_with(without))
            }),
            frontends,
            arguments: Vec::new(),
            refused: refused(domain),
            dead_settings: Vec::new(),
        };
        screens.imply();
        screens.read_arguments(domain);
        screens
    }

    /// Puts in the card that libvirt adds, or takes it out, whichever follows from the rest.
    pub fn imply(&mut self) {
        self.cards.retain(|card| card.place.is_some());
        if !self.video_said && !self.frontends.is_empty() {
            self.cards.push(Card {
                place: None,
                model: None,
                gl: false,
                dmabuf: false,
                blob: false,
            });
        }
    }

    /// A device that is there twice, which libvirt takes in no domain.
    #[must_use]
    pub fn twice(&self) -> Option<DeviceId> {
        let mut seen = BTreeSet::new();
        let mut ids = self.vgpus.iter().map(|vgpu| vgpu.id);
        ids.find(|id| !seen.insert(*id))
    }

    /// Whether there is something twice that libvirt takes only once, so that nobody knows which of
    /// them is meant.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        let kinds: BTreeSet<GraphicsType> = self.frontends.iter().map(|f| f.kind).collect();
        let is_twice = self.twice().is_some() || kinds.len() < self.frontends.len();
        is_twice || !self.refused.is_empty()
    }

    fn read_arguments(&mut self, domain: &Domain<'_, '_>) {
        let values: Vec<&str> = domain.arguments.iter().map(|a| a.value.as_str()).collect();
        // QEMU looks a -set up at once, so only what stands before it counts.
        let own = |id: &str, before: usize| {
            let (comma, start) = (format!(",id={id},"), format!("id={id},"));
            values[..before].iter().any(|value| {
                let value = format!("{value},");
                value.contains(&comma) || value.starts_with(&start)
            })
        };
        // With QEMU told to take devices as they were, -set finds them.
        let as_it_was = domain.element.children().any(|child| {
            child.is(Some(QEMU_NAMESPACE), "capabilities")
                && child.children().any(|deleted| {
                    let name = deleted.attribute("capability");
                    deleted.local_name() == "del"
                        && name.is_some_and(|name| name.starts_with("device.json"))
                })
        });
        let mut is_value = false;
        for (place, value) in values.iter().enumerate() {
            // Whatever follows -set is its value, another -set included.
            if std::mem::take(&mut is_value) {
                continue;
            }
            let option = value.replacen("--", "-", 1);
            let next = values.get(place + 1);
            is_value = option == "-set";
            if DISPLAY_OPTIONS.contains(&option.as_str()) {
                let words = std::iter::once(*value).chain(next.copied());
                self.arguments.push(words.collect::<Vec<_>>().join(" "));
            } else if next.is_some_and(|next| match option.as_str() {
                "-device" => makes_a_screen(next),
                "-global" => next.starts_with("vfio-pci"),
                _ => false,
            }) {
                self.arguments
                    .push(format!("{value} {}", next.unwrap_or(&"")));
            } else if let Some(setting) = next.filter(|_| option == "-set")
                && let Some(rest) = setting.strip_prefix("device.")
                && let Some((id, property)) = rest.split_once('.')
                && !own(id, place)
            {
                let property = property.split('=').next().unwrap_or_default();
                if !as_it_was {
                    self.dead_settings.push((*setting).to_owned());
                } else if matches!(property, "display" | "ramfb") {
                    self.arguments.push(format!("-set {setting}"));
                }
            }
        }
    }
}

/// What no repair of ours is for.
fn refused(domain: &Domain<'_, '_>) -> Vec<&'static str> {
    let mut refused = Vec::new();
    for graphics in &domain.graphics {
        let listens = graphics.element.children();
        if listens.filter(|child| child.name() == "listen").count() > 1 {
            // src/qemu/qemu_process.c, qemuProcessStartValidateGraphics
            refused.push("QEMU does not support multiple listens for one graphics device.");
        }
        if graphics.element.attribute("type").as_deref() == Some("desktop") {
            refused.push("desktop graphics are not supported with this QEMU");
        }
    }
    let none = |model: &Option<String>| model.as_deref() == Some("none");
    if domain.videos.len() > 1 && domain.videos.iter().any(|video| none(&video.model)) {
        // src/conf/domain_validate.c, virDomainVideoDefValidate
        refused.push("a 'none' video type must be the only video device defined for the domain");
    }
    refused
}

/// Devices of QEMU that make a screen all by themselves, by the start of their names.
const EMULATED: [&str; 9] = [
    "VGA",
    "secondary-vga",
    "bochs-display",
    "cirrus-vga",
    "qxl",
    "ramfb",
    "virtio-gpu",
    "virtio-vga",
    "vmware-svga",
];

/// Those for whose screens something outside of QEMU is needed: a device of the host's, or a
/// process that draws.
const SERVED: [&str; 3] = ["vfio-pci", "vhost-user-gpu", "vhost-user-vga"];

/// Whether a device of QEMU's, by the name of its driver, makes a screen and needs nothing outside
/// of QEMU for it.
#[must_use]
pub fn is_emulated(driver: &str) -> bool {
    EMULATED.iter().any(|screen| driver.starts_with(screen))
}

/// Whether a device of QEMU's, by the name of its driver, makes a screen.
#[must_use]
pub fn is_screen(driver: &str) -> bool {
    is_emulated(driver) || SERVED.iter().any(|screen| driver.starts_with(screen))
}

/// Whether a `-device` of the user's is something with a screen.
fn makes_a_screen(device: &str) -> bool {
    let driver = device.split(',').next().unwrap_or_default();
    let driver = driver.strip_prefix("driver=").unwrap_or(driver);
    is_screen(driver) || device.trim_start().starts_with('{')
}

fn vgpus(domain: &Domain<'_, '_>, known: &dyn Fn(DeviceId) -> Known) -> Vec<Vgpu> {
    let mut all = Vec::new();
    for (place, hostdev) in domain.hostdevs.iter().enumerate() {
        let properties: BTreeMap<String, String> = domain
            .properties
            .iter()
            .filter(|property| property.alias == hostdev.alias)
            // What is removed is as QEMU has it by default; of these two that is known. Without the
            // attribute there is no ramfb to remove.
            .filter(|p| match p.name.as_str() {
                "display" => true,
                "ramfb" => p.kind != "remove" || hostdev.ramfb == Some(Switch::On),
                _ => p.kind != "remove",
            })
            .map(|p| match p.kind.as_str() {
                "remove" => (p.name.clone(), "off".to_owned()),
                _ => (p.name.clone(), p.value.clone().unwrap_or_default()),
            })
            .collect();
        let on = |switch| switch == Some(Switch::On);
        let mut vgpu = Vgpu {
            place,
            id: hostdev.id,
            model: hostdev.model.clone(),
            is_pci: hostdev.model == "vfio-pci",
            says_display: hostdev.display.is_some(),
            display: on(hostdev.display),
            asked: on(hostdev.display),
            ramfb: on(hostdev.ramfb),
            ramfb_asked: on(hostdev.ramfb),
            ramfb_mistyped: domain
                .properties
                .iter()
                .rfind(|p| p.alias == hostdev.alias && p.name == "ramfb")
                .is_some_and(|p| !matches!(p.kind.as_str(), "bool" | "remove")),
            properties,
            known: known(hostdev.id),
        };
        vgpu.display = match vgpu.properties.get("display").map(String::as_str) {
            // QEMU shows what there is, and starts where there is nothing.
            Some("auto") => vgpu.found() != [Found::Nothing],
            _ => vgpu.switch("display").unwrap_or(vgpu.display),
        };
        vgpu.ramfb = vgpu.switch("ramfb").unwrap_or(vgpu.ramfb);
        all.push(vgpu);
    }
    all
}
